//! Random walks, which look for what no other case was written for.

use std::time::Duration;

use crate::conformance::case::Case;
use crate::conformance::case::Challenge::Safety;
use crate::conformance::walk::walks;

pub(super) const CASES: &[Case] = &[Case::new(
    "RW-01",
    Safety,
    "C1",
    "whatever three clients do to four names, each answer is one that the contract allows",
    |cx| Box::pin(async move { walks(&cx).await }),
)
.within(60)
.within_virtual(Duration::from_secs(30 * 24 * 3600))];
