//! What the tests on a real server share.

use std::io::Write;
use std::time::Duration;

use lockkit_core::{FencingToken, Guard, Locks};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::RedisServer;
pub(crate) use testbed::contenders::{by, queued, tokens, waiter};
use tokio::task::JoinHandle;

/// How long a noisy machine may take beyond a bound.
pub(crate) const SLACK: Duration = Duration::from_millis(700);

/// Says what was measured, also where the test passes: `println!` is shown only of one that fails.
pub(crate) fn report(measured: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{measured}").unwrap();
}

/// A client of its own at this port.
pub(crate) async fn join(port: u16) -> Locks {
    let config = RedisConfig::tcp("127.0.0.1", port);
    Locks::new(RedisProvider::connect(config).await.unwrap())
}

/// A client of its own.
pub(crate) async fn client(server: &RedisServer) -> Locks {
    join(server.port()).await
}

pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The tokens of waiters that may have lost their places, where each releases at once.
pub(crate) async fn tokens_in_any_order(
    waiters: Vec<JoinHandle<Guard>>,
    limit: Duration,
) -> Vec<FencingToken> {
    let all = waiters.into_iter().map(|waiter| async {
        let guard = waiter.await.unwrap();
        let token = guard.token();
        guard.release().await.unwrap();
        token
    });
    by(limit, "every waiter's grant", futures_util::future::join_all(all)).await
}
