//! What is amiss with the servers, their settings and this client's rights.
//!
//! The checks that connecting makes decide here too; the others look at what a client can read over its session, or
//! ask each server in the four letter words that it answers without TLS.

use std::cmp::Reverse;
use std::net::IpAddr;

use futures_util::future::join_all;
#[cfg(feature = "tls")]
use lockkit_core::kit::refusal;
use lockkit_core::kit::{LONGEST_CALL, is_at_least, is_this_machine, refusals};
use lockkit_core::{Applied, Clock, Error, Finding, Result, Severity};
use zookeeper_client::{Acl, Client as Zk, Error as ZkError, Permission};

use crate::client::Client;
use crate::error::{Outcome, limited, to_error};
use crate::limits::Mismatch;
use crate::parents::{self, Mark};
use crate::why::{Sight, asked, look, reach};
use crate::{ZkConfig, tokens};

/// The oldest servers that lockkit is made for.
const OLDEST: (u32, u32) = (3, 5);
/// Fewer connections than this, or a tenth, left to this host are told.
const FEW: usize = 3;

impl Client {
    /// All that is amiss, the worst first; in all within 5 s.
    pub(crate) async fn examine(&self) -> Result<Vec<Finding>> {
        let config = &self.sessions.connector.config;
        let clock = Clock::system();
        let store = limited(&clock, LONGEST_CALL, self.examine_store());
        let servers = async {
            let (mut findings, trust) = tokio::join!(examine_servers(config), trust(config));
            findings.extend(trust);
            // Afterwards, since these probes take connections too.
            let (_, mismatches) = self.sessions.limits.look(None).await;
            findings.extend(mismatches.iter().map(Mismatch::finding));
            Ok(findings)
        };
        let (mut findings, of_servers) = tokio::try_join!(store, servers).map_err(only_read)?;
        findings.extend(of_servers);
        findings.extend(plain_password(config));
        findings.sort_by_key(|finding| Reverse(finding.severity));
        Ok(findings)
    }

    /// What a session shows: the base, the rights to it, its quota, and the members of the ensemble.
    async fn examine_store(&self) -> Result<Vec<Finding>> {
        let (session, _in_use) = self.sessions.any().await?;
        let (client, base) = (session.client()?, &*self.base);
        let mut findings = Vec::new();
        findings.extend(refusals([parents::check(&client, base).await])?);
        // Without the right to read, that was told.
        let logins = &self.sessions.connector.config.logins;
        findings.extend(seen(no_right_to_create(&client, base, logins).await)?);
        if findings.is_empty() {
            findings.extend(refusals([tokens::check(&client, base).await])?);
            findings.extend(seen(older_layout(&client, base).await)?);
        }
        findings.extend(seen(quotas(&client, base).await)?);
        findings.extend(seen(members(&client).await)?);
        Ok(findings)
    }
}

/// Whether the certificates that are on the disk would not do for the next connection.
async fn trust(config: &ZkConfig) -> Option<Finding> {
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        let trust = crate::tls::check_trust(config, tls);
        // A server that does not answer is told of elsewhere.
        let mistrust = limited(&Clock::system(), LONGEST_CALL, trust).await.err();
        return mistrust.and_then(|error| refusal(error).ok());
    }
    let _ = config;
    None
}

/// Nothing of this can have taken effect.
fn only_read(error: Error) -> Error {
    error.with_applied(Applied::No)
}

/// What a look shows; what this client may not read is not there for it.
fn seen<T: Default>(look: Outcome<T>) -> Result<T> {
    match look {
        Err(ZkError::NoNode | ZkError::NoAuth) => Ok(T::default()),
        look => look.map_err(|error| to_error(&error)),
    }
}

/// Whether this client may not create nodes below the base, or make the base.
async fn no_right_to_create(
    client: &Zk,
    base: &str,
    logins: &[(String, Vec<u8>)],
) -> Outcome<Option<Finding>> {
    let mut path = base;
    let acl = loop {
        match client.get_acl(path).await {
            Ok((acl, _)) => break acl,
            Err(ZkError::NoNode) if path != "/" => {
                path = path.rsplit_once('/').map(|(above, _)| above).unwrap_or_default();
                path = if path.is_empty() { "/" } else { path };
            }
            Err(error) => return Err(error),
        }
    };
    let may = acl.iter().any(|acl| acl.permission().has(Permission::CREATE) && is_of(acl, logins));
    let what = if path == base {
        format!("this client may not create nodes below {base}: locks are refused")
    } else {
        format!("{base} is not there, and this client may not create nodes below {path}")
    };
    let remedy =
        "give the login that owns the node, or grant this one the permissions cdrwa on the base";
    Ok((!may).then(|| Finding::new(Severity::Danger, what, remedy)))
}

/// Whether this entry may be about a client with these logins: of other schemes only the servers know.
fn is_of(acl: &Acl, logins: &[(String, Vec<u8>)]) -> bool {
    let user = |text: &[u8]| text.split(|byte| *byte == b':').next().map(<[u8]>::to_vec);
    let mut digests = logins.iter().filter(|(scheme, _)| scheme == "digest");
    match acl.scheme() {
        "world" => true,
        "digest" => digests.any(|(_, login)| {
            let ours = user(login);
            ours == user(acl.id().as_bytes()) || ours.as_deref() == Some(b"super")
        }),
        _ => true,
    }
}

/// Tells of a base whose tokens are the servers' transaction numbers alone.
async fn older_layout(client: &Zk, base: &str) -> Outcome<Option<Finding>> {
    let (data, stat) = client.get_data(base).await?;
    // One that was never used gets the newest layout.
    let is_new = data.is_empty() && stat.cversion == 0;
    Ok((parents::mark(&data) == Mark::Other && !is_new).then(|| {
        Finding::new(
            Severity::Note,
            format!("{base} is of layout 1: tokens are small, and begin again with a new ensemble"),
            "leave it so while clients of older versions use it; docs/zookeeper.md says how to raise it",
        )
    }))
}

/// Whether the quotas on the base, or above it, are used up or nearly so.
async fn quotas(client: &Zk, base: &str) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    let ends = base.match_indices('/').map(|(at, _)| at).skip(1).chain([base.len()]);
    for path in ends.map(|end| &base[..end]) {
        let node = |what| format!("/zookeeper/quota{path}/zookeeper_{what}");
        let (limits, used) = (node("limits"), node("stats"));
        let (limits, used) = tokio::join!(client.get_data(&limits), client.get_data(&used));
        match (limits, used) {
            (Ok((limits, _)), Ok((used, _))) => findings.extend(quota(path, &limits, &used)),
            (Err(ZkError::NoNode | ZkError::NoAuth), _)
            | (_, Err(ZkError::NoNode | ZkError::NoAuth)) => {}
            (Err(error), _) | (_, Err(error)) => return Err(error),
        }
    }
    Ok(findings)
}

/// How much of a quota is used, by two texts such as `count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=9`.
fn quota(path: &str, limits: &[u8], used: &[u8]) -> Vec<Finding> {
    let [limits, used] = [limits, used].map(String::from_utf8_lossy);
    let number = |text: &str, name: &str| {
        let value = text.split([',', ';']).find_map(|part| part.strip_prefix(name));
        value?.strip_prefix('=')?.trim_end_matches('=').parse::<u64>().ok()
    };
    let remedy = "raise it with setquota, or remove what is not needed there";
    let of_kind = |kind: &str, hard: &str, unit: &str| {
        let is = number(&used, kind)?;
        let told = |severity, most: u64, so: &str| {
            let what = format!("{path} has {is} of the {most} {unit} of its quota{so}");
            Some(Finding::new(severity, what, remedy))
        };
        match (number(&limits, hard), number(&limits, kind)) {
            (Some(most), _) if is >= most => {
                told(Severity::Danger, most, ": servers with enforceQuota refuse locks")
            }
            (Some(most), _) if is >= most - most / 10 => {
                told(Severity::Warning, most, ": soon locks are refused")
            }
            (_, Some(most)) if is > most => told(Severity::Note, most, ", which only warns"),
            _ => None,
        }
    };
    let kinds = [("count", "countHardLimit", "nodes"), ("bytes", "byteHardLimit", "bytes")];
    kinds.into_iter().filter_map(|(kind, hard, unit)| of_kind(kind, hard, unit)).collect()
}

/// What the number of the ensemble's members means.
async fn members(client: &Zk) -> Outcome<Option<Finding>> {
    let (config, _) = client.get_config().await?;
    let config = String::from_utf8_lossy(&config).into_owned();
    let votes =
        config.lines().filter(|line| line.starts_with("server.") && !line.contains(":observer"));
    let (what, remedy) = match votes.count() {
        0 | 1 => (
            "the server stands alone: while it is down no lock is granted, and those held end"
                .to_owned(),
            "run an ensemble of three, where that matters",
        ),
        count if count % 2 == 0 => (
            format!("{count} members vote: as few may be away as of {}", count - 1),
            "run an odd number, or make the last one an observer",
        ),
        _ => return Ok(None),
    };
    Ok(Some(Finding::new(Severity::Note, what, remedy)))
}

/// What each server says of itself; with TLS, whether it takes connections.
async fn examine_servers(config: &ZkConfig) -> Vec<Finding> {
    let (addresses, is_tls) = (config.addresses(), config.tls.is_some());
    let told = addresses.iter().map(async |address| {
        // A question without TLS would be an error in its log.
        let sight = if is_tls { reach(address).await.err() } else { Some(look(address).await) };
        match sight {
            None => Vec::new(),
            Some(Sight::Plain(answer)) => {
                let mut findings = of_answer(address, &answer, addresses.len() > 1);
                findings.extend(connections(address).await);
                findings
            }
            Some(Sight::Turned) => vec![amiss(Severity::Danger, address, &Sight::Turned)],
            Some(sight) => vec![amiss(Severity::Warning, address, &sight)],
        }
    });
    join_all(told).await.concat()
}

fn amiss(severity: Severity, address: &str, sight: &Sight) -> Finding {
    let remedy = match sight {
        Sight::Turned => "raise maxClientCnxns, or use fewer clients and ttls on this host",
        Sight::NotServing => {
            "start the members that are missing, and mend the network between them"
        }
        Sight::NotPlain => "name the servers' clientPort, or give ca for TLS",
        _ => "start the server or mend the way to it, or take it off the list of servers",
    };
    Finding::new(severity, format!("{address}: {sight}"), remedy)
}

/// What is amiss by a server's answer to `srvr`.
fn of_answer(address: &str, answer: &str, has_fellows: bool) -> Vec<Finding> {
    let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mut findings = Vec::new();
    let version = field("Zookeeper version:").and_then(|text| text.split(['-', ',', ' ']).next());
    if let Some(version) = version.filter(|version| !is_at_least(version, OLDEST)) {
        findings.push(Finding::new(
            Severity::Warning,
            format!("{address} is ZooKeeper {version}, older than 3.5"),
            "upgrade it: lockkit is made for, and tested with, 3.5 and newer",
        ));
    }
    match field("Mode:") {
        Some("standalone") if has_fellows => findings.push(Finding::new(
            Severity::Danger,
            format!(
                "{address} stands alone, and several servers are named: a lock may be held at each"
            ),
            "name the servers of one ensemble only",
        )),
        Some("read-only") => findings.push(Finding::new(
            Severity::Warning,
            format!("{address} is cut off from its leader, and serves readers only"),
            "mend the network between the members",
        )),
        _ => {}
    }
    findings
}

/// Whether few connections are left to this host, where the server may say so.
async fn connections(address: &str) -> Option<Finding> {
    let (settings, ours) = asked(address, "conf").await?;
    let most = settings.lines().find_map(|line| line.strip_prefix("maxClientCnxns="));
    let most: usize = most?.trim().parse().ok().filter(|most| *most > 0)?;
    let (known, _) = asked(address, "cons").await?;
    // One of them has asked that.
    let used = used_by(ours, &known).saturating_sub(1);
    let is_few = most.saturating_sub(used) < FEW.max(most / 10);
    is_few.then(|| {
        Finding::new(
            Severity::Warning,
            format!("{address}: {used} of the {most} connections that maxClientCnxns gives this host are in use"),
            "raise maxClientCnxns, or use fewer clients and ttls on this host",
        )
    })
}

/// How many connections of this host a server lists, as ` /127.0.0.1:40001[1](queued=0,…`.
fn used_by(host: IpAddr, known: &str) -> usize {
    let of_line = |line: &str| {
        let (address, _) = line.trim().strip_prefix('/')?.split_once('(')?.0.rsplit_once('[')?;
        let (host, _port) = address.rsplit_once(':')?;
        host.trim_matches(['[', ']']).parse::<IpAddr>().ok()
    };
    let plain = |host: IpAddr| host.to_canonical();
    known.lines().filter_map(of_line).filter(|found| plain(*found) == plain(host)).count()
}

/// A password that goes over the wire as it is.
fn plain_password(config: &ZkConfig) -> Option<Finding> {
    let has_password = config.logins.iter().any(|(scheme, _)| scheme == "digest");
    if config.tls.is_some() || !has_password {
        return None;
    }
    let addresses = config.addresses();
    let is_near =
        |address: &str| is_this_machine(address.rsplit_once(':').map_or(address, |(host, _)| host));
    let far = addresses.iter().find(|address| !is_near(address))?;
    Some(Finding::new(
        Severity::Warning,
        format!("the password of a login goes to {far} without TLS, for all to read on the way"),
        "name the servers' secureClientPort, and give ca for TLS",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(findings: impl IntoIterator<Item = Finding>) -> String {
        findings.into_iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn a_password_is_told_of_only_where_it_leaves_this_host_without_tls() {
        let with_login = |server: &str| {
            ZkConfig::new(["localhost", "127.0.0.1:1", "[::1]:2", server]).digest("app", "s3cret")
        };
        let found = shown(plain_password(&with_login("zk1:2182")));
        assert!(found.starts_with("warning") && found.contains("zk1:2182"), "{found}");
        assert!(!found.contains("s3cret"), "{found}");
        assert_eq!(plain_password(&with_login("localhost")), None);
        assert_eq!(plain_password(&ZkConfig::new(["zk1"])), None);
        let tls = lockkit_core::kit::Tls::file("ca.pem");
        assert_eq!(plain_password(&with_login("zk1").tls(tls)), None);
    }

    #[test]
    fn old_servers_and_read_only_ones_are_told_of() {
        let answer =
            |version, mode| format!("Zookeeper version: {version}-123, built on x\nMode: {mode}\n");
        let old = shown(of_answer("zk1", &answer("3.4.14", "follower"), true));
        assert!(old.contains("zk1 is ZooKeeper 3.4.14") && old.contains("upgrade"), "{old}");
        let cut_off = shown(of_answer("zk1", &answer("3.9.3", "read-only"), true));
        assert!(cut_off.starts_with("warning: zk1 is cut off"), "{cut_off}");
        for (mode, has_fellows) in [("leader", true), ("observer", true), ("standalone", false)] {
            assert_eq!(of_answer("zk1", &answer("3.5.0", mode), has_fellows), []);
        }
        let silent = "srvr is not executed because it is not in the whitelist.";
        assert_eq!(of_answer("zk1", silent, true), []);
    }

    #[test]
    fn connections_of_this_host_are_counted_in_either_form() {
        let known = " /127.0.0.1:40001[1](queued=0)\n /10.0.0.7:40002[1](queued=0)\n \
                     /0:0:0:0:0:0:0:1:40003[0](queued=0)\n/[::1]:40004[0](queued=0)\n\n";
        let used = |host: &str| used_by(host.parse().expect("an address"), known);
        assert_eq!([used("127.0.0.1"), used("::ffff:10.0.0.7"), used("::1")], [1, 1, 2]);
    }

    #[test]
    fn a_quota_is_read_in_the_forms_of_all_versions() {
        let told =
            |limits: &str, used: &str| shown(quota("/a", limits.as_bytes(), used.as_bytes()));
        assert_eq!(told("count=-1,bytes=-1", "count=5,bytes=100"), "");
        let soft = told("count=4,bytes=-1", "count=5,bytes=100");
        assert!(soft.starts_with("note: /a has 5 of the 4 nodes"), "{soft}");
        let hard = "count=-1,bytes=-1=;byteHardLimit=100;countHardLimit=20";
        assert_eq!(told(hard, "count=17,bytes=89"), "");
        let found = told(hard, "count=18,bytes=100=;byteHardLimit=-1");
        assert!(found.contains("warning: /a has 18 of the 20 nodes"), "{found}");
        assert!(found.contains("danger: /a has 100 of the 100 bytes"), "{found}");
        assert_eq!(told("", "?"), "");
    }
}
