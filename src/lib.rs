// These come before the README's own link targets and win over them: on docs.rs there are no files.
//! [contract]: crate::contract
//! [CONTRIBUTING]: https://github.com/lockkit/lockkit/blob/main/CONTRIBUTING.md
//! [fencing]: https://github.com/lockkit/lockkit/blob/main/docs/fencing.md
//! [operations]: https://github.com/lockkit/lockkit/blob/main/docs/operations.md
//! [Writing a backend]: https://github.com/lockkit/lockkit/blob/main/docs/writing-a-backend.md
//! [What each store declares]: https://github.com/lockkit/lockkit/blob/main/docs/stores.md
//! [The command]: https://github.com/lockkit/lockkit/blob/main/docs/cli.md
//! [examples]: https://github.com/lockkit/lockkit/tree/main/examples
//! [etcd]: https://github.com/lockkit/lockkit/blob/main/docs/etcd.md
//! [file]: https://github.com/lockkit/lockkit/blob/main/docs/file.md
//! [postgres]: https://github.com/lockkit/lockkit/blob/main/docs/postgres.md
//! [redis]: https://github.com/lockkit/lockkit/blob/main/docs/redis.md
//! [zookeeper]: https://github.com/lockkit/lockkit/blob/main/docs/zookeeper.md
//!
#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod connect;

pub use connect::{Connect, Schemes, connect, connect_with};

#[doc(inline)]
pub use lockkit_core::{
    Access, Applied, Builder, Cause, Clock, Election, Error, Exclusion, Expiry, Fairness, Family,
    Fence, Fenced, Fencing, FencingToken, Finding, Grant, Guarantees, Guard, GuardWatch,
    HeldElsewhere, Holder, Inspection, Instant, Kind, Leaders, Leadership, Lease, Lock, LockName,
    LockProvider, Locks, LossReason, Memory, MinimumHold, MultiGuard, MultiLock, Named, NotAToken,
    Operator, Permits, Request, RequestId, Result, Seen, Semaphore, Severity, Stale, StoreSays,
    Term, TokenScope, TtlRange, WakeUp, async_trait, contract, kit,
};

#[cfg(feature = "conformance")]
#[doc(inline)]
pub use lockkit_core::conformance;

#[cfg(feature = "etcd")]
#[doc(inline)]
pub use lockkit_etcd as etcd;

#[cfg(feature = "file")]
#[doc(inline)]
pub use lockkit_file as file;

#[cfg(feature = "postgres")]
#[doc(inline)]
pub use lockkit_postgres as postgres;

#[cfg(feature = "redis")]
#[doc(inline)]
pub use lockkit_redis as redis;

#[cfg(feature = "zk")]
#[doc(inline)]
pub use lockkit_zk as zk;
