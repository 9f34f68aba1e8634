//! The refusal of what is no token.

/// A number or a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {remedy}")]
pub struct NotAToken {
    what: String,
    remedy: String,
}

impl NotAToken {
    pub(crate) fn new(what: String, remedy: impl Into<String>) -> Self {
        Self { what, remedy: remedy.into() }
    }

    /// What is no token.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What a token is.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}
