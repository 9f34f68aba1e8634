//! What can go wrong with a testbed.

use std::io;
use std::time::Duration;

/// What a testbed can return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a testbed could not do what a test asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server's program is not on this machine.
    #[error("{program} is not installed: run `cargo xtask setup`")]
    Missing {
        /// The program looked for.
        program: String,
    },
    /// The server started, and ended or did not answer.
    #[error("{program} did not start: {reason}; its log ends with:\n{log}")]
    Start {
        /// The program started.
        program: String,
        /// What was seen.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// The operation needs a running server.
    #[error("{program} is not running: restart it first")]
    Stopped {
        /// The program that runs no more.
        program: String,
    },
    /// What was waited for did not happen.
    #[error("waited {limit:?} in vain for {what}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The server answered with something else than its protocol says, or not at all.
    #[error("the server's answer is of no use: {0}")]
    Answer(String),
    /// A tool of the server's ended with an error.
    #[error("{command} failed: {text}")]
    Command {
        /// The command line.
        command: String,
        /// What it wrote to its standard error.
        text: String,
    },
    /// No certificate could be made.
    #[error("making certificates: {0}")]
    Certificates(#[from] rcgen::Error),
    /// The operating system refused.
    #[error("{context}: {source}")]
    System {
        /// What was tried.
        context: String,
        /// Its answer.
        source: io::Error,
    },
}

impl Error {
    /// Whether somebody else took a port in the meantime, in the words of every server.
    pub(crate) fn is_lost_port(&self) -> bool {
        match self {
            Self::Start { log, .. } => log.to_lowercase().contains("address already in use"),
            Self::System { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            _ => false,
        }
    }

    /// Says what was tried when the operating system refused.
    pub(crate) fn system<E: Into<io::Error>>(context: impl Into<String>) -> impl FnOnce(E) -> Self {
        |error| Self::System { context: context.into(), source: error.into() }
    }
}
