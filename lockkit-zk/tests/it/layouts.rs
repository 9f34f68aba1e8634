//! What clients of each layout so far have left in ZooKeeper, and a newer layout.

use lockkit_core::{Error, FencingToken, Locks};
use lockkit_zk::ZkProvider;
use testbed::ZkServer;
use testbed::contenders::queued;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::common::{SLACK, at, by, client, ms, provider, server, spectator};

/// The recorded clients' sessions, and the tokens of their nodes on this server.
struct Recorded {
    server: ZkServer,
    sessions: [Client; 2],
    tokens: Vec<u64>,
}

/// A server that holds the recording.
async fn recorded() -> Recorded {
    let server = server();
    let (holder, waiter) = (spectator(&server).await, spectator(&server).await);
    let mut tokens = Vec::new();
    let text = include_str!("../layouts/1.txt");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [path, data, session] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let (client, mode) = match session {
            "holder" => (&holder, CreateMode::Ephemeral),
            "waiter" => (&waiter, CreateMode::Ephemeral),
            _ => (&holder, CreateMode::Container),
        };
        let options = mode.with_acls(Acls::anyone_all());
        let (stat, _) = client.create(path, data.as_bytes(), &options).await.unwrap();
        if !session.is_empty() {
            tokens.push(stat.czxid.try_into().unwrap());
        }
    }
    Recorded { server, sessions: [holder, waiter], tokens }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_holder_and_waiter_go_first_and_later_tokens_are_greater() {
    let Recorded { server, sessions: [holder, waiter], tokens } = recorded().await;
    let locks = client(&server).await;
    let lock = locks.lock("held");
    assert!(lock.try_acquire().await.unwrap().is_none());
    let seen = lock.inspect().await.unwrap();
    assert_eq!((&*seen.holders[0].label, seen.waiters), ("recorded holder", Some(1)));
    assert_eq!(seen.holders[0].token.map(FencingToken::as_u64), Some(tokens[0]));
    let waiting = tokio::spawn(lock.acquire());
    queued(&lock, 2).await;
    drop(holder);
    by(SLACK, "the recorded waiter's turn", async {
        while &*lock.inspect().await.unwrap().holders[0].label != "recorded waiter" {
            tokio::time::sleep(ms(20)).await;
        }
    })
    .await;
    tokio::time::sleep(ms(300)).await;
    assert!(!waiting.is_finished(), "granted before the recorded waiter");
    drop(waiter);
    let next = by(SLACK, "a grant", waiting).await.unwrap().unwrap();
    assert!(next.token().as_u64() > tokens[1], "{}", next.token());
    next.release().await.unwrap();
    let next = locks.lock("released").try_acquire().await.unwrap().expect("free");
    assert!(next.token().as_u64() > tokens[1], "{}", next.token());
    next.release().await.unwrap();
    // The base that another client made stays as it is.
    let (data, _) = spectator(&server).await.get_data("/lockkit").await.unwrap();
    assert_eq!(data, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_is_refused_at_connect_and_another_base_is_not() {
    let recorded = recorded().await;
    let (server, admin) = (&recorded.server, &recorded.sessions[0]);
    admin.set_data("/lockkit", b"lockkit-layout 3\n", None).await.unwrap();
    let error = ZkProvider::connect(at(server.port())).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    let text = error.to_string();
    let says = ["holds layout 3, newer", "upgrade this program", "another base"];
    assert!(says.iter().all(|words| text.contains(words)), "{text}");
    for base in ["/other", "/app/our/locks"] {
        let other = Locks::new(provider(at(server.port()).base(base)).await);
        other.lock("held").acquire().await.unwrap().release().await.unwrap();
        let (data, _) = admin.get_data(base).await.unwrap();
        assert_eq!(data, b"lockkit-layout 2", "a base that we made");
        drop(provider(at(server.port()).base(base)).await);
    }
    // What others keep there says nothing of a layout.
    admin.set_data("/other", b"theirs", None).await.unwrap();
    drop(provider(at(server.port()).base("/other")).await);
    let (data, _) = admin.get_data("/other").await.unwrap();
    assert_eq!(data, b"theirs");
}
