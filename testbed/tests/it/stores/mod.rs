//! What every store must do alike where a client connects: a script for each test, a row for each
//! store. `cargo test -p testbed --all-features --test it -- ::redis` runs the rows of one store.
//!
//! What only one store has is in the tests of its own package.

mod connect;
mod elections;
mod etcd;
mod kinds;
mod many_names;
mod moves;
mod postgres;
mod quiet;
mod redis;
mod tls;
mod url;
mod zk;

use std::fmt::Debug;
use std::ops::Deref;
use std::time::Duration;

use lockkit::{Guarantees, Guard, LockProvider, Locks, Result};
use testbed::certificates::Certificates;
use testbed::contenders;
use testbed::{ClientCertificate, Server};

use self::tls::Trust;

/// A user and a password.
type Login<'a> = Option<(&'a str, &'a str)>;

/// The row of a store: its servers, its clients and its URLs.
trait Store {
    type Server: Deref<Target = Server>;
    type Config: Clone + Debug;
    type Provider: LockProvider + Debug;

    /// Within this time of a release the store's own signal wakes the next waiter.
    const WAKES: Duration;
    /// The lock that the store's URL is tried with.
    const NAME: &'static str = "nightly";

    fn start() -> Self::Server;

    /// A server where this user may lock, and a client without a login may not.
    async fn with_login(user: &str, password: &str) -> Self::Server;

    /// A server with TLS. Where it requires a certificate, the client's is the login.
    fn with_tls(certificates: &Certificates, clients: ClientCertificate) -> Self::Server;

    fn at(host: &str, port: u16, login: Login<'_>) -> Self::Config;

    /// Clients that a server of `with_login` refuses where `user` has another password than `wrong`,
    /// and a word of each remedy.
    fn wrong_logins(
        server: &Self::Server,
        user: &str,
        wrong: &str,
    ) -> Vec<(Self::Config, &'static str)>;

    async fn connect(config: Self::Config) -> Result<Self::Provider>;

    /// URLs of the server, for the quickstart.
    fn urls(server: &Self::Server) -> Vec<String>;

    /// A server where `billing` has the password `pa:ss`, and a URL with this login, a place for the
    /// locks and a ttl of 7 s.
    fn of_billing() -> (Self::Server, String);

    fn declares(guarantees: &Guarantees) -> bool;

    /// Checks that the grant is in the place that the URL names.
    fn is_in_its_place(server: &Self::Server, guard: &Guard);

    /// What else a URL of this server can say; releases the grant.
    async fn beside(server: &Self::Server, url: &str, locks: Locks, guard: Guard);

    /// URLs with the password `hunter2` that a server of `with_login("app", "correct")` refuses, the
    /// first for this password; and a word of each error.
    fn bad_urls(server: &Self::Server) -> Vec<(String, &'static str)>;

    /// Checks that the server itself shows [`NAME`](Self::NAME), where it can.
    fn is_seen(_: &Self::Server) {}

    /// A URL with a ttl of 7 s for the host `localhost` and its TLS.
    fn tls_url(server: &Self::Server, trust: &Trust) -> String;

    /// Every kind of call.
    async fn works(config: Self::Config) {
        contenders::works(Self::connect(config).await.unwrap(), Self::WAKES).await;
    }
}

/// A store whose TLS has a port of its own, and whose connection is bounded as a call is.
trait Remote: Store {
    /// By when a client gives up that finds no server, and one whose server says nothing.
    const UNREACHABLE: [Duration; 2];
    /// How long a noisy machine may take beyond a bound.
    const SLACK: Duration = ms(700);
    /// Without an authority of its own, a client trusts those of the system.
    const TRUSTS_THE_SYSTEM: bool = true;

    fn tls_port(server: &Self::Server) -> u16;

    fn tls(config: Self::Config, trust: &Trust) -> Self::Config;
}

/// A test for each of these stores: its name is the script's and the store's.
macro_rules! scripts {
    ($($script:ident: $($store:ident)+;)+) => { $(
        mod $script {
            $(
                #[tokio::test]
                async fn $store() {
                    super::scripts::$script::<super::super::$store::Row>().await;
                }
            )+
        }
    )+ };
}
use scripts;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
