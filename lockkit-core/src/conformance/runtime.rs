//! The runtime that a case lives in.

use std::ops::Deref;

use tokio::runtime::{Builder, Runtime};

use super::fixture::Time;

pub(super) fn runtime(time: Time) -> std::io::Result<Runtime> {
    match time {
        Time::Real => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        Time::Virtual => Builder::new_current_thread().enable_all().start_paused(true).build(),
    }
}

/// A runtime that a case ends itself, or leaves when it fails: a runtime that is dropped inside another
/// one panics, which would hide why the case failed.
pub(super) struct Ending(Option<Runtime>);

impl Ending {
    pub(super) fn new(time: Time) -> std::io::Result<Self> {
        runtime(time).map(|runtime| Self(Some(runtime)))
    }

    /// Ends it in this way.
    pub(super) fn end(mut self, end: fn(Runtime)) {
        self.0.take().into_iter().for_each(end);
    }
}

impl Deref for Ending {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("there until it ends")
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}
