//! etcd.

use std::time::Duration;

use lockkit::etcd::{EtcdConfig, EtcdProvider};
use lockkit::{Exclusion, Guarantees, Guard, Locks, Result, connect};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, EtcdServer};

use super::tls::Trust;
use super::{Login, Remote, Store, ms};

pub(super) struct Row;

impl Store for Row {
    type Server = EtcdServer;
    type Config = EtcdConfig;
    type Provider = EtcdProvider;

    const WAKES: Duration = ms(700);
    const NAME: &'static str = "nightly/1";

    fn start() -> EtcdServer {
        EtcdServer::start().unwrap()
    }

    async fn with_login(user: &str, password: &str) -> EtcdServer {
        EtcdServer::builder().user(user, password, "lockkit/").start().unwrap()
    }

    fn with_tls(certificates: &Certificates, clients: ClientCertificate) -> EtcdServer {
        let server = EtcdServer::builder().tls(certificates, clients);
        match clients {
            ClientCertificate::Required => server.user_by_certificate("lockkit/"),
            ClientCertificate::NotAsked => server,
        }
        .start()
        .unwrap()
    }

    fn at(host: &str, port: u16, login: Login<'_>) -> EtcdConfig {
        let config = EtcdConfig::new([(host, port)]);
        match login {
            Some((user, password)) => config.login(user, password),
            None => config,
        }
    }

    fn wrong_logins(
        server: &EtcdServer,
        user: &str,
        wrong: &str,
    ) -> Vec<(EtcdConfig, &'static str)> {
        let at = |login| Self::at("127.0.0.1", server.port(), login);
        [
            (at(None), "give a user and a password"),
            (at(Some((user, wrong))), "the password"),
            (at(Some(("nobody", wrong))), "the password"),
        ]
        .into()
    }

    async fn connect(config: EtcdConfig) -> Result<EtcdProvider> {
        EtcdProvider::connect(config).await
    }

    fn urls(server: &EtcdServer) -> Vec<String> {
        [format!("etcd://127.0.0.1:{}", server.port())].into()
    }

    fn of_billing() -> (EtcdServer, String) {
        let server = EtcdServer::builder().user("billing", "pa:ss", "app/locks/").start().unwrap();
        // The second member is not there.
        let members = format!("127.0.0.1:{},localhost:1", server.port());
        (server, format!("etcd://billing:pa%3Ass@{members}/app/locks?ttl=7s"))
    }

    fn declares(guarantees: &Guarantees) -> bool {
        guarantees.exclusion == Exclusion::Consensus
    }

    fn is_in_its_place(server: &EtcdServer, _: &Guard) {
        let place = ["get", "--prefix", "--keys-only", "app/locks/nightly%2F1/"];
        let keys = server.cli(&place).unwrap();
        assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 1, "{keys}");
    }

    async fn beside(server: &EtcdServer, url: &str, locks: Locks, guard: Guard) {
        let based = connect(&format!("{url}&token_base=1000000")).await.unwrap();
        assert!(based.lock("nightly/1").try_acquire().await.unwrap().is_none());
        guard.release().await.unwrap();
        let guard = based.lock("nightly/1").acquire().await.unwrap();
        assert!(guard.token().as_u64() > 1_000_000);
        guard.release().await.unwrap();
        for locks in [locks, based] {
            locks.close(ms(2_000)).await.unwrap();
        }
        let keys = server.cli(&["get", "--prefix", "--keys-only", "app/locks/"]).unwrap();
        assert_eq!(keys.trim(), "app/locks/%/cluster", "closing left more than the mark");
    }

    fn bad_urls(server: &EtcdServer) -> Vec<(String, &'static str)> {
        [(format!("etcd://app:hunter2@127.0.0.1:{}/", server.port()), "")].into()
    }

    fn tls_url(server: &EtcdServer, trust: &Trust) -> String {
        let (port, options) = (Self::tls_port(server), trust.options(["ca", "cert", "key"]));
        format!("etcds://localhost:{port}/lockkit?ttl=7s&{options}")
    }
}

impl Remote for Row {
    const UNREACHABLE: [Duration; 2] = [ms(4_000); 2];
    fn tls_port(server: &EtcdServer) -> u16 {
        server.tls_address().unwrap().port()
    }

    fn tls(config: EtcdConfig, trust: &Trust) -> EtcdConfig {
        config.tls(trust.tls())
    }
}
