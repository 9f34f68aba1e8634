//! The cases, a file for each group.

mod atomicity;
mod safety;

use super::case::Case;

/// All groups, in the order in which they run.
pub(super) const GROUPS: &[&[Case]] = &[atomicity::CASES, safety::CASES];
