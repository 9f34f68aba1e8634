//! The members of the cluster: one client for each, a current one, and the next when it fails.
//!
//! The driver spreads its calls over its endpoints and never learns which of them is down.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lockkit_core::{Clock, Result};
use tokio::sync::Notify;

use crate::EtcdConfig;
use crate::failure::Failure;

/// The longest that anything here waits for the cluster.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

pub(crate) struct Endpoints {
    options: ConnectOptions,
    members: Vec<Member>,
    current: AtomicUsize,
}

struct Member {
    url: String,
    /// Counted, so that only the client that failed is given up, and not its successor.
    live: Mutex<(u64, Option<Client>)>,
    connecting: tokio::sync::Mutex<()>,
    given_up: Notify,
}

/// A client of one member, until it is given up.
pub(crate) struct Line {
    pub(crate) client: Client,
    member: usize,
    number: u64,
}

/// What became of a request that may have been sent more than once.
#[derive(Debug)]
pub(crate) struct Called<T> {
    pub(crate) value: Result<T, Failure>,
    /// Whether a sending other than the one that was answered may still be applied.
    pub(crate) late: bool,
}

impl<T> Called<T> {
    pub(crate) fn into_result(self) -> Result<T> {
        self.value.map_err(|failure| failure.into_error(self.late))
    }
}

/// How long one call about a lease of this ttl may take.
///
/// Less than the driver's own limit, a third of the ttl up to 2 s: so a member that is stuck is
/// given up before the withdrawal, or the next caller, would be sent to it.
pub(crate) fn call_limit(ttl: Duration) -> Duration {
    (ttl * 3 / 10).clamp(LIMIT / 20, LIMIT * 9 / 10)
}

impl Endpoints {
    pub(crate) fn new(config: &EtcdConfig) -> Self {
        let member = |endpoint| Member {
            url: config.url(endpoint),
            live: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            given_up: Notify::new(),
        };
        Self {
            options: config.options(),
            members: config.endpoints.iter().map(member).collect(),
            current: AtomicUsize::new(0),
        }
    }

    /// Sends a request that is a replay of itself until a member answers, at most once to each and
    /// once more, within `limit`.
    pub(crate) async fn call<T, F>(
        &self,
        clock: &Clock,
        limit: Duration,
        request: impl Fn(Client) -> F + Sync,
    ) -> Called<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let end = clock.now().saturating_add(limit);
        let mut under_way = FuturesUnordered::new();
        let (mut late, mut tries, mut is_slow) = (false, 0, false);
        let mut value = Err(Failure::Unserved(format!("no time was left of {limit:?}")));
        loop {
            let (now, member) = (clock.now(), self.current());
            if (under_way.is_empty() || is_slow) && tries <= self.members.len() && now < end {
                under_way.push(self.once(member, clock, end.saturating_since(now), &request));
                (tries, is_slow) = (tries + 1, false);
            }
            if under_way.is_empty() {
                return Called { value, late };
            }
            tokio::select! {
                biased;
                Some(ended) = under_way.next() => {
                    if !matches!(ended, Err(Failure::Unserved(_) | Failure::Unclear(_))) {
                        return Called { value: ended, late: late || !under_way.is_empty() };
                    }
                    late |= matches!(ended, Err(Failure::Unclear(_)));
                    value = ended;
                }
                // Slow is not lost: the next member is asked beside this one.
                () = clock.sleep(limit / 2), if self.members.len() > 1 && tries <= self.members.len() => {
                    self.pass_over(member);
                    is_slow = true;
                }
            }
        }
    }

    /// Sends a request once, to this member.
    pub(crate) async fn once<T, F>(
        &self,
        member: usize,
        clock: &Clock,
        limit: Duration,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let mut used = None;
        let outcome = {
            let used = &mut used;
            let call = async move {
                let line = self.line_to(member).await?;
                *used = Some(line.number);
                request(line.client).await.map_err(|error| Failure::of(&error))
            };
            tokio::select! {
                biased;
                outcome = call => outcome,
                () = clock.sleep(limit) => {
                    Err(Failure::Unclear(format!("etcd gave no answer within {limit:?}")))
                }
            }
        };
        if matches!(outcome, Err(Failure::Unserved(_) | Failure::Unclear(_))) {
            self.give_up(member, used);
        }
        outcome
    }

    /// A client of the current member.
    pub(crate) async fn line(&self) -> Result<Line, Failure> {
        self.line_to(self.current()).await
    }

    /// Gives up a client that is stuck or gone, and goes on to the next member.
    pub(crate) fn drop_line(&self, line: &Line) {
        self.give_up(line.member, Some(line.number));
    }

    /// Completes when somebody has given this client up.
    pub(crate) async fn given_up(&self, line: &Line) {
        let member = &self.members[line.member];
        loop {
            let given_up = member.given_up.notified();
            {
                let live = member.live();
                if live.0 != line.number || live.1.is_none() {
                    return;
                }
            }
            given_up.await;
        }
    }

    /// Where the next request goes.
    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::SeqCst) % self.members.len()
    }

    /// Goes on to the next member, and gives up the client of this one: it answers too slowly.
    pub(crate) fn leave(&self, member: usize) {
        let number = self.members[member].live().0;
        self.give_up(member, Some(number));
    }

    /// Lets every client go; calls under way still get their answers.
    pub(crate) fn close(&self) {
        for member in &self.members {
            member.live().1 = None;
            member.given_up.notify_waiters();
        }
    }

    async fn line_to(&self, member: usize) -> Result<Line, Failure> {
        let known = |(number, client): (u64, Client)| Line { client, member, number };
        let Member { url, connecting, .. } = &self.members[member];
        if let Some(line) = self.members[member].client().map(known) {
            return Ok(line);
        }
        let _one_at_a_time = connecting.lock().await;
        if let Some(line) = self.members[member].client().map(known) {
            return Ok(line);
        }
        let made = Client::connect([url], Some(self.options.clone())).await;
        // Nothing of the request has left yet: here only the login is sent.
        let made = made.map_err(|error| match Failure::of(&error) {
            Failure::Unclear(text) => Failure::Unserved(text),
            failure => failure,
        })?;
        let mut live = self.members[member].live();
        live.0 += 1;
        live.1 = Some(made.clone());
        Ok(known((live.0, made)))
    }

    /// Goes on to the next member, unless somebody has.
    fn pass_over(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        let _ = self.current.compare_exchange(member, next, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn give_up(&self, member: usize, number: Option<u64>) {
        self.pass_over(member);
        let mut live = self.members[member].live();
        if number == Some(live.0) {
            live.1 = None;
            drop(live);
            self.members[member].given_up.notify_waiters();
        }
    }
}

impl Member {
    fn client(&self) -> Option<(u64, Client)> {
        let live = self.live();
        live.1.clone().map(|client| (live.0, client))
    }

    fn live(&self) -> MutexGuard<'_, (u64, Option<Client>)> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the driver's options: they hold the password.
impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls: Vec<_> = self.members.iter().map(|member| &member.url).collect();
        f.debug_struct("Endpoints").field("members", &urls).finish_non_exhaustive()
    }
}
