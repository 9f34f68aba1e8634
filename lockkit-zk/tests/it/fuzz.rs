//! Random clients of an ensemble whose members restart in turn never believe two at once.

use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::fuzz::{Fuzz, nothing_is_left};
use testbed::{Data, ZkEnsemble};

use crate::common::{BUSY, TICK, ms, three};

fn config(ensemble: &ZkEnsemble) -> ZkConfig {
    ZkConfig::new(ensemble.addresses().iter().map(ToString::to_string)).tick(TICK)
}

async fn fuzz(grants: usize) {
    let _busy = BUSY.lock().await;
    let ensemble = three();
    let fault = async |round| {
        tokio::time::sleep(ms(4_000)).await;
        ensemble.member(round % 3).restart(Data::Kept).unwrap();
        ensemble.settled().unwrap();
    };
    let client = |_| ZkProvider::connect(config(&ensemble));
    let fuzz = Fuzz { ttls: [ms(2_000), ms(4_000)], grants, ..Fuzz::default() };
    let granted = fuzz.run(client, fault).await;
    assert!(granted >= grants, "{granted} grants");
    nothing_is_left(&ZkProvider::connect(config(&ensemble)).await.unwrap(), ms(20_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_clients_never_believe_two_at_once() {
    fuzz(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn random_clients_never_believe_two_at_once_over_twenty_thousand_grants() {
    fuzz(20_000).await;
}
