//! The client: what all calls of a provider share.

use std::sync::Arc;

use lockkit_core::{FencingToken, LockName, Result};

use crate::place::Places;
use crate::protocol::element;
use crate::queue::Form;
use crate::session::Session;
use crate::sessions::Sessions;
use crate::tokens;
use crate::why::Servers;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) places: Arc<Places>,
    pub(crate) form: Form,
    pub(crate) base: String,
    pub(crate) token_base: u64,
    pub(crate) servers: Servers,
}

impl Client {
    /// The node whose children are the queue of this name.
    pub(crate) fn parent(&self, name: &LockName) -> String {
        format!("{}/{}", self.base, element(name))
    }

    /// The token of a node in a store whose tokens have this base.
    pub(crate) fn token(&self, store: u64, czxid: i64) -> Result<FencingToken> {
        let base = self.token_base.saturating_add(store);
        FencingToken::with_base(base, czxid.try_into().unwrap_or(0)).map_err(Into::into)
    }

    /// The base of the store's tokens, made if there is none; known by now on each session that was not
    /// reopened since one of them has read it.
    pub(crate) async fn tokens(&self, session: &Session) -> Result<u64> {
        if let Some(known) = session.token_base() {
            return Ok(known);
        }
        // Before the question, so that an answer from before a reconnection does not count after it.
        let seen = |session: Arc<Session>| (session.reopenings(), session);
        let all: Vec<_> = self.sessions.live().into_iter().map(seen).collect();
        let known = tokens::base(session, &self.base, self.form.acls()).await?;
        for (seen, session) in all {
            session.set_token_base(seen, known);
        }
        Ok(known)
    }
}
