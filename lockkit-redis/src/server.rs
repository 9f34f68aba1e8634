//! Whether a server is fit for locks: what is checked once, when connecting.

use lockkit_core::kit::{LONGEST_CALL, check_layout, is_at_least};
use lockkit_core::{Clock, Error, Result};
use redis::Value;

use crate::client::Client;
use crate::protocol::{CHANNELS, layout_key, scripts};
use crate::subscription::subscription;

/// The layout of what this version's scripts keep, the newest that they can share.
const LAYOUT: u32 = 1;

/// Refuses a server that would break what the provider declares.
pub(crate) async fn check_server(client: &Client) -> Result<()> {
    let clock = Clock::system();
    let info: String = client.commands.command(&clock, LONGEST_CALL, &redis::cmd("INFO")).await?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    check_version(&field("redis_version"))?;
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
    subscription(client.commands.config(), &channel).await?;
    // The one command in the scripts that is neither @read nor @write.
    let mut time = redis::cmd("EVAL");
    time.arg("return redis.call('TIME')").arg(0);
    client.commands.command::<Value>(&clock, LONGEST_CALL, &time).await?;
    client.commands.load(&clock, &scripts()).await
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
