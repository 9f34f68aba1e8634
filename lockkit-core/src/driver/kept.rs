//! What it takes to keep a lease and to end it.

use std::sync::Arc;

use super::rests::Resting;
use super::room::Counted;
use super::shared::Shared;
use crate::Lease;

/// A lease, and what it takes to keep and to end it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) lease: Box<dyn Lease>,
    pub(super) shared: Arc<Shared>,
    /// Whether its name stays taken after the guard's end.
    pub(super) resting: Option<Box<Resting>>,
    pub(super) active: Counted,
}
