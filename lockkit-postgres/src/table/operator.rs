//! What an operator sees in the table, and can do.

use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::{
    Clock, FencingToken, Holder, Inspection, LockName, Operator, RequestId, Result,
};

use super::client::Client;
use crate::error::at;
use crate::line::LIMIT;
use crate::protocol::{Columns, column, garbled, name_of, number, quoted, stored};

impl Client {
    async fn look(&self, sql: &str) -> Result<Vec<Columns>> {
        let answered = self.pool.run(&Clock::system(), LIMIT, sql).await;
        Ok(answered.map_err(|error| at(&self.address, error))?.rows)
    }

    /// What is known of the names that fulfil a condition, of those that are held or waited for.
    async fn seen(&self, condition: &str, limit: usize) -> Result<Vec<Inspection>> {
        let schema = &self.schema;
        // The server counts up to there.
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = format!(
            "WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now), \
             l AS (SELECT name, CASE WHEN expires_at > now THEN token END AS token, label, \
             granted_at, expires_at, now, (SELECT count(*) FROM {schema}.waiter w \
             JOIN {schema}.client c ON c.id = w.client WHERE w.name = lease.name \
             AND c.last_seen + c.life * interval '1 ms' > now) AS waiters \
             FROM {schema}.lease, t WHERE {condition}) \
             SELECT name, token, label, trunc(1000000 * extract(epoch FROM now - granted_at)), \
             trunc(1000000 * extract(epoch FROM expires_at - now)), waiters \
             FROM l WHERE token IS NOT NULL OR waiters > 0 ORDER BY name LIMIT {limit}"
        );
        let rows = self.look(&sql).await?;
        let seen = rows.iter().map(|row| {
            let name = column(row, 0).and_then(name_of).ok_or_else(|| garbled(&rows))?;
            let mut holders = Vec::new();
            if let Some(token) = number(row, 1) {
                let mut holder = Holder::new(column(row, 2).unwrap_or_default());
                holder.token = FencingToken::with_base(self.token_base, token).ok();
                holder.age = number(row, 3).map(Duration::from_micros);
                holder.expires_in = number(row, 4).map(Duration::from_micros);
                holders.push(holder);
            }
            Ok(Inspection::new(name, holders, number(row, 5)))
        });
        seen.collect()
    }
}

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let is_it = format!("name = {}", quoted(&stored(name.as_str())));
        let seen = self.seen(&is_it, 1).await?.pop();
        Ok(seen.unwrap_or_else(|| Inspection::new(name.clone(), Vec::new(), Some(0))))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let prefix = quoted(&stored(prefix));
        let mut those = format!("starts_with(name, {prefix}) AND name >= {prefix}");
        if let Some(after) = after {
            those += &format!(" AND name > {}", quoted(&stored(after.as_str())));
        }
        self.seen(&those, limit).await
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let Some(native) = token.as_u64().checked_sub(self.token_base) else { return Ok(false) };
        let name = quoted(&stored(name.as_str()));
        // The statement may be sent twice: the second is told what the first did.
        let call = RequestId::random()?;
        let sql = format!("SELECT {}.revoke({name}, {native}, '{call}')", self.schema);
        let rows = self.look(&sql).await?;
        match rows.first().and_then(|row| column(row, 0)) {
            Some(answer) => Ok(answer == "t"),
            None => Err(garbled(&rows)),
        }
    }

    async fn forget(&self, prefix: &str, unused_for: Duration) -> Result<u64> {
        let prefix = quoted(&stored(prefix));
        // As long as the server's years go.
        let unused = unused_for.as_micros().min(1 << 57);
        let schema = &self.schema;
        let sql = format!("SELECT {schema}.forget({prefix}, {unused} * interval '1 microsecond')");
        let rows = self.look(&sql).await?;
        rows.first().and_then(|row| number(row, 0)).ok_or_else(|| garbled(&rows))
    }
}
