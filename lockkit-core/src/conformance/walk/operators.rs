//! What operators see and do on a walk.

use std::time::Duration;

use super::step::Step;
use super::world::World;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::{Error, FencingToken, Inspection, Instant, LockName, Operator};

impl World<'_> {
    fn operator(&self, step: Step) -> Option<&dyn Operator> {
        self.clients.of(step.client).operator()
    }

    pub(super) async fn revoke(&mut self, step: Step) -> Verdict {
        let name = step.name;
        let Some(token) = self.token(name, step) else { return Ok(()) };
        let (lock, holder) = (self.names[name].name.clone(), self.names[name].holder);
        let held = holder.and_then(|at| self.asked[at].held.as_ref());
        let is_meant = held.is_some_and(|held| held.token == token);
        self.tell(format!("an operator revokes token {token} of the name {:?}", self.tails[name]));
        let Some(operator) = self.operator(step) else { return Ok(()) };
        match operator.revoke(&lock, token).await {
            Ok(true) => {
                require!(
                    is_meant,
                    "C16: a revocation of token {token}, which does not hold, ended a grant"
                );
                match holder {
                    Some(at) => {
                        self.asked[at].is_revoked = true;
                        self.ended(at).await
                    }
                    None => Ok(()),
                }
            }
            Ok(false) => {
                self.outcome("no such grant");
                require!(!is_meant, "C16: token {token} holds, and its revocation ended nothing");
                Ok(())
            }
            // This store ends no grant of others.
            Err(Error::Rejected { .. }) => Ok(()),
            Err(error) => Err(Stop::error(&error, "C16: a revocation")),
        }
    }

    /// A token for an operator to revoke: of the holder, of an earlier grant, or of another name.
    fn token(&self, name: usize, step: Step) -> Option<FencingToken> {
        let of = |at: usize| self.asked[at].held.as_ref().map(|held| held.token);
        let holder = self.names[name].holder.and_then(of);
        match step.wish % 3 {
            0 => holder,
            1 => {
                let earlier =
                    self.pick(step, |asked| asked.name == name && asked.held.is_some())?;
                of(earlier)
            }
            _ => of(self.pick(step, |asked| asked.name != name && asked.held.is_some())?),
        }
    }

    pub(super) async fn inspect(&mut self, step: Step) -> Verdict {
        let name = step.name;
        let lock = self.names[name].name.clone();
        let begun = self.now();
        let Some(operator) = self.operator(step) else { return Ok(()) };
        let seen = operator.inspect(&lock).await?;
        self.tell(format!("an operator inspects the name {:?}", self.tails[name]));
        self.seen(name, &seen, begun)
    }

    /// Checks what an operator is shown of a name.
    fn seen(&self, name: usize, seen: &Inspection, begun: Instant) -> Verdict {
        let Self { names, asked, .. } = self;
        require!(seen.name == names[name].name, "C16: another name is shown: {:?}", seen.name);
        let holder = names[name].holder.map(|at| &asked[at]);
        let shown: Vec<_> =
            seen.holders.iter().map(|holder| (holder.token, holder.label.to_string())).collect();
        let token = holder.and_then(|holder| holder.held.as_ref()).map(|held| held.token);
        let expected: Vec<_> =
            holder.iter().map(|holder| (token, holder.request.label().to_string())).collect();
        require!(shown == expected, "C16: the holder is {expected:?}, and {shown:?} is shown");
        let (waiters, shown) = (names[name].queue.len(), seen.waiters);
        require!(
            shown.is_none_or(|shown| shown == waiters),
            "C16: {waiters} wait, {shown:?} is shown"
        );
        self.seen_times(name, seen, begun)
    }

    /// Checks the age of a holder that an operator is shown, and what is left of its term.
    fn seen_times(&self, name: usize, seen: &Inspection, begun: Instant) -> Verdict {
        let held = self.names[name].holder.and_then(|at| self.asked[at].held.as_ref());
        let (Some(held), Some(shown)) = (held, seen.holders.first()) else { return Ok(()) };
        let (now, fuzz) = (self.now(), self.room * 2 + Duration::from_secs(1));
        let fuzz = if self.cx.is_virtual() { self.room } else { fuzz };
        if let Some(age) = shown.age {
            let [least, most] =
                [begun.saturating_since(held.since.1), now.saturating_since(held.since.0)];
            let is_so = age + fuzz >= least && age <= most + fuzz;
            require!(is_so, "C16: granted {least:?} ago, and shown with an age of {age:?}");
        }
        if let (Some(left), Some((ends, _))) = (shown.expires_in, held.ends) {
            let step =
                self.cx.guarantees.expiry.range().map_or(Duration::ZERO, |range| range.granularity);
            let fuzz = fuzz + self.room + step;
            let [least, most] = [ends.saturating_since(now), ends.saturating_since(begun)];
            let is_so = left + fuzz >= least && left <= most + fuzz;
            require!(is_so, "C16: {least:?} are left of a term, and {left:?} are shown");
        }
        Ok(())
    }

    pub(super) async fn list(&mut self, step: Step) -> Verdict {
        let run = self.tails[0].trim_end_matches('a');
        let tails = ["", "a", "A/", "A/%", "a_", "_", "a*", "*"];
        let prefix = self.cx.name(&format!("{run}{}", tails[step.request % tails.len()]));
        let afters = [None, Some(step.name)];
        let after = afters[step.wish % 2].map(|name| self.names[name].name.clone());
        let limit = [1, 2, 100][step.wish % 3];
        let is_listed = |name: &LockName| {
            name.as_str().starts_with(&prefix) && after.as_ref().is_none_or(|after| name > after)
        };
        let mut expected: Vec<usize> = (0..self.names.len()).collect();
        expected.retain(|name| self.names[*name].holder.is_some());
        expected.retain(|name| is_listed(&self.names[*name].name));
        expected.sort_by(|a, b| self.names[*a].name.cmp(&self.names[*b].name));
        expected.truncate(limit);
        let begun = self.now();
        let Some(operator) = self.operator(step) else { return Ok(()) };
        let page = operator.list(&prefix, after.as_ref(), limit).await?;
        self.tell(format!("an operator lists {prefix:?} after {after:?}, {limit} at most"));
        let shown: Vec<_> = page.iter().map(|seen| seen.name.as_str()).collect();
        let names: Vec<_> = expected.iter().map(|name| self.names[*name].name.as_str()).collect();
        require!(shown == names, "C16: {shown:?} are listed, expected are {names:?}");
        expected.iter().zip(&page).try_for_each(|(name, seen)| self.seen(*name, seen, begun))
    }
}
