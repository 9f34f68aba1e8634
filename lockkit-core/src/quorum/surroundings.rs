//! Where a quorum's tasks, ids and tokens come from: a simulation has its own.

use std::sync::Arc;
use std::time::Duration;

use crate::driver::runtime::Runtime;
use crate::kit::wall_micros;
use crate::request::{RandomIds, RequestIds};
use crate::{Clock, RequestId, Result};

#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// `None`: that of the caller.
    pub(crate) runtime: Option<Runtime>,
    pub(crate) ids: Arc<dyn RequestIds>,
    /// How far the time of day is ahead of the clock; `None`: it is the machine's.
    pub(crate) ahead: Option<Duration>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { runtime: None, ids: Arc::new(RandomIds), ahead: None }
    }
}

impl Surroundings {
    pub(super) fn runtime(&self) -> Result<Runtime> {
        Runtime::of_caller(self.runtime.as_ref())
    }

    pub(super) fn id(&self) -> Result<RequestId> {
        self.ids.next()
    }

    /// One of 256.
    pub(super) fn random(&self) -> u32 {
        self.id().map_or(128, |id| id.to_bytes()[0].into())
    }

    /// The time of day, where tokens begin.
    pub(super) fn micros(&self, clock: &Clock) -> u64 {
        match self.ahead {
            None => wall_micros(),
            Some(ahead) => {
                let since = clock.now().since_origin() + ahead;
                u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
            }
        }
    }
}
