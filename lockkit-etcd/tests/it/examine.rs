//! What `examine` finds amiss with a cluster, and that it finds nothing with one that is fine.

#[cfg(feature = "tls")]
use std::fs;
use std::time::{Duration, Instant};

use crate::common::cluster::ALONE;
use crate::common::{SLACK, by, ms};
use etcd_client::{AlarmAction, AlarmType, Client as Driver};
use lockkit_core::{Error, Finding, LockProvider, Locks, Severity};
#[cfg(feature = "tls")]
use lockkit_etcd::EtcdTls;
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::findings::{examined, the_one};
#[cfg(feature = "tls")]
use testbed::{ClientCertificate, certificates::Certificates};
use testbed::{Data, EtcdCluster, EtcdServer, Fault, Link, Server, Way, in_time, timing};

/// How long an examination may take.
const LIMIT: Duration = ms(2_100);
/// What each version of old has in a cluster of several members.
const OLD: &str = "a leader that was deposed";

fn at(ports: &[u16]) -> EtcdConfig {
    EtcdConfig::new(ports.iter().map(|port| ("127.0.0.1", *port)))
}

async fn client(config: EtcdConfig) -> EtcdProvider {
    EtcdProvider::connect(config).await.unwrap()
}

/// Without what the version of the members alone gives.
async fn beside_the_version(provider: &EtcdProvider) -> Vec<Finding> {
    let mut found = examined(provider).await;
    found.retain(|finding| !finding.what.contains(OLD));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_fine_gives_no_finding_and_nothing_is_written() {
    let plain = EtcdServer::start().unwrap();
    let with_users = EtcdServer::builder().user("app", "one", "lockkit/").start().unwrap();
    let configs = [at(&[plain.port()]), at(&[with_users.port()]).login("app", "one")];
    for (server, config) in [&plain, &with_users].into_iter().zip(configs) {
        let provider = client(config).await;
        // Connecting has written.
        let before = server.revision().unwrap();
        assert_eq!(examined(&provider).await, []);
        assert_eq!(server.revision().unwrap(), before);
        let locks = Locks::new(provider);
        let guard = locks.lock("held").acquire().await.unwrap();
        assert_eq!(locks.examine().await.unwrap(), []);
        testbed::held!(guard);
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_is_found_until_the_alarm_is_disarmed() {
    let server = EtcdServer::builder().argument("--quota-backend-bytes=1000000").start().unwrap();
    let provider = client(at(&[server.port()])).await;
    assert_eq!(examined(&provider).await, []);
    let value = "x".repeat(100_000);
    while server.cli(&["put", "filler", &value]).is_ok() {}
    let found = examined(&provider).await;
    // Once, though the refusal of a request says the same.
    let [full] = &found[..] else { panic!("{found:?}") };
    assert!(full.severity == Severity::Danger && full.what.contains("quota"), "{full}");
    let refused = Locks::new(provider.clone()).lock("a").try_acquire().await.unwrap_err();
    assert!(refused.to_string().contains(&full.remedy), "{refused} {full}");
    server.cli(&["del", "filler"]).unwrap();
    server.compact().unwrap();
    server.cli(&["defrag"]).unwrap();
    server.cli(&["alarm", "disarm"]).unwrap();
    assert_eq!(examined(&provider).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_differ_between_members_are_found() {
    let server = EtcdServer::start().unwrap();
    let provider = client(at(&[server.port()])).await;
    let driver = Driver::connect([format!("http://{}", server.address())], None).await.unwrap();
    let mut maintenance = driver.maintenance_client();
    let alarm = maintenance.alarm(AlarmAction::Activate, AlarmType::Corrupt, None);
    alarm.await.unwrap();
    let found = examined(&provider).await;
    assert_eq!(the_one(&found, "data differ").severity, Severity::Danger);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_and_a_login_that_were_taken_away_are_found() {
    let server = EtcdServer::builder().user("app", "one", "lockkit/").start().unwrap();
    let config = at(&[server.port()]).login("app", "one");
    let provider = client(config.clone()).await;
    let grant = |right: &str| {
        let grant = ["role", "grant-permission", "--prefix", "app", right, "lockkit/"];
        server.cli(&grant).unwrap();
    };
    for right in [None, Some("read"), Some("write")] {
        server.cli(&["role", "revoke-permission", "app", "lockkit/", "--prefix"]).unwrap();
        if let Some(right) = right {
            grant(right);
        }
        let found = examined(&provider).await;
        let [lacks] = &found[..] else { panic!("{right:?}: {found:?}") };
        assert_eq!(lacks.severity, Severity::Danger);
        assert!(lacks.remedy.contains("readwrite"), "{lacks}");
        // Connecting refuses it in the same words.
        let refused = EtcdProvider::connect(config.clone()).await.unwrap_err().to_string();
        assert!(refused.contains(&lacks.remedy), "{refused} {lacks}");
        grant("readwrite");
        assert_eq!(examined(&provider).await, [], "{right:?}");
    }
    server.cli(&["user", "delete", "app"]).unwrap();
    let found = examined(&provider).await;
    let [login] = &found[..] else { panic!("{found:?}") };
    assert_eq!(login.severity, Severity::Danger);
    println!("{login}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_do_not_serve_are_found_and_the_loss_of_the_majority() {
    let _alone = ALONE.lock().await;
    let cluster = EtcdCluster::start(3).unwrap();
    let ports: Vec<_> = cluster.members().iter().map(Server::port).collect();
    let provider = client(at(&ports)).await;
    assert_eq!(beside_the_version(&provider).await, []);
    let version = cluster.cli(0, &["version"]).unwrap();
    if ["3.4.1", "3.4.2"].iter().any(|old| version.contains(old)) {
        let found = examined(&provider).await;
        let old = found.first().unwrap();
        assert_eq!(old.severity, Severity::Warning);
        assert!(old.remedy.contains("3.5.13"), "{old}");
    }
    let other = (cluster.leader().unwrap() + 1) % 3;
    cluster.member(other).kill().unwrap();
    let found = beside_the_version(&provider).await;
    let [gone] = &found[..] else { panic!("{found:?}") };
    assert_eq!(gone.severity, Severity::Warning);
    assert!(gone.what.contains(&format!(":{}", ports[other])), "{gone}");
    cluster.member((other + 1) % 3).pause().unwrap();
    let began = Instant::now();
    let timed = timing::start();
    // Known as long as the member that is left believes in the leader.
    match provider.examine().await {
        Ok(found) => {
            assert_eq!(the_one(&found, "takes no requests").severity, Severity::Danger);
        }
        Err(error) => assert!(matches!(error, Error::Unavailable { .. }), "{error:?}"),
    }
    in_time!(timed, began.elapsed() < LIMIT + SLACK, "{:?}", began.elapsed());
    cluster.member((other + 1) % 3).resume().unwrap();
    cluster.member(other).restart(Data::Kept).unwrap();
    cluster.settled().unwrap();
    assert_eq!(beside_the_version(&provider).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_not_in_the_list_are_found_and_a_cluster_of_two() {
    let _alone = ALONE.lock().await;
    let cluster = EtcdCluster::start(3).unwrap();
    let ports: Vec<_> = cluster.members().iter().map(Server::port).collect();
    for (known, severity) in [(1, Severity::Warning), (2, Severity::Note)] {
        let found = beside_the_version(&client(at(&ports[..known])).await).await;
        let [few] = &found[..] else { panic!("{found:?}") };
        assert_eq!(few.severity, severity, "{few}");
        assert!(few.what.contains(&format!("{known} of the cluster's 3")), "{few}");
    }
    drop(cluster);
    let cluster = EtcdCluster::start(2).unwrap();
    let ports: Vec<_> = cluster.members().iter().map(Server::port).collect();
    let found = beside_the_version(&client(at(&ports)).await).await;
    assert_eq!(the_one(&found, "two members").severity, Severity::Warning);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_cluster_is_found_in_the_words_of_connecting() {
    let (ours, other) = (EtcdServer::start().unwrap(), EtcdServer::start().unwrap());
    let link = Link::to(other.address()).unwrap();
    link.refuse().unwrap();
    let config = at(&[ours.port(), link.port()]);
    let provider = client(config.clone()).await;
    assert_eq!(the_one(&examined(&provider).await, "does not serve").severity, Severity::Warning);
    link.pass().unwrap();
    let found = examined(&provider).await;
    let foreign = the_one(&found, "another etcd cluster");
    assert_eq!(foreign.severity, Severity::Danger);
    let refused = EtcdProvider::connect(config).await.unwrap_err().to_string();
    assert!(refused.contains(&foreign.what) && refused.contains(&foreign.remedy), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_least_ttl_above_etcds_own_is_noted() {
    let server = EtcdServer::builder()
        .argument("--election-timeout=5000")
        .argument("--heartbeat-interval=500")
        .start()
        .unwrap();
    let found = examined(&client(at(&[server.port()])).await).await;
    let [note] = &found[..] else { panic!("{found:?}") };
    assert!(note.severity == Severity::Note && note.what.contains("least ttl"), "{note}");
    println!("{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_examination_over_a_silent_link_ends_within_its_limit() {
    let server = EtcdServer::start().unwrap();
    let link = Link::to(server.address()).unwrap();
    let provider = client(at(&[link.port()])).await;
    assert_eq!(examined(&provider).await, []);
    link.fault(Way::Both, Fault::Blackhole);
    for _ in 0..2 {
        let error = by(LIMIT + SLACK, "an answer", provider.examine()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains(&link.port().to_string()), "{error}");
    }
    link.pass().unwrap();
    assert_eq!(by(ms(4_000), "an answer", provider.examine()).await.unwrap(), []);
    // A connection that was cut is no outage.
    link.reset().unwrap();
    assert_eq!(examined(&provider).await, []);
    server.kill().unwrap();
    let error = by(LIMIT + SLACK, "an answer", provider.examine()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_certificate_is_not_trusted_any_more_is_found() {
    let certificates = Certificates::new().unwrap();
    let asks = ClientCertificate::NotAsked;
    let server = EtcdServer::builder().tls(&certificates, asks).start().unwrap();
    let link = Link::to(server.tls_address().unwrap()).unwrap();
    let tls = EtcdTls::file(certificates.ca());
    let provider = client(EtcdConfig::new([("localhost", link.port())]).tls(tls)).await;
    assert_eq!(examined(&provider).await, []);
    let good = fs::read(certificates.ca()).unwrap();
    fs::copy(certificates.other_ca(), certificates.ca()).unwrap();
    // A connection that is open stays as it is.
    assert_eq!(examined(&provider).await, []);
    link.refuse().unwrap();
    link.reset().unwrap();
    let error = provider.examine().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    link.pass().unwrap();
    let found = examined(&provider).await;
    let mistrusted = the_one(&found, "certificate");
    assert_eq!(mistrusted.severity, Severity::Danger);
    assert!(mistrusted.remedy.contains("authority"), "{mistrusted}");
    fs::write(certificates.ca(), good).unwrap();
    assert_eq!(examined(&provider).await, []);
}
