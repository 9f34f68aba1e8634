//! What a semaphore promises its callers, in the memory store.

use std::time::Duration;

use futures_util::FutureExt;
use lockkit_core::{Error, Family, Guard, LockName, Locks, Memory, Result, Semaphore};

/// What is granted at once.
async fn taken(semaphore: &Semaphore, count: usize) -> Result<Vec<Guard>> {
    let mut guards = Vec::new();
    for _ in 0..count {
        guards.push(semaphore.try_acquire().await?.expect("a free permit"));
    }
    assert!(semaphore.try_acquire().await?.is_none(), "no more than {count}");
    Ok(guards)
}

fn slots<'a>(guards: impl IntoIterator<Item = &'a Guard>) -> Vec<Option<u32>> {
    guards.into_iter().map(Guard::slot).collect()
}

#[tokio::test(start_paused = true)]
async fn so_many_hold_together_each_in_a_slot_and_callers_are_granted_in_their_order() -> Result<()>
{
    let pool = Locks::memory().semaphore("pool", 3);
    let mut guards = taken(&pool, 3).await?;
    assert_eq!(slots(&guards), [Some(0), Some(1), Some(2)]);
    assert!(guards.is_sorted_by_key(Guard::token));
    let (mut first, mut second) = (Box::pin(pool.acquire()), Box::pin(pool.acquire()));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    let last = guards[2].token();
    guards.remove(1).release().await?;
    let third = first.await?;
    assert!((&mut second).now_or_never().is_none(), "one permit was freed");
    assert_eq!(third.slot(), Some(1), "the smallest free one");
    assert!(third.token() > last);
    drop(guards.remove(0));
    assert_eq!(second.await?.slot(), Some(0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_expires_gives_its_permit_and_no_other() -> Result<()> {
    let store = Memory::new();
    let locks = Locks::new(store.clone());
    let ttl = Duration::from_secs(1);
    let pool = locks.semaphore("pool", 2).ttl(ttl);
    let kept = pool.acquire().await?;
    // No task renews it: it is as a crashed holder's.
    let silent = pool.clone().renew_manually().acquire().await?;
    let waited = pool.acquire().await?;
    assert_eq!((silent.is_held(), kept.is_held(), waited.slot()), (false, true, Some(1)));
    assert!(waited.token() > silent.token());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_first_limit_is_the_store_s_and_an_exact_one_is_refused() -> Result<()> {
    let locks = Locks::memory();
    let first = taken(&locks.semaphore("pool", 2), 2).await?;
    let other = locks.semaphore("pool", 5);
    assert!(other.try_acquire().await?.is_none(), "the stored limit applies");
    let exact = other.clone().exact_limit();
    for refused in [exact.acquire().await.map(drop), exact.try_acquire().await.map(drop)] {
        let Err(Error::Rejected { what, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(what, "exactly 5 permits: the semaphore has 2");
    }
    assert_eq!(other.inspect().await?.waiters, Some(0), "what was refused has no place");
    drop(locks.semaphore("pool", 2).exact_limit().acquire_within(Duration::ZERO).await);
    assert_eq!(other.inspect().await?.permits, Some(2));
    for wrong in [0, 10_001] {
        let answer = locks.semaphore("pool", wrong).acquire().await;
        assert!(matches!(answer, Err(Error::Invalid { .. })), "{wrong}: {answer:?}");
    }
    drop(first);
    Ok(())
}

/// A deployment that rolls from 5 permits to 10, and back, while clients of both hold and wait.
#[tokio::test(start_paused = true)]
async fn a_rolling_deployment_goes_from_5_to_10_permits_and_back_while_it_is_in_use() -> Result<()>
{
    let locks = Locks::memory();
    let (old, new) = (locks.semaphore("pool", 5), locks.semaphore("pool", 10));
    let mut held = taken(&old, 5).await?;
    let waiting: Vec<_> = (0..7)
        .map(|_| Box::pin(new.acquire()))
        .map(|mut waits| (waits.as_mut().now_or_never().is_none(), waits))
        .collect();
    assert!(waiting.iter().all(|(waits, _)| *waits));
    assert_eq!(new.resize(10).await?, 5);
    let mut waiting = waiting.into_iter().map(|(_, waits)| waits);
    for granted in waiting.by_ref().take(5) {
        held.push(granted.await?);
    }
    let mut late: Vec<_> = waiting.collect();
    assert!(late.iter_mut().all(|waits| waits.now_or_never().is_none()), "ten hold, two wait");
    assert_eq!(slots(&held), (0..10).map(Some).collect::<Vec<_>>());
    assert_eq!(new.resize(5).await?, 10);
    assert!(held.iter().all(Guard::is_held), "a smaller limit takes no grant away");
    for left in (5..10).rev() {
        held.remove(0).release().await?;
        assert!(late.iter_mut().all(|waits| waits.now_or_never().is_none()), "{left} hold");
    }
    held.remove(0).release().await?;
    let next = late.remove(0).await?;
    assert_eq!(next.slot(), Some(0));
    assert!(held.iter().all(|other| other.slot() != next.slot()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lock_and_a_semaphore_of_one_name_never_meet() -> Result<()> {
    let locks = Locks::memory();
    let lock = locks.lock("pool").acquire().await?;
    let permits = taken(&locks.semaphore("pool", 2), 2).await?;
    assert!(locks.lock("pool").try_acquire().await?.is_none());
    let seen = locks.semaphore("pool", 2).inspect().await?;
    assert_eq!((seen.name.family(), seen.holders.len()), (Family::Semaphore, 2));
    assert_eq!(seen.holders[1].slot, Some(1));
    assert_eq!(locks.lock("pool").inspect().await?.holders.len(), 1);
    assert!(locks.semaphore("pool", 2).revoke(permits[1].token()).await?);
    permits[1].lost().await;
    assert!(lock.is_held() && permits[0].is_held());
    let names = |seen: Vec<lockkit_core::Inspection>| -> Vec<LockName> {
        seen.into_iter().map(|seen| seen.name).collect()
    };
    let (lock_name, semaphore) = (LockName::new("pool")?, LockName::semaphore("pool")?);
    assert_eq!(names(locks.list("po", None, 9).await?), [lock_name.clone(), semaphore.clone()]);
    assert_eq!(names(locks.list("po", Some(&lock_name), 9).await?), [semaphore]);
    for permit in permits {
        permit.release().await.ok();
    }
    lock.release().await?;
    assert_eq!(locks.forget("pool", Duration::ZERO).await?, 2);
    assert_eq!(taken(&locks.semaphore("pool", 1), 1).await?.len(), 1, "its limit is forgotten too");
    let error = locks.semaphore("pool", 0).acquire().await.expect_err("no permits");
    assert_eq!(
        error.to_string(),
        "invalid: a semaphore with 0 permits; give it 1 to 10000 permits"
    );
    Ok(())
}
