//! What a program can log of its locks: the names and fields of the events are part of the API.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use crate::support::{Fault, Op, Remote};
use lockkit_core::{
    Clock, Error, FencingToken, Grant, Guarantees, Inspection, LockName, LockProvider, Locks,
    LossReason, Memory, Operator, Request, Result, StoreSays, async_trait,
};
use tokio::runtime::Builder;
use tracing::Level;

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(12);

/// The lines of what `work` logs, in virtual time.
fn logged(level: Level, work: impl Future<Output = ()>) -> Vec<String> {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // With one subscriber alone, tracing asks the thread that comes to an event first: another test's.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().finish());
    tracing::subscriber::with_default(subscriber, || {
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(work);
    });
    log.text().lines().map(str::to_owned).collect()
}

/// Where this event stands in the log, each time.
fn places(log: &[String], event: &str) -> Vec<usize> {
    let field = format!("event=\"{event}\"");
    (0..log.len()).filter(|line| log[*line].contains(&field)).collect()
}

/// The one line of this event, which has all of these parts.
fn once(log: &[String], event: &str, parts: &[&str]) -> usize {
    let [place] = places(log, event)[..] else { panic!("not one {event} in {log:#?}") };
    let line = &log[place];
    assert!(line.contains("lockkit: "), "another target: {line}");
    for part in parts {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    place
}

#[test]
fn a_semaphore_s_other_limit_is_told_once() {
    let log = logged(Level::WARN, async {
        let locks = Locks::memory();
        let first = locks.semaphore("pool", 2).acquire().await.unwrap();
        for _ in 0..3 {
            locks.semaphore("pool", 5).acquire().await.unwrap().release().await.unwrap();
        }
        first.release().await.unwrap();
    });
    once(&log, "limit_differs", &["WARN", "name=pool", "wished=5", "limit=2"]);
}

#[test]
fn a_lease_tells_its_grant_its_risk_its_recovery_and_its_release() {
    let log = logged(Level::TRACE, async {
        let remote = Remote::new();
        remote.fail_next(Op::Acquire, Fault::Refused);
        let guard = remote.locks().lock("a").ttl(TTL).acquire().await.unwrap();
        for _ in 0..3 {
            remote.fail_next(Op::Renew, Fault::LostRequest);
        }
        guard.at_risk().await;
        tokio::time::sleep(TTL / 4).await;
        guard.release().await.unwrap();
    });
    let failed = once(&log, "attempt_failed", &["DEBUG", "name=a", "request=", "error="]);
    let granted =
        once(&log, "granted", &["DEBUG", "name=a", "token=1", "ttl=Some(12s)", "request="]);
    let at_risk = once(&log, "at_risk", &["WARN", "name=a", "token=1"]);
    let renewed = once(&log, "renewed", &["TRACE", "name=a", "token=1"]);
    let recovered = once(&log, "recovered", &["INFO", "name=a", "token=1"]);
    let released = once(&log, "released", &["DEBUG", "name=a", "token=1"]);
    let order = [failed, granted, at_risk, renewed, recovered, released];
    assert!(order.is_sorted(), "{log:#?}");
    assert_eq!(places(&log, "renewal_failed").len(), 3, "{log:#?}");
    for other in ["lost", "release_refused", "ttl_adjusted", "clean_up_failed", "long_wait"] {
        assert!(places(&log, other).is_empty(), "{other} in {log:#?}");
    }
}

#[test]
fn a_loss_is_told_with_its_reason_and_the_release_that_comes_too_late_is_refused() {
    let log = logged(Level::DEBUG, async {
        let remote = Remote::new();
        let guard = remote.locks().lock("a").ttl(TTL).acquire().await.unwrap();
        remote.store().expire("a");
        assert_eq!(guard.lost().await, LossReason::Removed);
        tokio::time::sleep(SECOND).await;
    });
    let reason = format!("reason={}", LossReason::Removed);
    let lost = once(&log, "lost", &["WARN", "name=a", "token=1", &reason]);
    let refused = once(&log, "release_refused", &["DEBUG", "name=a", "token=1", "error="]);
    assert!(lost < refused, "{log:#?}");
    assert!(places(&log, "released").is_empty(), "{log:#?}");
}

#[test]
fn a_ttl_that_was_rounded_up_is_told_to_those_who_debug() {
    let log = logged(Level::DEBUG, async {
        let locks = Remote::new().locks();
        let wished = TTL + Duration::from_micros(300);
        locks.lock("a").ttl(wished).acquire().await.unwrap().release().await.unwrap();
    });
    once(&log, "ttl_adjusted", &["DEBUG", "name=a", "wished=12.0003s", "granted=12.001s"]);
}

#[test]
fn a_wait_longer_than_the_ttl_is_warned_of_once_with_the_holder() {
    let log = logged(Level::WARN, async {
        let store = Memory::new();
        let locks = Locks::builder().clock(Clock::tokio()).build(store.clone());
        let holder = Locks::builder().clock(Clock::tokio()).label("tortoise").build(store);
        let guard = holder.lock("a").ttl(SECOND).acquire().await.unwrap();
        let waiter = tokio::spawn(locks.lock("a").ttl(SECOND).acquire());
        tokio::time::sleep(10 * SECOND).await;
        assert!(guard.is_held());
        guard.release().await.unwrap();
        let _next = waiter.await.unwrap().unwrap();
    });
    let parts =
        ["name=a", "holder=\"tortoise\"", "holder_token=1", "holder_age=Some(1", "told_ago="];
    once(&log, "long_wait", &parts);
}

#[test]
fn a_wait_through_an_outage_is_warned_of_with_what_the_store_said() {
    let log = logged(Level::WARN, async {
        let remote = Remote::new();
        for _ in 0..4 {
            remote.fail_next(Op::Acquire, Fault::Refused);
        }
        let short = Duration::from_millis(50);
        let _guard = remote.locks().lock("a").ttl(short).acquire().await.unwrap();
    });
    once(&log, "long_wait", &["name=a", "error=", "refused"]);
}

/// How often the store was asked while a hundred wait for longer than their ttl, and at how many moments.
fn asked_by_a_hundred(level: Level, knows: bool) -> (Vec<String>, usize, usize) {
    let unnamed = Unnamed { store: Memory::new(), knows, asked: Arc::default() };
    let asked = Arc::clone(&unnamed.asked);
    let log = logged(level, async {
        let locks = Locks::builder().clock(Clock::tokio()).build(unnamed);
        let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
        let waiters: Vec<_> =
            (0..100).map(|_| tokio::spawn(locks.lock("a").ttl(TTL).acquire())).collect();
        tokio::time::sleep(3 * TTL).await;
        waiters.iter().for_each(tokio::task::JoinHandle::abort);
        guard.release().await.unwrap();
    });
    let mut asked = asked.lock().unwrap().clone();
    let times = asked.len();
    asked.dedup();
    (log, times, asked.len())
}

#[test]
fn a_warning_asks_the_store_for_the_holder_only_where_it_is_wanted_and_not_known() {
    let (log, asked, _) = asked_by_a_hundred(Level::ERROR, false);
    assert_eq!((places(&log, "long_wait").len(), asked), (0, 0), "no event, no call");
    let (log, asked, _) = asked_by_a_hundred(Level::WARN, true);
    assert_eq!((places(&log, "long_wait").len(), asked), (100, 0), "the waiters knew");
    assert!(log.iter().all(|line| line.contains("holder_token=1")), "{log:#?}");
}

#[test]
fn waiters_that_came_together_do_not_ask_for_their_warnings_together() {
    let (log, asked, moments) = asked_by_a_hundred(Level::WARN, false);
    assert_eq!((places(&log, "long_wait").len(), asked), (100, 100));
    assert!(log.iter().all(|line| line.contains("holder_token=1")), "{log:#?}");
    assert!(moments > 80, "100 waiters asked at {moments} moments");
}

#[test]
fn a_grant_that_comes_too_late_is_told_with_the_remedy() {
    let log = logged(Level::DEBUG, async {
        let remote = Remote::new();
        remote.fail_next(Op::Acquire, Fault::SlowReply(TTL));
        remote.locks().lock("a").ttl(TTL).acquire().await.unwrap().release().await.unwrap();
    });
    once(&log, "attempt_failed", &["name=a", "ttl of 12s is too short", "take a longer one"]);
}

/// A store that tells its waiters of the holder, or only that there is one, and counts what its operator is asked.
#[derive(Debug)]
struct Unnamed {
    store: Memory,
    knows: bool,
    asked: Arc<Mutex<Vec<tokio::time::Instant>>>,
}

#[async_trait]
impl LockProvider for Unnamed {
    fn guarantees(&self) -> Guarantees {
        self.store.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.store.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let mut call = self.store.acquire(request);
        let first = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        if !self.knows && first.is_pending() {
            request.report(StoreSays::Held(None));
        }
        match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => call.await,
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.store.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Operator for Unnamed {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        self.asked.lock().unwrap().push(tokio::time::Instant::now());
        self.store.operator().expect("memory has one").inspect(name).await
    }

    async fn list(&self, _: &str, _: Option<&LockName>, _: usize) -> Result<Vec<Inspection>> {
        Err(Error::rejected("a list", "ask for a name"))
    }

    async fn revoke(&self, _: &LockName, _: FencingToken) -> Result<bool> {
        Err(Error::rejected("an end", "release it"))
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
