//! Good histories: one that is summed up, and many at random without a false alarm.

use std::time::Duration;

use lockkit_core::conformance::history::History;
use proptest::prelude::*;

use super::check;
use super::truth::{events, plans};

#[test]
fn a_good_history_is_summed_up() {
    let summary = check(
        "1 1.0 asks n\n2 1.0 granted 1
         3 2.0 asks n\n4 3.0 asks n\n5 3.0 refused\n6 4.0 asks m\n7 4.0 granted 1
         10 1.0 reads\n11 1.0 read 0\n12 1.0 writes 0 5\n13 1.0 wrote
         14 1.0 reads
         20 1.0 believes\n27 2.0 granted 2
         28 2.0 reads\n29 2.0 read 5\n30 1.0 reads\n31 1.0 stale\n32 1.0 reads\n33 1.0 stale
         34 2.0 writes 5 6\n35 1.0 reads\n36 2.0 believes\n37 5.0 asks n\n40 5.0 granted 3",
    )
    .expect("no violation");
    assert_eq!((summary.names, summary.attempts, summary.grants), (2, 5, 4));
    assert_eq!((summary.accepted, summary.refused, summary.unknown), (3, 2, 3));
    assert_eq!(summary.smallest_gap, Some(Duration::from_nanos(4)));
}

/// How many: more where they take a few seconds all the same.
const CASES: u32 = if cfg!(debug_assertions) { 2_000 } else { 100_000 };

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_store_and_fence_raise_no_alarm(
        plans in plans(12, 20),
        others in plans(6, 5),
    ) {
        let mut history = History::new();
        for event in events(&plans, "one") {
            history.push(event);
        }
        for mut event in events(&others, "two") {
            event.attempt.process += 1000;
            history.push(event);
        }
        let verdict = history.check();
        prop_assert!(verdict.is_ok(), "{:?}", verdict);
    }
}
