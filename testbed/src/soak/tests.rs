//! That a soak passes on a right store, and not on a wrong one.

use lockkit_core::conformance::history::What;
use lockkit_core::{FencingToken, LockName, Memory};

use super::*;

const TTL: Duration = Duration::from_millis(300);
const TIME: Duration = Duration::from_millis(1_500);

/// A store in this process, whose operator revokes.
struct InProcess {
    /// The clients are spread over them.
    stores: Vec<Memory>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    Revocation,
}

#[async_trait]
impl Fixture for InProcess {
    type Fault = Fault;

    fn script(&self) -> Vec<Fault> {
        vec![Fault::Nothing, Fault::Revocation]
    }

    fn declared(&self, fault: Fault) -> Duration {
        match fault {
            Fault::Nothing => Duration::ZERO,
            Fault::Revocation => TTL,
        }
    }

    fn ttl(&self) -> Duration {
        TTL
    }

    async fn connect(&self, number: usize) -> lockkit_core::Result<Locks> {
        Ok(Locks::new(self.stores[number % self.stores.len()].clone()))
    }

    fn happens(&self, fault: Fault, holders: &Holders) -> Option<usize> {
        if matches!(fault, Fault::Nothing) {
            return None;
        }
        let held = holders.one();
        let lock = Locks::new(self.stores[0].clone()).lock(held.watch.name().as_str());
        let revoked = lock.revoke(held.watch.token());
        // It may have been released meanwhile.
        tokio::runtime::Handle::current().block_on(revoked).expect("an answer");
        Some(held.client)
    }

    async fn left(&self) -> Vec<String> {
        let seen = Locks::new(self.stores[0].clone()).list("", None, 10).await;
        seen.expect("a list").iter().map(|seen| seen.name.to_string()).collect()
    }
}

async fn run_on(stores: usize) {
    let stores = (0..stores).map(|_| Memory::new()).collect();
    run_for(Arc::new(InProcess { stores }), TIME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_keeps_its_promises_passes_a_soak() {
    run_on(1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "no such history of a lock")]
async fn two_stores_that_know_nothing_of_each_other_fail_a_soak() {
    run_on(2).await;
}

/// The second one is granted 5 ms before the first one's last belief, and the operator has ended a
/// grant of this client meanwhile, or of any, for which so much is declared.
fn judge(client: usize, may_end_any: bool, declared: Duration) -> usize {
    let at = |millis| Instant::from_origin(Duration::from_millis(millis));
    let name = LockName::new("a").expect("a name");
    let attempt = |client: usize, granted, until| {
        let mut attempt = turns::Attempt::new(client, name.clone(), client as u64, 0);
        let token = FencingToken::new(client as u64 + 1).expect("a token");
        attempt.saw_at(at(1), What::Asks(name.clone()));
        attempt.granted = Some((token, at(granted)));
        attempt.saw_at(at(granted), What::Granted(token));
        attempt.believed = Some(2);
        attempt.saw_at(at(until), What::Believes);
        attempt
    };
    let (began, ended, stopwatch) = (at(0), at(100), timing::start());
    let what = "a fault".to_owned();
    let happened =
        Happened { what, began, ended, client: Some(client), may_end_any, declared, stopwatch };
    verdict::check(vec![attempt(0, 10, 35), attempt(1, 30, 40)], &[happened])
}

#[test]
fn an_overlap_that_is_declared_is_none() {
    assert_eq!(judge(0, false, Duration::from_millis(5)), 2);
}

#[test]
fn an_overlap_of_any_client_is_declared_where_the_fault_may_end_any_grant() {
    assert_eq!(judge(1, true, Duration::from_millis(5)), 2);
}

#[test]
#[should_panic(expected = "two believed for 5ms, 4ms are declared")]
fn an_overlap_that_is_longer_than_declared_fails() {
    judge(0, false, Duration::from_millis(4));
}

#[test]
#[should_panic(expected = "believed at the same time, for 5ms")]
fn an_overlap_of_another_client_than_the_one_that_was_ended_fails() {
    judge(1, false, Duration::from_millis(5));
}
