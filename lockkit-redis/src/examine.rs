//! What is amiss with the server, as a client that has connected finds it at any time: it only reads.
//!
//! What makes connecting refuse or warn is decided by `server`, and told here in the same words.

use std::time::Duration;

use lockkit_core::kit::{LONGEST_CALL, examined, is_this_machine, refusal, refusals};
use lockkit_core::{Applied, Clock, Error, Finding, Result, Severity};

use crate::RedisConfig;
use crate::client::Client;
use crate::config::Server;
use crate::error::COMMANDS;
use crate::server::{FITNESS, Info, Look, Mark, layout_unread, persistence};

/// Of each call: it ends, and gives up a connection that is stuck, before the driver gives up all of it.
const LIMIT: Duration = LONGEST_CALL.saturating_mul(9).checked_div(10).expect("ten parts");
/// Of all calls.
const WHOLE: Duration = LIMIT.saturating_add(LONGEST_CALL.checked_div(20).expect("twenty parts"));
/// A replica in step answers once a second.
const LONGEST_LAG: u64 = 5;
/// So many parts of a limit left are few: one.
const PARTS: u64 = 10;
/// The word by which a server refuses writes, and what to do.
const REFUSALS: [(&str, &str); 3] = [
    ("OOM", "raise maxmemory, or give locks a server of their own: they need little"),
    (
        "MISCONF",
        "mend the server's disk; where an append-only file keeps the locks, set \
         stop-writes-on-bgsave-error no, or turn snapshots off (save \"\")",
    ),
    ("NOREPLICAS", "bring the replicas back in step, or lower min-replicas-to-write"),
];

/// What is amiss, the worst first.
pub(crate) async fn examine(client: &Client) -> Result<Vec<Finding>> {
    let look = Look { client, clock: Clock::system(), limit: LIMIT };
    let silent =
        || Error::unavailable(Applied::No, format!("Redis gave no answer within {WHOLE:?}"));
    examined(WHOLE, all(&look), silent).await
}

async fn all(look: &Look<'_>) -> Result<Vec<Finding>> {
    let info = match look.info().await {
        Ok(info) => info,
        // The login, or the right to ask that: connecting sees no more either.
        Err(error) => return Ok(vec![refusal(error)?]),
    };
    let mut found = of_info(&info)?;
    found.extend(plain_password(look.client.commands.config()));
    if serves(&info) {
        found.extend(of_use(look, &info).await?);
    }
    found.extend(of_settings(look, &info).await?);
    Ok(found)
}

/// Whether the server serves keys of every name. What keeps it from that is told, and each call on a key
/// would be refused for it; a replica's refusal would cost the client its connection.
fn serves(info: &Info) -> bool {
    info.field("role") == "master"
        && info.field("cluster_enabled") != "1"
        && info.field("loading") != "1"
}

/// Whether the server takes what locks need, from this user, and holds what lets them be.
async fn of_use(look: &Look<'_>, info: &Info) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    match look.mark().await {
        Ok(Mark::There | Mark::Missing) => {}
        Ok(Mark::Unread { key, .. }) => found.push(layout_unread(&key)),
        Err(error) => found.push(refusal(error)?),
    }
    match look.other_key().await {
        Ok(other) => found.extend(other.map(|other| other.finding)),
        Err(error) => found.push(refusal(error)?),
    }
    found.extend(of_rights(look, info).await?);
    Ok(found)
}

/// Which command this user may not run, and whether the server takes writes.
async fn of_rights(look: &Look<'_>, info: &Info) -> Result<Vec<Finding>> {
    let mut outcomes = vec![look.publish().await];
    // The server has none left for another connection, which is told.
    if connections_left(info) != Some(0) {
        outcomes.push(look.subscribe().await.map(drop));
    }
    outcomes.push(look.load().await);
    let mut found = Vec::new();
    match look.refused_writes().await {
        Ok(None) => {}
        Ok(Some(error)) => found.push(no_writes(error)?),
        Err(error) => outcomes.push(Err(error)),
    }
    found.extend(refusals(outcomes)?);
    Ok(found)
}

/// Why the server takes no writes. Any other outage ends the examination.
fn no_writes(error: Error) -> Result<Finding> {
    let Error::Unavailable { cause, .. } = &error else { return Err(error) };
    let said = cause.to_string();
    match REFUSALS.iter().find(|(word, _)| said.contains(word)) {
        Some((_, remedy)) => {
            let what = format!("the server takes no writes: {said}");
            Ok(Finding::new(Severity::Danger, what, *remedy))
        }
        None => Err(error),
    }
}

/// What the server's own account tells.
fn of_info(info: &Info) -> Result<Vec<Finding>> {
    let unfit = FITNESS.iter().filter_map(|check| check(info).err());
    let mut found = unfit.map(refusal).collect::<Result<Vec<_>>>()?;
    found.extend(persistence(info));
    if info.field("aof_last_write_status") == "err" {
        found.push(Finding::new(
            Severity::Danger,
            "the last write to the append-only file failed: the server refuses writes, or forgets them",
            "mend the server's disk",
        ));
    }
    if info.field("loading") == "1" {
        found.push(Finding::new(
            Severity::Danger,
            "the server still loads its data, and serves nothing",
            "wait until it has loaded",
        ));
    }
    found.extend(few_connections(info));
    found.extend(little_memory(info));
    found.extend(replicas(info));
    Ok(found)
}

fn connections_left(info: &Info) -> Option<u64> {
    let used = info.number("connected_clients")? + info.number("cluster_connections").unwrap_or(0);
    Some(info.number("maxclients")?.saturating_sub(used))
}

fn few_connections(info: &Info) -> Option<Finding> {
    let (left, most) = (connections_left(info)?, info.number("maxclients")?);
    let severity = match left {
        0 => Severity::Danger,
        // Each client makes two.
        _ if left < (most / PARTS).max(2) => Severity::Warning,
        _ => return None,
    };
    let what = format!("{left} of the {most} connections that maxclients allows are left");
    Some(Finding::new(severity, what, "raise maxclients, or end clients that are not needed"))
}

fn little_memory(info: &Info) -> Option<Finding> {
    let most = info.number("maxmemory").filter(|most| *most > 0)?;
    let used = info.number("used_memory")?;
    let counted = used.saturating_sub(info.number("mem_not_counted_for_evict").unwrap_or(0));
    let is_little = (most - most / PARTS..most).contains(&counted);
    is_little.then(|| {
        Finding::new(
            Severity::Warning,
            format!("{counted} of the {most} bytes of maxmemory are used: at its end nothing new is locked"),
            REFUSALS[0].1,
        )
    })
}

/// What is told of replicas, one finding for those in step and one for each other.
fn replicas(info: &Info) -> Vec<Finding> {
    let count = info.number("connected_slaves").unwrap_or(0);
    let mut found = Vec::new();
    for n in 0..count {
        let line = info.field(&format!("slave{n}"));
        let part = |name: &str| {
            let mut parts = line.split(',');
            parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let lag = part("lag").parse().unwrap_or(0);
        let how = match part("state") {
            "online" if lag > LONGEST_LAG => format!("has not answered for {lag} s"),
            "online" | "" => continue,
            state => format!("still gets a copy (state {state})"),
        };
        found.push(Finding::new(
            Severity::Warning,
            format!("the replica {}:{} {how}: promoted, it lacks grants", part("ip"), part("port")),
            "promote it only once it is in step, and mend the way to it if it stays so",
        ));
    }
    if count > 0 {
        found.push(Finding::new(
            Severity::Note,
            "a replica follows: where it is promoted it may lack the last grants",
            "fail over by FAILOVER, or stop the primary first and let the replica catch up",
        ));
    }
    found
}

/// What the settings tell that `INFO` leaves out.
async fn of_settings(look: &Look<'_>, info: &Info) -> Result<Vec<Finding>> {
    let [fsync, stops, save] = ["appendfsync", "stop-writes-on-bgsave-error", "save"];
    let mut values = Vec::new();
    for name in [fsync, stops, save] {
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg(name);
        match look.ask::<Vec<String>>(&get).await {
            // The name, and its value.
            Ok(pair) => values.push(pair.into_iter().nth(1).unwrap_or_default()),
            Err(Error::Rejected { remedy, .. }) => return Ok(vec![unread(&remedy)]),
            Err(error) => return Err(error),
        }
    }
    let (keeps, syncs) = (info.field("aof_enabled") == "1", &*values[0]);
    let all = [
        (
            keeps && !matches!(syncs, "always" | ""),
            Severity::Warning,
            format!("appendfsync is {syncs}: a crash of the machine may forget the last grants"),
            "set appendfsync always, if that must not be",
        ),
        (
            values[1] == "yes" && !values[2].is_empty(),
            Severity::Note,
            "stop-writes-on-bgsave-error is on: one failed snapshot, and every lock is lost at its ttl"
                .to_owned(),
            "where an append-only file keeps the locks, set it to no, or turn snapshots off (save \"\")",
        ),
    ];
    let told = all.into_iter().filter(|(is_so, ..)| *is_so);
    Ok(told.map(|(_, severity, what, remedy)| Finding::new(severity, what, remedy)).collect())
}

fn unread(why: &str) -> Finding {
    let remedy = if why == COMMANDS { "see" } else { "grant this user +config|get, or see" };
    Finding::new(
        Severity::Note,
        "settings cannot be read (CONFIG GET): appendfsync and stop-writes-on-bgsave-error are not examined",
        format!("{remedy} by other means that the first is always, and the second no"),
    )
}

/// A password that goes over the wire as it is.
fn plain_password(config: &RedisConfig) -> Option<Finding> {
    let Server::Tcp(host, _) = &config.server else { return None };
    if config.tls.is_some() || config.password.is_none() || is_this_machine(host) {
        return None;
    }
    Some(Finding::new(
        Severity::Warning,
        format!("the password goes to {host} without TLS, for all to read on the way"),
        "write rediss: (feature `tls`), and turn TLS on at the server",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(found: impl IntoIterator<Item = Finding>) -> String {
        found.into_iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn a_password_is_told_of_only_where_it_leaves_this_machine_without_tls() {
        let with = |host: &str| RedisConfig::tcp(host, 6379).password("hunter2");
        let found = shown(plain_password(&with("redis-1")));
        assert!(found.starts_with("warning") && found.contains("redis-1"), "{found}");
        assert!(!found.contains("hunter2"), "{found}");
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"] {
            assert_eq!(plain_password(&with(host)), None, "{host}");
        }
        assert_eq!(plain_password(&RedisConfig::tcp("redis-1", 6379)), None);
        assert_eq!(plain_password(&RedisConfig::unix("/run/redis").password("hunter2")), None);
        let tls = lockkit_core::kit::Tls::file("ca.pem");
        assert_eq!(plain_password(&with("redis-1").tls(tls)), None);
    }

    #[test]
    fn limits_are_told_of_when_a_tenth_is_left() {
        let clients = |used: u64, others: u64| {
            let text = format!(
                "connected_clients:{used}\r\ncluster_connections:{others}\r\nmaxclients:100\r\n"
            );
            shown(few_connections(&Info::from(&*text)))
        };
        assert_eq!(clients(90, 0), "");
        assert!(clients(90, 1).starts_with("warning: 9 of the 100"), "{}", clients(90, 1));
        assert!(clients(120, 0).starts_with("danger: 0 of the 100"), "{}", clients(120, 0));
        let memory = |used: u64, most: u64| {
            let text = format!("used_memory:{used}\r\nmaxmemory:{most}\r\n");
            shown(little_memory(&Info::from(&*text)))
        };
        // At its end the server says so itself.
        assert_eq!(memory(89, 100) + &memory(100, 100) + &memory(5, 0), "");
        assert!(memory(90, 100).starts_with("warning: 90 of the 100"), "{}", memory(90, 100));
        assert_eq!(few_connections(&Info::from("")), None);
    }

    #[test]
    fn a_failed_write_to_the_file_is_told_of_as_a_danger() {
        let said = |status: &str| {
            let text = "redis_version:7.0.15\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n\
                        aof_enabled:1\r\naof_last_write_status:";
            shown(of_info(&Info::from(&*format!("{text}{status}\r\n"))).expect("findings"))
        };
        assert_eq!(said("ok"), "");
        assert!(said("err").starts_with("danger: the last write"), "{}", said("err"));
    }

    #[test]
    fn a_replica_out_of_step_is_told_of_with_its_address() {
        let found = shown(replicas(&Info::from(
            "connected_slaves:3\r\n\
             slave0:ip=10.0.0.1,port=6379,state=online,offset=7,lag=1\r\n\
             slave1:ip=10.0.0.2,port=6379,state=online,offset=7,lag=9\r\n\
             slave2:ip=10.0.0.3,port=6379,state=send_bulk,offset=0,lag=0\r\n",
        )));
        assert!(!found.contains("10.0.0.1"), "{found}");
        assert!(found.contains("10.0.0.2:6379 has not answered for 9 s"), "{found}");
        assert!(found.contains("10.0.0.3:6379 still gets a copy (state send_bulk)"), "{found}");
        assert_eq!(found.matches("note: ").count(), 1, "{found}");
    }
}
