//! What the body of a case has at hand.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::fixture::{Fixture, Time};
use super::logged::LoggedClient;
use super::notes::Notes;
use super::outcome::Outcome;
use super::stop::{Stop, Verdict, require};
use crate::{
    Clock, Error, Expiry, FencingToken, Grant, Guarantees, Lock, LockName, LockProvider, Locks,
    Operator, Request, RequestId, Result, StoreSays, Term,
};

/// The ttl of most cases: a third of it, the limit of an attempt, is what a busy machine may add.
const TTL: Duration = Duration::from_millis(1500);
/// The ttl of cases that let many leases expire.
const SHORT_TTL: Duration = Duration::from_millis(100);
/// A ttl that no rounding leaves as it is.
const ODD_TTL: Duration = Duration::from_millis(1337);
/// The ttl of holders that nobody renews.
const LONG_TTL: Duration = Duration::from_secs(60);
/// The least ttl that any caller may wish for.
const LEAST_TTL: Duration = Duration::from_millis(50);
/// So many calls fit into any ttl: a third of it, the limit of one, is four of them.
const CALLS: u32 = 12;

/// One run of one case.
pub(super) struct Context {
    pub(super) fixture: Arc<dyn Fixture>,
    /// A client of the store, to look into it or to be one of the contenders.
    pub(super) provider: Arc<dyn LockProvider>,
    pub(super) guarantees: Guarantees,
    pub(super) clock: Clock,
    /// What the report shows of this run.
    pub(super) notes: Notes,
    /// The id of the case, and its own time limit.
    case: &'static str,
    pub(super) case_limit: Duration,
    /// What a call on the store takes, beyond what the slack covers on any store; zero on most.
    pub(super) call: Duration,
    /// Starts every name of this run, so that runs on one store do not meet.
    prefix: String,
}

impl Context {
    pub(super) fn new(
        case: &'static str,
        case_limit: Duration,
        fixture: Arc<dyn Fixture>,
        provider: Arc<dyn LockProvider>,
        notes: Notes,
    ) -> Self {
        let clock = match fixture.time() {
            Time::Real => Clock::system(),
            Time::Virtual => Clock::tokio(),
        };
        let run = RequestId::random().map(|id| id.to_string()).unwrap_or_default();
        let prefix = format!("conformance-{case}-{run}");
        notes.calls().names_contain(&format!("{prefix}-"));
        let provider: Arc<dyn LockProvider> = Arc::new(LoggedClient::new(provider, &notes, &clock));
        let guarantees = provider.guarantees();
        let call = Duration::ZERO;
        Self { fixture, guarantees, provider, clock, notes, case, case_limit, call, prefix }
    }

    /// The same run on another fixture's store.
    pub(super) async fn on(&self, fixture: Arc<dyn Fixture>) -> Verdict<Self> {
        let provider = fixture.connect().await?;
        let other = Self::new(self.case, self.case_limit, fixture, provider, self.notes.clone());
        Ok(other.at_its_pace().await)
    }

    /// After how long a case hangs: its own limit, longer where ttls, polls or calls are; a busy
    /// machine takes three times as long, and in virtual time more costs nothing.
    pub(super) fn limit(&self) -> Duration {
        let longer = 20 * self.ttl().saturating_sub(TTL) + 60 * self.poll() + 1000 * self.call;
        let limit = self.case_limit + longer;
        if self.is_virtual() { 4 * limit } else { 3 * limit }
    }

    pub(super) fn is_virtual(&self) -> bool {
        self.fixture.time() == Time::Virtual
    }

    /// The name of this run that ends with `tail`.
    pub(super) fn name(&self, tail: &str) -> String {
        format!("{}-{tail}", self.prefix)
    }

    /// The same as a [`LockName`].
    pub(super) fn lock_name(&self, tail: &str) -> Verdict<LockName> {
        Ok(LockName::new(self.name(tail))?)
    }

    /// One more client of the store.
    pub(super) async fn connect(&self) -> Verdict<Arc<dyn LockProvider>> {
        let connected = self
            .fixture
            .connect()
            .await
            .map_err(|error| Stop::error(&error, "the fixture connects no further client"))?;
        Ok(Arc::new(LoggedClient::new(connected, &self.notes, &self.clock)))
    }

    /// So many clients, one connected after the other.
    pub(super) async fn clients(&self, number: usize) -> Verdict<Vec<Arc<dyn LockProvider>>> {
        let mut clients = Vec::with_capacity(number);
        for _ in 0..number {
            clients.push(self.connect().await?);
        }
        Ok(clients)
    }

    /// The locks of one more client.
    pub(super) async fn locks(&self) -> Verdict<Locks> {
        Ok(self.locks_of(self.connect().await?))
    }

    /// The locks of this client.
    pub(super) fn locks_of(&self, provider: impl LockProvider) -> Locks {
        Locks::builder().clock(self.clock.clone()).ttl(self.ttl()).build(provider)
    }

    /// The lock with this tail, at one more client.
    pub(super) async fn lock(&self, tail: &str) -> Verdict<Lock> {
        Ok(self.locks().await?.lock(self.name(tail)))
    }

    /// A fresh request for the name with this tail.
    pub(super) fn request(&self, tail: &str) -> Verdict<Request> {
        self.request_with_ttl(tail, self.ttl())
    }

    /// The same with another ttl than that of most cases.
    pub(super) fn request_with_ttl(&self, tail: &str, ttl: Duration) -> Verdict<Request> {
        Ok(Request::new(self.lock_name(tail)?, ttl, self.clock.clone())?)
    }

    /// One attempt of `provider` that must be granted.
    pub(super) async fn granted(
        &self,
        provider: &dyn LockProvider,
        request: &Request,
    ) -> Verdict<Grant> {
        let grant = provider.try_acquire(request).await?;
        grant.ok_or_else(|| Stop::failed(format!("{:?} is free, and was refused", request.name())))
    }

    /// Takes and releases the name with this tail at a fresh client, within the time in which a
    /// waiter learns that a name is free; its token.
    pub(super) async fn is_free(&self, tail: &str) -> Verdict<FencingToken> {
        self.is_free_for(&self.lock(tail).await?).await
    }

    /// Takes and releases the name of a lock whose client is there already, as
    /// [`is_free`](Self::is_free) does.
    pub(super) async fn is_free_for(&self, lock: &Lock) -> Verdict<FencingToken> {
        let bound = self.wake_up();
        let guard = match lock.acquire_within(bound).await {
            Ok(guard) => guard,
            Err(error) => {
                // What is left there is a residue, however late the machine is.
                self.no_residue_of(&lock.name.clone()?).await?;
                let what = format_args!("the name is not free for others within {bound:?}");
                return Err(Stop::error(&error, what));
            }
        };
        let token = guard.token();
        guard.release().await?;
        Ok(token)
    }

    /// What an operator can see and do in the store.
    pub(super) fn operator(&self) -> Verdict<&dyn Operator> {
        let none = || Stop::Final(Outcome::NotClaimed("C16: there is an operator".into()));
        self.provider.operator().ok_or_else(none)
    }

    /// Waits until the store knows of nobody at the name with this tail, as far as it can tell.
    pub(super) async fn no_residue(&self, tail: &str) -> Verdict {
        self.no_residue_of(&self.lock_name(tail)?).await
    }

    pub(super) async fn no_residue_of(&self, name: &LockName) -> Verdict {
        // Of a look that takes long only so much counts: no stall makes a residue of what is about to go.
        let (bound, most) = (self.wake_up(), self.wake_up() / 10);
        let mut waited = Duration::ZERO;
        loop {
            let look = self.clock.now();
            let Some(seen) = self.residue(name).await? else { return Ok(()) };
            if waited >= bound {
                return Err(Stop::failed(format!(
                    "C9: all that used {name:?} has ended, and {bound:?} later something is left in the \
                     store: {seen}"
                )));
            }
            self.sleep(Duration::from_millis(5)).await;
            waited += self.clock.now().saturating_since(look).min(most);
        }
    }

    /// Fails, and says why, if a renewal does not tell that this grant has ended.
    pub(super) async fn has_ended(&self, grant: &Grant, why: &str) -> Verdict {
        let renewed = grant.lease.renew().await;
        require!(matches!(renewed, Err(Error::Lost { .. })), "{why}: {renewed:?}");
        Ok(())
    }

    /// Completes once a renewal tells that this grant has ended.
    pub(super) async fn until_it_has_ended(&self, grant: &Grant) {
        while !matches!(grant.lease.renew().await, Err(Error::Lost { .. })) {
            self.sleep(self.wake_up() / 20).await;
        }
    }

    /// Why a case fails in which this term, which nothing renews, was not kept: late, where it is over.
    pub(super) fn not_kept(&self, term: Term, why: impl Into<String>) -> Stop {
        let end = term.ttl.map(|ttl| term.sent.saturating_add(ttl));
        let is_over = end.is_some_and(|end| end <= self.clock.now());
        if is_over { Stop::late(why) } else { Stop::failed(why) }
    }

    async fn residue(&self, name: &LockName) -> Result<Option<String>> {
        let Some(operator) = self.provider.operator() else {
            return self.fixture.residue(name).await;
        };
        let seen = operator.inspect(name).await?;
        let nobody = seen.holders.is_empty() && seen.waiters.unwrap_or(0) == 0;
        Ok((!nobody).then(|| format!("{seen:?}")))
    }

    /// Waits until the provider says that `request` waits behind a holder.
    pub(super) async fn queued(&self, request: &Request) -> Verdict {
        let bound = self.wake_up();
        let waits = || matches!(request.last_word(), Some(StoreSays::Held(_)));
        self.until(bound, waits).await.map_err(|_| {
            let said = request.last_word();
            Stop::late(format!("a waiter did not report within {bound:?}, but {said:?} (C8)"))
        })
    }

    /// Waits for `future` for at most `bound`.
    pub(super) async fn by<T>(
        &self,
        bound: Duration,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Verdict<T> {
        let ended = tokio::time::timeout(bound, future).await;
        ended.map_err(|_| {
            Stop::late(format!("{what}: not within {bound:?}, the suite's limit for it"))
        })
    }

    /// Waits until `holds` for at most `bound`.
    pub(super) async fn until(&self, bound: Duration, holds: impl Fn() -> bool) -> Verdict {
        let end = self.clock.now().saturating_add(bound);
        while !holds() {
            if self.clock.now() >= end {
                return Err(Stop::late(format!("what must come did not within {bound:?}")));
            }
            self.sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// The ttl of most cases, as the store grants it.
    pub(super) fn ttl(&self) -> Duration {
        self.fit(TTL.max(CALLS * self.call))
    }

    /// The least ttl for many expiries, as the store grants it.
    pub(super) fn short_ttl(&self) -> Duration {
        self.fit(SHORT_TTL.max(CALLS * self.call))
    }

    /// The least ttl that a caller may wish for and be granted before it is over.
    pub(super) fn least_ttl(&self) -> Duration {
        LEAST_TTL.max(CALLS * self.call)
    }

    /// A ttl that outlasts any case, as the store grants it.
    pub(super) fn long_ttl(&self) -> Duration {
        self.fit(LONG_TTL)
    }

    /// A ttl that is no round number, as the store grants it.
    pub(super) fn odd_ttl(&self) -> Duration {
        self.fit(ODD_TTL)
    }

    pub(super) fn fit(&self, wished: Duration) -> Duration {
        let Some(range) = self.guarantees.expiry.range() else { return wished };
        let step = range.granularity.max(Duration::from_millis(1));
        let steps = wished.max(range.min).as_nanos().div_ceil(step.as_nanos());
        step.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX)).min(range.max)
    }

    /// Whether leases live on a session that they may share.
    pub(super) const fn has_sessions(&self) -> bool {
        matches!(self.guarantees.expiry, Expiry::Session(_) | Expiry::Connection(_))
    }

    /// Whether a lease ends with its client's connection, as declared.
    pub(super) const fn ends_with_connection(&self) -> bool {
        matches!(self.guarantees.expiry, Expiry::Connection(_))
    }

    /// What a busy machine may add to any bound, and a few calls where calls take long.
    pub(super) fn slack(&self) -> Duration {
        self.noise() + 4 * self.call
    }

    /// What a busy machine may add to any bound.
    pub(super) fn noise(&self) -> Duration {
        Duration::from_millis(if self.is_virtual() { 50 } else { 500 })
    }

    /// By when a waiter knows that the name is free, as declared (C8).
    pub(super) fn wake_up(&self) -> Duration {
        self.poll() + 2 * self.slack()
    }

    /// By when after its ttl a holder that is not heard of has lost the name (C11).
    pub(super) fn expiry_slack(&self) -> Duration {
        let range = self.guarantees.expiry.range();
        let granularity = range.map_or(Duration::ZERO, |range| range.granularity);
        2 * granularity + self.ttl() / 2 + self.wake_up()
    }

    pub(super) async fn sleep(&self, by: Duration) {
        self.clock.sleep(by).await;
    }
}
