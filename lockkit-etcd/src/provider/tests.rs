//! What no caller can time from outside: the tests reach into the client between its steps.

use std::time::Duration;

use lockkit_core::{Clock, LockName};
use testbed::contenders::by;
use testbed::{Data, EtcdServer};
use tokio::task::JoinHandle;

use super::*;
use crate::queue::Position;
use crate::requests::{Entry, session_of};
use crate::session::Use;

const TTL: Duration = Duration::from_secs(15);
/// How long a noisy machine may take.
const SLACK: Duration = Duration::from_secs(2);

/// A server, and a client of it.
async fn connected() -> (EtcdServer, EtcdProvider) {
    let server = EtcdServer::start().expect("a server");
    let provider = client(&server).await;
    (server, provider)
}

async fn client(server: &EtcdServer) -> EtcdProvider {
    let config = EtcdConfig::new([("127.0.0.1", server.port())]);
    EtcdProvider::connect(config).await.expect("a client")
}

fn request(name: &str) -> Request {
    let name = LockName::new(name).expect("a name");
    Request::new(name, TTL, Clock::system()).expect("a request")
}

/// Has an operator delete all keys of a name.
fn delete(server: &EtcdServer, name: &str) {
    let range = format!("lockkit/{name}/");
    server.cli(&["del", "--prefix", &range]).expect("a deletion");
}

impl EtcdProvider {
    /// Takes a free name for this request, and makes no grant of it yet.
    async fn placed(&self, request: &Request) -> (Entry, Use, Position) {
        let entry = self.0.requests.enter(request);
        let session = self.0.session(request, &entry).await.expect("a session");
        let taken = self.0.take(request, &entry, &session).await.expect("an answer");
        let TakeOutcome::Taken(place) = taken else { panic!("{taken:?}") };
        (entry, session, place)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_goes_while_its_session_is_renewed_is_not_granted() {
    let (server, provider) = connected().await;
    for is_removed in [false, true] {
        let request = request("a");
        let (entry, session, place) = provider.placed(&request).await;
        let sent = request.clock().now();
        // As after trouble: the grant has to be renewed first.
        let long_ago = session.clock.now().saturating_sub(TTL * 2 / 3);
        session.state().acked = long_ago;
        if is_removed {
            delete(&server, "a");
        }
        let granted = grant(&provider.0, &entry, session.clone(), place, sent).await;
        let granted = granted.expect("an answer");
        assert!(session.state().acked > long_ago, "it was not renewed");
        assert_eq!(granted.is_none(), is_removed, "{granted:?}");
        provider.withdraw(&request).await.expect("a withdrawal");
    }
}

/// As if one more sending of the request's put had no answer: it may still come.
async fn lose_an_answer(provider: &EtcdProvider, request: &Request) {
    let entry = provider.0.requests.enter(request);
    let session = provider.0.session(request, &entry).await.expect("a session");
    let sending = provider.0.sending(&entry, &session).await.expect("an answer");
    drop(sending.expect("a sending"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_release_of_an_earlier_grant_leaves_a_later_one_of_the_same_request() {
    let (server, provider) = connected().await;
    for is_in_doubt in [false, true] {
        let request = request("a");
        let earlier = provider.try_acquire(&request).await.expect("an answer").expect("a grant");
        if is_in_doubt {
            lose_an_answer(&provider, &request).await;
        }
        delete(&server, "a");
        let later = provider.try_acquire(&request).await.expect("an answer").expect("a grant");
        assert!(later.token > earlier.token);
        let released = earlier.lease.release().await;
        assert!(matches!(released, Err(Error::Lost { .. })), "{released:?}");
        later.lease.renew().await.expect("it is still held");
        later.lease.release().await.expect("a release");
    }
    let left = server.cli(&["get", "--prefix", "--keys-only", "lockkit/a/"]).expect("the keys");
    assert_eq!(left.trim(), "", "it was not released");
}

/// No request joins the session of this one any more, as when a key on it may not be removed.
fn retire(provider: &EtcdProvider, request: &Request) {
    let record = provider.0.requests.find(request.id()).expect("its record");
    session_of(&record).expect("its session").retire();
}

/// The keys of a name, in the order of the queue.
fn queue(server: &EtcdServer, name: &str) -> Vec<String> {
    let range = format!("lockkit/{name}/");
    let keys = server.cli(&["get", "--prefix", "--keys-only", "--sort-by=CREATE", &range]);
    let keys = keys.expect("the keys");
    keys.lines().filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect()
}

/// Waits until so many keys are in the queue of a name.
async fn queued(server: &EtcdServer, name: &str, count: usize) -> Vec<String> {
    loop {
        let keys = queue(server, name);
        if keys.len() == count {
            return keys;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_finds_its_grant_on_a_session_that_no_request_joins_any_more() {
    let (_server, provider) = connected().await;
    let first = request("a");
    let granted = provider.try_acquire(&first).await.expect("an answer").expect("a grant");
    retire(&provider, &first);
    for _ in 0..2 {
        let again = provider.try_acquire(&first).await.expect("an answer").expect("the grant");
        assert_eq!(again.token, granted.token);
    }
    granted.lease.renew().await.expect("it is still held");
    // A new request has a session of its own.
    let (_, session, _) = provider.placed(&request("b")).await;
    assert!(!session.is_retired());
    granted.lease.release().await.expect("a release");
    // With the place on it the reason to stay there is gone.
    let (_, now, _) = provider.placed(&first).await;
    assert_eq!(now.lease, session.lease);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_its_place_in_the_queue_on_a_session_that_no_request_joins_any_more() {
    let (server, provider) = connected().await;
    let other = client(&server).await;
    let held = other.try_acquire(&request("a")).await.expect("an answer").expect("a grant");
    let request = request("a");
    let first = waits(&provider, &request);
    let before = queued(&server, "a", 2).await;
    retire(&provider, &request);
    first.abort();
    let again = waits(&provider, &request);
    let newcomer = waits(&other, &self::request("a"));
    let queue = queued(&server, "a", 3).await;
    assert_eq!(queue[..2], before, "the replay gave its place up");
    held.lease.release().await.expect("a release");
    let granted = again.await.expect("no panic").expect("the grant");
    assert!(!newcomer.is_finished());
    granted.lease.release().await.expect("a release");
    let granted = newcomer.await.expect("no panic").expect("a grant");
    granted.lease.release().await.expect("a release");
}

/// Waits for a name in a task.
fn waits(provider: &EtcdProvider, request: &Request) -> JoinHandle<Result<Grant>> {
    let (provider, request) = (provider.clone(), request.clone());
    tokio::spawn(async move { provider.acquire(&request).await })
}

/// Waits until so many requests stand in line at a name.
async fn in_line(provider: &EtcdProvider, name: &str, count: usize) {
    let name = LockName::new(name).expect("a name");
    let line = async {
        while provider.0.turns.in_line(&name) != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    by(SLACK, "the line", line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_not_sent_before_those_that_wait_for_a_turn() {
    const FEW: usize = 4;
    let (server, provider) = connected().await;
    // Crowds at other names have taken all turns.
    let turns = provider.0.turns.all().await;
    let mut first = Vec::new();
    for number in 1..=FEW {
        let request = request("a");
        first.push((waits(&provider, &request), request));
        queued(&server, "a", number).await;
    }
    let takes_a_turn = || {
        let waiting = waits(&provider, &request("a"));
        // At once: those that are on their way together may arrive in any order.
        tokio::spawn(async move { waiting.await.expect("no panic")?.lease.release().await })
    };
    let mut later = Vec::new();
    for number in 1..=3 {
        later.push(takes_a_turn());
        in_line(&provider, "a", number).await;
    }
    // No crowd is left, and still those that come wait behind those that came before.
    for (_, request) in first {
        provider.withdraw(&request).await.expect("a withdrawal");
    }
    later.push(takes_a_turn());
    in_line(&provider, "a", 4).await;
    let tries = tokio::spawn({
        let provider = provider.clone();
        async move {
            match provider.try_acquire(&request("a")).await? {
                Some(grant) => grant.lease.release().await,
                None => Ok(()),
            }
        }
    });
    in_line(&provider, "a", 5).await;
    assert!(queue(&server, "a").is_empty());
    drop(turns);
    for one in later.into_iter().chain([tries]) {
        one.await.expect("no panic").expect("its turn");
    }
    in_line(&provider, "a", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_crowd_stands_between_what_is_told_of_a_name_and_its_holder_or_waiter() {
    let (server, provider) = connected().await;
    let other = client(&server).await;
    let held = provider.try_acquire(&request("held")).await.expect("an answer").expect("a grant");
    let ahead = other.try_acquire(&request("a")).await.expect("an answer").expect("a grant");
    // Crowds at other names have taken all turns to enter.
    let _turns = provider.0.turns.all().await;
    let waiting = waits(&provider, &request("a"));
    queued(&server, "a", 2).await;
    ahead.lease.release().await.expect("a release");
    let granted = by(SLACK, "the waiter's grant", waiting).await.expect("no panic");
    granted.expect("a grant").lease.release().await.expect("a release");
    // What the watch tells of a key needs no reading of it, either.
    let _turns_to_read = provider.0.turns.all_to_read().await;
    let told = tokio::spawn(async move { held.lease.lost().await });
    while !provider.0.watch.has_an_unread_key() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    delete(&server, "held");
    by(SLACK, "the holder is told", told).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_close_could_not_end_is_ended_by_the_next_one() {
    let (server, provider) = connected().await;
    let held = [request("a"), request("b")];
    for request in &held {
        provider.try_acquire(request).await.expect("an answer").expect("a grant");
        // The next one is on a session of its own.
        retire(&provider, request);
    }
    server.kill().expect("the end of the server");
    for _ in 0..2 {
        let closed = provider.close().await;
        assert!(matches!(closed, Err(Error::Unavailable { .. })), "{closed:?}");
    }
    // One that is dropped halfway has ended nothing, either.
    let limit = Duration::ZERO;
    tokio::time::timeout(limit, provider.close()).await.expect_err("no answer yet");
    server.restart(Data::Kept).expect("a server");
    provider.close().await.expect("an end");
    let left = server.cli(&["lease", "list"]).expect("the leases");
    assert_eq!(left.trim(), "found 0 leases");
    provider.close().await.expect("nothing is left to end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_in_doubt_frees_the_name_also_where_no_room_is_left() {
    let server = EtcdServer::builder().argument("--quota-backend-bytes=1000000").start();
    let server = server.expect("a server");
    let (provider, other) = (client(&server).await, client(&server).await);
    let first = request("a");
    let granted = provider.try_acquire(&first).await.expect("an answer").expect("a grant");
    lose_an_answer(&provider, &first).await;
    let withdrawn = request("b");
    provider.try_acquire(&withdrawn).await.expect("an answer").expect("a grant");
    lose_an_answer(&provider, &withdrawn).await;
    let waiting = waits(&other, &request("a"));
    queued(&server, "a", 2).await;
    let filler = "x".repeat(100_000);
    while server.cli(&["put", "filler", &filler]).is_ok() {}
    granted.lease.release().await.expect("a release");
    drop(granted);
    let next = by(SLACK, "the waiter's grant", waiting).await.expect("no panic").expect("a grant");
    // A withdrawal frees its name, too, and is not done yet.
    let refused = provider.withdraw(&withdrawn).await;
    assert!(matches!(&refused, Err(Error::Rejected { .. })), "{refused:?}");
    assert!(queue(&server, "b").is_empty());
    next.lease.release().await.expect("a release");
    server.cli(&["del", "filler"]).expect("room");
    server.compact().expect("room");
    server.cli(&["defrag"]).expect("room");
    server.cli(&["alarm", "disarm"]).expect("room");
    // Now what may still come is refused, too.
    for request in [&first, &withdrawn] {
        provider.withdraw(request).await.expect("a withdrawal");
    }
    assert!(provider.0.requests.all().is_empty());
    let session = provider.placed(&request("a")).await.1;
    let guards = format!("lockkit/%/{:x}/", session.lease);
    let touched = server.cli(&["get", "--prefix", "--keys-only", &guards]).expect("the guards");
    assert_eq!(touched.lines().filter(|line| !line.is_empty()).count(), 2, "{touched}");
}
