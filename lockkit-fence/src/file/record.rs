//! What stands in a fence's file.
//!
//! ```text
//! lockkit-fence 1
//! 34 0
//! slot 2 17
//! end
//! ```
//!
//! The second line has the newest exclusive token and the newest shared one, 0 for none.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::{Access, FencingToken, Result, Seen};

const HEAD: &str = "lockkit-fence 1";
const END: &str = "end";

/// The newest tokens of a resource and of its slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    seen: Seen,
    slots: BTreeMap<u32, Seen>,
}

impl Record {
    pub(super) fn check(&self, access: Access) -> Result<()> {
        let seen = match access.slot() {
            None => self.seen,
            Some(slot) => self.slots.get(&slot).copied().unwrap_or_default(),
        };
        Ok(seen.check(access)?)
    }

    /// Whether it is another one now.
    pub(super) fn raise(&mut self, access: Access) -> Result<bool> {
        let seen = match access.slot() {
            None => &mut self.seen,
            Some(slot) => self.slots.entry(slot).or_default(),
        };
        let before = *seen;
        seen.raise(access)?;
        Ok(*seen != before)
    }
}

fn number(token: Option<FencingToken>) -> u64 {
    token.map_or(0, FencingToken::as_u64)
}

fn token(text: &str) -> std::result::Result<Option<FencingToken>, String> {
    match text {
        "0" => Ok(None),
        text => text.parse().map(Some).map_err(|error: crate::NotAToken| error.to_string()),
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}\n{} {}", number(self.seen.exclusive), number(self.seen.shared))?;
        for (slot, seen) in &self.slots {
            writeln!(f, "slot {slot} {}", number(seen.exclusive))?;
        }
        writeln!(f, "{END}")
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err(format!("its first line is not {HEAD:?}"));
        }
        let second = lines.next().and_then(|line| line.split_once(' '));
        let (exclusive, shared) = second.ok_or("its second line has no two tokens")?;
        let mut record = Self {
            seen: Seen { exclusive: token(exclusive)?, shared: token(shared)? },
            ..Self::default()
        };
        for line in lines {
            if line == END {
                return Ok(record);
            }
            let slot = line.strip_prefix("slot ").and_then(|rest| rest.split_once(' '));
            let (slot, newest) = slot.ok_or_else(|| format!("its line {line:?} is of no slot"))?;
            let slot = slot.parse().map_err(|_| format!("its line {line:?} is of no slot"))?;
            record.slots.insert(slot, Seen { exclusive: token(newest)?, shared: None });
        }
        Err(format!("its last line is not {END:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_its_text_and_no_shortened_text_is_a_record() {
        let token = |value| FencingToken::new(value).expect("a token");
        let mut record = Record::default();
        for access in [
            Access::Exclusive(token(34)),
            Access::Shared(token(35)),
            Access::Counted { token: token(17), slot: 2 },
            Access::Counted { token: FencingToken::MAX, slot: u32::MAX },
        ] {
            assert_eq!(record.raise(access).ok(), Some(true));
        }
        let text = record.to_string();
        assert_eq!(text.parse(), Ok(record));
        for short in 0..text.len() - 1 {
            assert!(text[..short].parse::<Record>().is_err(), "{:?}", &text[..short]);
        }
    }
}
