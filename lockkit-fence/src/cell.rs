//! The newest tokens of one resource or slot as a short text, for stores that keep bytes.

use crate::{FencingToken, Seen};

/// `34 0`: the newest exclusive token and the newest shared one, 0 for none.
pub(crate) fn text(seen: Seen) -> String {
    let number = |token: Option<FencingToken>| token.map_or(0, FencingToken::as_u64);
    format!("{} {}", number(seen.exclusive), number(seen.shared))
}

/// What such a text says; `None`: it is none.
pub(crate) fn parsed(bytes: &[u8]) -> Option<Seen> {
    let token = |text: &str| match text {
        "0" => Some(None),
        text => text.parse().ok().map(Some),
    };
    let (exclusive, shared) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
    Some(Seen { exclusive: token(exclusive)?, shared: token(shared)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_its_text_and_other_texts_are_refused() {
        let token = FencingToken::new(34).ok();
        for seen in [
            Seen::NONE,
            Seen { exclusive: token, shared: None },
            Seen { exclusive: Some(FencingToken::MAX), shared: token },
        ] {
            assert_eq!(parsed(text(seen).as_bytes()), Some(seen));
        }
        for other in ["", "34", "34 ", " 0", "34 0 ", "34 0 0", "-1 0", "34 x", "\u{663} 0"] {
            assert_eq!(parsed(other.as_bytes()), None, "{other:?}");
        }
    }
}
