//! The task that gets a lock from the server for the queue of one key.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{Clock, Instant, Request, Result, StoreSays};

use super::lease::Life;
use super::session::{FOREVER, Use};
use super::slots::Seeker;
use super::wake::Wish;
use super::{Inner, call_limit};
use crate::connection::Columns;
use crate::protocol::{column, garbled, number};

/// How soon one tries again without a word, where no session is left to wait on: a session's end and
/// other clients' releases tell nobody. At first, and at the most.
const TRY_AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// How often a session is told to stop waiting, until it does.
const STOP_AGAIN: Duration = Duration::from_millis(20);
/// How long an answer that nobody wants any more is waited for.
const PATIENCE: Duration = Duration::from_millis(150);
/// How often a waiting session is looked after from another one, at the least and at the most.
const LOOK_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// What became of asking the server.
enum Asked {
    Granted {
        life: Life,
        token: u64,
        sent: Instant,
    },
    HeldElsewhere,
    /// Nobody wants it any more, or it is to be asked anew.
    Again,
}

/// Ends the seeking when its task ends, also with its runtime.
struct Seeking {
    inner: Arc<Inner>,
    key: i64,
    seeker: Arc<Seeker>,
    /// Where no session was left to wait on.
    wish: Option<Wish>,
    pause: Duration,
}

impl Drop for Seeking {
    fn drop(&mut self) {
        let mut slots = self.inner.slots.lock();
        if let Some(slot) = slots.get_mut(&self.key)
            && slot.seeker.as_ref().is_some_and(|seeker| Arc::ptr_eq(seeker, &self.seeker))
        {
            slot.seeker = None;
            if slot.is_free() {
                slots.remove(&self.key);
            }
        }
    }
}

impl Inner {
    /// Starts the task for a key that has none; the caller keeps the slots.
    pub(super) fn seek(self: &Arc<Self>, key: i64, seeker: Arc<Seeker>) {
        let (inner, [pause, _]) = (Arc::clone(self), TRY_AGAIN);
        let mut seeking = Seeking { inner, key, seeker, wish: None, pause };
        #[allow(clippy::disallowed_methods)] // as part of an attempt, which may be dropped
        tokio::spawn(async move {
            while let Some(head) = seeking.inner.wanted(&seeking) {
                seeking.seeker.rounds.send_modify(|rounds| *rounds += 1);
                if let Err(error) = seeking.round(&head).await {
                    seeking.inner.slots.fail(key, &error);
                }
            }
        });
    }

    /// The head of the queue; where there is none, or the lock is held here, the seeking ends in
    /// the same moment, so that whoever comes next begins anew.
    fn wanted(&self, seeking: &Seeking) -> Option<Request> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&seeking.key)?;
        // A lock that came and went has left the key to another task by now.
        slot.seeker.as_ref().filter(|seeker| Arc::ptr_eq(seeker, &seeking.seeker))?;
        slot.prune();
        let head = slot.queue.front().filter(|_| slot.held.is_none());
        if head.is_none() {
            slot.seeker = None;
            if slot.is_free() {
                slots.remove(&seeking.key);
                return None;
            }
        }
        let head = head.map(|waiter| waiter.request.clone());
        slot.begin_asking();
        head
    }
}

impl Seeking {
    /// Asks once, and waits where another session holds the lock.
    async fn round(&mut self, head: &Request) -> Result<()> {
        let mut asked = self.try_for(head).await?;
        if matches!(asked, Asked::HeldElsewhere) {
            self.inner.slots.held_elsewhere(self.key);
            if self.inner.slots.is_wanted(self.key) {
                asked = self.wait_for(head).await?;
            }
        }
        if let Asked::Granted { life, token, sent } = asked
            && let Err(life) = self.inner.give(self.key, life, token, sent)
        {
            self.give_back(head.clock(), life).await;
        }
        Ok(())
    }

    async fn try_for(&self, head: &Request) -> Result<Asked> {
        let (inner, clock, key) = (&self.inner, head.clock(), self.key);
        let session = inner.sessions.holder(head.ttl()).await?;
        let place = inner.budget.take();
        if inner.budget.is_stale() {
            let count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
            let rows = session.run(clock, call_limit(head.ttl()), count).await?;
            let locks = rows.first().and_then(|row| number(row, 0));
            inner.budget.saw(locks.ok_or_else(|| garbled(&rows))?);
        }
        inner.budget.check()?;
        let sent = clock.now();
        let sql = format!(
            "SELECT CASE WHEN pg_try_advisory_lock({key}) THEN nextval('{}.token') END",
            inner.schema
        );
        let Some(rows) = self.answer(head, &session, &sql).await? else {
            return Ok(Asked::Again);
        };
        let row = rows.first().ok_or_else(|| garbled(&rows))?;
        if column(row, 0).is_none() {
            return Ok(Asked::HeldElsewhere);
        }
        let token = session.base + number::<u64>(row, 0).ok_or_else(|| garbled(&rows))?;
        Ok(Asked::Granted { life: Life::new(session, place, sent), token, sent })
    }

    /// Waits on a session of its own, which is the holder's afterwards.
    async fn wait_for(&mut self, head: &Request) -> Result<Asked> {
        let (inner, key) = (Arc::clone(&self.inner), self.key);
        let Some(session) = inner.sessions.waiter(head.ttl()).await? else {
            self.wait_beside(head).await;
            return Ok(Asked::Again);
        };
        self.wish = None;
        let place = inner.budget.take();
        let sql = format!("SELECT pg_advisory_lock({key})");
        let Some(()) = self.waited(head, &session, &sql).await else { return Ok(Asked::Again) };
        // Who is the head by now?
        let head = inner.slots.head(key).unwrap_or_else(|| head.clone());
        session.aim(head.ttl());
        let (mut spare, sent) = inner.tokens(&head, &session, key).await?;
        let token = spare.pop_front().unwrap_or_default();
        session.unblock();
        let mut life = Life::new(session, place, sent);
        life.spare = spare;
        Ok(Asked::Granted { life, token, sent })
    }

    /// Waits for a word of whoever releases the lock, or to try without one.
    async fn wait_beside(&mut self, head: &Request) {
        let (inner, [_, most]) = (&self.inner, TRY_AGAIN);
        inner.wake.listen(inner.sessions.options());
        let wish = || inner.wake.wish(self.key, inner.budget.take());
        let wish = self.wish.get_or_insert_with(wish);
        tokio::select! {
            () = wish.told() => {}
            () = head.clock().sleep(self.pause) => self.pause = (self.pause * 2).min(most),
            () = self.seeker.left.notified() => {}
        }
    }

    /// Waits in the server's queue; `None`: nobody wants it any more, or the session has ended.
    async fn waited(&self, head: &Request, session: &Use, sql: &str) -> Option<()> {
        let (inner, clock, key) = (&self.inner, head.clock(), self.key);
        let mut waiting = pin!(session.run(clock, FOREVER, sql));
        let [least, most] = LOOK_AFTER;
        let waited = loop {
            let is_wanted = inner.slots.is_wanted(key);
            let look_after =
                if is_wanted { (head.ttl() / 4).clamp(least, most) } else { STOP_AGAIN };
            tokio::select! {
                biased;
                waited = &mut waiting => break waited,
                () = self.seeker.left.notified() => {}
                () = clock.sleep(look_after) => {}
            }
            if !inner.slots.is_wanted(key) {
                // It may not have begun yet, and then goes unheard: said again until it ends.
                if inner.sessions.cancel(clock, session).await.is_err() {
                    session.cut();
                }
            } else if is_wanted {
                match inner.sessions.still_waits(clock, session, key).await {
                    Ok(true) => inner.slots.report(key, &StoreSays::Held(None)),
                    Err(_) => inner.slots.report(key, &StoreSays::Unreachable),
                    // Granted or gone, and we were not told: give the word a moment.
                    Ok(false) => {
                        tokio::select! {
                            biased;
                            waited = &mut waiting => break waited,
                            () = clock.sleep(PATIENCE) => {}
                        }
                        let again = inner.sessions.still_waits(clock, session, key).await;
                        if matches!(again, Ok(false)) {
                            session.cut();
                        }
                    }
                }
            }
        };
        match waited {
            Ok(_) => Some(()),
            Err(_) if session.is_ended() => {
                self.patiently(head, inner.sessions.bury(clock, session)).await;
                None
            }
            // It was told to stop. A statement that is cancelled at its very end keeps its lock.
            Err(_) => {
                let all = "SELECT pg_advisory_unlock_all()";
                if session.run(clock, call_limit(head.ttl()), all).await.is_err() {
                    self.patiently(head, inner.sessions.bury(clock, session)).await;
                }
                session.unblock();
                None
            }
        }
    }

    /// Does something that takes its time, and tells those for whom it takes too long.
    async fn patiently<T>(&self, head: &Request, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = head.clock().sleep(call_limit(head.ttl()) / 4) => {
                    self.inner.slots.time_out(self.key, call_limit(head.ttl()));
                }
            }
        }
    }

    /// Gives a lock that nobody wants back to the server.
    async fn give_back(&self, clock: &Clock, life: Life) {
        self.inner.unlock(clock, self.key, &life.session).await.ok();
    }

    /// The answer to a statement that may take the lock, waited for also when nobody wants it any
    /// more: what it brings must be given back. `None`: its session has ended, and the lock with it.
    async fn answer(
        &self,
        head: &Request,
        session: &Use,
        sql: &str,
    ) -> Result<Option<Vec<Columns>>> {
        let (inner, clock) = (&self.inner, head.clock());
        let mut asked = pin!(session.run(clock, FOREVER, sql));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut asked => break answer,
                () = clock.sleep(call_limit(head.ttl())) => {
                    inner.slots.time_out(self.key, call_limit(head.ttl()));
                    session.hush();
                }
                () = self.seeker.left.notified() => {}
            }
            if !session.is_silent() {
                if inner.slots.is_wanted(self.key) {
                    continue;
                }
                tokio::select! {
                    biased;
                    answer = &mut asked => break answer,
                    () = clock.sleep(PATIENCE) => {}
                }
            }
            // Nothing else lives on it: then it is of no more use.
            if session.users() == 1 {
                session.cut();
                break asked.await;
            }
        };
        match answer {
            Err(_) if session.is_ended() => {
                self.patiently(head, inner.sessions.bury(clock, session)).await;
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }
}
