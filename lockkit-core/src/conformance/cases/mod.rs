//! The cases, a file for each group.

mod ambiguity;
mod atomicity;
mod cancellation;
mod counted;
mod elections;
mod endings;
mod expiry;
mod fairness;
mod link_calls;
mod link_cuts;
mod link_ends;
mod link_late;
mod link_outages;
mod link_slow;
mod link_traffic;
mod link_waits;
mod liveness;
mod long_times;
mod long_waits;
mod loss;
mod many_names;
mod name_pairs;
mod names;
mod operator;
mod operator_lists;
mod performance;
mod processes;
mod raising;
mod refusals;
mod resting;
mod safety;
mod same_client;
mod server;
mod shared;
mod split_brain;
mod terms;
mod tokens;
mod waiting;
mod walks;

use std::sync::LazyLock;

use super::case::Case;

/// All cases, in the order in which they run.
pub fn cases() -> &'static [Case] {
    static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| GROUPS.concat());
    &CASES
}

/// All groups, in the order in which they run.
const GROUPS: &[&[Case]] = &[
    atomicity::CASES,
    ambiguity::CASES,
    cancellation::CASES,
    endings::CASES,
    processes::CASES,
    liveness::CASES,
    waiting::CASES,
    safety::CASES,
    terms::CASES,
    expiry::CASES,
    resting::CASES,
    tokens::CASES,
    raising::CASES,
    names::CASES,
    name_pairs::CASES,
    long_times::CASES,
    long_waits::CASES,
    same_client::CASES,
    shared::CASES,
    counted::CASES,
    many_names::CASES,
    elections::CASES,
    loss::CASES,
    fairness::CASES,
    performance::CASES,
    operator::CASES,
    operator_lists::CASES,
    split_brain::CASES,
    link_cuts::CASES,
    link_calls::CASES,
    link_late::CASES,
    link_outages::CASES,
    link_waits::CASES,
    link_traffic::CASES,
    link_slow::CASES,
    link_ends::CASES,
    server::CASES,
    refusals::CASES,
    walks::CASES,
];
