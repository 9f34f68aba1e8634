//! Hand-offs that a provider makes by itself, and what it tells the server of them.

use std::collections::VecDeque;

use super::{Answer, Deed, Lock, Pass, Request, State, Way, World};

/// How many tokens a provider may hand the name on by.
const AHEAD: u64 = 16;

/// A grant of the server and the hand-offs that followed it, as its provider knows them.
#[derive(Debug)]
pub(super) struct Cohort {
    provider: String,
    members: VecDeque<Member>,
    has_ended: bool,
    is_freeing: bool,
    spare: u64,
    line: VecDeque<(String, u64)>,
}

#[derive(Debug)]
struct Member {
    id: String,
    token: u64,
    ttl: i64,
    unanswered: bool,
}

impl Cohort {
    /// Whether this request was granted the name last.
    pub(super) fn is_last(&self, id: &str) -> bool {
        self.members.back().is_some_and(|last| last.id == id)
    }

    /// The last holder lets go, perhaps with an attempt that was never answered.
    pub(super) fn end(&mut self, id: &str, unanswered: bool) {
        self.has_ended = true;
        let own = self.members.iter_mut().filter(|member| member.id == id);
        own.for_each(|member| member.unanswered |= unanswered);
    }
}

impl World {
    /// The server granted: a cohort begins, unless it only said again what it was told.
    pub(super) fn granted(&mut self, n: usize, i: usize, token: u64) {
        let Lock { requests, cohorts, model, .. } = &mut self.locks[n];
        let Request { id, ttl, unanswered, .. } = &requests[i];
        let provider = provider(id);
        let knows = |member: &Member| member.id == *id && member.token == token;
        if cohorts.iter().any(|cohort| cohort.members.iter().any(knows)) {
            return;
        }
        cohorts.retain(|cohort| cohort.provider != provider);
        let member = Member { id: id.clone(), token, ttl: *ttl, unanswered: *unanswered };
        cohorts.push(Cohort {
            provider: provider.to_owned(),
            members: VecDeque::from([member]),
            has_ended: false,
            is_freeing: false,
            spare: token + AHEAD,
            line: line(&model.last),
        });
    }

    /// A waiter was told that it is the head: its provider may hand the name on to it.
    pub(super) fn heads(&mut self, n: usize) {
        let Lock { cohorts, model, .. } = &mut self.locks[n];
        let first = line(&model.last).into_iter().take(1);
        let own = |cohort: &&mut Cohort| {
            model.last.queue.first().is_some_and(|head| provider(head) == cohort.provider)
        };
        if let Some(cohort) = cohorts.iter_mut().find(own) {
            let first: VecDeque<_> = first.collect();
            let knows = cohort.members.iter().any(|member| member.id == first[0].0);
            if !cohort.line.contains(&first[0]) && !knows {
                cohort.line = first;
            }
        }
    }

    /// Hands the name on to the next in the queue, where that waits at the same provider.
    pub(super) fn hand_on(&mut self, n: usize, c: usize) -> Result<(), String> {
        let Lock { requests, cohorts, model, .. } = &mut self.locks[n];
        let cohort = &mut cohorts[c];
        let token = cohort.members.back().map_or(0, |last| last.token) + 1;
        if !cohort.has_ended || cohort.is_freeing || token > cohort.spare {
            return Ok(());
        }
        let Some((next, ticket)) = cohort.line.front() else { return Ok(()) };
        let idle = |request: &&mut Request| {
            let place = request.place.filter(|(_, until)| model.last.now < *until);
            let is_there = place.is_some_and(|(own, _)| own == *ticket);
            request.waits && request.holds.is_none() && is_there
        };
        let own = requests.iter_mut().find(|request| request.id == *next).filter(idle);
        let Some(next) = own.filter(|next| provider(&next.id) == cohort.provider) else {
            return Ok(());
        };
        let served: Vec<_> = cohort.members.iter().map(|member| &*member.id).collect();
        model
            .handed_on(&next.id, token, &served)
            .map_err(|why| format!("{why}\n{cohort:#?}\n{next:#?}\n{:#?}", model.last))?;
        next.holds = Some(token);
        let Request { id, ttl, unanswered, .. } = &*next;
        let member = Member { id: id.clone(), token, ttl: *ttl, unanswered: *unanswered };
        cohort.members.push_back(member);
        cohort.line.pop_front();
        cohort.has_ended = false;
        self.counts.handed_on += 1;
        Ok(())
    }

    /// Tells the server what a provider's cohort has done.
    pub(super) fn pass(&mut self, n: usize, c: usize, way: Way) -> Result<(), String> {
        let Lock { requests, cohorts, .. } = &mut self.locks[n];
        let cohort = &mut cohorts[c];
        for member in &mut cohort.members {
            let request = requests.iter().find(|request| request.id == member.id);
            member.unanswered |= request.is_some_and(|request| request.unanswered);
        }
        cohort.is_freeing |= cohort.has_ended;
        let mut ended: Vec<&Member> = cohort.members.iter().collect();
        let last = if cohort.is_freeing { ended.last().copied() } else { ended.pop() };
        let (Some(first), Some(last)) = (cohort.members.front(), last) else { return Ok(()) };
        let pass = Pass {
            from: first.id.clone(),
            token: last.token,
            to: (!cohort.is_freeing).then(|| (last.id.clone(), last.ttl)),
            ended: ended.iter().map(|member| (member.id.clone(), member.unanswered)).collect(),
        };
        let answer = self.send(n, &Deed::Pass(pass.clone()), way)?;
        let Lock { requests, cohorts, model, .. } = &mut self.locks[n];
        if let (Some((to, _)), true) = (&pass.to, way != Way::Answered) {
            // It may arrive later, and name one that has been withdrawn since.
            let named = requests.iter_mut().find(|request| request.id == *to);
            named.into_iter().for_each(|request| request.unanswered = true);
        }
        match (answer, &pass.to) {
            (None, _) => {}
            (Some(Answer::Passed), Some((to, _))) => {
                let cohort = &mut cohorts[c];
                while cohort.members.front().is_some_and(|member| member.id != *to) {
                    cohort.members.pop_front();
                }
                cohort.spare = cohort.spare.max(pass.token + AHEAD);
                cohort.line = line(&model.last);
            }
            // Freed, or refused: it is over, and whoever holds by it has lost.
            _ => drop(cohorts.remove(c)),
        }
        Ok(())
    }

    /// What was not acknowledged is told again, together with what happened since.
    pub(super) fn pass_again(&mut self, n: usize) -> Result<(), String> {
        let count = self.locks[n].cohorts.len();
        let c = self.chance.below(count.max(1));
        match self.locks[n].cohorts.get(c) {
            Some(cohort) if cohort.members.len() > 1 || cohort.has_ended => {
                let way = self.way();
                self.pass(n, c, way)
            }
            _ => Ok(()),
        }
    }

    /// Whether there is a holder that the server does not know of, who has let go now.
    pub(super) fn ended_at_once(&mut self, n: usize, c: usize) -> bool {
        let Lock { requests, cohorts, .. } = &mut self.locks[n];
        let cohort = &mut cohorts[c];
        let (false, Some(last)) = (cohort.has_ended, cohort.members.back_mut()) else {
            return false;
        };
        let Some(i) = requests.iter().position(|request| request.id == last.id) else {
            return false;
        };
        last.unanswered |= requests.remove(i).unanswered;
        cohort.has_ended = true;
        true
    }
}

/// The first of the queue with their tickets, as the last answer told.
fn line(last: &State) -> VecDeque<(String, u64)> {
    last.queue.iter().cloned().zip(last.tickets.iter().copied()).take(16).collect()
}

/// The provider in a request's entry.
fn provider(id: &str) -> &str {
    id.split_once('.').map_or("", |(_, provider)| provider)
}
