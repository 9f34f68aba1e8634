//! Whether a store holds a layout that this client can share.

use std::fmt::Display;

use crate::{Error, Result};

/// Refuses a store whose mark names a newer layout than `known`, the newest one of this client.
///
/// `mark` is the number as the store holds it. No mark, or one that is no number, reads as layout 1: what
/// stores held before they had marks. `of` names what carries the mark, `other` what a client that cannot
/// be upgraded may use instead.
///
/// ```
/// use lockkit_core::kit::check_layout;
///
/// check_layout("the server", None, 1, "prefix")?;
/// check_layout("the server", Some("1"), 1, "prefix")?;
/// assert!(check_layout("the server", Some("2"), 1, "prefix").is_err());
/// # Ok::<(), lockkit_core::Error>(())
/// ```
///
/// # Errors
/// `Rejected`: a newer layout.
pub fn check_layout(of: impl Display, mark: Option<&str>, known: u32, other: &str) -> Result<()> {
    let number = mark.filter(|mark| !mark.is_empty() && mark.bytes().all(|b| b.is_ascii_digit()));
    // A number of more digits than these is newer, too.
    let layout = number.map_or(1, |number| number.parse().unwrap_or(u32::MAX));
    if layout <= known {
        return Ok(());
    }
    let number = number.unwrap_or_default();
    Err(Error::rejected(
        format!("{of} holds layout {number}, newer than the layout {known} of this lockkit"),
        format!("upgrade this program to the lockkit that wrote it, or use another {other}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_number_is_refused_and_the_refusal_says_what_to_do() {
        for mark in [None, Some(""), Some("0"), Some("1"), Some("2"), Some("2:x"), Some("a9")] {
            check_layout("the store", mark, 2, "prefix").expect("a layout to share");
        }
        for mark in ["3", "10", "99999999999999999999"] {
            let error = check_layout("the store", Some(mark), 2, "prefix").expect_err(mark);
            assert!(matches!(error, Error::Rejected { .. }));
            let error = error.to_string();
            let says = [mark, "layout 2 of this lockkit", "upgrade this program", "another prefix"];
            assert!(says.iter().all(|words| error.contains(words)), "{error}");
        }
    }
}
