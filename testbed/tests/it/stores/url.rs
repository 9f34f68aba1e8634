//! By URL, through the facade.

use super::scripts;

scripts! {
    a_url_names_the_login_the_place_and_the_ttl: redis etcd zk postgres;
    a_bad_url_or_password_is_refused_and_shown_nowhere: redis etcd zk postgres;
    the_quickstart_tells_the_same_story: redis etcd zk postgres;
    a_url_names_the_authority_and_our_own_certificate: redis etcd zk postgres;
}

mod scripts {
    use lockkit::{Error, connect};
    use testbed::certificates::Certificates;
    use testbed::contenders::by;
    use testbed::{ClientCertificate, quickstart};

    use crate::stores::tls::Trust;
    use crate::stores::{Store, ms};

    pub(super) async fn a_url_names_the_login_the_place_and_the_ttl<S: Store>() {
        let (server, url) = S::of_billing();
        let locks = connect(&url).await.unwrap();
        let guarantees = locks.guarantees();
        assert!(S::declares(guarantees), "{guarantees:?}");
        let guard = locks.lock(S::NAME).acquire().await.unwrap();
        assert_eq!(guard.ttl(), Some(ms(7_000)));
        S::is_in_its_place(&server, &guard);
        S::beside(&server, &url, locks, guard).await;
    }

    pub(super) async fn a_bad_url_or_password_is_refused_and_shown_nowhere<S: Store>() {
        let server = S::with_login("app", "correct").await;
        for (number, (url, word)) in S::bad_urls(&server).into_iter().enumerate() {
            let error = connect(&url).await.expect_err("a bad URL");
            let said = format!("{error} {error:?}");
            assert!(said.contains(word) && !said.contains("hunter2"), "{said}");
            assert!(number > 0 || matches!(error, Error::Rejected { .. }), "{error:?}");
        }
    }

    pub(super) async fn the_quickstart_tells_the_same_story<S: Store>() {
        let server = S::start();
        for url in S::urls(&server) {
            quickstart::tells_its_story(&url);
        }
    }

    pub(super) async fn a_url_names_the_authority_and_our_own_certificate<S: Store>() {
        let certificates = Certificates::new().unwrap();
        let server = S::with_tls(&certificates, ClientCertificate::Required);
        let ours = Trust::showing(&certificates);
        let locks = connect(&S::tls_url(&server, &ours)).await.unwrap();
        let guard = locks.lock(S::NAME).acquire().await.unwrap();
        assert_eq!(guard.ttl(), Some(ms(7_000)));
        S::is_seen(&server);
        guard.release().await.unwrap();
        // Without our own, and where another authority is trusted.
        let other = Trust { authority: Some(certificates.other_ca()), ..ours };
        for trust in [Trust::of(certificates.ca()), other] {
            let url = S::tls_url(&server, &trust);
            let error = by(ms(6_000), "an answer", connect(&url)).await.map(drop).unwrap_err();
            assert!(matches!(&error, Error::Rejected { .. }), "{url}: {error:?}");
        }
    }
}
