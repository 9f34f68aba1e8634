//! What the small store keeps of one name, and what its rules are asked about.

use std::collections::HashMap;
use std::time::Duration;

use lockkit_core::{
    FencingToken, Holder, Inspection, Instant, Kind, LockName, LossReason, Request, RequestId,
};
use tokio::sync::watch;

use super::rules::Rules;

/// One name. It is kept for ever, so that its tokens never go back.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: LockName,
    pub(crate) last_token: u64,
    /// How many counted grants are held together at most; 0: no request has said it yet.
    pub(crate) limit: u32,
    /// Who holds, the earliest grant first.
    pub(crate) held: Vec<Held>,
    pub(crate) queue: Vec<Place>,
    /// The requests that are over for good.
    pub(crate) over: HashMap<RequestId, Over>,
    /// What a broken store goes by, and a correct one does not.
    pub(crate) past: Past,
}

/// What happened to a name before.
#[derive(Debug)]
pub(crate) struct Past {
    /// When it was last asked for.
    pub(crate) used: Instant,
    /// How its last grant ended, and when.
    pub(crate) freed: Option<(Ended, Instant)>,
    /// The client and the ttl of its last grant.
    pub(crate) last: Option<(u64, Duration)>,
    /// The ttl and the label of its first grant.
    pub(crate) first: Option<(Duration, String)>,
    /// The ttl and the label of the request that asked last.
    pub(crate) newest: Option<(Duration, String)>,
    /// The token that each request was granted, until it has released or withdrawn.
    pub(crate) granted: HashMap<RequestId, FencingToken>,
    /// The counter of a store that keeps it beside the tokens.
    pub(crate) counted: u64,
    /// How many places there were.
    places: u64,
}

/// How a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Released,
    Withdrawn,
    Expired,
    Revoked,
    /// By the store's own tools.
    Removed,
}

/// How a request ended that is over for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over {
    pub(crate) ended: Ended,
    pub(crate) at: Instant,
    /// How many requests of the name had ended before it.
    pub(crate) number: usize,
}

/// A grant that is live.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: RequestId,
    pub(crate) client: u64,
    pub(crate) token: FencingToken,
    /// What it was raised to; else its token.
    pub(crate) carries: FencingToken,
    pub(crate) expires: Instant,
    pub(crate) ttl: Duration,
    pub(crate) since: Instant,
    pub(crate) renewed: Instant,
    pub(crate) renewals: u32,
    pub(crate) kind: Kind,
    /// Of a counted grant.
    pub(crate) slot: Option<u32>,
    /// The request that has let go of it: it only keeps the name until it expires.
    pub(crate) rests_for: Option<RequestId>,
    label: String,
    ended: watch::Sender<Option<LossReason>>,
}

/// A place in the queue. Its waiter keeps it alive by asking again.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: RequestId,
    pub(crate) client: u64,
    pub(crate) kind: Kind,
    /// In which order the places came.
    pub(crate) number: u64,
    pub(crate) since: Instant,
    pub(crate) expires: Instant,
    wake: watch::Sender<()>,
}

/// How a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// For the name at once, or not at all.
    Now,
    /// For the name, or a place in the queue.
    Queue,
    /// Again, from the place it has.
    Again,
}

/// A request that asks for a free name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) ask: Ask,
    pub(crate) kind: Kind,
    pub(crate) client: u64,
    pub(crate) now: Instant,
    /// Where it stands in the queue, if it does.
    pub(crate) place: Option<usize>,
    /// Which place is next.
    pub(crate) next: Option<usize>,
}

/// Who renews or releases, and for which grant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) client: u64,
    pub(crate) id: RequestId,
    pub(crate) token: FencingToken,
    pub(crate) now: Instant,
}

/// A ttl that is to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begins {
    pub(crate) now: Instant,
    pub(crate) sent: Instant,
    pub(crate) ttl: Duration,
    /// The ttl of the first request of this client.
    pub(crate) client_ttl: Duration,
    /// Since when the request had a place in the queue, and until when.
    pub(crate) place: Option<(Instant, Instant)>,
}

impl Begins {
    /// The end of this ttl, if it begins now.
    pub(crate) const fn for_ttl(&self, ttl: Duration) -> Instant {
        self.now.saturating_add(ttl)
    }
}

/// What was done to one name, for its client's other names to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) what: What,
    pub(crate) client: u64,
    pub(crate) token: Option<FencingToken>,
    pub(crate) now: Instant,
    pub(crate) ttl: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Granted,
    Refused,
    Renewed,
    Withdrew,
    /// An operator was asked to revoke this token, whether there was such a grant or not.
    Revokes,
    /// A grant ended.
    Ended(Ended),
}

#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) token: FencingToken,
    pub(crate) slot: Option<u32>,
    pub(crate) carries: FencingToken,
    /// Tells when and how the grant ended.
    pub(crate) ended: watch::Receiver<Option<LossReason>>,
}

impl Entry {
    pub(crate) fn new(name: LockName, now: Instant) -> Self {
        let past = Past {
            used: now,
            freed: None,
            last: None,
            first: None,
            newest: None,
            granted: HashMap::new(),
            counted: 0,
            places: 0,
        };
        Self {
            name,
            last_token: 0,
            limit: 0,
            held: Vec::new(),
            queue: Vec::new(),
            over: HashMap::new(),
            past,
        }
    }

    /// How the last grant ended.
    pub(crate) fn freed_by(&self) -> Option<Ended> {
        self.past.freed.map(|(ended, _)| ended)
    }

    pub(crate) fn remember(&mut self, rules: &Rules, now: Instant, id: RequestId, ended: Ended) {
        self.past.granted.remove(&id);
        if (rules.remembers)(ended) {
            let number = self.over.len();
            self.over.entry(id).or_insert(Over { ended, at: now, number });
        }
    }

    /// How this request ended, as far as the store knows.
    pub(crate) fn recall(&self, rules: &Rules, now: Instant, id: RequestId) -> Option<Ended> {
        let over = self.over.get(&id)?;
        (rules.recalls)(over, now, self.over.len()).then_some(over.ended)
    }

    /// Grants the name to `request`, whose place in the queue has just ended if it had one.
    pub(crate) fn grant(
        &mut self,
        rules: &Rules,
        client: u64,
        begins: &Begins,
        request: &Request,
    ) -> Granted {
        let (now, ttl) = (begins.now, request.ttl());
        self.past.first.get_or_insert_with(|| (ttl, request.label().to_string()));
        let next = (rules.next_token)(self, request.id(), now);
        self.last_token = (rules.with_floor)(next, request.token_floor());
        let token = FencingToken::new(self.last_token).expect("a store this small never runs out");
        let expires = (rules.granted_until)(self, begins);
        let label = (rules.label)(self, request.label());
        let slot = request.permits().map(|_| (rules.slot)(self));
        self.past.granted.entry(request.id()).or_insert(token);
        self.held.push(Held {
            id: request.id(),
            client,
            token,
            carries: token,
            expires,
            ttl,
            since: now,
            renewed: now,
            renewals: 0,
            kind: request.kind(),
            slot,
            rests_for: None,
            label,
            ended: watch::Sender::new(None),
        });
        (rules.at_grant)(self);
        self.past.last = Some((client, ttl));
        self.held.last().expect("it was granted just now").granted()
    }

    /// Keeps the request's place alive, at the end of the queue if it has none yet.
    pub(crate) fn stand(
        &mut self,
        rules: &Rules,
        turn: &Turn,
        request: &Request,
    ) -> watch::Receiver<()> {
        let expires = turn.now.saturating_add((rules.place_lasts)(request.ttl()));
        let kept =
            turn.place.and_then(|place| (rules.keeps_place)(&mut self.queue, place, turn.ask));
        let place = kept.unwrap_or_else(|| {
            self.past.places += 1;
            self.queue.push(Place {
                id: request.id(),
                client: turn.client,
                kind: request.kind(),
                number: self.past.places,
                since: turn.now,
                expires,
                wake: watch::Sender::new(()),
            });
            self.queue.len() - 1
        });
        let place = &mut self.queue[place];
        if turn.now.saturating_since(place.since) < rules.place_kept_for {
            place.expires = expires;
        }
        place.wake.subscribe()
    }

    /// Ends the grants that are meant; the client of the first.
    pub(crate) fn end(
        &mut self,
        rules: &Rules,
        now: Instant,
        ended: Ended,
        meant: impl Fn(&Held) -> bool,
    ) -> Option<u64> {
        let mut first = None;
        self.held.retain(|held| {
            let ends = meant(held);
            if ends {
                held.tell(ended);
                first.get_or_insert(held.client);
            }
            !ends
        });
        if first.is_some() {
            self.past.freed = Some((ended, now));
            (rules.at_end)(self, ended);
        }
        first
    }

    /// The kinds of those who hold.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.held.iter().map(|held| held.kind)
    }

    /// The smallest number that no holder has.
    pub(crate) fn free_slot(&self) -> u32 {
        let is_free = |slot: &u32| self.held.iter().all(|held| held.slot != Some(*slot));
        (0..).find(is_free).unwrap_or_default()
    }

    pub(crate) fn free_at(&self) -> Option<Instant> {
        let holder = self.held.iter().map(|held| held.expires).min();
        holder.or_else(|| self.queue.first().map(|head| head.expires))
    }

    pub(crate) fn inspect(&self, now: Instant) -> Inspection {
        let holders = self.holders(now).collect();
        let limit = Some(self.limit).filter(|limit| *limit != 0);
        Inspection::new(self.name.clone(), holders, Some(self.queue.len())).with_permits(limit)
    }

    pub(crate) fn holders(&self, now: Instant) -> impl Iterator<Item = Holder> {
        self.held.iter().map(move |held| {
            let mut holder = Holder::new(&*held.label)
                .with_token(held.carries)
                .with_age(now.saturating_since(held.since))
                .with_expires_in(held.expires.saturating_since(now))
                .with_kind(held.kind);
            holder.slot = held.slot;
            holder
        })
    }
}

impl Held {
    pub(crate) fn renew(&mut self, rules: &Rules, past: &Past, begins: &Begins) {
        self.expires = (rules.renewed_until)(self, past, begins);
        let carries = (rules.renewed_token)(self.carries);
        if self.carries == self.token {
            self.token = carries;
        }
        self.carries = carries;
        self.renewed = begins.now;
        self.renewals += 1;
    }

    /// Ends it for its holder: no request has it from now on.
    pub(crate) fn rest(&mut self, rules: &Rules, until: Instant) {
        let again = self.rests_for.is_some();
        self.expires = (rules.rests_until)(self, until, again);
        if !again {
            self.rests_for = Some(self.id);
            self.tell(Ended::Released);
        }
        if rules.rest_ends_request {
            self.id = RequestId::from_bytes([0; 16]);
        }
    }

    pub(crate) fn granted(&self) -> Granted {
        let ended = self.ended.subscribe();
        Granted { token: self.token, carries: self.carries, slot: self.slot, ended }
    }

    /// Tells the holder that its grant has ended like this.
    pub(crate) fn tell(&self, ended: Ended) {
        self.ended.send_replace(Some(ended.reason()));
    }
}

impl Granted {
    /// A grant of which nothing is told.
    pub(crate) fn unheard(token: FencingToken) -> Self {
        let ended = watch::Sender::new(None).subscribe();
        Self { token, carries: token, slot: None, ended }
    }
}

impl Ended {
    /// What the holder is told.
    const fn reason(self) -> LossReason {
        match self {
            Self::Released => LossReason::Released,
            Self::Revoked => LossReason::Revoked,
            Self::Withdrawn | Self::Expired | Self::Removed => LossReason::Removed,
        }
    }
}

impl Place {
    pub(crate) fn wake(&self) {
        self.wake.send_replace(());
    }
}
