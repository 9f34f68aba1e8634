//! The base of a store's tokens: what is added to the servers' transaction numbers.
//!
//! Transaction numbers begin again with each ensemble. A store that is new counts from the time of its first
//! use, in microseconds, so that a resource that has seen another store's tokens goes on. A store that was in
//! use before there was a base keeps the tokens that it has: its base is 0.

use lockkit_core::kit::wall_micros;
use lockkit_core::{Applied, Error, Result};
use zookeeper_client::{Acl, Acls, Client, CreateMode, Error as ZkError};

use crate::error::{Outcome, to_error};
use crate::parents::{self, Mark};
use crate::session::Session;

/// The node below the base that keeps it, as a decimal number. No name is written like this.
const NODE: &str = "lockkit:tokens";

/// The base of the tokens of this store, which is made if there is none; asked for by each session, and again
/// after each reconnection: the servers may have been restored meanwhile.
pub(crate) async fn base(session: &Session, base: &str, acls: Acls<'_>) -> Result<u64> {
    loop {
        if let Some(known) = read(session, base).await? {
            return Ok(known);
        }
        let client = session.client()?;
        let made = make(&client, base, acls).await;
        made.map_err(|error| to_error(&error).with_applied(Applied::No))?;
    }
}

/// The base of the tokens, if this store has one.
pub(crate) async fn read(session: &Session, base: &str) -> Result<Option<u64>> {
    if let Some(known) = session.token_base() {
        return Ok(Some(known));
    }
    // Before the question, so that an answer from before a reconnection does not count after it.
    let seen = session.reopenings();
    let known = check(&session.client()?, base).await?;
    if let Some(known) = known {
        session.set_token_base(seen, known);
    }
    Ok(known)
}

/// The base of the tokens as it stands there now; refuses what is none.
pub(crate) async fn check(client: &Client, base: &str) -> Result<Option<u64>> {
    match client.get_data(&format!("{base}/{NODE}")).await {
        Ok((data, _)) => {
            let known = std::str::from_utf8(&data).ok().and_then(|text| text.trim().parse().ok());
            let known = known.ok_or_else(|| {
                Error::rejected(
                    format!("{base}/{NODE} holds {:?}", String::from_utf8_lossy(&data)),
                    "set it to the number that is added to the tokens, more than any token so far",
                )
            })?;
            Ok(Some(known))
        }
        Err(ZkError::NoNode) => Ok(None),
        Err(error) => Err(to_error(&error).with_applied(Applied::No)),
    }
}

/// Makes the base of the tokens, unless another client comes first.
async fn make(client: &Client, base: &str, acls: Acls<'_>) -> Outcome<()> {
    // A follower that lags behind would show a base in use as new.
    match client.sync(base).await {
        Ok(()) | Err(ZkError::NoNode) => {}
        Err(error) => return Err(error),
    }
    let (data, stat) = match client.get_data(base).await {
        Err(ZkError::NoNode) => return parents::make_base(client, base, acls).await,
        read => read?,
    };
    let mut is_new = parents::mark(&data) == Mark::Ours;
    // Made by an operator, and never used.
    if data.is_empty() && stat.cversion == 0 {
        let mark = parents::new_mark();
        match client.set_data(base, mark.as_bytes(), Some(stat.version)).await {
            Ok(_) => is_new = true,
            Err(ZkError::BadVersion | ZkError::NoNode) => return Ok(()),
            // Clients of an older layout cannot be kept away, so the tokens stay as theirs.
            Err(ZkError::NoAuth) => {}
            Err(error) => return Err(error),
        }
    }
    let counts_from = if is_new { since_1970(stat.czxid) } else { 0 };
    let acl = acl_of(client, base, acls).await?;
    let options = CreateMode::Persistent.with_acls(Acls::new(&acl));
    let number = counts_from.to_string();
    match client.create(&format!("{base}/{NODE}"), number.as_bytes(), &options).await {
        Ok(_) | Err(ZkError::NodeExists | ZkError::NoNode) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Who may read the base reads the tokens' base too.
async fn acl_of(client: &Client, base: &str, acls: Acls<'_>) -> Outcome<Vec<Acl>> {
    match client.get_acl(base).await {
        // Servers hide the digests from a client that may not change the list.
        Ok((acl, _)) if !acl.iter().any(|acl| acl.id().ends_with(":x")) => Ok(acl),
        Ok(_) | Err(ZkError::NoAuth | ZkError::NoNode) => Ok(acls.to_vec()),
        Err(error) => Err(error),
    }
}

/// The microseconds since 1970, less this transaction number: a token of this transaction is the time.
fn since_1970(czxid: i64) -> u64 {
    wall_micros().saturating_sub(czxid.try_into().unwrap_or_default())
}
