//! What the server and its driver say, in terms of what the caller can do about it.

use std::error::Error as StdError;
use std::sync::Arc;
use std::{fmt, io};

use lockkit_core::{Applied, Cause, Error};
use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnectOptions;

/// What each of our roles needs, beside the objects themselves.
const GRANTS: &str = "let a role that may create a schema run the SQL of \
    PostgresConfig::setup_sql(), and then GRANT USAGE ON SCHEMA lockkit, ALL ON ALL TABLES IN SCHEMA \
    lockkit, ALL ON ALL SEQUENCES IN SCHEMA lockkit and EXECUTE ON ALL FUNCTIONS IN SCHEMA lockkit to this one \
    (with your schema's name)";

pub(crate) const POOLER: &str = "connect to the server itself, or use the strategy \"table\": \
    session-level locks do not live through a pooler";

pub(crate) const STANDBY: &str = "connect to the primary: a standby takes no locks";

/// What a client is told that connects to a server whose transactions begin as read-only.
pub(crate) const READS_ONLY: &str = "have its transactions begin as read-write: ALTER ROLE or ALTER DATABASE ... \
    SET default_transaction_read_only = off, or the server's own setting";

/// The SQLSTATE of a write that a transaction may not do: on a standby, and where transactions begin as read-only.
pub(crate) const READ_ONLY: &str = "25006";

/// What may be behind an answer that makes no sense while one connects.
const NOT_OURS: &str =
    "does PostgreSQL answer there, by itself or through a pooler, and with the TLS of sslmode?";

const CERTIFICATES: &str = "give the authority that signed the server's certificate (sslrootcert), the host that \
    it names, and our own certificate if the server asks for one";

/// The first letters of the codes by which a server ends a session.
const ENDED: &str = "57P";

/// The first letters of the codes by which a pooler between client and server ends a connection.
const BROKEN: &str = "08";

/// What the server said, without the place in its source; else what the driver says.
pub(crate) fn text(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
}

/// An error of a statement; `sent`: it may have reached the server.
pub(crate) fn to_error(error: sqlx::Error, sent: bool) -> Error {
    let text = text(&error);
    let maybe = if sent { Applied::Maybe } else { Applied::No };
    match error {
        sqlx::Error::Io(cause) if !sent && cause.kind() == io::ErrorKind::UnexpectedEof => {
            Error::unavailable(maybe, Broken { text: format!("{text}: {NOT_OURS}"), cause })
        }
        sqlx::Error::Io(cause) if !is_mistrust(&text) => {
            Error::unavailable(maybe, Broken { text, cause })
        }
        sqlx::Error::Database(said) => match said.code().as_deref().unwrap_or_default() {
            "28000" if text.contains("no encryption") => Error::rejected(
                text,
                "give sslmode=require (feature `tls`), or change the server's pg_hba.conf",
            ),
            "28P01" | "28000" => Error::rejected(
                text,
                "check the user, the password and the certificate, and the server's pg_hba.conf",
            ),
            "3D000" => Error::rejected(text, "name a database that exists"),
            "42501" => Error::rejected(text, GRANTS),
            "3F000" | "42P01" | "42883" | "42703" => Error::rejected(text, GRANTS),
            // A role that changes: a client that is connected waits for a server that takes writes. Who connects is
            // refused before this, by what the server says of itself.
            READ_ONLY => Error::unavailable(Applied::No, text),
            "53200" => Error::rejected(
                text,
                "raise max_locks_per_transaction on the server, or set a smaller budget",
            ),
            // What it refuses of a startup message, pgbouncer says this way.
            "08P01" if !sent && text.contains("startup parameter") => Error::rejected(text, POOLER),
            // It ended while the statement ran, or before; or the server does not know whether it ran.
            code if code.starts_with(BROKEN) || code == "40003" => Error::unavailable(maybe, text),
            code if code.starts_with(ENDED) => {
                Error::unavailable(maybe, format!("{text} ({code})"))
            }
            _ => Error::unavailable(Applied::No, text),
        },
        sqlx::Error::Tls(_) if text.contains("does not support TLS") => Error::rejected(
            text,
            "turn TLS on at the server (ssl = on), or give sslmode=prefer or disable where the network is trusted",
        ),
        sqlx::Error::Tls(_) => Error::rejected(text, CERTIFICATES),
        sqlx::Error::Configuration(_) => {
            Error::invalid(text, "correct the address or the certificates")
        }
        sqlx::Error::Protocol(_) if !sent => {
            Error::unavailable(Applied::No, format!("{text}: {NOT_OURS}"))
        }
        _ if is_mistrust(&text) => Error::rejected(text, CERTIFICATES),
        _ => Error::unavailable(maybe, text),
    }
}

/// A connection that broke, or that could not be made.
#[derive(Debug)]
struct Broken {
    text: String,
    cause: io::Error,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Broken {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}

/// What went wrong, and where.
#[derive(Debug)]
struct At {
    address: Arc<str>,
    cause: Cause,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.cause)
    }
}

impl StdError for At {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}

/// The same error, which names the server's address.
pub(crate) fn at(address: &Arc<str>, error: Error) -> Error {
    match error {
        Error::Unavailable { applied, cause, .. } => {
            Error::unavailable(applied, At { address: Arc::clone(address), cause })
        }
        Error::Rejected { what, remedy, .. } => {
            Error::rejected(format!("{address}: {what}"), remedy)
        }
        other => other,
    }
}

/// Where the server is, for an error.
pub(crate) fn address_of(options: &PgConnectOptions) -> Arc<str> {
    let (host, port) = (options.get_host(), options.get_port());
    match options.get_socket() {
        Some(socket) => format!("{}, port {port}", socket.display()).into(),
        None if host.contains(':') => format!("[{host}]:{port}").into(),
        None => format!("{host}:{port}").into(),
    }
}

/// Whether one side did not accept the other's certificate; the driver gives only a text.
fn is_mistrust(text: &str) -> bool {
    text.contains("peer certificate") || text.contains("received fatal alert")
}

/// Whether the server refused a statement with this SQLSTATE.
pub(crate) fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(DatabaseError::code).as_deref() == Some(code)
}

/// Whether the server takes no writes, for a while: it is a standby, or its transactions begin as read-only.
///
/// A standby says so in three ways: of a write, of an unlogged table, and of a lock on a table.
pub(crate) fn takes_no_writes(error: &sqlx::Error) -> bool {
    [READ_ONLY, "0A000", "55000"].iter().any(|code| has_code(error, code))
}

/// Whether a right is lacking, or what a role without rights does not see.
pub(crate) fn is_for_want_of_a_right(error: &Error) -> bool {
    matches!(error, Error::Rejected { remedy, .. } if remedy == GRANTS)
}

/// Whether the connection is of no more use.
pub(crate) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(said) => {
            let code = said.code();
            let code = code.as_deref().unwrap_or_default();
            code.starts_with(ENDED) || code.starts_with(BROKEN)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sqlx::error::ErrorKind;

    use super::*;

    #[derive(Debug)]
    struct Said(&'static str);

    impl fmt::Display for Said {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Said {}

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    #[test]
    fn a_connection_that_ends_once_a_statement_was_sent_leaves_it_open_whether_it_ran() {
        let of = |code, sent| to_error(sqlx::Error::Database(Box::new(Said(code))), sent);
        for code in ["08000", "08003", "08006", "08P01", "57P01", "40003"] {
            for (sent, applied) in [(true, Applied::Maybe), (false, Applied::No)] {
                let error = of(code, sent);
                let says =
                    matches!(&error, Error::Unavailable { applied: is, .. } if *is == applied);
                assert!(says, "{code}, sent: {sent}: {error}");
            }
        }
        let refused = of("57014", true);
        assert!(matches!(refused, Error::Unavailable { applied: Applied::No, .. }), "{refused}");
    }
}
