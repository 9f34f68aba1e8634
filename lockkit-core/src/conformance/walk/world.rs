//! The model beside the store: what the contract says of each name and each request at this point.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::clients::Clients;
use super::step::{Action, NAMES, Step};
use crate::conformance::context::Context;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::kit::call_limit;
use crate::{
    Expiry, Fairness, FencingToken, Grant, Instant, Lease, LockName, LockProvider, LossReason,
    Request, Result, Term,
};

/// What the names of a walk end with: texts that patterns, paths and languages treat in a way of their own.
const TAILS: [&str; NAMES] = ["a", "A/%", "a_b", "a*[b]?", "\u{e9}\"'"];
const LABELS: [&str; 5] = [
    "plain",
    "two words, 'and' \"quotes\"",
    "a line\nand another \u{e9}, \u{1f512}",
    " spaces around, a colon: and %41 ",
    "host-of-a-long-name.in-a-domain.example.org/1234567/a-program-that-has-a-long-name-too/and-more",
];
/// How many requests a walk makes.
const MOST_REQUESTS: usize = 30;
/// How many requests wait for a name.
const MOST_WAITERS: usize = 4;

/// What came of a wait, and when.
pub(super) type Waited = (Result<Grant>, Instant);

pub(super) struct World<'a> {
    pub(super) cx: &'a Context,
    pub(super) clients: &'a mut Clients,
    /// What one step may take.
    pub(super) room: Duration,
    pub(super) tails: Vec<String>,
    pub(super) names: Vec<Name>,
    pub(super) asked: Vec<Asked>,
    /// Whether a lease ends by a ttl of its own.
    pub(super) expires: bool,
    /// A step took longer than it may: what came of it is no proof.
    unsure: bool,
    /// Whether the connections of a client were held up: it may give them up, and what is under way on them.
    pub(super) is_cut_off: bool,
    /// When the last two steps began.
    begun: [Instant; 2],
    story: Vec<String>,
}

/// A name: who holds it, and who waits for it, in order. Both are places in the list of requests.
pub(super) struct Name {
    pub(super) name: LockName,
    pub(super) holder: Option<usize>,
    /// The last holder has ended, or its term may be over: by then it has, and the next waiter is granted.
    pub(super) over: Option<Instant>,
    pub(super) queue: Vec<usize>,
    pub(super) last: Option<FencingToken>,
}

/// A request, and what became of it.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) client: usize,
    pub(super) name: usize,
    pub(super) waits: Option<JoinHandle<Waited>>,
    pub(super) held: Option<Held>,
    pub(super) is_revoked: bool,
    /// Whether it stood in a queue.
    pub(super) has_waited: bool,
    /// Its client is gone without a word.
    pub(super) is_gone: bool,
}

/// A grant, which may have ended.
pub(super) struct Held {
    pub(super) token: FencingToken,
    /// `None`: its client is gone.
    lease: Option<Arc<Box<dyn Lease>>>,
    /// The store keeps it until here at least, and until there at most; `None` without an expiry.
    pub(super) ends: Option<(Instant, Instant)>,
    /// The term that ends last.
    pub(super) term: Term,
    /// When it was granted at the earliest and at the latest.
    pub(super) since: (Instant, Instant),
    /// What the holder was told of its loss.
    told: Arc<OnceLock<LossReason>>,
    listens: JoinHandle<()>,
    /// Leases of replays: dropping them could end the grant.
    pub(super) replays: Vec<Arc<Box<dyn Lease>>>,
}

impl Held {
    /// Its client is gone: nothing of it is left here.
    pub(super) fn let_go(&mut self) {
        self.listens.abort();
        self.replays.clear();
        self.lease = None;
    }
}

impl<'a> World<'a> {
    pub(super) fn new(
        cx: &'a Context,
        clients: &'a mut Clients,
        room: Duration,
        number: u64,
    ) -> Verdict<Self> {
        let tails: Vec<_> = TAILS.iter().map(|tail| format!("{number}-{tail}")).collect();
        let name = |tail: &String| -> Verdict<Name> {
            let name = cx.lock_name(tail)?;
            Ok(Name { name, holder: None, over: None, queue: Vec::new(), last: None })
        };
        let names = tails.iter().map(name).collect::<Verdict<_>>()?;
        let expires = matches!(cx.guarantees.expiry, Expiry::Ttl(_));
        let (asked, story, begun) = (Vec::new(), Vec::new(), [cx.clock.now(); 2]);
        Ok(Self {
            cx,
            clients,
            room,
            tails,
            names,
            asked,
            expires,
            unsure: false,
            is_cut_off: false,
            begun,
            story,
        })
    }

    pub(super) const fn is_unsure(&self) -> bool {
        self.unsure
    }

    pub(super) fn story(&self) -> Vec<String> {
        self.story.clone()
    }

    /// Notes what is done, for the story.
    pub(super) fn tell(&mut self, what: impl Into<String>) {
        self.story.push(what.into());
    }

    /// Adds to what was told last.
    pub(super) fn outcome(&mut self, outcome: impl AsRef<str>) {
        if let Some(last) = self.story.last_mut() {
            last.push_str(": ");
            last.push_str(outcome.as_ref());
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.cx.clock.now()
    }

    /// Takes one step, and looks at everything that can be seen after it.
    pub(super) async fn take(&mut self, step: Step) -> Verdict {
        let waits = matches!(
            step.action,
            Action::Hold | Action::Idle | Action::Expire | Action::Pause | Action::Probe
        );
        let taken = self.take_in_time(step).await;
        if waits {
            // Nothing was asked meanwhile: that is no silence of a call.
            self.begun = [self.now(); 2];
        }
        self.unless_unsure(taken)
    }

    /// What came of calls, unless it is no proof: a lock that lives as long as its connection may end with
    /// its term too, or with a call that the client gave up, and the machine was too slow for it.
    fn unless_unsure(&mut self, came: Verdict) -> Verdict {
        let is_late = self.is_a_term_over() || self.is_a_call_over();
        // The silence of a connection that is held up lasts longer than calls, terms and steps do.
        let is_silence =
            self.is_cut_off && !self.cx.is_virtual() && matches!(came, Err(Stop::Late(_)));
        if is_silence || came.is_err() && !self.expires && is_late {
            self.unsure = true;
            return Ok(());
        }
        came
    }

    /// Whether a grant is held whose term is over.
    fn is_a_term_over(&self) -> bool {
        let now = self.now();
        let held = self.names.iter().filter_map(|name| self.asked[name.holder?].held.as_ref());
        held.filter_map(|held| held.term.ttl.map(|ttl| held.term.sent.saturating_add(ttl)))
            .any(|end| end <= now)
    }

    /// Whether a connection may have been given up, which ends its locks: for as long as a call may take, since
    /// the step before, nothing was acknowledged.
    fn is_a_call_over(&self) -> bool {
        let held = self.names.iter().filter_map(|name| self.asked[name.holder?].held.as_ref());
        let heard = held.map(|held| held.term.sent).max().max(Some(self.begun[0]));
        let end = heard.map(|heard| heard.saturating_add(call_limit(self.cx.odd_ttl())));
        self.cx.ends_with_connection() && end.is_some_and(|end| end <= self.now())
    }

    async fn take_in_time(&mut self, step: Step) -> Verdict {
        self.begun = [self.begun[1], self.now()];
        self.pass(self.now()).await?;
        let begun = self.now();
        let taken = self.act(step).await;
        let is_long = matches!(
            step.action,
            Action::Hold
                | Action::Idle
                | Action::Expire
                | Action::Pause
                | Action::Probe
                | Action::Crash
                | Action::SendLate
        );
        if self.expires && !is_long && self.now() > begun.saturating_add(self.room) {
            self.unsure = true;
            return Ok(());
        }
        taken?;
        for at in self.names.iter().filter_map(|name| name.holder) {
            let told = self.asked[at].held.as_ref().and_then(|held| held.told.get());
            require!(
                told.is_none(),
                "C7: {} holds, and was told of a loss: {told:?}",
                self.who(at)
            );
        }
        Ok(())
    }

    /// When the grant of a name ends, at least and at most.
    pub(super) fn ends_of(&self, name: usize) -> Option<(Instant, Instant)> {
        self.asked[self.names[name].holder?].held.as_ref()?.ends
    }

    /// The grant of this request has ended: the next waiter is granted.
    pub(super) async fn ended(&mut self, at: usize) -> Verdict {
        let (name, now) = (self.asked[at].name, self.now());
        self.names[name].holder = None;
        self.names[name].over = Some(now);
        if at % 2 == 0 && !self.names[name].queue.is_empty() {
            self.barge(name).await?;
        }
        self.pass(now).await
    }

    /// Asks for a name that has just become free: those who wait come first.
    async fn barge(&mut self, name: usize) -> Verdict {
        let Some(at) = self.ask_for(0, name, name)? else { return Ok(()) };
        let who = self.who(at);
        self.tell(format!("{who} tries, while others wait for the free name"));
        let answer = self.client(at).try_acquire(&self.asked[at].request).await?;
        let Some(grant) = answer else { return Ok(()) };
        let is_fifo = self.cx.guarantees.fairness == Fairness::Fifo;
        require!(!is_fifo, "C10: {who} was granted, and others waited before it");
        self.names[name].over = None;
        self.granted(at, grant)
    }

    /// Takes in a fresh grant that came just now.
    pub(super) fn granted(&mut self, at: usize, grant: Grant) -> Verdict {
        self.granted_at(at, grant, self.now())
    }

    /// Takes in a fresh grant that came at this instant: a walk may look at a waiter's later.
    pub(super) fn granted_at(&mut self, at: usize, grant: Grant, now: Instant) -> Verdict {
        let who = self.who(at);
        let name = &self.names[self.asked[at].name];
        if let Some(other) = name.holder {
            let other = self.who(other);
            return Err(Stop::failed(format!("C1: {who} is granted while {other} holds")));
        }
        let (token, last) = (grant.token, name.last);
        require!(Some(token) > last, "C4: token {token} after {last:?} of the same name");
        // The reply to a call was on its way for as long, and so was the call; a waiter may be told.
        let ways = if self.asked[at].has_waited { 1 } else { 2 };
        let ends = self.ends(at, ways, &grant, now)?;
        let lease = Arc::new(grant.lease);
        let told = Arc::new(OnceLock::new());
        let (heard, listening) = (Arc::clone(&told), Arc::clone(&lease));
        let listens = tokio::spawn(async move {
            let _ = heard.set(listening.lost().await);
        });
        let (term, since) = (grant.term, (grant.term.sent, now));
        let lease = Some(lease);
        let held = Held { token, lease, ends, term, since, told, listens, replays: Vec::new() };
        let name = self.asked[at].name;
        self.names[name].holder = Some(at);
        self.names[name].last = Some(token);
        self.asked[at].held = Some(held);
        self.outcome(format!("token {token}"));
        Ok(())
    }

    /// A fresh request of a client.
    pub(super) fn ask(&mut self, step: Step) -> Verdict<Option<usize>> {
        self.ask_for(step.client, step.name, step.wish)
    }

    fn ask_for(&mut self, client: usize, name: usize, wish: usize) -> Verdict<Option<usize>> {
        if self.asked.len() >= MOST_REQUESTS {
            return Ok(None);
        }
        let odd = self.cx.odd_ttl();
        let ttls = [odd, self.cx.ttl(), self.cx.long_ttl(), odd];
        let ttl = ttls[wish % ttls.len()];
        let request = Request::new(self.names[name].name.clone(), ttl, self.cx.clock.clone())?;
        let request = request.with_label(LABELS[wish % LABELS.len()]);
        self.asked.push(Asked {
            request,
            client,
            name,
            waits: None,
            held: None,
            is_revoked: false,
            has_waited: false,
            is_gone: false,
        });
        Ok(Some(self.asked.len() - 1))
    }

    pub(super) fn has_room(&self, name: usize) -> bool {
        self.names[name].queue.len() < MOST_WAITERS
    }

    /// The request that a step means, of those for which `is_meant` holds.
    pub(super) fn pick(&self, step: Step, is_meant: impl Fn(&Asked) -> bool) -> Option<usize> {
        let meant = self.asked.iter().enumerate().filter(|(_, asked)| is_meant(asked));
        let meant: Vec<_> = meant.map(|(at, _)| at).collect();
        (!meant.is_empty()).then(|| meant[step.request % meant.len()])
    }

    pub(super) fn holds(&self, at: usize) -> bool {
        self.names[self.asked[at].name].holder == Some(at)
    }

    pub(super) fn client(&self, at: usize) -> &Arc<dyn LockProvider> {
        self.clients.of(self.asked[at].client)
    }

    /// A request, for the story.
    pub(super) fn who(&self, at: usize) -> String {
        let asked = &self.asked[at];
        let (number, client, name) = (at + 1, asked.client + 1, TAILS[asked.name]);
        format!("request {number} (client {client}, name {name:?}, ttl {:?})", asked.request.ttl())
    }

    /// The lease of a request that was granted.
    pub(super) fn lease(&self, at: usize) -> Option<Arc<Box<dyn Lease>>> {
        self.asked[at].held.as_ref()?.lease.as_ref().map(Arc::clone)
    }

    /// Releases what is held, and what is granted then, and checks that nothing is left in the store.
    pub(super) async fn finish(&mut self) -> Verdict {
        if !self.unsure {
            let given = self.give_all_back().await;
            self.unless_unsure(given)?;
        }
        if self.unsure {
            self.abandon().await;
        }
        Ok(())
    }

    async fn give_all_back(&mut self) -> Verdict {
        for name in 0..self.names.len() {
            self.begun = [self.begun[1], self.now()];
            self.pass(self.now()).await?;
            self.give_back(name).await?;
            self.cx.no_residue(&self.tails[name]).await?;
        }
        Ok(())
    }

    /// Releases a name's holder, and each waiter that is granted then.
    pub(super) async fn give_back(&mut self, name: usize) -> Verdict {
        while let Some(at) = self.names[name].holder {
            self.release_live(at).await?;
        }
        Ok(())
    }

    /// Ends all without looking, after a walk that failed.
    pub(super) async fn abandon(&mut self) {
        for at in 0..self.asked.len() {
            drop(self.client(at).withdraw(&self.asked[at].request).await);
        }
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        for asked in &self.asked {
            asked.waits.iter().for_each(JoinHandle::abort);
            asked.held.iter().for_each(|held| held.listens.abort());
        }
    }
}
