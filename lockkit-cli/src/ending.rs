//! How the command ends: its own exit codes, and the one line that goes with each.

use std::process::ExitCode;

use lockkit::Error;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The exit codes that are lockkit's own. `run` and `elect` never pass one of them on for the command's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub(crate) enum Own {
    /// Another holds the name, and did so for as long as was to be waited.
    Held = 201,
    /// The lock was lost: the command was stopped, or ended too late to count.
    Lost = 202,
    /// The store did not answer.
    Unavailable = 203,
    /// The store refused, and will again.
    Refused = 204,
    /// What was typed cannot be served.
    Usage = 205,
    /// This machine did not do what was asked of it.
    System = 206,
    /// The command ended with one of these codes itself.
    Taken = 207,
}

/// Why nothing more was done: an exit code, and a line with the remedy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) own: Own,
    pub(crate) line: String,
}

impl Own {
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) const fn is_one(code: u8) -> bool {
        code >= Self::Held.code() && code <= Self::Taken.code()
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Lost => "lost",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Usage => "usage",
            Self::System => "system",
            Self::Taken => "taken",
        }
    }
}

impl Failure {
    pub(crate) fn new(own: Own, line: impl Into<String>) -> Self {
        Self { own, line: line.into() }
    }

    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Self::new(Own::Usage, line)
    }

    pub(crate) fn system(what: &str, error: &std::io::Error) -> Self {
        Self::new(Own::System, format!("{what}: {error}"))
    }

    /// Writes its line to the standard error, and gives its code.
    pub(crate) fn told(self, is_json: bool) -> ExitCode {
        say(&self, is_json);
        ExitCode::from(self.own.code())
    }
}

/// Writes a failure as one line to the standard error.
pub(crate) fn say(failure: &Failure, is_json: bool) {
    let line = failure.line.split_whitespace().collect::<Vec<_>>().join(" ");
    if is_json {
        let (kind, code) = (failure.own.word(), failure.own.code());
        let error = json!({"error": {"kind": kind, "code": code, "message": line}});
        anstream::eprintln!("{error}");
    } else {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        anstream::eprintln!("{red}lockkit:{red:#} {line}");
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let own = match &error {
            Error::TimedOut { .. } => Own::Held,
            Error::Lost { .. } => Own::Lost,
            Error::Rejected { .. } => Own::Refused,
            Error::Invalid { .. } => Own::Usage,
            Error::Closed | Error::NoRuntime => Own::System,
            // Also what a later version adds.
            _ => Own::Unavailable,
        };
        let remedy = match own {
            Own::Held => "; wait longer (--wait), or see `lockkit inspect`",
            Own::Unavailable => "; check that the store runs, and its host and port",
            _ => "",
        };
        Self { own, line: in_our_words(&format!("{error}{remedy}")) }
    }
}

/// The library speaks to those who build programs with it.
fn in_our_words(line: &str) -> String {
    let feature = line.split_once("enable the feature \"").and_then(|(before, rest)| {
        let (feature, rest) = rest.split_once('"')?;
        Some((before, feature, rest.strip_prefix(" of the crate lockkit")?))
    });
    match feature {
        Some((before, feature, rest)) => {
            format!("{before}install it with: cargo install lockkit-cli --features {feature}{rest}")
        }
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockkit::Applied;

    #[test]
    fn own_codes_are_seven_in_a_row_and_no_other_code_is_one() {
        assert!((201..=207).all(Own::is_one));
        assert!((0..=200).chain(208..=255).all(|code| !Own::is_one(code)));
        assert_eq!((Own::Held.code(), Own::Taken.code()), (201, 207));
    }

    #[test]
    fn each_error_has_its_code() {
        for (error, own) in [
            (Error::timed_out(None), Own::Held),
            (Error::unavailable(Applied::No, "reset"), Own::Unavailable),
            (Error::rejected("no right", "grant it"), Own::Refused),
            (Error::invalid("ttl 0", "give more"), Own::Usage),
        ] {
            assert_eq!(Failure::from(error).own, own);
        }
    }

    #[test]
    fn a_missing_feature_is_told_with_the_command_that_installs_it() {
        let said = r#"invalid: etcd: none; enable the feature "etcd" of the crate lockkit"#;
        let ours =
            "invalid: etcd: none; install it with: cargo install lockkit-cli --features etcd";
        assert_eq!(in_our_words(said), ours);
        assert_eq!(in_our_words("as it was"), "as it was");
    }
}
