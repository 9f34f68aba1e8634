//! A name that moves to another store: the tokens of a store that is new are greater than those of any other, and
//! those of a store that was used before are once its base was raised. The strategy "advisory" counts from a
//! number of its own: its page says how to move there.

use lockkit::{Fence, FencingToken, Stale, connect};
use testbed::{EtcdServer, PostgresServer, RedisServer, ZkServer};

/// The servers, and a directory.
struct Places {
    directory: tempfile::TempDir,
    redis: RedisServer,
    etcd: EtcdServer,
    zookeeper: ZkServer,
    postgres: PostgresServer,
}

const STORES: [&str; 5] = ["file", "redis", "etcd", "zookeeper", "table"];

impl Places {
    fn start() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            redis: RedisServer::start().unwrap(),
            etcd: EtcdServer::start().unwrap(),
            zookeeper: ZkServer::start().unwrap(),
            postgres: PostgresServer::start().unwrap(),
        }
    }

    /// A place of this number in a store, with this base of its tokens.
    fn url(&self, store: &str, place: usize, base: u64) -> String {
        let base = format!("token_base={base}");
        match store {
            "file" => format!("file:{}/{place}?{base}", self.directory.path().display()),
            "redis" => format!("{}?prefix=place{place}&{base}", self.redis.url()),
            "etcd" => format!("etcd://{}/place{place}?{base}", self.etcd.address()),
            "zookeeper" => {
                format!("zk://{}/place{place}?tick=500ms&{base}", self.zookeeper.address())
            }
            _ => format!("{}?schema=place{place}&{base}", self.postgres.url()),
        }
    }
}

/// Takes the name twice at this URL and raises the fence each time; the last token.
async fn work(url: &str, fence: &Fence) -> Result<FencingToken, Stale> {
    let locks = connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let mut last = None;
    for _ in 0..2 {
        let guard = locks.lock("invoice/7").acquire().await.unwrap();
        let raised = fence.raise(guard.token()).map(|()| guard.token());
        guard.release().await.unwrap();
        last = Some(raised);
    }
    locks.close(std::time::Duration::from_secs(5)).await.unwrap();
    last.expect("two rounds")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_moves_between_any_two_stores_and_back_with_tokens_that_grow() {
    let places = Places::start();
    let pairs = STORES.iter().flat_map(|from| STORES.iter().map(move |to| (*from, *to)));
    for (place, (from, to)) in pairs.enumerate() {
        // A place of the same store is another store too.
        let (there, back) = (100 + place, place);
        let fence = Fence::default();
        work(&places.url(from, place, 0), &fence).await.expect("the first store");
        let moved = work(&places.url(to, there, 0), &fence).await;
        let newest = moved.unwrap_or_else(|stale| panic!("{from} to {to}: {stale}")).as_u64();
        // Without a step the way back is refused, or goes by the store's own clock; never accepted with less.
        match work(&places.url(from, back, 0), &fence).await {
            Ok(token) => assert!(token.as_u64() > newest, "{from} to {to} and back: {token}"),
            Err(stale) => assert_eq!(stale.newest.as_u64(), newest, "{from} to {to} and back"),
        }
        let newest = fence.newest().expect("raised").as_u64();
        let returned = work(&places.url(from, back, newest), &fence).await;
        returned.unwrap_or_else(|stale| panic!("{from} to {to}, and back with the step: {stale}"));
    }
}
