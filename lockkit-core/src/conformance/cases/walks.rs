//! Random walks, and every two circumstances at once: they look for what no other case was written for.

use std::time::Duration;

use crate::conformance::case::Challenge::Safety;
use crate::conformance::case::{Case, Need};
use crate::conformance::hook::Hook;
use crate::conformance::walk::{Over, combinations, walks};

/// In virtual time a walk may take hours.
const LONG: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) const CASES: &[Case] = &[
    Case::new(
        "RW-01",
        Safety,
        "C1",
        "whatever three clients do to five names, each answer is one that the contract allows",
        |cx| Box::pin(async move { walks(&cx, Over::Nothing).await }),
    )
    .within(60)
    .within_virtual(LONG),
    Case::new(
        "RW-02",
        Safety,
        "C5",
        "over links of uneven length too, and each term counts from before its request was sent",
        |cx| Box::pin(async move { walks(&cx, Over::Links).await }),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(60)
    .within_virtual(LONG),
    Case::new(
        "PW-01",
        Safety,
        "C1",
        "under each two circumstances at once, each answer to a holder, a waiter and a newcomer is right",
        |cx| Box::pin(async move { combinations(&cx, Over::Nothing).await }),
    )
    .within(60)
    .within_virtual(LONG),
    Case::new(
        "PW-02",
        Safety,
        "C5",
        "and over links of uneven length too",
        |cx| Box::pin(async move { combinations(&cx, Over::Links).await }),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(60)
    .within_virtual(LONG),
];
