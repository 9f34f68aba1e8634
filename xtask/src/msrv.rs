//! The Rust version that each crate declares: is it true?

use std::collections::BTreeSet;

use crate::Result;
use crate::metadata::{Package, packages};
use crate::steps::{Steps, output};

/// Features that bring a dependency whose own Rust version is later than that of the crate. Its README says so.
const LATER: &[(&str, &[&str])] = &[(
    "lockkit-fence",
    &[
        "etcd",
        "file",
        "http",
        "object-store",
        "redis",
        "sqlx-mysql",
        "sqlx-postgres",
        "sqlx-sqlite",
        "zookeeper",
    ],
)];

/// Checks that no dependency of a crate declares a later Rust version than the crate, and builds
/// with that version where it is installed.
///
/// Clippy's `incompatible_msrv` looks after the standard library's own functions.
pub(crate) fn run() -> Result<()> {
    let packages = packages()?;
    let toolchains = output("rustup toolchain list").unwrap_or_default();
    let mut steps = Steps::default();
    for package in packages.iter().filter(|package| package.is_ours()) {
        let Package { name, rust_version, .. } = package;
        let Some(declared) = rust_version else {
            steps.step(name, || Err("it declares no rust-version".to_owned()));
            continue;
        };
        steps.step(&format!("{name}: its dependencies accept Rust {declared}"), || {
            dependencies_accept(declared, package, &packages)
        });
        match toolchains.lines().find_map(|line| installed(line, declared)) {
            Some(toolchain) => steps.command(
                &format!(
                    "rustup run {toolchain} cargo check --locked -p {name} --lib {}",
                    features(package, &packages)
                ),
                &[],
            ),
            None => eprintln!(
                "    not built with {declared}, so its language is not checked: rustup has no such \
                 toolchain here"
            ),
        }
    }
    steps.finish()
}

fn dependencies_accept(declared: &str, ours: &Package, packages: &[Package]) -> Result<()> {
    // cargo tree resolves the features of this crate alone, as its users' builds do.
    let tree = output(&format!(
        "cargo tree --locked -p {} {} --edges normal,build --target all --prefix none --format {{p}}",
        ours.name,
        features(ours, packages)
    ))?;
    let used: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next().zip(line.split_whitespace().nth(1)))
        .collect();
    let limit = numbers(declared)?;
    let mut later = Vec::new();
    for (name, version) in &used {
        let package = packages
            .iter()
            .find(|package| {
                package.name == *name && version.strip_prefix('v') == Some(&package.version)
            })
            .ok_or_else(|| format!("cargo metadata does not know {name} {version}"))?;
        if let Some(needs) = &package.rust_version
            && numbers(needs)? > limit
        {
            later.push(format!("{name} {version} needs {needs}"));
        }
    }
    if later.is_empty() {
        eprintln!("    {} packages", used.len());
        return Ok(());
    }
    Err(format!("{} declares {declared}, but {}", ours.name, later.join(", ")))
}

/// All features but those that bring a store whose own crate declares a later version, or are known to need one.
fn features(ours: &Package, packages: &[Package]) -> String {
    let declared = |package: &Package| numbers(package.rust_version.as_deref()?).ok();
    let known =
        LATER.iter().filter(|(name, _)| *name == ours.name).flat_map(|(_, features)| *features);
    let known: BTreeSet<&str> = known.copied().collect();
    let is_later = |feature: &&String| {
        if known.contains(&***feature) {
            return true;
        }
        let store = format!("lockkit-{feature}");
        let store = packages.iter().find(|package| package.is_ours() && package.name == store);
        store.is_some_and(|store| declared(store) > declared(ours))
    };
    let rest: Vec<&str> =
        ours.features.iter().filter(|feature| !is_later(feature)).map(String::as_str).collect();
    // Cargo takes no empty list.
    let rest = rest.iter().map(|feature| format!(" --features {feature}")).collect::<String>();
    format!("--no-default-features{rest}")
}

/// `1.85` as it compares: padded with zeros.
fn numbers(version: &str) -> Result<[u32; 3]> {
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(version.split(['.', '-'])) {
        *number = part.parse().map_err(|_| format!("{version} is not a Rust version"))?;
    }
    Ok(numbers)
}

/// The name of the toolchain in a line of `rustup toolchain list`, if it is of this version.
fn installed<'a>(line: &'a str, version: &str) -> Option<&'a str> {
    let toolchain = line.split_whitespace().next()?;
    let number = toolchain.split('-').next()?;
    (numbers(number).ok()? == numbers(version).ok()?).then_some(toolchain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.100") > numbers("1.85.1"));
        assert_eq!(numbers("1.85"), numbers("1.85.0"));
        assert!(numbers("stable").is_err());
    }

    #[test]
    fn a_toolchain_is_found_by_its_version() {
        let line = "1.85.0-x86_64-unknown-linux-gnu (active)";
        assert_eq!(installed(line, "1.85"), Some("1.85.0-x86_64-unknown-linux-gnu"));
        assert_eq!(installed(line, "1.89"), None);
        assert_eq!(installed("stable-x86_64-unknown-linux-gnu", "1.85"), None);
    }
}
