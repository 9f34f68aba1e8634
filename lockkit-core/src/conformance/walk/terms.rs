//! The terms of grants: what an answer tells of when one ends.

use std::sync::Arc;

use super::world::World;
use crate::conformance::stop::{Verdict, require, require_in_time};
use crate::{Grant, Instant, Term};

impl World<'_> {
    /// Checks the term of a grant; between which instants it ends.
    pub(super) fn ends(
        &self,
        at: usize,
        ways: u32,
        grant: &Grant,
        now: Instant,
    ) -> Verdict<Option<(Instant, Instant)>> {
        let (term, who) = (grant.term, self.who(at));
        self.is_sent_before(at, ways, term, now)?;
        let Some(ttl) = term.ttl else {
            require!(!self.expires, "C5: {who} was granted without a ttl");
            return Ok(None);
        };
        let wish = self.asked[at].request.ttl();
        require!(ttl >= wish, "C5: {who} asked for {wish:?} and was granted {ttl:?}");
        let least = term.sent.saturating_add(ttl);
        let ago = now.saturating_since(term.sent);
        // The answer may have come in time, and been looked at late.
        require_in_time!(
            least > now,
            "C5: {who} is granted {ttl:?} from {ago:?} ago: that is over"
        );
        Ok(self.ends_by(term, now))
    }

    /// Between which instants a term ends that was answered now; `None` without an expiry.
    fn ends_by(&self, term: Term, now: Instant) -> Option<(Instant, Instant)> {
        let ttl = term.ttl.filter(|_| self.expires)?;
        let most = now.saturating_add(ttl).saturating_add(self.cx.expiry_slack());
        Some((term.sent.saturating_add(ttl), most))
    }

    /// Fails if a term counts from an instant after the request had left.
    fn is_sent_before(&self, at: usize, ways: u32, term: Term, now: Instant) -> Verdict {
        let least = self.clients.delay(self.asked[at].client) * ways;
        let (who, ago) = (self.who(at), now.saturating_since(term.sent));
        require!(
            term.sent <= now && ago >= least,
            "C5: the term of {who} counts from {ago:?} before the answer, which took {least:?} or more"
        );
        Ok(())
    }

    /// Takes in a replay's answer, which must be the same grant.
    pub(super) fn replayed(&mut self, at: usize, grant: Grant) -> Verdict {
        let now = self.now();
        let who = self.who(at);
        let ends = self.ends(at, 2, &grant, now)?;
        let Some(held) = &mut self.asked[at].held else { return Ok(()) };
        let (token, own) = (grant.token, held.token);
        require!(token == own, "C2: a replay of {who} has token {token}, its grant has {own}");
        held.ends = ends.max(held.ends);
        held.term = later(held.term, grant.term);
        held.replays.push(Arc::new(grant.lease));
        Ok(())
    }

    /// Extends what is known of a grant by a renewal's term.
    pub(super) fn renewed(&mut self, at: usize, term: Term) -> Verdict {
        let now = self.now();
        self.is_sent_before(at, 2, term, now)?;
        let ends = self.ends_by(term, now);
        if let Some(held) = &mut self.asked[at].held {
            held.ends = ends.max(held.ends);
            held.term = later(held.term, term);
        }
        Ok(())
    }
}

fn later(a: Term, b: Term) -> Term {
    if b.sent > a.sent { b } else { a }
}
