//! The report as JSON.

use std::fmt;
use std::time::Duration;

use super::{CaseRun, Report, Tally, clause_title};
use crate::conformance::{Challenge, Figure, Level, Measure, Time, cases};
use crate::{Expiry, Fairness, Guarantees, TokenScope, WakeUp};

/// A JSON value: no more of it than a report needs.
pub(super) enum Json {
    Null,
    Bool(bool),
    Count(u64),
    Seconds(Duration),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(&'static str, Self)>),
}

use Json::{Bool, Count, List, Null, Object, Seconds};

pub(super) fn of(report: &Report) -> Json {
    let tally = report.tally(|_| true);
    let level = |level: Level| {
        let mut members = ends(&report.tally(|run| run.case.level() == level));
        members.insert(0, ("level", Count(level.number().into())));
        Object(members)
    };
    let challenge = |challenge: Challenge| {
        let mut members = ends(&report.tally(|run| run.case.challenge == challenge));
        members.insert(0, ("challenge", text(challenge)));
        Object(members)
    };
    Object(vec![
        ("store", text(&report.store)),
        ("suite", text(concat!("lockkit-core ", env!("CARGO_PKG_VERSION")))),
        ("date", text(report.date())),
        ("time", text(if report.time == Time::Virtual { "virtual" } else { "real" })),
        ("seconds", Seconds(report.took)),
        ("passed", Bool(report.is_passed())),
        ("is_whole", Bool(report.runs.len() == cases().len())),
        ("hooks", List(report.hooks.iter().map(text).collect())),
        ("declared", declared(&report.guarantees)),
        ("summary", Object(ends(&tally))),
        ("levels", List(Level::ALL.map(level).into())),
        ("challenges", List(Challenge::ALL.map(challenge).into())),
        ("cases", List(report.runs.iter().map(case).collect())),
    ])
}

fn ends(tally: &Tally) -> Vec<(&'static str, Json)> {
    let count = |count: usize| Count(count as u64);
    vec![
        ("cases", count(tally.cases())),
        ("passed", count(tally.passed)),
        ("failed", count(tally.failed)),
        ("not_claimed", count(tally.not_claimed)),
        ("not_reached", count(tally.not_reached)),
        ("operations", Count(tally.operations)),
        ("faults", Count(tally.faults)),
    ]
}

fn declared(guarantees: &Guarantees) -> Json {
    let TokenScope { release, expiry, holder_crash, server_restart, failover, data_loss } =
        guarantees.token_survives;
    let range = guarantees.expiry.range().map(|range| {
        Object(vec![
            ("min_seconds", Seconds(range.min)),
            ("max_seconds", Seconds(range.max)),
            ("step_seconds", Seconds(range.granularity)),
        ])
    });
    Object(vec![
        ("exclusion", text(guarantees.exclusion)),
        (
            "expiry",
            text(match guarantees.expiry {
                Expiry::Ttl(_) => "ttl",
                Expiry::Session(_) => "session",
                Expiry::Connection(_) => "connection",
                Expiry::HolderDeath => "holder death",
            }),
        ),
        ("ttl", range.unwrap_or(Null)),
        ("fifo", Bool(guarantees.fairness == Fairness::Fifo)),
        (
            "polls_every_seconds",
            match guarantees.wake_up {
                WakeUp::Push => Null,
                WakeUp::Poll(every) => Seconds(every),
            },
        ),
        (
            "token_survives",
            Object(vec![
                ("release", Bool(release)),
                ("expiry", Bool(expiry)),
                ("holder_crash", Bool(holder_crash)),
                ("server_restart", Bool(server_restart)),
                ("failover", Bool(failover)),
                ("data_loss", Bool(data_loss)),
            ]),
        ),
        ("belief_breaks_on", List(guarantees.belief_breaks_on.iter().map(text).collect())),
    ])
}

fn case(run: &CaseRun) -> Json {
    let figure = |figure: &Figure| {
        let value = match figure.value {
            Measure::Time(time) => ("seconds", Seconds(time)),
            Measure::Count(count) => ("count", Count(count)),
        };
        Object(vec![("what", text(&figure.what)), value])
    };
    Object(vec![
        ("id", text(run.case.id)),
        ("challenge", text(run.case.challenge)),
        ("clause", text(run.case.clause)),
        ("about", text(clause_title(run.case.clause))),
        ("sentence", text(run.case.sentence)),
        ("level", Count(run.case.level().number().into())),
        ("outcome", text(run.outcome.word())),
        ("reason", run.outcome.reason().map_or(Null, text)),
        ("seconds", Seconds(run.took)),
        ("operations", Count(run.operations)),
        ("faults", Count(run.faults)),
        ("figures", List(run.figures.iter().map(figure).collect())),
    ])
}

fn text(text: impl fmt::Display) -> Json {
    Json::Text(text.to_string())
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Null => f.write_str("null"),
            Bool(value) => write!(f, "{value}"),
            Count(count) => write!(f, "{count}"),
            Seconds(time) => write!(f, "{}", time.as_secs_f64()),
            Self::Text(text) => quoted(f, text),
            List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "\n" } else { ",\n" })?;
                }
                f.write_str("]")
            }
            Object(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    write!(f, "{}\"{name}\": {value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_text_contains_is_one_string() {
        let awkward = "a \"quote\", a \\, a\ttab,\na line, \u{1} and \u{85}, é and 🔒";
        let parsed: serde_json::Value =
            serde_json::from_str(&text(awkward).to_string()).expect("it is JSON");
        assert_eq!(parsed, awkward);
    }
}
