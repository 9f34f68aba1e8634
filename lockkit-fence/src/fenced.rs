//! The resource's side: refusing the writes of a stale holder.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::{Access, FencingToken, Seen, Stale};

/// A value that only the newest holder may touch.
///
/// Upholds C14, the promise that no lock service can give alone: whatever pauses, partitions and
/// clocks do, a stale holder's write is refused once a newer holder has been seen. Every access
/// names its token and *raises* the fence, reads too: a new holder that read before it raised the
/// fence could base its write on a value that a stale write then changes.
///
/// It protects a value in this process, and forgets its tokens with it. For a database, keep the newest token in the row and write
/// with `... WHERE fence <= $token`, in one transaction with the write itself. Where the name is shared too, keep two
/// columns, by the rule of [`access_shared`](Self::access_shared).
///
/// ```
/// use lockkit_fence::{Fenced, FencingToken};
///
/// let ledger = Fenced::new(Vec::new());
/// let (stale, newest) = (FencingToken::new(33)?, FencingToken::new(34)?);
/// ledger.access(stale, |entries| entries.push("by 33"))?;
/// ledger.access(newest, |entries| entries.push("by 34"))?;
/// let refused = ledger.access(stale, |entries| entries.push("late, by 33"));
/// assert_eq!(refused.map_err(|stale| stale.newest), Err(newest));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Fenced<T> {
    inside: Mutex<Inside<T>>,
    /// The thread that has access.
    thread: Mutex<Option<ThreadId>>,
}

#[derive(Debug, Default)]
struct Inside<T> {
    seen: Seen,
    /// What each slot of a semaphore has seen.
    slots: BTreeMap<u32, Seen>,
    value: T,
}

impl<T> Inside<T> {
    fn check(&self, access: Access) -> Result<(), Stale> {
        let seen = match access.slot() {
            None => Some(&self.seen),
            Some(slot) => self.slots.get(&slot),
        };
        seen.map_or(Ok(()), |seen| seen.check(access))
    }

    fn raise(&mut self, access: Access) -> Result<(), Stale> {
        let seen = match access.slot() {
            None => &mut self.seen,
            Some(slot) => self.slots.entry(slot).or_default(),
        };
        seen.raise(access)
    }
}

impl<T> Fenced<T> {
    /// A value that has seen no token yet.
    pub const fn new(value: T) -> Self {
        let inside = Inside { seen: Seen::NONE, slots: BTreeMap::new(), value };
        Self { inside: Mutex::new(inside), thread: Mutex::new(None) }
    }

    /// Raises the fence to `token`, of an exclusive grant, and runs `work` on the value.
    ///
    /// # Errors
    /// [`Stale`]: a newer token has been seen; `work` did not run.
    ///
    /// # Panics
    /// If `work` itself uses this fence: it would wait for itself.
    pub fn access<R>(
        &self,
        token: FencingToken,
        work: impl FnOnce(&mut T) -> R,
    ) -> Result<R, Stale> {
        self.access_as(token, work)
    }

    /// Raises the fence to `token`, of a shared grant, and runs `work` on the value.
    ///
    /// A shared token is refused once a newer exclusive one was seen. Those of shared grants that hold together are
    /// accepted in any order, and refuse every exclusive grant before them. Take the token of a shared guard
    /// (`Guard::kind`) to no other method: [`access`](Self::access) would take it for an exclusive one, and refuse
    /// those who share with it.
    ///
    /// ```
    /// use lockkit_fence::{Fenced, FencingToken};
    ///
    /// let [reader, later, writer] = [33, 34, 35].map(|token| FencingToken::new(token).expect("a token"));
    /// let ledger = Fenced::new(vec!["opened"]);
    /// assert_eq!(ledger.access_shared(later, |entries| entries.len()), Ok(1));
    /// assert_eq!(ledger.access_shared(reader, |entries| entries.len()), Ok(1));
    /// ledger.access(writer, |entries| entries.push("by 35"))?;
    /// assert!(ledger.access_shared(later, |entries| entries.len()).is_err());
    /// # Ok::<(), lockkit_fence::Stale>(())
    /// ```
    ///
    /// # Errors
    /// [`Stale`]: an exclusive grant with this token or a newer one has been seen; `work` did not run.
    ///
    /// # Panics
    /// If `work` itself uses this fence: it would wait for itself.
    pub fn access_shared<R>(
        &self,
        token: FencingToken,
        work: impl FnOnce(&T) -> R,
    ) -> Result<R, Stale> {
        self.access_as(Access::Shared(token), |value| work(value))
    }

    /// Raises the fence by this access, of whatever kind, and runs `work` on the value; let the work of a shared grant write
    /// nothing. Each slot of a semaphore has a fence of its own.
    ///
    /// ```
    /// use lockkit_fence::{Access, Fenced, FencingToken};
    ///
    /// let [first, second] = [33, 34].map(|token| FencingToken::new(token).expect("a token"));
    /// let workers = Fenced::new(0);
    /// workers.access_as(Access::Counted { token: second, slot: 1 }, |count| *count += 1)?;
    /// workers.access_as(Access::Counted { token: first, slot: 0 }, |count| *count += 1)?;
    /// assert!(workers.access_as(Access::Counted { token: first, slot: 1 }, |count| *count += 1).is_err());
    /// # Ok::<(), lockkit_fence::Stale>(())
    /// ```
    ///
    /// # Errors
    /// [`Stale`]: a newer token has been seen; `work` did not run.
    ///
    /// # Panics
    /// If `work` itself uses this fence: it would wait for itself.
    pub fn access_as<R>(
        &self,
        access: impl Into<Access>,
        work: impl FnOnce(&mut T) -> R,
    ) -> Result<R, Stale> {
        let mut inside = self.inside();
        let _access = Entered::begin(&self.thread);
        inside.raise(access.into())?;
        Ok(work(&mut inside.value))
    }

    /// Whether this access is not stale; remembers nothing.
    ///
    /// # Errors
    /// [`Stale`]: a newer token has been seen.
    ///
    /// # Panics
    /// If work that runs under this fence calls it: it would wait for itself.
    pub fn check(&self, access: impl Into<Access>) -> Result<(), Stale> {
        self.inside().check(access.into())
    }

    /// Raises the fence to `token`, of an exclusive grant, without touching the value, so that no older holder can either.
    ///
    /// # Errors
    /// [`Stale`]: a newer token has been seen.
    pub fn raise(&self, token: FencingToken) -> Result<(), Stale> {
        self.access(token, |_| ())
    }

    /// Raises the fence to `token`, of a shared grant, as [`access_shared`](Self::access_shared) does.
    ///
    /// # Errors
    /// [`Stale`]: an exclusive grant with this token or a newer one has been seen.
    pub fn raise_shared(&self, token: FencingToken) -> Result<(), Stale> {
        self.access_shared(token, |_| ())
    }

    /// The newest token seen; those of a semaphore's grants do not count.
    pub fn newest(&self) -> Option<FencingToken> {
        self.inside().seen.newest()
    }

    /// The value, without any check.
    pub fn into_inner(self) -> T {
        self.inside.into_inner().unwrap_or_else(PoisonError::into_inner).value
    }

    fn inside(&self) -> MutexGuard<'_, Inside<T>> {
        let is_inside = *lock(&self.thread) == Some(thread::current().id());
        assert!(!is_inside, "a fence was used by work that runs under it: do it after the access");
        lock(&self.inside)
    }
}

/// The thread that has access, until dropped.
struct Entered<'a>(&'a Mutex<Option<ThreadId>>);

impl<'a> Entered<'a> {
    fn begin(thread: &'a Mutex<Option<ThreadId>>) -> Self {
        *lock(thread) = Some(thread::current().id());
        Self(thread)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fence alone, for a resource that keeps its value elsewhere: see [`Fenced`].
pub type Fence = Fenced<()>;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(value: u64) -> FencingToken {
        FencingToken::new(value).expect("a token")
    }

    #[test]
    fn the_newest_token_seen_and_later_ones_are_accepted() {
        let resource = Fenced::new(Vec::new());
        assert_eq!(resource.newest(), None);
        for accepted in [33, 33, 34, 40, 40] {
            let before = resource.access(token(accepted), |writes| {
                writes.push(accepted);
                writes.len() - 1
            });
            assert_eq!(
                resource.access(token(accepted), |writes| writes.len()),
                before.map(|n| n + 1)
            );
            assert_eq!(resource.newest(), Some(token(accepted)));
        }
        assert_eq!(resource.into_inner(), [33, 33, 34, 40, 40]);
    }

    #[test]
    fn an_older_token_is_refused_and_changes_nothing() {
        let resource = Fenced::new(0);
        assert_eq!(resource.access(token(34), |value| *value = 34), Ok(()));
        let stale = Stale { presented: token(33), newest: token(34) };
        assert_eq!(resource.access(token(33), |value| *value = 33), Err(stale));
        assert_eq!(stale.to_string(), "token 33 is stale: token 34 has been seen");
        assert_eq!((resource.newest(), resource.into_inner()), (Some(token(34)), 34));
    }

    #[test]
    fn shared_grants_that_hold_together_pass_in_any_order_and_keep_out_what_came_before() {
        let resource = Fenced::new(0);
        let shared = |value| resource.access_shared(token(value), |value| *value);
        let exclusive = |new| resource.access(token(new), |value| *value = new);
        assert_eq!(exclusive(30), Ok(()));
        // A shared grant's token is greater than that of every exclusive one before it.
        let follows = Stale { presented: token(30), newest: token(30) };
        assert_eq!(shared(30), Err(follows));
        assert_eq!([33, 31, 32, 31].map(shared), [Ok(30); 4]);
        // The exclusive grant that ended before them, and no exclusive one shares a token with them.
        for stale in [30, 32, 33] {
            assert_eq!(exclusive(stale), Err(Stale { presented: token(stale), newest: token(33) }));
        }
        assert_eq!(exclusive(34), Ok(()));
        for stale in [31, 33, 34] {
            assert_eq!(shared(stale), Err(Stale { presented: token(stale), newest: token(34) }));
        }
        assert_eq!((resource.newest(), resource.into_inner()), (Some(token(34)), 34));
    }

    #[test]
    fn a_fence_that_was_raised_without_an_access_refuses_too() {
        let fence = Fence::default();
        assert_eq!(fence.raise(token(34)), Ok(()));
        let stale = Stale { presented: token(33), newest: token(34) };
        assert_eq!((fence.raise(token(33)), fence.raise(token(34))), (Err(stale), Ok(())));
        assert_eq!(fence.newest(), Some(token(34)));
    }

    #[test]
    fn a_token_that_lies_far_back_is_told_to_come_from_another_store() {
        let fence = Fence::default();
        assert_eq!(fence.raise(token(1_800_000_000_000_000)), Ok(()));
        let refused = |presented| fence.raise(token(presented)).map_err(|stale| stale.to_string());
        let far = refused(41).expect_err("stale");
        assert!(far.contains("another store") && far.contains("token base"), "{far}");
        let near = refused(1_799_999_000_000_000).expect_err("stale");
        assert!(!near.contains("another store"), "{near}");
    }

    #[test]
    fn work_that_uses_its_own_fence_panics_instead_of_waiting_for_itself() {
        let fence = Fenced::new(1);
        let inside = std::panic::AssertUnwindSafe(|| {
            fence.access(token(33), |_| fence.access(token(33), |value| *value))
        });
        let panic = std::panic::catch_unwind(inside).expect_err("it panics");
        let told = panic.downcast_ref::<&str>().expect("a text");
        assert!(told.contains("runs under it"), "{told}");
        assert_eq!(fence.access(token(34), |value| *value), Ok(1), "others go on");
    }

    #[test]
    fn a_panic_under_one_token_ends_nobody_elses_access() {
        let resource = Fenced::new(1);
        let panics =
            std::panic::AssertUnwindSafe(|| resource.access(token(33), |_| panic!("in it")));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(resource.access(token(34), |value| *value + 1), Ok(2));
        assert!(resource.access(token(33), |_| ()).is_err());
    }
}
