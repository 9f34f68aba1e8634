//! What stands in a file: two checksummed slots for the token, whose turn is next, the name, the
//! last holder.
//!
//! Text of fixed places, so that `cat` shows it and every change is written in place.

use std::path::Path;
use std::time::Duration;

use lockkit_core::{RequestId, Result, kit};
use sha2::{Digest, Sha256};

use crate::name::{decode, encode};

/// What the head of a file begins with; its layout follows.
const HEAD: &str = "lockkit-file ";
/// The layout that this version writes, the newest that it can read.
const LAYOUT: u32 = 1;
pub(crate) const HEAD_LEN: usize = 32;
const SLOT_LEN: usize = 64;
/// Where the slots end and the turn stands.
pub(crate) const TURN: usize = HEAD_LEN + 2 * SLOT_LEN;
pub(crate) const TURN_LEN: usize = 64;
/// Where the turn ends and the name begins.
pub(crate) const BODY: usize = TURN + TURN_LEN;
/// Longer than any file that lockkit writes: the rest of a longer file is not read.
pub(crate) const LONGEST: usize = 8 * 1024;
/// A longer label is cut: the record is for people.
const LONGEST_LABEL: usize = 1024;

/// The word before a holder's record while it holds; of the same length as [`FREE`].
pub(crate) const HELD: &str = "held";
/// The word that a release writes over it.
pub(crate) const FREE: &str = "free";

/// The holder that wrote its record last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HolderRecord {
    pub(crate) label: String,
    pub(crate) pid: u32,
    pub(crate) token: u64,
    /// On the machine's boot clock, which all its processes share.
    pub(crate) since: Duration,
}

/// The place of a waiter among those of all processes: the earlier one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    /// On the machine's boot clock, in microseconds.
    since: u64,
    id: u64,
}

impl Turn {
    pub(crate) fn new(since: Duration, id: RequestId) -> Self {
        let [_, _, _, _, _, _, _, _, id @ ..] = id.to_bytes();
        let since = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        Self { since, id: u64::from_be_bytes(id) }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.strip_prefix("next ")?.split_whitespace();
        let since = words.next()?.parse().ok()?;
        let id = u64::from_str_radix(words.next()?, 16).ok()?;
        let turn = Self { since, id };
        (turn_line(Some(turn)).as_bytes() == bytes).then_some(turn)
    }
}

/// The line at [`TURN`].
pub(crate) fn turn_line(turn: Option<Turn>) -> String {
    let text = turn.map(|turn| format!("next {:020} {:016x}", turn.since, turn.id));
    format!("{:<width$}\n", text.unwrap_or_default(), width = TURN_LEN - 1)
}

/// What could be read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// The slots that are whole.
    pub(crate) slots: [Option<u64>; 2],
    /// Whether there is anything in the place of the slots.
    pub(crate) written: bool,
    pub(crate) name: Option<String>,
    /// The last holder, unless it has released.
    pub(crate) holder: Option<HolderRecord>,
}

impl Content {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let slots =
            [0, 1].map(|index| bytes.get(slot_range(index)).and_then(|s| slot_of(index, s)));
        let body = bytes.get(BODY..).and_then(|body| std::str::from_utf8(body).ok());
        let mut lines = body.unwrap_or_default().lines();
        let name = lines.next().and_then(|line| line.strip_prefix("name ")).and_then(decode);
        let holder = lines.next().and_then(holder_of);
        Self {
            slots,
            written: bytes.iter().any(|byte| !matches!(byte, 0 | b' ' | b'\n')),
            name,
            holder,
        }
    }

    /// Whether there is something, and no whole token.
    pub(crate) fn is_damaged(&self) -> bool {
        self.written && self.last().is_none()
    }

    /// The greatest token that is whole.
    pub(crate) fn last(&self) -> Option<u64> {
        self.slots.iter().flatten().max().copied()
    }

    /// The slot to write next: never the one that holds the greatest token.
    pub(crate) fn next_slot(&self) -> usize {
        usize::from(self.slots[0].is_some() && self.slots[0] >= self.slots[1])
    }
}

/// The offset and bytes of the slot that holds `token`.
pub(crate) fn slot(index: usize, token: u64) -> (u64, String) {
    let line = format!(
        "token {token:020} {:016x}",
        sum(&[[b"slot 0", b"slot 1"][index & 1], &token.to_be_bytes()])
    );
    (slot_range(index).start as u64, format!("{line:<width$}\n", width = SLOT_LEN - 1))
}

/// The head line, at offset 0.
pub(crate) fn head() -> String {
    format!("{:<width$}\n", format!("{HEAD}{LAYOUT}"), width = HEAD_LEN - 1)
}

/// Refuses a file whose head names a newer layout; one that is empty or damaged names none.
pub(crate) fn check_layout(path: &Path, head: &[u8]) -> Result<()> {
    let head = head.get(..HEAD_LEN).and_then(|head| std::str::from_utf8(head).ok());
    let number = head.and_then(|head| head.strip_prefix(HEAD)).map(str::trim_end);
    kit::check_layout(format_args!("the file {}", path.display()), number, LAYOUT, "directory")
}

/// The bytes from [`BODY`] on, and the offset in the file of the word [`HELD`].
pub(crate) fn body(name: &str, holder: &HolderRecord) -> (String, u64) {
    let name = format!("name {}\n", encode(name));
    let mut cut = holder.label.len().min(LONGEST_LABEL);
    while !holder.label.is_char_boundary(cut) {
        cut -= 1;
    }
    let facts = format!(
        " pid={} token={} since={} label={}",
        holder.pid,
        holder.token,
        holder.since.as_millis(),
        encode(&holder.label[..cut]),
    );
    let word = (BODY + name.len()) as u64;
    (format!("{name}{HELD}{facts} {:016x}\n", sum(&[facts.as_bytes()])), word)
}

const fn slot_range(index: usize) -> std::ops::Range<usize> {
    let start = HEAD_LEN + index * SLOT_LEN;
    start..start + SLOT_LEN
}

fn slot_of(index: usize, bytes: &[u8]) -> Option<u64> {
    let mut words = std::str::from_utf8(bytes).ok()?.split_ascii_whitespace().skip(1);
    let token = words.next()?.parse().ok()?;
    (slot(index, token).1.as_bytes() == bytes).then_some(token)
}

fn holder_of(line: &str) -> Option<HolderRecord> {
    let (facts, written) = line.strip_prefix(HELD)?.rsplit_once(' ')?;
    if u64::from_str_radix(written, 16).ok()? != sum(&[facts.as_bytes()]) {
        return None;
    }
    let fact =
        |what: &str| facts.split(' ').find_map(|fact| fact.strip_prefix(what)?.strip_prefix('='));
    Some(HolderRecord {
        label: fact("label").and_then(decode)?,
        pid: fact("pid")?.parse().ok()?,
        token: fact("token")?.parse().ok()?,
        since: Duration::from_millis(fact("since")?.parse().ok()?),
    })
}

fn sum(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> HolderRecord {
        let label = "host/7/a b\n{é}".to_owned();
        HolderRecord { label, pid: 7, token: 42, since: Duration::from_millis(12) }
    }

    fn image() -> Vec<u8> {
        let turn = turn_line(None);
        [head(), slot(0, 41).1, slot(1, 42).1, turn, body("A/b", &holder()).0].concat().into_bytes()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let content = Content::parse(&image());
        assert_eq!(content.slots, [Some(41), Some(42)]);
        assert_eq!(content.last(), Some(42));
        assert_eq!(content.next_slot(), 0);
        assert_eq!(content.name.as_deref(), Some("A/b"));
        assert_eq!(content.holder, Some(holder()));
        assert_eq!(Content::parse(b""), Content::default());
    }

    #[test]
    fn a_slot_or_record_with_one_wrong_bit_is_not_read() {
        let whole = image();
        for at in slot_range(1) {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            assert_eq!(Content::parse(&torn).slots, [Some(41), None], "byte {at}");
        }
        let word = usize::try_from(body("A/b", &holder()).1).expect("an offset");
        for at in word..whole.len() - 1 {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            assert_eq!(Content::parse(&torn).holder, None, "byte {at}");
        }
        for len in 0..whole.len() - 1 {
            assert_eq!(Content::parse(&whole[..len]).holder, None);
        }
    }

    #[test]
    fn a_released_record_names_no_holder() {
        let mut bytes = image();
        let word = usize::try_from(body("A/b", &holder()).1).expect("an offset");
        bytes[word..word + FREE.len()].copy_from_slice(FREE.as_bytes());
        let content = Content::parse(&bytes);
        assert_eq!((content.holder.as_ref(), content.last()), (None, Some(42)));
    }

    #[test]
    fn a_turn_is_read_back_and_the_earlier_one_goes_first() {
        let [early, late] =
            [1, 2].map(|s| Turn::new(Duration::from_secs(s), RequestId::from_bytes([7; 16])));
        assert!(early < late);
        assert_eq!(Turn::parse(turn_line(Some(late)).as_bytes()), Some(late));
        assert_eq!(Turn::parse(turn_line(None).as_bytes()), None);
        assert_eq!(Turn::parse(b"next"), None);
        assert_eq!(turn_line(None).len(), turn_line(Some(early)).len());
    }

    #[test]
    fn a_slot_is_bound_to_its_place() {
        let swapped = [head(), slot(1, 42).1, slot(0, 41).1].concat();
        let content = Content::parse(swapped.as_bytes());
        assert_eq!(content.slots, [None, None]);
        assert!(content.written);
    }
}
