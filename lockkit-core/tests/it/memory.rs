//! What is the memory store's own, beyond the conformance suite.

use std::time::Duration;

use futures_util::FutureExt;
use lockkit_core::{Clock, LockProvider, LossReason, Memory, Request, Result};

const TTL: Duration = Duration::from_secs(1);

/// A client that lost the answer asks again under its id, and by then its grant may have expired.
#[tokio::test(start_paused = true)]
async fn an_expired_grant_does_not_touch_the_one_that_its_replay_got() -> Result<()> {
    let store = Memory::new();
    let request = Request::new("n".parse()?, TTL, Clock::tokio())?;
    let first = store.try_acquire(&request).await?.expect("free");
    tokio::time::sleep(TTL).await;
    let replay = store.acquire(&request).await?;
    assert!(replay.token > first.token);
    assert!(replay.lease.lost().now_or_never().is_none(), "only the first one has ended");
    assert_eq!(first.lease.lost().now_or_never(), Some(LossReason::Removed));
    assert!(first.lease.renew().await.is_err());
    assert!(first.lease.release().await.is_err());
    drop(first);
    assert!(replay.lease.lost().now_or_never().is_none());
    replay.lease.renew().await?;
    replay.lease.release().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_replay_waits_although_its_first_grant_has_expired() -> Result<()> {
    let store = Memory::new();
    let request = Request::new("n".parse()?, TTL, Clock::tokio())?;
    let first = store.try_acquire(&request).await?.expect("free");
    tokio::time::sleep(TTL).await;
    let other = store.hold("n", "another").expect("expired");
    let mut replay = store.acquire(&request);
    assert!((&mut replay).now_or_never().is_none(), "it waits");
    drop(first);
    drop(other);
    let replay = replay.now_or_never().expect("its turn")?;
    assert!(replay.lease.lost().now_or_never().is_none());
    Ok(())
}
