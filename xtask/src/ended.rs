//! A test program that runs to its end, and whether the machine stood still meanwhile.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How often a program is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// A look that comes so late tells that the machine stood still, as the suite and the testbed judge it too.
const LONG_STALL: Duration = Duration::from_millis(250);

/// How a program ended.
pub(crate) struct Said {
    pub(crate) has_passed: bool,
    pub(crate) said: String,
    /// Whether the machine stood still meanwhile.
    pub(crate) has_stalled: bool,
}

/// Runs a program that writes to `log`; how it ended.
pub(crate) fn said(mut command: Command, log: &Path, limit: Duration) -> Said {
    let mut has_stalled = false;
    let passed = to_its_end(&mut command, log, limit, &mut has_stalled);
    let said = fs::read(log).map(|said| String::from_utf8_lossy(&said).into_owned());
    let (has_passed, said) = match (passed, said) {
        (Ok(()), Ok(said)) => (true, said),
        (Err(why), said) => (false, format!("{}\n{why}\n", said.unwrap_or_default())),
        (_, Err(error)) => (false, format!("{}: {error}", log.display())),
    };
    Said { has_passed, said, has_stalled }
}

/// Waits for the end of a program, and ends one that hangs; `has_stalled`: a look at it came late.
fn to_its_end(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    has_stalled: &mut bool,
) -> Result<()> {
    let failed = |error: io::Error| format!("{}: {error}", log.display());
    let output = File::create(log).map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(failed)?;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return status.success().then_some(()).ok_or_else(|| format!("it ended with {status}"));
        }
        if started.elapsed() > limit {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            return Err(format!("no end within {limit:?}: something waits for ever"));
        }
        let looked = Instant::now();
        thread::sleep(LOOK);
        *has_stalled |= looked.elapsed() >= LOOK + LONG_STALL;
    }
}
