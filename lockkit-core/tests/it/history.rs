//! The checker of histories is itself tested: with bad histories made by hand, with good ones at
//! random, and beside a checker of another kind that searches where ours calculates.

mod bad;
mod good;
mod search;
mod truth;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lockkit_core::conformance::history::{
    AttemptId, Event, History, Recorder, Summary, Violation, Violations, What, read,
};
use lockkit_core::{Clock, FencingToken, Instant, LockName};

/// The verdict on events that are written as their lines, without the unit of a day's work.
fn check(lines: &str) -> Result<Summary, Violations> {
    let mut history = History::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        history.push(line.parse().expect("a line of a history"));
    }
    history.check()
}

fn violations(lines: &str) -> Vec<Violation> {
    check(lines).err().map(|found| found.0).unwrap_or_default()
}

/// The time that this thread has worked: other work on the machine does not count.
#[cfg(unix)]
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.expect("positive"), nanos.expect("below a second"))
}

#[cfg(unix)]
#[test]
fn a_million_grants_are_judged_within_a_second() {
    const PROCESSES: u8 = 16;
    let processes = u64::from(PROCESSES);
    let name = LockName::new("billing/nightly").expect("a name");
    let grant = |grant: u64, events: &mut Vec<Event>| {
        let attempt = AttemptId { process: grant % processes, number: grant / processes };
        let token = FencingToken::new(grant + 1).expect("a token");
        let seen = [
            (0, What::Asks(name.clone())),
            (11, What::Granted(token)),
            (12, What::Reads),
            (13, What::Read(grant)),
            (14, What::Writes { seen: grant, wrote: grant + 1 }),
            (15, What::Wrote),
            (18, What::Releases),
            (20, What::Released),
        ];
        events.extend(seen.map(|(micros, what)| {
            let at = Instant::from_origin(Duration::from_micros(grant * 10 + micros));
            Event { at, attempt, what }
        }));
    };
    let judge = |order: Vec<u64>| {
        let (mut history, mut events, mut judging) = (History::new(), Vec::new(), Duration::ZERO);
        for part in order.chunks(1000) {
            part.iter().for_each(|number| grant(*number, &mut events));
            let started = worked();
            events.drain(..).for_each(|event| history.push(event));
            judging += worked() - started;
        }
        let started = worked();
        let summary = history.check().expect("no violation");
        assert_eq!((summary.grants, summary.accepted), (order.len(), 2 * order.len()));
        judging + (worked() - started)
    };
    // The least of five: what else the machine does, and its want of memory, can only add to it.
    let least = |order: &dyn Fn() -> Vec<u64>| (0..5).map(|_| judge(order())).min().expect("five");
    // Without optimization it takes many times as long: that second is asked for with it, in a step
    // of `cargo xtask test` of its own.
    let most = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let in_order = |grants: u64| least(&|| (0..grants).collect());
    let logs = |grants: u64| {
        let log = |process| (process..grants).step_by(PROCESSES.into());
        least(&|| (0..processes).flat_map(log).collect())
    };
    let (quarter, whole) = (in_order(most / 4), in_order(most));
    let (quarter_of_logs, whole_logs) = (logs(most / 4), logs(most));
    println!("{} grants in {quarter:?}, {most} in {whole:?}", most / 4);
    println!("log by log: {} in {quarter_of_logs:?}, {most} in {whole_logs:?}", most / 4);
    assert!(whole < Duration::from_secs(1) || cfg!(debug_assertions), "{whole:?}");
    // Little more than four times: the larger one fits the caches less.
    assert!(whole < quarter * 10, "four times the input: {quarter:?}, then {whole:?}");
    assert!(whole_logs < quarter_of_logs * 10, "{quarter_of_logs:?}, then {whole_logs:?}");
}

#[test]
fn every_event_comes_back_from_its_line() {
    let name = LockName::new("a b%\n/ä\0").expect("a name");
    let token = FencingToken::MAX;
    for what in [
        What::Asks(name),
        What::Granted(token),
        What::Refused,
        What::Unknown,
        What::Believes,
        What::Releases,
        What::Released,
        What::Lost,
        What::Reads,
        What::Read(7),
        What::Writes { seen: 7, wrote: u64::MAX },
        What::Wrote,
        What::Stale,
    ] {
        let at = Instant::from_origin(Duration::from_nanos(1_000_000_007));
        let event = Event { at, attempt: AttemptId { process: 3, number: 14 }, what };
        let line = event.to_string();
        assert!(!line.contains('\n'), "{line:?}");
        assert_eq!(line.parse::<Event>().ok().as_ref(), Some(&event), "{line:?}");
    }
    for line in ["", "1", "1 2 lost", "1 2.3 gone", "1 2.3 lost 4", "1 2.3 asks", "x 2.3 lost"] {
        assert!(line.parse::<Event>().is_err(), "{line:?}");
    }
}

struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[test]
fn files_of_several_processes_are_one_history() {
    let files = Files(std::env::temp_dir().join(format!("lockkit-history-{}", std::process::id())));
    std::fs::create_dir_all(&files.0).expect("a directory");
    let (one, two) = (files.0.join("1"), files.0.join("2"));
    let name = LockName::new("a name").expect("a name");
    let token = |token| FencingToken::new(token).expect("a token");
    let clock = Clock::manual();
    let first = Recorder::create(&one, 1, clock.clone()).expect("a file");
    let second = Recorder::create(&two, 2, clock.clone()).expect("a file");
    let tick = || clock.advance(Duration::from_nanos(1));
    let a = first.asks(name.clone()).expect("written");
    tick();
    first.saw(a, What::Granted(token(1))).expect("written");
    let b = second.asks(name).expect("written");
    tick();
    second.saw(b, What::Granted(token(2))).expect("written");
    assert!(Recorder::create(&one, 1, clock.clone()).is_err(), "one process, one file");
    let summary = read([&one, &two]).expect("read").check().expect("no violation");
    assert_eq!((summary.names, summary.attempts, summary.grants), (1, 2, 2));
    tick();
    first.saw(a, What::Believes).expect("written");
    let found = read([&one, &two]).expect("read").check().expect_err("an overlap");
    assert!(
        matches!(found.0[..], [Violation::Overlap { by, .. }] if by.as_nanos() == 1),
        "{found}"
    );
    unfinished(&one);
    assert_eq!(read([&one, &two]).expect("read").check(), Err(found));
}

#[test]
fn the_attempts_of_a_process_are_told_apart() {
    let files =
        Files(std::env::temp_dir().join(format!("lockkit-attempts-{}", std::process::id())));
    std::fs::create_dir_all(&files.0).expect("a directory");
    let file = files.0.join("7");
    let recorder = Recorder::create(&file, 7, Clock::manual()).expect("a file");
    for number in 0..3 {
        let attempt = recorder.asks(LockName::new("n").expect("a name")).expect("written");
        assert_eq!(attempt, AttemptId { process: 7, number });
        recorder.saw(attempt, What::Refused).expect("written");
    }
    let summary = read([&file]).expect("read").check().expect("no violation");
    assert_eq!((summary.attempts, summary.grants), (3, 0));
}

/// What a process leaves that is killed while it writes.
fn unfinished(path: &Path) {
    let mut text = std::fs::read_to_string(path).expect("read");
    text.push_str("99 1.0 relea");
    std::fs::write(path, text).expect("written");
}
