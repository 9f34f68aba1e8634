//! What an operator sees in the table, and can do.

use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::{
    Clock, FencingToken, Holder, Inspection, Kind, LockName, Operator, RequestId, Result,
};

use super::client::Client;
use crate::error::at;
use crate::line::LIMIT;
use crate::protocol::{Columns, GROUP, column, garbled, name_of, number, quoted, stored};

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
             l AS (SELECT name, request, token, label, granted_at, expires_at, first_member, now, \
             (SELECT count(*) FROM {schema}.waiter w \
             JOIN {schema}.client c ON c.id = w.client WHERE w.name = lease.name \
             AND c.last_seen + c.life * interval '1 ms' > now) AS waiters \
             FROM {schema}.lease, t WHERE {condition}), \
             s AS (SELECT * FROM l WHERE expires_at > now OR waiters > 0 ORDER BY name LIMIT {limit}) \
             SELECT name, h.token, h.label, trunc(1000000 * extract(epoch FROM now - h.granted_at)), \
             trunc(1000000 * extract(epoch FROM h.expires_at - now)), waiters, h.kind \
             FROM s LEFT JOIN LATERAL ( \
             SELECT s.token, s.label, s.granted_at, s.expires_at, 'exclusive' AS kind \
             WHERE s.request IS DISTINCT FROM {GROUP} AND s.expires_at > now UNION ALL \
             SELECT i.token, i.label, i.granted_at, i.expires_at, 'shared' FROM {schema}.member i \
             WHERE s.request = {GROUP} AND i.name = s.name AND i.token >= s.first_member \
             AND i.expires_at > now) h ON true ORDER BY name, h.token"
        );
        let rows = self.look(&sql).await?;
        let mut seen: Vec<Inspection> = Vec::new();
        for row in &rows {
            let name = column(row, 0).and_then(name_of).ok_or_else(|| garbled(&rows))?;
            // A row for each holder of a name, one after the other.
            if seen.last().is_none_or(|last| last.name != name) {
                seen.push(Inspection::new(name, Vec::new(), number(row, 5)));
            }
            if let (Some(of_name), Some(token)) = (seen.last_mut(), number(row, 1)) {
                let mut holder = Holder::new(column(row, 2).unwrap_or_default());
                holder.token = FencingToken::with_base(self.token_base, token).ok();
                holder.age = number(row, 3).map(Duration::from_micros);
                holder.expires_in = number(row, 4).map(Duration::from_micros);
                if column(row, 6) == Some("shared") {
                    holder.kind = Kind::Shared;
                }
                of_name.holders.push(holder);
            }
        }
        Ok(seen)
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
