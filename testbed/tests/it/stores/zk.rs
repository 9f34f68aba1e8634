//! ZooKeeper.

use std::time::Duration;

use lockkit::zk::{Access, ZkConfig, ZkNode, ZkProvider};
use lockkit::{Error, Exclusion, Guarantees, Guard, Locks, Result, connect};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, ZkBuilder, ZkServer};

use super::tls::Trust;
use super::{Login, Remote, Store, ms};

/// The unit of the servers' time.
const TICK: Duration = ms(500);

/// A server that takes as many clients as there are.
fn builder() -> ZkBuilder {
    ZkServer::builder().tick(TICK).line("maxClientCnxns=0")
}

pub(super) struct Row;

impl Store for Row {
    type Server = ZkServer;
    type Config = ZkConfig;
    type Provider = ZkProvider;

    const WAKES: Duration = ms(2_000);

    fn start() -> ZkServer {
        builder().start().unwrap()
    }

    /// The server takes every login: the nodes below `/private` are this one's.
    async fn with_login(user: &str, password: &str) -> ZkServer {
        let server = Self::start();
        let config = Self::at("127.0.0.1", server.port(), Some((user, password)));
        let locks = Locks::new(Self::connect(config).await.unwrap());
        locks.lock("a").acquire().await.unwrap().release().await.unwrap();
        locks.close(ms(2_000)).await.unwrap();
        server
    }

    fn with_tls(certificates: &Certificates, clients: ClientCertificate) -> ZkServer {
        builder().tls(certificates, clients).start().unwrap()
    }

    /// What a login is for: nodes that are its own.
    fn at(host: &str, port: u16, login: Login<'_>) -> ZkConfig {
        let config = ZkConfig::new([format!("{host}:{port}")]).tick(TICK);
        match login {
            Some((user, password)) => {
                config.base("/private").access(Access::Creator).digest(user, password)
            }
            None => config,
        }
    }

    fn wrong_logins(server: &ZkServer, user: &str, wrong: &str) -> Vec<(ZkConfig, &'static str)> {
        let at = Self::at("127.0.0.1", server.port(), None).base("/private");
        let configs =
            [at.clone(), at.clone().digest(user, wrong), at.clone().digest("nobody", wrong)];
        configs.map(|config| (config, "login")).into()
    }

    async fn connect(config: ZkConfig) -> Result<ZkProvider> {
        ZkProvider::connect(config).await
    }

    fn urls(server: &ZkServer) -> Vec<String> {
        [format!("zk://127.0.0.1:{}/locks?tick=500ms", server.port())].into()
    }

    fn of_billing() -> (ZkServer, String) {
        let server = Self::start();
        let at = format!("127.0.0.1:{}", server.port());
        let options = "layout=kazoo&tick=500ms&access=creator&ttl=7s";
        (server, format!("zk://billing:pa%3Ass@{at},{at}/app/locks?{options}"))
    }

    fn declares(guarantees: &Guarantees) -> bool {
        guarantees.exclusion == Exclusion::Consensus
    }

    fn is_in_its_place(_: &ZkServer, guard: &Guard) {
        let node = guard.native::<ZkNode>().unwrap();
        assert!(node.path.starts_with("/app/locks/nightly/"), "{node:?}");
        assert!(node.path.contains("__lock__"), "{node:?}");
    }

    async fn beside(server: &ZkServer, _: &str, locks: Locks, guard: Guard) {
        let port = server.port();
        let url = format!("zookeeper://billing:pa%3Ass@127.0.0.1:{port}/app/locks?tick=500ms");
        let other = connect(&url).await.unwrap();
        assert!(other.lock("nightly").try_acquire().await.unwrap().is_none());
        let stranger = connect(&format!("zk://127.0.0.1:{port}/app/locks")).await;
        assert!(matches!(stranger.map(drop), Err(Error::Rejected { .. })));
        guard.release().await.unwrap();
        locks.close(ms(2_000)).await.unwrap();
    }

    fn bad_urls(server: &ZkServer) -> Vec<(String, &'static str)> {
        let at = format!("app:hunter2@127.0.0.1:{}", server.port());
        [(format!("zk://{at}/private?tick=500ms"), "login")].into()
    }

    fn tls_url(server: &ZkServer, trust: &Trust) -> String {
        let (port, options) = (Self::tls_port(server), trust.options(["ca", "cert", "key"]));
        format!("zk://localhost:{port}/locks?tick=500ms&ttl=7s&{options}")
    }
}

impl Remote for Row {
    const UNREACHABLE: [Duration; 2] = [ms(2_000); 2];
    const SLACK: Duration = ms(1_000);
    const TRUSTS_THE_SYSTEM: bool = false;

    fn tls_port(server: &ZkServer) -> u16 {
        server.tls_address().unwrap().port()
    }

    fn tls(config: ZkConfig, trust: &Trust) -> ZkConfig {
        config.tls(trust.tls())
    }
}
