//! One process of a soak with two versions: takes a few names in turns, and writes down what it sees.
//!
//! `cargo xtask soak` builds this source in two trees, that of today and that of the oldest commit that
//! today's clients may run beside. So it uses only what both have.

use std::time::Duration;
use std::{env, io};

use lockkit::{Clock, Error, Locks};
use lockkit_core::LockName;
use lockkit_core::conformance::history::{Recorder, What};

/// The ttl of every lock, which each store grants.
const TTL: Duration = Duration::from_secs(4);
/// How long it holds and rests, and how often a holder looks.
const HOLD: Duration = Duration::from_millis(6);
const LOOK: Duration = Duration::from_millis(2);
/// How long an attempt waits before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Arguments: the store's URL, the file to write, this process's number, for how many seconds it runs,
/// and the names.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().ok_or("an argument is missing");
    let (url, file) = (next()?, next()?);
    let (process, seconds): (u64, u64) = (next()?.parse()?, next()?.parse()?);
    let names: Vec<String> = arguments.collect();
    let clock = Clock::system();
    let recorder = Recorder::create(file, process, clock.clone())?;
    let locks = lockkit::connect(&url).await?;
    let end = clock.now().saturating_add(Duration::from_secs(seconds));
    for name in names.iter().cycle() {
        if clock.now() >= end {
            break;
        }
        turn(&locks, &clock, &recorder, name).await?;
        tokio::time::sleep(HOLD).await;
    }
    Ok(locks.close(PATIENCE).await?)
}

async fn turn(locks: &Locks, clock: &Clock, recorder: &Recorder, name: &str) -> Outcome<()> {
    let attempt = recorder.asks(LockName::new(name)?)?;
    let saw = |what| -> io::Result<()> { recorder.saw(attempt, what) };
    let guard = match locks.lock(name).ttl(TTL).acquire_within(PATIENCE).await {
        Ok(guard) => guard,
        // The store may be slow or busy; that it refuses is a finding.
        Err(error) if error.is_retryable() => return Ok(saw(What::Unknown)?),
        Err(error) => return Err(error.into()),
    };
    saw(What::Granted(guard.token()))?;
    let until = clock.now().saturating_add(HOLD);
    loop {
        // Read before the look.
        let at = clock.now();
        if !guard.is_held() {
            return Ok(saw(What::Lost)?);
        }
        if at >= until {
            recorder.saw_at(at, attempt, What::Believes)?;
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    saw(What::Releases)?;
    match guard.release().await {
        Ok(()) => saw(What::Released)?,
        Err(Error::Lost { .. }) => saw(What::Lost)?,
        // Whether it was released is not known, and the attempt has no further event.
        Err(_) => {}
    }
    Ok(())
}
