//! Elections on a store that survives its servers: leaders that are killed and paused, and what all see of them.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lockkit::{Fence, FencingToken, Leadership, connect};
use testbed::children::{self, Child};
use testbed::{EtcdServer, ZkServer, timing};

use super::ms;

const TTL: Duration = ms(2_000);
/// By when an observer is to see a leader.
const SEEN_WITHIN: Duration = ms(400);
/// By when another leads: the ttl of one that is gone, what its store adds to that, and a start on a busy machine.
const NEXT: Duration = ms(20_000);

/// Begins the orders of a leader's helper that never asks whether it still leads.
const CARELESS: &str = "careless ";

#[derive(Clone, Copy)]
enum Trouble {
    Kill,
    Pause,
}

/// An order that a leader gave, and whether it was obeyed.
#[derive(Clone, Copy, Debug)]
struct Order {
    pid: u32,
    token: FencingToken,
    /// Given by a helper that never asks whether its leader still leads.
    is_careless: bool,
    is_obeyed: bool,
    at: Instant,
}

/// What takes the orders: one fence for all leaders.
#[derive(Default)]
struct Follower {
    fence: Fence,
    orders: Mutex<Vec<Order>>,
    is_over: AtomicBool,
}

impl Follower {
    fn orders(&self) -> Vec<Order> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the orders of a candidate until it ends.
    fn listen(self: &Arc<Self>, child: &Arc<Child>) {
        let (follower, child) = (Arc::clone(self), Arc::clone(child));
        std::thread::spawn(move || {
            while !follower.is_over.load(Ordering::Relaxed) {
                let Ok(line) = child.line(ms(100)) else { continue };
                let careless = line.strip_prefix(CARELESS);
                let is_careless = careless.is_some();
                let token = careless.unwrap_or(&line).parse().expect("a token");
                let mut orders = follower.orders.lock().unwrap_or_else(PoisonError::into_inner);
                let is_obeyed = follower.fence.raise(token).is_ok();
                let (pid, at) = (child.pid(), Instant::now());
                orders.push(Order { pid, token, is_careless, is_obeyed, at });
            }
        });
    }

    /// The newest leader that is obeyed, once its token is greater than this one.
    async fn leader_after(&self, token: Option<FencingToken>) -> (u32, FencingToken) {
        let leads = |order: &Order| order.is_obeyed && !order.is_careless;
        let newest = || self.orders().into_iter().rfind(leads);
        let is_newer = || newest().is_some_and(|order| Some(order.token) > token);
        timing::until(NEXT, "another leader", is_newer).await;
        let order = newest().expect("an order");
        (order.pid, order.token)
    }
}

/// In a child: stands for ever, and gives orders while it leads.
async fn stand() {
    let locks = connect(&std::env::var("URL").unwrap()).await.unwrap();
    let election = locks.election("office").candidate(process::id().to_string()).ttl(TTL);
    let ended = election.run(async |leadership: &Leadership| {
        let token = leadership.token();
        tokio::spawn(async move {
            loop {
                children::say(&format!("{CARELESS}{token}"));
                tokio::time::sleep(ms(50)).await;
            }
        });
        loop {
            children::say(&token.to_string());
            tokio::time::sleep(ms(10)).await;
        }
    });
    let ended: lockkit::Result<()> = ended.await;
    panic!("a candidate stands for ever: {ended:?}");
}

/// The leader is killed and paused twice each, by turns.
async fn leaders_are_killed_and_paused(test: &str, url: &str) {
    let follower = Arc::new(Follower::default());
    let start = || {
        let child = Arc::new(Child::test(test, "candidate").env("URL", url).start().unwrap());
        follower.listen(&child);
        child
    };
    let mut candidates: Vec<Arc<Child>> = (0..3).map(|_| start()).collect();
    let locks = connect(url).await.unwrap();
    let mut leaders = locks.election("office").seen_within(SEEN_WITHIN).observe();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Some(leader) = leaders.next().await {
                let leader = leader.unwrap();
                seen.lock().unwrap().push((leader.label, leader.token.unwrap()));
            }
        }
    });
    let mut led = follower.leader_after(None).await;
    for trouble in [Trouble::Kill, Trouble::Pause, Trouble::Kill, Trouble::Pause] {
        // Long enough to be seen.
        tokio::time::sleep(2 * SEEN_WITHIN).await;
        let place = candidates.iter().position(|child| child.pid() == led.0).expect("it stands");
        let gone = match trouble {
            Trouble::Kill => {
                let next = start();
                let gone = std::mem::replace(&mut candidates[place], next);
                gone.kill().unwrap();
                None
            }
            Trouble::Pause => {
                candidates[place].pause().unwrap();
                Some(Arc::clone(&candidates[place]))
            }
        };
        led = follower.leader_after(Some(led.1)).await;
        if let Some(paused) = gone {
            paused.resume().unwrap();
        }
    }
    tokio::time::sleep(2 * SEEN_WITHIN).await;
    follower.is_over.store(true, Ordering::Relaxed);
    observer.abort();
    let seen = seen.lock().unwrap().clone();
    check(&follower.orders(), &seen);
    drop(candidates);
}

/// One leader at a time was obeyed, and the observer saw each that led for long enough, in order.
fn check(orders: &[Order], seen: &[(String, FencingToken)]) {
    let obeyed: Vec<_> = orders.iter().filter(|order| order.is_obeyed).collect();
    let goes_back = obeyed.windows(2).find(|pair| pair[0].token > pair[1].token);
    assert!(goes_back.is_none(), "a leader was obeyed after another: {goes_back:?}");
    let mut terms: Vec<(u32, FencingToken, Instant, Instant)> = Vec::new();
    for order in obeyed.iter().filter(|order| !order.is_careless) {
        match terms.last_mut() {
            Some((pid, token, _, last)) if *token == order.token => {
                assert_eq!(*pid, order.pid, "two lead with token {token}");
                *last = order.at;
            }
            _ => terms.push((order.pid, order.token, order.at, order.at)),
        }
    }
    assert!(terms.len() >= 5, "four leaders were deposed: {terms:?}");
    let tokens: Vec<_> = seen.iter().map(|(_, token)| *token).collect();
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "seen out of order: {seen:?}");
    for (pid, token, first, last) in &terms {
        let is_seen = seen.contains(&(pid.to_string(), *token));
        assert!(is_seen || *last - *first < SEEN_WITHIN, "{token} was not seen: {seen:?}");
    }
    let refused = orders.len() - obeyed.len();
    assert!(refused > 0, "those that were paused gave no order too late");
    println!("{} leaders, {} orders obeyed, {refused} refused", terms.len(), obeyed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_leaders_are_obeyed_on_three_members_of_etcd() {
    if children::role().is_some() {
        return stand().await;
    }
    let cluster = EtcdServer::builder().start_cluster(3).unwrap();
    let members: Vec<_> = cluster.addresses().iter().map(ToString::to_string).collect();
    let test = "stores::elections::no_two_leaders_are_obeyed_on_three_members_of_etcd";
    let url = format!("etcd://{}/elections", members.join(","));
    leaders_are_killed_and_paused(test, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_leaders_are_obeyed_on_three_members_of_zookeeper() {
    if children::role().is_some() {
        return stand().await;
    }
    let ensemble = ZkServer::builder().tick(ms(500)).start_ensemble(3).unwrap();
    let members: Vec<_> = ensemble.addresses().iter().map(ToString::to_string).collect();
    let test = "stores::elections::no_two_leaders_are_obeyed_on_three_members_of_zookeeper";
    let url = format!("zk://{}/elections?tick=500ms", members.join(","));
    leaders_are_killed_and_paused(test, &url).await;
}
