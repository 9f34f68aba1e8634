//! The members of the cluster: one client for each, a current one, and the next when it fails.
//!
//! The driver spreads its calls over its endpoints and never learns which of them is down.

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcd_client::{Client as Driver, ResponseHeader};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lockkit_core::{Clock, Error, Result};

use crate::EtcdConfig;
use crate::answer::Answer;
use crate::error::{Failure, may_be_replaced};
use crate::history::{History, Moment};
use crate::mark::Mark;
use crate::member_client::{Member, MemberClient, Progress};

pub(crate) struct Endpoints {
    pub(crate) config: EtcdConfig,
    pub(crate) members: Vec<Member>,
    current: AtomicUsize,
    pub(crate) history: Arc<History>,
    /// The id of our cluster, of the first answer of all.
    pub(crate) cluster: OnceLock<u64>,
    pub(crate) mark: OnceLock<Mark>,
}

/// What became of a request that may have been sent more than once.
#[derive(Debug)]
pub(crate) struct CallOutcome<T> {
    pub(crate) value: Result<T, Failure>,
    /// Whether a sending other than the one that was answered may still be applied.
    pub(crate) late: bool,
}

impl<T> CallOutcome<T> {
    pub(crate) fn into_result(self) -> Result<T> {
        self.value.map_err(|failure| failure.into_error(self.late))
    }
}

impl Endpoints {
    pub(crate) fn new(config: &EtcdConfig) -> Self {
        let all = config.endpoints.iter().enumerate();
        let member = |(index, endpoint)| Member::new(index, config.url(endpoint));
        Self {
            config: config.clone(),
            members: all.map(member).collect(),
            current: AtomicUsize::new(0),
            history: Arc::default(),
            cluster: OnceLock::new(),
            mark: OnceLock::new(),
        }
    }

    /// Sends a request that is a replay of itself until a member answers, at most once to each and
    /// once more, within `limit`.
    pub(crate) async fn call<T, F>(
        &self,
        clock: &Clock,
        limit: Duration,
        request: impl Fn(Driver) -> F + Sync,
    ) -> CallOutcome<T>
    where
        T: Answer,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let end = clock.now().saturating_add(limit);
        // All are asked in time, also where all but the last one are silent.
        let share = limit / u32::try_from(self.count()).unwrap_or(u32::MAX).max(2);
        let mut under_way = FuturesUnordered::new();
        let (mut late, mut tries, mut is_slow, mut foreign) = (false, 0, false, None);
        let mut said = Vec::new();
        // How often each member may still fail for certificates: those of a client that was there may have been
        // replaced on the disk, which its successor reads.
        let chances = |member: &Member| 1 + usize::from(member.known().is_some());
        let mut chances: Vec<_> = self.members.iter().map(chances).collect();
        let none = format!("no time was left to ask {}", self.members[self.current()].url);
        let mut value = Err(Failure::Unserved(none));
        loop {
            let (now, member) = (clock.now(), self.current());
            if (under_way.is_empty() || is_slow) && tries <= self.members.len() && now < end {
                let left = end.saturating_since(now);
                let request = |client: MemberClient| request(client.driver);
                let call = self.once(member, clock, left, left, request);
                under_way.push(async move { (member, call.await) });
                (tries, is_slow) = (tries + 1, false);
            }
            if under_way.is_empty() {
                // No member of this cluster has answered, and an address on the list leads to another cluster.
                let value = foreign.map_or(value, |error| Err(Failure::Foreign(error)));
                return CallOutcome { value, late };
            }
            tokio::select! {
                biased;
                Some((member, ended)) = under_way.next() => {
                    let ended = match ended {
                        Err(Failure::Mistrusted(error))
                            if self.is_connected() && may_be_replaced(&error) =>
                        {
                            Err(Failure::Unserved(error.to_string()))
                        }
                        Err(Failure::Mistrusted(error)) => {
                            chances[member] = usize::saturating_sub(chances[member], 1);
                            // One bad certificate among several is that member's trouble.
                            Err(if chances.iter().all(|left| *left == 0) {
                                Failure::Refused(error)
                            } else {
                                Failure::Unserved(error.to_string())
                            })
                        }
                        Err(Failure::Foreign(error)) => {
                            Err(Failure::Unserved(foreign.insert(error).to_string()))
                        }
                        ended => ended,
                    };
                    if !ended.as_ref().is_err_and(Failure::is_of_a_member) {
                        return CallOutcome { value: ended, late: late || !under_way.is_empty() };
                    }
                    late |= matches!(ended, Err(Failure::Unclear(_)));
                    value = ended.map_err(|failure| failure.beside(&mut said));
                }
                // Slow is not lost: the next member is asked beside this one.
                () = clock.sleep(share), if self.members.len() > 1 && tries <= self.members.len() => {
                    self.pass_over(member);
                    is_slow = true;
                }
            }
        }
    }

    /// Sends a request once, to this member, which is silent if it says nothing for `patience`.
    pub(crate) async fn once<T, F>(
        &self,
        member: usize,
        clock: &Clock,
        patience: Duration,
        limit: Duration,
        request: impl FnOnce(MemberClient) -> F,
    ) -> Result<T, Failure>
    where
        T: Answer,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        // The number of the client that is used; 0 until there is one.
        let used = AtomicU64::new(0);
        let call = async {
            let client = loop {
                let client = self.client_of(member).await?;
                used.store(client.number, Ordering::SeqCst);
                if self.verify(&client).await? {
                    break client;
                }
                // Given up before anything was sent over it. The next connection is opened when the
                // next keep-alive is due, and not before: the path may be back by then.
                if patience < limit {
                    std::future::pending::<()>().await;
                }
                clock.sleep(limit / 8).await;
            };
            let number = client.number;
            let sent = self.history.moment();
            let outcome = request(client).await.map_err(|error| Failure::of(&error));
            let outcome = outcome.and_then(|answer| self.take_in(member, sent, answer));
            if !outcome.as_ref().is_err_and(Failure::is_of_a_member) {
                self.members[member].answered(number);
            }
            outcome
        };
        let began = clock.now();
        let silence = async {
            clock.sleep_until(began.saturating_add(patience / 2)).await;
            // A member that answers others in the second half is busy, and not gone.
            let before = self.progress(member);
            clock.sleep_until(began.saturating_add(patience)).await;
            self.silent(member, before, used.load(Ordering::SeqCst) == before.number);
            clock.sleep_until(began.saturating_add(limit)).await;
        };
        tokio::select! {
            biased;
            outcome = call => {
                if outcome.as_ref().is_err_and(Failure::is_of_a_member) {
                    self.give_up(member, Some(used.load(Ordering::SeqCst)));
                }
                let is_new = !self.is_connected();
                outcome.map_err(|failure| failure.of_member(&self.members[member].url, is_new))
            }
            () = silence => {
                let silence = format!("{} gave no answer within {limit:.1?}", self.members[member].url);
                // Without a client nothing was sent but a login.
                Err(match used.load(Ordering::SeqCst) {
                    0 => Failure::Unserved(silence),
                    _ => Failure::Unclear(silence),
                })
            }
        }
    }

    /// Refuses the answer of another cluster, and learns from an answer of this cluster whether its history went
    /// back.
    fn take_in<T: Answer>(&self, member: usize, sent: Moment, answer: T) -> Result<T, Failure> {
        self.compare(member, answer.header())?;
        let revision = answer.header().filter(|_| T::IS_LINEARIZABLE).map(ResponseHeader::revision);
        if revision.is_some_and(|now| self.history.heard(sent, now)) {
            // What the watch knows is of the old history: its stream ends with its client.
            self.close();
        }
        Ok(answer)
    }

    /// Gives up a client that is stuck or gone, and goes on to the next member.
    pub(crate) fn drop_client(&self, client: &MemberClient) {
        self.give_up(client.member, Some(client.number));
    }

    /// Completes when this client was given up.
    pub(crate) async fn given_up(&self, client: &MemberClient) {
        self.members[client.member].given_up(client).await;
    }

    /// Whether this client has connected: what the members refuse now they have once accepted.
    fn is_connected(&self) -> bool {
        self.mark.get().is_some()
    }

    /// Where the next request goes.
    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::SeqCst) % self.members.len()
    }

    /// All of them, for an error that is of none in particular.
    pub(crate) fn names(&self) -> String {
        let urls: Vec<_> = self.members.iter().map(|member| &*member.url).collect();
        format!("etcd at {}", urls.join(", "))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn progress(&self, member: usize) -> Progress {
        self.members[member].progress()
    }

    /// Goes on to the next member. If this one has answered nothing since, its client is stuck.
    pub(crate) fn silent(&self, member: usize, since: Progress, was_asked: bool) {
        let is_stuck = was_asked && self.progress(member) == since;
        self.give_up(member, is_stuck.then_some(since.number));
    }

    /// Lets every client go; calls under way still get their answers.
    pub(crate) fn close(&self) {
        self.members.iter().for_each(Member::let_go);
    }

    async fn client_of(&self, member: usize) -> Result<MemberClient, Failure> {
        let made = self.members[member].client(&self.config).await;
        made.map_err(|failure| match failure {
            // They were good once: they are being replaced on the disk.
            Failure::Refused(error @ Error::Invalid { .. }) if self.is_connected() => {
                Failure::Unserved(error.to_string())
            }
            failure => failure,
        })
    }

    /// Goes on to the next member, unless another call has.
    pub(crate) fn pass_over(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        let _ = self.current.compare_exchange(member, next, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn give_up(&self, member: usize, number: Option<u64>) {
        self.pass_over(member);
        if let Some(number) = number {
            self.members[member].give_up(number);
        }
    }
}

/// Only the members.
impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls: Vec<_> = self.members.iter().map(|member| &member.url).collect();
        f.debug_struct("Endpoints").field("members", &urls).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A call to the only member that is not answered, while another one is after `answered`; the
    /// numbers of the clients before and after it.
    async fn beside_a_silent_call(answered: Option<Duration>) -> (u64, u64) {
        let endpoints = Endpoints::new(&EtcdConfig::new([("localhost", 1)]));
        let clock = Clock::tokio();
        let before = endpoints.client_of(0).await.expect("a client").number;
        let silent = endpoints.once(0, &clock, SECOND, SECOND, |_| pending());
        let other = async {
            if let Some(answered) = answered {
                clock.sleep(answered).await;
                let answer = endpoints.once(0, &clock, SECOND, SECOND, |_| ready(Ok(())));
                answer.await.expect("an answer");
            }
        };
        let (silent, ()): (Result<(), _>, ()) = tokio::join!(silent, other);
        assert!(matches!(silent, Err(Failure::Unclear(_))), "{silent:?}");
        (before, endpoints.client_of(0).await.expect("a client").number)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_given_up_by_a_silent_call_unless_others_are_answered_meanwhile() {
        for silent_from in [None, Some(SECOND / 4)] {
            let (before, after) = beside_a_silent_call(silent_from).await;
            assert_ne!(before, after, "answered last: {silent_from:?}");
        }
        let (before, after) = beside_a_silent_call(Some(SECOND * 3 / 4)).await;
        assert_eq!(before, after, "only slow");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_had_no_client_in_time_has_sent_nothing() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = silent.local_addr().expect("an address").port();
        let config = EtcdConfig::new([("127.0.0.1", port)]).login("a", "b");
        let endpoints = Endpoints::new(&config);
        let none = |_| pending::<Result<(), etcd_client::Error>>();
        let outcome = endpoints.once(0, &Clock::tokio(), SECOND, SECOND, none).await;
        assert!(matches!(outcome, Err(Failure::Unserved(_))), "{outcome:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_given_up_by_an_error_at_once_whatever_else_is_answered() {
        let endpoints = Endpoints::new(&EtcdConfig::new([("localhost", 1)]));
        let clock = Clock::tokio();
        let before = endpoints.client_of(0).await.expect("a client").number;
        let broken = || ready(Err::<(), _>(etcd_client::Error::WatchError("broken".to_owned())));
        let outcome = endpoints.once(0, &clock, SECOND, SECOND, |_| broken()).await;
        assert!(matches!(outcome, Err(Failure::Unclear(_))), "{outcome:?}");
        assert_ne!(before, endpoints.client_of(0).await.expect("a client").number);
    }
}
