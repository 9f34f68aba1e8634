//! The report as one page: no scripts, no other files, light and dark as the reader has it.

use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use super::json::View;
use super::{CaseRun, Report};
use crate::conformance::case::Level;
use crate::conformance::notes::Measure;

/// The figures at the top of the page: those that a reader asks for first.
/// Of two with one name, the first that was measured.
const HEADLINES: [(&str, &str, &str); 7] = [
    ("SF-10", "margin, smallest", "smallest margin at an expiry"),
    ("LV-03", "margin, smallest", "smallest margin at an expiry"),
    ("PF-02", "hand-off, p50", "hand-off, p50"),
    ("PF-02", "hand-off, p99", "hand-off, p99"),
    ("PF-01", "acquire, p50", "acquire, uncontended, p50"),
    ("PF-01", "release, p50", "release, uncontended, p50"),
    ("LV-01", "end to next grant, slowest", "killed holder to next grant"),
];

/// What the template shows: the report as JSON has it, and what only a reader needs.
#[derive(Serialize)]
struct Page<'a> {
    style: &'static str,
    report: View<'a>,
    extent: String,
    /// In the order in which the report tells them.
    failed: Vec<Failed>,
    headlines: Vec<Headline>,
    claims: Vec<(&'static str, String)>,
    /// In the order of the report's levels.
    level_names: [String; 4],
}

#[derive(Serialize)]
struct Failed {
    id: &'static str,
    sentence: &'static str,
    why: String,
}

#[derive(Serialize)]
struct Headline {
    name: &'static str,
    id: &'static str,
    value: String,
}

impl Failed {
    fn of(run: &CaseRun) -> Self {
        Self { id: run.case.id, sentence: run.case.sentence, why: run.failure() }
    }
}

impl Report {
    /// All of it as one HTML page, which needs no other file.
    pub fn to_html(&self) -> String {
        page(self)
    }
}

fn page(report: &Report) -> String {
    let page = Page {
        style: include_str!("page.css"),
        report: View::of(report),
        extent: report.extent(),
        failed: report.failed().map(Failed::of).collect(),
        headlines: headlines(report),
        claims: report.claims(),
        level_names: Level::ALL.map(|level| level.to_string()),
    };
    // The end of the template's name has every value escaped for HTML.
    environment()
        .render_named_str("page.html", include_str!("page.html"), Serde(&page))
        .expect("the template names only what a page has")
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    environment.set_syntax(syntax.build().expect("the usual delimiters"));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("time", |seconds: f64, digits: usize| {
        format!("{:.digits$?}", Duration::from_secs_f64(seconds))
    });
    environment
}

fn headlines(report: &Report) -> Vec<Headline> {
    let mut headlines: Vec<_> = HEADLINES
        .iter()
        .filter_map(|(id, what, name)| {
            let run = report.runs.iter().find(|run| run.case.id == *id)?;
            let figure = run.figures.iter().find(|figure| figure.what == *what)?;
            // Where time is virtual, a call takes none.
            let measured = figure.value != Measure::Time(Duration::ZERO);
            measured.then(|| Headline { name, id, value: figure.value.to_string() })
        })
        .collect();
    headlines.dedup_by_key(|headline| headline.name);
    headlines
}
