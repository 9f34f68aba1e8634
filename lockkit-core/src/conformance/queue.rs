//! Waiters that were queued one after the other, each known to the store before the next.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::context::Context;
use super::stop::{Stop, Verdict};
use crate::{Error, Grant, LockProvider, Request};

/// Some waiters for one name, numbered in the order in which they came.
#[derive(Default)]
pub(super) struct Queue {
    waiters: Vec<(Arc<dyn LockProvider>, Request)>,
    waiting: JoinSet<(usize, Result<Grant, Error>)>,
}

impl Queue {
    /// Adds a waiter of `client`, and waits until the store has told it that it waits.
    pub(super) async fn add(
        &mut self,
        cx: &Context,
        client: &Arc<dyn LockProvider>,
        tail: &str,
    ) -> Verdict {
        self.add_request(cx, client, cx.request_with_ttl(tail, cx.patient_ttl())?).await
    }

    /// The same with a request of the case's own.
    pub(super) async fn add_request(
        &mut self,
        cx: &Context,
        client: &Arc<dyn LockProvider>,
        request: Request,
    ) -> Verdict {
        self.ask(client, request.clone());
        cx.queued(&request).await
    }

    /// Has a request of `client` ask, which may wait, or be granted at once.
    pub(super) fn ask(&mut self, client: &Arc<dyn LockProvider>, request: Request) {
        let (asker, asked, number) = (Arc::clone(client), request.clone(), self.waiters.len());
        self.waiting.spawn(async move { (number, asker.acquire(&asked).await) });
        self.waiters.push((Arc::clone(client), request));
    }

    /// The next end of a waiter: its number, and its grant or why it has none.
    pub(super) async fn ended(&mut self, cx: &Context) -> Verdict<(usize, Result<Grant, Error>)> {
        let next = cx.by(cx.wake_up(), "a waiter is granted", self.waiting.join_next()).await?;
        Ok(next.ok_or_else(|| Stop::failed("nobody waits any more"))??)
    }

    /// The next grant, and whose it is.
    pub(super) async fn granted(&mut self, cx: &Context) -> Verdict<(usize, Grant)> {
        let (number, granted) = self.ended(cx).await?;
        Ok((number, granted?))
    }

    /// Has this waiter leave.
    pub(super) async fn withdraw(&self, number: usize) -> Verdict {
        let (client, request) = &self.waiters[number];
        Ok(client.withdraw(request).await?)
    }

    /// Whether somebody's wait has ended already; looks after the others had time to move.
    pub(super) async fn someone_ended(&mut self, cx: &Context) -> bool {
        cx.sleep(cx.arrival()).await;
        self.waiting.try_join_next().is_some()
    }

    /// How many still wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
