//! What a holder presents to a resource.

use crate::FencingToken;

/// What a holder presents to a resource: the token of its grant, and of which kind the grant is.
///
/// A token alone counts as exclusive. Present that of a shared grant as [`Shared`](Self::Shared): taken for an exclusive one, it
/// would refuse those who share with it. `Access::from(&guard)` of a lockkit guard does it right.
///
/// ```
/// use lockkit_fence::{Access, FencingToken};
///
/// let token = FencingToken::new(34)?;
/// assert_eq!(Access::from(token), Access::Exclusive(token));
/// assert_eq!(Access::Counted { token, slot: 2 }.token(), token);
/// # Ok::<(), lockkit_fence::NotAToken>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Of a grant that holds alone.
    Exclusive(FencingToken),
    /// Of a grant that holds together with other shared ones.
    Shared(FencingToken),
    /// Of one of a semaphore's grants. Each slot has a fence of its own.
    Counted {
        /// The token of the grant.
        token: FencingToken,
        /// The slot of the grant.
        slot: u32,
    },
}

impl Access {
    /// The token of the grant.
    pub const fn token(self) -> FencingToken {
        match self {
            Self::Exclusive(token) | Self::Shared(token) | Self::Counted { token, .. } => token,
        }
    }

    /// The slot of a semaphore's grant; `None` for the other kinds.
    pub const fn slot(self) -> Option<u32> {
        match self {
            Self::Counted { slot, .. } => Some(slot),
            Self::Exclusive(_) | Self::Shared(_) => None,
        }
    }

    /// Whether the grant is a shared one.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Shared(_))
    }
}

impl From<FencingToken> for Access {
    fn from(token: FencingToken) -> Self {
        Self::Exclusive(token)
    }
}
