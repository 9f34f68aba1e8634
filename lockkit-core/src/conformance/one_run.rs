//! One run of a case: in a runtime of its own, with a time limit.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::case::Case;
use super::context::Context;
use super::fixture::{Fixture, Time};
use super::notes::Notes;
use super::runtime::runtime;
use super::stop::{Stop, Verdict};

/// A case in virtual time may take this long by the machine's clock.
const REAL_LIMIT: Duration = Duration::from_secs(120);
/// How long a fixture may take to connect: the first time, it may start a server.
const CONNECTS: Duration = Duration::from_secs(300);
/// How much later than by its own limit a case is given up: then it blocks its thread.
const GRACE: Duration = Duration::from_secs(30);
/// How long tasks that a case left behind may take to end.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// Runs a case to its end; how it ended.
pub(super) fn ended(case: &'static Case, fixture: Arc<dyn Fixture>, notes: &Notes) -> Verdict {
    let fixture = fixture.fresh().unwrap_or(fixture);
    let time = fixture.time();
    let mut limit = if time == Time::Virtual { REAL_LIMIT } else { CONNECTS };
    let (report, steps) = mpsc::channel();
    let notes = notes.clone();
    let work = move || {
        let ended = in_runtime(case, fixture, notes, &report);
        report.send(Step::Ended(ended))
    };
    let started = thread::Builder::new().name(case.id.to_owned()).spawn(work);
    if let Err(error) = started {
        return Err(Stop::failed(format!("no thread to run in: {error}")));
    }
    loop {
        match steps.recv_timeout(limit) {
            Ok(Step::Ended(ended)) => return ended,
            // It ends itself by then, unless it blocks its thread.
            Ok(Step::Begun(own)) if time == Time::Real => limit = own.saturating_add(GRACE),
            Ok(Step::Begun(_)) => {}
            // A thread that blocks cannot be ended: it is left behind.
            Err(_) => {
                let why = format!(
                    "the case has a limit of {limit:?}, and is still in a call that blocks its thread"
                );
                return Err(Stop::late(why));
            }
        }
    }
}

/// What a case's thread says of it.
enum Step {
    /// It has connected, and has this limit of its own.
    Begun(Duration),
    Ended(Verdict),
}

fn in_runtime(
    case: &'static Case,
    fixture: Arc<dyn Fixture>,
    notes: Notes,
    report: &mpsc::Sender<Step>,
) -> Verdict {
    let runtime = runtime(fixture.time())
        .map_err(|error| Stop::failed(format!("no runtime to run in: {error}")))?;
    let run = in_time(case, fixture, notes, report);
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run)));
    runtime.shutdown_timeout(SHUTDOWN);
    ended.unwrap_or_else(|panic| Err(Stop::failed(format!("panicked: {}", text_of(&*panic)))))
}

async fn in_time(
    case: &'static Case,
    fixture: Arc<dyn Fixture>,
    notes: Notes,
    report: &mpsc::Sender<Step>,
) -> Verdict {
    let connected = fixture.connect().await;
    let provider =
        connected.map_err(|error| Stop::error(&error, "the fixture does not connect"))?;
    if let Some(outcome) = case.barred(&*fixture, &*provider) {
        return Err(Stop::Final(outcome));
    }
    let limit = case.limit_in(fixture.time());
    let context = Context::new(case.id, limit, fixture, provider, notes);
    let context = context.at_its_pace().await;
    let limit = context.limit();
    // The thread that waits for it hears it, or has given up.
    report.send(Step::Begun(limit)).ok();
    let ended = tokio::time::timeout(limit, (case.body)(context)).await;
    let late =
        |_| Stop::late(format!("the case has a limit of {limit:?}, and has not ended within it"));
    ended.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

/// What a panic says.
pub(super) fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
