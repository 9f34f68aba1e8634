//! Random clients of a cluster whose members restart in turn never believe two at once.

use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::EtcdCluster;
use testbed::fuzz::{Fuzz, nothing_is_left};

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
