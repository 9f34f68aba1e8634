//! The header, and what it says.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{Access, Error, FencingToken, Result};

/// `Lockkit-Fencing-Token`.
pub const HEADER: HeaderName = HeaderName::from_static("lockkit-fencing-token");

/// The value of the header for this access.
pub fn value(access: impl Into<Access>) -> HeaderValue {
    let access = access.into();
    let token = access.token();
    let text = match access {
        Access::Exclusive(_) => token.to_string(),
        Access::Shared(_) => format!("{token}; shared"),
        Access::Counted { slot, .. } => format!("{token}; slot={slot}"),
    };
    // Digits, letters and blanks only.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The access that these headers present; `None`: there is no such header.
///
/// # Errors
/// `Invalid`: there are two such headers, or the value is none of `34`, `34; shared` and `34; slot=2`.
pub fn access(headers: &HeaderMap) -> Result<Option<Access>> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(unreadable("it is there twice"));
    }
    let text = value.to_str().map_err(|_| unreadable("it is no text"))?;
    let (token, rest) = match text.split_once(';') {
        None => (text, None),
        Some((token, rest)) => (token, Some(rest.trim())),
    };
    let token: FencingToken =
        token.trim().parse().map_err(|error| unreadable(&format!("{error}")))?;
    match rest {
        None => Ok(Some(Access::Exclusive(token))),
        Some("shared") => Ok(Some(Access::Shared(token))),
        Some(rest) => {
            let digits = rest
                .strip_prefix("slot=")
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            let slot = digits.and_then(|digits| digits.parse().ok());
            let slot =
                slot.ok_or_else(|| unreadable(&format!("{rest:?} is neither shared nor a slot")))?;
            Ok(Some(Access::Counted { token, slot }))
        }
    }
}

fn unreadable(why: &str) -> Error {
    Error::invalid(
        format!("the header Lockkit-Fencing-Token: {why}"),
        "send it once, as 34, 34; shared or 34; slot=2",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<Access>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_str(value).expect("a value"));
        }
        access(&headers)
    }

    #[test]
    fn every_access_travels_in_the_header() {
        let token = FencingToken::MAX;
        for access in [
            Access::Exclusive(token),
            Access::Shared(token),
            Access::Counted { token, slot: u32::MAX },
        ] {
            let text = value(access).to_str().expect("a text").to_owned();
            assert_eq!(read(&[&text]).expect("readable"), Some(access), "{text}");
        }
        assert_eq!(read(&[]).expect("readable"), None);
        assert_eq!(read(&[" 34 ;shared "]).expect("readable").map(Access::is_shared), Some(true));
    }

    #[test]
    fn what_is_no_single_token_is_refused_with_a_remedy() {
        let bad = [
            "",
            "0",
            "-1",
            "+34",
            "34.0",
            "34, 35",
            "0x22",
            "9223372036854775808",
            "34;",
            "34; slot",
            "34; slot=-1",
            "34; read",
        ];
        for text in bad {
            let error = read(&[text]).expect_err(text);
            assert!(
                matches!(&error, Error::Invalid { remedy, .. } if remedy.contains("once")),
                "{text}: {error}"
            );
        }
        for two in [["34", "34"], ["34", "35"]] {
            assert!(read(&two).expect_err("two").to_string().contains("twice"));
        }
    }
}
