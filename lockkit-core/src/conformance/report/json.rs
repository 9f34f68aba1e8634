//! The report as JSON. Its page shows the same values.

use std::time::Duration;

use serde::Serialize;

use super::{CaseRun, Report, Tally, clause_title};
use crate::conformance::case::{Challenge, Level};
use crate::conformance::cases::cases;
use crate::conformance::fixture::Time;
use crate::conformance::notes::{Figure, Measure};
use crate::{Expiry, Fairness, Guarantees, TokenScope, TtlRange, WakeUp};

impl Report {
    /// All of it as one JSON object.
    pub fn to_json(&self) -> String {
        text(self)
    }
}

fn text(report: &Report) -> String {
    // Only a map whose keys are no strings cannot be written, and a view has structs alone.
    serde_json::to_string_pretty(&View::of(report)).expect("a view is JSON")
}

/// The report, member by member.
#[derive(Serialize)]
pub(super) struct View<'a> {
    store: &'a str,
    suite: &'static str,
    date: String,
    time: &'static str,
    seconds: f64,
    passed: bool,
    is_whole: bool,
    verdict: String,
    levels_not_reached: Vec<u8>,
    limits: &'static str,
    hooks: Vec<String>,
    declared: Declared,
    summary: Tally,
    levels: Vec<OfLevel>,
    challenges: Vec<OfChallenge>,
    cases: Vec<OneCase<'a>>,
}

#[derive(Serialize)]
struct Declared {
    exclusion: String,
    expiry: &'static str,
    ttl: Option<Range>,
    fifo: bool,
    polls_every_seconds: Option<f64>,
    #[serde(with = "Survived")]
    token_survives: TokenScope,
    belief_breaks_on: &'static [&'static str],
}

#[derive(Serialize)]
struct Range {
    min_seconds: f64,
    max_seconds: f64,
    step_seconds: f64,
}

/// How serde writes a [`TokenScope`].
#[derive(Serialize)]
#[serde(remote = "TokenScope")]
struct Survived {
    release: bool,
    expiry: bool,
    holder_crash: bool,
    server_restart: bool,
    failover: bool,
    data_loss: bool,
}

#[derive(Serialize)]
struct OfLevel {
    level: u8,
    #[serde(flatten)]
    tally: Tally,
}

#[derive(Serialize)]
struct OfChallenge {
    challenge: &'static str,
    #[serde(flatten)]
    tally: Tally,
}

#[derive(Serialize)]
struct OneCase<'a> {
    id: &'static str,
    challenge: &'static str,
    clause: &'static str,
    about: &'static str,
    sentence: &'static str,
    level: u8,
    outcome: &'static str,
    reason: Option<&'a str>,
    rerun: Option<&'a str>,
    seconds: f64,
    operations: u64,
    faults: u64,
    calls: usize,
    figures: Vec<Measured<'a>>,
}

#[derive(Serialize)]
struct Measured<'a> {
    what: &'a str,
    #[serde(flatten)]
    value: Value,
}

/// One member, called after its unit.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Value {
    Seconds(f64),
    Count(u64),
}

impl<'a> View<'a> {
    pub(super) fn of(report: &'a Report) -> Self {
        let level = |level: Level| OfLevel {
            level: level.number(),
            tally: report.tally(|run| run.case.level() == level),
        };
        let challenge = |challenge: Challenge| OfChallenge {
            challenge: challenge.as_str(),
            tally: report.tally(|run| run.case.challenge == challenge),
        };
        Self {
            store: &report.store,
            suite: concat!("lockkit-core ", env!("CARGO_PKG_VERSION")),
            date: report.date(),
            time: if report.time == Time::Virtual { "virtual" } else { "real" },
            seconds: report.took.as_secs_f64(),
            passed: report.is_passed(),
            verdict: report.verdict(),
            levels_not_reached: report.levels_not_reached().map(Level::number).collect(),
            limits: Report::limits(),
            is_whole: report.runs.len() == cases().len(),
            hooks: report.hooks.iter().map(ToString::to_string).collect(),
            declared: Declared::of(&report.guarantees),
            summary: report.tally(|_| true),
            levels: Level::ALL.map(level).into(),
            challenges: Challenge::ALL.map(challenge).into(),
            cases: report.runs.iter().map(OneCase::of).collect(),
        }
    }
}

impl Declared {
    fn of(guarantees: &Guarantees) -> Self {
        Self {
            exclusion: guarantees.exclusion.to_string(),
            expiry: match guarantees.expiry {
                Expiry::Ttl(_) => "ttl",
                Expiry::Session(_) => "session",
                Expiry::Connection(_) => "connection",
                Expiry::HolderDeath => "holder death",
            },
            ttl: guarantees.expiry.range().map(|range| Range::of(&range)),
            fifo: guarantees.fairness == Fairness::Fifo,
            polls_every_seconds: match guarantees.wake_up {
                WakeUp::Push => None,
                WakeUp::Poll(every) => Some(every.as_secs_f64()),
            },
            token_survives: guarantees.token_survives,
            belief_breaks_on: guarantees.belief_breaks_on,
        }
    }
}

impl Range {
    fn of(range: &TtlRange) -> Self {
        let [min_seconds, max_seconds, step_seconds] =
            [range.min, range.max, range.granularity].map(|time: Duration| time.as_secs_f64());
        Self { min_seconds, max_seconds, step_seconds }
    }
}

impl<'a> OneCase<'a> {
    fn of(run: &'a CaseRun) -> Self {
        Self {
            id: run.case.id,
            challenge: run.case.challenge.as_str(),
            clause: run.case.clause,
            about: clause_title(run.case.clause),
            sentence: run.case.sentence,
            level: run.case.level().number(),
            outcome: run.outcome.word(),
            reason: run.outcome.reason(),
            rerun: run.rerun.as_deref(),
            seconds: run.took.as_secs_f64(),
            operations: run.operations,
            faults: run.faults,
            calls: run.calls,
            figures: run.figures.iter().map(Measured::of).collect(),
        }
    }
}

impl<'a> Measured<'a> {
    fn of(figure: &'a Figure) -> Self {
        let value = match figure.value {
            Measure::Time(time) => Value::Seconds(time.as_secs_f64()),
            Measure::Count(count) => Value::Count(count),
        };
        Self { what: &figure.what, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_text_contains_is_one_string() {
        let awkward = "a \"quote\", a \\, a\ttab,\na line, \u{1} and \u{85}, é and 🔒";
        let figure = Figure { what: awkward.to_owned(), value: Measure::Count(7) };
        let text = serde_json::to_string(&Measured::of(&figure)).expect("it is JSON");
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(parsed, serde_json::json!({ "what": awkward, "count": 7 }));
    }
}
