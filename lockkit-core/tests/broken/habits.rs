//! What a client makes of its link, one decision each. A broken client has one habit changed.

use lockkit_core::Applied;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The name at once.
    Attempt,
    /// The name, to wait for it; it was free.
    Wait,
    /// The name that it waits for; it was handed over.
    HandOff,
    Renewal,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Whether a call ends without an answer.
    pub(crate) limits_calls: bool,
    /// Whether a connection that left a call unanswered is replaced.
    pub(crate) leaves_stuck_connections: bool,
    /// Whether a call waits for the answer to the one before.
    pub(crate) one_call_at_a_time: bool,
    /// What a call says of its effect that got no answer.
    pub(crate) unanswered_is: Applied,
    /// Whether a release or withdrawal that got no answer counts as done.
    pub(crate) silence_is_success: bool,
    /// Whether an attempt that got no answer is made again by a request of its own.
    pub(crate) retries_under_a_new_id: bool,
    /// Whether a waiter asks again from the place that it had, not for one.
    pub(crate) asks_from_its_place: bool,
    /// Whether a waiter asks again as soon as its connection has ended.
    pub(crate) hears_resets: bool,
    /// Whether wake-ups are listened to over any connection, and not only over the first.
    pub(crate) listens_again: bool,
    /// Whether a holder hands the name on to a waiter of its client, and leaves the store to learn it.
    pub(crate) hands_on_itself: bool,
    /// Whether a lease is renewed again after a renewal that failed.
    pub(crate) renews_after_an_error: bool,
    /// Whether a lease outlives the connection that it was granted over.
    pub(crate) lease_outlives_connection: bool,
    /// Whether a waiter that is cut off may go on.
    pub(crate) waits_through_outages: bool,
    /// Whether a waiter that is cut off tells so, and does not go on as one that waits for the holder.
    pub(crate) tells_of_outages: bool,
    /// Whether a withdrawal that finds nothing is done.
    pub(crate) withdraws_nothing: bool,
    /// Whether an attempt waits for the answer to another one, and is refused with it.
    pub(crate) joins_attempts: bool,
    /// Whether the term that this call brings counts from the answer.
    pub(crate) term_from_receipt: fn(Call) -> bool,
    /// Whether the term of a hand-off counts from when its waiter came.
    pub(crate) term_from_queueing: bool,
    /// Whether this call leaves a connection behind that is never used again.
    pub(crate) leaks_connection: fn(Call) -> bool,
    /// Whether a client that is closed closes its connection.
    pub(crate) closes_its_connection: bool,
    /// Whether the client goes on asking the store whether it is there once it is closed.
    pub(crate) pings_after_close: bool,
    /// Whether an attempt has the store make room for the name first, by a call of its own; what the
    /// attempt says of its effect if that call got no answer.
    pub(crate) makes_room_first: Option<Applied>,
}

impl Habits {
    /// The habits of a client that keeps the contract.
    pub(crate) const CORRECT: Self = Self {
        limits_calls: true,
        leaves_stuck_connections: true,
        one_call_at_a_time: false,
        unanswered_is: Applied::Maybe,
        silence_is_success: false,
        retries_under_a_new_id: false,
        asks_from_its_place: true,
        hears_resets: true,
        listens_again: true,
        hands_on_itself: false,
        renews_after_an_error: true,
        lease_outlives_connection: true,
        waits_through_outages: true,
        tells_of_outages: true,
        withdraws_nothing: true,
        joins_attempts: false,
        term_from_receipt: |_| false,
        term_from_queueing: false,
        leaks_connection: |_| false,
        closes_its_connection: true,
        pings_after_close: false,
        makes_room_first: None,
    };
}
