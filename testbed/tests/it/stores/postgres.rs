//! PostgreSQL. Its TLS has no port of its own: its package's tests have the rest of it.

use std::time::Duration;

use lockkit::postgres::{PostgresConfig, PostgresProvider, Strategy};
use lockkit::{Error, Fairness, Guarantees, Guard, Locks, Result, connect};
use testbed::certificates::Certificates;
use testbed::{ClientCertificate, PostgresServer};

use super::tls::Trust;
use super::{Login, Store, ms};

/// A server with a role that needs its password.
fn with_role(name: &str, password: &str) -> PostgresServer {
    let asks = format!("host all {name} 127.0.0.1/32 scram-sha-256");
    let server = PostgresServer::builder().hba(&asks).start().unwrap();
    server.sql(&format!("CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{password}'")).unwrap();
    server
}

pub(super) struct Row;

impl Store for Row {
    type Server = PostgresServer;
    type Config = PostgresConfig;
    type Provider = PostgresProvider;

    const WAKES: Duration = ms(900);

    fn start() -> PostgresServer {
        PostgresServer::start().unwrap()
    }

    async fn with_login(user: &str, password: &str) -> PostgresServer {
        with_role(user, password)
    }

    fn with_tls(certificates: &Certificates, clients: ClientCertificate) -> PostgresServer {
        let server = PostgresServer::builder().tls(certificates);
        let server = match clients {
            ClientCertificate::Required => server.hba("hostssl all client 127.0.0.1/32 cert"),
            ClientCertificate::NotAsked => server,
        };
        let server = server.start().unwrap();
        server.sql("CREATE ROLE client LOGIN SUPERUSER").unwrap();
        server
    }

    fn at(host: &str, port: u16, login: Login<'_>) -> PostgresConfig {
        let (user, password) = login.unwrap_or(("postgres", ""));
        let url = format!("postgres://{user}:{password}@{host}:{port}/postgres");
        PostgresConfig::from_url(&url).unwrap().strategy(Strategy::Table)
    }

    fn wrong_logins(
        server: &PostgresServer,
        user: &str,
        wrong: &str,
    ) -> Vec<(PostgresConfig, &'static str)> {
        [(Self::at("127.0.0.1", server.port(), Some((user, wrong))), "password")].into()
    }

    async fn connect(config: PostgresConfig) -> Result<PostgresProvider> {
        PostgresProvider::connect(config).await
    }

    fn urls(server: &PostgresServer) -> Vec<String> {
        let url = |strategy| format!("{}?strategy={strategy}", server.url());
        ["advisory", "table"].map(url).into()
    }

    fn of_billing() -> (PostgresServer, String) {
        let server = with_role("billing", "pa:ss");
        let at = format!("billing:pa%3Ass@{}/postgres", server.address());
        let options = "strategy=table&schema=app_locks&ttl=7s&connections=3";
        (server, format!("postgres://{at}?application_name=nightly&{options}"))
    }

    fn declares(guarantees: &Guarantees) -> bool {
        guarantees.fairness == Fairness::Fifo
    }

    fn is_in_its_place(server: &PostgresServer, guard: &Guard) {
        let row = "SELECT token FROM app_locks.lease WHERE name = 'nightly'";
        assert_eq!(server.sql(row).unwrap(), guard.token().to_string());
    }

    async fn beside(server: &PostgresServer, _: &str, _: Locks, guard: Guard) {
        guard.release().await.unwrap();
        let at = format!("billing:pa%3Ass@{}/postgres", server.address());
        let options = "strategy=advisory&application_name=nightly&token_base=1000&budget=1";
        let advisory = connect(&format!("postgresql://{at}?{options}")).await.unwrap();
        let guard = advisory.lock("nightly").acquire().await.unwrap();
        assert!(guard.token().as_u64() > 1_000);
        let named = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'nightly'";
        assert_eq!(server.sql(named).unwrap(), "t");
        let refused = advisory.lock("second").acquire().await.unwrap_err();
        assert!(matches!(refused, Error::Rejected { .. }), "{refused}");
    }

    fn bad_urls(server: &PostgresServer) -> Vec<(String, &'static str)> {
        let url = |rest| format!("postgres://app:hunter2@{}/{rest}", server.address());
        [
            ("postgres", "password"),
            ("postgres?strategy=lease", "advisory or table"),
            ("postgres?sslmod=require", "sslmod is unknown"),
            ("postgres?connections=two", "whole number"),
            ("postgres?connections=2", "at least 3"),
            ("postgres?creates=no", "true or false"),
            ("#", "%23"),
        ]
        .map(|(rest, word)| (url(rest), word))
        .into()
    }

    fn tls_url(server: &PostgresServer, trust: &Trust) -> String {
        let options = trust.options(["sslrootcert", "sslcert", "sslkey"]);
        let at = format!("client@localhost:{}/postgres", server.port());
        format!("postgres://{at}?ttl=7s&sslmode=verify-full&{options}")
    }
}
