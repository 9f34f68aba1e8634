//! Fences in PostgreSQL, MariaDB and SQLite.

mod errors;
mod ledger;
mod other_ways;

pub(crate) use ledger::{Mysql, Postgres, Sqlite};

use super::pauses;

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_in_postgres_passes_every_case_and_keeps_every_update() {
    pauses::holds(&Postgres::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_in_mariadb_passes_every_case_and_keeps_every_update() {
    pauses::holds(&Mysql::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_in_sqlite_passes_every_case_and_keeps_every_update() {
    pauses::holds(&Sqlite::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn a_thousand_pauses_of_holders_lose_no_update_behind_a_fence_in_postgres() {
    pauses::keeps_updates(&Postgres::start().await, 10, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn a_thousand_pauses_of_holders_lose_no_update_behind_a_fence_in_mariadb() {
    pauses::keeps_updates(&Mysql::start().await, 10, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn a_thousand_pauses_of_holders_lose_no_update_behind_a_fence_in_sqlite() {
    pauses::keeps_updates(&Sqlite::start().await, 10, 100).await;
}
