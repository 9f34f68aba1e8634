//! One process: requests, replays, withdrawals, queues, tokens.

use std::fs;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::common::{knows_the_holder, provider, request, waits};
use lockkit_core::{
    Error, FencingToken, Grant, LockName, LockProvider, LossReason, StoreSays, WakeUp,
};
use lockkit_file::{FileConfig, FileProvider, LockedFile};
use testbed::timing::{gone, within};

const SECOND: Duration = Duration::from_secs(1);

async fn take(provider: &FileProvider, name: &str) -> Grant {
    provider.try_acquire(&request(name)).await.expect("an answer").expect("free")
}

async fn is_free(provider: &FileProvider, name: &str) -> bool {
    provider.try_acquire(&request(name)).await.expect("an answer").is_some()
}

#[tokio::test]
async fn two_providers_of_one_directory_exclude_each_other_and_tokens_grow_across_them() {
    let store = tempfile::tempdir().expect("a directory");
    let (one, other) = (provider(store.path()).await, provider(store.path()).await);
    let mut last = 0;
    for turn in 0..20 {
        let (holder, asker) = if turn % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let grant = take(holder, "a").await;
        assert!(grant.token.as_u64() > last);
        last = grant.token.as_u64();
        assert!(!is_free(asker, "a").await && !is_free(holder, "a").await);
        assert!(is_free(asker, "b").await);
        grant.lease.release().await.expect("released");
        grant.lease.release().await.expect("released twice");
    }
    #[cfg(target_os = "linux")]
    assert_eq!(one.guarantees().wake_up, WakeUp::Push);
}

#[tokio::test]
async fn a_replay_yields_the_same_grant_and_the_last_lease_of_it_frees_the_name() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let asked = request("a");
    let first = provider.acquire(&asked).await.expect("granted");
    let second = provider.acquire(&asked).await.expect("granted");
    let third = provider.try_acquire(&asked).await.expect("an answer").expect("its own");
    assert_eq!([first.token, second.token], [third.token; 2]);
    // Released by one of them, it is free although the others are still there.
    let again = provider.acquire(&asked).await.expect("granted");
    again.lease.release().await.expect("released");
    assert!(is_free(&provider, "a").await);
    drop((first, second, third, again));
    let first = provider.acquire(&asked).await.expect("granted");
    let second = provider.acquire(&asked).await.expect("granted");
    drop(first);
    assert!(!is_free(&provider, "a").await);
    assert!(second.lease.renew().await.expect("held").ttl.is_none());
    drop(second);
    assert!(is_free(&provider, "a").await);
}

#[tokio::test]
async fn attempts_of_one_id_share_one_place_and_one_grant() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let holder = take(&provider, "a").await;
    let asked = request("a");
    let (one, other) = (provider.acquire(&asked), provider.acquire(&asked));
    let waiting = async { tokio::join!(one, other) };
    let release = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(holder);
    };
    let ((one, other), ()) = tokio::join!(waiting, release);
    let (one, other) = (one.expect("granted"), other.expect("granted"));
    assert_eq!(one.token, other.token);
    provider.withdraw(&asked).await.expect("withdrawn");
    assert!(is_free(&provider, "a").await);
    assert_eq!(one.lease.lost().await, LossReason::Removed);
    assert!(matches!(other.lease.renew().await, Err(Error::Lost { .. })));
}

#[tokio::test]
async fn a_withdrawal_ends_a_waiting_attempt_and_harms_nobody_else() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let holder = take(&provider, "a").await;
    let (asked, next) = (request("a"), request("a"));
    let mut waiting = pin!(provider.acquire(&asked));
    let mut following = pin!(provider.acquire(&next));
    waits(&mut waiting, || knows_the_holder(&asked)).await;
    waits(&mut following, || knows_the_holder(&next)).await;
    let Some(StoreSays::Held(Some(said))) = next.last_word() else { panic!("no holder told") };
    assert_eq!(said.token, Some(holder.token));

    provider.withdraw(&asked).await.expect("withdrawn");
    provider.withdraw(&asked).await.expect("withdrawn again");
    assert!(matches!(waiting.await, Err(Error::Unavailable { .. })));
    assert!(holder.lease.renew().await.is_ok());
    drop(holder);
    let granted = within(SECOND, "the one behind it", following).await;
    drop(granted.expect("granted"));
}

/// For every number of polls: leave then, withdraw or not, and find nothing left.
#[tokio::test]
async fn an_attempt_dropped_after_any_number_of_polls_leaves_nothing() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    for withdraw in [false, true] {
        for polls in 0..12 {
            let asked = request("a");
            let mut finished = false;
            {
                let mut attempt = pin!(provider.acquire(&asked));
                for _ in 0..polls {
                    let mut context = Context::from_waker(Waker::noop());
                    if let Poll::Ready(grant) = attempt.as_mut().poll(&mut context) {
                        grant.expect("granted");
                        finished = true;
                        break;
                    }
                    tokio::time::sleep(Duration::from_micros(50)).await;
                }
            }
            if withdraw {
                provider.withdraw(&asked).await.expect("withdrawn");
            }
            assert!(is_free(&provider, "a").await, "{polls} polls, finished: {finished}");
        }
    }
}

#[tokio::test]
async fn waiters_of_one_process_are_granted_in_order_and_who_leaves_disturbs_nobody() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let holder = take(&provider, "a").await;
    let (sender, mut granted) = tokio::sync::mpsc::unbounded_channel();
    let mut waiters = Vec::new();
    for number in 0..12 {
        let (provider, sender, asked) = (provider.clone(), sender.clone(), request("a"));
        waiters.push(tokio::spawn(async move {
            let grant = provider.acquire(&asked).await.expect("granted");
            sender.send((number, grant.token)).expect("heard");
        }));
        tokio::task::yield_now().await;
    }
    // Among them the head and the last one.
    for left in [0, 5, 11] {
        waiters[left].abort();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop((holder, sender));
    let mut order = Vec::new();
    while let Some(granted) = within(SECOND, "the next grant", granted.recv()).await {
        order.push(granted);
    }
    let numbers: Vec<_> = order.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 6, 7, 8, 9, 10]);
    assert!(order.is_sorted_by(|(_, earlier), (_, later)| earlier < later));
}

#[tokio::test]
async fn a_waiter_is_granted_soon_while_another_provider_takes_the_name_over_and_over() {
    let store = tempfile::tempdir().expect("a directory");
    let (busy, waiting) = (provider(store.path()).await, provider(store.path()).await);
    let looping = tokio::spawn(async move {
        loop {
            let grant = busy.acquire(&request("a")).await.expect("granted");
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(grant);
        }
    });
    for _ in 0..5 {
        let asked = request("a");
        let grant = within(Duration::from_secs(10), "a grant", waiting.acquire(&asked)).await;
        grant.expect("granted");
    }
    looping.abort();
}

#[tokio::test]
async fn a_token_is_above_the_wall_clock_and_the_base_and_never_below_an_earlier_one() {
    let store = tempfile::tempdir().expect("a directory");
    let base = 1 << 60;
    let config = FileConfig::new(store.path()).token_base(base);
    let moved = FileProvider::connect(config).await.expect("a store");
    let high = take(&moved, "a").await.token;
    assert!(high.as_u64() > base);
    // The clock alone would now give less, as after a step back.
    let provider = provider(store.path()).await;
    let next = take(&provider, "a").await.token;
    assert_eq!(next.as_u64(), high.as_u64() + 1);
    // Neither does a removal of everything, as long as the process lives.
    fs::remove_file(store.path().join("a.lock")).expect("removed");
    fs::remove_dir_all(store.path().join(".lockkit")).expect("removed");
    assert_eq!(take(&provider, "a").await.token.as_u64(), high.as_u64() + 2);

    let config = FileConfig::new(store.path()).token_base(FencingToken::MAX.as_u64());
    let full = FileProvider::connect(config).await.expect("a store");
    let refused = full.try_acquire(&request("b")).await;
    assert!(matches!(refused, Err(Error::Rejected { .. })), "{refused:?}");
    assert!(is_free(&provider, "b").await);
}

#[tokio::test]
async fn an_operator_ends_a_grant_of_this_process_and_its_holder_is_told() {
    let store = tempfile::tempdir().expect("a directory");
    let (holder, other) = (provider(store.path()).await, provider(store.path()).await);
    let grant = take(&holder, "a/B").await;
    let operator = other.operator().expect("an operator");
    let name = LockName::new("a/B").expect("a name");
    let wrong = FencingToken::MIN;
    assert!(!operator.revoke(&name, wrong).await.expect("an answer"));
    assert!(operator.revoke(&name, grant.token).await.expect("an answer"));
    assert!(!operator.revoke(&name, grant.token).await.expect("an answer"));
    assert_eq!(grant.lease.lost().await, LossReason::Revoked);
    assert!(matches!(
        grant.lease.release().await,
        Err(Error::Lost { reason: LossReason::Revoked, .. })
    ));
    assert!(is_free(&other, "a/B").await);
}

#[tokio::test]
async fn a_list_is_sorted_by_name_and_starts_after_the_one_given() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let long = format!("z{}", "é".repeat(200));
    let mut grants = Vec::new();
    for name in ["b/2", "b/1", "A", "b", "c", &long] {
        grants.push(take(&provider, name).await);
    }
    drop(take(&provider, "b/free").await);
    let operator = provider.operator().expect("an operator");
    let names = async |prefix: &str, after: Option<&str>, limit| {
        let after = after.map(|after| LockName::new(after).expect("a name"));
        let seen = operator.list(prefix, after.as_ref(), limit).await.expect("an answer");
        seen.into_iter().map(|seen| seen.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("", None, 10).await, ["A", "b", "b/1", "b/2", "c", &long]);
    assert_eq!(names("b", Some("b"), 10).await, ["b/1", "b/2"]);
    assert_eq!(names("", Some("a"), 2).await, ["b", "b/1"]);
}

#[tokio::test]
async fn what_is_native_is_the_locked_file_and_does_not_keep_it_locked() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let grant = take(&provider, "a").await;
    let native = grant.lease.native().expect("plain data");
    drop(grant);
    assert!(is_free(&provider, "a").await);
    let file = native.downcast_ref::<LockedFile>().expect("a file");
    assert!(file.path.ends_with("a.lock"));
}

#[tokio::test]
async fn a_closed_provider_ends_its_waiters_and_grants_nothing_more() {
    let store = tempfile::tempdir().expect("a directory");
    let (closing, other) = (provider(store.path()).await, provider(store.path()).await);
    let grant = take(&closing, "a").await;
    let asked = request("a");
    let mut waiting = pin!(closing.acquire(&asked));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    closing.close().await.expect("closed");
    assert!(matches!(waiting.await, Err(Error::Closed)));
    assert!(matches!(closing.try_acquire(&request("b")).await, Err(Error::Closed)));
    assert_eq!(grant.lease.lost().await, LossReason::Closed);
    gone(SECOND, "a is held", async || is_free(&other, "a").await).await;
}
