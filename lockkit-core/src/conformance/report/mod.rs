//! What the suite found on one store, as a value: a table, JSON, or a page.

mod html;
mod json;
mod text;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use serde::Serialize;

use super::case::{Case, Challenge, Level};
use super::cases::cases;
use super::fixture::{Fixture, Time};
use super::hook::Hook;
use super::notes::{Figure, Notes};
use super::outcome::Outcome;
use crate::Guarantees;

/// What the suite found on one store.
///
/// It displays as a table for a terminal. Only what ran and held counts as passed: a case that does
/// not apply is *not claimed*, one that lacks a hook is *not reached*. Figures are as measured
/// while other cases ran beside, so they are no benchmark.
///
/// ```no_run
/// # use lockkit_core::conformance::{self, Fixture};
/// # fn example(fixture: std::sync::Arc<impl Fixture>) -> Result<(), Box<dyn std::error::Error>> {
/// let report = conformance::run(&fixture)?;
/// assert!(report.is_passed(), "{report}");
/// std::fs::write("report.html", report.to_html())?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Report {
    store: String,
    time: Time,
    hooks: Vec<Hook>,
    guarantees: Guarantees,
    runs: Vec<CaseRun>,
    took: Duration,
    at: SystemTime,
}

/// How one case went.
///
/// ```no_run
/// # use lockkit_core::conformance::{Level, Report};
/// # fn example(report: &Report) {
/// for run in report.runs().iter().filter(|run| run.case.level() == Level::Link) {
///     println!("{}: {} faults, {:?}", run.case, run.faults, run.outcome);
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CaseRun {
    /// The case.
    pub case: &'static Case,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took by the machine's clock; zero if it did not run.
    pub took: Duration,
    /// What it measured.
    pub figures: Vec<Figure>,
    /// The calls that it made on clients whose link it disturbs.
    pub operations: u64,
    /// The faults that it made at links and servers.
    pub faults: u64,
    /// The calls that it made on its clients.
    pub calls: usize,
    /// Why its first run was inconclusive; all else is of the second one, but `took` of both. `None`:
    /// it ran once at most.
    pub rerun: Option<String>,
}

impl CaseRun {
    pub(super) fn new(
        case: &'static Case,
        outcome: Outcome,
        took: Duration,
        notes: &Notes,
    ) -> Self {
        let (operations, faults) = (notes.operations(), notes.faults());
        let (figures, calls) = (notes.figures(), notes.calls().count());
        Self { case, outcome, took, figures, operations, faults, calls, rerun: None }
    }

    pub(super) fn barred(case: &'static Case, outcome: Outcome) -> Self {
        Self::new(case, outcome, Duration::ZERO, &Notes::default())
    }

    /// What a failed case tells: what was seen, what the contract says, and what was done.
    pub(super) fn failure(&self) -> String {
        let Case { clause, sentence, .. } = self.case;
        let (title, reason) = (clause_title(clause), self.outcome.reason().unwrap_or_default());
        let (seen, done) = reason.split_once('\n').unwrap_or((reason, ""));
        let done = if done.is_empty() { String::new() } else { format!("\n{done}") };
        format!("{seen}\n  Clause {clause} ({title}) expects: {sentence}{done}")
    }
}

impl Report {
    pub(super) fn new(
        fixture: &dyn Fixture,
        guarantees: Guarantees,
        runs: Vec<CaseRun>,
        took: Duration,
    ) -> Self {
        let (store, time, hooks) = (fixture.store(), fixture.time(), fixture.hooks().to_vec());
        Self { store, time, hooks, guarantees, runs, took, at: SystemTime::now() }
    }

    /// What the fixture calls its store.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// What the provider declares.
    pub const fn guarantees(&self) -> &Guarantees {
        &self.guarantees
    }

    /// The cases that were asked for, in the order in which they run.
    pub fn runs(&self) -> &[CaseRun] {
        &self.runs
    }

    /// Those that failed, the clearest first: those of the lowest level, and of these the one that made the
    /// fewest calls.
    pub fn failed(&self) -> impl Iterator<Item = &CaseRun> {
        let is_failed = |run: &&CaseRun| matches!(run.outcome, Outcome::Failed(_));
        let mut failed: Vec<_> = self.runs.iter().filter(is_failed).collect();
        failed.sort_by_key(|run| (run.case.level(), run.calls));
        failed.into_iter()
    }

    /// The levels of which no case ran, since the fixture gives no means to.
    pub fn levels_not_reached(&self) -> impl Iterator<Item = Level> {
        let is_reached = |level: &Level| {
            let tally = self.tally(|run| run.case.level() == *level);
            tally.passed + tally.failed > 0 || tally.not_reached == 0
        };
        Level::ALL.into_iter().filter(move |level| !is_reached(level))
    }

    /// Whether the store passed, and what was not tried.
    fn verdict(&self) -> String {
        let failed = self.failed().count();
        let verdict = match failed {
            0 if self.is_passed() => "passed".to_owned(),
            0 => "nothing passed".to_owned(),
            failed => format!("FAILED, {failed} of {} cases", self.runs.len()),
        };
        let levels: Vec<_> = self.levels_not_reached().map(|level| level.to_string()).collect();
        if levels.is_empty() {
            return verdict;
        }
        format!("{verdict}; not reached: level {}", levels.join(", level "))
    }

    /// Those that ran once more, since their first run was inconclusive.
    pub fn rerun(&self) -> impl Iterator<Item = &CaseRun> {
        self.runs.iter().filter(|run| run.rerun.is_some())
    }

    /// Whether at least one case passed, and none failed.
    pub fn is_passed(&self) -> bool {
        let tally = self.tally(|_| true);
        tally.failed == 0 && tally.passed > 0
    }

    /// Writes `<store>.json` and `<store>.html` into a directory, which is made if need be; returns
    /// their paths.
    ///
    /// # Errors
    /// Whatever keeps it from writing.
    pub fn write_to(&self, directory: &Path) -> io::Result<[PathBuf; 2]> {
        fs::create_dir_all(directory)?;
        let words =
            self.store.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let stem = words.collect::<Vec<_>>().join("-").to_lowercase();
        let [json, html] = ["json", "html"].map(|end| directory.join(format!("{stem}.{end}")));
        fs::write(&json, self.to_json())?;
        fs::write(&html, self.to_html())?;
        Ok([json, html])
    }

    fn of(&self, challenge: Challenge) -> impl Iterator<Item = &CaseRun> {
        self.runs.iter().filter(move |run| run.case.challenge == challenge)
    }

    fn tally(&self, counts: impl Fn(&CaseRun) -> bool) -> Tally {
        self.runs.iter().filter(|run| counts(run)).fold(Tally::default(), Tally::with)
    }

    /// The claims, each with what it is called.
    fn claims(&self) -> Vec<(&'static str, String)> {
        let Guarantees {
            exclusion, expiry, minimum_hold, fairness, wake_up, token_survives, ..
        } = &self.guarantees;
        vec![
            ("exclusion rests on", exclusion.to_string()),
            ("a dead holder's name is free", expiry.to_string()),
            ("a minimum hold is kept by", minimum_hold.to_string()),
            ("waiters are granted", fairness.to_string()),
            ("a waiter learns of a release", wake_up.to_string()),
            ("tokens grow through", token_survives.to_string()),
            (
                "two may believe at once after",
                match self.guarantees.belief_breaks_on {
                    [] => "nothing that is named".to_owned(),
                    events => events.join("; "),
                },
            ),
        ]
    }

    /// What no run on one host can show, whatever passed.
    const fn limits() -> &'static str {
        "All clients ran on one host and one clock. Not shown: what clocks that differ do to leases and \
         tokens, a failover that the fixture does not make, and pauses of a network file system or a \
         virtual machine."
    }

    /// How many cases there are: fewer than all were asked for if a filter chose them.
    fn extent(&self) -> String {
        match (self.runs.len(), cases().len()) {
            (some, all) if some < all => format!("{some} of {all} cases"),
            (all, _) => format!("{all} cases"),
        }
    }

    /// When it was made, as `2026-01-31 23:59 UTC`.
    fn date(&self) -> String {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (days, minutes) = (since.as_secs() / 86_400, since.as_secs() % 86_400 / 60);
        let (year, month, day) = civil(days);
        format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
    }
}

/// The date so many days after 1970-01-01, for days that are not before it.
///
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms" (`civil_from_days`).
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

/// How many cases ended how, and what they did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Tally {
    cases: usize,
    passed: usize,
    failed: usize,
    not_claimed: usize,
    not_reached: usize,
    operations: u64,
    faults: u64,
}

impl Tally {
    fn with(mut self, run: &CaseRun) -> Self {
        self.cases += 1;
        match run.outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::NotClaimed(_) => self.not_claimed += 1,
            Outcome::NotReached(_) => self.not_reached += 1,
        }
        self.operations += run.operations;
        self.faults += run.faults;
        self
    }
}

impl Outcome {
    /// How it is called.
    const fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "failed",
            Self::NotClaimed(_) => "not claimed",
            Self::NotReached(_) => "not reached",
        }
    }

    /// Why it ended so; `None` for what passed.
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Failed(why) | Self::NotClaimed(why) | Self::NotReached(why) => Some(why),
        }
    }
}

/// What a clause is about, in the contract's words: `no residue` for `C9`.
fn clause_title(clause: &str) -> &'static str {
    let contract = include_str!("../../../CONTRACT.md");
    let row = contract.lines().find_map(|line| line.strip_prefix("| **")?.strip_prefix(clause));
    row.and_then(|row| row.strip_prefix(' ')?.split_once("**")).map_or("", |(title, _)| title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_423), (2025, 12, 1));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1));
    }

    #[test]
    fn each_clause_has_a_title() {
        for case in cases() {
            assert_ne!(clause_title(case.clause), "", "{case}");
        }
        assert_eq!(clause_title("C1"), "exclusion");
        assert_eq!(clause_title("C16"), "operators");
    }
}
