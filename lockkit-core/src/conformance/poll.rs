//! Futures that are polled a given number of times.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Polls `future` at most `times` times, whenever it wakes, and drops it then; `None`: it did not
/// end.
pub(super) async fn polled<F: Future>(future: F, times: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Polls `future` while `turns` turns of the scheduler pass, and drops it then; `None`: it did not
/// end.
pub(super) async fn for_turns<F: Future>(future: F, turns: u32) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = pass(turns) => None,
    }
}

/// Lets `turns` turns of the scheduler pass.
pub(super) async fn pass(turns: u32) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}
