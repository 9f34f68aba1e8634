//! Two calls at once, in the caller's own task.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Polls both in turns until both have ended.
pub(super) async fn together<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut one, mut other) = (None, None);
    poll_fn(|context| {
        if one.is_none() {
            if let Poll::Ready(answer) = first.as_mut().poll(context) {
                one = Some(answer);
            }
        }
        if other.is_none() {
            if let Poll::Ready(answer) = second.as_mut().poll(context) {
                other = Some(answer);
            }
        }
        match (one.take(), other.take()) {
            (Some(answer), Some(another)) => Poll::Ready((answer, another)),
            (answer, another) => {
                (one, other) = (answer, another);
                Poll::Pending
            }
        }
    })
    .await
}
