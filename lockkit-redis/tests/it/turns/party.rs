//! The clients of the tests of turns, and who waits there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{Clock, Error, FencingToken, Grant, LockName, LockProvider, Request, Result};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{Link, RedisServer};
use tokio::task::JoinHandle;

use crate::common::{by, ms};

/// Longer than any of these tests: nothing is freed by an expiry.
pub(crate) const TTL: Duration = Duration::from_secs(60);
/// A client and the link it speaks over; the first connection there is the one for commands.
pub(crate) struct Party {
    pub(crate) provider: Arc<RedisProvider>,
    pub(crate) link: Link,
}

impl Party {
    pub(crate) async fn new(server: &RedisServer) -> Self {
        let link = Link::to_redis(server.address()).unwrap();
        let config = RedisConfig::tcp("127.0.0.1", link.port());
        Self { provider: Arc::new(RedisProvider::connect(config).await.unwrap()), link }
    }

    /// A waiter that is in the queue by now, behind so many.
    pub(crate) async fn waiter(&self, name: &str, ttl: Duration, before: usize) -> Waiter {
        let request = request(name, ttl);
        let (provider, asked) = (Arc::clone(&self.provider), request.clone());
        let grant = tokio::spawn(async move { provider.acquire(&asked).await });
        let queued = async {
            while self.waiters(name).await != before + 1 {
                tokio::time::sleep(ms(2)).await;
            }
        };
        by(ms(5_000), "a waiter in the queue", queued).await;
        Waiter { request, grant }
    }

    pub(crate) async fn waiters(&self, name: &str) -> usize {
        let operator = self.provider.operator().unwrap();
        operator.inspect(&LockName::new(name).unwrap()).await.unwrap().waiters.unwrap()
    }

    /// Returns once nothing is under way any more.
    pub(crate) async fn idle(&self) {
        self.link.idle(ms(60)).await;
    }

    /// A holder of this party, and so many waiters behind it whom it knows of.
    pub(crate) async fn holder(
        &self,
        other: &Self,
        name: &str,
        ttl: Duration,
        waiters: usize,
    ) -> Standing {
        let first = other.provider.acquire(&request(name, ttl)).await.unwrap();
        let head = self.waiter(name, ttl, 0).await;
        let mut line = VecDeque::new();
        for n in 0..waiters {
            line.push_back(self.waiter(name, ttl, n + 1).await);
        }
        // Every waiter asks once more when the subscription is up.
        self.idle().await;
        first.lease.release().await.unwrap();
        let holder = head.granted(ms(2_000)).await;
        self.idle().await;
        Standing { holder, line }
    }

    /// One attempt: whether the name is free.
    pub(crate) async fn takes(&self, name: &str) -> Option<Grant> {
        self.provider.try_acquire(&request(name, TTL)).await.unwrap()
    }

    /// Waits for the name, which is to be free soon, and gives it back.
    pub(crate) async fn gets(&self, name: &str, limit: Duration) -> FencingToken {
        let request = request(name, TTL);
        let grant = by(limit, "the name for another", self.provider.acquire(&request)).await;
        let grant = grant.unwrap();
        grant.lease.release().await.unwrap();
        grant.token
    }
}

pub(crate) struct Standing {
    pub(crate) holder: Grant,
    pub(crate) line: VecDeque<Waiter>,
}

pub(crate) struct Waiter {
    pub(crate) request: Request,
    pub(crate) grant: JoinHandle<Result<Grant>>,
}

impl Waiter {
    pub(crate) async fn granted(self, limit: Duration) -> Grant {
        by(limit, "a waiter's grant", self.grant).await.unwrap().unwrap()
    }
}

pub(crate) fn request(name: &str, ttl: Duration) -> Request {
    Request::new(LockName::new(name).unwrap(), ttl, Clock::system()).unwrap()
}

/// Releases as the driver does: again and again until there is an answer.
pub(crate) fn release(grant: Grant) -> JoinHandle<Result<()>> {
    tokio::spawn(async move {
        loop {
            match grant.lease.release().await {
                Err(Error::Unavailable { .. }) => tokio::time::sleep(ms(10)).await,
                outcome => return outcome,
            }
        }
    })
}
