//! Ways to take a name on one ZooKeeper.

use std::time::Duration;

use lockkit_bench::{Store, Way};
use lockkit_core::{Guard, Locks};
use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::ZkServer;
use zookeeper_client::{Acls, Client, CreateMode, LockOptions, LockPrefix};

const TTL: Duration = Duration::from_secs(30);
const SESSION: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lockkit,
    /// An ephemeral sequential node, a list of the nodes, a watch on the node before, a deletion.
    Queue,
    /// The driver's recipe, its deletion awaited.
    Driver,
}

/// A server, or the address of one that another process has started.
pub(crate) struct ZooKeeper {
    server: Option<ZkServer>,
    address: String,
}

pub(crate) enum Task {
    Lockkit(Locks),
    Bare(Client, Kind),
}

pub(crate) enum Held {
    Lockkit(Guard),
    Node(String),
}

impl ZooKeeper {
    pub(crate) fn start() -> Self {
        let server = ZkServer::builder().line("maxClientCnxns=0").start().unwrap();
        Self { address: server.address().to_string(), server: Some(server) }
    }
}

impl Store for ZooKeeper {
    type Kind = Kind;
    type Task = Task;

    fn server(&self) -> String {
        let version = self.server.as_ref().map(|server| server.version().unwrap());
        format!("ZooKeeper {}, one server, its data in memory", version.unwrap_or_default())
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
            let connector = Client::connector().with_session_timeout(SESSION);
            let client = connector.connect(&self.address).await.unwrap();
            tasks.push(Task::Bare(client, way.kind));
        }
        tasks
    }

    async fn locks(&self) -> Locks {
        let config = ZkConfig::new([self.address.as_str()]);
        Locks::new(ZkProvider::connect(config).await.unwrap())
    }

    fn pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(|server| server.pid())
    }
}

impl lockkit_bench::Task for Task {
    type Held = Held;

    async fn prepare(&mut self, name: &str) {
        if let Self::Bare(client, _) = self {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            client.mkdir(&format!("/floor/{name}"), &options).await.unwrap();
        }
    }

    async fn take(&mut self, name: &str) -> Held {
        match self {
            Self::Lockkit(locks) => {
                Held::Lockkit(locks.lock(name).ttl(TTL).acquire().await.unwrap())
            }
            Self::Bare(client, Kind::Driver) => {
                let directory = format!("/floor/{name}/");
                let prefix = LockPrefix::new_curator(&directory, "lock-").unwrap();
                let options = LockOptions::new(Acls::anyone_all());
                let held = client.lock(prefix, b"", options).await.unwrap();
                let path = held.lock_path().to_owned();
                // It is deleted by the bench, which waits for that.
                std::mem::forget(held);
                Held::Node(path)
            }
            Self::Bare(client, _) => queue(client, &format!("/floor/{name}")).await,
        }
    }

    async fn give(&mut self, name: &str, held: Held) {
        match (self, held) {
            (_, Held::Lockkit(guard)) => guard.release().await.unwrap(),
            (Self::Bare(client, _), Held::Node(path)) => client.delete(&path, None).await.unwrap(),
            (Self::Lockkit(_), Held::Node(_)) => unreachable!("a guard of {name} is lockkit's"),
        }
    }

    async fn close(self) {
        if let Self::Lockkit(locks) = self {
            drop(locks.close(Duration::from_secs(5)).await);
        }
    }
}

/// Waits until no node is before this client's own.
async fn queue(client: &Client, parent: &str) -> Held {
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = client.create(&format!("{parent}/n-"), b"", &options).await.unwrap();
    let own = format!("n-{sequence}");
    loop {
        let mut nodes = client.list_children(parent).await.unwrap();
        nodes.retain(|node| *node < own);
        nodes.sort_unstable();
        let Some(before) = nodes.pop() else { return Held::Node(format!("{parent}/{own}")) };
        let (stat, watch) =
            client.check_and_watch_stat(&format!("{parent}/{before}")).await.unwrap();
        if stat.is_some() {
            watch.changed().await;
        }
    }
}
