//! What must hold after every step, whatever the step was.

use std::collections::HashSet;

use testbed::resp::Reply;

use super::deed::{Answer, Deed, Pass};
use super::store::{State, text};

/// What the run did, to see that it did enough.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) grants: u64,
    pub(crate) confirmed: u64,
    pub(crate) replayed: u64,
    pub(crate) handed_on: u64,
    pub(crate) passed: u64,
    pub(crate) passed_several: u64,
    pub(crate) passed_again: u64,
    pub(crate) pass_refused: u64,
    pub(crate) expired: u64,
    pub(crate) reservations_expired: u64,
    pub(crate) refused_by_tombstone: u64,
    pub(crate) late: u64,
    pub(crate) foreign: u64,
    pub(crate) foreign_removed_ours: u64,
    pub(crate) forgotten: u64,
}

/// The model of one lock.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) last: State,
    /// The live grant: whose, its token, and until when by the store's word.
    grant: Option<(String, u64, i64)>,
    newest: u64,
    /// The newest token that anybody was given, be it without the server.
    pub(crate) given: u64,
    buried: HashSet<String>,
}

macro_rules! hold {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

impl Model {
    pub(crate) fn check(
        &mut self,
        deed: &Deed,
        reply: &Reply,
        now: State,
        counts: &mut Counts,
    ) -> Result<Answer, String> {
        let answer = answer(deed, reply)?;
        match answer {
            Answer::Granted(_) => line(&reply.items()[2], &now)?,
            Answer::Passed => line(reply, &now)?,
            _ => {}
        }
        shape(&now)?;
        self.others_untouched(deed, answer, &now)?;
        self.own_answer(deed, answer, &now, counts)?;
        self.order(deed, &now)?;
        self.handed_over(deed, answer, &now)?;
        self.follow(deed, now, counts);
        Ok(answer)
    }

    /// A script of one id never frees, extends or changes what another holds or was reserved.
    fn others_untouched(&self, deed: &Deed, answer: Answer, now: &State) -> Result<(), String> {
        let before = &self.last;
        let ours_to_change = match deed {
            Deed::ForeignDelete | Deed::Forget => true,
            Deed::Revoke { .. } => answer == Answer::Yes,
            Deed::Pass(pass) => pass.ends(&before.holder) || answer == Answer::Passed,
            _ => deed.id() == Some(&before.holder),
        };
        let Some(end) = before.end() else { return Ok(()) };
        if ours_to_change || (end >= 0 && now.now_ms() >= end) {
            return Ok(());
        }
        hold!(now.holder == before.holder, "the value of another was changed");
        hold!(now.ends[0] == before.ends[0], "the expiry of another was changed");
        hold!(
            !before.queue.contains(&before.holder) || before.fence.get("id") == now.fence.get("id"),
            "a grant beside a reservation"
        );
        Ok(())
    }

    fn own_answer(
        &mut self,
        deed: &Deed,
        answer: Answer,
        now: &State,
        counts: &mut Counts,
    ) -> Result<(), String> {
        let before = &self.last;
        let is_live = |id: &str| self.grant.as_ref().is_some_and(|grant| grant.0 == id);
        let is_queued = |id: &str| now.queue.iter().any(|waiter| waiter == id);
        match (deed, answer) {
            (Deed::Ask { id, .. }, Answer::Withdrawn) => {
                hold!(self.buried.contains(id), "withdrawn, but never buried");
                counts.refused_by_tombstone += 1;
            }
            (Deed::Ask { id, ttl, .. }, Answer::Granted(token)) => {
                self.granted(id, *ttl, token, now, counts)?;
            }
            (Deed::Pass(pass), Answer::Passed) => self.passed(pass, now, counts)?,
            (Deed::Pass(pass), _) => {
                for (id, _) in &pass.ended {
                    hold!(now.holder != *id, "ended, and still holds");
                    hold!(!is_queued(id), "ended, and still in the queue");
                }
                let named = pass.ends(&before.holder) && is_live(&before.holder);
                let over = before.end().is_none_or(|end| end >= 0 && now.now_ms() + 1 >= end);
                let known = self.grant.as_ref().is_some_and(|grant| grant.1 <= pass.token);
                hold!(answer == Answer::Yes || over || !named || !known, "refused a live grant");
                counts.pass_refused += u64::from(answer == Answer::No);
            }
            (Deed::Ask { id, waits, .. }, _) => {
                let was = before.queue.contains(id);
                hold!(!*waits || is_queued(id), "it waits, and is not in the queue");
                hold!(*waits || was || !is_queued(id), "one attempt left a trace");
            }
            (Deed::Renew { id, .. }, Answer::Yes) => {
                hold!(is_live(id), "renewed without a grant, or while only reserved");
            }
            (Deed::Withdraw { id, .. }, _) => {
                hold!(now.holder != *id, "ended, and still holds");
                hold!(!is_queued(id), "ended, and still in the queue");
            }
            (Deed::Revoke { token }, Answer::Yes) => {
                let is_it = self.grant.as_ref().is_some_and(|grant| grant.1 == *token);
                hold!(is_it, "revoked what was not granted");
            }
            (Deed::ForeignSet { .. }, Answer::Yes) => {
                let over = before.end().is_none_or(|end| end >= 0 && now.now_ms() >= end);
                hold!(over, "a foreign client got in beside a holder");
            }
            _ => {}
        }
        Ok(())
    }

    /// The id that asked was granted: a new token, or once more the token of its live grant.
    fn granted(
        &mut self,
        id: &String,
        ttl: i64,
        token: u64,
        now: &State,
        counts: &mut Counts,
    ) -> Result<(), String> {
        let before = &self.last;
        let is_live = self.grant.as_ref().is_some_and(|grant| grant.0 == *id);
        hold!(!self.buried.contains(id), "a tombstoned id was granted");
        // A machine that stood still between the step and the look may have seen its end.
        let over = now.now - before.now >= ttl * 1000 && now.holder != *id;
        hold!(over || now.holder == *id, "a token for one who does not hold");
        hold!(now.fence.get("id") == Some(id), "granted, and the fence names another");
        let fence = now.fence.get("token").and_then(|token| token.parse().ok());
        hold!(fence == Some(token), "granted {token}, and the fence has {fence:?}");
        hold!(!now.queue.contains(id), "granted, and still in the queue");
        if token == self.newest {
            hold!(is_live, "an ended grant came back with its token");
            counts.replayed += 1;
            return Ok(());
        }
        hold!(token > self.given, "token {token} after {}", self.given);
        let reserved = before.holder == *id && !is_live;
        let over = before.end().is_none_or(|end| end >= 0 && now.now_ms() >= end);
        hold!(reserved || over, "a token while another has the name, or its own again");
        counts.grants += 1;
        counts.confirmed += u64::from(reserved);
        for earlier in before.queue.iter().take_while(|waiter| *waiter != id) {
            let dead = before.lives.get(earlier).is_none_or(|until| *until <= now.now);
            hold!(dead, "a live waiter was passed");
        }
        self.newest = token;
        self.given = token;
        self.grant = Some((id.clone(), token, now.ends[0]));
        Ok(())
    }

    /// A provider granted by itself: nobody of another one, or before it, is passed.
    pub(crate) fn handed_on(
        &mut self,
        id: &str,
        token: u64,
        served: &[&str],
    ) -> Result<(), String> {
        self.given = self.given.max(token);
        // Where the grant has ended behind its back, be it for another one of its own, it is refused.
        let is_live = |(holder, live, _): &(String, u64, i64)| {
            served.contains(&holder.as_str()) && *live < token
        };
        if !self.grant.as_ref().is_some_and(is_live) {
            return Ok(());
        }
        let ahead = self.last.queue.iter().take_while(|waiter| *waiter != id);
        for earlier in ahead.filter(|earlier| !served.contains(&earlier.as_str())) {
            let dead = self.last.lives.get(earlier).is_none_or(|until| *until <= self.last.now);
            hold!(dead, "{id} was handed what {earlier} waits for");
        }
        Ok(())
    }

    /// The name went from one who held it to the one who was named.
    fn passed(&mut self, pass: &Pass, now: &State, counts: &mut Counts) -> Result<(), String> {
        let Some((to, ttl)) = &pass.to else { return Err("passed to nobody".to_owned()) };
        let before = &self.last;
        let Some((from, token, _)) = self.grant.clone() else {
            return Err("passed what nobody held".to_owned());
        };
        hold!(before.holder == from, "passed what its holder had lost");
        hold!(pass.ends(&from) || from == *to, "passed by one who did not hold");
        hold!(!self.buried.contains(to), "passed to a tombstoned id");
        let again = from == *to;
        hold!(pass.token > token || again && pass.token == token, "{} after {token}", pass.token);
        let over = now.now - before.now >= ttl * 1000 && now.holder != *to;
        hold!(over || now.holder == *to, "passed, and another holds");
        let fence = now.fence.get("token").and_then(|token| token.parse().ok());
        hold!(fence == Some(pass.token) && now.fence.get("id") == Some(to), "passed, and no fence");
        let over = |id: &String| pass.ends(id) || id == to;
        hold!(!now.queue.iter().any(over), "served, and still in the queue");
        counts.passed += u64::from(!again);
        counts.passed_several += u64::from(!again && pass.ended.len() > 1);
        counts.passed_again += u64::from(again);
        self.newest = pass.token;
        self.grant = Some((to.clone(), pass.token, now.ends[0]));
        Ok(())
    }

    /// Nobody but the one who asks enters the queue, and only at its end.
    fn order(&self, deed: &Deed, now: &State) -> Result<(), String> {
        let live = |id: &&String| self.last.lives.get(*id).is_some_and(|until| *until > now.now);
        let before = &self.last.queue;
        let asker = matches!(deed, Deed::Ask { waits: true, .. }).then(|| deed.id()).flatten();
        let follows = |old: &[&String]| {
            let (kept, entered) = now.queue.split_at(old.len());
            kept.iter().eq(old.iter().copied()) && entered.iter().all(|id| Some(&**id) == asker)
        };
        let stayed: Vec<_> = before.iter().filter(|id| now.queue.contains(id)).collect();
        // One whose life is over leaves, and enters again in the same step.
        let again = |id: &&&String| Some(&****id) == asker && !live(id);
        let others: Vec<_> = stayed.iter().filter(|id| !again(id)).copied().collect();
        hold!(follows(&stayed) || follows(&others), "the queue's order changed");
        let left = before.iter().filter(|id| !now.queue.contains(id));
        let lost = left.filter(|id| !deed.is_about(id)).find(live);
        hold!(matches!(deed, Deed::Forget) || lost.is_none(), "a live waiter lost its place");
        Ok(())
    }

    /// A name that a script frees, or finds free, goes to a live waiter at once.
    fn handed_over(&self, deed: &Deed, answer: Answer, now: &State) -> Result<(), String> {
        let expired = self.last.end().is_some_and(|end| end >= 0 && now.now_ms() + 1 >= end);
        let waited_for = now.lives.values().any(|until| *until > now.now);
        let freed = match deed {
            Deed::Ask { .. } | Deed::Withdraw { .. } => answer != Answer::Withdrawn,
            Deed::Pass(_) => answer == Answer::Yes && now.holder != self.last.holder,
            _ => false,
        };
        // A short grant may have ended before it was looked at.
        let seen = matches!(answer, Answer::Granted(_)) || now.end().is_some();
        hold!(!freed || expired || !waited_for || seen, "free, and waited for");
        Ok(())
    }

    fn follow(&mut self, deed: &Deed, now: State, counts: &mut Counts) {
        match deed {
            Deed::Withdraw { id, tomb: true } => drop(self.buried.insert(id.clone())),
            Deed::Pass(pass) => {
                let tombs = pass.ended.iter().filter(|(_, tomb)| *tomb);
                self.buried.extend(tombs.map(|(id, _)| id.clone()));
            }
            Deed::Forget => self.buried.clear(),
            _ => {}
        }
        let renewed = matches!(deed, Deed::Ask { .. } | Deed::Renew { .. });
        if let Some((id, _, end)) = &mut self.grant {
            let own = renewed && deed.id() == Some(id);
            if now.holder == *id && (own || now.ends[0] == *end) {
                *end = now.ends[0];
            } else {
                // It ended by itself: what comes after it, be it for the same id, is another one.
                counts.expired += u64::from(now.now_ms() >= *end);
                let removed = matches!(deed, Deed::ForeignDelete) && now.now_ms() < *end;
                counts.foreign_removed_ours += u64::from(removed);
                self.grant = None;
            }
        }
        let before = &self.last;
        let reserved = before.queue.first() == Some(&before.holder);
        let expired = before.end().is_some_and(|end| now.now_ms() >= end);
        let other = now.holder != before.holder;
        counts.reservations_expired += u64::from(reserved && expired && other);
        self.last = now;
    }
}

/// What holds in every state of a lock.
fn shape(now: &State) -> Result<(), String> {
    let [lock, queue, waiters, tombs, fence] = now.ends;
    let mut sorted = now.queue.clone();
    sorted.sort();
    hold!(sorted.iter().eq(now.lives.keys()), "the queue and its lives differ");
    if let Some(until) = now.lives.values().max() {
        hold!(queue * 1000 >= *until && waiters * 1000 >= *until, "the queue ends before a life");
    }
    hold!(now.buried_waiters.is_empty(), "a tombstoned id is in the queue");
    hold!(!now.is_holder_buried, "a tombstoned id holds");
    hold!(tombs != -1 && fence != -1, "a key that never ends");
    if !is_foreign(&now.holder) {
        hold!(lock != -1, "a lock that never ends");
        let granted = now.fence.get("id") == Some(&now.holder);
        hold!(!granted || fence > lock, "the fence ends before its lock");
        let reserved = !now.holder.is_empty() && !granted;
        let first = now.queue.first().is_none_or(|head| *head == now.holder);
        hold!(
            !reserved || first || lock <= now.now_ms() + 20,
            "reserved for another than the head"
        );
    }
    Ok(())
}

pub(crate) fn is_foreign(value: &str) -> bool {
    value.starts_with("foreign")
}

/// The first of the queue, as an answer tells them, are those who are.
fn line(told: &Reply, now: &State) -> Result<(), String> {
    let told: Vec<_> = told.items().iter().step_by(2).map(text).collect();
    let first: Vec<_> = now.queue.iter().take(16).cloned().collect();
    hold!(told == first, "told {told:?} of {first:?}");
    Ok(())
}

fn answer(deed: &Deed, reply: &Reply) -> Result<Answer, String> {
    let said = |yes: bool| if yes { Answer::Yes } else { Answer::No };
    Ok(match (deed, reply) {
        (_, Reply::Error(why)) => return Err(format!("the server says {why}")),
        (Deed::Ask { .. }, Reply::List(parts)) => match &*text(&parts[0]) {
            "granted" => Answer::Granted(text(&parts[1]).parse().map_err(|_| "no token")?),
            "held" => Answer::Held(text(&parts[4]).parse().ok()),
            "withdrawn" => Answer::Withdrawn,
            other => return Err(format!("answered {other}")),
        },
        (Deed::Pass(_), Reply::List(_)) => Answer::Passed,
        (Deed::ForeignSet { .. }, reply) => said(reply.text().is_some()),
        (_, reply) => said(reply.integer().is_some_and(|n| n > 0)),
    })
}
