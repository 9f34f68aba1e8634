//! What it takes to keep a lease and to end it.

use std::sync::Arc;
use std::time::Duration;

use super::room::Counted;
use super::shared::Shared;
use crate::Lease;

/// A lease, and what it takes to keep and to end it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) lease: Box<dyn Lease>,
    pub(super) shared: Arc<Shared>,
    pub(super) call_limit: Duration,
    pub(super) active: Counted,
}
