//! What stands in a file: two checksummed slots for a token, turns, the name, the last holder.
//!
//! A slot tells up to which token all may have been granted: it is synced, and ahead of them. The record of the last
//! holder tells its own token, and need not reach the disk: it counts as long as the machine runs on, which its stamp tells.
//!
//! Text of fixed places, so that `cat` shows it and every change is written in place.

use std::path::Path;
use std::time::Duration;

use lockkit_core::{Kind, Result, kit};
use sha2::{Digest, Sha256};

use crate::name::{decode, encode};
use crate::turns::LINE_LEN;

/// What the head of a file begins with; its layout follows.
const HEAD: &str = "lockkit-file ";
/// The layout that this version writes, the newest that it can read.
const LAYOUT: u32 = 1;
pub(crate) const HEAD_LEN: usize = 32;
const SLOT_LEN: usize = 64;
/// Where the slots end and the line of turns begins.
pub(crate) const TURNS: usize = HEAD_LEN + 2 * SLOT_LEN;
/// Where it ends and the name begins.
pub(crate) const BODY: usize = TURNS + LINE_LEN;
/// Longer than any file that lockkit writes: the rest of a longer file is not read.
pub(crate) const LONGEST: usize = 8 * 1024;
/// A longer label is cut: the record is for people.
const LONGEST_LABEL: usize = 1024;

/// The word before a holder's record while it holds; of the same length as the others.
pub(crate) const HELD: &str = "held";
/// The word that a release writes over it; what the record says is synced has been synced.
pub(crate) const FREE: &str = "free";
/// The same of a holder that left before all was synced, as earlier versions wrote it: today's leaves its record.
const LEFT: &str = "left";

/// The holder that wrote its record last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HolderRecord {
    pub(crate) label: String,
    pub(crate) pid: u32,
    pub(crate) token: u64,
    /// On the machine's boot clock, which all its processes share.
    pub(crate) since: Duration,
    /// Up to which token all may be granted without another sync; absent in records of earlier versions.
    pub(crate) ahead: Option<Ahead>,
    /// The kind of its grant; earlier versions knew exclusive ones alone.
    pub(crate) kind: Kind,
    /// The limit of the semaphore.
    pub(crate) permits: Option<u32>,
}

/// Tokens of which the slot tells ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) until: u64,
    /// Of the run of the machine in which the record was written.
    pub(crate) stamp: u64,
}

/// What tells this run of the machine, and this file, from others: a record with another one may be older than
/// grants that a crash or a copy has lost.
pub(crate) fn stamp(boot: &str, (device, inode): (u64, u64)) -> u64 {
    sum(&[boot.as_bytes(), &device.to_be_bytes(), &inode.to_be_bytes()])
}

/// What could be read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// The slots that are whole.
    pub(crate) slots: [Option<u64>; 2],
    /// Whether there is anything in the place of the slots.
    pub(crate) written: bool,
    pub(crate) name: Option<String>,
    /// The last holder, and the word before its record.
    record: Option<(Word, HolderRecord)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Held,
    Free,
    Left,
}

impl Content {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let slots =
            [0, 1].map(|index| bytes.get(slot_range(index)).and_then(|s| slot_of(index, s)));
        let body = bytes.get(BODY..).and_then(|body| std::str::from_utf8(body).ok());
        let mut lines = body.unwrap_or_default().lines();
        let name = lines.next().and_then(|line| line.strip_prefix("name ")).and_then(decode);
        let record = lines.next().and_then(record_of);
        Self {
            slots,
            written: bytes.iter().any(|byte| !matches!(byte, 0 | b' ' | b'\n')),
            name,
            record,
        }
    }

    /// The last holder, unless it has released.
    pub(crate) fn holder(&self) -> Option<&HolderRecord> {
        self.record.as_ref().filter(|(word, _)| *word == Word::Held).map(|(_, holder)| holder)
    }

    /// Whether the last grant was shared.
    pub(crate) fn is_shared(&self) -> bool {
        self.record.as_ref().is_some_and(|(_, holder)| holder.kind == Kind::Shared)
    }

    /// The limit of the semaphore, and the token with which it was written last.
    pub(crate) fn permits(&self) -> Option<(u64, u32)> {
        let (_, holder) = self.record.as_ref()?;
        Some((holder.token, holder.permits?))
    }

    /// Whether there is something, and no whole slot.
    pub(crate) fn is_damaged(&self) -> bool {
        self.written && self.slot().is_none()
    }

    /// The greatest slot that is whole.
    pub(crate) fn slot(&self) -> Option<u64> {
        self.slots.iter().flatten().max().copied()
    }

    /// The last token, or a greater one where only the slot is to be believed: after a crash of the machine, which
    /// may have lost the records of grants.
    pub(crate) fn last(&self, stamp: Option<u64>) -> Option<u64> {
        let slot = self.slot()?;
        let Some((_, holder)) = &self.record else { return Some(slot) };
        match holder.ahead {
            Some(ahead) if Some(ahead.stamp) == stamp && slot <= ahead.until => Some(holder.token),
            ahead => Some(slot.max(holder.token).max(ahead.map_or(0, |ahead| ahead.until))),
        }
    }

    /// Up to which token the slot, as it stands on the disk, tells ahead.
    pub(crate) fn ahead(&self, stamp: Option<u64>) -> Option<Ahead> {
        let (word, holder) = self.record.as_ref()?;
        let ahead = holder.ahead.filter(|ahead| Some(ahead.stamp) == stamp)?;
        (*word == Word::Free && self.slot() == Some(ahead.until)).then_some(ahead)
    }

    /// Whether the last holder saw to it that the file outlives a crash of the machine.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.record.as_ref().is_some_and(|(word, _)| *word == Word::Free)
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
    let ahead =
        holder.ahead.map(|Ahead { until, stamp }| format!(" until={until} in={stamp:016x}"));
    let kind = match holder.kind {
        Kind::Exclusive => String::new(),
        kind => format!(" kind={kind}"),
    };
    let permits = holder.permits.map(|permits| format!(" permits={permits}"));
    let facts = format!(
        " pid={} token={} since={}{}{kind}{} label={}",
        holder.pid,
        holder.token,
        holder.since.as_millis(),
        ahead.unwrap_or_default(),
        permits.unwrap_or_default(),
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

fn record_of(line: &str) -> Option<(Word, HolderRecord)> {
    let words = [(HELD, Word::Held), (FREE, Word::Free), (LEFT, Word::Left)];
    let (facts, word) =
        words.iter().find_map(|(text, word)| Some((line.strip_prefix(text)?, *word)))?;
    let (facts, written) = facts.rsplit_once(' ')?;
    if u64::from_str_radix(written, 16).ok()? != sum(&[facts.as_bytes()]) {
        return None;
    }
    let fact =
        |what: &str| facts.split(' ').find_map(|fact| fact.strip_prefix(what)?.strip_prefix('='));
    let ahead = || {
        let stamp = u64::from_str_radix(fact("in")?, 16).ok()?;
        Some(Ahead { until: fact("until")?.parse().ok()?, stamp })
    };
    let holder = HolderRecord {
        label: fact("label").and_then(decode)?,
        pid: fact("pid")?.parse().ok()?,
        token: fact("token")?.parse().ok()?,
        since: Duration::from_millis(fact("since")?.parse().ok()?),
        ahead: ahead(),
        kind: match fact("kind") {
            Some("shared") => Kind::Shared,
            Some("counted") => Kind::Counted,
            _ => Kind::Exclusive,
        },
        permits: fact("permits").and_then(|permits| permits.parse().ok()),
    };
    Some((word, holder))
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
    use crate::turns::empty_line;

    fn holder() -> HolderRecord {
        let label = "host/7/a b\n{é}".to_owned();
        let ahead = Some(Ahead { until: 42, stamp: 9 });
        let (since, kind) = (Duration::from_millis(12), Kind::Exclusive);
        HolderRecord { label, pid: 7, token: 40, since, ahead, kind, permits: None }
    }

    fn image() -> Vec<u8> {
        let turns = empty_line();
        [head(), slot(0, 41).1, slot(1, 42).1, turns, body("A/b", &holder()).0]
            .concat()
            .into_bytes()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let content = Content::parse(&image());
        assert_eq!(content.slots, [Some(41), Some(42)]);
        assert_eq!(content.slot(), Some(42));
        assert_eq!(content.next_slot(), 0);
        assert_eq!(content.name.as_deref(), Some("A/b"));
        assert_eq!(content.holder(), Some(&holder()));
        assert_eq!(Content::parse(b""), Content::default());
    }

    #[test]
    fn a_record_tells_its_kind_and_the_limit() {
        for (kind, permits) in [(Kind::Shared, None), (Kind::Counted, Some(5))] {
            let record = HolderRecord { kind, permits, ..holder() };
            let text = [head(), slot(0, 41).1, slot(1, 42).1, empty_line(), body("a", &record).0];
            let content = Content::parse(text.concat().as_bytes());
            assert_eq!(content.holder(), Some(&record));
            assert_eq!(content.permits(), permits.map(|permits| (40, permits)));
            assert_eq!(content.is_shared(), kind == Kind::Shared);
        }
        assert_eq!(Content::parse(&image()).permits(), None);
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
            assert_eq!(Content::parse(&torn).holder(), None, "byte {at}");
        }
        for len in 0..whole.len() - 1 {
            assert_eq!(Content::parse(&whole[..len]).holder(), None);
        }
    }

    /// The image with this word before the record.
    fn with_word(text: &str) -> Content {
        let mut bytes = image();
        let word = usize::try_from(body("A/b", &holder()).1).expect("an offset");
        bytes[word..word + FREE.len()].copy_from_slice(text.as_bytes());
        Content::parse(&bytes)
    }

    #[test]
    fn a_released_record_names_no_holder_and_tells_what_is_on_the_disk() {
        for word in [FREE, LEFT] {
            let content = with_word(word);
            assert_eq!((content.holder(), content.last(Some(9))), (None, Some(40)), "{word}");
            let ahead = (word == FREE).then_some(Ahead { until: 42, stamp: 9 });
            assert_eq!(content.ahead(Some(9)), ahead, "{word}");
            assert_eq!(content.is_on_disk(), word == FREE);
        }
        assert_eq!(
            (with_word(HELD).ahead(Some(9)), with_word(HELD).last(Some(9))),
            (None, Some(40))
        );
        assert_eq!(with_word("else").last(Some(9)), Some(42));
    }

    #[test]
    fn a_record_of_another_run_of_the_machine_or_of_another_file_is_not_believed() {
        let content = with_word(FREE);
        for stamp in [None, Some(8)] {
            assert_eq!((content.last(stamp), content.ahead(stamp)), (Some(42), None));
        }
        let stamps = [("a", (1, 2)), ("b", (1, 2)), ("a", (1, 3)), ("a", (3, 2))];
        let stamps = stamps.map(|(boot, id)| stamp(boot, id));
        for (n, one) in stamps.iter().enumerate() {
            assert!(!stamps[..n].contains(one));
        }
    }

    #[test]
    fn the_greatest_of_slot_and_record_is_the_last_token_where_they_do_not_fit() {
        let with = |slots: [u64; 2], token, until| {
            let ahead = Some(Ahead { until, stamp: 9 });
            let body = body("A/b", &HolderRecord { token, ahead, ..holder() }).0;
            let [one, two] = slots;
            let text = [head(), slot(0, one).1, slot(1, two).1, empty_line(), body].concat();
            Content::parse(text.replace("held", "free").as_bytes())
        };
        // A slot that was written after the record, by an earlier version or in a grant that was broken off.
        let later = with([50, 42], 40, 42);
        assert_eq!((later.last(Some(9)), later.ahead(Some(9))), (Some(50), None));
        // A newest slot that was torn: the record tells all the same.
        let torn = with([30, 20], 40, 42);
        assert_eq!((torn.last(Some(9)), torn.ahead(Some(9))), (Some(40), None));
        assert_eq!(torn.last(Some(8)), Some(42));
    }

    #[test]
    fn a_slot_is_bound_to_its_place() {
        let swapped = [head(), slot(1, 42).1, slot(0, 41).1].concat();
        let content = Content::parse(swapped.as_bytes());
        assert_eq!(content.slots, [None, None]);
        assert!(content.written);
    }
}
