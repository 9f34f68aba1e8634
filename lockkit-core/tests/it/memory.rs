//! What is the memory store's own, beyond the conformance suite.

use std::time::Duration;

use futures_util::FutureExt;
use lockkit_core::{Clock, Kind, LockProvider, Locks, LossReason, Memory, Request, Result};

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

#[tokio::test]
async fn a_guard_tells_of_which_kind_it_is_and_so_does_its_inspection() {
    let lock = Locks::memory().lock("a");
    let shared = lock.clone().shared();
    let (reader, other) = (shared.acquire().await.unwrap(), shared.acquire().await.unwrap());
    assert_eq!((reader.kind(), other.watch().kind()), (Kind::Shared, Kind::Shared));
    let seen = lock.inspect().await.unwrap();
    assert!(
        seen.holders.len() == 2 && seen.holders.iter().all(|holder| holder.kind == Kind::Shared)
    );
    assert!(seen.holders[0].to_string().ends_with("(shared)"), "{}", seen.holders[0]);
    drop((reader, other));
    assert_eq!(lock.acquire().await.unwrap().kind(), Kind::Exclusive);
}

#[tokio::test]
async fn who_shares_the_name_of_an_election_does_not_lead() {
    let locks = Locks::memory();
    let reader = locks.lock("leader").shared().acquire().await.unwrap();
    assert_eq!(locks.election("leader").leader().await.unwrap(), None);
    drop(reader);
}

#[tokio::test]
async fn a_group_that_lost_a_name_says_so_though_another_has_not_the_time_that_is_asked_for() {
    let locks = Locks::memory();
    let guard = locks.all(["a", "b"]).acquire().await.unwrap();
    assert!(locks.lock("b").revoke(guard.token("b").unwrap()).await.unwrap());
    guard.lost().await;
    let more = guard.get("a").unwrap().remaining().unwrap() * 2;
    assert!(matches!(guard.ensure(more), Err(lockkit_core::Error::Lost { .. })));
    assert!(guard.release().await.iter().any(|(_, released)| released.is_err()));
}
