//! What the server and its driver say, in terms of what the caller can do about it.

use lockkit_core::{Applied, Error};
use sqlx::error::DatabaseError;

/// What each of our roles needs, beside the objects themselves.
const GRANTS: &str = "let a role that may create a schema run the SQL of \
    PostgresConfig::setup_sql(), and then GRANT USAGE ON SCHEMA lockkit, ALL ON ALL TABLES IN SCHEMA \
    lockkit and ALL ON ALL SEQUENCES IN SCHEMA lockkit to this one (with your schema's name)";

pub(crate) const POOLER: &str = "connect to the server itself, or use the strategy \"table\": \
    session-level locks do not live through a pooler";

pub(crate) const STANDBY: &str = "connect to the primary: a standby takes no locks";

/// The first letters of the codes by which a server ends a session.
const ENDED: &str = "57P";

/// The first letters of the codes by which a pooler between client and server ends a connection.
const BROKEN: &str = "08";

/// An error of a statement; `sent`: it may have reached the server.
pub(crate) fn to_error(error: &sqlx::Error, sent: bool) -> Error {
    let text = error.to_string();
    let maybe = if sent { Applied::Maybe } else { Applied::No };
    match error {
        sqlx::Error::Database(said) => match said.code().as_deref().unwrap_or_default() {
            "28P01" | "28000" => Error::rejected(
                text,
                "check the user, the password and the certificate, and the server's pg_hba.conf",
            ),
            "3D000" => Error::rejected(text, "name a database that exists"),
            "42501" => Error::rejected(text, GRANTS),
            "3F000" | "42P01" | "42883" | "42703" => Error::rejected(text, GRANTS),
            "25006" => Error::rejected(text, STANDBY),
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
        sqlx::Error::Tls(_) => Error::rejected(
            text,
            "give the authority that signed the server's certificate (sslrootcert), the host that \
             it names, and our own certificate if the server asks for one",
        ),
        sqlx::Error::Configuration(_) => {
            Error::invalid(text, "correct the address or the certificates")
        }
        _ if is_mistrust(&text) => Error::rejected(
            text,
            "give the authority that signed the server's certificate (sslrootcert), the host that \
             it names, and our own certificate if the server asks for one",
        ),
        _ => Error::unavailable(maybe, text),
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
    use std::error::Error as StdError;
    use std::fmt;

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
        let of = |code, sent| to_error(&sqlx::Error::Database(Box::new(Said(code))), sent);
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
