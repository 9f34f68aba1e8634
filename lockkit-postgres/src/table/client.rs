//! How the calls and the grants of the table strategy ask the server.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::{self, Mailbox, Notice, Service, call_limit};
use lockkit_core::{
    Applied, Error, FencingToken, Grant, Kind, Lease, LossReason, Request, Result, Term,
};

use super::beating;
use super::beats::{self, Granted, Shared};
use super::pool::Answered;
use crate::error::at;
use crate::protocol::{Columns, GROUP, column, garbled, quoted, stored};

/// How long a request holds before its client listens for its sake.
const SOON: Duration = Duration::from_millis(500);
/// How soon it asks again whether it holds, after an error, and at the soonest behind a pooler.
const LOOK: Duration = Duration::from_secs(1);

/// A call, or a lease, of a request.
pub(super) type Entry = kit::Entry<Mailbox<Granted>>;

pub(super) struct Client {
    shared: Arc<Shared>,
    pub(super) token_base: u64,
    beating: Service,
}

impl fmt::Debug for Client {
    /// Without the options: they hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Deref for Client {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// The functions for requests of a kind.
struct Functions {
    acquire: &'static str,
    /// What `acquire` is told besides.
    of_kind: &'static str,
    renew: &'static str,
    leave: &'static str,
}

impl Functions {
    const ALONE: Self = Self { acquire: "acquire", of_kind: "", renew: "renew", leave: "leave" };
    const SHARED: Self = Self {
        acquire: "acquire_member",
        of_kind: ", 'shared'",
        renew: "renew_member",
        leave: "leave_member",
    };

    const fn of(kind: Kind) -> &'static Self {
        match kind {
            Kind::Shared => &Self::SHARED,
            // The driver lets no kind through that we do not offer.
            _ => &Self::ALONE,
        }
    }
}

/// The answer to an acquire.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted {
        token: u64,
    },
    /// Held by another request, or its turn; in how long the holder's term is over.
    Held {
        ends_in: Option<Duration>,
        label: Option<String>,
    },
    /// The server has crashed or was promoted; in how long grants begin again.
    Closed {
        opens_in: Duration,
    },
    Withdrawn,
}

impl Answer {
    fn of(rows: &[Columns]) -> Result<Self> {
        let said = rows.first().and_then(|row| column(row, 0)).ok_or_else(|| garbled(rows))?;
        let mut words = said.splitn(3, ' ');
        let what = words.next();
        let number = words.next().and_then(|word| word.parse().ok());
        match (what, number) {
            (Some("granted"), Some(token)) => Ok(Self::Granted { token }),
            (Some("held"), ms) => Ok(Self::Held {
                ends_in: ms.map(Duration::from_millis),
                label: words.next().filter(|label| !label.is_empty()).map(str::to_owned),
            }),
            (Some("closed"), Some(ms)) => Ok(Self::Closed { opens_in: Duration::from_millis(ms) }),
            (Some("withdrawn"), _) => Ok(Self::Withdrawn),
            _ => Err(garbled(rows)),
        }
    }
}

/// What the end of a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It held the name until now, or a call before this one was told so.
    Released,
    /// It was revoked, or withdrawn, before.
    Ended,
    /// It does not hold the name; `is_sure`: and no call before this one ended its grant.
    Nothing { is_sure: bool },
}

impl Client {
    pub(super) fn new(shared: Shared, token_base: u64) -> Self {
        let (shared, beating) = (Arc::new(shared), Service::default());
        Self { shared, token_base, beating }
    }

    /// Calls one of our functions about this request's lock.
    async fn call(&self, request: &Request, function: &str, more: &str) -> Result<Answered> {
        let name = quoted(&stored(request.name().as_str()));
        let (schema, id) = (&self.schema, request.id());
        let sql = format!("SELECT {schema}.{function}({name}, '{id}'{more})");
        self.pool.run(request.clock(), call_limit(request.ttl()), &sql).await
    }

    /// Calls one that answers yes or no.
    pub(super) async fn is_so(
        &self,
        request: &Request,
        function: &str,
        more: &str,
    ) -> Result<bool> {
        let rows = self.call(request, function, more).await?.rows;
        match rows.first().and_then(|row| column(row, 0)) {
            Some("t") => Ok(true),
            Some("f") => Ok(false),
            _ => Err(garbled(&rows)),
        }
    }

    pub(super) async fn ask(&self, entry: &Entry, waits: bool) -> Result<Answer> {
        let request = entry.request();
        let functions = Functions::of(request.kind());
        let Ok(sending) = entry.send() else { return Ok(Answer::Withdrawn) };
        let (ttl, client, barrier) = (request.ttl().as_millis(), self.beats.id, self.barrier());
        let label = quoted(&request.label().replace('\0', "\u{fffd}"));
        let more = format!(", '{client}', {ttl}, {label}, {waits}, {barrier}{}", functions.of_kind);
        let answer = self.call(request, functions.acquire, &more).await;
        let is_answered = match &answer {
            Ok(answer) => !answer.replayed,
            Err(error) => !error.is_ambiguous(),
        };
        if is_answered {
            sending.answered();
        }
        Answer::of(&answer?.rows)
    }

    pub(super) fn barrier(&self) -> u128 {
        self.shared.barrier.as_millis()
    }

    /// Ends a request.
    pub(super) async fn leave(&self, entry: &Entry) -> Result<Left> {
        let request = entry.request();
        let tombstone = entry.may_still_arrive();
        let flush = request.ttl() > self.shared.barrier;
        let functions = Functions::of(request.kind());
        let more = format!(", {tombstone}, {flush}");
        let Answered { rows, replayed } = self.call(request, functions.leave, &more).await?;
        match rows.first().and_then(|row| column(row, 0)) {
            Some("released" | "again") => Ok(Left::Released),
            Some("ended") => Ok(Left::Ended),
            Some("nothing") => Ok(Left::Nothing { is_sure: !replayed }),
            _ => Err(garbled(&rows)),
        }
    }

    /// Completes once the server knows that this client lives.
    pub(super) async fn beat_for(&self, waiter: &beats::Waiter<'_>) -> Result<()> {
        loop {
            self.beat()?;
            tokio::select! {
                biased;
                () = waiter.beating() => return Ok(()),
                () = self.beating.lapsed() => {}
            }
        }
    }

    /// The task that beats runs, from now on or already.
    pub(super) fn beat(&self) -> Result<()> {
        self.beating.ensure(|alive| beating::serve(alive, Arc::clone(&self.shared)))
    }

    /// Completes when the server has ended the request's grant; the client listens meanwhile, though no request waits.
    pub(super) async fn ended(&self, request: &Request) -> LossReason {
        let clock = request.clock();
        // Most grants are given back by then, and cost no connection.
        clock.sleep(SOON).await;
        let mut holder = self.beats.hold();
        loop {
            if self.beat().is_err() {
                // Without a runtime no request is told of anything.
                std::future::pending::<()>().await;
            }
            let connection = tokio::select! {
                biased;
                connection = holder.new_connection() => connection,
                () = self.beating.lapsed() => continue,
            };
            match self.is_ended(request).await {
                Ok(Some(reason)) => return reason,
                Ok(None) if self.listener.is_some() => holder.asked(connection),
                // Behind a pooler nothing is told: it asks some times more often than it renews.
                Ok(None) => clock.sleep(LOOK.max(request.ttl() / 8)).await,
                Err(_) => clock.sleep(LOOK).await,
            }
        }
    }

    /// How the request's grant has ended, if it has.
    async fn is_ended(&self, request: &Request) -> Result<Option<LossReason>> {
        let name = quoted(&stored(request.name().as_str()));
        let (schema, id) = (&self.schema, request.id());
        let sql = format!(
            "SELECT CASE WHEN request = '{id}'{} THEN 'held' WHEN '{id}' = ANY (dead) THEN 'revoked' END \
             FROM {schema}.lease WHERE name = {name} ORDER BY gen DESC LIMIT 1",
            match request.kind() {
                Kind::Exclusive => String::new(),
                _ => format!(
                    " OR request = {GROUP} AND EXISTS (SELECT FROM {schema}.member i WHERE i.request = '{id}')"
                ),
            }
        );
        let limit = call_limit(request.ttl());
        let rows = self.pool.run(request.clock(), limit, &sql).await?.rows;
        Ok(match rows.first().and_then(|row| column(row, 0)) {
            Some("held") => None,
            Some(_) => Some(LossReason::Revoked),
            None => Some(LossReason::Removed),
        })
    }

    /// Completes when the task that beats has ended with its runtime, or for want of waiters.
    pub(super) async fn lapsed(&self) {
        self.beating.lapsed().await;
    }

    pub(super) fn close(&self) {
        self.beating.stop();
        self.pool.close();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.beating.stop();
    }
}

/// What the holder has of its grant.
#[derive(Debug)]
struct TableLease {
    client: Arc<Client>,
    entry: Entry,
    /// As the store counts it.
    token: u64,
    released: AtomicBool,
    /// A release was sent that has no answer: it may have ended the grant.
    is_unclear: AtomicBool,
    /// The term that ends last: before that the grant does not expire.
    term: Mutex<Term>,
}

impl TableLease {
    fn term(&self) -> MutexGuard<'_, Term> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, error: Error) -> Error {
        at(&self.client.address, error)
    }

    fn has_expired(&self) -> bool {
        let Term { sent, ttl } = *self.term();
        let ends = sent.saturating_add(ttl.unwrap_or_default());
        self.entry.request().clock().now() >= ends
    }
}

/// What the server granted.
pub(super) fn grant(client: &Arc<Client>, entry: Entry, term: Term, token: u64) -> Result<Grant> {
    let fencing = FencingToken::with_base(client.token_base, token)?;
    entry.granted(token);
    let (released, is_unclear) = (AtomicBool::new(false), AtomicBool::new(false));
    let client = Arc::clone(client);
    let lease = TableLease { client, entry, token, released, is_unclear, term: Mutex::new(term) };
    Ok(Grant::new(fencing, term, lease))
}

#[async_trait]
impl Lease for TableLease {
    async fn renew(&self) -> Result<Term> {
        self.entry.is_latest(self.token)?;
        let request = self.entry.request();
        let term = request.term();
        let more = format!(", {}, {}", request.ttl().as_millis(), self.client.barrier());
        let renew = Functions::of(request.kind()).renew;
        let is_renewed = self.client.is_so(request, renew, &more).await;
        if is_renewed.map_err(|error| self.at(error))? {
            let mut last = self.term();
            if last.sent < term.sent {
                *last = term;
            }
            return Ok(term);
        }
        Err(Error::lost(LossReason::Removed))
    }

    async fn lost(&self) -> LossReason {
        let reason = self.entry.wait_for(|mailbox| match mailbox.last() {
            Some(Notice::Lost(reason)) => Some(reason),
            _ => None,
        });
        tokio::select! {
            biased;
            reason = reason => reason,
            reason = self.client.ended(self.entry.request()) => reason,
        }
    }

    async fn release(&self) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.entry.is_latest(self.token)?;
        let left = self.client.leave(&self.entry).await;
        match left {
            Ok(Left::Released) => {
                self.released.store(true, Ordering::SeqCst);
                Ok(())
            }
            Ok(Left::Nothing { is_sure }) if is_sure && !self.is_unclear.load(Ordering::SeqCst) => {
                Err(Error::lost(LossReason::Removed))
            }
            Ok(Left::Ended) => Err(Error::lost(LossReason::Revoked)),
            // The release without an answer ended it, and the next holder has come and gone since.
            Ok(Left::Nothing { .. }) if !self.has_expired() => {
                self.released.store(true, Ordering::SeqCst);
                Ok(())
            }
            Ok(Left::Nothing { .. }) => Err(Error::unavailable(
                Applied::Maybe,
                "a release had no answer; by now the term of the grant is over",
            )),
            Err(error) => {
                self.is_unclear.fetch_or(error.is_ambiguous(), Ordering::SeqCst);
                Err(self.at(error))
            }
        }
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_words() {
        let of = |said: &str| Answer::of(&[vec![Some(said.to_owned())]]);
        assert_eq!(of("granted 17").expect("an answer"), Answer::Granted { token: 17 });
        let held = |ends_in, label: Option<&str>| Answer::Held {
            ends_in,
            label: label.map(str::to_owned),
        };
        let ends_in = Some(Duration::from_millis(250));
        assert_eq!(of("held 250 a label").expect("an answer"), held(ends_in, Some("a label")));
        assert_eq!(of("held  ").expect("an answer"), held(None, None));
        let opens_in = Duration::from_secs(2);
        assert_eq!(of("closed 2000").expect("an answer"), Answer::Closed { opens_in });
        assert_eq!(of("withdrawn").expect("an answer"), Answer::Withdrawn);
        assert!(of("granted").is_err() && of("").is_err() && Answer::of(&[]).is_err());
    }
}
