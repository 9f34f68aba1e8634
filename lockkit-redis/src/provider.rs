//! The provider: what each call asks of Redis.

use std::sync::Arc;
use std::time::Duration;

use crate::RedisConfig;
use crate::cohort::HandedOn;
use crate::connection::{Answered, Commands, LIMIT};
use crate::error::after;
use crate::lease::RedisLease;
use crate::protocol::{
    ACQUIRE, Answer, Pass, Passed, Place, RELEASE, Script, WITHDRAW, entry, keys, life,
};
use crate::seat::{Seat, Word};
use crate::wake::Wake;
use async_trait::async_trait;
use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Holder, Instant,
    Late, LockProvider, Operator, Request, RequestId, Result, StoreSays, Term, TtlRange, WakeUp,
};

/// A client of one Redis or Valkey server, 6.2 or newer.
///
/// It makes one connection for commands, shared by all its locks, and one for wake-ups at the
/// first wait; both are made anew when they end. The tasks that serve them live in the runtime that
/// made them. See the page `docs/redis.md` for the algorithm and its bounds.
#[derive(Clone, Debug)]
pub struct RedisProvider(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) commands: Commands,
    pub(crate) prefix: String,
    pub(crate) token_base: u64,
    /// What this provider's channel ends in, and all its entries in the store.
    pub(crate) address: String,
    pub(crate) wake: Arc<Wake>,
    pub(crate) late: Late,
}

impl RedisProvider {
    /// What every store of this kind promises, known before one is connected (C13).
    pub const fn declared() -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::Ttl(TtlRange::ANY));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Push;
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.data_loss = true;
        guarantees.belief_breaks_on = &[
            "a pause between a check and its use that outlasts the margin",
            "a jump of the server's clock",
            "a crash of a server that does not keep every write",
            "a failover to a replica",
            "removal of the lock's key by others (DEL, FLUSHALL, eviction), until the next renewal",
            "a revocation, until the holder is told: at its next renewal at the latest",
        ];
        guarantees
    }

    /// Connects, and looks whether the server is fit for locks.
    ///
    /// ```no_run
    /// # async fn connect() -> lockkit_core::Result<()> {
    /// use lockkit_redis::{RedisConfig, RedisProvider};
    ///
    /// let provider = RedisProvider::connect(RedisConfig::unix("/run/redis/redis.sock")).await?;
    /// let locks = lockkit_core::Locks::new(provider);
    /// let guard = locks.lock("billing/nightly").acquire().await?;
    /// # drop(guard); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, a server that is too old, a replica, or
    /// may evict keys, or that lets us not publish or subscribe; each says what to do. `Unavailable`:
    /// no answer. `NoRuntime`: called outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn connect(config: RedisConfig) -> Result<Self> {
        config.check()?;
        let address = RequestId::random()?.to_string()[..16].to_owned();
        let commands = Commands::new(&config)?;
        let inner = Inner {
            commands,
            prefix: config.prefix,
            token_base: config.token_base,
            address,
            wake: Arc::default(),
            late: Late::default(),
        };
        inner.look_around().await?;
        Ok(Self(Arc::new(inner)))
    }
}

impl Inner {
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
        let alive = life(request.ttl()).as_millis().to_string();
        let lock = keys(&self.prefix, request.name());
        let mut all = vec![&*id, &*alive];
        all.extend_from_slice(args);
        // Sooner than the driver turns away (a third, 2 s): a stuck connection is then given up before
        // the withdrawal, or the next caller, would be sent over it.
        let limit = (request.ttl() * 3 / 10).clamp(LIMIT / 20, LIMIT * 9 / 10);
        self.commands.script(request.clock(), limit, script, &lock, &all).await
    }

    /// Tells the server which grants have ended, and who holds by now; beside the answer, whether a
    /// sending of it got none.
    pub(crate) async fn pass(&self, request: &Request, pass: &Pass) -> (Result<Passed>, bool) {
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
        // Until it is answered, it may bring a grant to whom it names.
        let named = pass.to.as_ref().map(|to| self.late.sent(to.id(), to.clock()));
        let answer = self.run_for(pass.from, request, &RELEASE, &args).await;
        if let Some(named) = named.filter(|_| !answer.may_arrive) {
            named.answered();
        }
        (answer.value.and_then(|value| Passed::of(&value)), answer.may_arrive)
    }

    /// Asks for a request that has not been told what became of it.
    async fn ask(&self, request: &Request, seat: &Seat, waits: bool) -> Result<Asked> {
        let ttl = request.ttl().as_millis().to_string();
        let waits = if waits { "1" } else { "0" };
        let attempt = self.late.sent(request.id(), request.clock());
        // Counted first: a withdrawal tells the seat before it looks for what may arrive, so that
        // either we see it, or it leaves a tombstone for us.
        let _asking = match seat.ask() {
            Ok(asking) => asking,
            Err(word) => {
                attempt.answered();
                return Ok(Asked::Needless(word));
            }
        };
        let answer = self.run(request, &ACQUIRE, &[&ttl, request.label(), waits]).await;
        if !answer.may_arrive {
            attempt.answered();
        }
        Answer::of(&answer.value?).map(Asked::Answered)
    }

    /// What the server granted.
    fn granted(
        self: &Arc<Self>,
        request: &Request,
        seat: Arc<Seat>,
        sent: Instant,
        token: u64,
        line: Vec<Place>,
    ) -> Result<Grant> {
        let cohort = self.wake.granted(request, &seat, token, sent, line);
        self.grant(request, seat, HandedOn { cohort, token, sent })
    }

    /// What the server, or a holder of ours, granted.
    fn grant(
        self: &Arc<Self>,
        request: &Request,
        seat: Arc<Seat>,
        granted: HandedOn,
    ) -> Result<Grant> {
        let HandedOn { cohort, token, sent } = granted;
        let term = Term { sent, ttl: Some(request.ttl()) };
        let lease = RedisLease::new(Arc::clone(self), request.clone(), token, seat, cohort);
        Ok(Grant::new(FencingToken::with_base(self.token_base, token)?, term, lease))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.wake.close();
    }
}

/// What asking came to.
enum Asked {
    Answered(Answer),
    /// This was told first.
    Needless(Word),
}

/// For a script that ends a request: whether it leaves a tombstone.
const fn tombstone(late: bool) -> &'static str {
    if late { "1" } else { "0" }
}

#[async_trait]
impl LockProvider for RedisProvider {
    fn guarantees(&self) -> Guarantees {
        Self::declared()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let seat = self.0.wake.seat(request);
        let sent = request.clock().now();
        match self.0.ask(request, &seat, false).await? {
            Asked::Answered(Answer::Granted { token, line }) => {
                self.0.granted(request, seat, sent, token, line).map(Some)
            }
            Asked::Answered(Answer::Held { .. }) => Ok(None),
            Asked::Needless(Word::Granted(granted)) => {
                self.0.grant(request, seat, granted).map(Some)
            }
            Asked::Answered(Answer::Withdrawn) | Asked::Needless(_) => Err(withdrawn()),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let seat = self.0.wake.seat(request);
        let heartbeat = life(request.ttl()) / 3;
        let clock = request.clock();
        let mut is_queued = false;
        loop {
            let sent = clock.now();
            let asked = self.0.ask(request, &seat, true).await;
            // What it sent before this has left it in the queue.
            let asked = asked.map_err(|error| after(is_queued, error))?;
            let (expires_in, label, ticket) = match asked {
                Asked::Answered(Answer::Granted { token, line }) => {
                    return self.0.granted(request, seat, sent, token, line);
                }
                Asked::Needless(Word::Granted(granted)) => {
                    return self.0.grant(request, seat, granted);
                }
                Asked::Answered(Answer::Withdrawn) | Asked::Needless(_) => return Err(withdrawn()),
                Asked::Answered(Answer::Held { expires_in, rank, label, ticket, token }) => {
                    if let (Some(0), Some(ticket), Some(token)) = (rank, ticket, token)
                        && let Some(cohort) = self.0.wake.cohort(request.name())
                    {
                        cohort.head((request.id(), ticket), token);
                    }
                    (expires_in, label, ticket)
                }
            };
            is_queued = true;
            request.report(StoreSays::Held(Some(Holder::new(label))));
            self.0.wake.subscribe(self.0.commands.client(), &self.0.address);
            let next_heartbeat = clock.now().saturating_add(heartbeat);
            // Past its life it may have lost its place, and be queued again by what comes late.
            let resting = seat.rest(ticket, sent.saturating_add(heartbeat * 3));
            let just_after = |left: Duration| {
                clock.now().saturating_add(left + Duration::from_millis(1)).min(next_heartbeat)
            };
            let mut until = expires_in.map_or(next_heartbeat, just_after);
            loop {
                tokio::select! {
                    word = seat.news() => match word {
                        Word::AskIn(after) => until = until.min(just_after(after)),
                        Word::Ask => break,
                        Word::Granted(granted) => {
                            drop(resting);
                            return self.0.grant(request, seat, granted);
                        }
                        Word::Withdrawn | Word::Lost(_) => return Err(withdrawn()),
                    },
                    () = clock.sleep_until(until) => break,
                }
            }
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        // Told before it is sent: a waiter that asked once more would come back behind it.
        if let Some(seat) = self.0.wake.taken(request.id()) {
            seat.tell(Word::Withdrawn);
        }
        // Told before we look: a holder of ours either sees it, or has granted to it by now.
        if let Some(cohort) = self.0.wake.cohort(request.name()) {
            cohort.forget(request.id());
            if let Some(token) = cohort.token_of(request.id()) {
                cohort.end(request.id());
                match cohort.ended(&self.0, request, token).await {
                    Ok(()) | Err(Error::Lost { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let late = tombstone(self.0.late.may_arrive(request.id()));
        self.0.run(request, &WITHDRAW, &[late]).await.value?;
        Ok(())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn close(&self) -> Result<()> {
        self.0.wake.close();
        self.0.commands.close();
        Ok(())
    }
}

fn withdrawn() -> Error {
    Error::unavailable(Applied::No, "the request was withdrawn")
}
