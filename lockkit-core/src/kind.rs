//! Kinds of locks, and which of them hold together.

use std::fmt;

use crate::{Error, Result};

/// The kind of lock that is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Held alone.
    Exclusive,
    /// Held together with other shared grants.
    Shared,
    /// Held together with other counted grants, up to the limit of the semaphore.
    Counted,
}

/// What a name is a name of: a lock and a semaphore of the same name never meet (C3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Family {
    /// A lock, taken exclusively or shared.
    Lock,
    /// A semaphore, whose permits are counted.
    Semaphore,
}

/// How many permits a caller says that a semaphore has.
///
/// The first request of a semaphore stores its limit, and the stored limit applies to all from then on.
///
/// ```
/// use lockkit_core::Permits;
///
/// assert_eq!(Permits::new(5)?.wished(), 5);
/// assert!(Permits::new(0).is_err());
/// # Ok::<(), lockkit_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permits {
    wished: u32,
    exact: bool,
}

impl Permits {
    /// The greatest limit of a semaphore.
    pub const MAX: u32 = 10_000;

    /// This many permits, or as many as the store has noted.
    ///
    /// # Errors
    /// `Invalid`: none, or more than [`MAX`](Self::MAX).
    pub fn new(wished: u32) -> Result<Self> {
        if (1..=Self::MAX).contains(&wished) {
            return Ok(Self { wished, exact: false });
        }
        let remedy = format!("give it 1 to {} permits", Self::MAX);
        Err(Error::invalid(format!("a semaphore with {wished} permits"), remedy))
    }

    /// This many permits and no other number: a store that has noted another one refuses.
    #[must_use]
    pub const fn exactly(self) -> Self {
        Self { exact: true, ..self }
    }

    /// How many the caller wishes for.
    pub const fn wished(self) -> u32 {
        self.wished
    }

    /// Whether another number is to be refused.
    pub const fn is_exact(self) -> bool {
        self.exact
    }
}

impl Kind {
    /// The family of the names that are taken by this kind.
    pub const fn family(self) -> Family {
        match self {
            Self::Exclusive | Self::Shared => Family::Lock,
            Self::Counted => Family::Semaphore,
        }
    }

    /// Whether a request of this kind may hold, given the kinds of the requests before it: those that
    /// hold, and those that wait ahead of it (C1, C10). A counted one may with a limit of one.
    ///
    /// Memory, etcd and ZooKeeper decide by it; Redis' scripts, SQL and the kernel's file lock are tested
    /// against it.
    ///
    /// ```
    /// use lockkit_core::Kind;
    ///
    /// assert!(Kind::Exclusive.admits([]));
    /// assert!(!Kind::Exclusive.admits([Kind::Shared]));
    /// assert!(Kind::Shared.admits([Kind::Shared, Kind::Shared]));
    /// // A shared request does not pass an exclusive one that waits.
    /// assert!(!Kind::Shared.admits([Kind::Shared, Kind::Exclusive]));
    /// ```
    pub fn admits(self, before: impl IntoIterator<Item = Self>) -> bool {
        self.admits_within(1, before)
    }

    /// The same, where counted requests have this limit.
    ///
    /// ```
    /// use lockkit_core::Kind;
    ///
    /// assert!(Kind::Counted.admits_within(2, [Kind::Counted]));
    /// assert!(!Kind::Counted.admits_within(2, [Kind::Counted, Kind::Counted]));
    /// ```
    pub fn admits_within(self, limit: u32, before: impl IntoIterator<Item = Self>) -> bool {
        let mut before = before.into_iter();
        match self {
            Self::Exclusive => before.next().is_none(),
            Self::Shared => before.all(|kind| kind == Self::Shared),
            // One more than the limit is enough to know.
            Self::Counted => (0..limit).any(|_| before.next().is_none()),
        }
    }

    /// How many requests at the front of a queue of these kinds hold, the first of them and those that it is held with.
    ///
    /// ```
    /// use lockkit_core::Kind;
    ///
    /// let queue = [Kind::Shared, Kind::Shared, Kind::Exclusive, Kind::Shared];
    /// assert_eq!(Kind::holding(queue), 2);
    /// assert_eq!(Kind::holding(queue[2..].iter().copied()), 1);
    /// assert_eq!(Kind::holding([]), 0);
    /// ```
    pub fn holding(queue: impl IntoIterator<Item = Self>) -> usize {
        let mut queue = queue.into_iter();
        match queue.next() {
            None => 0,
            Some(Self::Exclusive | Self::Counted) => 1,
            Some(Self::Shared) => 1 + queue.take_while(|kind| *kind == Self::Shared).count(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
            Self::Counted => "counted",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lock => "lock",
            Self::Semaphore => "semaphore",
        })
    }
}
