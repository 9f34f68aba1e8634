//! Holders that are paused until their lease has ended: what they write late is refused by the fence, and lost without one.

use std::time::Duration;

use futures_util::future::join_all;
use lockkit::Locks;
use lockkit_fence::conformance::{Fixture, Resource, failures};
use lockkit_fence::{Access, Error, Fencing, FencingToken};
use testbed::RedisServer;

/// In CI. The soak tests take more.
pub(crate) const FEW: usize = 2;

/// A resource whose number can be read and written past its fence.
pub(crate) trait Open: Resource {
    async fn peek(&self) -> u64;
    async fn overwrite(&self, value: u64);
}

/// Whether the holders of a run use the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Using {
    Fence,
    Nothing,
}

/// Locks of two stores.
async fn stores() -> (RedisServer, [Locks; 2]) {
    let server = RedisServer::start().expect("Redis");
    let mut both = Vec::new();
    for url in ["memory:".to_owned(), server.url()] {
        both.push(lockkit::connect(&url).await.expect("a store"));
    }
    (server, both.try_into().expect("two"))
}

/// How many acknowledged updates are missing after so many pauses of holders.
async fn lost_updates(
    locks: &Locks,
    name: &str,
    resource: &impl Open,
    using: Using,
    pauses: usize,
) -> u64 {
    let lock = locks.lock(name).ttl(Duration::from_millis(300)).renew_manually();
    let mut acknowledged = 0;
    for _ in 0..pauses {
        let paused = lock.acquire().await.expect("the lock");
        let seen = read(resource, Access::from(&paused), using).await;
        // The holder is paused here: its lease ends, and the next one is granted.
        let next =
            lock.acquire().await.expect("the lock, once the lease of the paused holder ended");
        let read = read(resource, Access::from(&next), using).await;
        acknowledged += write(resource, Access::from(&paused), seen + 1, using).await;
        // Its own lease may have ended too on a slow machine. A fence lets it write all the same: there is no newer holder.
        acknowledged += write(resource, Access::from(&next), read + 1, using).await;
        drop((paused, next));
    }
    acknowledged - resource.peek().await
}

async fn read(resource: &impl Open, access: Access, using: Using) -> u64 {
    match using {
        Using::Fence => resource.begin(access).await.expect("the newest holder reads"),
        Using::Nothing => resource.peek().await,
    }
}

/// How many updates were acknowledged.
async fn write(resource: &impl Open, access: Access, value: u64, using: Using) -> u64 {
    if using == Using::Nothing {
        resource.overwrite(value).await;
        return 1;
    }
    match resource.write(access, value).await {
        Ok(()) => 1,
        Err(Error::Stale(_)) => 0,
        Err(error) => panic!("{error}"),
    }
}

/// Passes every case, and keeps every update of holders that are paused, which are lost without it.
pub(crate) async fn holds<F: Fixture<Resource: Open>>(fixture: &F) {
    assert_eq!(failures(fixture).await, []);
    reads_after_raising(fixture).await;
    keeps_updates(fixture, 1, FEW).await;
}

/// With locks of two stores, the fence loses no update in so many pauses of each of so many resources, and the control without it loses one
/// in each pause.
pub(crate) async fn keeps_updates<F: Fixture<Resource: Open>>(
    fixture: &F,
    resources: usize,
    pauses: usize,
) {
    let (_server, stores) = stores().await;
    for locks in &stores {
        for (using, expected) in [(Using::Fence, 0), (Using::Nothing, pauses)] {
            let lost = (0..resources).map(async |number| {
                let name = format!("ledger {number} {using:?}");
                lost_updates(locks, &name, &fixture.fresh().await, using, pauses).await
            });
            let all = join_all(lost).await;
            let store = locks.guarantees().exclusion;
            let expected = vec![u64::try_from(expected).expect("few"); resources];
            assert_eq!(all, expected, "lost with {using:?}, and locks that rest on {store:?}");
        }
    }
}

/// A new holder that reads before it raises bases its write on what a stale one then changes; in the shipped order it does not.
pub(crate) async fn reads_after_raising<F: Fixture<Resource: Open>>(fixture: &F) {
    let [old, new] = [33, 34].map(|token| Access::from(FencingToken::new(token).expect("a token")));
    let mut lost = Vec::new();
    for reads_first in [true, false] {
        let resource = fixture.fresh().await;
        let seen = resource.begin(old).await.expect("the first holder");
        let early = if reads_first {
            resource.peek().await
        } else {
            resource.begin(new).await.expect("the newer")
        };
        let mut acknowledged = write(&resource, old, seen + 1, Using::Fence).await;
        if reads_first {
            resource.raise(new).await.expect("the newer");
        }
        acknowledged += write(&resource, new, early + 1, Using::Fence).await;
        lost.push(acknowledged - resource.peek().await);
    }
    assert_eq!(
        lost,
        [1, 0],
        "lost where the read comes first, and where the fence is raised first"
    );
}
