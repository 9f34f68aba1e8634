//! Cases with several processes: the test binary starts itself again, and tells what to do by
//! lines.

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{self, Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::context::Context;
use super::fixture::{Fixture, Time};
use super::history::{Recorder, What};
use super::hook::Hook;
use super::outcome::Outcome;
use super::runtime::runtime;
use super::stop::{Stop, Verdict, is_late};
use crate::{Clock, Guard, LockName, Locks, Result};

const STORE: &str = "LOCKKIT_CONFORMANCE_STORE";
/// How many of a process's tasks try at once.
pub(super) const CLIENTS: usize = 8;
/// The most that a process may take to answer: far more than any lock call here.
const PATIENCE: Duration = Duration::from_secs(20);

/// How an answer begins that says of an error that only time explains it.
const LATE: &str = "late";

/// Set once [`serve`] has looked: only then can this binary start itself again.
static SERVED: AtomicBool = AtomicBool::new(false);

/// Does a child's work if this process is one; `None`: it is not.
pub(super) fn serve(fixture: &Arc<dyn Fixture>) -> Option<ExitCode> {
    SERVED.store(true, Ordering::SeqCst);
    let address = env::var(STORE).ok()?;
    let worked = runtime(Time::Real).map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(work(fixture, &address)).map_err(|error| told(&*error))
    });
    Some(match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("a child process of the suite failed: {why}");
            ExitCode::FAILURE
        }
    })
}

/// What an error of a child says; one that only time explains is told to the parent as such.
fn told(error: &(dyn Error + Send + Sync + 'static)) -> String {
    if error.downcast_ref::<crate::Error>().is_some_and(is_late) {
        // A parent that has ended does not hear it.
        say(&format!("{LATE} {error}")).ok();
    }
    error.to_string()
}

async fn work(
    fixture: &Arc<dyn Fixture>,
    address: &str,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let provider = fixture.join(address).await?;
    let locks = Locks::builder().clock(Clock::system()).build(provider);
    let mut guards = Vec::new();
    say("ready")?;
    for line in BufReader::new(std::io::stdin()).lines() {
        let line = line?;
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match order {
            "acquire" => {
                let (millis, name) = rest.split_once(' ').ok_or("acquire <millis> <name>")?;
                let ttl = Duration::from_millis(millis.parse()?);
                let guard = locks.lock(name).ttl(ttl).acquire().await?;
                say(&format!("granted {}", guard.token()))?;
                guards.push(guard);
            }
            "race" => {
                let (won, failed, late) = race(&locks, rest).await?;
                say(&format!("won {} failed {failed} late {late}", won.len()))?;
                guards.extend(won);
            }
            "share" => {
                let mut words = rest.splitn(3, ' ');
                let words = [(); 3].map(|()| words.next().unwrap_or_default());
                let [millis, name, history] = words;
                let for_long = Duration::from_millis(millis.parse()?);
                let recorder = Recorder::create(history, process::id().into(), Clock::system())?;
                let grants = share(&locks, name, for_long, recorder).await?;
                say(&format!("granted {grants}"))?;
            }
            "release" => {
                for guard in guards.drain(..) {
                    guard.release().await?;
                }
                say("released")?;
            }
            // Neither releases nor drops anything: that is what this case is about.
            "exit" => process::exit(0),
            _ => return Err(format!("an unknown order {order:?}").into()),
        }
    }
    process::exit(0)
}

/// All tasks of this process try once, together; the guards, how many got an error, and how many one
/// that only time explains.
async fn race(
    locks: &Locks,
    name: &str,
) -> Result<(Vec<Guard>, usize, usize), Box<dyn Error + Send + Sync>> {
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        tries.spawn(locks.lock(name).try_acquire());
    }
    let (mut won, mut failed, mut late) = (Vec::new(), 0, 0);
    while let Some(tried) = tries.join_next().await {
        match tried? {
            Ok(guard) => won.extend(guard),
            Err(error) if is_late(&error) => late += 1,
            Err(_) => failed += 1,
        }
    }
    Ok((won, failed, late))
}

/// Half of the tasks of a race come again and again `for_long`, and record what they see; how often
/// they were granted.
async fn share(
    locks: &Locks,
    name: &str,
    for_long: Duration,
    recorder: Recorder,
) -> Result<usize, Box<dyn Error + Send + Sync>> {
    let (clock, recorder) = (Clock::system(), Arc::new(recorder));
    let end = clock.now().saturating_add(for_long);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS / 2 {
        let (lock, clock, recorder) = (locks.lock(name), clock.clone(), Arc::clone(&recorder));
        let name = LockName::new(name)?;
        tasks.spawn(async move {
            let mut grants = 0_usize;
            while clock.now() < end {
                let attempt = recorder.asks(name.clone())?;
                let guard = lock.acquire().await?;
                recorder.saw(attempt, What::Granted(guard.token()))?;
                grants += usize::from(clock.now() < end);
                clock.sleep(Duration::from_millis(2)).await;
                let looked = clock.now();
                if guard.is_held() {
                    recorder.saw_at(looked, attempt, What::Believes)?;
                }
                recorder.saw(attempt, What::Releases)?;
                guard.release().await?;
                recorder.saw(attempt, What::Released)?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(grants)
        });
    }
    let mut grants = 0;
    while let Some(ended) = tasks.join_next().await {
        grants += ended??;
    }
    Ok(grants)
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A process that the suite started; killed when dropped.
pub(super) struct Process {
    child: Child,
    orders: ChildStdin,
    answers: mpsc::UnboundedReceiver<String>,
}

impl Process {
    /// Starts one that has joined the store of `cx`.
    pub(super) async fn start(cx: &Context) -> Verdict<Self> {
        let address = cx.fixture.address().ok_or_else(|| {
            let why = format!("{} is listed, and address() is None", Hook::Processes);
            Stop::failed(why)
        })?;
        if !SERVED.load(Ordering::SeqCst) {
            let why = "only a binary that begins with conformance::main starts processes";
            return Err(Stop::Final(Outcome::NotReached(why.into())));
        }
        let mut child = Command::new(env::current_exe()?)
            .env(STORE, address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(orders), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Stop::failed("a process without its pipes"));
        };
        let (heard, answers) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if heard.send(line).is_err() {
                    return;
                }
            }
        });
        let mut process = Self { child, orders, answers };
        process.expect("ready").await?;
        Ok(process)
    }

    /// Gives it an order, without waiting for the answer.
    pub(super) fn tell(&mut self, order: &str) -> Verdict {
        writeln!(self.orders, "{order}")?;
        Ok(self.orders.flush()?)
    }

    /// Its next answer, which must start with `start`; what follows.
    pub(super) async fn expect(&mut self, start: &str) -> Verdict<String> {
        let Ok(heard) = tokio::time::timeout(PATIENCE, self.answers.recv()).await else {
            return Err(Stop::late(format!("a process did not say {start:?} within {PATIENCE:?}")));
        };
        let line = heard.unwrap_or_else(|| "no answer".to_owned());
        match line.strip_prefix(start) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => {
                let why = format!("a process said {line:?} instead of {start:?}");
                Err(if line.starts_with(LATE) { Stop::late(why) } else { Stop::failed(why) })
            }
        }
    }

    /// Kills it, with no chance to clean up.
    pub(super) fn kill(&mut self) -> Verdict {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Has it exit without releasing anything.
    pub(super) fn exit(&mut self) -> Verdict {
        self.tell("exit")?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
