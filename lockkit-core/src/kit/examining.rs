//! What an examination of a store is made of.

use std::cmp::Reverse;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use super::calls::within;
use crate::{Clock, Error, Finding, Result, Severity};

/// What an examination finds within `limit`, the worst first; `silent` is its error if it takes longer.
///
/// The calls of the examination end a little earlier by themselves, and give up a connection that is stuck: else
/// the next call would go over it too.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use lockkit_core::kit::{LONGEST_CALL, examined};
/// use lockkit_core::{Applied, Error, Finding, Severity};
///
/// let note = Finding::new(Severity::Note, "a standby follows", "know of it");
/// let danger = Finding::new(Severity::Danger, "fsync is off", "set fsync = on");
/// let (all, silent) = (vec![note, danger], || Error::unavailable(Applied::No, "no answer"));
/// let found = examined(LONGEST_CALL, async { Ok(all) }, silent).await.unwrap();
/// assert_eq!(found[0].severity, Severity::Danger);
/// # }
/// ```
///
/// # Errors
/// The error of `all`, or `silent`.
///
/// # Cancel safety
/// As `all` itself.
pub async fn examined(
    limit: Duration,
    all: impl Future<Output = Result<Vec<Finding>>>,
    silent: impl FnOnce() -> Error,
) -> Result<Vec<Finding>> {
    let found = within(&Clock::system(), limit, all).await;
    let mut found = found.unwrap_or_else(|| Err(silent()))?;
    found.sort_by_key(|finding| Reverse(finding.severity));
    Ok(found)
}

/// The finding of a refusal: what connecting, or a call, was refused for is a danger, with the same remedy.
///
/// ```
/// use lockkit_core::kit::refusal;
/// use lockkit_core::{Applied, Error, Severity};
///
/// let found = refusal(Error::rejected("this user may not write", "grant it the right")).unwrap();
/// assert_eq!((found.severity, &*found.remedy), (Severity::Danger, "grant it the right"));
/// assert!(refusal(Error::unavailable(Applied::No, "no answer")).is_err());
/// ```
///
/// # Errors
/// Every other error: it says nothing of what is amiss, and ends the examination.
pub fn refusal(error: Error) -> Result<Finding> {
    match error {
        Error::Rejected { what, remedy, .. } | Error::Invalid { what, remedy, .. } => {
            Ok(Finding::new(Severity::Danger, what, remedy))
        }
        error => Err(error),
    }
}

/// The findings of the checks that refuse, by [`refusal`].
///
/// ```
/// use lockkit_core::kit::refusals;
/// use lockkit_core::{Error, Severity};
///
/// let checks = [Ok(()), Err(Error::rejected("an old server", "upgrade it"))];
/// assert_eq!(refusals(checks).unwrap().len(), 1);
/// ```
///
/// # Errors
/// The first error that is no refusal.
pub fn refusals<T>(checks: impl IntoIterator<Item = Result<T>>) -> Result<Vec<Finding>> {
    checks.into_iter().filter_map(Result::err).map(refusal).collect()
}

/// Whether what is sent to this host stays on this machine: `localhost`, or an address of the loopback, with or
/// without brackets. A name is not looked up.
///
/// ```
/// use lockkit_core::kit::is_this_machine;
///
/// assert!(["localhost", "127.8.9.1", "[::1]", "::ffff:127.0.0.1"].into_iter().all(is_this_machine));
/// assert!(!["db.internal", "192.0.2.1", "localhost.example.com"].into_iter().any(is_this_machine));
/// ```
pub fn is_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Applied;

    fn silent() -> Error {
        Error::unavailable(Applied::No, "no answer")
    }

    #[tokio::test(start_paused = true)]
    async fn an_examination_ends_within_its_limit_and_tells_the_worst_first() {
        let limit = Duration::from_millis(10);
        let of = |severity| Finding::new(severity, "what", "remedy");
        let all = [Severity::Note, Severity::Danger, Severity::Warning].map(of);
        let found = examined(limit, async { Ok(all.to_vec()) }, silent).await.expect("an answer");
        let severities: Vec<_> = found.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Danger, Severity::Warning, Severity::Note]);
        let none = examined(limit, std::future::pending(), silent).await;
        assert!(none.is_err_and(|error| error.to_string().contains("no answer")));
    }

    #[test]
    fn checks_are_told_as_far_as_they_refuse_and_an_outage_ends_them() {
        let refused = || Err(Error::invalid("a bad certificate", "replace it"));
        let found = refusals([Ok(()), refused(), Err(Error::rejected("a", "b"))]);
        assert_eq!(found.expect("refusals").len(), 2);
        assert!(refusals([refused(), Err(silent()), Ok(())]).is_err());
    }
}
