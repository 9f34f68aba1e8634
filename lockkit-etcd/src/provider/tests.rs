//! What no caller can time from outside: the tests reach into the client between its steps.

use std::time::Duration;

use lockkit_core::{Clock, LockName};
use testbed::EtcdServer;

use super::*;
use crate::queue::Position;
use crate::requests::Entry;
use crate::session::Use;

const TTL: Duration = Duration::from_secs(15);

/// A server, and a client of it.
async fn connected() -> (EtcdServer, EtcdProvider) {
    let server = EtcdServer::start().expect("a server");
    let provider = client(&server).await;
    (server, provider)
}

async fn client(server: &EtcdServer) -> EtcdProvider {
    let config = EtcdConfig::new([("127.0.0.1", server.port())]);
    EtcdProvider::connect(config).await.expect("a client")
}

fn request(name: &str) -> Request {
    let name = LockName::new(name).expect("a name");
    Request::new(name, TTL, Clock::system()).expect("a request")
}

/// Has an operator delete all keys of a name.
fn delete(server: &EtcdServer, name: &str) {
    let range = format!("lockkit/{name}/");
    server.cli(&["del", "--prefix", &range]).expect("a deletion");
}

impl EtcdProvider {
    /// Takes a free name for this request, and makes no grant of it yet.
    async fn placed(&self, request: &Request) -> (Entry, Use, Position) {
        let entry = self.0.requests.enter(request);
        let session = self.0.session(request, &entry).await.expect("a session");
        let taken = self.0.take(request, &entry, &session).await.expect("an answer");
        let TakeOutcome::Taken(place) = taken else { panic!("{taken:?}") };
        (entry, session, place)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_goes_while_its_session_is_renewed_is_not_granted() {
    let (server, provider) = connected().await;
    for is_removed in [false, true] {
        let request = request("a");
        let (entry, session, place) = provider.placed(&request).await;
        let sent = request.clock().now();
        // As after trouble: the grant has to be renewed first.
        let long_ago = session.clock.now().saturating_sub(TTL * 2 / 3);
        session.state().acked = long_ago;
        if is_removed {
            delete(&server, "a");
        }
        let granted = grant(&provider.0, &entry, session.clone(), place, sent).await;
        let granted = granted.expect("an answer");
        assert!(session.state().acked > long_ago, "it was not renewed");
        assert_eq!(granted.is_none(), is_removed, "{granted:?}");
        provider.withdraw(&request).await.expect("a withdrawal");
    }
}
