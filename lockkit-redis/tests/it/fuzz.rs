//! Random clients of a server that restarts, over links that break, never believe two at once.

use lockkit_core::Result;
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::fuzz::{Fuzz, nothing_is_left};
use testbed::{Data, Link, RedisServer};

use crate::common::ms;

async fn connect(port: u16) -> Result<RedisProvider> {
    RedisProvider::connect(RedisConfig::tcp("127.0.0.1", port)).await
}

/// Has random clients work, half of them over a link that is cut again and again.
async fn fuzz(grants: usize) {
    let server = RedisServer::builder().appendonly().line("appendfsync always").start().unwrap();
    let link = Link::to_redis(server.address()).unwrap();
    let ports = [server.port(), link.port()];
    let fault = async |round| {
        tokio::time::sleep(ms(400)).await;
        link.reset().unwrap();
        if round % 10 == 9 {
            server.kill().unwrap();
            server.restart(Data::Kept).unwrap();
        }
    };
    let client = |number| connect(ports[usize::from(number % 2 == 0)]);
    let granted = Fuzz { grants, ..Fuzz::default() }.run(client, fault).await;
    assert!(granted >= grants, "{granted} grants");
    nothing_is_left(&connect(server.port()).await.unwrap(), ms(10_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_clients_never_believe_two_at_once() {
    fuzz(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn random_clients_never_believe_two_at_once_over_five_thousand_grants() {
    fuzz(5_000).await;
}
