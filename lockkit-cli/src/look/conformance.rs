//! The conformance suite on the store of a URL.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use lockkit::conformance::{CaseRun, Fixture, Outcome, cases, run_some};
use lockkit::{LockProvider, Schemes, async_trait};
use serde_json::json;

use crate::ending::Failure;

struct Suite {
    url: String,
}

#[async_trait]
impl Fixture for Suite {
    async fn connect(&self) -> lockkit::Result<Arc<dyn LockProvider>> {
        Schemes::new().provider(&self.url).await
    }

    fn store(&self) -> String {
        // A URL may have a password in it.
        self.url.split(':').next().unwrap_or_default().to_owned()
    }
}

/// Runs the chosen cases, shows how far they are, and writes the report.
pub(super) fn run(
    url: &str,
    chosen: &str,
    directory: Option<&Path>,
    is_json: bool,
) -> Result<ExitCode, Failure> {
    let count = cases().iter().filter(|case| case.id.starts_with(chosen)).count();
    if count == 0 {
        return Err(Failure::usage(format!("no case has an id that begins with {chosen}")));
    }
    let bar = ProgressBar::new(u64::try_from(count).unwrap_or_default());
    let style = ProgressStyle::with_template("{elapsed} {wide_bar} {pos} of {len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let suite = Arc::new(Suite { url: url.to_owned() });
    let is_chosen = |case: &lockkit::conformance::Case| case.id.starts_with(chosen);
    let report = run_some(&suite, is_chosen, |run| told(&bar, run, is_json))?;
    bar.finish_and_clear();
    if !is_json {
        anstream::println!("{report}");
    }
    if let Some(directory) = directory {
        let files = report
            .write_to(directory)
            .map_err(|error| Failure::system(&directory.display().to_string(), &error))?;
        if !is_json {
            files.iter().for_each(|file| anstream::println!("written: {}", file.display()));
        }
    }
    Ok(ExitCode::from(u8::from(!report.is_passed())))
}

/// Moves the bar on, and tells of a case that failed at once.
fn told(bar: &ProgressBar, run: &CaseRun, is_json: bool) {
    let (outcome, why) = match &run.outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Failed(why) => ("failed", Some(why)),
        Outcome::NotClaimed(why) => ("not claimed", Some(why)),
        Outcome::NotReached(why) => ("not reached", Some(why)),
        _ => ("unknown", None),
    };
    let id = run.case.id;
    if is_json {
        anstream::println!("{}", json!({"case": id, "outcome": outcome, "why": why}));
    } else if let (Outcome::Failed(_), Some(why)) = (&run.outcome, why) {
        bar.suspend(|| anstream::println!("{id} failed: {why}"));
    }
    bar.set_message(id);
    bar.inc(1);
}
