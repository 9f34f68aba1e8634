//! The table of what each store declares, in docs/stores.md, made from the declarations themselves.

use std::fs;

use lockkit::{Guarantees, LockProvider, Memory};

/// What each store declares, and whether it has an operator: a new one adds its entry here, then
/// `cargo xtask table`.
fn stores() -> Vec<(&'static str, Guarantees, bool)> {
    Vec::from([
        ("memory", Memory::new().guarantees(), Memory::new().operator().is_some()),
        #[cfg(all(feature = "file", unix))]
        ("file", lockkit::file::FileProvider::declared(), true),
        #[cfg(feature = "redis")]
        ("redis", lockkit::redis::RedisProvider::declared(), true),
        #[cfg(feature = "etcd")]
        ("etcd", lockkit::etcd::EtcdProvider::declared(), true),
        #[cfg(feature = "postgres")]
        (
            "postgres, advisory",
            lockkit::postgres::PostgresProvider::declared(lockkit::postgres::Strategy::Advisory),
            false,
        ),
        #[cfg(feature = "postgres")]
        (
            "postgres, table",
            lockkit::postgres::PostgresProvider::declared(lockkit::postgres::Strategy::Table),
            true,
        ),
        #[cfg(feature = "postgres")]
        (
            "postgres, table, through a pooler",
            lockkit::postgres::PostgresProvider::declared_through_a_pooler(),
            true,
        ),
        #[cfg(feature = "zk")]
        ("zookeeper", lockkit::zk::ZkProvider::declared(), true),
    ])
}

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stores.md");
const BEGIN: &str = "<!-- what the stores declare: written by `cargo xtask table` -->\n";
const END: &str = "<!-- end of what the stores declare -->\n";
const HEAD: &str = "\
| store | exclusion rests on | a dead holder's name is free | a minimum hold is kept by | waiters are granted | and learn of a release | tokens grow through | operator | two may believe at once after |
|---|---|---|---|---|---|---|---|---|
";

fn row((store, declared, has_operator): &(&str, Guarantees, bool)) -> String {
    let Guarantees { exclusion, expiry, minimum_hold, fairness, wake_up, token_survives, .. } =
        declared;
    let breaks_on = declared.belief_breaks_on.join("; ");
    let operator = if *has_operator { "yes" } else { "no" };
    format!(
        "| {store} | {exclusion} | {expiry} | {minimum_hold} | {fairness} | {wake_up} | {token_survives} \
         | {operator} | {breaks_on} |\n"
    )
}

/// The page before its table, the table, and what follows it.
fn parts(page: &str) -> (&str, &str, &str) {
    let (before, rest) = page.split_once(BEGIN).expect("the page has the table's beginning");
    let (table, after) = rest.split_once(END).expect("the page has the table's end");
    (before, table, after)
}

/// The store that a row of the table is about.
fn store_of(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default().trim()
}

#[test]
fn the_table_is_what_the_stores_declare() {
    let page = fs::read_to_string(PAGE).expect("docs/stores.md");
    let (before, table, after) = parts(&page);
    let stores = stores();
    let (ours, others): (Vec<_>, Vec<_>) = table
        .split_inclusive('\n')
        .skip(HEAD.lines().count())
        .partition(|line| stores.iter().any(|(store, ..)| *store == store_of(line)));
    let rows: String = stores.iter().map(row).collect();
    if std::env::var("LOCKKIT_TABLE").is_ok_and(|wish| wish == "write") {
        // What this build does not know is not thrown away.
        let table = format!("{HEAD}{rows}{}", others.concat());
        fs::write(PAGE, [before, BEGIN, &table, END, after].concat()).expect("docs/stores.md");
        return;
    }
    let is_fresh = table.starts_with(HEAD) && ours.concat() == rows;
    assert!(
        is_fresh,
        "docs/stores.md is stale: renew it with `cargo xtask table`. It is to be\n{HEAD}{rows}"
    );
}

/// The suite's list of what is not claimed knows from each store itself whether it has an operator.
#[test]
fn the_tables_operators_are_those_that_the_suite_found() {
    const UNCLAIMED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/xtask/src/unclaimed.txt");
    let list = fs::read_to_string(UNCLAIMED).expect("the list");
    let entries: Vec<_> = list.split("\n\n").filter_map(|entry| entry.split_once('\n')).collect();
    for (store, _, has_operator) in stores() {
        let Some((_, entry)) = entries.iter().find(|(name, _)| *name == store) else {
            assert!(store.ends_with("through a pooler"), "{store} has no entry in the list");
            continue;
        };
        let found = !entry.contains("not claimed (C16: there is an operator)");
        assert_eq!(has_operator, found, "{store}");
    }
}
