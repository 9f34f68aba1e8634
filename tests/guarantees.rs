//! The README's table of what each store declares, made from the declarations themselves.

use std::fs;

use lockkit::{Guarantees, LockProvider, Memory};

/// What each store declares: a new one adds its entry here, then `cargo xtask table`.
fn stores() -> Vec<(&'static str, Guarantees)> {
    Vec::from([
        ("memory", Memory::new().guarantees()),
        #[cfg(all(feature = "file", unix))]
        ("file", lockkit::file::FileProvider::declared()),
        #[cfg(feature = "redis")]
        ("redis", lockkit::redis::RedisProvider::declared()),
        #[cfg(feature = "etcd")]
        ("etcd", lockkit::etcd::EtcdProvider::declared()),
        #[cfg(feature = "postgres")]
        (
            "postgres, advisory",
            lockkit::postgres::PostgresProvider::declared(lockkit::postgres::Strategy::Advisory),
        ),
        #[cfg(feature = "postgres")]
        (
            "postgres, table",
            lockkit::postgres::PostgresProvider::declared(lockkit::postgres::Strategy::Table),
        ),
        #[cfg(feature = "zk")]
        ("zookeeper", lockkit::zk::ZkProvider::declared()),
    ])
}

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- what the stores declare: written by `cargo xtask table` -->\n";
const END: &str = "<!-- end of what the stores declare -->\n";
const HEAD: &str = "\
| store | exclusion rests on | a dead holder's name is free | waiters are granted | and learn of a release | tokens grow through | two may believe at once after |
|---|---|---|---|---|---|---|
";

fn row(store: &str, declared: &Guarantees) -> String {
    let Guarantees { exclusion, expiry, fairness, wake_up, token_survives, .. } = declared;
    let breaks_on = declared.belief_breaks_on.join("; ");
    format!(
        "| {store} | {exclusion} | {expiry} | {fairness} | {wake_up} | {token_survives} | {breaks_on} |\n"
    )
}

/// The README before its table, the table, and what follows it.
fn parts(readme: &str) -> (&str, &str, &str) {
    let (before, rest) = readme.split_once(BEGIN).expect("README.md has the table's beginning");
    let (table, after) = rest.split_once(END).expect("README.md has the table's end");
    (before, table, after)
}

/// The store that a row of the table is about.
fn store_of(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default().trim()
}

#[test]
fn the_readmes_table_is_what_the_stores_declare() {
    let readme = fs::read_to_string(README).expect("README.md");
    let (before, table, after) = parts(&readme);
    let stores = stores();
    let (ours, others): (Vec<_>, Vec<_>) = table
        .split_inclusive('\n')
        .skip(HEAD.lines().count())
        .partition(|line| stores.iter().any(|(store, _)| *store == store_of(line)));
    let rows: String = stores.iter().map(|(store, declared)| row(store, declared)).collect();
    if std::env::var("LOCKKIT_TABLE").is_ok_and(|wish| wish == "write") {
        // What this build does not know is not thrown away.
        let table = format!("{HEAD}{rows}{}", others.concat());
        fs::write(README, [before, BEGIN, &table, END, after].concat()).expect("README.md");
        return;
    }
    let is_fresh = table.starts_with(HEAD) && ours.concat() == rows;
    assert!(
        is_fresh,
        "README.md's table is stale: renew it with `cargo xtask table`. It is to be\n{HEAD}{rows}"
    );
}
