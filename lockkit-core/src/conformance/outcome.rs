//! How a case ended.

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// What it says holds.
    Passed,
    /// It does not hold, for this reason.
    Failed(String),
    /// The provider does not declare what it rests on: the clause, and what it would claim.
    NotClaimed(String),
    /// The fixture lacks a hook that it needs.
    NotReached(String),
}
