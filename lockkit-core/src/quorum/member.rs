//! One member, and whether it answers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::surroundings::Surroundings;
use crate::kit::{Backoff, LONGEST_CALL, within};
use crate::{Applied, Clock, Error, LockName, LockProvider, Request, Result};

/// The first pause between two questions whether a member answers again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One member: a store of its own, and its client here.
///
/// ```text
/// answers --a call has no answer in time--> silent --it answers a question--> answers
/// ```
///
/// A silent member is not asked for locks: each would leave a request there that may take effect later, and a clean-up
/// that cannot be made.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) provider: Arc<dyn LockProvider>,
    /// Whether its tokens compare with those of the others.
    pub(super) raises: bool,
    pub(super) surroundings: Surroundings,
    silence: watch::Sender<Option<Error>>,
}

impl Member {
    pub(super) fn new(provider: Arc<dyn LockProvider>, surroundings: Surroundings) -> Arc<Self> {
        let raises = provider.guarantees().raises_tokens;
        Arc::new(Self { provider, raises, surroundings, silence: watch::Sender::new(None) })
    }

    /// Why it is not asked; `None`: it answers, as far as is known.
    pub(super) fn silence(&self) -> Option<Error> {
        self.silence.borrow().clone()
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silence.borrow().is_some()
    }

    /// Completes while the member answers.
    pub(super) async fn answers(&self) {
        // The sender lives as long as this.
        self.silence.subscribe().wait_for(Option::is_none).await.ok();
    }

    /// Completes while it is silent.
    pub(super) async fn falls_silent(&self) {
        self.silence.subscribe().wait_for(Option::is_some).await.ok();
    }

    /// What `call` gives within `limit`; without an answer the member is silent.
    pub(super) async fn ask<T>(
        self: &Arc<Self>,
        request: &Request,
        limit: Duration,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let answer = match within(request.clock(), limit, call).await {
            Some(answer) => answer,
            None => Err(Error::unavailable(Applied::Maybe, format!("no answer for {limit:?}"))),
        };
        if let Err(error @ Error::Unavailable { .. }) = &answer {
            self.note_silence(request, error);
        }
        answer
    }

    /// It did not answer: it is asked until it does, and for nothing else.
    pub(super) fn note_silence(self: &Arc<Self>, request: &Request, why: &Error) {
        let Ok(runtime) = self.surroundings.runtime() else { return };
        let is_new = self.silence.send_if_modified(|silence| {
            let is_new = silence.is_none();
            if is_new {
                *silence = Some(why.clone());
            }
            is_new
        });
        if is_new {
            let asking = Asking { member: Arc::downgrade(self), is_over: false };
            runtime.spawn(asking.until_it_answers(request.name().clone(), request.clock().clone()));
        }
    }

    /// Whether it answers at all, whatever it says.
    async fn is_there(&self, name: &LockName, clock: &Clock) -> bool {
        let answer = match self.provider.operator() {
            Some(operator) => {
                within(clock, LONGEST_CALL, operator.inspect(name)).await.map(|seen| seen.map(drop))
            }
            // A request that never was has nothing to withdraw.
            None => match Request::new(name.clone(), LONGEST_CALL, clock.clone()) {
                Ok(none) => within(clock, LONGEST_CALL, self.provider.withdraw(&none)).await,
                Err(_) => None,
            },
        };
        !matches!(answer, None | Some(Err(Error::Unavailable { .. })))
    }
}

/// Asks a silent member until it answers; ends with the member, and takes it for one that answers if its runtime ends.
struct Asking {
    member: Weak<Member>,
    is_over: bool,
}

impl Asking {
    async fn until_it_answers(mut self, name: LockName, clock: Clock) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        while let Some(member) = self.member.upgrade() {
            if member.is_there(&name, &clock).await {
                break;
            }
            drop(member);
            clock.sleep(backoff.next_pause()).await;
        }
        self.is_over = true;
        self.heard();
    }

    fn heard(&self) {
        if let Some(member) = self.member.upgrade() {
            member.silence.send_replace(None);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // Else nothing would ask it any more.
        if !self.is_over {
            self.heard();
        }
    }
}
