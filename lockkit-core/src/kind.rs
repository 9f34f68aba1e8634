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
}

impl Kind {
    /// Whether a request of this kind may hold, given the kinds of the requests before it: those that
    /// hold, and those that wait ahead of it (C1, C10).
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
        let mut before = before.into_iter();
        match self {
            Self::Exclusive => before.next().is_none(),
            Self::Shared => before.all(|kind| kind == Self::Shared),
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
            Some(Self::Exclusive) => 1,
            Some(Self::Shared) => 1 + queue.take_while(|kind| *kind == Self::Shared).count(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
        })
    }
}
