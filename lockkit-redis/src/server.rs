//! Whether a server is fit for locks: what is checked once, when connecting.

use lockkit_core::kit::{LONGEST_CALL, check_layout, is_at_least};
use lockkit_core::{Applied, Clock, Error, LockName, Result};
use redis::Value;
use redis::aio::PubSub;

use crate::client::Client;
use crate::error::{NO_CLUSTER, is_key_denied};
use crate::protocol::{CHANNELS, PROBE, keys, layout_key, scripts};
use crate::subscription::subscription;

/// The layout of what this version's scripts keep, the newest that they can share.
const LAYOUT: u32 = 1;
/// How many keys are looked at to see whether they are locks.
const MOST_LOOKED_AT: usize = 4;

/// Refuses a server that would break what the provider declares. Gives the subscription that was made to
/// see whether the user may have one.
pub(crate) async fn check_server(client: &Client) -> Result<PubSub> {
    let clock = Clock::system();
    let info: String = client.commands.command(&clock, LONGEST_CALL, &redis::cmd("INFO")).await?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    check_version(&field("redis_version"))?;
    if field("cluster_enabled") == "1" {
        return Err(Error::rejected("a node of a Redis Cluster", NO_CLUSTER));
    }
    if field("role") != "master" {
        return Err(Error::rejected(
            "a server that is a replica",
            "connect to its primary: a replica takes no locks",
        ));
    }
    let eviction = field("maxmemory_policy");
    if eviction != "noeviction" {
        return Err(Error::rejected(
            format!("a server that may evict locks (maxmemory-policy {eviction})"),
            "set maxmemory-policy noeviction there, or use a server of its own for locks",
        ));
    }
    if field("aof_enabled") != "1" {
        tracing::warn!(
            target: "lockkit", event = "no_persistence",
            "this Redis keeps no append-only file, so that a crash of it frees every lock: \
             set appendonly yes and appendfsync always there, if that must not be",
        );
    }
    check_mark(client, &clock).await?;
    let channel = format!("{CHANNELS}{}", client.address);
    let publish = redis::Cmd::publish(&channel, "");
    client.commands.command::<Value>(&clock, LONGEST_CALL, &publish).await?;
    let listening = subscription(client.commands.config(), &channel).await?;
    client.commands.load(&clock, &scripts()).await?;
    check_commands(client, &clock).await?;
    warn_of_other_keys(client, &clock).await;
    Ok(listening)
}

/// Refuses a server that lacks a command of the scripts, or lets this user not run it.
async fn check_commands(client: &Client, clock: &Clock) -> Result<()> {
    let name = LockName::new(format!("lockkit/probe/{}", client.address))?;
    let lock = keys(&client.prefix, &name);
    // The life of a waiter is of no interest to it.
    let args = [&*client.address, "1000"];
    match client.commands.script(clock, LONGEST_CALL, &PROBE, &lock, &args).await.value {
        Ok(_) => Ok(()),
        // A server that takes no writes now can be connected to.
        Err(Error::Unavailable { applied: Applied::No, .. }) => Ok(()),
        Err(error) if is_key_denied(&error) => {
            let get = redis::Cmd::get(&lock[0]);
            match client.commands.command::<Value>(clock, LONGEST_CALL, &get).await {
                // It may use the locks' own keys, but not those that lie beside them.
                Ok(_) => Err(error),
                // Its rights may end at names longer than the prefix.
                Err(_) => Ok(()),
            }
        }
        Err(error) => Err(error),
    }
}

/// Warns of keys that are no locks, where nothing tells locks and other keys apart.
async fn warn_of_other_keys(client: &Client, clock: &Clock) {
    if !client.prefix.is_empty() {
        return;
    }
    let mut scan = redis::cmd("SCAN");
    scan.arg(0).arg("COUNT").arg(100);
    let found = client.commands.command::<(Vec<u8>, Vec<Vec<u8>>)>(clock, LONGEST_CALL, &scan);
    let Ok((_, found)) = found.await else { return };
    let is_part = |key: &&Vec<u8>| key.starts_with(b"{") && key.contains(&b'}');
    for key in found.iter().filter(|key| !is_part(key)).take(MOST_LOOKED_AT) {
        let fence = [b"{", &key[..], b"}:f"].concat();
        let mut exists = redis::cmd("EXISTS");
        exists.arg(fence);
        match client.commands.command::<u64>(clock, LONGEST_CALL, &exists).await {
            Ok(0) => {
                let key = String::from_utf8_lossy(key);
                tracing::warn!(
                    target: "lockkit", event = "other_keys", %key,
                    "this database holds keys that are no locks, and without a prefix a lock that is \
                     named as one of them is never granted: set a prefix, as ?prefix=locks:",
                );
                return;
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Refuses a prefix below which a newer layout is kept; the first client of all puts the mark there.
async fn check_mark(client: &Client, clock: &Clock) -> Result<()> {
    let key = layout_key(&client.prefix);
    let get = redis::Cmd::get(&key);
    let mark = match client.commands.command::<Option<String>>(clock, LONGEST_CALL, &get).await {
        // An access list of before the mark may leave it out.
        Err(error @ Error::Rejected { .. }) => {
            tracing::warn!(
                target: "lockkit", event = "layout_unread", key, error = %error,
                "this user may not read the mark of the layout, so that a newer one is not noticed",
            );
            return Ok(());
        }
        mark => mark?,
    };
    check_layout("the Redis server", mark.as_deref(), LAYOUT, "prefix")?;
    if mark.is_none() {
        let mut put = redis::cmd("SET");
        put.arg(&key).arg(LAYOUT).arg("NX");
        // Without a mark the layout is 1: a server that takes no writes now can be connected to.
        client.commands.command::<Value>(clock, LONGEST_CALL, &put).await.ok();
    }
    Ok(())
}

/// Refuses what lacks a command that the scripts use; Valkey tells the Redis it is like.
fn check_version(version: &str) -> Result<()> {
    if !is_at_least(version, (6, 2)) {
        return Err(Error::rejected(
            format!("Redis {version}"),
            "use Redis 6.2 or newer, or Valkey",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_6_2_is_refused_by_its_version() {
        for version in ["7.0.15", "6.2.0", "6.2", "8.0.0-rc1", "10.0.1"] {
            check_version(version).expect(version);
        }
        for version in ["6.0.16", "5.0.14", "2.8", ""] {
            let error = check_version(version).expect_err(version).to_string();
            assert!(error.contains(version) && error.contains("6.2"), "{error}");
        }
    }
}
