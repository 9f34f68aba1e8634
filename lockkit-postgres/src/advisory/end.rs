//! How a grant ends: its lock goes on to the next one here, or back to the server.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lockkit_core::kit::call_limit;
use lockkit_core::{Applied, Clock, Error, FencingToken, LossReason, Request, Result};

use super::held::{Held, Life, State};
use super::seek::Seeking;
use super::session::{FOREVER, LockSession, Use, of_key};
use super::slots::Slot;
use super::{Client, wake};
use crate::connection::Columns;
use crate::error::is_ended_by_server;
use crate::protocol::{column, garbled, number};

/// How many tokens are fetched at once for those who wait here: the lock then goes from hand to hand
/// without the server, for as long as it has just been heard of.
const BATCH: usize = 32;

/// How long the lock is left to others who were told, before our own waiters try again.
const COURTESY: Duration = Duration::from_millis(5);

/// Who else waits for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    None,
    InTheQueue,
    /// No session of theirs was left to wait on.
    Beside,
}

/// A grant that ends: lost where its end is dropped midway, with its runtime.
struct Ending(Arc<Held>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(State::Lost(LossReason::DriverStopped));
    }
}

impl Client {
    /// Waits until nothing of a lost grant is in the server.
    pub(super) async fn gone(&self, held: &Arc<Held>) -> Result<()> {
        let clock = held.request.clock();
        let end = clock.now().saturating_add(call_limit(held.ttl));
        let is_there = || {
            let slots = self.slots.lock();
            let there = slots.get(&held.key).and_then(|slot| slot.held.as_ref());
            there.is_some_and(|other| Arc::ptr_eq(other, held))
        };
        while is_there() {
            if clock.now() >= end {
                let what = "the backend of a lost session may not have ended";
                return Err(Error::unavailable(Applied::Maybe, what));
            }
            clock.sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends a grant, within the limit of a call; what it began goes on.
    pub(super) async fn release(self: &Arc<Self>, held: &Arc<Held>) -> Result<()> {
        let begins = held.state.send_if_modified(|state| {
            let begins = *state == State::Live;
            if begins {
                *state = State::Ending;
            }
            begins
        });
        let mut states = held.state.subscribe();
        if begins {
            let (client, held) = (Arc::clone(self), Arc::clone(held));
            let mut ending = Box::pin(client.end(Ending(held), true));
            // From hand to hand it needs nobody's answer.
            let begun = poll_fn(|context| Poll::Ready(ending.as_mut().poll(context)));
            if begun.await.is_pending() {
                #[allow(clippy::disallowed_methods)] // a release goes on when its caller has left
                tokio::spawn(ending);
            }
        }
        let ended = states.wait_for(|state| !matches!(state, State::Live | State::Ending));
        tokio::select! {
            state = ended => match state.as_deref() {
                Ok(State::Lost(reason)) => Err(Error::lost(*reason)),
                _ => Ok(()),
            },
            () = held.request.clock().sleep(call_limit(held.ttl)) => {
                let silence = "PostgreSQL gave no answer to a release in time";
                Err(Error::unavailable(Applied::Maybe, silence))
            }
        }
    }

    /// Hands the lock of an ended grant on, or gives it back to the server, and tells what became
    /// of it.
    async fn end(self: Arc<Self>, ending: Ending, was_held: bool) {
        let held = &ending.0;
        let (key, clock) = (held.key, held.request.clock());
        let Some(life) = held.life().take() else {
            held.end(State::Lost(LossReason::SessionEnded));
            return;
        };
        let (seeking, next, goes_round) = {
            let mut slots = self.slots.lock();
            let slot = slots.entry(key).or_default();
            if slot.held.as_ref().is_none_or(|other| !Arc::ptr_eq(other, held)) {
                // It was lost, and the key is others' business.
                held.end(State::Lost(LossReason::SessionEnded));
                return;
            }
            slot.held = None;
            slot.prune();
            let seeking = self.begin(key, slot);
            let next = slot.queue.front().map(|waiter| waiter.request.clone());
            (seeking, next, slot.has_gone_round())
        };
        // From here on it stands for us, so that nobody else asks the server meanwhile.
        let how = self.pass_on(clock, life, next, goes_round).await;
        seeking.go_on();
        held.end(match how {
            Ok(true) if was_held => State::Released,
            Ok(true) => State::Lost(LossReason::Expired),
            Ok(false) => State::Lost(LossReason::Removed),
            Err(error) if is_ended_by_server(&error) => State::Lost(LossReason::SessionEnded),
            // The connection broke, and what was left of it is gone by now.
            Err(_) => State::Released,
        });
    }

    /// Whether the lock was held until it was handed on or given back.
    async fn pass_on(
        self: &Arc<Self>,
        clock: &Clock,
        life: Life,
        next: Option<Request>,
        goes_round: bool,
    ) -> Result<bool> {
        let key = life.key;
        let others = match &next {
            Some(_) if goes_round && !life.session.is_ended() => {
                // Without an answer it goes back to the server, which sees to its end in any case.
                let others = self.others(clock, &life.session, key).await;
                others.unwrap_or(Others::InTheQueue)
            }
            _ => Others::None,
        };
        let goes_on = next.filter(|_| others == Others::None && !life.session.is_ended());
        if goes_round && let Some(slot) = self.slots.lock().get_mut(&key) {
            slot.begin_round();
        }
        let mut life = life;
        if let Some(next) = goes_on.filter(|next| self.sessions.suits(&life.session, next.ttl())) {
            let token = match life.spare(next.clock().now()) {
                Some(token) => Ok(token),
                None => self.tokens(&next, &mut life).await,
            };
            match token {
                Ok(token) => match self.give(life, token) {
                    Ok(()) => return Ok(true),
                    Err(back) => life = back,
                },
                Err(error) if life.session.is_ended() => {
                    self.sessions.bury(clock, &life.session).await;
                    return Err(error);
                }
                // Whoever asks the server next is told why.
                Err(_) => {}
            }
        }
        let unlocked = self.unlock(clock, life).await;
        if others == Others::Beside {
            // Whoever stands in the server's queue has it by now; these must come and try.
            clock.sleep(COURTESY).await;
        }
        unlocked
    }

    /// Ends what lives on a session that has ended.
    pub(super) async fn lose(self: &Arc<Self>, session: &Arc<LockSession>) {
        let on_it = self.held_on(session);
        for held in &on_it {
            held.end(State::Lost(LossReason::SessionEnded));
        }
        // Its backend may not know yet: until it does, it holds.
        self.sessions.bury(&Clock::system(), session).await;
        for held in on_it {
            if let Some(seeking) = self.part(&held, |slot| {
                let is_left = slot.seeker.is_none() && !slot.queue.is_empty();
                is_left.then(|| self.begin(held.key, slot))
            }) {
                seeking.start();
            }
        }
    }

    /// The same where the runtime of the session and of its watch has ended: those who wait for its
    /// locks in other runtimes ask anew.
    pub(super) fn abandon(&self, session: &Arc<LockSession>) {
        session.cut();
        for held in self.held_on(session) {
            held.end(State::Lost(LossReason::SessionEnded));
            self.part(&held, |slot| {
                if slot.seeker.is_none() {
                    slot.give_up();
                }
                None
            });
        }
    }

    /// Takes a lost grant out of the way, and sees to those behind it.
    fn part(
        &self,
        held: &Arc<Held>,
        see_to: impl FnOnce(&mut Slot) -> Option<Seeking>,
    ) -> Option<Seeking> {
        held.life().take();
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&held.key)?;
        if slot.held.as_ref().is_some_and(|other| Arc::ptr_eq(other, held)) {
            slot.held = None;
        }
        let seeking = if slot.held.is_none() { see_to(slot) } else { None };
        if slot.is_free() {
            slots.remove(&held.key);
        }
        seeking
    }

    /// Gives back what is renewed no more, where others keep its session alive.
    pub(super) fn lapse(self: &Arc<Self>, session: &Arc<LockSession>) {
        for held in self.held_on(session).into_iter().filter(|held| held.has_lapsed()) {
            if held.end(State::Lost(LossReason::Expired)) {
                #[allow(clippy::disallowed_methods)] // a clean-up that nobody waits for
                tokio::spawn(Arc::clone(self).end(Ending(held), false));
            }
        }
    }

    fn held_on(&self, session: &Arc<LockSession>) -> Vec<Arc<Held>> {
        let slots = self.slots.lock();
        let held = slots.values().filter_map(|slot| slot.held.as_ref());
        let on_it = |held: &&Arc<Held>| {
            let life = held.life();
            life.as_ref().is_some_and(|life| Arc::ptr_eq(life.session.session(), session))
        };
        held.filter(on_it).cloned().collect()
    }

    /// New tokens over a session that holds the lock: the first of them, and the rest to spare.
    pub(super) async fn tokens(&self, next: &Request, life: &mut Life) -> Result<FencingToken> {
        let count = (4 * self.slots.waiting(life.key)).clamp(1, BATCH);
        let sent = next.clock().now();
        let sql =
            format!("SELECT nextval('{}.token') FROM generate_series(1, {count})", self.schema);
        let rows = self.insist(next.clock(), &life.session, &sql).await?;
        let tokens = rows.iter().map(|row| self.token(&life.session, row));
        let mut tokens = tokens.collect::<Result<VecDeque<_>>>()?;
        let first = tokens.pop_front().ok_or_else(|| garbled(&rows))?;
        (life.spare, life.heard) = (tokens, sent);
        Ok(first)
    }

    /// The token that a row brings.
    pub(super) fn token(&self, session: &LockSession, row: &Columns) -> Result<FencingToken> {
        let low = number::<u64>(row, 0).ok_or_else(|| garbled(std::slice::from_ref(row)))?;
        FencingToken::with_base(self.token_base, session.base + low)
    }

    /// Grants the lock that a session holds to the first in the queue who wants it; gives it back
    /// where nobody does, or the session would end too early for that one.
    pub(super) fn give(self: &Arc<Self>, life: Life, token: FencingToken) -> Result<(), Life> {
        let (key, sent, mut life) = (life.key, life.heard, life);
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(&key) else { return Err(life) };
        slot.prune();
        loop {
            match slot.queue.front() {
                Some(next) if next.request.ttl() <= life.session.ttl() => {}
                _ => return Err(life),
            }
            let Some(next) = slot.queue.pop_front() else { return Err(life) };
            let held = Arc::new(Held::new(key, next.request.clone(), token, sent, life));
            if next.answer(|| Ok(Some(held.grant(self, sent)))) {
                slot.hold(&held);
                return Ok(());
            }
            // It has left just now.
            match held.life().take() {
                Some(back) => life = back,
                None => return Ok(()),
            }
        }
    }

    /// Frees a lock in the server; whether the session held it.
    pub(super) async fn unlock(&self, clock: &Clock, life: Life) -> Result<bool> {
        let answer = self.insist(clock, &life.session, &wake::unlock(life.key)).await;
        let was_held = answer.and_then(|rows| match rows.first().and_then(|row| column(row, 0)) {
            Some(text) => Ok(text == "t"),
            None => Err(garbled(&rows)),
        });
        match was_held {
            Ok(was_held) => {
                life.over();
                Ok(was_held)
            }
            // Whether this freed it or what failed before, nobody knows; it was held until then.
            Err(_) if self.undo(clock, life).await => Ok(true),
            error => error,
        }
    }

    /// Frees what a statement left that failed, or sees to the end of the session; whether the
    /// server said that it is free.
    pub(super) async fn undo(&self, clock: &Clock, life: Life) -> bool {
        let undone = self.insisted(clock, &life.session, life.session.undo(clock, life.key)).await;
        if undone.is_err() {
            self.sessions.bury(clock, &life.session).await;
            return false;
        }
        life.over();
        true
    }

    /// The answer of a session that holds a lock. A slow one is waited for, since others' locks may
    /// live there; a silent one where none do is cut.
    async fn insist(
        &self,
        clock: &Clock,
        session: &LockSession,
        sql: &str,
    ) -> Result<Vec<Columns>> {
        self.insisted(clock, session, session.run(clock, FOREVER, sql)).await
    }

    pub(super) async fn insisted<T>(
        &self,
        clock: &Clock,
        session: &LockSession,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut asked = pin!(asked);
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            () = clock.sleep(call_limit(session.ttl())) => {
                if session.users() == 1 {
                    session.cut();
                }
                asked.await
            }
        }
    }

    /// Who waits for this lock on other sessions, or beside them.
    async fn others(&self, clock: &Clock, session: &Use, key: i64) -> Result<Others> {
        let sql = format!(
            "SELECT coalesce(bool_or(NOT granted), false), count(*) > 0 FROM pg_locks \
             WHERE NOT granted AND {} OR {}",
            of_key(key),
            wake::of_mark(key),
        );
        let rows = session.run(clock, call_limit(session.ttl()), &sql).await?;
        let row = rows.first().ok_or_else(|| garbled(&rows))?;
        Ok(match (column(row, 0), column(row, 1)) {
            (Some("t"), _) => Others::InTheQueue,
            (_, Some("t")) => Others::Beside,
            _ => Others::None,
        })
    }
}
