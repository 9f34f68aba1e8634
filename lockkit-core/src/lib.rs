//! The contract, the driver, the memory store and the conformance suite of
//! [lockkit](https://docs.rs/lockkit).
//!
//! Programs use the facade `lockkit`; authors of a backend need nothing but this crate. They
//! implement [`LockProvider`] and [`Lease`] against the clauses of the [`contract`], and run the
//! suite of the feature `conformance` on it.
//!
//! A method of this crate is *cancel-safe* when dropping its future leaves no lock held and no
//! waiter blocked for longer than one ttl, and nothing lost that the caller had.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod driver;
mod election;
mod error;
mod finding;
mod guarantees;
mod guard;
mod holder;
mod kind;
pub mod kit;
mod leaders;
mod leadership;
mod lease;
mod lock;
mod locks;
mod loss;
mod memory;
#[cfg(test)]
mod model;
mod multi_guard;
mod multi_lock;
mod name;
mod named;
mod permits;
mod provider;
mod quorum;
mod request;
mod semaphore;

#[doc = include_str!("../CONTRACT.md")]
pub mod contract {}

pub use async_trait::async_trait;
pub use lockkit_fence::{Access, Fence, Fenced, Fencing, FencingToken, NotAToken, Seen, Stale};

pub use clock::{Clock, Instant};
pub use election::Election;
pub use error::{Applied, Cause, Error};
pub use finding::{Finding, Severity};
pub use guarantees::{
    Exclusion, Expiry, Fairness, Guarantees, MinimumHold, TokenScope, TtlRange, WakeUp,
};
pub use guard::{Guard, GuardWatch};
pub use holder::Holder;
pub use kind::{Family, Kind};
pub use leaders::Leaders;
pub use leadership::Leadership;
pub use lease::{Grant, Lease, Term};
pub use lock::Lock;
pub use locks::{Builder, Locks};
pub use loss::LossReason;
pub use memory::{HeldElsewhere, Memory};
pub use multi_guard::MultiGuard;
pub use multi_lock::MultiLock;
pub use name::LockName;
pub use named::Named;
pub use permits::Permits;
pub use provider::{Inspection, LockProvider, Operator};
#[doc(hidden)]
pub use quorum::Quorum;
pub use request::{Request, RequestId, StoreSays};
pub use semaphore::Semaphore;

/// What most of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
