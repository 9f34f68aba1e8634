//! What the server's and the client's errors mean to the caller.

use lockkit_core::kit::is_mistrust;
use lockkit_core::{Applied, Error};
use redis::{ErrorKind, RedisError};

/// What a user of the server's access list needs.
const RIGHTS: &str = "grant the user the commands +@read +@write +@scripting +@connection \
    +publish +subscribe +pubsub +info +time, the keys of its locks and of its clients' lives (~*, or ~{lockkit}:* beside \
    a prefix's), and the channels &lockkit:*";

/// What is said of data of another type, whose value is none of ours.
const OTHER_DATA: &str = "the lock's place holds data of another type";

/// What to do where a command has another name, or none.
pub(crate) const COMMANDS: &str = "let the server offer this command by its own name (rename-command in its \
    configuration), or use another server for locks";

/// What to do instead of using a cluster.
pub(crate) const NO_CLUSTER: &str = "use one server that is no node of a cluster: a name's keys would \
    lie on whichever node has its slot";

/// What a server says before the first write of a script, and never after it (`script.c`, `server.c`
/// of Redis 7). Any other answer may come later than a write, or from a proxy that lost the server's.
const BEFORE_ANY_WRITE: [&str; 10] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
];

/// Whether the connection is of no more use.
pub(crate) fn is_gone(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_unrecoverable_error() || error.is_io_error()
}

/// Whether the server is a replica by now: the address may lead to the primary over another connection.
/// Redis 6.2 gives an error inside a script a code of its own, and this one in the text.
pub(crate) fn is_replica(error: &RedisError) -> bool {
    matches!(error.code(), Some("READONLY" | "MASTERDOWN"))
        || error.code().is_some() && error.to_string().contains("-READONLY ")
}

/// Whether a script may not do what it tried, which has no code of its own: Redis 7.0 and older say
/// the first, Redis 8.0 and Valkey 8.1 the second.
fn is_denied(text: &str) -> bool {
    text.contains("The user executing the script can't") || text.contains("ACL failure in script")
}

/// Whether the user may not use a key. Redis 7.0 and older say *one of the keys*, newer ones *a key*.
pub(crate) fn is_key_denied(error: &Error) -> bool {
    let Error::Rejected { what, .. } = error else { return false };
    what.contains("permissions to access") && what.contains("key")
        || what.contains("can't access at least one of the keys")
}

/// Whether a script that changes nothing was refused by a server that may take it later. Redis 6.2 gives
/// an error inside a script a code of its own, and the server's in the text.
pub(crate) fn is_refused_for_now(error: &Error) -> bool {
    let Error::Unavailable { applied, cause, .. } = error else { return false };
    let said = cause.to_string();
    *applied == Applied::No
        || BEFORE_ANY_WRITE.iter().any(|code| said.contains(&format!("-{code} ")))
}

/// Whether data of another type lies in a lock's place.
pub(crate) fn is_other_data(error: &Error) -> bool {
    matches!(error, Error::Rejected { what, .. } if what == OTHER_DATA)
}

/// An outage instead of a refusal, where a certificate has expired that was good once: it is replaced on
/// the disk, or at the server, and the next connection may be taken.
pub(crate) fn unless_expired(error: Error) -> Error {
    match error {
        // An alert of the server about ours, and what is found of the server's.
        Error::Rejected { what, .. }
            if what.contains("CertificateExpired") || what.contains("certificate expired") =>
        {
            let why = format!("{what}; replace the certificate that has expired");
            Error::unavailable(Applied::No, why)
        }
        other => other,
    }
}

/// Whether the server has no such command, which has no code of its own either.
fn is_unknown(text: &str) -> bool {
    text.contains("unknown command") || text.contains("Unknown Redis command")
}

/// What the caller can do about it.
pub(crate) fn to_error(error: &RedisError) -> Error {
    let text = error.to_string();
    match error.code() {
        Some("NOPERM") => Error::rejected(text, RIGHTS),
        Some(_) if is_denied(&text) => Error::rejected(text, RIGHTS),
        Some(_) if is_unknown(&text) => Error::rejected(text, COMMANDS),
        Some("MOVED" | "ASK" | "CROSSSLOT") => Error::rejected(text, NO_CLUSTER),
        Some("WRONGPASS" | "NOAUTH") => {
            Error::rejected(text, "check the user name and the password in the URL")
        }
        _ if is_mistrust(&text) => Error::rejected(
            text,
            "give the authority that signed the server's certificate, the host that it names, \
             and our own certificate if the server asks for one",
        ),
        _ if text.contains("refused to switch database") => {
            Error::invalid(text, "give a number below the server's setting `databases`")
        }
        // Redis 6.2 gives an error inside a script a code of its own, and this one in the text.
        Some(_) if text.contains("WRONGTYPE") => {
            Error::rejected(OTHER_DATA, "remove that data, or set another prefix")
        }
        Some(_) if is_replica(error) => Error::unavailable(Applied::No, text),
        Some(code) if BEFORE_ANY_WRITE.contains(&code) => Error::unavailable(Applied::No, text),
        None if error.kind() == ErrorKind::AuthenticationFailed => {
            Error::rejected(text, "check the user name and the password in the URL")
        }
        None if error.kind() == ErrorKind::InvalidClientConfig => {
            Error::invalid(text, "correct the address or the certificates")
        }
        None if error.is_connection_refusal() => Error::unavailable(Applied::No, text),
        _ => Error::unavailable(Applied::Maybe, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_another_type_is_refused_in_the_words_of_every_version() {
        for (code, said) in [
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value script: 1"),
            (
                "ERR",
                "Error running script (call to f_1): @user_script:52: WRONGTYPE Operation against \
                 a key holding the wrong kind of value",
            ),
        ] {
            let error = redis::make_extension_error(code.to_owned(), Some(said.to_owned()));
            let error = to_error(&error);
            assert!(
                matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("prefix")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn only_what_the_server_says_before_any_write_says_that_nothing_took_effect() {
        let applied = |code: &str, said: &str| {
            let error = redis::make_extension_error(code.to_owned(), Some(said.to_owned()));
            match to_error(&error) {
                Error::Unavailable { applied, .. } => applied,
                other => panic!("{code} {said}: {other}"),
            }
        };
        for (code, said) in [
            ("OOM", "command not allowed when used memory > 'maxmemory'. script: 1"),
            ("MISCONF", "Redis is configured to save RDB snapshots, but it's currently unable to"),
            ("NOREPLICAS", "Not enough good replicas to write."),
            ("READONLY", "You can't write against a read only replica. script: 1"),
            ("BUSY", "Redis is busy running a script."),
        ] {
            assert_eq!(applied(code, said), Applied::No, "{code}");
        }
        for (code, said) in [
            ("ERR", "server connection closed"),
            ("ERR", "Error running script (call to f_1): @user_script:52: something new"),
            ("UPSTREAM", "a proxy's own code"),
        ] {
            assert_eq!(applied(code, said), Applied::Maybe, "{code} {said}");
        }
    }

    #[test]
    fn a_server_that_takes_no_writes_now_is_known_in_the_words_of_every_version() {
        let is_refused = |code: &str, said: &str| {
            let error = redis::make_extension_error(code.to_owned(), Some(said.to_owned()));
            is_refused_for_now(&to_error(&error))
        };
        assert!(is_refused("OOM", "command not allowed when used memory > 'maxmemory'."));
        assert!(is_refused(
            "ERR",
            "@user_script: 52: -OOM command not allowed when used memory > "
        ));
        assert!(is_refused("@user_script:", "52: -NOREPLICAS Not enough good replicas to write."));
        assert!(!is_refused("ERR", "server connection closed"));
        assert!(!is_refused("NOPERM", "this user has no permissions"));
    }

    #[test]
    fn what_a_script_may_not_do_is_refused_in_the_words_of_every_version() {
        for said in [
            "The user executing the script can't run this command or subcommand script: 1",
            "ACL failure in script: User a has no permissions to run the 'time' command",
        ] {
            let error = redis::make_extension_error("ERR".to_owned(), Some(said.to_owned()));
            let error = to_error(&error);
            assert!(
                matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("+time")),
                "{error:?}"
            );
        }
    }
}
