//! Every test of the workspace.

use crate::Result;
use crate::metadata::{Package, packages};
use crate::setup;
use crate::steps::Steps;

/// Sets up what is missing, then runs everything; the test suites come last, so that their results
/// are what one sees.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let packages = packages()?;
    let mut steps = Steps::default();
    for package in packages.iter().filter(|package| package.is_ours()) {
        features(&mut steps, package);
    }
    for package in packages.iter().filter(|package| package.source.is_none()) {
        for example in &package.examples {
            steps.cargo(&format!("run --locked -p {} --example {example}", package.name));
        }
    }
    steps.cargo("test --locked -p lockkit --no-default-features --tests");
    steps.cargo("test --locked --workspace --all-features --no-fail-fast");
    steps.finish()
}

/// Each feature must build alone; `--lib` keeps the dev-dependencies' features out.
fn features(steps: &mut Steps, package: &Package) {
    let check = format!("check --locked -p {} --lib --no-default-features", package.name);
    steps.cargo(&check);
    for feature in package.features.iter().filter(|feature| *feature != "default") {
        steps.cargo(&format!("{check} --features {feature}"));
    }
}
