//! What is logged, kept for a test to look through.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, set_default};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

/// All that is logged on one thread, of every level, until it is dropped.
///
/// A test on a runtime of the current thread hears its own client whole, and no other test's.
#[derive(Debug)]
pub struct Log {
    lines: Lines,
    _default: DefaultGuard,
    // With one subscriber alone, tracing asks the thread that comes to an event first whether
    // anybody wants it, and keeps the answer: another test's thread, where nobody does.
    _second: Dispatch,
}

impl Log {
    /// Keeps what is logged on this thread from now on.
    #[must_use]
    pub fn of_this_thread() -> Self {
        let second = Dispatch::new(fmt().finish());
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self { lines, _default: set_default(subscriber), _second: second }
    }

    /// What was logged so far.
    #[must_use]
    pub fn text(&self) -> String {
        let bytes = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
