//! Random clients of one directory never believe two at once.

use lockkit_file::{FileConfig, FileProvider};
use testbed::fuzz::{Fuzz, nothing_is_left};

async fn fuzz(grants: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let config = FileConfig::new(directory.path());
    let client = |_| FileProvider::connect(config.clone());
    let granted = Fuzz { grants, ..Fuzz::default() }
        .run(client, async |_| std::future::pending().await)
        .await;
    assert!(granted >= grants, "{granted} grants");
    let provider = FileProvider::connect(config).await.expect("the store");
    nothing_is_left(&provider, std::time::Duration::from_secs(5)).await;
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
