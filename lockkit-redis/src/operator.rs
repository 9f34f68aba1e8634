//! What an operator asks of Redis.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use lockkit_core::kit::LONGEST_CALL;
use lockkit_core::{
    Applied, Clock, Error, Family, FencingToken, Holder, Inspection, Kind, LockName, Operator,
    Permits, Result,
};

use crate::client::Client;
use crate::connection::Answered;
use crate::error::is_other_data;
use crate::protocol::{
    Held, SEMAPHORE, escaped, key_of, milliseconds, name_of, number, texts, yes,
};
use crate::scripts::{FORGET, OfFamily, RESIZE, Script};

/// How many keys the server looks at for one step of a scan, and how many names are looked into at once.
const KEYS_AT_ONCE: usize = 5_000;
const AT_ONCE: usize = 64;
/// A little less than the driver waits for it.
const LONGEST_SEARCH: Duration = Duration::from_millis(1_800);

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let answer = self.look(name, OfFamily::of(name).inspect, &[""]).await.value?;
        let parts = texts(&answer)?;
        Ok(match name.family() {
            Family::Semaphore => self.seen_of_semaphore(name, &parts),
            _ => self.seen_of_lock(name, &parts),
        })
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
        let script = OfFamily::of(name).revoke;
        let answer = self.look(name, script, &[&format!("{native:016}")]).await;
        let is_ended = yes(&answer.value?)?;
        if !is_ended && answer.may_arrive {
            let unclear = "a revocation that was sent twice found no such grant the second time";
            return Err(Error::unavailable(Applied::Maybe, unclear));
        }
        Ok(is_ended)
    }

    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        let limit = permits.wished();
        let answer = self.look(name, &RESIZE, &[&limit.to_string()]).await;
        let before = u32::try_from(number(&answer.value?)?).unwrap_or_default();
        if before == limit && answer.may_arrive {
            let unclear = "a resize that was sent twice found the new limit the second time";
            return Err(Error::unavailable(Applied::Maybe, unclear));
        }
        Ok(before)
    }

    /// Last tokens of locks expire by themselves, so only limits of semaphores are forgotten.
    async fn forget(&self, prefix: &str, unused_for: Duration) -> Result<u64> {
        let (mut names, mut forgotten) = (BTreeSet::new(), 0);
        let pattern = self.pattern(prefix, SEMAPHORE);
        self.scan(&pattern, |found| names.extend(found)).await?;
        let unused_for = unused_for.as_millis().to_string();
        let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
        for names in names.chunks(AT_ONCE) {
            let (args, script) = ([&*unused_for], &FORGET);
            let asked = names.iter().map(|name| self.look(name, script, &args));
            for answer in join_all(asked).await {
                match answer.value.and_then(|answer| yes(&answer)) {
                    Ok(is_forgotten) => forgotten += u64::from(is_forgotten),
                    Err(error) if is_other_data(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(forgotten)
    }
}

impl Client {
    fn seen_of_lock(&self, name: &LockName, parts: &[String]) -> Inspection {
        let part = |n: usize| parts.get(n).map(String::as_str).unwrap_or_default();
        let number = |n: usize| part(n).parse::<u64>().ok();
        let seen = |held: Option<Held<'_>>, left: &str| {
            // A client of before the layout of today keeps beside the lock what the value tells now.
            let mut holder = Holder::new(held.as_ref().map_or(part(5), |held| held.label));
            holder.kind = held.as_ref().map_or(Kind::Exclusive, |held| held.kind);
            let (token, since) =
                held.map_or((number(4), number(6)), |it| (Some(it.token), Some(it.token)));
            self.grown(holder, token, (since, number(3)), left)
        };
        let holders = match part(4) {
            "shared" => {
                let members = parts[5..].chunks_exact(2);
                members.map(|member| seen(Held::of(&member[0]), &member[1])).collect()
            }
            _ if part(1) == "-2" => Vec::new(),
            _ => vec![seen(Held::of(part(0)), part(1))],
        };
        Inspection::new(name.clone(), holders, part(2).parse().ok())
    }

    fn seen_of_semaphore(&self, name: &LockName, parts: &[String]) -> Inspection {
        let number = |n: usize| parts.get(n).and_then(|part| part.parse::<u64>().ok());
        let seen = |permit: &[String]| {
            let (held, slot) = (Held::of(&permit[0])?, permit[2].parse().ok()?);
            let holder = Holder::new(held.label).with_slot(slot);
            let token = Some(held.token);
            Some(self.grown(holder, token, (token, number(2)), &permit[1]))
        };
        let permits = parts.get(3..).unwrap_or_default().chunks_exact(3);
        let holders = permits.filter_map(seen).collect();
        let limit = number(0).and_then(|limit| u32::try_from(limit).ok());
        let waiters = number(1).and_then(|waiters| usize::try_from(waiters).ok());
        Inspection::new(name.clone(), holders, waiters)
            .with_permits(limit.filter(|limit| *limit > 0))
    }

    /// The holder with its token, how old its grant is now, and how much of its ttl is left.
    fn grown(
        &self,
        mut holder: Holder,
        token: Option<u64>,
        (since, now): (Option<u64>, Option<u64>),
        left: &str,
    ) -> Holder {
        holder.token = token.and_then(|token| FencingToken::with_base(self.token_base, token).ok());
        let age = now.zip(since).map(|(now, since)| now.saturating_sub(since));
        holder.age = age.map(Duration::from_micros);
        holder.expires_in = milliseconds(left);
        holder
    }

    /// The names that are held or waited for by clients of lockkit, as a scan finds them: what else lies in
    /// the database is not looked at.
    async fn in_use(&self, prefix: &str, after: Option<&LockName>) -> Result<BTreeSet<LockName>> {
        let (mut names, mut used) = (BTreeSet::new(), BTreeSet::new());
        // A lock that is held has a last token, and one that is waited for has a queue; clients of before named
        // these `f` and `q`. A semaphore has its grants' ends, and its queue.
        let pattern = self.pattern(prefix, "[tnfqp]*");
        self.scan(&pattern, |found| {
            for (name, part) in found {
                if !name.as_str().starts_with(prefix) || after.is_some_and(|past| name <= *past) {
                    continue;
                }
                match part {
                    Part::Use => names.insert(name),
                    Part::LastToken => used.insert(name),
                    Part::Limit => false,
                };
            }
        })
        .await?;
        // A last token stays for days.
        let used: Vec<_> = used.into_iter().filter(|name| !names.contains(name)).collect();
        for used in used.chunks(KEYS_AT_ONCE) {
            let keys: Vec<_> = used.iter().map(|name| key_of(&self.prefix, name)).collect();
            let keys = keys.iter().map(String::as_str);
            let held = self.commands.exist(&Clock::system(), LONGEST_CALL, keys).await?;
            names.extend(used.iter().zip(held).filter(|(_, held)| *held).map(|it| it.0.clone()));
        }
        Ok(names)
    }

    /// The keys beside a lock that end so, of all whose names begin with this prefix.
    fn pattern(&self, prefix: &str, end: &str) -> String {
        format!("{{{}*}}:{end}", literal(&escaped(&self.prefix, prefix)))
    }

    /// Gives the names to which the keys belong that match, and what the keys tell of them.
    async fn scan(&self, pattern: &str, mut take: impl FnMut(Vec<(LockName, Part)>)) -> Result<()> {
        let clock = Clock::system();
        let (until, mut cursor) = (clock.now().saturating_add(LONGEST_SEARCH), 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(KEYS_AT_ONCE);
            let (next, found): (u64, Vec<Vec<u8>>) =
                self.commands.command(&clock, LONGEST_CALL, &scan).await?;
            take(found.iter().filter_map(|key| part_of(&self.prefix, key)).collect());
            cursor = next;
            if cursor == 0 {
                return Ok(());
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
        let key = key_of(&self.prefix, name);
        self.commands.script(&Clock::system(), LONGEST_CALL, script, &[&key], args).await
    }
}

/// What a key beside a lock tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// It is held or waited for.
    Use,
    /// It may be held.
    LastToken,
    /// It is a semaphore.
    Limit,
}

/// The name to which the key of a part belongs, and what that part tells.
fn part_of(prefix: &str, key: &[u8]) -> Option<(LockName, Part)> {
    let (lock, part) = std::str::from_utf8(key).ok()?.strip_prefix('{')?.rsplit_once("}:")?;
    let (family, part) = match part {
        "t" | "f" => (Family::Lock, Part::LastToken),
        "n" | "q" => (Family::Lock, Part::Use),
        "ps" | "pn" => (Family::Semaphore, Part::Use),
        SEMAPHORE => (Family::Semaphore, Part::Limit),
        _ => return None,
    };
    Some((name_of(prefix, lock, family)?, part))
}

/// A prefix that a pattern takes as it stands.
fn literal(prefix: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^');
    prefix.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
