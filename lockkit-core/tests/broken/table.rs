//! The table of the mistakes that were written down before any case was made for them: which case convicts
//! each, in virtual and in real time, with and without a link.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use lockkit_core::conformance::{Fixture, Outcome, Time, cases, check};

use super::flaw::{Flaw, SmallFixture};
use super::unseen::unseen_flaws;

/// How many mistakes are run side by side: in real time they mostly wait.
const AT_A_TIME: usize = 4;
/// How many cases that convict in virtual time are tried in real time.
const TRIED: usize = 4;

/// A row for each mistake, in Markdown.
pub(crate) fn table() -> String {
    let flaws = unseen_flaws();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(flaw) = flaws.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = row(flaw);
                    // It takes long: what is known so far is told at once.
                    eprintln!("{row}");
                    rows.lock().expect("no panic").push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no panic");
    rows.sort();
    let mut text = String::from(
        "| mistake | clause | virtual | virtual, no link | real | real, no link |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        writeln!(text, "{row}").expect("a string");
    }
    text
}

fn row(flaw: &Flaw) -> String {
    let all: Vec<_> = cases().iter().map(|case| case.id).collect();
    let mut cells = Vec::new();
    for has_link in [true, false] {
        let convicts = |id: &&&str, time| {
            let fixture = SmallFixture::new(flaw, time);
            let fixture = if has_link { fixture } else { fixture.without_link() };
            let fixture: Arc<dyn Fixture> = Arc::new(fixture);
            matches!(check(id, fixture), Outcome::Failed(_))
        };
        // The named cases first: most mistakes need no other.
        let mut left = flaw.caught_by.iter().chain(&all).filter(|id| convicts(id, Time::Virtual));
        let first = left.next();
        let real = first.into_iter().chain(left).take(TRIED).find(|id| convicts(id, Time::Real));
        let shown = |id: Option<&&str>| id.map_or("none", |id| *id).to_owned();
        cells.push([shown(first), shown(real)]);
    }
    let [[with, real], [without, real_without]] = &cells[..] else { return String::new() };
    let (name, clause) = (flaw.name, flaw.clause);
    format!("| `{name}` | {clause} | {with} | {without} | {real} | {real_without} |")
}
