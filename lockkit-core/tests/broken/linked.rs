//! The client of the small store behind a link: each call is a message there and one back.

use std::any::Any;
use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lockkit_core::conformance::Way;
use lockkit_core::{
    Applied, Error, FencingToken, Grant, Guarantees, Inspection, Instant, Lease, LockName,
    LockProvider, LossReason, Operator, Permits, Request, Result, StoreSays, Term, async_trait,
};
use tokio::sync::{oneshot, watch};

use super::client::{guarantees, next_client, worth_asking};
use super::entry::Ask;
use super::habits::{Call, Habits};
use super::handed_on::HandedOn;
use super::link::Network;
use super::store::{Answer, Store};

/// The most that a call of an operator takes, who names no ttl.
const CALL: Duration = Duration::from_secs(2);

/// One client, with one connection at a time.
#[derive(Clone, Debug)]
pub(crate) struct LinkedClient {
    store: Arc<Store>,
    number: u64,
    network: Network,
    habits: Habits,
    connection: Arc<Mutex<Option<usize>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    trying: Arc<Mutex<HashMap<LockName, watch::Receiver<()>>>>,
    handed_on: HandedOn,
}

fn limit(request: &Request) -> Duration {
    (request.ttl() / 3).min(CALL)
}

impl LinkedClient {
    pub(crate) fn connect(store: &Arc<Store>, network: &Network, habits: Habits) -> Self {
        let (store, network) = (Arc::clone(store), network.clone());
        let (connection, turn, trying, handed_on) = Default::default();
        Self { store, number: next_client(), network, habits, connection, turn, trying, handed_on }
    }

    /// The attempt on this name that is under way; if there is none, ours is until it is dropped.
    fn begin(&self, name: &LockName) -> Result<watch::Sender<()>, watch::Receiver<()>> {
        let mut trying = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = trying.get(name).filter(|other| other.has_changed().is_ok()) {
            return Err(other.clone());
        }
        let (ours, under_way) = watch::channel(());
        trying.insert(name.clone(), under_way);
        Ok(ours)
    }

    /// The connection that there is, or a new one.
    fn connected(&self) -> Result<usize> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = connection.filter(|number| !*self.network.over(*number).borrow()) {
            return Ok(number);
        }
        let refused = || Error::unavailable(Applied::No, "the connection was refused");
        let number = self.network.connect().ok_or_else(refused)?;
        *connection = Some(number);
        Ok(number)
    }

    /// Has the store do something, and brings its answer and the connection that it came over.
    async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<(T, usize)> {
        let _turn = match self.habits.one_call_at_a_time {
            true => Some(self.turn.lock().await),
            false => None,
        };
        let number = self.connected()?;
        let (answer, answered) = oneshot::channel();
        let (store, network) = (Arc::clone(&self.store), self.network.clone());
        self.network.send(number, Way::Requests, move || {
            let done = work(&store);
            network.send(number, Way::Replies, move || drop(answer.send(done)));
        });
        let limit = async {
            match self.habits.limits_calls {
                true => tokio::time::sleep(limit).await,
                false => pending().await,
            }
        };
        let why = tokio::select! {
            biased;
            answer = answered => match answer {
                Ok(answer) => return Ok((answer, number)),
                Err(_) => "the connection was reset",
            },
            () = limit => {
                // It is stuck: the next call takes another.
                if self.habits.leaves_stuck_connections {
                    self.network.close(number);
                }
                "no answer within the limit"
            }
        };
        Err(Error::unavailable(self.habits.unanswered_is, why))
    }

    /// One attempt, over which connection it went, and what it is told later: that it is worth
    /// asking again.
    async fn ask(&self, request: &Request, ask: Ask) -> Result<(Answer, usize)> {
        let (number, asked, began) = (self.number, request.clone(), request.clock().now());
        if let Some(applied) = self.habits.makes_room_first.filter(|_| ask != Ask::Again) {
            let name = request.name().clone();
            let room = self.call(limit(request), move |store| drop(store.inspect(&name)));
            room.await.map_err(|error| Error::unavailable(applied, error))?;
        }
        // Both calls have one limit together.
        let left = limit(request).saturating_sub(request.clock().now().saturating_since(began));
        let told = self.call(left, move |store| {
            store.check_limit(&asked).map(|()| store.ask(number, &asked, ask))
        });
        let (answer, connection) = told.await?;
        let answer = answer?;
        let Answer::Held(mut waiting) = answer else { return Ok((answer, connection)) };
        if let Some(wake) = waiting.wake.take() {
            let (tell, told) = watch::channel(());
            waiting.wake = Some(told);
            tokio::spawn(self.clone().listens(connection, wake, tell));
        }
        Ok((Answer::Held(waiting), connection))
    }

    /// Carries a wake-up over the connection that its waiter asked on, or its end.
    async fn listens(
        self,
        connection: usize,
        mut wake: watch::Receiver<()>,
        tell: watch::Sender<()>,
    ) {
        let (tell, mut over) = (Arc::new(tell), self.network.over(connection));
        let listens = connection == 0 || self.habits.listens_again;
        tokio::select! {
            _ = wake.changed(), if listens => {
                let told = Arc::clone(&tell);
                self.network.send(connection, Way::Replies, move || told.send_replace(()));
            }
            () = async { drop(over.wait_for(|over| *over).await) } => {}
            () = tell.closed() => {}
        }
        // Whose connection has ended asks again over another one, unless nobody tells it.
        if !self.habits.hears_resets || connection > 0 && !self.habits.listens_again {
            tell.closed().await;
        }
    }

    fn grant(
        &self,
        request: &Request,
        sent: Instant,
        token: FencingToken,
        connection: usize,
        call: Call,
    ) -> Grant {
        let (client, request, term) =
            (self.clone(), request.clone(), self.term(request, sent, call));
        let over = self.network.over(connection);
        let gave_up = AtomicBool::new(false);
        Grant::new(token, term, LinkedLease { client, request, token, over, gave_up })
    }

    fn term(&self, request: &Request, sent: Instant, call: Call) -> Term {
        if (self.habits.leaks_connection)(call) {
            self.network.connect();
        }
        let at_receipt = (self.habits.term_from_receipt)(call);
        let sent = if at_receipt { request.clock().now() } else { sent };
        Term { sent, ttl: Some(request.ttl()) }
    }

    /// What an end without an answer comes to.
    fn ended(&self, ended: Result<()>) -> Result<()> {
        match ended {
            Err(Error::Unavailable { .. }) if self.habits.silence_is_success => Ok(()),
            ended => ended,
        }
    }
}

#[async_trait]
impl LockProvider for LinkedClient {
    fn guarantees(&self) -> Guarantees {
        guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let _ours = match self.begin(request.name()) {
            Err(mut other) if self.habits.joins_attempts => {
                drop(other.changed().await);
                return Ok(None);
            }
            ours => ours,
        };
        let sent = request.clock().now();
        let ((answer, connection), request) = match self.ask(request, Ask::Now).await {
            Err(Error::Unavailable { .. }) if self.habits.retries_under_a_new_id => {
                let (name, clock) = (request.name().clone(), request.clock().clone());
                let again = Request::new(name, request.ttl(), clock)?;
                (self.ask(&again, Ask::Now).await?, again)
            }
            answer => (answer?, request.clone()),
        };
        match answer {
            Answer::Granted(granted) => {
                let grant = self.grant(&request, sent, granted.token, connection, Call::Attempt);
                Ok(Some(grant.with_slot(granted.slot)))
            }
            Answer::Held(_) | Answer::Gone => Ok(None),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let (mut ask, mut call, came) = (Ask::Queue, Call::Wait, request.clock().now());
        loop {
            let sent = request.clock().now();
            let (answer, connection) = match self.ask(request, ask).await {
                Err(Error::Unavailable { .. }) if !self.habits.tells_of_outages => {
                    request.report(StoreSays::Held(None));
                    request.clock().sleep(Duration::from_millis(5)).await;
                    continue;
                }
                // An earlier place in the queue may be there still.
                Err(Error::Unavailable { .. }) if self.habits.waits_through_outages => {
                    return Err(Error::unavailable(Applied::Maybe, "the wait was cut off"));
                }
                Err(Error::Unavailable { .. }) => {
                    return Err(Error::rejected("the wait was cut off", "wait once more"));
                }
                answer => answer?,
            };
            match answer {
                Answer::Granted(granted) => {
                    let sent = if self.habits.term_from_queueing { came } else { sent };
                    let grant = self.grant(request, sent, granted.token, connection, call);
                    return Ok(grant.with_slot(granted.slot));
                }
                Answer::Held(waiting) => {
                    request.report(StoreSays::Held(waiting.holder.clone()));
                    tokio::select! {
                        () = worth_asking(request, sent, waiting) => {}
                        Ok(token) = self.handed_on.waits(request.name()) => {
                            let now = request.clock().now();
                            return Ok(self.grant(request, now, token, connection, Call::HandOff));
                        }
                    }
                }
                Answer::Gone => {
                    return Err(Error::unavailable(Applied::No, "the place in the queue is gone"));
                }
            }
            call = Call::HandOff;
            ask = if self.habits.asks_from_its_place { Ask::Again } else { Ask::Queue };
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let (number, asked) = (self.number, request.clone());
        let told = self.call(limit(request), move |store| {
            let before = store.inspect(asked.name());
            store.withdraw(number, &asked);
            before != store.inspect(asked.name())
        });
        match told.await {
            Ok((false, _)) if !self.habits.withdraws_nothing => {
                Err(Error::rejected("a withdrawal of nothing", "withdraw only once"))
            }
            told => self.ended(told.map(drop)),
        }
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) -> Result<()> {
        let open = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(open) = open.filter(|_| self.habits.closes_its_connection) {
            self.network.close(open);
        }
        if self.habits.pings_after_close {
            let client = self.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    drop(client.call(CALL, |_| ()).await);
                }
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Operator for LinkedClient {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let name = name.clone();
        Ok(self.call(CALL, move |store| store.inspect(&name)).await?.0)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let told = self.call(CALL, move |store| store.list(&prefix, after.as_ref(), limit));
        Ok(told.await?.0)
    }

    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        let name = name.clone();
        Ok(self.call(CALL, move |store| store.resize(&name, permits)).await?.0)
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let name = name.clone();
        Ok(self.call(CALL, move |store| store.revoke(&name, token)).await?.0)
    }
}

#[derive(Debug)]
struct LinkedLease {
    client: LinkedClient,
    request: Request,
    token: FencingToken,
    /// Tells when the connection is gone that it was granted over.
    over: watch::Receiver<bool>,
    gave_up: AtomicBool,
}

#[async_trait]
impl Lease for LinkedLease {
    async fn renew(&self) -> Result<Term> {
        if *self.over.borrow() && !self.client.habits.lease_outlives_connection {
            return Err(Error::lost(LossReason::SessionEnded));
        }
        if self.gave_up.load(Ordering::SeqCst) {
            return Err(Error::unavailable(Applied::No, "an earlier renewal failed"));
        }
        let (asked, token, number) = (self.request.clone(), self.token, self.client.number);
        let sent = asked.clock().now();
        let renew = move |store: &Store| store.renew(number, &asked, token, sent);
        let told = self.client.call(limit(&self.request), renew).await;
        let gives_up = told.is_err() && !self.client.habits.renews_after_an_error;
        self.gave_up.fetch_or(gives_up, Ordering::SeqCst);
        match told?.0 {
            true => Ok(self.client.term(&self.request, sent, Call::Renewal)),
            false => Err(Error::lost(LossReason::Removed)),
        }
    }

    // This store tells of no loss over a link: the driver's deadline does.
    async fn lost(&self) -> LossReason {
        pending().await
    }

    async fn out_of_reach(&self) {
        let connection = *self.client.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match connection {
            Some(number) => {
                drop(self.client.network.over(number).wait_for(|over| *over).await);
            }
            None => pending().await,
        }
    }

    async fn release(&self) -> Result<()> {
        let (asked, token, number) = (self.request.clone(), self.token, self.client.number);
        if self.client.habits.hands_on_itself {
            self.client.handed_on.hand_on(asked.name(), token);
        }
        let told = self.client.call(limit(&asked), move |store| {
            store.release(number, &asked, token) || store.was_released(&asked)
        });
        let ended = match told.await {
            Ok((true, _)) => Ok(()),
            Ok((false, _)) => Err(Error::lost(LossReason::Removed)),
            Err(error) => Err(error),
        };
        self.client.ended(ended)
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        let (asked, token, number) = (self.request.clone(), self.token, self.client.number);
        let told =
            self.client.call(limit(&asked), move |store| store.rest(number, &asked, token, rest));
        match told.await?.0 {
            true => Ok(true),
            false => Err(Error::lost(LossReason::Removed)),
        }
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        let (asked, own, number) = (self.request.clone(), self.token, self.client.number);
        let raise = move |store: &Store| store.raise(number, &asked, own, token);
        let told = self.client.call(limit(&self.request), raise).await;
        told?.0.ok_or_else(|| Error::lost(LossReason::Removed))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
