//! The task that gets a lock from the server for the queue of one key.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::kit::call_limit;
use lockkit_core::{FencingToken, Request, Result};

use super::Client;
use super::held::Life;
use super::session::{FOREVER, Use};
use super::slots::{Seeker, Slot};
use super::wake::Wish;
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

/// A part of the ttl: a wait was last seen to go on so long ago at the most, for its end to be the
/// beginning of a term.
const RECENT: u32 = 3;

/// What became of asking the server.
enum Asked {
    Granted {
        life: Life,
        token: FencingToken,
    },
    HeldElsewhere,
    /// Nobody wants it any more, or it is to be asked anew.
    Again,
}

/// Whoever asks the server about a key: one at a time, which `Slot::seeker` names.
pub(super) struct Seeking {
    client: Arc<Client>,
    key: i64,
    seeker: Arc<Seeker>,
    /// Where no session was left to wait on.
    wish: Option<Wish>,
    pause: Duration,
}

impl Drop for Seeking {
    fn drop(&mut self) {
        // Only where its runtime has ended: those that wait in other runtimes ask anew.
        self.client.slots.change(self.key, |slot| {
            if slot.is_sought_by(&self.seeker) {
                slot.seeker = None;
                slot.give_up();
            }
        });
    }
}

impl Client {
    /// Begins to ask for a key; to be started, or dropped, without the slots.
    pub(super) fn begin(self: &Arc<Self>, key: i64, slot: &mut Slot) -> Seeking {
        let (client, seeker, [pause, _]) = (Arc::clone(self), Arc::default(), TRY_AGAIN);
        slot.seeker = Some(Arc::clone(&seeker));
        Seeking { client, key, seeker, wish: None, pause }
    }
}

impl Seeking {
    /// Asks for those that wait, in a task of its own.
    pub(super) fn start(mut self) {
        #[allow(clippy::disallowed_methods)] // as part of an attempt, which may be dropped
        tokio::spawn(async move {
            while let Some(head) = self.wanted() {
                self.seeker.rounds.send_modify(|rounds| *rounds += 1);
                if let Err(error) = self.round(&head).await {
                    self.client.slots.fail(self.key, &error);
                }
            }
        });
    }

    /// Asks for those that wait, if there are any and nobody holds it here.
    pub(super) fn go_on(self) {
        if self.wanted().is_some() {
            self.start();
        }
    }

    /// The head of the queue; where there is none, or the lock is held here, the seeking ends in
    /// the same moment, so that whoever comes next begins anew.
    fn wanted(&self) -> Option<Request> {
        let wanted = self.client.slots.change(self.key, |slot| {
            // A lock that came and went has left the key to another task by now.
            if !slot.is_sought_by(&self.seeker) {
                return None;
            }
            slot.prune();
            slot.begin_asking();
            let head = slot.queue.front().filter(|_| slot.held.is_none());
            let head = head.map(|waiter| waiter.request.clone());
            if head.is_none() {
                slot.seeker = None;
            }
            head
        });
        wanted.flatten()
    }

    /// Asks once, and waits where another session holds the lock.
    async fn round(&mut self, head: &Request) -> Result<()> {
        let mut asked = self.try_for(head).await?;
        if matches!(asked, Asked::HeldElsewhere) && self.client.slots.held_elsewhere(self.key) {
            asked = self.wait_for(head).await?;
        }
        if let Asked::Granted { life, token } = asked
            && let Err(life) = self.client.give(life, token)
        {
            // Nobody wants it.
            self.client.unlock(head.clock(), life).await.ok();
        }
        Ok(())
    }

    async fn try_for(&self, head: &Request) -> Result<Asked> {
        let (client, clock, key) = (&self.client, head.clock(), self.key);
        let session = client.sessions.holder(head.ttl()).await?;
        let reserved = client.budget.take();
        if client.budget.is_stale() {
            let count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
            let rows = session.run(clock, call_limit(head.ttl()), count).await?;
            let locks = rows.first().and_then(|row| number(row, 0));
            client.budget.saw(locks.ok_or_else(|| garbled(&rows))?);
        }
        client.budget.check()?;
        let life = Life::new(key, session, reserved, clock.now());
        let sql = format!(
            "SELECT CASE WHEN pg_try_advisory_lock({key}) THEN nextval('{}.token') END",
            client.schema
        );
        let token = match self.answer(head, &life.session, &sql).await {
            Ok(None) => return Ok(Asked::Again),
            Ok(Some(rows)) => match rows.first() {
                Some(row) if column(row, 0).is_none() => {
                    life.over();
                    return Ok(Asked::HeldElsewhere);
                }
                Some(row) => client.token(&life.session, row),
                None => Err(garbled(&rows)),
            },
            Err(error) => Err(error),
        };
        self.granted(head, life, token).await
    }

    /// A lock without a token is given back: it stays with its session when the statement fails.
    async fn granted(
        &self,
        head: &Request,
        life: Life,
        token: Result<FencingToken>,
    ) -> Result<Asked> {
        match token {
            Ok(token) => Ok(Asked::Granted { life, token }),
            Err(error) => {
                self.patiently(head, self.client.undo(head.clock(), life)).await;
                Err(error)
            }
        }
    }

    /// Waits on a session of its own, which is the holder's afterwards.
    async fn wait_for(&mut self, head: &Request) -> Result<Asked> {
        let (client, key, clock) = (Arc::clone(&self.client), self.key, head.clock());
        let Some(session) = client.sessions.waiter(head.ttl()).await? else {
            self.wait_beside(head).await;
            return Ok(Asked::Again);
        };
        self.wish = None;
        let mut life = Life::new(key, session, client.budget.take(), clock.now());
        // A subquery that is evaluated first: the token is drawn once the lock is held.
        let sql = format!(
            "SELECT nextval('{}.token') FROM (SELECT pg_advisory_lock({key}) OFFSET 0) l",
            client.schema
        );
        let Some(rows) = self.waited(head, &mut life, &sql).await? else {
            return Ok(Asked::Again);
        };
        let drawn = rows.first().ok_or_else(|| garbled(&rows));
        let drawn = drawn.and_then(|row| client.token(&life.session, row));
        // Who is the head by now? Another ttl, or a wait of which nothing was heard for long, takes
        // one more statement, whose term begins when it is sent.
        let head = client.slots.head(key).unwrap_or_else(|| head.clone());
        let (ttl, since) = (head.ttl(), clock.now().saturating_since(life.heard));
        let token = match drawn {
            Ok(_) if life.session.ttl() != ttl || since > ttl / RECENT => {
                life.session.aim(ttl);
                client.tokens(&head, &mut life).await
            }
            drawn => drawn,
        };
        life.session.unblock();
        self.granted(&head, life, token).await
    }

    /// Waits for a word of whoever releases the lock, or to try without one.
    async fn wait_beside(&mut self, head: &Request) {
        let (client, [_, most]) = (&self.client, TRY_AGAIN);
        // Without a runtime this request ends too, with its driver.
        client.wake.listen(client.sessions.options()).ok();
        let wish = || client.wake.wish(self.key, client.budget.take());
        let wish = self.wish.get_or_insert_with(wish);
        tokio::select! {
            () = wish.told() => {}
            () = head.clock().sleep(self.pause) => self.pause = (self.pause * 2).min(most),
            () = self.seeker.left.notified() => {}
        }
    }

    /// Waits in the server's queue; `None`: nobody wants it any more, or the session has ended.
    async fn waited(
        &self,
        head: &Request,
        life: &mut Life,
        sql: &str,
    ) -> Result<Option<Vec<Columns>>> {
        let (client, clock, key, session) = (&self.client, head.clock(), self.key, &life.session);
        let mut waiting = Box::pin(session.run(clock, FOREVER, sql));
        let [least, most] = LOOK_AFTER;
        let mut is_stopped = false;
        let waited = loop {
            let is_waited_for = client.slots.is_waited_for(key);
            let look_after =
                if is_waited_for { (head.ttl() / 4).clamp(least, most) } else { STOP_AGAIN };
            tokio::select! {
                biased;
                waited = &mut waiting => break waited,
                () = self.seeker.left.notified() => {}
                () = clock.sleep(look_after) => {}
            }
            if !client.slots.is_waited_for(key) {
                is_stopped = true;
                // It may not have begun yet, and then goes unheard: said again until it ends.
                if client.sessions.cancel(clock, session).await.is_err() {
                    session.cut();
                }
            } else if is_waited_for {
                let asked = clock.now();
                match client.sessions.still_waits(clock, session, key).await {
                    Ok(true) => {
                        // Whenever it is granted, it is after this.
                        life.heard = asked;
                        client.slots.held_elsewhere(key);
                    }
                    Err(_) => client.slots.unreachable(key),
                    // Granted or gone, and we were not told: give the word a moment.
                    Ok(false) => {
                        tokio::select! {
                            biased;
                            waited = &mut waiting => break waited,
                            () = clock.sleep(PATIENCE) => {}
                        }
                        let again = client.sessions.still_waits(clock, session, key).await;
                        if matches!(again, Ok(false)) {
                            session.cut();
                        }
                    }
                }
            }
        };
        drop(waiting);
        let error = match waited {
            Ok(rows) => return Ok(Some(rows)),
            Err(error) => error,
        };
        // A statement that is cancelled at its very end keeps its lock, as one that fails after it.
        if client.insisted(clock, session, session.undo(clock, key)).await.is_ok() {
            session.unblock();
            life.settle();
            return if is_stopped { Ok(None) } else { Err(error) };
        }
        client.slots.unreachable(key);
        self.patiently(head, client.sessions.bury(clock, session)).await;
        Ok(None)
    }

    /// Does something that takes its time, and tells those for whom it takes too long.
    async fn patiently<T>(&self, head: &Request, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = head.clock().sleep(call_limit(head.ttl()) / 4) => {
                    self.client.slots.time_out(self.key, call_limit(head.ttl()));
                }
            }
        }
    }

    /// The answer to a statement that may take the lock, waited for also when nobody wants it any
    /// more: what it brings must be given back. `None`: its session has ended, and the lock with it.
    async fn answer(
        &self,
        head: &Request,
        session: &Use,
        sql: &str,
    ) -> Result<Option<Vec<Columns>>> {
        let (client, clock) = (&self.client, head.clock());
        let mut asked = pin!(session.run(clock, FOREVER, sql));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut asked => break answer,
                () = clock.sleep(call_limit(head.ttl())) => {
                    client.slots.time_out(self.key, call_limit(head.ttl()));
                    session.hush();
                }
                () = self.seeker.left.notified() => {}
            }
            if !session.is_silent() {
                if client.slots.is_wanted(self.key) {
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
                self.patiently(head, client.sessions.bury(clock, session)).await;
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }
}
