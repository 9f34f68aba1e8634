//! What each action does to the store, and which answers the contract allows.

use std::sync::Arc;
use std::time::Duration;

use super::step::{Action, Step};
use super::world::{Waited, World};
use crate::conformance::stop::{Stop, Verdict, require};
use crate::{Error, Instant, StoreSays};
use tokio::task::JoinHandle;

/// How often a waiter polls at most while a long time passes.
const POLLS: u32 = 5_000;

impl World<'_> {
    pub(super) async fn act(&mut self, step: Step) -> Verdict {
        match step.action {
            Action::Try => self.attempt(step).await,
            Action::Wait => self.wait(step).await,
            Action::Replay => self.replay(step).await,
            Action::Renew => self.renew(step).await,
            Action::Release => self.release(step).await,
            Action::Withdraw => self.withdraw(step).await,
            Action::Revoke => self.revoke(step).await,
            Action::Inspect => self.inspect(step).await,
            Action::List => self.list(step).await,
            Action::Probe => self.probe(step).await,
            Action::Expire => self.run_out(step).await,
            Action::Pause => self.pause(step).await,
            Action::Hold => self.hold(step).await,
            Action::Idle => self.idle(step).await,
            Action::Crash => self.crash(step).await,
            Action::SendLate => self.send_late(step).await,
            Action::Deliver => self.deliver_late(step).await,
        }
    }

    async fn attempt(&mut self, step: Step) -> Verdict {
        let Some(at) = self.ask(step)? else { return Ok(()) };
        let who = self.who(at);
        self.tell(format!("{who} tries"));
        let answer = self.client(at).try_acquire(&self.asked[at].request).await?;
        match answer {
            Some(grant) => self.granted(at, grant),
            None => {
                self.outcome("refused");
                let is_held = self.names[self.asked[at].name].holder.is_some();
                require!(is_held, "C1: the name is free, and {who} is refused");
                Ok(())
            }
        }
    }

    async fn wait(&mut self, step: Step) -> Verdict {
        if !self.has_room(step.name) {
            return Ok(());
        }
        let Some(at) = self.ask(step)? else { return Ok(()) };
        let (who, name) = (self.who(at), self.asked[at].name);
        self.tell(format!("{who} waits"));
        let request = self.asked[at].request.clone();
        let waits = self.ask_to_wait(at);
        let is_held = self.names[name].holder.is_some();
        let end = self.now().saturating_add(self.cx.wake_up());
        loop {
            if waits.is_finished() {
                let (granted, came) = waits.await?;
                return self.granted_at(at, granted?, came);
            }
            let is_queued = matches!(request.last_word(), Some(StoreSays::Held(_)));
            if is_queued && is_held {
                break;
            }
            if self.now() >= end {
                waits.abort();
                let what = if is_held { "does not tell that it waits" } else { "is not granted" };
                return Err(Stop::late(format!("C8: {who} {what}")));
            }
            self.cx.sleep(Duration::from_millis(1)).await;
        }
        self.outcome("behind the holder");
        self.asked[at].waits = Some(waits);
        self.asked[at].has_waited = true;
        self.names[name].queue.push(at);
        Ok(())
    }

    /// The request that a step means, unless its client is gone.
    fn pick_there(&self, step: Step) -> Option<usize> {
        self.pick(step, |_| true).filter(|at| !self.asked[*at].is_gone)
    }

    async fn replay(&mut self, step: Step) -> Verdict {
        let Some(at) = self.pick_there(step) else { return Ok(()) };
        if self.asked[at].waits.is_some() {
            return self.replay_a_wait(at).await;
        }
        let (who, name) = (self.who(at), self.asked[at].name);
        let (holds, is_free) = (self.holds(at), self.names[name].holder.is_none());
        self.tell(format!("{who} is sent again"));
        let answer = self.client(at).try_acquire(&self.asked[at].request).await;
        match (answer, holds) {
            (Ok(Some(grant)), true) => {
                self.outcome("its own grant");
                self.replayed(at, grant)
            }
            // A call after the end of its request may take a free name, as a new request would.
            (Ok(Some(grant)), false) if is_free => {
                self.asked[at].is_revoked = false;
                self.granted(at, grant)
            }
            (Ok(Some(grant)), false) => Err(Stop::failed(format!(
                "C2, C6, C9: {who} has no grant any more, and its replay is granted with token {}",
                grant.token
            ))),
            (Ok(None), true) => {
                Err(Stop::failed(format!("C2: {who} holds, and its replay is refused")))
            }
            (Err(error), true) => Err(Stop::error(&error, format_args!("C2: a replay of {who}"))),
            (Ok(None) | Err(_), false) => {
                self.outcome("refused");
                Ok(())
            }
        }
    }

    /// Has a request that waits ask once more, and gives up its first call: its place stays.
    async fn replay_a_wait(&mut self, at: usize) -> Verdict {
        let who = self.who(at);
        self.tell(format!("{who} asks again, and its first call is given up"));
        let first = self.asked[at].waits.take();
        self.asked[at].waits = Some(self.ask_to_wait(at));
        self.cx.sleep(self.room).await;
        first.iter().for_each(JoinHandle::abort);
        Ok(())
    }

    fn ask_to_wait(&self, at: usize) -> JoinHandle<Waited> {
        let (client, request) = (Arc::clone(self.client(at)), self.asked[at].request.clone());
        let clock = self.cx.clock.clone();
        tokio::spawn(async move { (client.acquire(&request).await, clock.now()) })
    }

    async fn renew(&mut self, step: Step) -> Verdict {
        let Some(at) = self.pick(step, |asked| asked.held.is_some()) else { return Ok(()) };
        let (who, Some(lease)) = (self.who(at), self.lease(at)) else { return Ok(()) };
        self.tell(format!("{who} renews"));
        if self.holds(at) {
            return self.renew_live(at).await;
        }
        match lease.renew().await {
            Ok(_) => {
                Err(Stop::failed(format!("C6: the grant of {who} has ended, and was renewed")))
            }
            Err(Error::Lost { .. }) => {
                self.outcome("lost");
                Ok(())
            }
            Err(error) => {
                Err(Stop::error(&error, format_args!("C6: a renewal of {who}, which has ended")))
            }
        }
    }

    /// Renews a grant that is live.
    async fn renew_live(&mut self, at: usize) -> Verdict {
        let Some(lease) = self.lease(at) else { return Ok(()) };
        let term = lease.renew().await.map_err(|error| {
            let who = self.who(at);
            Stop::error(&error, format_args!("C6, C11: {who} holds, and cannot renew"))
        })?;
        self.renewed(at, term)
    }

    async fn release(&mut self, step: Step) -> Verdict {
        let Some(at) = self.pick(step, |asked| asked.held.is_some()) else { return Ok(()) };
        if self.holds(at) {
            return self.release_live(at).await;
        }
        let (who, Some(lease)) = (self.who(at), self.lease(at)) else { return Ok(()) };
        self.tell(format!("{who} releases"));
        let released = lease.release().await;
        match &released {
            Ok(()) | Err(Error::Lost { .. }) => {
                let hides = released.is_ok() && self.asked[at].is_revoked;
                require!(!hides, "C16: {who} was revoked, and its release does not tell");
                self.asked[at].is_revoked = false;
                self.outcome("it had ended before");
                Ok(())
            }
            Err(error) => {
                Err(Stop::error(error, format_args!("C6: a release of {who}, which has ended")))
            }
        }
    }

    /// Releases a grant that is live, and sees the next waiter granted.
    pub(super) async fn release_live(&mut self, at: usize) -> Verdict {
        let (who, Some(lease)) = (self.who(at), self.lease(at)) else { return Ok(()) };
        self.tell(format!("{who} releases"));
        let released = lease.release().await;
        released.map_err(|error| {
            Stop::error(&error, format_args!("C6: {who} holds, and cannot release"))
        })?;
        self.ended(at).await
    }

    async fn withdraw(&mut self, step: Step) -> Verdict {
        let Some(at) = self.pick_there(step) else { return Ok(()) };
        let (who, name) = (self.who(at), self.asked[at].name);
        self.tell(format!("{who} is withdrawn"));
        self.client(at).withdraw(&self.asked[at].request).await?;
        if let Some(waits) = self.asked[at].waits.take() {
            let what = format!("C9: {who} was withdrawn, and its wait ends");
            let (ended, _) = self.cx.by(self.cx.wake_up(), &what, waits).await??;
            require!(ended.is_err(), "C9: {who} was withdrawn, and is granted");
            self.names[name].queue.retain(|other| *other != at);
        }
        if self.holds(at) { self.ended(at).await } else { Ok(()) }
    }

    /// Asks for a held name as late as it must still be refused.
    async fn probe(&mut self, step: Step) -> Verdict {
        let name = step.name;
        let Some((least, _)) = self.ends_of(name) else { return Ok(()) };
        let late = least.saturating_sub(self.room * 3);
        if !self.is_soon(late) || late < self.now() {
            return Ok(());
        }
        self.tell("time passes until shortly before a term ends");
        self.pass(late).await?;
        if self.ends_of(name).is_some_and(|(now, _)| now == least) {
            self.attempt(step).await?;
            self.inspect(step).await?;
        }
        Ok(())
    }

    fn is_soon(&self, at: Instant) -> bool {
        let most = Duration::from_secs(if self.cx.is_virtual() { 3600 } else { 4 });
        at <= self.now().saturating_add(most)
    }

    async fn run_out(&mut self, step: Step) -> Verdict {
        match self.ends_of(step.name) {
            Some((least, most)) if self.is_soon(most) => self.pass(least).await,
            _ => Ok(()),
        }
    }

    async fn pause(&mut self, step: Step) -> Verdict {
        let pause = Duration::from_millis(u64::try_from(step.wish % 40).unwrap_or(1));
        self.tell(format!("{pause:?} pass"));
        self.pass(self.now().saturating_add(pause)).await
    }

    /// Lets time pass while all that hold renew.
    async fn hold(&mut self, step: Step) -> Verdict {
        let long = [Duration::from_secs(90), Duration::from_secs(300), Duration::from_secs(3600)];
        let long = if self.cx.is_virtual() { long[step.wish % 3] } else { self.cx.ttl() };
        // Waiters that poll take the machine's time for each hour.
        let poll = self.cx.poll();
        let long = if poll.is_zero() { long } else { long.min(poll * POLLS) };
        let holders: Vec<_> = self.names.iter().filter_map(|name| name.holder).collect();
        if holders.is_empty() {
            return Ok(());
        }
        // What is left of each term when its turn comes is more than a step takes.
        let calls = self.room * u32::try_from(holders.len() + 2).unwrap_or(u32::MAX);
        let ttl = holders.iter().map(|at| self.asked[*at].request.ttl()).min();
        let every = ttl.unwrap_or(long).min(long).saturating_sub(calls) / 3;
        if every.is_zero() {
            return Ok(());
        }
        let end = self.now().saturating_add(long);
        self.tell(format!("{long:?} pass, in which the holders renew every {every:?}"));
        while self.now() < end {
            for at in &holders {
                self.renew_live(*at).await?;
            }
            self.pass(self.now().saturating_add(every)).await?;
        }
        Ok(())
    }

    /// Ends all, and lets time pass.
    async fn idle(&mut self, step: Step) -> Verdict {
        let idle = [Duration::from_secs(70), Duration::from_secs(600), Duration::from_secs(7200)];
        let idle =
            if self.cx.is_virtual() { idle[step.wish % 3] } else { Duration::from_millis(50) };
        for name in 0..self.names.len() {
            self.give_back(name).await?;
        }
        self.tell(format!("{idle:?} pass, in which no request holds"));
        self.pass(self.now().saturating_add(idle)).await
    }
}
