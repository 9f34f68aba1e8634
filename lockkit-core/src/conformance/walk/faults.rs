//! What happens to a client and to its requests: it is gone without a word, or one comes very late.

use tokio::task::JoinHandle;

use super::step::Step;
use super::world::World;
use crate::conformance::faults::Way;
use crate::conformance::stop::{Stop, Verdict, require_in_time};
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
        // Where others wait, the next grant tells that the name was let go.
        let mut left: Vec<usize> =
            (0..self.names.len()).filter(|name| self.has_gone(*name)).collect();
        for name in &left {
            self.names[*name].holder.take_if(|at| self.asked[*at].is_gone);
        }
        loop {
            self.pass(self.now()).await?;
            left = self.not_let_go(left, until).await?;
            if left.is_empty() {
                return Ok(());
            }
            self.cx.sleep(self.room / 4).await;
        }
    }

    /// Whether clients that are gone used this name, and no request of another waits for it.
    fn has_gone(&self, name: usize) -> bool {
        let used = self.asked.iter().any(|asked| asked.is_gone && asked.name == name);
        used && self.names[name].queue.is_empty()
    }

    /// At which of these names something is left of clients that are gone.
    async fn not_let_go(&self, names: Vec<usize>, until: Instant) -> Verdict<Vec<usize>> {
        let Some(operator) = self.cx.provider.operator() else {
            return Ok(if self.now() < until { names } else { Vec::new() });
        };
        let mut left = Vec::new();
        for name in names {
            let holder = self.names[name].holder.and_then(|at| self.asked[at].held.as_ref());
            let token = holder.map(|held| held.token);
            let seen = operator.inspect(&self.names[name].name).await?;
            let others =
                seen.holders.iter().filter(|holder| token.is_none() || holder.token != token);
            if others.count() > 0 || seen.waiters.unwrap_or(0) > 0 {
                let what = format_args!("a client is gone, and is left at {:?}", self.tails[name]);
                require_in_time!(self.now() < until, "C11: {what}: {seen:?}");
                left.push(name);
            }
        }
        Ok(left)
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
        self.is_cut_off = true;
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
