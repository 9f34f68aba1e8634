//! Kinds of locks, and which of them hold together.

use std::fmt;

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
