//! Whether a cluster is fit for locks: what is checked once, when connecting.

use std::time::Duration;

use etcd_client::{
    Client as Driver, Compare, CompareOp, GetOptions, PutOptions, ResponseHeader, Txn, TxnOp,
};
use lockkit_core::kit::{LONGEST_CALL, is_at_least, wall_micros};
use lockkit_core::{Clock, Error, Result, TtlRange};

use crate::endpoints::Endpoints;
use crate::error::Failure;
use crate::mark::{MOST_BASE, Mark};
use crate::protocol::{Keys, garbled, reads, send};

/// What a cluster with its settings at their defaults grants.
pub(crate) const TTLS: TtlRange = TtlRange {
    min: Duration::from_secs(2),
    max: TtlRange::ANY.max,
    granularity: Duration::from_secs(1),
};

/// Refuses a cluster that would break what the provider declares. Returns the ttls that the cluster
/// grants, and its mark.
pub(crate) async fn check_server(
    endpoints: &Endpoints,
    keys: &Keys,
    is_tls: bool,
) -> Result<(TtlRange, Mark)> {
    let clock = Clock::system();
    // Each of these calls has a limit, and so have they all.
    let end = clock.now().saturating_add(LONGEST_CALL * 2);
    let left = || end.saturating_since(clock.now()).min(LONGEST_CALL);
    let status = |client: Driver| async move { client.maintenance_client().status().await };
    let status = loop {
        let answer = endpoints.call(&clock, left(), status).await;
        // A member that refuses our certificate says so behind the handshake, and closes: chance decides
        // which of the two is seen.
        let is_closed = is_tls && matches!(answer.value, Err(Failure::Unclear(_)));
        if !is_closed || left() < LONGEST_CALL {
            break answer.into_result()?;
        }
        clock.sleep(LONGEST_CALL / 100).await;
    };
    check_version(status.version())?;
    let revision = status.header().map_or(0, ResponseHeader::revision);
    // Before any key of ours is there.
    let mark = mark(endpoints, keys, revision, &clock, left()).await?;
    // The shortest lease there is shows the least ttl, and whether we may write and read.
    let grant = |client: Driver| async move { client.lease_client().grant(1, None).await };
    let granted = endpoints.call(&clock, left(), grant).await.into_result()?;
    let lease = granted.id();
    let probe = Txn::new().and_then(probe(keys, Some(lease)));
    endpoints.call(&clock, left(), send(&probe)).await.into_result()?;
    let revoke = |client: Driver| async move { client.lease_client().revoke(lease).await };
    let revoked = endpoints.call(&clock, left(), revoke).await;
    // Sent again, it finds what the first sending did.
    if !matches!(revoked.value, Err(Failure::NoLease)) {
        revoked.into_result()?;
    }
    let least = u64::try_from(granted.ttl()).unwrap_or(1).max(1);
    Ok((TtlRange { min: Duration::from_secs(least), ..TTLS }, mark))
}

/// What shows whether we may write and read: a put, on this lease, and a read of all of our keys.
pub(crate) fn probe(keys: &Keys, lease: Option<i64>) -> [TxnOp; 2] {
    let options = lease.map(|lease| PutOptions::new().with_lease(lease));
    let put = TxnOp::put(keys.guard(lease.unwrap_or(0), 0), "", options);
    let get = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
    [put, TxnOp::get(keys.range(), Some(get))]
}

/// What is never so, of a key of ours.
pub(crate) fn never(keys: &Keys) -> Compare {
    Compare::version(keys.guard(0, 0), CompareOp::Less, 0)
}

/// The cluster's mark; the first client of all puts it.
async fn mark(
    endpoints: &Endpoints,
    keys: &Keys,
    revision: i64,
    clock: &Clock,
    limit: Duration,
) -> Result<Mark> {
    let own = Mark::new(keys.mark(), first_base(revision))?;
    let answer = endpoints.call(clock, limit, send(&own.put())).await.into_result()?;
    if answer.succeeded() {
        return Ok(own);
    }
    let found = reads(&answer);
    let found = found.first().ok_or_else(garbled)?;
    Mark::check_layout(found, "the etcd cluster")?;
    let there = found.kvs().first().ok_or_else(garbled)?;
    Mark::found(keys.mark(), there.value())
}

/// The base of the tokens of a cluster that no client has used yet, at this revision: they begin at the time in
/// microseconds, so that a move from another store to this one only ever raises a name's tokens.
fn first_base(revision: i64) -> u64 {
    wall_micros().saturating_sub(u64::try_from(revision).unwrap_or(0)).min(MOST_BASE)
}

/// Refuses what lacks a request that we send.
pub(crate) fn check_version(version: &str) -> Result<()> {
    if !is_at_least(version, (3, 4)) {
        return Err(Error::rejected(format!("etcd {version}"), "use etcd 3.4 or newer"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_3_4_is_refused_by_its_version() {
        for version in ["3.4.23", "3.4.0", "3.5.13", "3.6.0-rc.1", "4.0.0"] {
            check_version(version).expect(version);
        }
        for version in ["3.3.27", "3.2.0", "2.3.8", ""] {
            let error = check_version(version).expect_err(version).to_string();
            assert!(error.contains(version) && error.contains("3.4"), "{error}");
        }
    }
}
