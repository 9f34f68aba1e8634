//! The client: what all calls of a provider share, and how they ask the server.

use std::ops::Deref;
use std::sync::Arc;

use lockkit_core::kit::{self, Service, call_limit};
use lockkit_core::{Request, Result};

use crate::beating;
use crate::connection::Answered;
use crate::protocol::{Answer, entry, key_of, reading};
use crate::scripts::{Script, Scripts};
use crate::shared::{Shared, Waiter, now};

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) token_base: u64,
    pub(crate) subscription: Service,
    beating: Service,
}

/// A call, or a lease, of a request.
pub(crate) type Entry = kit::Entry<Waiter>;

impl Deref for Client {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Client {
    pub(crate) fn new(shared: Shared, token_base: u64) -> Self {
        let (shared, subscription) = (Arc::new(shared), Service::default());
        Self { shared, token_base, subscription, beating: Service::default() }
    }

    /// How this request is called in the store.
    pub(crate) fn entry(&self, request: &Request) -> String {
        entry(request, &self.address)
    }

    /// Runs a script about this request's lock.
    pub(crate) async fn run(&self, request: &Request, script: &Script, args: &[&str]) -> Answered {
        let lock = key_of(&self.prefix, request.name());
        let limit = call_limit(request.ttl());
        self.commands.script(request.clock(), limit, script, &[&lock], args).await
    }

    /// Asks for a request.
    pub(crate) async fn ask(&self, entry: &Entry, waits: bool) -> Result<Answer> {
        let request = entry.request();
        let Ok(sending) = entry.send() else { return Ok(Answer::Withdrawn) };
        let ttl = request.ttl().as_millis().to_string();
        let sent = now();
        let reading = if waits { reading(sent) } else { String::new() };
        let script = Scripts::of(request.kind()).acquire;
        let (entry, wished) = (self.entry(request), request.permits());
        let answer = match wished.map(|wished| (wished.wished().to_string(), wished.is_exact())) {
            None => self.run(request, script, &[&entry, &ttl, &reading]).await,
            Some((limit, is_exact)) => {
                let exact = if is_exact { "1" } else { "" };
                self.run(request, script, &[&entry, &ttl, &reading, &limit, exact]).await
            }
        };
        if !answer.may_arrive {
            sending.answered();
        }
        let (answer, limit) = Answer::of(&answer.value?)?;
        // Where the request takes no other one, the driver withdraws it.
        limit.map_or(Ok(()), |limit| request.check_permits(limit))?;
        if waits && matches!(answer, Answer::Held { .. }) {
            self.heard.note(sent);
        }
        Ok(answer)
    }

    /// The task that beats runs, from now on or already.
    pub(crate) fn beat(&self) -> Result<()> {
        self.beating.ensure(|alive| beating::serve(alive, Arc::clone(&self.shared)))
    }

    /// Completes when the task that beats has ended with its runtime, or for want of waiters.
    pub(crate) async fn lapsed(&self) {
        self.beating.lapsed().await;
    }

    pub(crate) fn close(&self) {
        self.subscription.stop();
        self.beating.stop();
        self.commands.close();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.subscription.stop();
        self.beating.stop();
    }
}

/// For a script that ends a request: whether it leaves a tombstone.
pub(crate) const fn tombstone(may_arrive: bool) -> &'static str {
    if may_arrive { "1" } else { "" }
}
