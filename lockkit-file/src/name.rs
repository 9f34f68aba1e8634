//! Names as names of files: injective, readable, the same on case-blind file systems.

use lockkit_core::{Family, LockName};
use sha2::{Digest, Sha256};

/// The suffix of the locked file: it also keeps `.`, `..` and trailing dots harmless.
pub(crate) const SUFFIX: &str = ".lock";
/// The same of a semaphore's files: the name of no lock's file ends with it.
pub(crate) const SEMAPHORE: &str = ".semaphore";
/// The longest encoding used as it is; with a suffix it fits the 143 bytes of eCryptfs.
const LONGEST: usize = 130;
/// The readable part of a name that is too long.
const READABLE: usize = 64;
/// Between the readable part and the hash; no plain encoding contains it.
const HASHED: char = '=';

/// The whole of `text` in lower case: `[a-z0-9._-]` as it is, `A` as `+a`, other bytes as `%2f`.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 8);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => encoded.push_str("%2e"),
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => encoded.push(char::from(byte)),
            b'A'..=b'Z' => {
                encoded.push('+');
                encoded.push(char::from(byte.to_ascii_lowercase()));
            }
            _ => {
                encoded.push('%');
                encoded.push(digit(byte >> 4));
                encoded.push(digit(byte & 15));
            }
        }
    }
    encoded
}

/// What [`encode`] made this of; `None` if it made it of nothing.
pub(crate) fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => rest.next()?.to_ascii_uppercase(),
            b'%' => value(rest.next()?)? << 4 | value(rest.next()?)?,
            plain => plain,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (encode(&text) == encoded).then_some(text)
}

/// The stem of the files of `name`: its encoding, or a readable part and a hash of all of it.
pub(crate) fn stem(name: &LockName) -> String {
    let encoded = encode(name.as_str());
    if encoded.len() <= LONGEST {
        return encoded;
    }
    let hash = Sha256::digest(name.as_str().as_bytes());
    let mut stem = encoded.get(..READABLE).unwrap_or_default().to_owned();
    stem.push(HASHED);
    for byte in hash {
        stem.push(digit(byte >> 4));
        stem.push(digit(byte & 15));
    }
    stem
}

/// The name that a file with this stem belongs to, unless only its content can tell.
pub(crate) fn name_of(family: Family, stem: &str) -> Option<LockName> {
    decode(stem).and_then(|text| LockName::of(family, &text).ok())
}

/// The family and the stem of a file in the store's directory; `None`: it is of no name.
pub(crate) fn of_file(file: &str) -> Option<(Family, &str)> {
    let lock = || Some((Family::Lock, file.strip_suffix(SUFFIX)?));
    lock().or_else(|| Some((Family::Semaphore, file.strip_suffix(SEMAPHORE)?)))
}

const fn digit(value: u8) -> char {
    b"0123456789abcdef"[(value & 15) as usize] as char
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn stem_of(text: &str) -> String {
        stem(&LockName::new(text).expect("a name"))
    }

    #[test]
    fn plain_names_stay_readable_and_odd_ones_are_escaped() {
        for (text, encoded) in [
            ("billing-1.nightly_x", "billing-1.nightly_x"),
            ("billing/Nightly", "billing%2f+nightly"),
            ("..", "%2e."),
            (".hidden", "%2ehidden"),
            ("a\0b", "a%00b"),
            ("{a}", "%7ba%7d"),
            ("é", "%c3%a9"),
            ("%2f+a=", "%252f%2ba%3d"),
        ] {
            assert_eq!(stem_of(text), encoded);
            assert_eq!(name_of(Family::Lock, encoded).expect("a name").as_str(), text);
        }
        assert_eq!(decode("+%"), None);
        assert_eq!(decode("%2F"), None);
        assert_eq!(decode("A"), None);
        assert_eq!(decode("+1"), None);
    }

    #[test]
    fn no_two_odd_names_share_a_file_even_where_case_is_blind() {
        // Every text of up to four of these pieces, and the same behind a long beginning.
        let pieces = [
            "a", "A", "/", ".", "..", "%", "%2f", "+", "+a", "=", "\0", "{", "é", "e\u{301}", "🔒",
        ];
        let mut texts = vec![String::new()];
        for _ in 0..4 {
            let longer: Vec<_> = texts
                .iter()
                .flat_map(|text| pieces.iter().map(move |piece| format!("{text}{piece}")))
                .collect();
            texts.extend(longer);
            texts.sort_unstable();
            texts.dedup();
        }
        let long = "x".repeat(LONGEST - 4);
        let mut seen = HashMap::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            for text in [text.clone(), format!("{long}{text}"), format!("{text}{long}{long}")] {
                let stem = stem_of(&text);
                assert!(stem.len() <= LONGEST && !stem.starts_with('.') && stem.is_ascii());
                assert_eq!(stem, stem.to_lowercase());
                assert!(!stem.contains(['/', '\0']));
                let other = seen.insert(stem, text.clone());
                assert!(other.is_none_or(|other| other == text), "{text:?}");
            }
        }
    }

    #[test]
    fn the_longest_name_fits_and_keeps_a_readable_beginning() {
        let stem = stem_of(&"🔒".repeat(128));
        assert_eq!(stem.len(), READABLE + 1 + 64);
        assert!(stem.starts_with("%f0%9f%94%92"));
        assert_eq!(name_of(Family::Lock, &stem), None);
    }
}
