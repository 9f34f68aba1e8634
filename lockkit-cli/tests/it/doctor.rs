//! `doctor` tells of what each store's page names, in one line with the remedy, by its code.

use std::os::unix::fs::PermissionsExt;

use testbed::{EtcdServer, PostgresServer, RedisServer, ZkServer};

use crate::common::{code, errors, files, ms, out, ran, until};

/// Whether one line tells of it, with the code of the worst.
fn finds(url: &str, expected: i32, words: &[&str]) -> bool {
    let run = ran(url, &["doctor"]);
    let said = out(&run);
    println!("{} {said}{}", code(&run), errors(&run));
    let is_told = said.lines().any(|line| words.iter().all(|word| line.contains(word)));
    is_told && code(&run) == expected
}

#[track_caller]
fn found(url: &str, expected: i32, words: &[&str]) {
    assert!(finds(url, expected, words), "{words:?}");
}

mod file {
    use super::*;

    #[test]
    fn files_that_are_damaged_open_to_all_or_of_another_layout_are_found() {
        let (directory, url) = files();
        assert_eq!(code(&ran(&url, &["run", "a", "--", "true"])), 0);
        let locks = directory.path().join("locks");
        let run = ran(&url, &["doctor"]);
        assert_eq!(code(&run), 0, "{}", out(&run));
        let mode = |mode| {
            std::fs::set_permissions(&locks, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o777);
        found(&url, 1, &["warning: ", "chmod 700"]);
        mode(0o700);
        let file = locks.join("a.lock");
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, "damaged").unwrap();
        found(&url, 1, &["warning: ", "a.lock", "acquire"]);
        let newer = String::from_utf8_lossy(&whole).replacen("lockkit-file 1", "lockkit-file 9", 1);
        std::fs::write(&file, newer).unwrap();
        found(&url, 2, &["danger: ", "layout 9", "upgrade this program"]);
        let json = out(&ran(&url, &["doctor", "--json"]));
        assert!(json.starts_with(r#"{"remedy":""#) && json.contains(r#""severity":"danger""#));
        std::fs::write(&file, whole).unwrap();
        std::os::unix::fs::symlink(&file, locks.join("d.lock")).unwrap();
        found(&url, 2, &["danger: ", "d.lock", "not a plain file"]);
    }
}

mod redis {
    use super::*;

    #[test]
    fn settings_that_harm_locks_are_found() {
        let server = RedisServer::builder().appendonly().start().unwrap();
        let url = server.url();
        let set = |name: &str, value: &str| {
            server.cli(&["CONFIG", "SET", name, value]).unwrap();
        };
        assert_eq!(out(&ran(&url, &["doctor"])), "nothing is amiss\n");
        for (name, bad, good, expected, words) in [
            ("maxmemory", "1", "0", 2, &["danger: ", "OOM", "raise maxmemory"][..]),
            ("min-replicas-to-write", "1", "0", 2, &["danger: ", "NOREPLICAS"]),
            ("appendonly", "no", "yes", 1, &["warning: ", "appendonly yes"]),
            ("appendfsync", "everysec", "always", 1, &["warning: ", "appendfsync always"]),
            ("save", "3600 1", "", 0, &["note: ", "stop-writes-on-bgsave-error"]),
        ] {
            set(name, bad);
            found(&url, expected, words);
            set(name, good);
        }
        // Connecting itself refuses a server that evicts, and a replica: the line and the remedy are the same.
        set("maxmemory-policy", "allkeys-lru");
        found(&url, 2, &["danger: ", "allkeys-lru", "noeviction"]);
        set("maxmemory-policy", "noeviction");
        let replica = RedisServer::builder().replica_of(server.address()).start().unwrap();
        found(&replica.url(), 2, &["danger: ", "replica"]);
        until("a replica that follows", || finds(&url, 0, &["note: ", "replica"]));
    }
}

mod postgres {
    use super::*;

    #[test]
    fn settings_and_limits_that_harm_locks_are_found() {
        let server =
            PostgresServer::builder().on_disk().setting("autovacuum", "on").start().unwrap();
        let url = format!("{}?strategy=table", server.url());
        assert_eq!(out(&ran(&url, &["doctor"])), "nothing is amiss\n");
        let set = |setting: &str, value: &str| {
            server.sql(&format!("ALTER SYSTEM SET {setting} = {value}")).unwrap();
            server.sql("SELECT pg_reload_conf()").unwrap();
        };
        for (setting, bad, good, expected, severity) in [
            ("fsync", "off", "on", 2, "danger: "),
            ("full_page_writes", "off", "on", 1, "warning: "),
            ("autovacuum", "off", "on", 1, "warning: "),
            ("synchronous_standby_names", "'nobody'", "''", 2, "danger: "),
        ] {
            set(setting, bad);
            until(setting, || finds(&url, expected, &[severity, setting]));
            set(setting, good);
            until("nothing amiss", || code(&ran(&url, &["doctor"])) == 0);
        }
        server.sql("CREATE ROLE app LOGIN").unwrap();
        let app = format!("postgres://app@{}/postgres", server.address());
        found(&app, 2, &["danger: ", "permission denied", "GRANT"]);
        set("default_transaction_read_only", "on");
        until("a server that takes no writes", || finds(&url, 2, &["danger: ", "takes no writes"]));
    }
}

mod zk {
    use super::*;

    #[test]
    fn a_server_alone_and_a_tick_that_differs_are_found() {
        let server = ZkServer::builder().tick(ms(1_000)).line("maxClientCnxns=0").start().unwrap();
        let url = |tick| format!("zk://{}?tick={tick}", server.address());
        found(&url("1s"), 0, &["note: ", "stands alone"]);
        found(&url("500ms"), 2, &["danger: ", "set `tick`"]);
        found(&url("2s"), 1, &["warning: ", "set `tick`"]);
    }
}

mod etcd {
    use super::*;

    #[test]
    fn a_quota_that_is_used_up_and_a_long_least_ttl_are_found() {
        let server = EtcdServer::builder()
            .argument("--quota-backend-bytes=1000000")
            .argument("--election-timeout=3000")
            .start()
            .unwrap();
        let url = format!("etcd://{}", server.address());
        found(&url, 0, &["note: ", "election-timeout"]);
        let value = "x".repeat(100_000);
        while server.cli(&["put", "filler", &value]).is_ok() {}
        found(&url, 2, &["danger: ", "space", "disarm"]);
    }
}
