//! What an operator sees of a quorum: what its members show together.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;

use super::{Quorum, seats};
use crate::kit::LONGEST_CALL;
use crate::{Applied, Error, FencingToken, Holder, Inspection, LockName, Operator, Result};

/// The members' answers, of those that answer: at least a majority.
impl Quorum {
    async fn of_members<'a, T, F>(&'a self, ask: impl Fn(&'a dyn Operator) -> F) -> Result<Vec<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let calls = self.members.iter().filter(|member| !member.is_silent()).filter_map(|member| {
            let call = ask(member.provider.operator()?);
            Some(tokio::time::timeout(LONGEST_CALL, call))
        });
        let (mut answers, mut failure) = (Vec::new(), None);
        for answer in join_all(calls).await {
            match answer {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(error)) => failure = Some(error),
                // No answer in time.
                Err(_) => {}
            }
        }
        if answers.len() >= seats::majority(self.members.len()) {
            return Ok(answers);
        }
        Err(failure.unwrap_or_else(|| {
            Error::unavailable(Applied::Maybe, "fewer than a majority of the members answered")
        }))
    }

    /// What the members show of one name.
    fn merged(&self, name: LockName, seen: &[Inspection]) -> Inspection {
        let mut by_token: BTreeMap<Option<FencingToken>, Vec<&Holder>> = BTreeMap::new();
        for holder in seen.iter().flat_map(|seen| &seen.holders) {
            by_token.entry(holder.token).or_default().push(holder);
        }
        let majority = seats::majority(self.members.len());
        let of_majority = |holders: &&mut Vec<&Holder>| holders.len() >= majority;
        let holders: Vec<Holder> = by_token
            .values_mut()
            .filter(of_majority)
            .filter_map(|holders| {
                // It holds until the q-th greatest deadline.
                holders.sort_by_key(|holder| std::cmp::Reverse(holder.expires_in));
                holders.get(majority - 1).map(|holder| (*holder).clone())
            })
            .collect();
        let held = |seen: &Inspection| {
            let is_whole =
                |holder: &&Holder| holders.iter().any(|whole| whole.token == holder.token);
            seen.holders.iter().filter(is_whole).count()
        };
        // A request that holds some members, but no majority, waits.
        let waiting = seen.iter().map(|seen| {
            let waiters = seen.waiters.unwrap_or(0);
            // The holder itself waits where it does not hold.
            (seen.holders.len() + waiters).saturating_sub(held(seen).max(holders.len()))
        });
        let waiters = waiting.max().unwrap_or(0);
        Inspection::new(name, holders, Some(waiters))
    }
}

#[async_trait]
impl Operator for Quorum {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let seen = self.of_members(|member| member.inspect(name)).await?;
        Ok(self.merged(name.clone(), &seen))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let lists = self.of_members(|member| member.list(prefix, after, limit)).await?;
        let mut names: BTreeMap<LockName, Vec<Inspection>> = BTreeMap::new();
        for seen in lists.into_iter().flatten() {
            names.entry(seen.name.clone()).or_default().push(seen);
        }
        let names = names.into_iter().take(limit);
        Ok(names.map(|(name, seen)| self.merged(name, &seen)).collect())
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let revoked = self.of_members(|member| member.revoke(name, token)).await?;
        Ok(revoked.into_iter().any(|revoked| revoked))
    }

    async fn forget(&self, prefix: &str, unused_for: Duration) -> Result<u64> {
        let forgotten = self.of_members(|member| member.forget(prefix, unused_for)).await?;
        Ok(forgotten.into_iter().max().unwrap_or(0))
    }
}
