//! The term that a shared session gives to each request that lives on it.
//!
//! Who uses a session, and when it was last used, is not here: etcd counts copies of a handle, ZooKeeper
//! counts users together with the bytes of the paths that they watch. One type for both would have to know
//! both.

use std::time::Duration;

use crate::{Clock, Instant, Term};

/// The term of a request that lives on a session, from the session's last acknowledged heartbeat.
///
/// `session` is the clock that `sent` was read from, `request` the clock of the request. The request's
/// clock is read first, so a pause between the two readings only makes the term end sooner (C5).
///
/// ```
/// use std::time::Duration;
/// use lockkit_core::{Clock, kit::session_term};
///
/// let (session, request) = (Clock::system(), Clock::system());
/// let sent = session.now();
/// let before = request.now();
/// let term = session_term(&session, sent, Duration::from_secs(30), &request);
/// assert!(term.sent <= before);
/// assert_eq!(term.ttl, Some(Duration::from_secs(30)));
/// ```
pub fn session_term(session: &Clock, sent: Instant, ttl: Duration, request: &Clock) -> Term {
    let now = request.now();
    let ago = session.now().saturating_since(sent);
    Term { sent: now.saturating_sub(ago), ttl: Some(ttl) }
}
