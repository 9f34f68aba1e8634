//! What the tests of the stores' examinations have in common.

use std::time::Duration;

use lockkit_core::{Error, Finding, LockProvider, Severity};

use crate::timing;

/// By when an examination has ended, whatever a busy machine adds to its own limit.
const LIMIT: Duration = Duration::from_secs(20);

/// All that an examination finds, the worst first.
///
/// # Panics
/// Where the examination fails, or tells them in another order.
pub async fn examined(provider: &impl LockProvider) -> Vec<Finding> {
    let found = loop {
        let began = timing::start();
        match timing::within(LIMIT, "an examination", provider.examine()).await {
            Ok(found) => break found,
            // It has a limit of its own, and changes nothing.
            Err(Error::Unavailable { .. }) if began.stood_still() => {}
            Err(error) => panic!("no examination: {error}"),
        }
    };
    found.iter().for_each(|finding| println!("{finding}"));
    assert!(found.is_sorted_by(|one, next| one.severity >= next.severity), "{found:?}");
    found
}

/// What matters of it: warnings and dangers.
///
/// # Panics
/// As [`examined`].
pub async fn amiss(provider: &impl LockProvider) -> Vec<Finding> {
    let mut found = examined(provider).await;
    found.retain(|finding| finding.severity >= Severity::Warning);
    found
}

/// Asserts that there is one finding and no other, of this severity and with these words.
///
/// # Panics
/// Where there is not.
#[track_caller]
pub fn only(found: &[Finding], severity: Severity, words: &[&str]) {
    let [finding] = found else { panic!("{words:?} is not all of {found:#?}") };
    let text = finding.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} not in {text}");
    assert_eq!(finding.severity, severity, "{finding}");
}

/// The one finding that tells this, maybe among others.
///
/// # Panics
/// Where none tells it, or more than one does.
#[track_caller]
pub fn the_one(found: &[Finding], what: &str) -> Finding {
    let mut those = found.iter().filter(|finding| finding.what.contains(what));
    let one = those.next().unwrap_or_else(|| panic!("no {what:?} in {found:#?}"));
    assert!(those.next().is_none(), "more than one {what:?} in {found:#?}");
    one.clone()
}
