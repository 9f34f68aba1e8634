//! What an operator can see and do in etcd.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client as Driver, GetOptions, GetResponse, Txn};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use lockkit_core::kit::LONGEST_CALL;
use lockkit_core::{Clock, FencingToken, Holder, Inspection, Kind, LockName, Operator, Result};

use crate::client::Client;
use crate::error::Failure;
use crate::own::delete;
use crate::protocol::{Contender, kinds, reads, send};

/// How many keys are listed with one request.
const PAGE: i64 = 1000;
/// How many leases are asked for at once.
const AT_ONCE: usize = 32;

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let queue = self.queue(name).await?;
        let (holding, waiting) = queue.split_at(Kind::holding(kinds(&queue)));
        let left = self.all_left(holding).await?;
        self.inspection(name.clone(), holding, waiting.len(), &left)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        // The store's order is that of the escaped names: all that may follow are read, and put
        // into ours.
        let mut queues: BTreeMap<LockName, Vec<Contender>> = BTreeMap::new();
        let range = self.keys.directories(prefix).into_bytes();
        let mut from = self.keys.directories_after(prefix, after).into_bytes();
        loop {
            let page = self.page(&range, &from).await?;
            for (name, contender) in page.kvs().iter().filter_map(|kv| self.keys.contender(kv)) {
                if name.as_str().starts_with(prefix) && after.is_none_or(|past| name > *past) {
                    queues.entry(name).or_default().push(contender);
                }
            }
            match page.kvs().last() {
                Some(last) if page.more() => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => break,
            }
        }
        let in_order = |(name, mut queue): (LockName, Vec<Contender>)| {
            queue.sort_unstable_by_key(|contender| contender.created);
            let waiting = queue.split_off(Kind::holding(kinds(&queue)));
            (name, queue, waiting.len())
        };
        let seen: Vec<_> = queues.into_iter().take(limit).map(in_order).collect();
        let left = self.all_left(seen.iter().flat_map(|(_, holding, _)| holding)).await?;
        seen.into_iter()
            .map(|(name, held, waiters)| self.inspection(name, &held, waiters, &left))
            .collect()
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let Some(native) = token.as_u64().checked_sub(self.token_base) else { return Ok(false) };
        // A waiter has a number too, but no grant; and another client's key is no grant of ours.
        let queue = self.queue(name).await?;
        let is_meant =
            |held: &&Contender| held.is_ours && u64::try_from(held.created) == Ok(native);
        let Some(holder) = queue[..Kind::holding(kinds(&queue))].iter().find(is_meant) else {
            return Ok(false);
        };
        let txn = delete(&holder.key, holder.created);
        let answer = self.endpoints.call(&Clock::system(), LONGEST_CALL, send(&txn)).await;
        // Sent twice, the second one may find what the first one did.
        let twice = answer.late;
        Ok(answer.into_result()?.succeeded() || twice)
    }
}

impl Client {
    /// The holder and the waiters, in their order.
    async fn queue(&self, name: &LockName) -> Result<Vec<Contender>> {
        let at = self.keys.directory(name);
        let txn = Txn::new().and_then([at.all()]);
        let answer = self.endpoints.call(&Clock::system(), LONGEST_CALL, send(&txn)).await;
        let found = reads(&answer.into_result()?);
        Ok(found.first().map(|found| at.contenders(found)).unwrap_or_default())
    }

    fn holder(&self, contender: &Contender, left: Duration) -> Result<Holder> {
        let mut holder = Holder::new(&*contender.label).with_kind(contender.kind);
        if contender.is_ours {
            let native = u64::try_from(contender.created).unwrap_or(0);
            holder = holder.with_token(FencingToken::with_base(self.token_base, native)?);
        }
        Ok(holder.with_expires_in(left))
    }

    fn inspection(
        &self,
        name: LockName,
        holding: &[Contender],
        waiters: usize,
        left: &HashMap<i64, Duration>,
    ) -> Result<Inspection> {
        let holder = |held: &Contender| {
            self.holder(held, left.get(&held.lease).copied().unwrap_or_default())
        };
        let holders = holding.iter().map(holder).collect::<Result<_>>()?;
        Ok(Inspection::new(name, holders, Some(waiters)))
    }

    /// How long each of the leases of these lives on if it is not renewed.
    async fn all_left(
        &self,
        holding: impl IntoIterator<Item = &Contender>,
    ) -> Result<HashMap<i64, Duration>> {
        let leases: BTreeSet<i64> = holding.into_iter().map(|held| held.lease).collect();
        let left = |lease| async move { self.left(lease).await.map(|left| (lease, left)) };
        let left = stream::iter(leases.into_iter().map(left)).buffer_unordered(AT_ONCE);
        left.try_collect().await
    }

    /// How long a lease lives on if it is not renewed.
    async fn left(&self, lease: i64) -> Result<Duration> {
        let ask =
            |client: Driver| async move { client.lease_client().time_to_live(lease, None).await };
        let answer = self.endpoints.call(&Clock::system(), LONGEST_CALL, ask).await;
        let left = match answer.value {
            // Whole seconds, rounded down there.
            Ok(left) if left.ttl() >= 0 => (left.ttl() + 1).min(left.granted_ttl()),
            Ok(_) | Err(Failure::NoLease) => 0,
            Err(failure) => return Err(failure.into_error(false)),
        };
        Ok(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    /// One page of the keys that begin with `range`, from `from` on.
    async fn page(&self, range: &[u8], from: &[u8]) -> Result<GetResponse> {
        let mut end = range.to_vec();
        while end.pop_if(|last| *last == u8::MAX).is_some() {}
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let get = |client: Driver| {
            let options = GetOptions::new().with_limit(PAGE);
            let options =
                if end.is_empty() { options.with_from_key() } else { options.with_range(&*end) };
            let from = if from.is_empty() { vec![0] } else { from.to_vec() };
            async move { client.kv_client().get(from, Some(options)).await }
        };
        self.endpoints.call(&Clock::system(), LONGEST_CALL, get).await.into_result()
    }
}
