//! Fences in etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{Client, TxnOp};
use lockkit_fence::conformance::{Fixture, Resource};
use lockkit_fence::etcd::EtcdFence;
use lockkit_fence::{Access, Error, Fencing, FencingToken, Result};
use testbed::{Data, EtcdServer};

use crate::pauses::{self, Open};

pub(crate) struct Numbers {
    server: Arc<EtcdServer>,
    names: AtomicU64,
}

pub(crate) struct Number {
    server: Arc<EtcdServer>,
    client: Client,
    key: String,
    fence: EtcdFence,
}

impl Number {
    async fn connect(server: Arc<EtcdServer>, key: String) -> Self {
        let client = Client::connect([server.address().to_string()], None).await.expect("a client");
        let fence = EtcdFence::new(client.clone(), &format!("{key}/fence")).expect("a key");
        Self { server, client, key, fence }
    }

    fn put(&self, value: u64) -> TxnOp {
        TxnOp::put(&*self.key, value.to_string(), None)
    }
}

impl Numbers {
    pub(crate) fn start() -> Self {
        Self { server: Arc::new(EtcdServer::start().expect("etcd")), names: AtomicU64::new(0) }
    }
}

impl Fixture for Numbers {
    type Resource = Number;

    async fn fresh(&self) -> Number {
        let key = format!("number/{}", self.names.fetch_add(1, Ordering::Relaxed));
        Number::connect(Arc::clone(&self.server), key).await
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
        self.fence.write(access, vec![self.put(value)]).await
    }

    async fn restarted(self) -> Self {
        self.server.restart(Data::Kept).expect("a restart");
        Self::connect(self.server, self.key).await
    }
}

impl Open for Number {
    async fn peek(&self) -> u64 {
        let found = self.client.kv_client().get(&*self.key, None).await.expect("an answer");
        found
            .kvs()
            .first()
            .map_or(0, |pair| pair.value_str().expect("text").parse().expect("a number"))
    }

    async fn overwrite(&self, value: u64) {
        self.client.kv_client().put(&*self.key, value.to_string(), None).await.expect("a write");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_in_etcd_passes_every_case_and_keeps_every_update() {
    pauses::holds(&Numbers::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn twenty_pauses_of_holders_lose_no_update_behind_a_fence_in_etcd() {
    pauses::keeps_updates(&Numbers::start(), 2, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_refuses_with_a_clear_error_what_it_cannot_serve() {
    let numbers = Numbers::start();
    let number = numbers.fresh().await;
    let token = |value| FencingToken::new(value).expect("a token");
    for name in ["", "a\0b", &"x".repeat(256)] {
        let error = EtcdFence::new(number.client.clone(), name).expect_err(name);
        assert!(matches!(error, Error::Invalid { .. }), "{name:?}: {error}");
    }
    let kv = number.client.kv_client();
    kv.clone().put(format!("{}/fence", number.key), "something else", None).await.expect("a write");
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
    assert_eq!(number.peek().await, 7);
}
