//! Redis.

use std::time::Duration;

use lockkit::redis::{RedisConfig, RedisProvider};
use lockkit::{Exclusion, Guarantees, Guard, Locks, Result, connect};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, RedisServer};

use super::tls::Trust;
use super::{Login, Remote, Store, ms};

pub(super) struct Row;

impl Store for Row {
    type Server = RedisServer;
    type Config = RedisConfig;
    type Provider = RedisProvider;

    // By the push, before any heartbeat.
    const WAKES: Duration = ms(900);

    fn start() -> RedisServer {
        RedisServer::start().unwrap()
    }

    async fn with_login(user: &str, password: &str) -> RedisServer {
        let rules = format!("on >{password} ~* &* +@all");
        RedisServer::builder().password("the-real-one").user(user, &rules).start().unwrap()
    }

    fn with_tls(certificates: &Certificates, clients: ClientCertificate) -> RedisServer {
        RedisServer::builder().tls(certificates, clients).start().unwrap()
    }

    fn at(host: &str, port: u16, login: Login<'_>) -> RedisConfig {
        let config = RedisConfig::tcp(host, port);
        match login {
            Some((user, password)) => config.username(user).password(password),
            None => config,
        }
    }

    fn wrong_logins(
        server: &RedisServer,
        user: &str,
        wrong: &str,
    ) -> Vec<(RedisConfig, &'static str)> {
        let at = |login| Self::at("127.0.0.1", server.port(), login);
        let configs = [
            at(None),
            at(None).password(wrong),
            at(Some((user, wrong))),
            at(Some(("nobody", wrong))),
        ];
        configs.map(|config| (config, "password")).into()
    }

    async fn connect(config: RedisConfig) -> Result<RedisProvider> {
        RedisProvider::connect(config).await
    }

    fn urls(server: &RedisServer) -> Vec<String> {
        [server.url()].into()
    }

    fn of_billing() -> (RedisServer, String) {
        let server =
            RedisServer::builder().user("billing", "on >pa:ss ~* &* +@all").start().unwrap();
        let at = format!("127.0.0.1:{}", server.port());
        (server, format!("redis://billing:pa%3Ass@{at}/3?prefix=app:&ttl=7s"))
    }

    fn declares(guarantees: &Guarantees) -> bool {
        guarantees.exclusion == Exclusion::OneServer
    }

    fn is_in_its_place(server: &RedisServer, _: &Guard) {
        let mut client = server.client().unwrap();
        client.command(&["SELECT", "3"]).unwrap();
        assert_eq!(client.command(&["EXISTS", "app:nightly"]).unwrap().integer(), Some(1));
    }

    async fn beside(server: &RedisServer, _: &str, locks: Locks, guard: Guard) {
        guard.release().await.unwrap();
        let unix = format!("redis+unix://{}?database=3&prefix=app:", server.socket().display());
        let other = connect(&unix).await.unwrap();
        let _held = other.lock("nightly").acquire().await.unwrap();
        assert!(locks.lock("nightly").try_acquire().await.unwrap().is_none());
    }

    fn bad_urls(server: &RedisServer) -> Vec<(String, &'static str)> {
        let port = server.port();
        ["", "app"].map(|user| (format!("redis://{user}:hunter2@127.0.0.1:{port}/"), "")).into()
    }

    fn is_seen(server: &RedisServer) {
        assert_eq!(server.cli(&["EXISTS", Self::NAME]).unwrap().integer(), Some(1));
    }

    fn tls_url(server: &RedisServer, trust: &Trust) -> String {
        let (port, options) = (Self::tls_port(server), trust.options(["ca", "cert", "key"]));
        format!("rediss://localhost:{port}/?ttl=7s&{options}")
    }
}

impl Remote for Row {
    const UNREACHABLE: [Duration; 2] = [ms(2_000), ms(4_000)];
    fn tls_port(server: &RedisServer) -> u16 {
        server.tls_address().unwrap().port()
    }

    fn tls(config: RedisConfig, trust: &Trust) -> RedisConfig {
        config.tls(trust.tls())
    }
}
