//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args as Group, Parser, Subcommand};
use clap_complete::Shell;

use crate::ending::Failure;

/// Run anything under a distributed lock, and see who holds what.
#[derive(Debug, Parser)]
#[command(
    name = "lockkit",
    version,
    disable_help_subcommand = true,
    after_help = "Example: lockkit run nightly -- ./backup.sh\n\nExit codes: 201 held, 202 lost, 203 unavailable, \
                  204 refused, 205 usage, 206 system; `run` passes on the command's code."
)]
pub(crate) struct Args {
    /// The store's URL, as `redis://host`; otherwise LOCKKIT_STORE, otherwise files in the user's state directory.
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) store: Option<String>,
    /// Print JSON, a document on each line; errors too.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) job: Job,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Run a command while its lock is held; it is stopped before the lock can be another's.
    #[command(after_help = "Example: lockkit run --wait 10s nightly -- ./backup.sh --full")]
    Run(Run),
    /// Run a command while leading; stand again after a loss.
    #[command(after_help = "Example: lockkit elect cluster/leader -- ./scheduler")]
    Elect(Elect),
    /// Who holds a name, and how many wait.
    #[command(after_help = "Example: lockkit inspect nightly")]
    Inspect {
        /// The lock's name.
        name: String,
        /// Inspect the semaphore of this name, which is another than the lock.
        #[arg(long)]
        semaphore: bool,
    },
    /// The names that are held or waited for.
    #[command(after_help = "Example: lockkit list billing/")]
    List {
        /// How the names begin.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// The same as a table that redraws, until it is interrupted.
    #[command(after_help = "Example: lockkit watch --every 500ms billing/")]
    Watch(Watch),
    /// End exactly the grant with this token; code 1 where there is none.
    #[command(after_help = "Example: lockkit revoke nightly --token 1764500000000000")]
    Revoke {
        /// The lock's name.
        name: String,
        /// The grant's token, as `inspect` shows it.
        #[arg(long)]
        token: u64,
        /// End a grant of the semaphore of this name.
        #[arg(long)]
        semaphore: bool,
    },
    /// Forget free names that no request has used for a while.
    #[command(after_help = "Example: lockkit forget job/ --unused-for 30d")]
    Forget {
        /// How the names begin.
        prefix: String,
        /// For how long no request has used them.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        unused_for: Duration,
    },
    /// What is amiss with the store, with remedies; code 1 for warnings, 2 for dangers.
    #[command(after_help = "Example: lockkit --store redis://host doctor")]
    Doctor,
    /// Run the conformance suite on the store, under names of its own; code 1 where a case fails.
    #[cfg(feature = "conformance")]
    #[command(
        after_help = "Example: lockkit --store redis://test-host conformance --report report"
    )]
    Conformance {
        /// The directory for the report as a page and as JSON.
        #[arg(long, value_name = "DIRECTORY")]
        report: Option<PathBuf>,
        /// Only the cases whose id begins so.
        #[arg(default_value = "")]
        cases: String,
    },
    /// Completions for a shell.
    #[command(after_help = "Example: lockkit completions bash > /etc/bash_completion.d/lockkit")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// The manual pages, all in one, or each in a file of a directory.
    #[command(after_help = "Example: lockkit man /usr/local/share/man/man1")]
    Man {
        /// The directory for a file of each page.
        directory: Option<PathBuf>,
    },
}

/// What `run` and `elect` have in common.
#[derive(Debug, Group)]
pub(crate) struct Held {
    /// How long the store keeps the lock for a holder that is silent: 15s unless set here.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Who holds, for people: host, process and command unless set here.
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    /// How long the command may take to end after SIGTERM, before SIGKILL; less where the lock ends earlier.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub(crate) kill_after: Duration,
    /// The lock's name.
    pub(crate) name: String,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Group)]
pub(crate) struct Run {
    /// Wait at most so long for the lock; without it, as long as it takes.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "no_wait")]
    pub(crate) wait: Option<Duration>,
    /// Do not wait: code 201 where the name is held.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Hold together with other shared holders.
    #[arg(long, conflicts_with = "permits")]
    pub(crate) shared: bool,
    /// Take one of so many permits of the semaphore of this name, which is another than the lock.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) permits: Option<u32>,
    /// Keep the name taken for so long since it was granted, although the command ends sooner.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) hold_at_least: Option<Duration>,
    #[command(flatten)]
    pub(crate) held: Held,
}

#[derive(Debug, Group)]
pub(crate) struct Elect {
    #[command(flatten)]
    pub(crate) held: Held,
}

#[derive(Debug, Group)]
pub(crate) struct Watch {
    /// How the names begin.
    #[arg(default_value = "")]
    pub(crate) prefix: String,
    /// The time between two looks.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(crate) every: Duration,
    /// End after so many looks.
    #[arg(long)]
    pub(crate) count: Option<u64>,
}

/// The arguments, or how the program ends: after help, or with one line of what is wrong.
pub(crate) fn read(words: impl Iterator<Item = OsString>) -> Result<Args, ExitCode> {
    let words: Vec<OsString> = words.collect();
    let is_json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    Args::try_parse_from(&words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has left needs no help.
            error.print().ok();
            ExitCode::SUCCESS
        }
        _ => Failure::usage(line(&error)).told(is_json),
    })
}

/// What clap says in paragraphs, as one line.
fn line(error: &clap::Error) -> String {
    let said = error.render().to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command is given; see `lockkit --help`".to_owned();
    }
    let first = said.split("\n\n").next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let words = first.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{words}; see `lockkit --help`")
}

/// `1m30s`, as the URLs' ttl.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a number with its unit, as 500ms, 10s or 1m30s".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_each_command_has_an_example() {
        Args::command().debug_assert();
        for command in Args::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("{} ", command.get_name());
            assert!(
                help.starts_with("Example: lockkit ") && format!("{help} ").contains(&example),
                "{example}: {help}"
            );
        }
    }
}
