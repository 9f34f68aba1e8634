//! The time of day, where tokens begin.

use std::time::{SystemTime, UNIX_EPOCH};

/// The microseconds since 1970 by the clock of this machine; 0 before that.
///
/// A store's tokens begin here, so that a move from another store only ever raises a name's tokens. It is no clock
/// for deadlines: it is set, and hosts disagree on it.
///
/// ```
/// // Some time after 2020.
/// assert!(lockkit_core::kit::wall_micros() > 1_577_836_800_000_000);
/// ```
#[allow(clippy::disallowed_methods)] // a token starts from the wall clock; no deadline does
pub fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
