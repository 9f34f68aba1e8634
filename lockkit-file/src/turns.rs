//! The waiters of all processes, in the order in which they came: a line of them stands in each of a name's files.
//!
//! A waiter writes and clears its own turn in place, without a lock. Where two take a room at the same moment, the second
//! stands there, and the first asks again when it looks. So exclusion never depends on turns, and order does not for long.

use std::time::Duration;

use lockkit_core::{Kind, RequestId};

/// The length of a line.
pub(crate) const LINE_LEN: usize = 64;
/// How many waiters one has room for: those of eight processes stand in both files together.
pub(crate) const ROOMS: usize = 4;
const ROOM_LEN: usize = 15;
/// Since when a waiter waits stands above so many bits of its request.
const ID_BITS: u32 = 14;
/// The last bits of the turn of a shared request, and of no other.
const SHARED: u64 = 0x3f;

/// Since when a waiter waits: the earlier one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(u64);

impl Turn {
    /// `since` is on the machine's boot clock.
    pub(crate) fn new(since: Duration, id: RequestId, kind: Kind) -> Self {
        let [.., high, low] = id.to_bytes();
        let id = u64::from(u16::from_be_bytes([high, low]));
        let id = match kind {
            Kind::Shared => id | SHARED,
            _ if id & SHARED == SHARED => id - 1,
            _ => id,
        };
        Self::at(since.as_micros(), id)
    }

    /// Whether a shared request waits. A turn of an earlier version, which are all exclusive, seems so once in 64.
    pub(crate) const fn is_shared(self) -> bool {
        self.0 & SHARED == SHARED
    }

    /// The latest one that a waiter can have at this time.
    pub(crate) fn latest(now: Duration) -> Self {
        Self::at(now.as_micros(), u64::MAX)
    }

    fn at(micros: u128, id: u64) -> Self {
        // In tenths of a millisecond, which fit for a boot of 13 years.
        let ticks = u64::try_from(micros / 100).unwrap_or(u64::MAX).min((1 << 42) - 1);
        Self(ticks << ID_BITS | id & ((1 << ID_BITS) - 1))
    }

    /// Where a waiter begins to look for room, so that waiters that come together take different rooms.
    pub(crate) fn first_room(self) -> usize {
        usize::try_from(self.0 >> SHARED.count_ones()).unwrap_or(0) % (2 * ROOMS)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let turn = std::str::from_utf8(bytes).ok()?.strip_prefix('@')?;
        let turn = Self(u64::from_str_radix(turn, 16).ok()?);
        (room(Some(turn)).as_bytes() == bytes).then_some(turn)
    }
}

/// What stands in the room of a turn, or in an empty one.
fn room(turn: Option<Turn>) -> String {
    let text = turn.map(|turn| format!("@{:014x}", turn.0));
    format!("{:<ROOM_LEN$}", text.unwrap_or_default())
}

/// An empty line.
pub(crate) fn empty_line() -> String {
    format!("{:<width$}\n", "", width = LINE_LEN - 1)
}

/// What stands in the line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Rooms([Option<Turn>; ROOMS]),
    /// Versions before this one kept one turn, which filled it.
    Whole(Turn),
}

impl Line {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let whole = || {
            let mut words =
                std::str::from_utf8(bytes).ok()?.strip_prefix("next ")?.split_whitespace();
            let since = words.next()?.parse().ok()?;
            Some(Turn::at(since, u64::from_str_radix(words.next()?, 16).ok()?))
        };
        let room = |n: usize| Turn::parse(bytes.get(n * ROOM_LEN..(n + 1) * ROOM_LEN)?);
        whole().map_or_else(|| Self::Rooms(std::array::from_fn(room)), Self::Whole)
    }

    pub(crate) fn turns(self) -> impl Iterator<Item = Turn> {
        let rooms = match self {
            Self::Rooms(rooms) => rooms,
            Self::Whole(turn) => [Some(turn), None, None, None],
        };
        rooms.into_iter().flatten()
    }

    /// The offset in the line, and the text, by which a turn takes this room, if that is empty.
    pub(crate) fn take(self, number: usize, turn: Turn) -> Option<(usize, String)> {
        let Self::Rooms(rooms) = self else { return None };
        let is_empty = rooms.get(number)?.is_none();
        is_empty.then(|| (number * ROOM_LEN, room(Some(turn))))
    }

    /// The offsets in the line, and the texts, by which the turns that are over are cleared.
    pub(crate) fn clear(self, is_over: impl Fn(Turn) -> bool) -> Vec<(usize, String)> {
        match self {
            Self::Rooms(rooms) => {
                let over =
                    rooms.into_iter().enumerate().filter(|(_, turn)| turn.is_some_and(&is_over));
                over.map(|(number, _)| (number * ROOM_LEN, room(None))).collect()
            }
            Self::Whole(turn) if is_over(turn) => vec![(0, empty_line())],
            Self::Whole(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(millis: u64) -> Turn {
        Turn::new(Duration::from_millis(millis), RequestId::from_bytes([7; 16]), Kind::Exclusive)
    }

    fn write(line: &mut [u8], (offset, text): (usize, String)) {
        line[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    }

    #[test]
    fn four_turns_have_room_in_a_line_and_each_is_cleared_alone() {
        let mut line = empty_line().into_bytes();
        for n in 0..ROOMS {
            let entry = Line::parse(&line).take(n, turn(10 - n as u64)).expect("room");
            write(&mut line, entry);
            assert_eq!(Line::parse(&line).take(n, turn(1)), None);
            assert_eq!(line.len(), LINE_LEN);
        }
        assert_eq!(Line::parse(&line).turns().min(), Some(turn(7)));
        assert_eq!(Line::parse(&line).take(ROOMS, turn(1)), None);
        let cleared = Line::parse(&line).clear(|found| found == turn(8));
        assert_eq!(cleared.len(), 1);
        cleared.into_iter().for_each(|room| write(&mut line, room));
        assert_eq!(Line::parse(&line).turns().collect::<Vec<_>>(), [turn(10), turn(9), turn(7)]);
        assert_eq!(Line::parse(&line).clear(|found| found == turn(8)), []);
        assert_eq!(line.last(), Some(&b'\n'));
    }

    #[test]
    fn the_earlier_turn_is_less_and_damage_is_no_turn() {
        let ids = [[7; 16], [8; 16]].map(RequestId::from_bytes);
        let [one, other] = ids.map(|id| Turn::new(Duration::from_millis(1), id, Kind::Exclusive));
        assert!(one != other && one < turn(2) && other < turn(2));
        let mut line = empty_line().into_bytes();
        let whole = Line::parse(&line).take(1, turn(1)).expect("room");
        write(&mut line, whole);
        for at in ROOM_LEN..2 * ROOM_LEN {
            let mut torn = line.clone();
            torn[at] = b'x';
            assert_eq!(Line::parse(&torn).turns().next(), None, "byte {at}");
        }
        for garbage in [&b""[..], b"next", &[0xff; LINE_LEN]] {
            assert_eq!(Line::parse(garbage).turns().next(), None);
        }
    }

    #[test]
    fn a_turn_tells_whether_its_request_is_shared_and_its_order_does_not_depend_on_it() {
        for last in 0..=u8::MAX {
            let id = RequestId::from_bytes([last; 16]);
            let of = |millis, kind| Turn::new(Duration::from_millis(millis), id, kind);
            let (alone, shared) = (of(1, Kind::Exclusive), of(1, Kind::Shared));
            assert!(!alone.is_shared() && shared.is_shared(), "{last}");
            assert!(alone < of(2, Kind::Shared) && shared < of(2, Kind::Exclusive));
        }
    }

    #[test]
    fn the_turn_of_an_earlier_version_counts_and_is_cleared_whole() {
        let line = format!("{:<63}\n", "next 00000000000000002000 00000000000000ff");
        let line = Line::parse(line.as_bytes());
        let old = line.turns().next().expect("a turn");
        assert!(turn(1) < old && old < turn(3));
        assert_eq!(line.take(1, turn(3)), None);
        assert_eq!(line.clear(|found| found == turn(3)), []);
        assert_eq!(line.clear(|found| found == old), [(0, empty_line())]);
    }
}
