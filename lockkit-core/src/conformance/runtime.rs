//! The runtime that a case lives in.

use tokio::runtime::{Builder, Runtime};

use super::fixture::Time;

pub(super) fn runtime(time: Time) -> std::io::Result<Runtime> {
    match time {
        Time::Real => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        Time::Virtual => Builder::new_current_thread().enable_all().start_paused(true).build(),
    }
}
