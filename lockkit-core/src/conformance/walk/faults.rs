//! What happens to a client and to its requests: it is gone without a word, or one comes very late.

use tokio::task::JoinHandle;

use super::step::Step;
use super::world::World;
use crate::conformance::faults::Way;
use crate::conformance::stop::{Stop, Verdict};
use crate::{Error, Instant};

impl World<'_> {
    /// Drops a client without a word, and waits until the store has let go of what it held and waited for (C11).
    /// Another client takes its place.
    pub(super) async fn crash(&mut self, step: Step) -> Verdict {
        let (client, now) = (step.client, self.now());
        self.tell(format!("client {} is gone without a word, and another comes", client + 1));
        let mut until = now;
        for at in 0..self.asked.len() {
            if self.asked[at].client != client || self.asked[at].is_gone {
                continue;
            }
            let (name, holds) = (self.asked[at].name, self.holds(at));
            let asked = &mut self.asked[at];
            asked.is_gone = true;
            let waits = asked.waits.take();
            waits.iter().for_each(JoinHandle::abort);
            // Its last sign of life was now at the latest.
            let most = now.saturating_add(asked.request.ttl() + self.cx.expiry_slack());
            if let Some(held) = &mut asked.held {
                held.let_go();
                let ends = (now, held.ends.map_or(most, |(_, end)| end.max(most)));
                held.ends = Some(ends).filter(|_| holds);
            }
            if waits.is_some() || holds {
                self.names[name].queue.retain(|other| *other != at);
                until = until.max(most);
            }
        }
        self.clients.replace(self.cx, client).await?;
        for name in 0..self.names.len() {
            self.let_go(name, until).await?;
        }
        self.pass(self.now()).await
    }

    /// Waits until nothing of clients that are gone is left at a name that none waits for.
    async fn let_go(&mut self, name: usize, until: Instant) -> Verdict {
        let is_gone = |at: usize| self.asked[at].is_gone;
        let held = self.names[name].holder.filter(|at| is_gone(*at));
        let waited = (0..self.asked.len()).any(|at| is_gone(at) && self.asked[at].name == name);
        if !self.names[name].queue.is_empty() || !waited {
            return Ok(());
        }
        let token = held.and_then(|at| self.asked[at].held.as_ref()).map(|held| held.token);
        let lock = self.names[name].name.clone();
        let Some(operator) = self.cx.provider.operator() else {
            self.cx.clock.sleep_until(until).await;
            return Ok(());
        };
        loop {
            let seen = operator.inspect(&lock).await?;
            let holds = seen.holders.iter().any(|holder| token.is_some() && holder.token == token);
            if !holds && seen.waiters.unwrap_or(0) == 0 {
                break;
            }
            if self.now() >= until {
                let who = format!("C11: a client is gone, and is left at {:?}", self.tails[name]);
                return Err(Stop::late(format!("{who}: {seen:?}")));
            }
            self.cx.sleep(self.room / 4).await;
        }
        if held.is_some() {
            self.names[name].holder = None;
        }
        Ok(())
    }

    /// Asks for a held name over connections that hold up what is sent, gives that up, and withdraws it over others.
    pub(super) async fn send_late(&mut self, step: Step) -> Verdict {
        let Some(link) = self.clients.link(step.client) else { return Ok(()) };
        if self.names[step.name].holder.is_none() || self.cx.ends_with_connection() {
            return Ok(());
        }
        let Some(at) = self.ask(step)? else { return Ok(()) };
        let (who, request) = (self.who(at), self.asked[at].request.clone());
        self.tell(format!("{who} tries, is held up on the way, and is withdrawn"));
        link.hold_old(Way::Requests).await?;
        let tried = self.client(at).try_acquire(&request);
        match self.cx.by(self.cx.call_limit(), "C12: a call has a limit", tried).await? {
            Ok(None) | Err(Error::Unavailable { .. }) => {}
            Ok(Some(grant)) => {
                self.pass(self.now()).await?;
                self.granted(at, grant)?;
            }
            Err(error) => return Err(Stop::error(&error, format_args!("C12, C15: {who} tries"))),
        }
        let client = self.client(at);
        self.cx.answered("C9: a withdrawal", || client.withdraw(&request)).await?;
        if self.holds(at) { self.ended(at).await } else { Ok(()) }
    }

    /// Delivers what was held up: it changes nothing (C9).
    pub(super) async fn deliver_late(&mut self, step: Step) -> Verdict {
        let Some(link) = self.clients.link(step.client) else { return Ok(()) };
        self.tell("what was held up is delivered");
        link.deliver().await?;
        self.cx.sleep(self.cx.arrival()).await;
        Ok(())
    }
}
