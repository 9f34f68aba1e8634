//! The client: what all calls of a provider share, and how they ask the server.

use std::sync::Arc;

use lockkit_core::kit::{self, Notice, Service, call_limit, waiter_life};
use lockkit_core::{Request, RequestId, Result};

use crate::cohorts::Cohorts;
use crate::connection::{Answered, Commands};
use crate::handoff::{HandedOn, Server, Waiters};
use crate::protocol::{ACQUIRE, Answer, Pass, Passed, RELEASE, Script, entry, keys};
use crate::waiter::Waiter;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) commands: Commands,
    pub(crate) prefix: String,
    pub(crate) token_base: u64,
    /// What this client's channel ends in, and all its entries in the store.
    pub(crate) address: String,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) cohorts: Arc<Cohorts>,
    pub(crate) subscription: Service,
}

/// A call, or a lease, of a request.
pub(crate) type Entry = kit::Entry<Waiter<HandedOn>>;

/// What asking for a request came to.
pub(crate) enum Asked {
    Answered(Answer),
    /// Another request of this client handed the name on first.
    HandedOn(HandedOn),
}

impl Client {
    /// Runs a script about this request's lock, under its id.
    pub(crate) async fn run(&self, request: &Request, script: &Script, args: &[&str]) -> Answered {
        self.run_for(request.id(), request, script, args).await
    }

    async fn run_for(
        &self,
        id: RequestId,
        request: &Request,
        script: &Script,
        args: &[&str],
    ) -> Answered {
        let id = entry(id, &self.address);
        let alive = waiter_life(request.ttl()).as_millis().to_string();
        let lock = keys(&self.prefix, request.name());
        let mut all = vec![&*id, &*alive];
        all.extend_from_slice(args);
        let limit = call_limit(request.ttl());
        self.commands.script(request.clock(), limit, script, &lock, &all).await
    }

    /// Asks for a request, unless another one of this client hands the name on first.
    pub(crate) async fn ask(&self, entry: &Entry, waits: bool) -> Result<Asked> {
        let request = entry.request();
        // Counted first: the name is not handed on to a request that is being sent.
        let Ok(sending) = entry.send() else { return Ok(Asked::Answered(Answer::Withdrawn)) };
        let notice = entry.data().mailbox.last();
        if let Some(notice) = notice {
            sending.answered();
            return Ok(match notice {
                Notice::Granted(grant) => Asked::HandedOn(grant),
                _ => Asked::Answered(Answer::Withdrawn),
            });
        }
        let ttl = request.ttl().as_millis().to_string();
        let waits = if waits { "1" } else { "0" };
        let answer = self.run(request, &ACQUIRE, &[&ttl, request.label(), waits]).await;
        if !answer.may_arrive {
            sending.answered();
        }
        Answer::of(&answer.value?).map(Asked::Answered)
    }
}

impl Server for Client {
    fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    async fn pass(&self, request: &Request, pass: &Pass) -> (Result<Passed>, bool) {
        let token = pass.token.to_string();
        let (mut next, mut ttl, mut label) = (String::new(), String::new(), "");
        if let Some(to) = &pass.to {
            next = entry(to.id(), &self.address);
            ttl = to.ttl().as_millis().to_string();
            label = to.label();
        }
        let ended: Vec<_> = pass.ended.iter().map(|(id, _)| entry(*id, &self.address)).collect();
        let mut args = vec![&*token, &*next, &*ttl, label];
        for (id, (_, late)) in ended.iter().zip(&pass.ended) {
            args.extend([&**id, tombstone(*late)]);
        }
        // Until it is answered, it may bring a grant to the request that it names.
        let holder = pass.to.as_ref().map(|to| self.waiters.enter(to));
        let sending = holder.as_ref().map(|holder| holder.named());
        let answer = self.run_for(pass.from, request, &RELEASE, &args).await;
        if let Some(sending) = sending.filter(|_| !answer.may_arrive) {
            sending.answered();
        }
        (answer.value.and_then(|value| Passed::of(&value)), answer.may_arrive)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.subscription.stop();
    }
}

/// For a script that ends a request: whether it leaves a tombstone.
pub(crate) const fn tombstone(may_arrive: bool) -> &'static str {
    if may_arrive { "1" } else { "0" }
}
