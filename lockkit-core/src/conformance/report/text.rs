//! The report as a table for a terminal.

use std::fmt;

use super::{Report, Tally};
use crate::conformance::case::{Challenge, Level};
use crate::conformance::fixture::Time;
use crate::conformance::outcome::Outcome;

const HEAD: [&str; 4] = ["passed", "failed", "not claimed", "not reached"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = if self.time == Time::Virtual { ", in virtual time" } else { "" };
        writeln!(
            f,
            "{}: {} in {:.1?}{time}: {}",
            self.store,
            self.extent(),
            self.took,
            self.verdict()
        )?;

        let [passed, failed, not_claimed, not_reached] = HEAD;
        let head = format_args!("{passed:>7}{failed:>8}{not_claimed:>13}{not_reached:>13}");
        writeln!(f, "\n{:<24}{head}", "challenge")?;
        for challenge in Challenge::ALL {
            row(f, challenge.as_str(), &self.tally(|run| run.case.challenge == challenge))?;
            let marks: String = self.of(challenge).map(|run| mark(&run.outcome)).collect();
            writeln!(f, "  {marks}")?;
        }
        row(f, "all", &self.tally(|_| true))?;
        writeln!(f, "  . passed  F failed  - not claimed  ? not reached")?;

        writeln!(f, "\n{:<24}{head}{:>12}{:>9}", "level", "operations", "faults")?;
        for level in Level::ALL {
            let tally = self.tally(|run| run.case.level() == level);
            row(f, &level.to_string(), &tally)?;
            match tally {
                Tally { operations: 0, faults: 0, .. } => writeln!(f)?,
                Tally { operations, faults, .. } => writeln!(f, "{operations:>12}{faults:>9}")?,
            }
        }

        writeln!(f, "\nmeasured")?;
        for run in &self.runs {
            for figure in &run.figures {
                writeln!(f, "  {:<18}{:<36}{:>12}", run.case.id, figure.what, figure.value)?;
            }
        }
        writeln!(f, "\ndeclared")?;
        for (what, claim) in self.claims() {
            writeln!(f, "  {what:<30} {claim}")?;
        }
        for word in ["not claimed", "not reached"] {
            skipped(f, self, word)?;
        }
        rerun(f, self)?;
        writeln!(f, "\n{}", Self::limits())?;
        if self.failed().count() > 1 {
            writeln!(f, "\n{} cases failed; the clearest comes first.", self.failed().count())?;
        }
        for run in self.failed() {
            writeln!(f, "\nfailed: {}: {}", run.case.id, run.failure())?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, what: &str, tally: &Tally) -> fmt::Result {
    let Tally { passed, failed, not_claimed, not_reached, .. } = tally;
    write!(f, "{what:<24}{passed:>7}{failed:>8}{not_claimed:>13}{not_reached:>13}")
}

/// The cases that ended so, together where they have one reason.
fn skipped(f: &mut fmt::Formatter<'_>, report: &Report, word: &str) -> fmt::Result {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for run in report.runs.iter().filter(|run| run.outcome.word() == word) {
        let reason = run.outcome.reason().unwrap_or_default();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, ids)) => ids.push(run.case.id),
            None => reasons.push((reason, vec![run.case.id])),
        }
    }
    for (reason, ids) in reasons {
        writeln!(f, "\n{word} ({reason}): {}", ids.join(", "))?;
    }
    Ok(())
}

/// How many cases ran once more, which ones, and why.
fn rerun(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let count = report.rerun().count();
    if count > 0 {
        writeln!(f, "\nre-run: {count}")?;
    }
    for run in report.rerun() {
        let why = run.rerun.as_deref().unwrap_or_default();
        writeln!(f, "  {}: {why}", run.case.id)?;
    }
    Ok(())
}

const fn mark(outcome: &Outcome) -> char {
    match outcome {
        Outcome::Passed => '.',
        Outcome::Failed(_) => 'F',
        Outcome::NotClaimed(_) => '-',
        Outcome::NotReached(_) => '?',
    }
}
