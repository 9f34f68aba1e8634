//! The report as one page: no scripts, no other files, light and dark as the reader has it.

use std::fmt::{Display, Write};
use std::time::Duration;

use super::{CaseRun, Report, Tally, clause_title};
use crate::conformance::{Challenge, Hook, Level, Measure, Outcome, Time};

/// The figures at the top of the page: those that a reader asks for first.
/// Of two with one name, the first that was measured.
const HEADLINES: [(&str, &str, &str); 7] = [
    ("SF-10", "margin, smallest", "smallest margin at an expiry"),
    ("LV-03", "margin, smallest", "smallest margin at an expiry"),
    ("PF-02", "hand-off, p50", "hand-off, half of them"),
    ("PF-02", "hand-off, p99", "hand-off, 99 of a hundred"),
    ("PF-01", "acquire, p50", "acquire, uncontended"),
    ("PF-01", "release, p50", "release, uncontended"),
    ("LV-01", "end to next grant, slowest", "killed holder to next grant"),
];

pub(super) fn page(report: &Report) -> String {
    let tally = report.tally(|_| true);
    let store = escaped(&report.store);
    let verdict = if report.is_passed() { "passed" } else { "failed" };
    let time = if report.time == Time::Virtual { ", in virtual time," } else { "" };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{store}: lockkit conformance, {verdict}</title>\n<style>\n{}</style>\n</head>\n\
         <body>\n<header>\n<p class=\"kicker\">lockkit conformance</p>\n\
         <h1>{store} <span class=\"{verdict}\">{verdict}</span></h1>\n\
         <p>{} in {:.0?}{time} on {} · lockkit-core {}</p>\n</header>\n",
        include_str!("page.css"),
        report.extent(),
        report.took,
        report.date(),
        env!("CARGO_PKG_VERSION"),
    );
    summary(&mut page, &tally);
    failures(&mut page, report);
    grid(&mut page, report);
    headlines(&mut page, report);
    claims(&mut page, report);
    levels(&mut page, report);
    for challenge in Challenge::ALL.into_iter().filter(|one| report.of(*one).next().is_some()) {
        section(&mut page, report, challenge);
    }
    page.push_str(
        "<footer>Only what ran and held counts as passed. <em>Not claimed</em>: the store does not \
         declare it. <em>Not reached</em>: the fixture has no means to try it. Times were taken \
         while other cases ran beside; they are no benchmark.</footer>\n</body>\n</html>\n",
    );
    page
}

fn summary(page: &mut String, tally: &Tally) {
    page.push_str("<section class=\"tiles\">\n");
    for (word, count) in tally.ends() {
        let class = if count == 0 { "none".to_owned() } else { class(word) };
        put(page, format_args!("<div class=\"{class}\"><b>{count}</b> {word}</div>\n"));
    }
    page.push_str("</section>\n");
}

fn failures(page: &mut String, report: &Report) {
    if report.failed().next().is_none() {
        return;
    }
    page.push_str("<section>\n<h2>What failed</h2>\n");
    for run in report.failed() {
        let why = escaped(run.outcome.reason().unwrap_or_default());
        let (id, sentence) = (run.case.id, escaped(run.case.sentence));
        put(
            page,
            format_args!(
                "<article class=\"failure\"><h3><a href=\"#{id}\">{id}</a> {sentence}</h3>\
                 <pre>{why}</pre></article>\n"
            ),
        );
    }
    page.push_str("</section>\n");
}

fn grid(page: &mut String, report: &Report) {
    page.push_str("<section>\n<h2>Six challenges</h2>\n<table class=\"grid\">\n");
    for challenge in Challenge::ALL {
        let tally = report.tally(|run| run.case.challenge == challenge);
        put(page, format_args!("<tr><th scope=\"row\">{challenge}</th><td>"));
        for run in report.of(challenge) {
            let (id, word) = (run.case.id, run.outcome.word());
            let class = class(word);
            let sentence = escaped(run.case.sentence);
            put(
                page,
                format_args!(
                    "<a class=\"{class}\" href=\"#{id}\" title=\"{id}, {word}: {sentence}\" \
                     aria-label=\"{id}, {word}\"></a>"
                ),
            );
        }
        put(
            page,
            format_args!(
                "</td><td class=\"number\">{}/{}</td></tr>\n",
                tally.passed,
                tally.cases()
            ),
        );
    }
    page.push_str("</table>\n</section>\n");
}

fn headlines(page: &mut String, report: &Report) {
    let mut measured: Vec<_> = HEADLINES
        .iter()
        .filter_map(|(id, what, name)| {
            let run = report.runs.iter().find(|run| run.case.id == *id)?;
            let figure = run.figures.iter().find(|figure| figure.what == *what)?;
            Some((name, id, figure.value))
        })
        // Where time is virtual, a call takes none.
        .filter(|(_, _, value)| *value != Measure::Time(Duration::ZERO))
        .collect();
    measured.dedup_by_key(|(name, ..)| *name);
    if measured.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Measured</h2>\n<div class=\"tiles\">\n");
    for (name, id, value) in measured {
        put(
            page,
            format_args!(
                "<div class=\"figure\"><b>{value}</b> <a href=\"#{id}\">{name}</a></div>\n"
            ),
        );
    }
    page.push_str("</div>\n</section>\n");
}

fn claims(page: &mut String, report: &Report) {
    page.push_str("<section>\n<h2>What the store declares</h2>\n<dl>\n");
    for (what, claim) in report.claims() {
        put(page, format_args!("<dt>{what}</dt><dd>{}</dd>\n", escaped(&claim)));
    }
    page.push_str("</dl>\n</section>\n");
}

fn levels(page: &mut String, report: &Report) {
    page.push_str("<section>\n<h2>How deep</h2>\n<table>\n<tr><th>level</th>");
    let ends = Tally::default().ends().map(|(word, _)| word);
    for head in ends.into_iter().chain(["operations", "faults"]) {
        put(page, format_args!("<th class=\"number\">{head}</th>"));
    }
    page.push_str("</tr>\n");
    for level in Level::ALL {
        let tally = report.at(level).fold(Tally::default(), Tally::with);
        put(page, format_args!("<tr><th scope=\"row\">{level}</th>"));
        let ends = tally.ends().map(|(_, count)| count as u64);
        for count in ends.into_iter().chain([tally.operations, tally.faults]) {
            put(page, format_args!("<td class=\"number\">{count}</td>"));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n<p>Hooks of the fixture: ");
    let hooks: Vec<_> = report.hooks.iter().map(Hook::to_string).collect();
    page.push_str(&escaped(if hooks.is_empty() { "none".into() } else { hooks.join(", ") }));
    page.push_str(".</p>\n</section>\n");
}

fn section(page: &mut String, report: &Report, challenge: Challenge) {
    put(page, format_args!("<section>\n<h2>{challenge}</h2>\n<table class=\"cases\">\n"));
    report.of(challenge).for_each(|run| case(page, run));
    page.push_str("</table>\n</section>\n");
}

fn case(page: &mut String, run: &CaseRun) {
    let (id, clause, word) = (run.case.id, run.case.clause, run.outcome.word());
    let (class, title) = (class(word), clause_title(clause));
    let sentence = escaped(run.case.sentence);
    put(
        page,
        format_args!(
            "<tr id=\"{id}\"><th scope=\"row\">{id}</th><td>{sentence}<small>{clause} {title}"
        ),
    );
    if run.operations + run.faults > 0 {
        put(page, format_args!(" · {} operations, {} faults", run.operations, run.faults));
    }
    for figure in &run.figures {
        put(page, format_args!(" · {} {}", escaped(&figure.what), figure.value));
    }
    page.push_str("</small>");
    if let Some(reason) = run.outcome.reason() {
        let element = if matches!(run.outcome, Outcome::Failed(_)) { "pre" } else { "small" };
        put(page, format_args!("<{element}>{}</{element}>", escaped(reason)));
    }
    put(page, format_args!("</td><td><span class=\"{class}\">{word}</span></td>"));
    let took = if run.took.is_zero() { String::new() } else { format!("{:.1?}", run.took) };
    put(page, format_args!("<td class=\"number\">{took}</td></tr>\n"));
}

/// The class of an outcome's word.
fn class(word: &str) -> String {
    word.replace(' ', "-")
}

/// The text as HTML shows it, in elements and in attributes.
fn escaped(text: impl Display) -> String {
    let mut escaped = String::new();
    for c in text.to_string().chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes everything.
    page.write_fmt(text).ok();
}
