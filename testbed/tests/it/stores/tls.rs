//! TLS: whom we trust, whom the server trusts, and that a refusal is an error and no panic.
//!
//! Both of rustls's providers, ring and aws-lc-rs, are linked here, so that rustls chooses none.

use std::path::PathBuf;

use lockkit_core::kit::{Pem, Tls};
use testbed::certificates::Certificates;

use super::scripts;

/// The authority that a client trusts, and the certificate that it shows with its key: files.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    pub(super) authority: Option<PathBuf>,
    pub(super) client: Option<[PathBuf; 2]>,
}

impl Trust {
    pub(super) fn of(authority: PathBuf) -> Self {
        Self { authority: Some(authority), client: None }
    }

    pub(super) fn showing(certificates: &Certificates) -> Self {
        let ours = [certificates.client_certificate(), certificates.client_key()];
        Self { client: Some(ours), ..Self::of(certificates.ca()) }
    }

    pub(super) fn tls(&self) -> Tls {
        let mut tls = Tls::default();
        tls.authority = self.authority.clone().map(Pem::File);
        tls.client = self.client.clone().map(|files| files.map(Pem::File).into());
        tls
    }

    /// As options of a URL, under these names.
    pub(super) fn options(&self, names: [&str; 3]) -> String {
        let files = self.authority.iter().chain(self.client.iter().flatten());
        let options =
            names.iter().zip(files).map(|(name, file)| format!("{name}={}", file.display()));
        options.collect::<Vec<_>>().join("&")
    }
}

scripts! {
    a_private_authority_is_trusted_and_no_other: redis etcd zk;
    a_client_certificate_is_shown_where_the_server_asks_for_one: redis etcd zk;
    a_certificate_for_another_host_is_refused: redis etcd zk;
    what_is_no_certificate_is_an_error: redis etcd zk;
    certificates_that_are_replaced_on_the_disk_are_taken_without_a_restart: redis etcd zk;
}

mod scripts {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;

    use lockkit::{Error, Locks};
    use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
    use testbed::certificates::Certificates;
    use testbed::contenders::by;
    use testbed::{ClientCertificate, Data};

    use super::Trust;
    use crate::stores::{Remote, ms};

    fn at<S: Remote>(server: &S::Server, host: &str, trust: &Trust) -> S::Config {
        S::tls(S::at(host, S::tls_port(server), None), trust)
    }

    async fn refused<S: Remote>(config: S::Config) -> Error {
        let error = by(ms(6_000), "an answer", S::connect(config)).await.map(drop).unwrap_err();
        println!("{error}");
        error
    }

    async fn mistrusted<S: Remote>(config: S::Config) -> String {
        let error = refused::<S>(config).await;
        assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
        assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
        error.to_string()
    }

    pub(super) async fn a_private_authority_is_trusted_and_no_other<S: Remote>() {
        // Neither is the process's default: only what we choose can be used.
        let _: [fn() -> CryptoProvider; 2] = [ring::default_provider, aws_lc_rs::default_provider];
        let certificates = Certificates::new().unwrap();
        let server = S::with_tls(&certificates, ClientCertificate::NotAsked);
        let trusted = Trust::of(certificates.ca());
        for host in ["localhost", "127.0.0.1"] {
            S::works(at::<S>(&server, host, &trusted)).await;
        }
        mistrusted::<S>(at::<S>(&server, "localhost", &Trust::of(certificates.other_ca()))).await;
        if S::TRUSTS_THE_SYSTEM {
            mistrusted::<S>(at::<S>(&server, "localhost", &Trust::default())).await;
        }
        // A plain client at a port for TLS, and one for TLS at a plain port.
        refused::<S>(S::at("127.0.0.1", S::tls_port(&server), None)).await;
        refused::<S>(S::tls(S::at("127.0.0.1", server.port(), None), &trusted)).await;
    }

    pub(super) async fn a_client_certificate_is_shown_where_the_server_asks_for_one<S: Remote>() {
        let certificates = Certificates::new().unwrap();
        let server = S::with_tls(&certificates, ClientCertificate::Required);
        S::works(at::<S>(&server, "localhost", &Trust::showing(&certificates))).await;
        mistrusted::<S>(at::<S>(&server, "localhost", &Trust::of(certificates.ca()))).await;
    }

    pub(super) async fn a_certificate_for_another_host_is_refused<S: Remote>() {
        let certificates = Certificates::for_hosts(&["elsewhere.example"]).unwrap();
        let server = S::with_tls(&certificates, ClientCertificate::NotAsked);
        let config = at::<S>(&server, "localhost", &Trust::of(certificates.ca()));
        let said = mistrusted::<S>(config).await;
        assert!(said.contains("elsewhere.example"), "{said}");
    }

    pub(super) async fn what_is_no_certificate_is_an_error<S: Remote>() {
        let certificates = Certificates::new().unwrap();
        let server = S::with_tls(&certificates, ClientCertificate::NotAsked);
        let files = tempfile::tempdir().unwrap();
        let [bad, none, missing] = ["bad", "none", "missing"].map(|name| files.path().join(name));
        fs::write(&bad, "-----BEGIN CERTIFICATE-----\n???").unwrap();
        fs::write(&none, "none").unwrap();
        let no_client =
            Trust { client: Some([none.clone(), none]), ..Trust::of(certificates.ca()) };
        for trust in [Trust::of(bad), Trust::of(missing), no_client] {
            let error = refused::<S>(at::<S>(&server, "localhost", &trust)).await;
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            // It names the file and says what to do.
            let (said, directory) = (error.to_string(), files.path().to_string_lossy());
            assert!(said.contains(&*directory) && said.contains("PEM file"), "{said}");
        }
    }

    pub(super) async fn certificates_that_are_replaced_on_the_disk_are_taken_without_a_restart<S>()
    where
        S: Remote,
        S::Server: Send + Sync + 'static,
    {
        let certificates = Certificates::new().unwrap();
        let server = Arc::new(S::with_tls(&certificates, ClientCertificate::Required));
        let trust = Trust::showing(&certificates);
        let config = at::<S>(&server, "localhost", &trust);
        let locks = Locks::new(S::connect(config.clone()).await.unwrap());
        let lock = locks.lock("a").ttl(ms(3_000));
        lock.acquire().await.unwrap().release().await.unwrap();
        // It asks nothing while the server is away, and so may not notice.
        let idle = Locks::new(S::connect(config.clone()).await.unwrap());
        let copies = tempfile::tempdir().unwrap();
        let copy = |file: &PathBuf| {
            let copy = copies.path().join(file.file_name().unwrap());
            fs::copy(file, &copy).unwrap();
            copy
        };
        let old = Trust {
            authority: trust.authority.as_ref().map(copy),
            client: trust.client.as_ref().map(|files| files.each_ref().map(copy)),
        };

        server.kill().unwrap();
        // Half replaced, they are no reason for a waiter to give up: the next connection reads them again.
        fs::remove_file(certificates.ca()).unwrap();
        let error = by(ms(10_000), "an answer", lock.try_acquire()).await.map(drop).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let waiting = tokio::spawn(lock.acquire());
        tokio::time::sleep(ms(300)).await;
        certificates.write(&Certificates::HERE).unwrap();
        let restarted = Arc::clone(&server);
        let restart = move || restarted.restart(Data::Kept).unwrap();
        tokio::task::spawn_blocking(restart).await.unwrap();

        let waited = by(ms(15_000), "a grant to the waiter", waiting).await.unwrap();
        waited.unwrap().release().await.unwrap();
        let others = idle.lock("a").acquire();
        by(ms(10_000), "a grant to another", others).await.unwrap().release().await.unwrap();
        S::works(config).await;
        // The server has let go of the old ones.
        mistrusted::<S>(at::<S>(&server, "localhost", &old)).await;
    }
}
