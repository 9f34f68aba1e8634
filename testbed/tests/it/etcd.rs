//! Real etcd servers: starting, pausing, killing, restarting, their settings.

use crate::common::{Tested, ends};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, Data, Error, EtcdServer};

/// The value of a key; empty where there is none.
fn value(server: &EtcdServer, key: &str) -> testbed::Result<String> {
    Ok(server.cli(&["get", "--print-value-only", key])?.trim_end().to_owned())
}

#[test]
fn a_server_starts_below_the_ephemeral_ports_and_answers() -> Tested {
    let server = EtcdServer::start()?;
    assert!(server.version()?.starts_with("3."));
    assert!((10_240..32_768).contains(&server.port()));
    let before = server.revision()?;
    server.cli(&["put", "a", "1"])?;
    assert_eq!(value(&server, "a")?, "1");
    assert_eq!(server.revision()?, before + 1);
    let failed = server.cli(&["nonsense"]).expect_err("no such command");
    assert!(matches!(&failed, Error::Command { text, .. } if text.contains("nonsense")));
    Ok(())
}

#[test]
fn a_killed_server_comes_back_at_the_same_address_with_its_data_or_without() -> Tested {
    let server = EtcdServer::start()?;
    let (address, pid) = (server.address(), server.pid());
    server.cli(&["put", "a", "1"])?;
    server.kill()?;
    assert!(ends(pid.unwrap_or_default())?);
    assert!(matches!(server.revision(), Err(Error::Answer(_))));
    server.restart(Data::Kept)?;
    assert_eq!(server.address(), address);
    assert_ne!(server.pid(), pid);
    assert_eq!(value(&server, "a")?, "1");
    server.restart(Data::Lost)?;
    assert_eq!(value(&server, "a")?, "");
    assert_eq!(server.revision()?, 1);
    Ok(())
}

#[test]
fn a_restored_server_has_the_data_and_the_revision_of_the_backup() -> Tested {
    let server = EtcdServer::start()?;
    server.cli(&["put", "a", "1"])?;
    let (snapshot, before) = (server.snapshot()?, server.revision()?);
    server.cli(&["put", "a", "2"])?;
    let address = server.address();
    server.restore(&snapshot)?;
    assert_eq!(server.address(), address);
    assert_eq!(value(&server, "a")?, "1");
    assert_eq!(server.revision()?, before);
    Ok(())
}

#[test]
fn a_paused_server_answers_when_it_is_resumed() -> Tested {
    let server = EtcdServer::start()?;
    server.pause()?;
    assert!(matches!(server.revision(), Err(Error::Answer(_))));
    server.resume()?;
    assert_eq!(server.revision()?, 1);
    Ok(())
}

#[test]
fn a_compaction_forgets_the_revisions_before_it() -> Tested {
    let server = EtcdServer::start()?;
    for value in ["1", "2", "3"] {
        server.cli(&["put", "a", value])?;
    }
    assert_eq!(server.compact()?, 4);
    assert_eq!(value(&server, "a")?, "3");
    let old = server.cli(&["get", "--rev=2", "a"]).expect_err("it is forgotten");
    assert!(old.to_string().contains("compacted"), "{old}");
    Ok(())
}

#[test]
fn users_may_do_what_their_prefix_allows_also_after_a_restart() -> Tested {
    let server = EtcdServer::builder().user("app", "secret", "lock/").start()?;
    for data in [None, Some(Data::Kept), Some(Data::Lost)] {
        if let Some(data) = data {
            server.restart(data)?;
        }
        server.cli(&["put", "other", "1"])?;
        let put = |login: Option<&str>, key: &str| -> Result<bool, std::io::Error> {
            let mut command = server.etcdctl();
            match login {
                Some(login) => command.env("ETCDCTL_USER", login),
                None => command.env_remove("ETCDCTL_USER"),
            };
            Ok(command.args(["put", key, "1"]).output()?.status.success())
        };
        assert!(put(Some("app:secret"), "lock/a")?);
        assert!(!put(Some("app:secret"), "other")?);
        assert!(!put(Some("app:wrong"), "lock/a")?);
        assert!(!put(None, "lock/a")?);
    }
    Ok(())
}

#[test]
fn a_client_shows_its_certificate_and_is_the_user_of_its_name() -> Tested {
    let certificates = Certificates::new()?;
    let server = EtcdServer::builder()
        .tls(&certificates, ClientCertificate::Required)
        .user_by_certificate("lock/")
        .start()?;
    let address = server.tls_address().ok_or("a TLS port")?;
    let put = |authority: &std::path::Path, has_identity: bool, key: &str, within: &str| {
        let mut command = server.etcdctl();
        command
            .env_remove("ETCDCTL_USER")
            .env("ETCDCTL_ENDPOINTS", format!("https://{address}"))
            .env("ETCDCTL_CACERT", authority);
        if has_identity {
            command
                .env("ETCDCTL_CERT", certificates.client_certificate())
                .env("ETCDCTL_KEY", certificates.client_key());
        }
        command.args(["dial", "command"].map(|of| format!("--{of}-timeout={within}")));
        command.args(["put", key, "1"]).output().map(|output| output.status.success())
    };
    assert!(put(&certificates.ca(), true, "lock/a", "10s")?);
    assert!(!put(&certificates.ca(), true, "other", "1s")?);
    assert!(!put(&certificates.ca(), false, "lock/a", "1s")?);
    assert!(!put(&certificates.other_ca(), true, "lock/a", "1s")?);
    Ok(())
}
