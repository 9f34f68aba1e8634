//! Ways to take a name on one Redis: lockkit's, its peers', and the least that any lock does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockkit_bench::{Store, Way};
use lockkit_core::{Guard, Locks, RequestId};
use lockkit_redis::{RedisConfig, RedisProvider};
use redis::aio::MultiplexedConnection;
use rlock::AcquireOptions;
use rlock::async_lock::RLock;
use rslock::LockManager;
use testbed::RedisServer;

const TTL: Duration = Duration::from_secs(30);
/// How long the floor waits, which has no queue.
const POLL: Duration = Duration::from_millis(5);

/// Deletes the key if it is still ours.
const DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end";
/// The scripts of lockkit's acquire and release.
const ACQUIRE: &str = concat!(
    include_str!("../../../lockkit-redis/src/lua/head.lua"),
    include_str!("../../../lockkit-redis/src/lua/acquire_fast.lua"),
    include_str!("../../../lockkit-redis/src/lua/prelude.lua"),
    include_str!("../../../lockkit-redis/src/lua/acquire.lua"),
);
const RELEASE: &str = concat!(
    include_str!("../../../lockkit-redis/src/lua/head.lua"),
    include_str!("../../../lockkit-redis/src/lua/release_fast.lua"),
    include_str!("../../../lockkit-redis/src/lua/prelude.lua"),
    include_str!("../../../lockkit-redis/src/lua/release.lua"),
);
/// Takes the name if it is free and nothing waits, else joins the queue. No part of it outlives a client that dies.
const ENTER: &str = "
if redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', 30000)
    return 1
end
redis.call('RPUSH', KEYS[2], ARGV[1])
return 0";
/// Grants to the first of the queue and wakes it, or frees the name.
const LEAVE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local next = redis.call('LPOP', KEYS[2])
if next then
    redis.call('SET', KEYS[1], next, 'PX', 30000)
    redis.call('RPUSH', 'wake:' .. next, '1')
else
    redis.call('DEL', KEYS[1])
end
return 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lockkit,
    /// The scripts of lockkit's acquire and release.
    Hand,
    /// `SET NX PX`, and a script that compares and deletes.
    Floor,
    /// A list in Lua, the grant in the release, a `BLPOP` to wake.
    Queue,
    /// With this pause in ms between two attempts; without one, with its own of up to 200 ms.
    Rslock(Option<u64>),
    /// With this pause in ms; its own is 100 ms.
    Rlock(u64),
}

/// A server, or the URL of one that another process has started.
pub(crate) struct Redis {
    server: Option<RedisServer>,
    url: String,
}

pub(crate) enum Task {
    Lockkit(Locks),
    /// With its scripts, and the client that its entries name.
    Hand(MultiplexedConnection, [redis::Script; 2], String),
    Floor(MultiplexedConnection),
    Queue(MultiplexedConnection, String),
    Rslock(LockManager),
    Rlock(Arc<RLock>, Duration),
}

pub(crate) enum Held {
    Lockkit(Guard),
    Id(String),
    Rslock(rslock::Lock),
    Rlock(rlock::async_lock::RLockGuard),
}

static IDS: AtomicU64 = AtomicU64::new(0);

/// An id that no other task of any process has.
fn id() -> String {
    format!("{}-{}", std::process::id(), IDS.fetch_add(1, Ordering::Relaxed))
}

impl Redis {
    pub(crate) fn start() -> Self {
        let server = RedisServer::start().unwrap();
        Self { url: server.url(), server: Some(server) }
    }

    async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        // A BLPOP takes as long as it takes.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }
}

impl Store for Redis {
    type Kind = Kind;
    type Task = Task;

    fn server(&self) -> String {
        let version = self.server.as_ref().map(|server| server.version().unwrap());
        format!("Redis {}, nothing persisted", version.unwrap_or_default())
    }

    fn address(&self) -> String {
        self.url.clone()
    }

    fn at(address: &str) -> Self {
        Self { server: None, url: address.to_owned() }
    }

    async fn tasks(&self, way: &Way<Kind>, count: usize) -> Vec<Task> {
        if way.kind == Kind::Lockkit {
            let clients = way.locks(count, || self.locks()).await;
            return clients.into_iter().map(Task::Lockkit).collect();
        }
        let mut tasks = Vec::new();
        let rlock = Arc::new(RLock::new(self.url.clone()).await.unwrap());
        for _ in 0..count {
            tasks.push(match way.kind {
                Kind::Hand => {
                    let scripts = [ACQUIRE, RELEASE].map(redis::Script::new);
                    let client = RequestId::random().unwrap().to_string()[..16].to_owned();
                    Task::Hand(self.connection().await, scripts, client)
                }
                Kind::Floor | Kind::Lockkit => Task::Floor(self.connection().await),
                Kind::Queue => Task::Queue(self.connection().await, id()),
                Kind::Rslock(poll) => {
                    let mut manager = LockManager::new(vec![self.url.clone()]);
                    if let Some(poll) = poll {
                        manager.set_retry(u32::MAX, Duration::from_millis(poll));
                    }
                    Task::Rslock(manager)
                }
                Kind::Rlock(poll) => Task::Rlock(Arc::clone(&rlock), Duration::from_millis(poll)),
            });
        }
        tasks
    }

    async fn locks(&self) -> Locks {
        let config = RedisConfig::from_url(&self.url).unwrap();
        Locks::new(RedisProvider::connect(config).await.unwrap())
    }

    fn pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(|server| server.pid())
    }
}

impl lockkit_bench::Task for Task {
    type Held = Held;

    async fn take(&mut self, name: &str) -> Held {
        match self {
            Self::Lockkit(locks) => {
                Held::Lockkit(locks.lock(name).ttl(TTL).acquire().await.unwrap())
            }
            Self::Hand(connection, [acquire, _], client) => {
                // As an entry of lockkit's: as long, and with an id of its own.
                let id = RequestId::random().unwrap();
                let entry = format!("{id}.{client}.30000.host/12345/redis-0123456789abcdef");
                let mut acquire = acquire.prepare_invoke();
                acquire.key(name).arg(&entry).arg("30000").arg("123456789012345");
                let token = acquire.invoke_async::<String>(connection).await.unwrap();
                Held::Id(format!("{entry}.{token}"))
            }
            Self::Floor(connection) => {
                let id = id();
                let mut set = redis::cmd("SET");
                set.arg(name).arg(&id).arg("NX").arg("PX").arg(30_000);
                while set.query_async::<Option<String>>(connection).await.unwrap().is_none() {
                    tokio::time::sleep(POLL).await;
                }
                Held::Id(id)
            }
            Self::Queue(connection, id) => {
                let script = redis::Script::new(ENTER);
                let mut enter = script.prepare_invoke();
                enter.key(name).key(format!("{name}:q")).arg(&*id);
                if enter.invoke_async::<u8>(connection).await.unwrap() == 0 {
                    let mut wait = redis::cmd("BLPOP");
                    wait.arg(format!("wake:{id}")).arg(0);
                    wait.query_async::<(String, String)>(connection).await.unwrap();
                }
                Held::Id(id.clone())
            }
            Self::Rslock(manager) => {
                Held::Rslock(manager.acquire_no_guard(name.as_bytes(), TTL).await.unwrap())
            }
            Self::Rlock(locks, poll) => {
                let options = AcquireOptions::builder().ttl(TTL).retry_interval(*poll);
                let options = options.build().unwrap();
                Held::Rlock(locks.acquire_mutex_with_options(name, options).await.unwrap())
            }
        }
    }

    async fn give(&mut self, name: &str, held: Held) {
        match (self, held) {
            (_, Held::Lockkit(guard)) => guard.release().await.unwrap(),
            (Self::Hand(connection, [_, release], _), Held::Id(value)) => {
                let mut release = release.prepare_invoke();
                release.key(name).arg(value).arg("");
                assert_eq!(release.invoke_async::<u8>(connection).await.unwrap(), 1);
            }
            (Self::Floor(connection), Held::Id(id)) => {
                let script = redis::Script::new(DELETE);
                script.key(name).arg(id).invoke_async::<Option<u8>>(connection).await.unwrap();
            }
            (Self::Queue(connection, _), Held::Id(id)) => {
                let script = redis::Script::new(LEAVE);
                let mut leave = script.prepare_invoke();
                leave.key(name).key(format!("{name}:q")).arg(id);
                leave.invoke_async::<u8>(connection).await.unwrap();
            }
            (Self::Rslock(manager), Held::Rslock(lock)) => manager.unlock(&lock).await,
            (_, Held::Rlock(mut guard)) => guard.release().await.unwrap(),
            _ => unreachable!("a task gives back what it took"),
        }
    }

    async fn close(self) {
        if let Self::Lockkit(locks) = self {
            drop(locks.close(Duration::from_secs(5)).await);
        }
    }
}
