//! The memory store: a pure step function, the reference for what a store does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::{
    FencingToken, Holder, Inspection, Instant, Kind, LockName, LossReason, Permits, RequestId,
};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    pub(crate) id: RequestId,
    pub(crate) label: Arc<str>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) kind: Kind,
    /// Of a counted request.
    pub(crate) permits: Option<Permits>,
    /// The least token to grant.
    pub(crate) floor: Option<FencingToken>,
}

/// What a client asks of one name.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// The name if it is free, and nothing else.
    TryAcquire(Asker),
    /// The name, or a place in its queue.
    Acquire(Asker),
    /// One more ttl for the grant with this token.
    Renew(FencingToken),
    /// For the grant of the first token: the second to carry, and later grants above it.
    Raise(FencingToken, FencingToken),
    /// The end of the grant that carries this token.
    Revoke(FencingToken),
    /// The end of this request's grant and place.
    Withdraw(RequestId),
    /// The end of the grant with this token, for this reason.
    End(FencingToken, LossReason),
    /// The end of the grant with this token for its holder; the name stays taken for so long.
    Rest(FencingToken, Duration),
    /// The end of all grants there are.
    Expire,
    /// Another limit of the semaphore.
    Resize(u32),
    /// Nothing: time has passed.
    Tick,
}

/// The store's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Granted(Granted),
    Held(Holder),
    Renewed,
    /// Whether the grant carries the token that it was to be raised to.
    Raised(bool),
    Ended(FencingToken),
    /// The semaphore had this limit; 0: none.
    Resized(u32),
    /// The semaphore has another limit than the only one that the asker takes.
    OtherLimit,
    NotThere,
}

/// A grant as the store made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Granted {
    /// The token that it was granted with, by which its lease is known.
    pub(crate) token: FencingToken,
    /// The token that it carries: the same, unless it was raised.
    pub(crate) carries: FencingToken,
    pub(crate) at: Instant,
    pub(crate) ttl: Option<Duration>,
    /// Of a counted grant.
    pub(crate) slot: Option<u32>,
}

/// What a request other than the one that asks must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Granted(RequestId, Granted),
    Ended(RequestId, FencingToken, LossReason),
}

/// The notices of one step, in their order. One of exclusive grants alone has at most four, which need no allocation.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    first: [Option<Notice>; 4],
    more: Vec<Notice>,
}

impl Notices {
    fn add(&mut self, notice: Notice) {
        match self.first.iter_mut().find(|free| free.is_none()) {
            Some(free) => *free = Some(notice),
            None => self.more.push(notice),
        }
    }
}

impl IntoIterator for Notices {
    type Item = Notice;
    type IntoIter = std::iter::Chain<
        std::iter::Flatten<std::array::IntoIter<Option<Notice>, 4>>,
        std::vec::IntoIter<Notice>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().flatten().chain(self.more)
    }
}

/// All names. Tokens are kept, or the floor is raised above them, so that a name once used never goes back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    names: BTreeMap<LockName, Entry>,
    token_base: u64,
    /// The highest number of a grant of any name that was forgotten.
    floor: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    last: u64,
    /// When its last grant ended.
    freed: Option<Instant>,
    /// How many counted grants are held together at most; 0: no request has said it yet.
    limit: u32,
    /// Who holds, the earliest grant first.
    holders: Vec<Held>,
    queue: VecDeque<Asker>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    asker: Asker,
    since: Instant,
    granted: Granted,
    expires: Option<Instant>,
    /// Its holder has let go: it only keeps the name until it expires.
    is_resting: bool,
}

impl Store {
    pub(crate) const fn new(token_base: u64) -> Self {
        Self { names: BTreeMap::new(), token_base, floor: 0 }
    }

    /// Takes `message` about `name` in at `now`; answers the asker, and names who else is told.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        name: &LockName,
        message: Message,
    ) -> (Reply, Notices) {
        let base = self.token_base;
        // Looked up first: a name once used needs no second copy of itself.
        let entry = match self.names.get_mut(name) {
            Some(entry) => entry,
            None => self.names.entry(name.clone()).or_insert(Entry::above(self.floor)),
        };
        let mut notices = Notices::default();
        entry.expire(now, base, &mut notices);
        let reply = match message {
            Message::TryAcquire(asker) | Message::Acquire(asker)
                if !entry.notes_limit(asker.permits) =>
            {
                Reply::OtherLimit
            }
            Message::TryAcquire(asker) => entry.take(now, base, asker),
            Message::Acquire(asker) => {
                let reply = entry.take(now, base, asker.clone());
                let queued = entry.queue.iter().any(|waiting| waiting.id == asker.id);
                if !queued && matches!(reply, Reply::Held(_)) {
                    entry.queue.push_back(asker);
                }
                reply
            }
            Message::Renew(token) => {
                match entry.in_use().find(|held| held.granted.token == token) {
                    Some(held) => {
                        held.expires = held.granted.ttl.map(|ttl| now.saturating_add(ttl));
                        Reply::Renewed
                    }
                    None => Reply::NotThere,
                }
            }
            Message::Raise(token, to) => entry.raise(base, token, to),
            Message::Revoke(token) => {
                let meant = |held: &Held| held.granted.carries == token;
                entry.end(now, base, meant, LossReason::Revoked, &mut notices)
            }
            Message::Withdraw(id) => {
                let reason = LossReason::Removed;
                entry.queue.retain(|waiting| waiting.id != id);
                let meant = |held: &Held| held.asker.id == id && !held.is_resting;
                entry.end(now, base, meant, reason, &mut notices)
            }
            Message::End(token, reason) => {
                // Released, it is over for its holder already.
                let may_rest = reason != LossReason::Released;
                let meant =
                    |held: &Held| held.granted.token == token && (may_rest || !held.is_resting);
                entry.end(now, base, meant, reason, &mut notices)
            }
            Message::Rest(token, rest) => entry.rest(now, token, rest, &mut notices),
            Message::Expire => entry.end(now, base, |_| true, LossReason::Removed, &mut notices),
            Message::Resize(limit) => {
                let before = std::mem::replace(&mut entry.limit, limit);
                entry.hand_on(now, base, &mut notices);
                Reply::Resized(before)
            }
            Message::Tick => Reply::NotThere,
        };
        (reply, notices)
    }

    /// Forgets the free names that start with `prefix` and that nothing has used for so long; how many.
    pub(crate) fn forget(&mut self, now: Instant, prefix: &str, unused_for: Duration) -> u64 {
        let (mut forgotten, before) = (0, now.saturating_sub(unused_for));
        self.names.retain(|name, entry| {
            let goes = name.as_str().starts_with(prefix) && entry.is_unused_since(before);
            if goes {
                self.floor = self.floor.max(entry.last);
                forgotten += 1;
            }
            !goes
        });
        forgotten
    }

    /// When a grant of `name` next ends by its ttl.
    pub(crate) fn expires(&self, name: &LockName) -> Option<Instant> {
        self.names.get(name)?.holders.iter().filter_map(|held| held.expires).min()
    }

    /// The limit of a semaphore, where one is noted.
    pub(crate) fn limit(&self, name: &LockName) -> Option<u32> {
        self.names.get(name).map(|entry| entry.limit).filter(|limit| *limit != 0)
    }

    pub(crate) fn inspect(&self, now: Instant, name: &LockName) -> Inspection {
        let entry = self.names.get(name);
        let holders = entry.into_iter().flat_map(|entry| entry.seen(now)).collect();
        let waiters = entry.map_or(0, |entry| entry.queue.len());
        Inspection::new(name.clone(), holders, Some(waiters)).with_permits(self.limit(name))
    }

    pub(crate) fn list(
        &self,
        now: Instant,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Vec<Inspection> {
        self.names
            .keys()
            .filter(|name| {
                name.as_str().starts_with(prefix) && after.is_none_or(|past| *name > past)
            })
            .map(|name| self.inspect(now, name))
            .filter(|seen| !seen.holders.is_empty() || seen.waiters != Some(0))
            .take(limit)
            .collect()
    }
}

impl Entry {
    /// A name that is new, or was forgotten.
    const fn above(floor: u64) -> Self {
        Self { last: floor, freed: None, limit: 0, holders: Vec::new(), queue: VecDeque::new() }
    }

    /// Whether nothing was granted or waited for since `before`.
    fn is_unused_since(&self, before: Instant) -> bool {
        let is_over = |end: Option<Instant>| end.is_some_and(|end| end <= before);
        self.queue.is_empty()
            && self.holders.iter().all(|held| is_over(held.expires))
            && self.freed.is_none_or(|freed| freed <= before)
    }

    /// Notes the limit of the semaphore where none is noted; whether the asker takes the one that is noted.
    fn notes_limit(&mut self, permits: Option<Permits>) -> bool {
        let Some(permits) = permits else { return true };
        if self.limit == 0 {
            self.limit = permits.wished();
        }
        !permits.is_exact() || permits.wished() == self.limit
    }

    /// Grants the name to `asker`, unless what stands before it keeps it out; a replay gets its own grant.
    fn take(&mut self, now: Instant, base: u64, asker: Asker) -> Reply {
        if let Some(held) = self.in_use().find(|held| held.asker.id == asker.id) {
            held.expires = held.granted.ttl.map(|ttl| now.saturating_add(ttl));
            held.granted.at = now;
            return Reply::Granted(held.granted);
        }
        if !asker.kind.admits_within(self.limit, self.before(asker.id)) {
            return self.seen(now).next().map_or(Reply::NotThere, Reply::Held);
        }
        self.grant(now, base, asker).map_or(Reply::NotThere, Reply::Granted)
    }

    /// The grants whose holders have not let go.
    fn in_use(&mut self) -> impl Iterator<Item = &mut Held> {
        self.holders.iter_mut().filter(|held| !held.is_resting)
    }

    /// Ends a grant for its holder, and keeps it in the way of others for `rest`.
    fn rest(
        &mut self,
        now: Instant,
        token: FencingToken,
        rest: Duration,
        notices: &mut Notices,
    ) -> Reply {
        let Some(held) = self.holders.iter_mut().find(|held| held.granted.token == token) else {
            return Reply::NotThere;
        };
        let until = now.saturating_add(rest);
        // Repeated, it never makes the rest longer.
        let earlier = held.expires.filter(|end| held.is_resting && *end < until);
        held.expires = Some(earlier.unwrap_or(until));
        if !std::mem::replace(&mut held.is_resting, true) {
            notices.add(Notice::Ended(held.asker.id, token, LossReason::Released));
        }
        Reply::Ended(token)
    }

    /// The kinds of what stands before this request: the holders, and the queue as far as the request.
    fn before(&self, id: RequestId) -> impl Iterator<Item = Kind> {
        let ahead = self.queue.iter().take_while(move |waiting| waiting.id != id);
        self.kinds_held().chain(ahead.map(|waiting| waiting.kind))
    }

    fn kinds_held(&self) -> impl Iterator<Item = Kind> {
        self.holders.iter().map(|held| held.asker.kind)
    }

    /// `None` only after the last token there is, which no store reaches.
    fn grant(&mut self, now: Instant, base: u64, asker: Asker) -> Option<Granted> {
        let floor = asker.floor.map_or(0, |floor| floor.as_u64().saturating_sub(base));
        let number = self.last.saturating_add(1).max(floor);
        let token = FencingToken::with_base(base, number).ok()?;
        self.last = number;
        let slot = (asker.kind == Kind::Counted).then(|| self.free_slot());
        let granted = Granted { token, carries: token, at: now, ttl: asker.ttl, slot };
        let expires = asker.ttl.map(|ttl| now.saturating_add(ttl));
        self.holders.push(Held { asker, since: now, granted, expires, is_resting: false });
        Some(granted)
    }

    /// The smallest number that no holder has.
    fn free_slot(&self) -> u32 {
        let is_free = |slot: &u32| self.holders.iter().all(|held| held.granted.slot != Some(*slot));
        (0..).find(is_free).unwrap_or_default()
    }

    /// Has the grant of `token` carry `to`, unless what it carries is greater.
    fn raise(&mut self, base: u64, token: FencingToken, to: FencingToken) -> Reply {
        let Some(held) = self.in_use().find(|held| held.granted.token == token) else {
            return Reply::NotThere;
        };
        if held.granted.carries > to {
            return Reply::Raised(false);
        }
        held.granted.carries = to;
        self.last = self.last.max(to.as_u64().saturating_sub(base));
        Reply::Raised(true)
    }

    fn expire(&mut self, now: Instant, base: u64, notices: &mut Notices) {
        let over = |held: &Held| held.expires.is_some_and(|end| now >= end);
        self.end(now, base, over, LossReason::Removed, notices);
    }

    /// Ends the grants that are meant, and hands the name on; the token of the first that ended.
    fn end(
        &mut self,
        now: Instant,
        base: u64,
        meant: impl Fn(&Held) -> bool,
        reason: LossReason,
        notices: &mut Notices,
    ) -> Reply {
        let mut ended = None;
        self.holders.retain(|held| {
            let (ends, token) = (meant(held), held.granted.token);
            if ends {
                if !held.is_resting {
                    notices.add(Notice::Ended(held.asker.id, token, reason));
                }
                ended.get_or_insert(held.granted.carries);
            }
            !ends
        });
        if ended.is_some() {
            self.freed = Some(now);
        }
        self.hand_on(now, base, notices);
        ended.map_or(Reply::NotThere, Reply::Ended)
    }

    /// Grants the name to the head of the queue while the holders admit it.
    fn hand_on(&mut self, now: Instant, base: u64, notices: &mut Notices) {
        while self.admits_head() {
            let Some(head) = self.queue.pop_front() else { return };
            let id = head.id;
            if let Some(granted) = self.grant(now, base, head) {
                notices.add(Notice::Granted(id, granted));
            }
        }
    }

    fn admits_head(&self) -> bool {
        let head = self.queue.front();
        head.is_some_and(|head| head.kind.admits_within(self.limit, self.kinds_held()))
    }

    /// The holders whose ttl has not passed.
    fn seen(&self, now: Instant) -> impl Iterator<Item = Holder> {
        let live = self.holders.iter().filter(move |held| held.expires.is_none_or(|end| now < end));
        live.map(move |held| {
            let mut holder = Holder::new(&*held.asker.label)
                .with_token(held.granted.carries)
                .with_age(now.saturating_since(held.since))
                .with_kind(held.asker.kind);
            holder.slot = held.granted.slot;
            holder.expires_in = held.expires.map(|end| end.saturating_since(now));
            holder
        })
    }
}
