//! The tasks in processes of their own: each child is the bench's own program.
//!
//! A child takes its turns from the start, and reads two lines: at the first it begins to count, at the second it
//! answers with its grants and its longest wait, and ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::report::Part;
use crate::rounds::{Signals, share, turns};
use crate::way::{Store, Task, Way};

const VARIABLE: &str = "LOCKKIT_BENCH_CHILD";
const WARM_UP: Duration = Duration::from_millis(1_000);

/// Whether another process of the bench started this one.
#[must_use]
pub fn is_child() -> bool {
    [VARIABLE, crate::crash::VARIABLE].map(std::env::var_os).iter().any(Option::is_some)
}

/// Whether this process is such a child. If so, and the way is one of these, it does its work.
///
/// # Panics
/// If the work does.
#[must_use]
pub(crate) fn as_child<S: Store>(ways: &[Way<S::Kind>]) -> bool {
    let Ok(text) = std::env::var(VARIABLE) else { return false };
    let words: Vec<_> = text.split('\n').collect();
    let Some(&way) = ways.iter().find(|way| way.label == words[1]) else { return true };
    let (store, name) = (S::at(words[0]), words[2].to_owned());
    let hold = Duration::from_millis(words[3].parse().expect("milliseconds"));
    let signals = Signals::default();
    let told = signals.clone();
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lines();
        lines.next();
        told.count(true);
        lines.next();
        told.count(false);
        told.end();
    });
    let (grants, longest) = crate::in_a_task(async move {
        let mut task = store.tasks(&way, 1).await.remove(0);
        task.prepare(&name).await;
        let counted = turns(&mut task, &name, hold, &signals).await;
        task.close().await;
        counted
    });
    println!("{grants} {}", longest.as_micros());
    true
}

/// Grants per second to so many processes with a task each, for each way in each round.
///
/// # Panics
/// If a child does not answer.
pub(crate) fn processes<S: Store>(
    store: &S,
    ways: &[Way<S::Kind>],
    rounds: usize,
    count: usize,
    hold: Duration,
    window: Duration,
) -> Part {
    let title = format!("{count} processes on one name, each holds for {} ms", hold.as_millis());
    let mut part = Part::new(title, "grants/s");
    let mut all: Vec<Vec<(f64, f64, u64)>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (way, figures) in ways.iter().zip(&mut all) {
            let name = format!("processes-{round}");
            figures.push(rate(&store.address(), way.label, &name, count, hold, window));
        }
    }
    for (way, rates) in ways.iter().zip(all) {
        let least = rates.iter().map(|rate| rate.1).fold(1.0, f64::min);
        let longest = rates.iter().map(|rate| rate.2).max().unwrap_or_default();
        let note = format!("least/most {least:.2}, longest wait {} ms", longest / 1000);
        part = part.row(way.label, rates.iter().map(|rate| rate.0).collect(), note);
    }
    part
}

/// One round of a way: its rate, the least over the most grants of a process, and the longest wait in µs.
fn rate(
    address: &str,
    label: &str,
    name: &str,
    count: usize,
    hold: Duration,
    window: Duration,
) -> (f64, f64, u64) {
    let asked = format!("{address}\n{label}\n{name}\n{}", hold.as_millis());
    let mut children: Vec<(Child, ChildStdin)> = (0..count).map(|_| child(&asked)).collect();
    std::thread::sleep(WARM_UP);
    let began = Instant::now();
    tell(&mut children);
    std::thread::sleep(window);
    let took = began.elapsed();
    tell(&mut children);
    let (mut grants, mut longest) = (Vec::new(), 0);
    for (mut child, stdin) in children {
        let mut lines = BufReader::new(child.stdout.take().expect("the child's answer")).lines();
        let answer = lines.next().expect("an answer").expect("a line");
        let (granted, waited) = answer.split_once(' ').expect("two numbers");
        grants.push(granted.parse().expect("a number of grants"));
        longest = longest.max(waited.parse().expect("microseconds"));
        drop(stdin);
        child.wait().expect("the child's end");
    }
    (f64::from(grants.iter().sum::<u32>()) / took.as_secs_f64(), share(&grants), longest)
}

fn child(asked: &str) -> (Child, ChildStdin) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.env(VARIABLE, asked).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a child");
    let stdin = child.stdin.take().expect("the child's input");
    (child, stdin)
}

fn tell(children: &mut [(Child, ChildStdin)]) {
    for (_, stdin) in children {
        writeln!(stdin).expect("the child reads");
    }
}
