//! Which token comes next, and up to which one the disk tells ahead.
//!
//! A token must outlive a crash of the machine, and a sync for each would cost most of a grant's time. So the slot that is
//! synced tells of tokens that are not granted yet: up to it, grants need no sync. After a crash tokens go on above it.

use lockkit_core::FencingToken;

/// So many tokens, which are microseconds, the disk is told of ahead.
pub(crate) const AHEAD: u64 = 10_000_000;

/// The next token of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) token: FencingToken,
    /// Up to which token the slot tells.
    pub(crate) until: u64,
    /// Whether the disk has this slot already.
    pub(crate) is_synced: bool,
}

/// What is known of the last tokens of a name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub(crate) last: Option<u64>,
    /// The greatest slot of both files.
    pub(crate) slot: Option<u64>,
    /// Up to which token the slot on the disk tells.
    pub(crate) ahead: Option<u64>,
    /// Whether slots may tell ahead.
    pub(crate) may_be_ahead: bool,
}

impl Known {
    /// The last token + 1 or `floor`, whichever is more; `None`: there is no greater token.
    ///
    /// `floor` is the wall clock in microseconds above the base: so tokens grow by the files, and also without them
    /// while the clock is not set back. Never further ahead of it than [`AHEAD`].
    pub(crate) fn next(self, floor: u64) -> Option<Next> {
        let token = self.last.unwrap_or(0).saturating_add(1).max(floor);
        let next = FencingToken::new(token).ok()?;
        if let Some(until) = self.ahead.filter(|until| token <= *until) {
            return Some(Next { token: next, until, is_synced: true });
        }
        let ahead = floor.saturating_add(AHEAD).min(FencingToken::MAX.as_u64());
        let until = if self.may_be_ahead { ahead.max(self.slot.unwrap_or(0)) } else { 0 };
        Some(Next { token: next, until: until.max(token), is_synced: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn next(known: Known) -> (u64, u64, bool) {
        let next = known.next(NOW).expect("a token");
        (next.token.as_u64(), next.until, next.is_synced)
    }

    #[test]
    fn a_token_that_the_disk_tells_of_needs_no_sync_and_one_above_moves_the_slot() {
        let known = Known { may_be_ahead: true, ..Known::default() };
        assert_eq!(next(known), (NOW, NOW + AHEAD, false));
        let until =
            |ahead| Known { last: Some(NOW + 6), slot: Some(ahead), ahead: Some(ahead), ..known };
        assert_eq!(next(until(NOW + 7)), (NOW + 7, NOW + 7, true));
        assert_eq!(next(until(NOW + 6)), (NOW + 7, NOW + AHEAD, false));
        // Whose holder left before the sync: it is written again, never lower.
        let unsure = Known { ahead: None, ..until(NOW + 2 * AHEAD) };
        assert_eq!(next(unsure), (NOW + 7, NOW + 2 * AHEAD, false));
    }

    #[test]
    fn tokens_that_run_before_the_clock_or_a_file_system_of_the_network_get_no_slot_ahead() {
        let before = Some(NOW + 3 * AHEAD);
        let known = Known { last: before, slot: before, ahead: before, may_be_ahead: true };
        assert_eq!(next(known), (NOW + 3 * AHEAD + 1, NOW + 3 * AHEAD + 1, false));
        let network = Known { last: Some(7), slot: Some(7), ..Known::default() };
        assert_eq!(next(network), (NOW, NOW, false));
    }

    #[test]
    fn the_greatest_token_is_the_last_one() {
        let most = FencingToken::MAX.as_u64();
        let known = Known { last: Some(most - 1), may_be_ahead: true, ..Known::default() };
        let last = known.next(most - AHEAD).expect("a token");
        assert_eq!((last.token.as_u64(), last.until), (most, most));
        assert_eq!(Known { last: Some(most), ..known }.next(0), None);
    }
}
