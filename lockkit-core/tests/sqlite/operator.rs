//! What an operator sees in the tables, and can do.

use std::time::Duration;

use lockkit_core::kit::LONGEST_CALL;
use lockkit_core::{
    Clock, Error, FencingToken, Holder, Inspection, LockName, Operator, Result, async_trait,
};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, query};

use super::client::Client;

fn seen(row: &SqliteRow) -> Result<Inspection> {
    let name = String::from_utf8(row.get("name"));
    let name = name.map_err(|_| Error::rejected("a name that is no text", "remove its row"))?;
    let holder = row.get::<Option<i64>, _>("token").map(|token| {
        let mut holder = Holder::new(row.get::<String, _>("label"));
        holder.token = FencingToken::try_from(token).ok();
        let left = u64::try_from(row.get::<i64, _>("expires_in")).ok();
        holder.expires_in = left.map(Duration::from_millis);
        holder
    });
    let waiters = usize::try_from(row.get::<i64, _>("waiters")).ok();
    Ok(Inspection::new(LockName::new(name)?, holder.into_iter().collect(), waiters))
}

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        // Of all names that begin with this one, it is the first in the order of bytes.
        let first = self.list(name.as_str(), None, 1).await?.pop();
        let own = first.filter(|seen| seen.name == *name);
        Ok(own.unwrap_or_else(|| Inspection::new(name.clone(), Vec::new(), Some(0))))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let list = query(include_str!("list.sql"))
            .bind(prefix.as_bytes().to_vec())
            .bind(after.map_or("", LockName::as_str).as_bytes().to_vec())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        self.transaction(&Clock::system(), LONGEST_CALL, list).await?.iter().map(seen).collect()
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let revoke = query(include_str!("revoke.sql"))
            .bind(name.as_str().as_bytes().to_vec())
            .bind(token.as_i64());
        let ended = self.transaction(&Clock::system(), LONGEST_CALL, revoke).await?;
        Ok(!ended.is_empty())
    }
}
