//! Random clients never believe two at once: of a cluster whose members restart in turn, and over links that are
//! late, lose answers and break.

use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::fuzz::{Fuzz, nothing_is_left};
use testbed::{Connections, EtcdCluster, EtcdServer, Fault, Link, Way};

use crate::common::cluster::{ALONE, Trouble};
use crate::common::ms;

async fn fuzz(grants: usize) {
    let _alone = ALONE.lock().await;
    let cluster = EtcdCluster::start(3).unwrap();
    let config = |first: usize| {
        let mut members = cluster.addresses();
        members.rotate_left(first);
        EtcdConfig::new(members.iter().map(|at| (at.ip().to_string(), at.port())))
    };
    let fault = async |round| {
        let member = round % 3;
        tokio::time::sleep(ms(8_000)).await;
        Trouble::Kill.begin(&cluster, member);
        tokio::time::sleep(ms(1_000)).await;
        Trouble::Kill.end(&cluster, member);
    };
    let client = |number| EtcdProvider::connect(config(usize::try_from(number % 3).unwrap()));
    // A whole second is its shortest ttl.
    let fuzz = Fuzz { ttls: [ms(2_000), ms(4_000)], grants, ..Fuzz::default() };
    let granted = fuzz.run(client, fault).await;
    assert!(granted >= grants, "{granted} grants");
    for member in 0..3 {
        cluster.member(member).restart(testbed::Data::Kept).unwrap();
    }
    cluster.settled().unwrap();
    nothing_is_left(&EtcdProvider::connect(config(0)).await.unwrap(), ms(20_000)).await;
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

/// What happens to the link of every client: what is sent comes late, answers come late or never, connections break.
async fn trouble(link: &Link, round: usize) {
    match round % 5 {
        0 => link.fault(Way::ToClient, Fault::Hold),
        1 => link.fault_on(Connections::Existing, Way::ToServer, Fault::Hold),
        2 => link.fault(Way::Both, Fault::Delay { min: ms(1), max: ms(65) }),
        3 => link.fault(Way::ToClient, Fault::Blackhole),
        _ => link.fault_on(Connections::Existing, Way::ToServer, Fault::Hold),
    }
    tokio::time::sleep(ms([250, 900, 600, 400, 300][round % 5])).await;
    if round % 5 == 3 {
        link.reset().unwrap();
    }
    link.pass().unwrap();
}

async fn over_links(grants: usize) {
    let server = EtcdServer::start().unwrap();
    let link = Link::to(server.address()).unwrap();
    let (port, mut troubles) = (link.port(), 0);
    let fault = async |round| {
        tokio::time::sleep(ms(300)).await;
        trouble(&link, round).await;
        troubles += 1;
    };
    let client = |_| EtcdProvider::connect(EtcdConfig::new([("127.0.0.1", port)]));
    let fuzz = Fuzz { ttls: [ms(3_000), ms(5_000)], clients: 12, names: 4, grants };
    let granted = fuzz.run(client, fault).await;
    println!("{granted} grants in {troubles} troubles");
    assert!(granted >= grants && troubles >= 10, "{granted} grants in {troubles} troubles");
    link.pass().unwrap();
    let config = EtcdConfig::new([("127.0.0.1", server.port())]);
    nothing_is_left(&EtcdProvider::connect(config).await.unwrap(), ms(20_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_bad_links_random_clients_never_believe_two_at_once() {
    over_links(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn over_bad_links_random_clients_never_believe_two_at_once_over_twenty_thousand_grants() {
    over_links(20_000).await;
}
