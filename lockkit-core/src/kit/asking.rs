//! A call that has sent something: seen to its end, and its answer known, whether or not its caller stays.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;

type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What was asked for, until it is known what came of that.
///
/// ```text
///              the store answers
/// under way ----------------------> answered
///     | the answer is lost
///     +----------------------------> in doubt: only a look at the store tells
/// ```
///
/// A withdrawal that knows the answer removes what there is, and needs no look at the store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use lockkit_core::kit::Asked;
///
/// let (asked, answer) = Asked::under_way();
/// answer.is("node-7");
/// assert_eq!(asked.answer().await, Some("node-7"));
///
/// let (asked, answer) = Asked::<&str>::under_way();
/// drop(answer);
/// assert_eq!(asked.answer().await, None);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Asked<T>(watch::Receiver<Option<T>>);

/// Where the answer goes; dropped without one, what was asked for is in doubt.
#[derive(Debug)]
pub struct Answer<T>(watch::Sender<Option<T>>);

impl<T: Clone + Send + Sync> Asked<T> {
    /// Something is about to be asked for; and where its answer goes.
    pub fn under_way() -> (Self, Answer<T>) {
        let (answer, asked) = watch::channel(None);
        (Self(asked), Answer(answer))
    }

    /// Something of which no answer will come.
    pub fn in_doubt() -> Self {
        Self::under_way().0
    }

    /// The answer, as soon as it is there; `None`: it stays in doubt.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn answer(&self) -> Option<T> {
        let mut asked = self.0.clone();
        asked.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<T> Answer<T> {
    /// The store's answer.
    pub fn is(self, answer: T) {
        self.0.send_replace(Some(answer));
    }
}

/// A call that is given to another task if it is dropped once it was polled: what it has sent is not called
/// back by that, and its answer is wanted.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::future::pending;
///
/// use futures_util::FutureExt;
/// use lockkit_core::kit::Asking;
///
/// let given = std::cell::Cell::new(0);
/// let mut asking = Asking::new(pending::<()>(), |_call| given.set(1));
/// assert!((&mut asking).now_or_never().is_none());
/// drop(asking);
/// assert_eq!(given.get(), 1);
/// # }
/// ```
pub struct Asking<T, G: FnOnce(Call<T>) + Unpin> {
    call: Option<(Call<T>, G)>,
    was_polled: bool,
}

impl<T, G: FnOnce(Call<T>) + Unpin> Asking<T, G> {
    /// This call, and to whom it is given.
    pub fn new(call: impl Future<Output = T> + Send + 'static, give: G) -> Self {
        Self { call: Some((Box::pin(call), give)), was_polled: false }
    }
}

impl<T, G: FnOnce(Call<T>) + Unpin> Future for Asking<T, G> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.was_polled = true;
        let Some((call, _)) = &mut self.call else { return Poll::Pending };
        let polled = call.as_mut().poll(cx);
        if polled.is_ready() {
            self.call = None;
        }
        polled
    }
}

impl<T, G: FnOnce(Call<T>) + Unpin> Drop for Asking<T, G> {
    fn drop(&mut self) {
        if let Some((call, give)) = self.call.take().filter(|_| self.was_polled) {
            give(call);
        }
    }
}

impl<T, G: FnOnce(Call<T>) + Unpin> std::fmt::Debug for Asking<T, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking").field("was_polled", &self.was_polled).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_call_that_never_began_or_that_has_ended_is_given_to_none() {
        let given = Cell::new(0);
        drop(Asking::new(std::future::ready(1), |_| given.set(1)));
        assert_eq!(Asking::new(std::future::ready(1), |_| given.set(2)).await, 1);
        assert_eq!(given.get(), 0);
    }

    #[tokio::test]
    async fn a_call_that_is_given_away_ends_and_its_answer_is_known() {
        let ((asked, answer), given) = (Asked::under_way(), Cell::new(None));
        let call = async move {
            tokio::task::yield_now().await;
            answer.is(7);
        };
        let mut asking = Asking::new(call, |call| given.set(Some(call)));
        assert!((&mut asking).now_or_never().is_none());
        drop(asking);
        assert!(asked.answer().now_or_never().is_none());
        given.take().expect("it was given away").await;
        assert_eq!(asked.answer().await, Some(7));
    }
}
