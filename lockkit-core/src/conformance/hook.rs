//! What a fixture may be able to do to its store.

use std::fmt;

use crate::Error;

/// What a fixture may be able to do to its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// [`Fixture::remove`](super::Fixture::remove).
    Remove,
    /// [`Fixture::forget`](super::Fixture::forget).
    Forget,
    /// [`Fixture::refuse`](super::Fixture::refuse).
    Refuse,
    /// [`Fixture::address`](super::Fixture::address) and [`Fixture::join`](super::Fixture::join).
    Processes,
    /// [`Fixture::linked`](super::Fixture::linked).
    Link,
    /// [`Fixture::served`](super::Fixture::served).
    Server,
    /// [`Server::restart_empty`](super::Server::restart_empty) of [`Fixture::served`](super::Fixture::served).
    ServerLoss,
    /// [`Fixture::read_only`](super::Fixture::read_only) of [`Fixture::served`](super::Fixture::served).
    ReadOnly,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remove => "Fixture::remove",
            Self::Forget => "Fixture::forget",
            Self::Refuse => "Fixture::refuse",
            Self::Processes => "Fixture::address and Fixture::join",
            Self::Link => "Fixture::linked",
            Self::Server => "Fixture::served",
            Self::ServerLoss => "Server::restart_empty",
            Self::ReadOnly => "Fixture::read_only",
        })
    }
}

pub(super) fn cannot(hook: Hook, what: impl fmt::Display) -> Error {
    Error::rejected(
        format!("{hook} for {what}"),
        "write it in this fixture, or do not list it in hooks()",
    )
}
