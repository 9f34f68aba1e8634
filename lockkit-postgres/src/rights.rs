//! The rights that a role needs on our objects, and those that it lacks.

use lockkit_core::{Finding, Result, Severity};

use crate::config::SCHEMA;
use crate::protocol::{column, quoted};
use crate::setup::Over;
use crate::{PostgresConfig, Strategy};

/// What each strategy asks of our objects: the object, and the rights on it.
const TABLE: &[(&str, &[&str])] = &[
    ("lease", &["SELECT", "INSERT", "UPDATE"]),
    ("waiter", &["SELECT", "INSERT", "DELETE"]),
    ("client", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("member", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("barrier", &["SELECT", "UPDATE"]),
    ("marker", &["SELECT", "INSERT", "UPDATE"]),
    ("ticket", &["USAGE"]),
    ("acquire", EXECUTE),
    ("leave", EXECUTE),
    ("renew", EXECUTE),
    ("revoke", EXECUTE),
    ("beat", EXECUTE),
    ("poke", EXECUTE),
    ("raise_barrier", EXECUTE),
    ("grant_next", EXECUTE),
    ("moved", EXECUTE),
    ("make", EXECUTE),
    ("bury", EXECUTE),
    ("without_members", EXECUTE),
    ("join", EXECUTE),
    ("pruned", EXECUTE),
    ("keep_group", EXECUTE),
    ("extend", EXECUTE),
    ("acquire_member", EXECUTE),
    ("renew_member", EXECUTE),
    ("leave_member", EXECUTE),
    ("table_layout", EXECUTE),
];
const ADVISORY: &[(&str, &[&str])] = &[
    ("token", &["USAGE"]),
    ("epoch", &["SELECT", "UPDATE"]),
    ("no_crash_since", &["SELECT", "INSERT"]),
    ("enter", EXECUTE),
    ("wait", EXECUTE),
    ("wait_shared", EXECUTE),
    ("holds", EXECUTE),
    ("next_token", EXECUTE),
];
const VERSION: &[(&str, &[&str])] = &[("lockkit_version", EXECUTE)];
/// Where the fence is used.
const FENCE: &[(&str, &[&str])] = &[("fence", &["SELECT", "INSERT", "UPDATE", "EXECUTE"])];
const EXECUTE: &[&str] = &["EXECUTE"];

/// Which rights this role lacks.
pub(crate) async fn lacking(
    config: &PostgresConfig,
    over: &mut Over<'_>,
    role: &str,
) -> Result<Vec<Finding>> {
    let rows = over.ask(lacking_sql(config)).await?;
    let lacks = |is_needed: bool| {
        let of = if is_needed { "t" } else { "f" };
        let those = rows.iter().filter(move |row| column(row, 0) == Some(of));
        those.filter_map(|row| column(row, 1)).collect::<Vec<_>>()
    };
    let told = [(true, Severity::Danger, ""), (false, Severity::Note, ", where the fence is used")];
    let found = told.into_iter().filter_map(|(is_needed, severity, when)| {
        let lacks = lacks(is_needed);
        let grants = lacks.iter().map(|right| format!("GRANT {right} TO {role}"));
        let (what, grants) = (lacks.join(", "), grants.collect::<Vec<_>>().join("; "));
        let what = format!("the role {role} lacks {what}{when}");
        (!lacks.is_empty()).then(|| Finding::new(severity, what, grants))
    });
    Ok(found.collect())
}

/// Asks the catalog, which every role may read, and which knows nothing of objects that are not there.
fn lacking_sql(config: &PostgresConfig) -> String {
    let schema = config.schema.as_str();
    let own = match config.strategy {
        Strategy::Table => (true, schema, TABLE),
        // Whatever the schema of the rest.
        Strategy::Advisory => (true, SCHEMA, ADVISORY),
    };
    let wanted = [own, (true, schema, VERSION), (false, schema, FENCE)];
    let rows = wanted.into_iter().flat_map(|(is_needed, schema, objects)| {
        objects.iter().flat_map(move |(object, rights)| {
            let schema = quoted(schema);
            rights
                .iter()
                .map(move |right| format!("({is_needed}, {schema}, '{object}', '{right}')"))
        })
    });
    let rows = rows.collect::<Vec<_>>().join(", ");
    format!(
        "WITH wanted(needed, place, object, right_) AS (VALUES {rows}), \
         w AS (SELECT wanted.*, n.oid AS at FROM wanted JOIN pg_namespace n ON n.nspname = place), \
         lacks AS (SELECT needed, format('%s ON %s%I.%I', right_, \
         CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE '' END, place, object) AS grant_ \
         FROM w JOIN pg_class c ON c.relnamespace = w.at AND c.relname = object \
         WHERE right_ <> 'EXECUTE' AND NOT CASE c.relkind WHEN 'S' \
         THEN has_sequence_privilege(c.oid, right_) ELSE has_table_privilege(c.oid, right_) END \
         UNION ALL SELECT needed, 'EXECUTE ON ALL FUNCTIONS IN SCHEMA ' || quote_ident(place) \
         FROM w JOIN pg_proc p ON p.pronamespace = w.at AND p.proname = object \
         WHERE right_ = 'EXECUTE' AND NOT has_function_privilege(p.oid, 'EXECUTE') \
         UNION ALL SELECT needed, 'USAGE ON SCHEMA ' || quote_ident(place) FROM w \
         WHERE NOT has_schema_privilege(w.at, 'USAGE')) \
         SELECT bool_or(needed), grant_ FROM lacks GROUP BY grant_ ORDER BY grant_"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_to_call_each_function_of_ours_is_looked_at() {
        // For operators; for old programs; for other languages.
        let others = ["forget", "refuse", "key"];
        let listed = [TABLE, ADVISORY, VERSION, FENCE].concat();
        let scripts = [
            include_str!("sql/table.sql"),
            include_str!("sql/member.sql"),
            include_str!("sql/advisory.sql"),
            include_str!("sql/setup.sql"),
        ];
        for script in scripts {
            for made in script.split("CREATE OR REPLACE FUNCTION ").skip(1) {
                let name = made.split('(').next().and_then(|made| made.split('.').nth(1));
                let name = name.expect("a name");
                let is_listed = listed
                    .iter()
                    .any(|(object, rights)| *object == name && rights.contains(&"EXECUTE"));
                assert!(is_listed || others.contains(&name), "{name}");
            }
        }
    }
}
