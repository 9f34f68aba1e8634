//! What is amiss with the server, as a client that has connected finds it at any time: it only reads.
//!
//! What makes connecting refuse a server is decided by `setup`, and told here in the same words.

use std::time::Duration;

use lockkit_core::kit::{examined, is_this_machine, refusal, refusals};
use lockkit_core::{Applied, Finding, Result, Severity};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::advisory::{MORE_LOCKS, budget_of, check_budget};
use crate::error::is_for_want_of_a_right;
use crate::line::{LIMIT, no_answer};
use crate::protocol::{Columns, column, garbled, number};
use crate::rights::lacking;
use crate::setup::{Asks, FITNESS, Over, Server, look, missing};
use crate::{PostgresConfig, Strategy};

/// By how much the server's clock may seem to have gone back: a clock that is slewed stays far below.
const BACK: f64 = 1.0;

/// What one statement tells of the server's settings and of what is left of its limits.
///
/// Of the other sessions, a role without rights of its own sees the user and the database.
const SETTINGS: &str = "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
    current_setting('autovacuum'), current_setting('synchronous_standby_names'), \
    (SELECT count(*) FROM pg_stat_replication), \
    current_setting('max_connections')::int - CASE WHEN r.rolsuper THEN 0 ELSE \
    current_setting('superuser_reserved_connections')::int \
    + coalesce(current_setting('reserved_connections', true)::int, 0) END \
    - (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL), \
    CASE WHEN NOT r.rolsuper AND r.rolconnlimit >= 0 THEN r.rolconnlimit \
    - (SELECT count(*) FROM pg_stat_activity WHERE usesysid = r.oid) END, \
    CASE WHEN NOT r.rolsuper AND d.datconnlimit >= 0 THEN d.datconnlimit \
    - (SELECT count(*) FROM pg_stat_activity WHERE datid = d.oid) END, \
    (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), \
    quote_ident(r.rolname), quote_ident(d.datname) \
    FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()";

/// What is amiss, the worst first; `is_direct`: no pooler is between the client and the server.
pub(crate) async fn examine(
    config: &PostgresConfig,
    asks: &dyn Asks,
    is_direct: bool,
) -> Result<Vec<Finding>> {
    // A statement that is not answered ends a little earlier by itself, and gives up a connection that is stuck.
    let silent = || no_answer(Applied::No, LIMIT);
    examined(LIMIT + LIMIT / 20, all(config, asks, is_direct), silent).await
}

async fn all(config: &PostgresConfig, asks: &dyn Asks, is_direct: bool) -> Result<Vec<Finding>> {
    let mut over = Over::Connected(asks);
    let settings = match over.ask(SETTINGS.to_owned()).await {
        Ok(mut rows) => rows.pop().ok_or_else(|| garbled(&rows))?,
        // The login, or a certificate: there is nothing else to see.
        Err(error) => return Ok(vec![refusal(error)?]),
    };
    let mut found = of_settings(&settings, config.strategy);
    found.extend(of_limits(&settings, config.connections, is_direct));
    found.extend(of_wire(config, column(&settings, 8) == Some("t"), is_direct));
    let lacking = lacking(config, &mut over, column(&settings, 9).unwrap_or_default()).await?;
    let lacks_some = lacking.iter().any(|finding| finding.severity == Severity::Danger);
    found.extend(lacking);
    match of_objects(config, &mut over, &mut found).await {
        // It was told more exactly.
        Err(error) if lacks_some && is_for_want_of_a_right(&error) => {}
        Err(error) => found.push(refusal(error)?),
        Ok(()) => {}
    }
    Ok(found)
}

/// What makes connecting refuse a server, and what our own tables tell.
async fn of_objects(
    config: &PostgresConfig,
    over: &mut Over<'_>,
    found: &mut Vec<Finding>,
) -> Result<()> {
    let seen = look(config, over).await?;
    let unfit = refusals(FITNESS.iter().map(|check| check(&seen)))?;
    let is_fit = unfit.is_empty();
    found.extend(unfit);
    let is_table = config.strategy == Strategy::Table;
    if !is_table {
        let Server { lock_table, locks } = Server::of(&seen)?;
        found.extend(of_budget(locks, budget_of(config.budget, lock_table))?);
    }
    match missing(config, over, &seen).await? {
        Some(missing) => found.push(refusal(missing.refusal(config))?),
        // A standby does not show its unlogged tables.
        None if is_table && is_fit => found.extend(of_rows(config, over).await?),
        None => {}
    }
    Ok(())
}

fn of_settings(settings: &Columns, strategy: Strategy) -> Vec<Finding> {
    let is_off = |n: usize| column(settings, n) == Some("off");
    let standbys: u32 = number(settings, 4).unwrap_or(0);
    let names_standbys = column(settings, 3).is_some_and(|names| !names.is_empty());
    let all = [
        (
            is_off(0),
            Severity::Danger,
            "fsync is off: a crash of the machine loses what the server has acknowledged, and may damage it",
            "set fsync = on",
        ),
        (
            is_off(1),
            Severity::Warning,
            "full_page_writes is off: a crash of the machine may leave pages half written",
            "set full_page_writes = on, unless the file system never writes half a page",
        ),
        (
            is_off(2) && strategy == Strategy::Table,
            Severity::Warning,
            "autovacuum is off: old versions of our rows are not removed, and calls grow slower",
            "set autovacuum = on",
        ),
        (
            names_standbys && standbys == 0,
            Severity::Danger,
            "synchronous_standby_names is set and no standby follows: what must outlive a crash is never \
             acknowledged",
            "connect the standby, or empty synchronous_standby_names",
        ),
        (
            standbys > 0,
            Severity::Note,
            "a standby follows: where it is promoted it may lack the last grants",
            "stop the old primary before a standby is promoted",
        ),
    ];
    let told = all.into_iter().filter(|(is_so, ..)| *is_so);
    told.map(|(_, severity, what, remedy)| Finding::new(severity, what, remedy)).collect()
}

/// How many connections are left, of each limit.
fn of_limits(settings: &Columns, connections: usize, is_direct: bool) -> Vec<Finding> {
    // A pooler makes them, as many as it likes.
    let wanted = if is_direct { i64::try_from(connections).unwrap_or(i64::MAX) } else { 1 };
    let (role, database) = (column(settings, 9), column(settings, 10));
    let alter = |what: &str, name: Option<&str>| {
        format!("ALTER {what} {} CONNECTION LIMIT with a higher limit", name.unwrap_or_default())
    };
    let all = [
        (
            5,
            "the server's",
            "raise max_connections, or give clients fewer `connections`".to_owned(),
        ),
        (6, "this role's", alter("ROLE", role)),
        (7, "this database's", alter("DATABASE", database)),
    ];
    let low = all.into_iter().filter_map(|(n, of, remedy)| {
        let left = number::<i64>(settings, n).filter(|left| *left < wanted)?.max(0);
        let severity = if left == 0 { Severity::Danger } else { Severity::Warning };
        let what = format!(
            "connections left of {of} limit: {left}, and this client makes up to {connections}"
        );
        Some(Finding::new(severity, what, remedy))
    });
    low.collect()
}

/// What goes over the wire, and through which hands.
fn of_wire(config: &PostgresConfig, is_tls: bool, is_direct: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    if !is_direct {
        found.push(Finding::new(
            Severity::Note,
            "a pooler is between: waiters are not told, and ask every 250 ms",
            "connect to the server itself",
        ));
    }
    // Behind a pooler the server knows only of the connection from there.
    let is_never =
        !cfg!(feature = "tls") || matches!(config.options.get_ssl_mode(), PgSslMode::Disable);
    let is_plain = if is_direct { !is_tls } else { is_never };
    if is_plain && !is_local(&config.options) {
        let host = config.options.get_host();
        let (severity, what) = if config.has_password {
            (Severity::Warning, "a login with a password")
        } else {
            (Severity::Note, "all that we ask")
        };
        found.push(Finding::new(
            severity,
            format!("{what} goes to {host} without TLS"),
            "give sslmode=verify-full (feature `tls`), and turn TLS on at the server",
        ));
    }
    found
}

/// Whether what we send stays on this machine.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some() || host.starts_with('/') || is_this_machine(host)
}

/// How much of the budget of advisory locks is used.
fn of_budget(locks: usize, budget: usize) -> Result<Option<Finding>> {
    if let Err(full) = check_budget(locks, budget) {
        return refusal(full).map(Some);
    }
    // A quarter of it is left, or less.
    let what = format!("the server has {locks} advisory locks, and the budget is {budget}");
    let is_low = locks >= budget - budget / 4;
    Ok(is_low.then(|| Finding::new(Severity::Warning, what, MORE_LOCKS)))
}

/// What our tables tell of the server's clock, and of a crash.
async fn of_rows(config: &PostgresConfig, over: &mut Over<'_>) -> Result<Vec<Finding>> {
    let schema = &config.schema;
    // The rows of clients are few, and written by the server's clock alone.
    let ask = format!(
        "SELECT extract(epoch FROM (SELECT max(last_seen) FROM {schema}.client) - clock_timestamp()), \
         (SELECT 1000 * extract(epoch FROM open_at - clock_timestamp()) FROM {schema}.marker), \
         (SELECT ms FROM {schema}.barrier WHERE NOT EXISTS (SELECT FROM {schema}.marker))"
    );
    let mut rows = over.ask(ask).await?;
    let row = rows.pop().ok_or_else(|| garbled(&rows))?;
    let mut found = Vec::new();
    if let Some(back) = number::<f64>(&row, 0).filter(|back| *back > BACK) {
        found.push(Finding::new(
            Severity::Warning,
            format!("the server's clock has gone back by {back:.1} s: leases of before last longer by as much"),
            "have the clock slewed, and never set, while programs hold locks",
        ));
    }
    let opens_in = number::<f64>(&row, 1).or_else(|| number(&row, 2)).filter(|ms| *ms >= 1.0);
    if let Some(ms) = opens_in {
        let opens_in = Duration::from_secs_f64(ms.round() / 1000.0);
        found.push(Finding::new(
            Severity::Note,
            format!("the server has crashed or was promoted: it grants again in {opens_in:?}"),
            "wait for it, or set a smaller `barrier` from now on",
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str, is_tls: bool, is_direct: bool) -> Vec<Severity> {
        let config = PostgresConfig::from_url(url).expect("a configuration");
        of_wire(&config, is_tls, is_direct).into_iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn a_password_without_tls_is_told_unless_it_stays_on_this_machine() {
        let local =
            ["localhost", "127.0.0.1", "[::1]", "127.8.9.1", "x?host=/run/db", "x?host=[::1]"];
        for host in local {
            assert_eq!(of(&format!("postgres://app:secret@{host}"), false, true), [], "{host}");
        }
        for host in ["db.internal", "192.0.2.1", "[2001:db8::1]", "localhost.example.com"] {
            let with = format!("postgres://app:secret@{host}");
            assert_eq!(of(&with, false, true), [Severity::Warning], "{host}");
            assert_eq!(of(&with, true, true), [], "{host}");
            let told = PostgresConfig::from_url(&with).expect("a configuration");
            let told = format!("{:?}", of_wire(&told, false, true));
            assert!(!told.contains("secret") && told.contains("password"), "{told}");
            let without = format!("postgres://app@{host}");
            assert_eq!(of(&without, false, true), [Severity::Note], "{host}");
        }
        let option = "postgres://db.internal?user=app&password=secret";
        assert_eq!(of(option, false, true), [Severity::Warning]);
    }

    #[test]
    fn behind_a_pooler_only_our_own_mode_tells_whether_we_speak_tls() {
        let pooler = Severity::Note;
        let disabled = "postgres://app:secret@db.internal?sslmode=disable";
        assert_eq!(of(disabled, true, false), [pooler, Severity::Warning]);
        #[cfg(feature = "tls")]
        assert_eq!(of("postgres://app:secret@db.internal", false, false), [pooler]);
    }
}
