//! Strategy "advisory": session-level locks, on sessions that the server ends when they fall silent.
//!
//! A request takes its name's turn in this client (`names`), asks the server over a session that many locks
//! share (`client`, `sessions`), and where another client holds the name, waits on a session of its own, in slices.

mod budget;
mod client;
mod lease;
mod names;
mod session;
mod sessions;

use lockkit_core::{Exclusion, Expiry, Guarantees, TtlRange, WakeUp};

pub(crate) use client::Advisory;

/// What this strategy promises.
pub(crate) fn declared() -> Guarantees {
    let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::Connection(TtlRange::ANY));
    guarantees.wake_up = WakeUp::Push;
    guarantees.token_survives.server_restart = true;
    guarantees.belief_breaks_on = &[
        "a pause between a check and its use that outlasts the margin",
        "a session that the server or a proxy ends: the name is free at once, and the holder is told within a second",
        "a failover to a standby",
    ];
    guarantees
}
