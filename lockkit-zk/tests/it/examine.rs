//! What a client finds amiss with its servers, their settings and its own rights.

use std::sync::Arc;
use std::time::Duration;

use crate::common::session::BACK;
use crate::common::{SLACK, TICK, at, by, ms, provider, server, spectator, three};
use lockkit_core::{Applied, Error, LockProvider, Locks, Severity};
use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::findings::{amiss, examined, only};
use testbed::{Data, Fault, Link, Way, ZkServer, timing};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

/// The limits of an examination: of what a session shows.
const LIMIT: Duration = ms(2_000);

async fn create(client: &Client, path: &str, data: &str, acls: Acls<'_>) {
    client.create(path, data.as_bytes(), &CreateMode::Persistent.with_acls(acls)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_server_has_nothing_amiss_and_is_told_to_stand_alone() {
    let server = server();
    let ours = provider(at(server.port())).await;
    // Before the first lock, while one is held, and after it.
    only(&examined(&ours).await, Severity::Note, &["stands alone", "three"]);
    let locks = Locks::new(Arc::clone(&ours));
    let guard = locks.lock("a").acquire().await.unwrap();
    only(&examined(&ours).await, Severity::Note, &["stands alone"]);
    guard.release().await.unwrap();
    only(&examined(&ours).await, Severity::Note, &["stands alone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_has_nothing_amiss_until_a_member_is_cut_off_or_down() {
    let ensemble = three();
    let addresses = ensemble.addresses();
    let config = ZkConfig::new(addresses.iter().map(ToString::to_string)).tick(TICK);
    let ours = provider(config).await;
    assert!(examined(&ours).await.is_empty());
    let follower = ensemble.follower().unwrap();
    let away = addresses[follower].to_string();
    ensemble.isolate(follower);
    soon(&ours, &["warning: ", &away, "serves no client", "the network between them"]).await;
    ensemble.heal().unwrap();
    soon(&ours, &[]).await;
    ensemble.member(follower).kill().unwrap();
    soon(&ours, &["warning: ", &away, "no connection", "start the server"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_even_number_of_members_is_a_note() {
    let builder = ZkServer::builder().tick(TICK).line("maxClientCnxns=0");
    let ensemble = builder.start_ensemble(2).unwrap();
    let addresses = ensemble.addresses();
    let ours = provider(ZkConfig::new(addresses.iter().map(ToString::to_string)).tick(TICK)).await;
    only(&examined(&ours).await, Severity::Note, &["2 members vote", "odd number"]);
}

#[tokio::test]
async fn a_silent_link_ends_an_examination_within_its_limit() {
    let server = server();
    let link = Link::to(server.address()).unwrap();
    let ours = provider(at(link.port())).await;
    link.fault(Way::Both, Fault::Blackhole);
    let error = by(LIMIT + SLACK, "an answer", ours.examine()).await.map(drop).unwrap_err();
    println!("{error}");
    assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error:?}");
    assert!(error.to_string().contains(&link.port().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_and_limits_that_differ_are_found_as_they_are_when_connecting() {
    let server = ZkServer::builder().tick(TICK * 2).start().unwrap();
    let ours = provider(at(server.port())).await;
    only(&amiss(&ours).await, Severity::Danger, &["is 2s", "of 500ms", "too late", "set `tick`"]);
    let longer = provider(at(server.port()).tick(TICK * 4)).await;
    only(&amiss(&longer).await, Severity::Warning, &["set `tick`"]);
    // Two servers that are no ensemble, of which one grants less.
    let servers = [(); 2].map(|()| crate::common::server());
    servers[1].set_line("maxSessionTimeout=5000");
    servers[1].restart(Data::Kept).unwrap();
    let addresses = servers.iter().map(|server| server.address().to_string());
    let ours = provider(ZkConfig::new(addresses).tick(TICK)).await;
    let found = amiss(&ours).await;
    only(&found[..1], Severity::Danger, &["stands alone", "one ensemble only"]);
    only(&found[1..2], Severity::Danger, &["stands alone", "one ensemble only"]);
    only(&found[2..], Severity::Warning, &["maxSessionTimeout", "5s", "40s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_connections_left_are_found_and_none_left_too() {
    let server = ZkServer::builder().tick(TICK).line("maxClientCnxns=6").start().unwrap();
    let ours = provider(at(server.port())).await;
    soon(&ours, &[]).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(spectator(&server).await);
    }
    soon(&ours, &["warning: ", "4 of the 6 connections", "raise maxClientCnxns"]).await;
    for _ in 0..2 {
        others.push(spectator(&server).await);
    }
    soon(&ours, &["danger: ", "closes each new connection", "raise maxClientCnxns"]).await;
}

/// Waits until one finding with these words, or without words nothing, is amiss: connections of an examination
/// before may be on their way out, the session on its way back, or a leader being elected.
async fn soon(provider: &ZkProvider, words: &[&str]) {
    let began = timing::start();
    loop {
        let outcome = provider.examine().await;
        if let Ok(found) = &outcome {
            let found = found.iter().filter(|finding| finding.severity >= Severity::Warning);
            let found: Vec<_> = found.map(ToString::to_string).collect();
            let are_there = |text: &String| words.iter().all(|word| text.contains(word));
            if found.len() == words.len().min(1) && found.iter().all(are_there) {
                return;
            }
        }
        testbed::in_time!(began, began.elapsed() < BACK, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_nearly_used_up_is_found_before_locks_are_refused() {
    let server = ZkServer::builder().tick(TICK).property("zookeeper.enforceQuota", "true");
    let server = server.start().unwrap();
    let admin = spectator(&server).await;
    let ours = provider(at(server.port()).base("/app/locks")).await;
    let locks = Locks::new(Arc::clone(&ours));
    let lock = |name: &str| locks.lock(name).ttl(ms(2_000));
    let first = lock("a").acquire().await.unwrap();
    let quota = "/zookeeper/quota/app";
    create(&admin, quota, "", Acls::anyone_all()).await;
    let limits = "count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=40";
    create(&admin, &format!("{quota}/zookeeper_limits"), limits, Acls::anyone_all()).await;
    // The server counts from these on: /app, locks, its tokens, the name and the lock.
    let stats = format!("{quota}/zookeeper_stats");
    create(&admin, &stats, "count=5,bytes=100", Acls::anyone_all()).await;
    assert!(amiss(&ours).await.is_empty());
    let mut guards = vec![first];
    while guards.len() < 17 {
        guards.push(lock(&format!("b{}", guards.len())).acquire().await.unwrap());
    }
    only(&amiss(&ours).await, Severity::Warning, &["/app", "37 of the 40 nodes", "setquota"]);
    guards.push(lock("c").acquire().await.unwrap());
    let refused = loop {
        match lock(&format!("d{}", guards.len())).acquire().await {
            Ok(guard) => guards.push(guard),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Rejected { .. }), "{refused:?}");
    only(&amiss(&ours).await, Severity::Danger, &["/app", "40 of the 40 nodes", "refuse locks"]);
    // One that only warns.
    admin.set_data(&format!("{quota}/zookeeper_limits"), b"count=5,bytes=-1", None).await.unwrap();
    let told = examined(&ours).await;
    assert!(told.iter().all(|finding| finding.severity == Severity::Note), "{told:?}");
    assert!(told.iter().any(|finding| finding.what.contains("of the 5 nodes")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_were_taken_away_are_found() {
    let server = server();
    let admin = spectator(&server).await;
    admin.auth("digest", b"admin:secret").await.unwrap();
    let ours = provider(at(server.port()).digest("app", "app's own")).await;
    let admins = || Acl::new(Permission::ALL, AuthId::authed());
    let with = |permission| [admins(), Acl::new(permission, AuthId::anyone())];
    create(&admin, "/lockkit", "", Acls::new(&with(Permission::READ | Permission::CREATE))).await;
    assert!(amiss(&ours).await.is_empty());
    admin.set_acl("/lockkit", &with(Permission::READ), None).await.unwrap();
    only(&amiss(&ours).await, Severity::Danger, &["may not create nodes below /lockkit", "cdrwa"]);
    let error = Locks::new(Arc::clone(&ours)).lock("a").acquire().await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    // The owner of the base may.
    let login = provider(at(server.port()).digest("admin", "secret")).await;
    assert!(amiss(&login).await.is_empty());
    // To read it is what connecting asks for.
    admin.set_acl("/lockkit", &[admins()], None).await.unwrap();
    only(&amiss(&ours).await, Severity::Danger, &["reading /lockkit: not authorized", "cdrwa"]);
    assert!(ZkProvider::connect(at(server.port())).await.is_err());
    // A base that is not there, below a node of another's.
    create(&admin, "/private", "", Acls::new(&with(Permission::READ))).await;
    let ours = provider(at(server.port()).base("/private/locks")).await;
    let words = ["/private/locks is not there", "nodes below /private;"];
    only(&amiss(&ours).await, Severity::Danger, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_of_another_layout_or_with_a_damaged_token_is_found() {
    let server = server();
    let admin = spectator(&server).await;
    let ours = provider(at(server.port())).await;
    let locks = Locks::new(Arc::clone(&ours));
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    let set = async |path, data: &str| admin.set_data(path, data.as_bytes(), None).await.unwrap();
    set("/lockkit/lockkit:tokens", "many").await;
    only(&amiss(&ours).await, Severity::Danger, &["lockkit:tokens", "many", "set it"]);
    set("/lockkit/lockkit:tokens", "0").await;
    set("/lockkit", "lockkit-layout 99").await;
    only(&amiss(&ours).await, Severity::Danger, &["layout 99", "upgrade this program"]);
    set("/lockkit", "").await;
    assert!(amiss(&ours).await.is_empty());
    let told = examined(&ours).await;
    assert!(told.iter().any(|finding| finding.what.contains("layout 1")), "{told:?}");
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn certificates_on_the_disk_that_would_not_do_for_the_next_connection_are_found() {
    use lockkit_zk::ZkTls;
    use testbed::ClientCertificate;
    use testbed::certificates::Certificates;

    let [certificates, others] = [(); 2].map(|()| Certificates::new().unwrap());
    let builder = ZkServer::builder().tick(TICK).line("maxClientCnxns=0");
    let server = builder.tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let address = server.tls_address().unwrap();
    let config = ZkConfig::new([format!("localhost:{}", address.port())]).tick(TICK);
    let config = config.tls(ZkTls::file(certificates.ca()));
    let began = timing::start();
    // The first handshake of a server that has just started takes long on a busy machine.
    let ours = loop {
        match ZkProvider::connect(config.clone()).await {
            Ok(ours) => break ours,
            Err(error) => testbed::in_time!(began, began.elapsed() < BACK, "{error}"),
        }
    };
    assert!(amiss(&ours).await.is_empty());
    std::fs::copy(others.ca(), certificates.ca()).unwrap();
    let found = amiss(&ours).await;
    only(&found[..1], Severity::Danger, &["TLS with localhost", "authority"]);
}
