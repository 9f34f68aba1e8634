//! Fences in ZooKeeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lockkit_fence::conformance::{Fixture, Resource};
use lockkit_fence::zookeeper::ZkFence;
use lockkit_fence::{Access, Error, Fencing, FencingToken, Result};
use testbed::{Data, ZkServer};
use zookeeper_client::{Acls, Client, CreateMode};

use crate::pauses::{self, Open};

pub(crate) struct Numbers {
    server: Arc<ZkServer>,
    client: Client,
    names: AtomicU64,
}

pub(crate) struct Number {
    server: Arc<ZkServer>,
    client: Client,
    path: String,
    fence: ZkFence,
}

async fn connected(server: &ZkServer) -> Client {
    Client::connect(&server.address().to_string()).await.expect("a session")
}

impl Numbers {
    pub(crate) async fn start() -> Self {
        let server = Arc::new(ZkServer::start().expect("ZooKeeper"));
        Self { client: connected(&server).await, server, names: AtomicU64::new(0) }
    }
}

impl Number {
    fn new(server: Arc<ZkServer>, client: Client, path: String) -> Self {
        let fence = ZkFence::new(client.clone(), &format!("{path}-fence")).expect("a path");
        Self { server, client, path, fence }
    }
}

impl Fixture for Numbers {
    type Resource = Number;

    async fn fresh(&self) -> Number {
        let path = format!("/number-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let client = connected(&self.server).await;
        let mode = CreateMode::Persistent.with_acls(Acls::anyone_all());
        client.create(&path, b"0", &mode).await.expect("a node");
        Number::new(Arc::clone(&self.server), client, path)
    }
}

impl Fencing for Number {
    async fn raise(&self, access: Access) -> Result<()> {
        self.fence.raise(access).await
    }

    async fn check(&self, access: Access) -> Result<()> {
        self.fence.check(access).await
    }

    fn is_durable(&self) -> bool {
        self.fence.is_durable()
    }
}

impl Resource for Number {
    async fn begin(&self, access: Access) -> Result<u64> {
        self.fence.raise(access).await?;
        Ok(self.peek().await)
    }

    async fn write(&self, access: Access, value: u64) -> Result<()> {
        let (path, data) = (&self.path, value.to_string());
        self.fence.write(access, |multi| multi.add_set_data(path, data.as_bytes(), None)).await
    }

    async fn restarted(self) -> Self {
        self.server.restart(Data::Kept).expect("a restart");
        let client = connected(&self.server).await;
        Self::new(self.server, client, self.path)
    }
}

impl Open for Number {
    async fn peek(&self) -> u64 {
        let (data, _) = self.client.get_data(&self.path).await.expect("the node");
        String::from_utf8_lossy(&data).parse().expect("a number")
    }

    async fn overwrite(&self, value: u64) {
        self.client
            .set_data(&self.path, value.to_string().as_bytes(), None)
            .await
            .expect("a write");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_in_zookeeper_passes_every_case_and_keeps_every_update() {
    pauses::holds(&Numbers::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn twenty_pauses_of_holders_lose_no_update_behind_a_fence_in_zookeeper() {
    pauses::keeps_updates(&Numbers::start().await, 2, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_refuses_with_a_clear_error_what_it_cannot_serve() {
    let numbers = Numbers::start().await;
    let token = |value| FencingToken::new(value).expect("a token");
    for path in ["", "fence", "/", "/fence/", "/a\0b"] {
        let error = ZkFence::new(numbers.client.clone(), path).expect_err(path);
        assert!(matches!(error, Error::Invalid { .. }), "{path:?}: {error}");
    }
    let orphan = ZkFence::new(numbers.client.clone(), "/none/fence").expect("a path");
    let error = orphan.raise(token(5)).await.expect_err("no node above");
    assert!(
        matches!(&error, Error::Invalid { .. }) && error.to_string().contains("is missing"),
        "{error}"
    );

    let number = numbers.fresh().await;
    let mode = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let fence = format!("{}-fence", number.path);
    number.client.create(&fence, b"something else", &mode).await.expect("a node");
    let error = number.write(token(5).into(), 7).await.expect_err("no fence");
    assert!(
        matches!(&error, Error::Invalid { .. }) && error.to_string().contains("holds no fence"),
        "{error}"
    );
    assert_eq!(number.peek().await, 0, "nothing is written");

    let number = numbers.fresh().await;
    number.write(token(1_800_000_000_000_000).into(), 7).await.expect("the first token");
    let error = number.write(token(41).into(), 8).await.expect_err("far below");
    assert!(error.to_string().contains("another store"), "{error}");
    // An operation that fails takes the raise back with it.
    let next = token(1_800_000_000_000_001);
    let error = number
        .fence
        .write(next, |multi| multi.add_set_data("/none", b"", None))
        .await
        .expect_err("no node");
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    assert_eq!(number.peek().await, 7);
    number.write(token(1_800_000_000_000_000).into(), 9).await.expect("the fence is as it was");
}
