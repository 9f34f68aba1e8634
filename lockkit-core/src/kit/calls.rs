//! How long a call on a store may take.

use std::future::Future;
use std::time::Duration;

use crate::Clock;
use crate::driver::timing;

/// The longest that any call waits for its store.
pub const LONGEST_CALL: Duration = timing::CALL_LIMIT;

/// How long a backend waits for the answer to one call about a request of this ttl: three tenths of it,
/// from 100 ms to 1.8 s. Upholds C12.
///
/// The driver gives the call up a little later, after a third of the ttl or 2 s. So the backend notices a
/// connection that is stuck before the driver sends the withdrawal, or the next call, over it.
///
/// ```
/// use std::time::Duration;
///
/// use lockkit_core::kit::call_limit;
///
/// assert_eq!(call_limit(Duration::from_secs(3)), Duration::from_millis(900));
/// assert_eq!(call_limit(Duration::from_secs(60)), Duration::from_millis(1800));
/// ```
pub fn call_limit(ttl: Duration) -> Duration {
    (ttl * 3 / 10).clamp(LONGEST_CALL / 20, LONGEST_CALL * 9 / 10)
}

/// What `call` gives within `limit` by the clock of its request; `None`: it took longer, and is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
///
/// use lockkit_core::{Clock, kit::within};
///
/// let limit = Duration::from_millis(10);
/// assert_eq!(within(&Clock::system(), limit, async { 7 }).await, Some(7));
/// assert_eq!(within(&Clock::system(), limit, std::future::pending::<u8>()).await, None);
/// # }
/// ```
///
/// # Cancel safety
/// As `call` itself.
pub async fn within<T>(clock: &Clock, limit: Duration, call: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        outcome = call => Some(outcome),
        () = clock.sleep(limit) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_gives_a_call_up_before_the_driver_does() {
        for ms in [400, 1_000, 1_337, 5_999, 6_000, 6_001, 86_400_000] {
            let ttl = Duration::from_millis(ms);
            assert!(call_limit(ttl) < timing::call_limit(ttl), "{ttl:?}");
        }
    }
}
