//! What is amiss with the cluster, as a client that has connected finds it at any time: it changes no key.
//!
//! What makes connecting refuse a cluster is decided by `server` and `members`, and told here in the same words.

use std::net::IpAddr;

use etcd_client::{Client as Driver, MemberListResponse, StatusResponse, Txn};
use futures_util::future::{join, join_all};
use lockkit_core::kit::{LONGEST_CALL, examined, is_this_machine, refusal};
use lockkit_core::{Applied, Clock, Error, Finding, Result, Severity};

use crate::EtcdConfig;
use crate::client::Client;
use crate::error::{Failure, ROOM};
use crate::member_client::MemberClient;
use crate::protocol::send;
use crate::server::{TTLS, check_version, never, probe};

/// etcd's own quota; before 3.6 no answer tells another one.
const QUOTA: i64 = 2 << 30;
/// Of how many changes a member that applies its log too slowly refuses more.
const BEHIND: u64 = 5_000;
const START: &str = "start it, or mend the way to it; a member that is gone for good is to be removed from the \
    cluster and from the list";
const CORRUPT: &str = "stop the clients, and restore the cluster from a backup of before";

/// What is amiss, the worst first.
pub(crate) async fn examine(client: &Client) -> Result<Vec<Finding>> {
    // Each of its calls ends a little earlier by itself, and gives up a client that is stuck.
    let limit = LONGEST_CALL + LONGEST_CALL / 20;
    let silent = || {
        let names = client.endpoints.names();
        Error::unavailable(Applied::No, format!("{names} gave no answer within {limit:.1?}"))
    };
    examined(limit, all(client), silent).await
}

async fn all(client: &Client) -> Result<Vec<Finding>> {
    let endpoints = &client.endpoints;
    let list = |driver: Driver| async move { driver.cluster_client().member_list().await };
    let clock = Clock::system();
    let members = join_all((0..endpoints.count()).map(|member| status(client, member)));
    let list = endpoints.call(&clock, LONGEST_CALL, list);
    let (members, (may, list)) = join(members, join(may_use(client), list)).await;
    // A member that may not tell is no worse for it.
    let list = list.value.ok();
    let mut found = Vec::new();
    let mut silent = Vec::new();
    let several = |list: &MemberListResponse| list.members().len() > 1;
    let is_cluster = list.as_ref().map_or(endpoints.count() > 1, several);
    for (member, told) in members.into_iter().enumerate() {
        let url = &endpoints.members[member].url;
        match told {
            Ok(status) => of_status(url, &status, is_cluster, &mut found)?,
            Err(Failure::Foreign(error)) => found.push(refusal(error)?),
            Err(Failure::Refused(error) | Failure::Full(error)) => {
                push(&mut found, refusal(error)?);
            }
            Err(failure) => silent.push(failure),
        }
    }
    if silent.len() == endpoints.count() {
        let mut said = Vec::new();
        let last = silent.into_iter().map(|failure| failure.beside(&mut said)).last();
        return match last.map(|failure| failure.into_error(false).with_applied(Applied::No)) {
            // Their certificates, or ours.
            Some(error @ (Error::Rejected { .. } | Error::Invalid { .. })) => {
                Ok(vec![refusal(error)?])
            }
            Some(error) => Err(error),
            None => Ok(found),
        };
    }
    for failure in silent {
        let (what, remedy) = match failure {
            Failure::Mistrusted(Error::Rejected { what, remedy, .. }) => (what, remedy),
            failure => (failure.text(), START.to_owned()),
        };
        let what = format!("a member does not serve: {what}");
        found.push(Finding::new(Severity::Warning, what, remedy));
    }
    match may {
        Ok(()) => {}
        Err(Error::Unavailable { cause, .. }) => found.push(Finding::new(
            Severity::Danger,
            format!("the cluster takes no requests: {cause}"),
            "have a majority of its members run, and reach each other",
        )),
        Err(error) => push(&mut found, refusal(error)?),
    }
    found.extend(list.and_then(|list| of_members(&endpoints.config, &list)));
    found.extend(of_ttls(client));
    found.extend(of_wire(&endpoints.config));
    Ok(found)
}

/// What a member tells of itself; asked twice where the connection has ended meanwhile.
async fn status(client: &Client, member: usize) -> Result<StatusResponse, Failure> {
    let (clock, endpoints) = (Clock::system(), &client.endpoints);
    let end = clock.now().saturating_add(LONGEST_CALL);
    let ask =
        |client: MemberClient| async move { client.driver.maintenance_client().status().await };
    let first = endpoints.once(member, &clock, LONGEST_CALL, LONGEST_CALL, ask).await;
    let left = end.saturating_since(clock.now());
    match first {
        Err(Failure::Unclear(_) | Failure::Unserved(_) | Failure::Mistrusted(_))
            if !left.is_zero() =>
        {
            endpoints.once(member, &clock, left, left, ask).await
        }
        told => told,
    }
}

/// Whether our user may read and write below the prefix, and the cluster has room: it judges both parts of a
/// transaction, of which this one applies none.
async fn may_use(client: &Client) -> Result<()> {
    let txn = Txn::new().when([never(&client.keys)]).and_then(probe(&client.keys, None));
    let answer = client.endpoints.call(&Clock::system(), LONGEST_CALL, send(&txn)).await;
    answer.into_result().map(drop)
}

/// Adds what is not told yet: members say the same of what is the cluster's.
fn push(found: &mut Vec<Finding>, finding: Finding) {
    if found.iter().all(|other| other.remedy != finding.remedy) {
        found.push(finding);
    }
}

fn of_status(
    url: &str,
    status: &StatusResponse,
    is_cluster: bool,
    found: &mut Vec<Finding>,
) -> Result<()> {
    match check_version(status.version()) {
        Ok(()) => found.extend(of_version(url, status.version(), is_cluster)),
        Err(error) => push(found, refusal(error)?),
    }
    for alarm in status.errors() {
        let (what, remedy) = if alarm.contains("NOSPACE") {
            ("the disk quota is used up: nothing new is granted", ROOM)
        } else if alarm.contains("CORRUPT") {
            ("the members' data differ: a lock may be held twice", CORRUPT)
        } else {
            (alarm.as_str(), "see what etcd says")
        };
        push(found, Finding::new(Severity::Danger, format!("{url}: {what}"), remedy));
    }
    if status.is_learner() {
        let what = format!("{url} is a learner, which serves no request");
        found.push(Finding::new(Severity::Warning, what, "promote it, or take it off the list"));
    }
    found.extend(of_size(
        url,
        status.db_size(),
        status.raft_used_db_size(),
        status.db_size_quota(),
    ));
    let behind = status.raft_index().saturating_sub(status.raft_applied_index());
    if behind > BEHIND {
        let what = format!("{url} is {behind} changes behind its own log");
        found.push(Finding::new(Severity::Warning, what, "give it a faster disk, or less to do"));
    }
    Ok(())
}

/// The mistakes of versions that we take.
fn of_version(url: &str, version: &str, is_cluster: bool) -> Option<Finding> {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let (major, minor, patch): (u32, u32, u32) = (next(), next(), next());
    let (severity, why) = match (major, minor, patch) {
        (3, 5, 0..3) => {
            (Severity::Danger, "a member that crashes may lose what it has acknowledged")
        }
        (3, 5, 3..13) | (3, 4, 0..31) if is_cluster => (
            Severity::Warning,
            "a leader that was deposed may end leases that were renewed without it",
        ),
        _ => return None,
    };
    let remedy = "use etcd 3.4.31, 3.5.13 or newer";
    Some(Finding::new(severity, format!("{url} is etcd {version}: {why}"), remedy))
}

/// How much of the quota is used. `quota`: 0 before 3.6.
fn of_size(url: &str, size: i64, in_use: i64, quota: i64) -> Option<Finding> {
    let (severity, of, limit) = if quota > 0 {
        (Severity::Warning, "a quota", quota)
    } else {
        (Severity::Note, "etcd's own quota (before 3.6 it does not tell another)", QUOTA)
    };
    // A fifth of it is left, or less.
    if size < limit - limit / 5 {
        return None;
    }
    let mib = |bytes: i64| bytes >> 20;
    let what = format!(
        "{url}: the database has {} MiB, {} of them in use, of {of} of {} MiB",
        mib(size),
        mib(in_use),
        mib(limit)
    );
    Some(Finding::new(
        severity,
        what,
        "compact and defragment the cluster, or raise --quota-backend-bytes",
    ))
}

/// Which members the cluster has, and which we know.
fn of_members(config: &EtcdConfig, list: &MemberListResponse) -> Option<Finding> {
    let voters = list.members().iter().filter(|member| !member.is_learner());
    let (known, all) = (config.endpoints.len(), voters.count());
    if all == 2 {
        let what = "the cluster has two members, and takes no requests without either";
        return Some(Finding::new(Severity::Warning, what, "add a third member"));
    }
    if known >= all {
        return None;
    }
    // Behind a name there may be all of them.
    let is_alone = known == 1 && config.endpoints[0].0.parse::<IpAddr>().is_ok();
    let severity = if is_alone { Severity::Warning } else { Severity::Note };
    let what = format!("{known} of the cluster's {all} members are in our list");
    Some(Finding::new(severity, what, "list all members in the URL"))
}

fn of_ttls(client: &Client) -> Option<Finding> {
    let least = client.ttls.min;
    let what = format!("the cluster's least ttl is {least:?}");
    let remedy = "it follows from --election-timeout: set it lower where locks shall expire sooner";
    (least > TTLS.min).then(|| Finding::new(Severity::Note, what, remedy))
}

/// What goes over the wire in clear.
fn of_wire(config: &EtcdConfig) -> Option<Finding> {
    if config.tls.is_some() {
        return None;
    }
    let (host, _) = config.endpoints.iter().find(|(host, _)| !is_this_machine(host))?;
    let (severity, what) = match config.login {
        Some(_) => (Severity::Warning, "the password of the login"),
        None => (Severity::Note, "all that we ask"),
    };
    let what = format!("{what} goes to {host} without TLS");
    Some(Finding::new(
        severity,
        what,
        "use etcds:// (feature `tls`), and turn TLS on at the members",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_mistakes_are_told_where_they_matter() {
        let of = |version, is_cluster| {
            of_version("here", version, is_cluster).map(|finding| finding.severity)
        };
        for version in ["3.4.0", "3.4.23", "3.4.30", "3.5.3", "3.5.12", "3.5.12-rc.0"] {
            assert_eq!(of(version, true), Some(Severity::Warning), "{version}");
            assert_eq!(of(version, false), None, "{version}");
        }
        for version in ["3.5.0", "3.5.2"] {
            assert_eq!(of(version, false), Some(Severity::Danger), "{version}");
        }
        for version in ["3.4.31", "3.5.13", "3.6.0-rc.1", "3.6.4", "4.0.0"] {
            assert_eq!(of(version, true), None, "{version}");
        }
    }

    #[test]
    fn a_quota_that_is_nearly_used_up_is_told_where_the_member_tells_it() {
        let of =
            |size, quota| of_size("here", size, size / 2, quota).map(|finding| finding.severity);
        assert_eq!(of(799, 1_000), None);
        assert_eq!(of(800, 1_000), Some(Severity::Warning));
        assert_eq!(of(1 << 30, 0), None);
        assert_eq!(of(2_000 << 20, 0), Some(Severity::Note));
        assert_eq!(of(2_000 << 20, 8 << 30), None);
    }

    #[test]
    fn a_login_without_tls_is_told_unless_it_stays_on_this_machine() {
        let of = |url: &str| {
            let config = EtcdConfig::from_url(url).expect("a configuration");
            let found = of_wire(&config);
            assert!(!format!("{found:?}").contains("secret"), "{found:?}");
            found.map(|finding| finding.severity)
        };
        for host in ["localhost", "127.0.0.1", "[::1]", "127.0.0.1,localhost:2380"] {
            assert_eq!(of(&format!("etcd://app:secret@{host}")), None, "{host}");
        }
        for host in ["etcd-1", "localhost,192.0.2.1", "[2001:db8::1]"] {
            assert_eq!(of(&format!("etcd://app:secret@{host}")), Some(Severity::Warning), "{host}");
            assert_eq!(of(&format!("etcd://{host}")), Some(Severity::Note), "{host}");
            assert_eq!(of(&format!("etcds://app:secret@{host}")), None, "{host}");
        }
    }
}
