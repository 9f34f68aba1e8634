//! How many permits a semaphore has.

use crate::{Error, Result};

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
