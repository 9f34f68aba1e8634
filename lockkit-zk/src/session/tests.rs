//! What is read of a session while acked writes prove its life.

use std::sync::mpsc;
use std::thread;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);

/// A session without a task, proven at this instant.
fn session(proven: Instant) -> Arc<Session> {
    session_by(Clock::system(), proven)
}

fn session_by(clock: Clock, proven: Instant) -> Arc<Session> {
    let users = Arc::new(Users::new(clock.clone()));
    let life = Arc::new(Life {
        clock,
        link: watch::Sender::new(Link::Up),
        reopenings: watch::Sender::new(()),
        proof: watch::Sender::new(Proof::new(proven, TIMEOUT, TICK)),
        is_shortened: AtomicBool::new(false),
        is_early: AtomicBool::new(false),
        client: Mutex::new(None),
        refused: Mutex::default(),
        users,
    });
    let (cleaner, token_base) = (Mutex::new(None), Mutex::default());
    Arc::new(Session { cleaner, life, id: 1, token_base, doubts: Arc::default() })
}

#[test]
fn an_ack_that_is_overtaken_or_comes_twice_takes_nothing_back() {
    let start = Clock::system().now();
    let at = [1, 2].map(|seconds| start.saturating_add(Duration::from_secs(seconds)));
    for order in [[at[0], at[1]], [at[1], at[0]]] {
        let session = session(start);
        for sent in [order[0], order[1], order[0]] {
            session.proven(session.life.proof().make(sent));
        }
        let proof = session.life.proof();
        assert_eq!(proof.latest, at[1]);
        assert!(order[0] == at[1] || proof.is_whole());
    }
}

#[test]
fn two_heartbeats_that_a_stall_sends_together_count_as_one() {
    let clock = Clock::manual();
    let session = session_by(clock.clone(), clock.now());
    let whole = || session.life.proof().is_whole();
    // A silence that all before is older than.
    clock.advance(TICK * 4);
    let held_up = session.make();
    clock.advance(TICK);
    // Both may be sent only now, and be answered at once.
    let next = session.make();
    session.proven(held_up);
    session.proven(next);
    assert!(!whole(), "the follower may have told its leader of neither");
    clock.advance(TICK / 2);
    session.proven(session.make());
    assert!(!whole(), "a ping may be late");
    clock.advance(TICK / 16);
    session.proven(session.make());
    assert!(whole());
}

#[test]
fn a_reopening_whose_answer_is_read_late_counts_from_when_the_link_was_up() {
    let clock = Clock::manual();
    let start = clock.now();
    let at = |ticks: u32| start.saturating_add(TICK * ticks);
    let session = session_by(clock, start);
    let connector = crate::connect::Connector::new(crate::ZkConfig::new(["localhost"]).tick(TICK));
    let limits = Arc::new(Limits::new(Arc::new(connector), Clock::system()));
    let mut reopening = Reopening::new(limits, TIMEOUT, start);
    reopening.unchanged(at(1), zookeeper_client::SessionState::SyncConnected);
    reopening.unchanged(at(6), zookeeper_client::SessionState::Disconnected);
    reopening.reopened(&session.life);
    let mut proof = session.life.proof();
    proof.settle(TIMEOUT);
    let write = proof.make(at(7));
    proof.acked(write, at(7));
    assert!(!proof.is_whole());
    let (since, ttl) = proof.give();
    assert_eq!(since.saturating_add(ttl), at(1).saturating_add(TIMEOUT));
}

#[test]
fn readers_and_the_acks_between_them_never_wait_for_each_other() {
    const READERS: usize = 4;
    const ROUNDS: usize = 5_000;
    let clock = Clock::system();
    let session = session(clock.now());
    let (ended, ends) = mpsc::channel();
    for _ in 0..READERS {
        let (session, clock, ended) = (Arc::clone(&session), clock.clone(), ended.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.expect("a runtime").block_on(async {
                for _ in 0..ROUNDS {
                    session.whole_term(&clock).await.expect("it lives");
                }
            });
            // No thread listens once the test has failed.
            let _ = ended.send(());
        });
    }
    drop(ended);
    let acks = Arc::downgrade(&session);
    thread::spawn(move || {
        while let Some(session) = acks.upgrade() {
            session.proven(session.make());
        }
    });
    for _ in 0..READERS {
        ends.recv_timeout(Duration::from_secs(60)).expect("all of them wait for each other");
    }
}
