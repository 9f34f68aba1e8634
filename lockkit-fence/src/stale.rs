//! The refusal of a token that is too old.

use crate::FencingToken;

/// Tokens of a store are microseconds since 1970 or grow like them: this is more than three months of them.
const FAR: u64 = 1 << 43;

/// A token was older than the newest that the resource has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token {presented} is stale: token {newest} has been seen{}", self.hint())]
pub struct Stale {
    /// The token that was refused.
    pub presented: FencingToken,
    /// The newest token that the resource has seen.
    pub newest: FencingToken,
}

impl Stale {
    fn hint(&self) -> &'static str {
        if self.newest.as_u64().saturating_sub(self.presented.as_u64()) > FAR {
            "; it lies so far back that it may come from another store: after a move to a store that was in use before, \
             raise that store's token base"
        } else {
            ""
        }
    }
}
