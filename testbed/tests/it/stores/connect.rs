//! Logins, refusals and silence at the connection, and that no secret is ever shown.

use super::scripts;

scripts! {
    a_login_that_fails_is_a_typed_error_and_no_password_is_ever_shown: redis etcd zk postgres;
    a_server_that_is_not_there_is_an_error_within_the_limit: redis etcd zk;
}

mod scripts {
    use std::time::Instant;

    use lockkit::{Applied, Error, LockProvider};
    use testbed::Port;
    use testbed::contenders::by;
    use testbed::log::Log;

    use crate::stores::{Remote, Store, ms};

    /// What no error, no Debug and no log may show.
    const SECRET: &str = "c0rrect-horse-battery";
    const WRONG: &str = "wr0ng-horse-battery";

    #[track_caller]
    fn shows_no_secret(text: &str) {
        assert!(!text.contains(SECRET) && !text.contains(WRONG), "{text}");
    }

    pub(super) async fn a_login_that_fails_is_a_typed_error_and_no_password_is_ever_shown<
        S: Store,
    >() {
        let log = Log::of_this_thread();
        let server = S::with_login("app", SECRET).await;
        for (config, word) in S::wrong_logins(&server, "app", WRONG) {
            let shown = format!("{config:?} {config:#?}");
            let outcome = by(ms(5_000), "an answer", S::connect(config)).await;
            let error = outcome.map(drop).unwrap_err();
            assert!(
                matches!(&error, Error::Rejected { remedy, .. } if remedy.contains(word)),
                "{error:?}"
            );
            shows_no_secret(&format!("{shown} {error} {error:?}"));
        }
        let config = S::at("127.0.0.1", server.port(), Some(("app", SECRET)));
        let provider = S::connect(config.clone()).await.unwrap();
        let guarantees = provider.guarantees();
        shows_no_secret(&format!("{config:?} {provider:?} {provider:#?} {guarantees:?}"));
        S::works(config).await;
        let logged = log.text();
        assert!(logged.contains("granted"), "nothing was logged: {logged}");
        shows_no_secret(&logged);
    }

    pub(super) async fn a_server_that_is_not_there_is_an_error_within_the_limit<S: Remote>() {
        let [gone, silent] = S::UNREACHABLE.map(|limit| limit + S::SLACK);
        let port = Port::free().unwrap();
        for host in ["127.0.0.1", "nowhere.invalid"] {
            let began = Instant::now();
            let config = S::at(host, port.number(), Some(("app", SECRET)));
            let error = by(gone, "an answer", S::connect(config)).await.map(drop).unwrap_err();
            println!("{host}: {error} after {:?}", began.elapsed());
            assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error:?}");
            assert!(error.is_retryable() && !format!("{error:?}").contains(SECRET));
        }
        // One that takes connections and says nothing.
        let server = S::start();
        server.pause().unwrap();
        let config = S::at("127.0.0.1", server.port(), None);
        let outcome = by(silent, "an answer", S::connect(config)).await;
        assert!(matches!(outcome.map(drop), Err(Error::Unavailable { .. })));
    }
}
