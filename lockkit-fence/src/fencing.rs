//! What every fence can do.

use std::future::{Future, ready};

use crate::{Access, Fence, Result};

/// What every fence can do, whichever resource it stands before.
///
/// Upholds C14. The cases of the feature `conformance` hold a fence to it.
///
/// ```
/// # futures_executor::block_on(async {
/// use lockkit_fence::{Access, Fence, Fencing, FencingToken};
///
/// let fence = Fence::default();
/// let [old, new] = [33, 34].map(|token| Access::from(FencingToken::new(token).expect("a token")));
/// Fencing::raise(&fence, new).await?;
/// assert!(Fencing::check(&fence, old).await.is_err());
/// # Ok::<(), lockkit_fence::Error>(()) }).expect("the new one passes");
/// ```
pub trait Fencing {
    /// Remembers the token of this access, so that older ones are refused from now on.
    ///
    /// # Errors
    /// [`Stale`](crate::Error::Stale): a newer token has been seen. `Invalid`: the fence cannot serve it. `Unavailable`: no answer; the fence
    /// may be raised.
    ///
    /// # Cancel safety
    /// Dropped midway, the fence may be raised or not. Raise it again.
    fn raise(&self, access: Access) -> impl Future<Output = Result<()>> + Send;

    /// Whether this access is not stale; remembers nothing.
    ///
    /// A check and a write behind it are two steps, between which a newer holder may raise the fence. To refuse a stale
    /// write, use the way of the resource that does both in one step.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    ///
    /// # Cancel safety
    /// Cancel-safe: it changes nothing.
    fn check(&self, access: Access) -> impl Future<Output = Result<()>> + Send;

    /// Whether it remembers its tokens over a restart of the resource.
    fn is_durable(&self) -> bool;
}

impl Fencing for Fence {
    fn raise(&self, access: Access) -> impl Future<Output = Result<()>> + Send {
        ready(self.access_as(access, |()| ()).map_err(Into::into))
    }

    fn check(&self, access: Access) -> impl Future<Output = Result<()>> + Send {
        ready(Self::check(self, access).map_err(Into::into))
    }

    fn is_durable(&self) -> bool {
        false
    }
}
