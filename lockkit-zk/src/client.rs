//! The client: what all calls of a provider share.

use std::sync::Arc;

use lockkit_core::{FencingToken, LockName, Result};

use crate::place::Places;
use crate::protocol::element;
use crate::queue::Form;
use crate::sessions::Sessions;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) places: Arc<Places>,
    pub(crate) form: Form,
    pub(crate) base: String,
    pub(crate) token_base: u64,
}

impl Client {
    /// The node whose children are the queue of this name.
    pub(crate) fn parent(&self, name: &LockName) -> String {
        format!("{}/{}", self.base, element(name))
    }

    pub(crate) fn token(&self, czxid: i64) -> Result<FencingToken> {
        FencingToken::with_base(self.token_base, czxid.try_into().unwrap_or(0))
    }
}
