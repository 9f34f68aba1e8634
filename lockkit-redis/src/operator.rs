//! What an operator asks of Redis.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::LONGEST_CALL;
use lockkit_core::{
    Applied, Clock, Error, FencingToken, Holder, Inspection, LockName, Operator, Result,
};

use crate::client::Client;
use crate::connection::Answered;
use crate::protocol::{INSPECT, REVOKE, Script, keys, milliseconds, name_of, texts, yes};

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        self.catch_up(name).await?;
        let answer = self.look(name, &INSPECT, &[]).await.value?;
        let parts = texts(&answer)?;
        let part = |n: usize| parts.get(n).map(String::as_str).unwrap_or_default();
        let mut holders = Vec::new();
        if !part(0).is_empty() {
            let mut holder = Holder::new(part(4));
            holder.expires_in = milliseconds(part(1));
            let token: Option<u64> = part(3).parse().ok();
            holder.token =
                token.and_then(|token| FencingToken::with_base(self.token_base, token).ok());
            holder.age = part(5).parse().ok().map(Duration::from_micros);
            holders.push(holder);
        }
        Ok(Inspection::new(name.clone(), holders, part(2).parse().ok()))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let clock = Clock::system();
        let mut names = BTreeSet::new();
        let mut cursor = String::from("0");
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(format!("{}*", literal(&self.prefix)));
            scan.arg("COUNT").arg(1000).arg("TYPE").arg("string");
            let (next, found): (String, Vec<String>) =
                self.commands.command(&clock, LONGEST_CALL, &scan).await?;
            let found = found.iter().filter_map(|found| name_of(&self.prefix, found));
            names.extend(found.filter(|name| {
                name.as_str().starts_with(prefix) && after.is_none_or(|past| name > past)
            }));
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        let mut seen = Vec::new();
        for name in names {
            if seen.len() >= limit {
                break;
            }
            let found = self.inspect(&name).await?;
            // It may have ended since the scan.
            if !found.holders.is_empty() || found.waiters != Some(0) {
                seen.push(found);
            }
        }
        Ok(seen)
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let Some(native) = token.as_u64().checked_sub(self.token_base) else { return Ok(false) };
        self.catch_up(name).await?;
        let answer = self.look(name, &REVOKE, &[&native.to_string()]).await;
        let is_ended = yes(&answer.value?)?;
        if !is_ended && answer.may_arrive {
            let unclear = "a revocation that was sent twice found no such grant the second time";
            return Err(Error::unavailable(Applied::Maybe, unclear));
        }
        Ok(is_ended)
    }
}

impl Client {
    /// Completes when the server knows what was handed on here, or with the time for a call.
    async fn catch_up(&self, name: &LockName) -> Result<()> {
        let Some(cohort) = self.cohorts.latest(name) else { return Ok(()) };
        let clock = Clock::system();
        tokio::select! {
            caught_up = cohort.caught_up(self) => caught_up,
            () = clock.sleep(LONGEST_CALL) => Ok(()),
        }
    }

    async fn look(&self, name: &LockName, script: &Script, args: &[&str]) -> Answered {
        let lock = keys(&self.prefix, name);
        self.commands.script(&Clock::system(), LONGEST_CALL, script, &lock, args).await
    }
}

/// A prefix that a pattern takes as it stands.
fn literal(prefix: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^');
    prefix.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
