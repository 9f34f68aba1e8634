//! The part of `cargo deny` that needs no download: licences, sources and duplicates.

use std::collections::BTreeMap;
use std::fs;

use crate::Result;
use crate::metadata::packages;
use crate::steps::root;

/// Checks every package of the lock file against the licences that `deny.toml` allows.
pub(crate) fn run() -> Result<()> {
    let deny = fs::read_to_string(root().join("deny.toml"))
        .map_err(|error| format!("deny.toml: {error}"))?;
    let allowed = allowed(&deny);
    let packages = packages()?;
    let mut faults = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages.iter().filter(|package| package.name != "xtask") {
        let name = format!("{} {}", package.name, package.version);
        if !satisfied(&package.licence, &allowed) {
            faults.push(format!("{name} has the licence {:?}", package.licence));
        }
        if package.source.as_deref().is_some_and(|source| !source.starts_with("registry+")) {
            faults.push(format!("{name} does not come from a registry"));
        }
        versions.entry(&package.name).or_default().push(&package.version);
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        eprintln!(
            "    note: {name} is there in {} versions: {}",
            versions.len(),
            versions.join(", ")
        );
    }
    if faults.is_empty() {
        eprintln!("    {} packages; licences allowed: {}", packages.len(), allowed.join(", "));
        return Ok(());
    }
    Err(faults.join("; "))
}

/// The texts between `allow = [` and the next `]`.
fn allowed(deny: &str) -> Vec<&str> {
    let list = deny.split_once("\nallow = [").and_then(|(_, rest)| rest.split_once(']'));
    list.map_or_else(Vec::new, |(list, _)| list.split('"').skip(1).step_by(2).collect())
}

/// Whether a licence expression can be met with the allowed ones alone.
///
/// It reads `AND` tighter than `OR`, as SPDX does, and takes brackets apart first; an exception
/// behind `WITH` only adds rights.
fn satisfied(expression: &str, allowed: &[&str]) -> bool {
    if let Some(close) = expression.find(')') {
        let open = expression[..close].rfind('(').unwrap_or(0);
        let inner = satisfied(expression[open..close].trim_start_matches('('), allowed);
        let word = if inner { allowed.first().copied().unwrap_or_default() } else { "refused" };
        let flat = format!("{}{word}{}", &expression[..open], &expression[close + 1..]);
        return satisfied(&flat, allowed);
    }
    expression.replace('/', " OR ").split(" OR ").any(|choice| {
        choice.split(" AND ").all(|term| {
            let licence = term.split(" WITH ").next().unwrap_or_default().trim();
            allowed.contains(&licence)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_read_as_spdx_does() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
        for (expression, expected) in [
            ("MIT", true),
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND GPL-3.0", false),
            ("((GPL-3.0 OR MIT) AND Apache-2.0) OR ISC", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("", false),
        ] {
            assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn the_allowed_licences_are_those_of_the_list() {
        assert_eq!(allowed("[licenses]\nallow = [\n  \"MIT\",\n  \"ISC\",\n]\n"), ["MIT", "ISC"]);
        assert_eq!(allowed("allow"), [""; 0]);
    }
}
