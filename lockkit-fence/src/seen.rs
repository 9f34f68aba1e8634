//! The rule by which a resource accepts and refuses tokens.

use crate::{Access, FencingToken, Stale};

/// The newest tokens that a resource has seen, and the rule by which it accepts and refuses others.
///
/// Upholds C14. An exclusive token must be no older than the newest exclusive one, and newer than the newest shared one. A shared
/// token must be newer than the newest exclusive one: shared grants hold together, so that an older one of them may come later,
/// and with one number for both kinds the fence would refuse living holders. For a semaphore keep one for each slot.
///
/// Every fence of this crate follows it; take it for a resource of your own.
///
/// ```
/// use lockkit_fence::{Access, FencingToken, Seen};
///
/// let [writer, reader, other, next] = [30, 31, 32, 33].map(|token| FencingToken::new(token).expect("a token"));
/// let mut seen = Seen::default();
/// seen.raise(writer)?;
/// seen.raise(Access::Shared(other))?;
/// seen.raise(Access::Shared(reader))?;
/// assert!(seen.check(writer).is_err());
/// seen.raise(next)?;
/// assert_eq!(seen.check(Access::Shared(other)).map_err(|stale| stale.newest), Err(next));
/// # Ok::<(), lockkit_fence::Stale>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The newest token of an exclusive grant, or of a grant of this slot.
    pub exclusive: Option<FencingToken>,
    /// The newest token of a shared grant.
    pub shared: Option<FencingToken>,
}

impl Seen {
    /// What a resource has seen that was not in use yet.
    pub const NONE: Self = Self { exclusive: None, shared: None };

    /// The newest token of either kind.
    pub fn newest(self) -> Option<FencingToken> {
        self.exclusive.max(self.shared)
    }

    /// Whether this access is not stale; remembers nothing.
    ///
    /// # Errors
    /// [`Stale`]: a newer token has been seen.
    pub fn check(self, access: impl Into<Access>) -> Result<(), Stale> {
        let access = access.into();
        let presented = access.token();
        let refused_by = if access.is_shared() {
            self.exclusive.filter(|newest| presented <= *newest)
        } else {
            self.newest().filter(|newest| presented < *newest || self.shared == Some(presented))
        };
        match refused_by {
            Some(newest) => Err(Stale { presented, newest }),
            None => Ok(()),
        }
    }

    /// Remembers the token of this access, so that older ones are refused from now on.
    ///
    /// # Errors
    /// [`Stale`]: a newer token has been seen; nothing is remembered.
    pub fn raise(&mut self, access: impl Into<Access>) -> Result<(), Stale> {
        let access = access.into();
        self.check(access)?;
        let newest = if access.is_shared() { &mut self.shared } else { &mut self.exclusive };
        *newest = (*newest).max(Some(access.token()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(value: u64) -> FencingToken {
        FencingToken::new(value).expect("a token")
    }

    #[test]
    fn a_check_remembers_nothing_and_a_refusal_changes_nothing() {
        let mut seen = Seen::NONE;
        assert_eq!((seen.check(token(40)), seen.newest()), (Ok(()), None));
        assert_eq!(seen.raise(token(34)), Ok(()));
        let before = seen;
        let stale = Stale { presented: token(33), newest: token(34) };
        assert_eq!(
            (seen.raise(token(33)), seen.raise(Access::Shared(token(33)))),
            (Err(stale), Err(stale))
        );
        assert_eq!(seen, before);
    }

    #[test]
    fn a_slot_follows_the_rule_of_exclusive_grants() {
        let mut slot = Seen::NONE;
        let counted = |value| Access::Counted { token: token(value), slot: 3 };
        assert_eq!([7, 7, 9].map(|value| slot.raise(counted(value))), [Ok(()); 3]);
        assert_eq!(slot.raise(counted(8)), Err(Stale { presented: token(8), newest: token(9) }));
    }
}
