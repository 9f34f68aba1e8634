//! Ways to take a name on one etcd.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, LockOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, WatchFilterType, WatchOptions, WatchStream,
};
use lockkit_bench::{Store, Way};
use lockkit_core::{Guard, Locks};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::EtcdServer;

const TTL: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lockkit,
    /// The transactions of lockkit's acquire and release.
    Hand,
    /// A leased key that is put if it is absent, and deleted.
    Floor,
    /// Leased keys below the name; who is not first watches the key before its own.
    Queue,
    /// The driver's `lock()` and `unlock()`, on a lease that stays.
    Driver,
}

/// A server, or the address of one that another process has started.
pub(crate) struct Etcd {
    server: Option<EtcdServer>,
    address: String,
}

pub(crate) enum Task {
    Lockkit(Locks),
    Bare(Box<Bare>),
}

/// A bare client, with its lease and the watch of the name that it waits for.
pub(crate) struct Bare {
    kind: Kind,
    client: Client,
    lease: i64,
    number: u64,
    watch: Option<WatchStream>,
}

pub(crate) enum Held {
    Lockkit(Guard),
    Key(Vec<u8>),
    Created(String, i64),
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl Etcd {
    pub(crate) fn start() -> Self {
        let server = EtcdServer::start().unwrap();
        Self { address: server.address().to_string(), server: Some(server) }
    }

    async fn bare(&self, kind: Kind) -> Bare {
        let client = Client::connect([format!("http://{}", self.address)], None).await.unwrap();
        let lease = client.lease_client().grant(600, None).await.unwrap().id();
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Bare { kind, client, lease, number, watch: None }
    }
}

impl Store for Etcd {
    type Kind = Kind;
    type Task = Task;

    fn server(&self) -> String {
        let version = self.server.as_ref().map(|server| server.version().unwrap());
        format!("etcd {}, one member, its data in memory", version.unwrap_or_default())
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn at(address: &str) -> Self {
        Self { server: None, address: address.to_owned() }
    }

    async fn tasks(&self, way: &Way<Kind>, count: usize) -> Vec<Task> {
        if way.kind == Kind::Lockkit {
            let clients = way.locks(count, || self.locks()).await;
            return clients.into_iter().map(Task::Lockkit).collect();
        }
        let mut tasks = Vec::new();
        for _ in 0..count {
            tasks.push(Task::Bare(Box::new(self.bare(way.kind).await)));
        }
        tasks
    }

    async fn locks(&self) -> Locks {
        let (host, port) = self.address.rsplit_once(':').unwrap();
        let config = EtcdConfig::new([(host, port.parse().unwrap())]);
        Locks::new(EtcdProvider::connect(config).await.unwrap())
    }

    fn pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(|server| server.pid())
    }
}

impl lockkit_bench::Task for Task {
    type Held = Held;

    async fn prepare(&mut self, name: &str) {
        let Self::Bare(bare) = self else { return };
        match bare.kind {
            Kind::Queue => {
                let options =
                    WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
                let directory = format!("{name}/");
                let mut watch = bare.client.watch(directory, Some(options)).await.unwrap();
                // Its answer: from now on nothing is missed.
                watch.message().await.unwrap();
                bare.watch = Some(watch);
            }
            Kind::Hand => drop(bare.client.put("%/cluster", "mark", None).await.unwrap()),
            _ => {}
        }
    }

    async fn take(&mut self, name: &str) -> Held {
        match self {
            Self::Lockkit(locks) => {
                Held::Lockkit(locks.lock(name).ttl(TTL).acquire().await.unwrap())
            }
            Self::Bare(bare) => bare.take(name).await,
        }
    }

    async fn give(&mut self, name: &str, held: Held) {
        match (self, held) {
            (_, Held::Lockkit(guard)) => guard.release().await.unwrap(),
            (Self::Bare(bare), Held::Key(key)) if bare.kind == Kind::Driver => {
                bare.client.unlock(key).await.unwrap();
            }
            (Self::Bare(bare), Held::Key(key)) => {
                bare.client.delete(key, None).await.unwrap();
            }
            (Self::Bare(bare), Held::Created(key, created)) => {
                let ours = Compare::create_revision(key.as_str(), CompareOp::Equal, created);
                let delete = Txn::new().when([ours]).and_then([TxnOp::delete(key, None)]);
                bare.client.txn(delete).await.unwrap();
            }
            (Self::Lockkit(_), _) => unreachable!("a guard of {name} is lockkit's"),
        }
    }

    async fn close(self) {
        match self {
            Self::Lockkit(locks) => drop(locks.close(Duration::from_secs(5)).await),
            Self::Bare(mut bare) => {
                bare.client.lease_revoke(bare.lease).await.unwrap();
            }
        }
    }
}

impl Bare {
    async fn take(&mut self, name: &str) -> Held {
        match self.kind {
            Kind::Floor => {
                let free = Compare::create_revision(name, CompareOp::Equal, 0);
                let put = TxnOp::put(name, "", Some(PutOptions::new().with_lease(self.lease)));
                let taken = self.client.txn(Txn::new().when([free]).and_then([put])).await;
                assert!(taken.unwrap().succeeded(), "the floor does not wait");
                Held::Key(name.into())
            }
            Kind::Driver => {
                let options = LockOptions::new().with_lease(self.lease);
                Held::Key(self.client.lock(name, Some(options)).await.unwrap().key().to_vec())
            }
            Kind::Queue => self.queue(name).await,
            Kind::Hand => self.by_hand(name).await,
            Kind::Lockkit => unreachable!("lockkit has a client of its own"),
        }
    }

    /// Waits until the key before this client's own is gone.
    async fn queue(&mut self, name: &str) -> Held {
        self.number += 1 << 32;
        let key = format!("{name}/{:x}-{}", self.lease, self.number).into_bytes();
        let options = PutOptions::new().with_lease(self.lease);
        let put = self.client.put(key.clone(), "", Some(options)).await.unwrap();
        let revision = put.header().unwrap().revision();
        loop {
            let order = GetOptions::new().with_prefix().with_keys_only();
            let order = order.with_sort(SortTarget::Create, SortOrder::Ascend);
            let order = order.with_max_create_revision(revision);
            let found = self.client.get(format!("{name}/"), Some(order)).await.unwrap();
            let keys: Vec<_> = found.kvs().iter().map(|kv| kv.key().to_vec()).collect();
            let before = keys.iter().rposition(|other| *other != key);
            let Some(before) = before else { return Held::Key(key) };
            self.gone(&keys[before]).await;
        }
    }

    async fn gone(&mut self, key: &[u8]) {
        let watch = self.watch.as_mut().unwrap();
        loop {
            let message = watch.message().await.unwrap().unwrap();
            let is_gone = message.events().iter().any(|event| {
                event.event_type() == EventType::Delete
                    && event.kv().is_some_and(|kv| kv.key() == key)
            });
            if is_gone {
                return;
            }
        }
    }

    /// What lockkit sends: three guards, its key, and a count of the queue.
    async fn by_hand(&mut self, name: &str) -> Held {
        let key = format!("{name}/{:x}-0", self.lease);
        let guards = [
            Compare::mod_revision(format!("%/{:x}/0", self.lease), CompareOp::Equal, 0),
            Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
            Compare::value("%/cluster", CompareOp::Equal, "mark"),
        ];
        let one = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
        let ops = [
            TxnOp::put(key.as_str(), "", Some(PutOptions::new().with_lease(self.lease))),
            TxnOp::get(format!("{name}/"), Some(one)),
        ];
        let answer = self.client.txn(Txn::new().when(guards).and_then(ops)).await.unwrap();
        assert!(answer.succeeded(), "a lease's only request");
        Held::Created(key, answer.header().unwrap().revision())
    }
}
