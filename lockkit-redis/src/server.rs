//! Whether a server is fit for locks: each check once, for connecting and for `examine`.

use std::time::Duration;

use lockkit_core::kit::{LONGEST_CALL, check_layout, is_at_least};
use lockkit_core::{Clock, Error, Finding, LockName, Result, Severity};
use redis::aio::PubSub;
use redis::{Cmd, FromRedisValue, Value};

use crate::client::Client;
use crate::error::{NO_CLUSTER, is_key_denied, is_refused_for_now};
use crate::protocol::{CHANNELS, escaped, layout_key, life_key};
use crate::scripts::{PROBE, scripts};
use crate::subscription::subscription;

/// The layout of what this version's scripts keep, the newest that they can share.
const LAYOUT: u32 = 1;
/// How many keys are looked at to see whether they are locks.
const MOST_LOOKED_AT: usize = 4;

/// What the server's own account of itself must pass.
pub(crate) const FITNESS: [fn(&Info) -> Result<()>; 4] =
    [check_version, check_cluster, check_role, check_eviction];

/// Refuses a server that would break what the provider declares. Gives the subscription that was made to
/// see whether the user may have one.
pub(crate) async fn check_server(client: &Client) -> Result<PubSub> {
    let look = Look { client, clock: Clock::system(), limit: LONGEST_CALL };
    let info = look.info().await?;
    for check in FITNESS {
        check(&info)?;
    }
    if let Some(Finding { what, remedy, .. }) = persistence(&info) {
        tracing::warn!(target: "lockkit", event = "no_persistence", "{what}: {remedy}");
    }
    match look.mark().await? {
        Mark::There => {}
        Mark::Missing => look.put_mark().await,
        Mark::Unread { key, error } => {
            let Finding { what, remedy, .. } = layout_unread(&key);
            tracing::warn!(
                target: "lockkit", event = "layout_unread", key, error = %error, "{what}: {remedy}",
            );
        }
    }
    look.publish().await?;
    let listening = look.subscribe().await?;
    look.load().await?;
    // A server that takes no writes now can be connected to.
    look.refused_writes().await?;
    // Only a warning: what fails here fails at a lock, too.
    if let Ok(Some(OtherKey { key, finding: Finding { what, remedy, .. } })) =
        look.other_key().await
    {
        tracing::warn!(target: "lockkit", event = "other_keys", %key, "{what}: {remedy}");
    }
    Ok(listening)
}

/// What the server says of itself, as `INFO` gives it.
pub(crate) struct Info(String);

impl Info {
    pub(crate) fn field(&self, name: &str) -> &str {
        let mut lines = self.0.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name).parse().ok()
    }
}

#[cfg(test)]
impl From<&str> for Info {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// The mark of the layout.
pub(crate) enum Mark {
    There,
    Missing,
    /// An access list of before the mark may leave it out.
    Unread {
        key: String,
        error: Error,
    },
}

/// A key that is no lock, where nothing tells locks and other keys apart.
pub(crate) struct OtherKey {
    key: String,
    pub(crate) finding: Finding,
}

/// One look at the server: as a client connects, or later.
pub(crate) struct Look<'a> {
    pub(crate) client: &'a Client,
    pub(crate) clock: Clock,
    /// Of each call.
    pub(crate) limit: Duration,
}

impl Look<'_> {
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.client.commands.command(&self.clock, self.limit, command).await
    }

    pub(crate) async fn info(&self) -> Result<Info> {
        self.ask(&redis::cmd("INFO")).await.map(Info)
    }

    /// Refuses a prefix below which a newer layout is kept.
    pub(crate) async fn mark(&self) -> Result<Mark> {
        let key = layout_key(&self.client.prefix);
        let mark = match self.ask::<Option<String>>(&Cmd::get(&key)).await {
            Err(error @ Error::Rejected { .. }) => return Ok(Mark::Unread { key, error }),
            mark => mark?,
        };
        check_layout("the Redis server", mark.as_deref(), LAYOUT, "prefix")?;
        Ok(if mark.is_some() { Mark::There } else { Mark::Missing })
    }

    /// The first client of all puts the mark.
    async fn put_mark(&self) {
        let mut put = redis::cmd("SET");
        put.arg(layout_key(&self.client.prefix)).arg(LAYOUT).arg("NX");
        // Without a mark the layout is 1: a server that takes no writes now can be connected to.
        self.ask::<Value>(&put).await.ok();
    }

    /// Refuses a user that may not publish; the client passes over an empty message.
    pub(crate) async fn publish(&self) -> Result<()> {
        self.ask::<Value>(&Cmd::publish(self.channel(), "")).await.map(drop)
    }

    /// Refuses a user that may not subscribe.
    pub(crate) async fn subscribe(&self) -> Result<PubSub> {
        subscription(self.client.commands.config(), &self.channel()).await
    }

    /// Refuses a user that may not load scripts.
    pub(crate) async fn load(&self) -> Result<()> {
        self.client.commands.load(&self.clock, &scripts()).await
    }

    fn channel(&self) -> String {
        format!("{CHANNELS}{}", self.client.address)
    }

    /// Refuses a server that lacks a command of the scripts, or lets this user not run it. Changes nothing;
    /// gives why the server takes no writes now, if it takes none.
    pub(crate) async fn refused_writes(&self) -> Result<Option<Error>> {
        let client = self.client;
        let name = LockName::new(format!("lockkit/probe/{}", client.address))?;
        let (lock, args) = (escaped(&client.prefix, name.as_str()), [&*client.address]);
        match client.commands.script(&self.clock, self.limit, &PROBE, &[&lock], &args).await.value {
            Ok(_) => Ok(None),
            Err(error) if is_refused_for_now(&error) => Ok(Some(error)),
            Err(error) if is_key_denied(&error) => {
                match self.ask::<Value>(&Cmd::get(&lock)).await {
                    // It may use the locks' own keys, but not those that lie beside them.
                    Ok(_) => Err(error),
                    // Its rights may end at names longer than the prefix.
                    Err(_) => {
                        let life = Cmd::get(life_key(&client.address));
                        match self.ask::<Value>(&life).await {
                            Err(error) if is_key_denied(&error) => Err(error),
                            _ => Ok(None),
                        }
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// A key that is no lock, where a prefix is missing that would tell the locks apart.
    pub(crate) async fn other_key(&self) -> Result<Option<OtherKey>> {
        if !self.client.prefix.is_empty() {
            return Ok(None);
        }
        let mut scan = redis::cmd("SCAN");
        scan.arg(0).arg("COUNT").arg(100);
        let (_, found) = self.ask::<(Vec<u8>, Vec<Vec<u8>>)>(&scan).await?;
        let is_part = |key: &&Vec<u8>| key.starts_with(b"{") && key.contains(&b'}');
        for key in found.iter().filter(|key| !is_part(key)).take(MOST_LOOKED_AT) {
            let mut exists = redis::cmd("EXISTS");
            exists.arg([b"{", &key[..], b"}:t"].concat());
            exists.arg([b"{", &key[..], b"}:f"].concat());
            if self.ask::<u64>(&exists).await? == 0 {
                let key = String::from_utf8_lossy(key).into_owned();
                let finding = other_keys(&key);
                return Ok(Some(OtherKey { key, finding }));
            }
        }
        Ok(None)
    }
}

fn other_keys(key: &str) -> Finding {
    Finding::new(
        Severity::Warning,
        format!(
            "this database holds keys that are no locks, such as {key:?}, and without a prefix a lock that \
             is named as one of them is never granted"
        ),
        "set a prefix, as ?prefix=locks:",
    )
}

pub(crate) fn layout_unread(key: &str) -> Finding {
    Finding::new(
        Severity::Warning,
        "this user may not read the mark of the layout, so that a newer one is not noticed",
        format!("let it read the key {key}, too"),
    )
}

/// What a crash of a server without a file costs.
pub(crate) fn persistence(info: &Info) -> Option<Finding> {
    let keeps = info.field("aof_enabled") == "1";
    (!keeps).then(|| {
        Finding::new(
            Severity::Warning,
            "this Redis keeps no append-only file, so that a crash of it frees every lock",
            "set appendonly yes and appendfsync always there, if that must not be",
        )
    })
}

fn check_cluster(info: &Info) -> Result<()> {
    match info.field("cluster_enabled") {
        "1" => Err(Error::rejected("a node of a Redis Cluster", NO_CLUSTER)),
        _ => Ok(()),
    }
}

fn check_role(info: &Info) -> Result<()> {
    match info.field("role") {
        "master" => Ok(()),
        _ => Err(Error::rejected(
            "a server that is a replica",
            "connect to its primary: a replica takes no locks",
        )),
    }
}

fn check_eviction(info: &Info) -> Result<()> {
    match info.field("maxmemory_policy") {
        "noeviction" => Ok(()),
        policy => Err(Error::rejected(
            format!("a server that may evict locks (maxmemory-policy {policy})"),
            "set maxmemory-policy noeviction there, or use a server of its own for locks",
        )),
    }
}

/// Refuses what lacks a command that the scripts use; Valkey tells the Redis it is like.
fn check_version(info: &Info) -> Result<()> {
    let version = info.field("redis_version");
    if is_at_least(version, (6, 2)) {
        return Ok(());
    }
    Err(Error::rejected(format!("Redis {version}"), "use Redis 6.2 or newer, or Valkey"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_6_2_is_refused_by_its_version() {
        let said = |version: &str| Info::from(&*format!("redis_version:{version}\r\n"));
        for version in ["7.0.15", "6.2.0", "6.2", "8.0.0-rc1", "10.0.1"] {
            check_version(&said(version)).expect(version);
        }
        for version in ["6.0.16", "5.0.14", "2.8", ""] {
            let error = check_version(&said(version)).expect_err(version).to_string();
            assert!(error.contains(version) && error.contains("6.2"), "{error}");
        }
    }
}
