//! Events as lines of a file, one file for each process.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::str::{FromStr, SplitWhitespace};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::checker::History;
use super::event::{AttemptId, Event, What};
use crate::{Clock, Error, FencingToken, Instant, LockName, Result};

/// Writes what one process sees to a file of its own, a line for each event.
///
/// A line is written at once and whole, so a process that is killed leaves all that it saw.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("lockkit-history-{}", std::process::id()));
/// use lockkit_core::conformance::history::{Recorder, What, read};
/// use lockkit_core::{Clock, FencingToken, LockName};
///
/// let recorder = Recorder::create(&path, 1, Clock::system())?;
/// let attempt = recorder.asks(LockName::new("billing/nightly")?)?;
/// recorder.saw(attempt, What::Granted(FencingToken::new(1)?))?;
/// assert_eq!(read([&path])?.check()?.grants, 1);
/// # std::fs::remove_file(&path)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Recorder {
    process: u64,
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    attempts: u64,
}

impl Recorder {
    /// A recorder for the process of this number, to a file that must not exist yet.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: impl AsRef<Path>, process: u64, clock: Clock) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Self { process, clock, inner: Mutex::new(Inner { file, attempts: 0 }) })
    }

    /// Records that a new attempt asks for `name`, now.
    ///
    /// # Errors
    /// What the file system says.
    pub fn asks(&self, name: LockName) -> io::Result<AttemptId> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = AttemptId { process: self.process, number: inner.attempts };
        inner.attempts += 1;
        let event = Event { at: self.clock.now(), attempt, what: What::Asks(name) };
        inner.file.write_all(format!("{event}\n").as_bytes())?;
        Ok(attempt)
    }

    /// Records what the attempt saw, now.
    ///
    /// # Errors
    /// What the file system says.
    pub fn saw(&self, attempt: AttemptId, what: What) -> io::Result<()> {
        self.saw_at(self.clock.now(), attempt, what)
    }

    /// Records what the attempt saw at an instant that was read before: for a look that is
    /// recorded only if it found something.
    ///
    /// # Errors
    /// What the file system says.
    pub fn saw_at(&self, at: Instant, attempt: AttemptId, what: What) -> io::Result<()> {
        let event = Event { at, attempt, what };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.file.write_all(format!("{event}\n").as_bytes())
    }
}

/// The history that these files tell together; a line that its process could not finish is left
/// out.
///
/// # Errors
/// What the file system says, or `InvalidData`: a line that no [`Recorder`] wrote.
pub fn read(files: impl IntoIterator<Item = impl AsRef<Path>>) -> io::Result<History> {
    let mut history = History::new();
    for file in files {
        let text = std::fs::read_to_string(file)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let event = line.parse();
            history.push(
                event.map_err(|error: Error| io::Error::new(io::ErrorKind::InvalidData, error))?,
            );
        }
    }
    Ok(history)
}

/// The line of an event: nanoseconds, attempt, and a word with its values.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.at.since_origin().as_nanos(), self.attempt)?;
        match &self.what {
            What::Asks(name) => {
                f.write_str("asks ")?;
                escape(name, f)
            }
            What::AsksShared(name) => {
                f.write_str("asks-shared ")?;
                escape(name, f)
            }
            What::Granted(token) => write!(f, "granted {token}"),
            What::Read(version) => write!(f, "read {version}"),
            What::Writes { seen, wrote } => write!(f, "writes {seen} {wrote}"),
            plain => f.write_str(word(plain)),
        }
    }
}

fn word(plain: &What) -> &'static str {
    PLAIN.iter().find(|(_, what)| what == plain).map_or("", |(word, _)| word)
}

/// The events that have no values.
const PLAIN: &[(&str, What)] = &[
    ("refused", What::Refused),
    ("unknown", What::Unknown),
    ("believes", What::Believes),
    ("releases", What::Releases),
    ("released", What::Released),
    ("lost", What::Lost),
    ("reads", What::Reads),
    ("wrote", What::Wrote),
    ("stale", What::Stale),
];

impl FromStr for Event {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        parse(line.split_whitespace()).ok_or_else(|| {
            Error::invalid(
                format!("{line:?} in a history"),
                "write lines with Recorder: <nanoseconds> <process>.<attempt> <event> [values]",
            )
        })
    }
}

fn parse(mut words: SplitWhitespace<'_>) -> Option<Event> {
    let nanos: u128 = words.next()?.parse().ok()?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let since = Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?);
    let (process, number) = words.next()?.split_once('.')?;
    let attempt = AttemptId { process: process.parse().ok()?, number: number.parse().ok()? };
    let what = match words.next()? {
        "asks" => What::Asks(unescape(words.next()?)?),
        "asks-shared" => What::AsksShared(unescape(words.next()?)?),
        "granted" => What::Granted(words.next()?.parse::<FencingToken>().ok()?),
        "read" => What::Read(words.next()?.parse().ok()?),
        "writes" => {
            What::Writes { seen: words.next()?.parse().ok()?, wrote: words.next()?.parse().ok()? }
        }
        plain => PLAIN.iter().find(|(word, _)| *word == plain)?.1.clone(),
    };
    let event = Event { at: Instant::from_origin(since), attempt, what };
    words.next().is_none().then_some(event)
}

/// A name as one word: `%` and two digits for each byte that is not a plain character.
fn escape(name: &LockName, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in name.as_str().bytes() {
        match byte.is_ascii_graphic() && byte != b'%' {
            true => write!(f, "{}", char::from(byte))?,
            false => write!(f, "%{byte:02x}")?,
        }
    }
    Ok(())
}

fn unescape(word: &str) -> Option<LockName> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            plain => plain,
        });
    }
    LockName::new(String::from_utf8(bytes).ok()?).ok()
}
