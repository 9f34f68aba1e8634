//! What an operator asks of Redis.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use lockkit_core::kit::LONGEST_CALL;
use lockkit_core::{
    Applied, Clock, Error, FencingToken, Holder, Inspection, Kind, LockName, Operator, Result,
};

use crate::client::Client;
use crate::connection::Answered;
use crate::error::is_other_data;
use crate::protocol::{Held, INSPECT, REVOKE, Script, escaped, milliseconds, name_of, texts, yes};

/// How many keys the server looks at for one step of a scan, and how many names are looked into at once.
const KEYS_AT_ONCE: usize = 5_000;
const AT_ONCE: usize = 64;
/// A little less than the driver waits for it.
const LONGEST_SEARCH: Duration = Duration::from_millis(1_800);

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let answer = self.look(name, &INSPECT, &[""]).await.value?;
        let parts = texts(&answer)?;
        let part = |n: usize| parts.get(n).map(String::as_str).unwrap_or_default();
        let number = |n: usize| part(n).parse::<u64>().ok();
        let seen = |held: Option<Held<'_>>, left: &str| {
            // A client of before the layout of today keeps beside the lock what the value tells now.
            let mut holder = Holder::new(held.as_ref().map_or(part(5), |held| held.label));
            holder.expires_in = milliseconds(left);
            holder.kind = held.as_ref().map_or(Kind::Exclusive, |held| held.kind);
            let (token, since) =
                held.map_or((number(4), number(6)), |it| (Some(it.token), Some(it.token)));
            holder.token =
                token.and_then(|token| FencingToken::with_base(self.token_base, token).ok());
            let age = number(3).zip(since).map(|(now, since)| now.saturating_sub(since));
            holder.age = age.map(Duration::from_micros);
            holder
        };
        let holders = match part(4) {
            "shared" => {
                let members = parts[5..].chunks_exact(2);
                members.map(|member| seen(Held::of(&member[0]), &member[1])).collect()
            }
            _ if part(1) == "-2" => Vec::new(),
            _ => vec![seen(Held::of(part(0)), part(1))],
        };
        Ok(Inspection::new(name.clone(), holders, part(2).parse().ok()))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let mut seen = Vec::new();
        let names: Vec<_> = self.in_use(prefix, after).await?.into_iter().collect();
        for names in names.chunks(AT_ONCE) {
            let looks = names.iter().map(|name| self.inspect(name));
            for found in join_all(looks).await {
                match found {
                    // It may have ended since the scan.
                    Ok(found) if found.holders.is_empty() && found.waiters == Some(0) => {}
                    Ok(found) if seen.len() < limit => seen.push(found),
                    Ok(_) => {}
                    Err(error) if is_other_data(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            if seen.len() >= limit {
                break;
            }
        }
        Ok(seen)
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let Some(native) = token.as_u64().checked_sub(self.token_base) else { return Ok(false) };
        let answer = self.look(name, &REVOKE, &[&format!("{native:016}")]).await;
        let is_ended = yes(&answer.value?)?;
        if !is_ended && answer.may_arrive {
            let unclear = "a revocation that was sent twice found no such grant the second time";
            return Err(Error::unavailable(Applied::Maybe, unclear));
        }
        Ok(is_ended)
    }
}

impl Client {
    /// The names that are held or waited for by clients of lockkit, as a scan finds them: what else lies in
    /// the database is not looked at.
    async fn in_use(&self, prefix: &str, after: Option<&LockName>) -> Result<BTreeSet<LockName>> {
        let clock = Clock::system();
        let until = clock.now().saturating_add(LONGEST_SEARCH);
        // A lock that is held has a last token, and one that is waited for has a queue; clients of before named
        // these `f` and `q`.
        let pattern = format!("{{{}*}}:[tnfq]", literal(&escaped(&self.prefix, prefix)));
        let (mut names, mut cursor) = (BTreeSet::new(), 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(KEYS_AT_ONCE);
            let (next, found): (u64, Vec<Vec<u8>>) =
                self.commands.command(&clock, LONGEST_CALL, &scan).await?;
            let mut used = Vec::new();
            for key in &found {
                let Some((lock, part)) = lock_of(key) else { continue };
                let Some(name) = name_of(&self.prefix, lock).filter(|name| {
                    name.as_str().starts_with(prefix) && after.is_none_or(|past| name > past)
                }) else {
                    continue;
                };
                if matches!(part, 'n' | 'q') {
                    names.insert(name);
                } else {
                    used.push((lock, name));
                }
            }
            // A last token stays for days.
            let locks = used.iter().map(|(lock, _)| *lock);
            let held = self.commands.exist(&clock, LONGEST_CALL, locks).await?;
            names.extend(used.into_iter().zip(held).filter(|(_, held)| *held).map(|it| it.0.1));
            cursor = next;
            if cursor == 0 {
                return Ok(names);
            }
            if clock.now() >= until {
                let why = format!(
                    "the database holds too many keys to be searched for locks within \
                     {LONGEST_SEARCH:?}: keep locks in one of their own, which needs no more than a \
                     number in the URL"
                );
                return Err(Error::unavailable(Applied::No, why));
            }
        }
    }

    async fn look(&self, name: &LockName, script: &Script, args: &[&str]) -> Answered {
        let lock = escaped(&self.prefix, name.as_str());
        self.commands.script(&Clock::system(), LONGEST_CALL, script, &[&lock], args).await
    }
}

/// The lock's key in the key of its last token or its queue, and which of these it is.
fn lock_of(key: &[u8]) -> Option<(&str, char)> {
    let key = std::str::from_utf8(key).ok()?.strip_prefix('{')?;
    let part = key.chars().last().filter(|part| matches!(part, 't' | 'n' | 'f' | 'q'))?;
    Some((key.strip_suffix(part)?.strip_suffix("}:")?, part))
}

/// A prefix that a pattern takes as it stands.
fn literal(prefix: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^');
    prefix.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
