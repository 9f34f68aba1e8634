//! What the tests' one build with all features cannot show: each feature alone, and the examples as
//! a user runs them.

use std::{env, fs, process};

use crate::Result;
use crate::metadata::{Package, packages};
use crate::steps::Steps;

/// The examples that a test of the first tier runs already, suite and all.
const RUN_BY_A_TEST: &[&str] = &["own_backend"];

/// Checks every combination of features that a user is likely to choose, and runs every example.
pub(crate) fn run() -> Result<()> {
    let packages = packages()?;
    let mut steps = Steps::default();
    for package in packages.iter().filter(|package| package.is_ours()) {
        features(&mut steps, package);
        examples(&mut steps, package);
    }
    // What these say of features that are not built in stands in no other build.
    steps.cargo("test --locked -p lockkit --no-default-features --tests");
    steps.finish()
}

/// The packages whose tests and examples are built by themselves too: those that users and authors of backends begin
/// with. Of each store's tests that takes half a minute.
const WITH_TESTS: &[&str] = &["lockkit", "lockkit-core"];

/// Its features are the facade's, which are built alone there.
const FEATURES_OF_ANOTHER: &[&str] = &["lockkit-cli"];

/// Each feature must build alone; `--lib` keeps the dev-dependencies' features out. What a package's
/// tests and examples need must be said, so that its own `cargo test` works.
fn features(steps: &mut Steps, package: &Package) {
    if WITH_TESTS.contains(&package.name.as_str()) {
        steps.cargo(&format!("check --locked -p {} --all-targets", package.name));
    }
    let check = format!("check --locked -p {} --lib --no-default-features", package.name);
    steps.cargo(&check);
    if FEATURES_OF_ANOTHER.contains(&package.name.as_str()) {
        return;
    }
    for feature in package.features.iter().filter(|feature| *feature != "default") {
        steps.cargo(&format!("{check} --features {feature}"));
    }
}

/// Each example runs as it is, and with the URL of a store that processes share.
fn examples(steps: &mut Steps, package: &Package) {
    let directory = env::temp_dir().join(format!("lockkit-xtask-{}", process::id()));
    for example in &package.examples {
        if RUN_BY_A_TEST.contains(&example.as_str()) {
            continue;
        }
        let run = format!("run --locked -p {} --example {example}", package.name);
        steps.cargo(&run);
        if cfg!(unix) {
            steps.cargo(&format!("{run} -- file:{}", directory.display()));
        }
    }
    // It is there only if an example made it.
    fs::remove_dir_all(directory).ok();
}
