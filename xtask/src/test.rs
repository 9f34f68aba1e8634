//! Every test of the workspace.

use std::{env, fs, process};

use crate::Result;
use crate::metadata::{Package, packages};
use crate::steps::Steps;
use crate::{setup, suites};

/// Sets up what is missing, then runs everything; the test suites come last, so that their results
/// are what one sees.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let packages = packages()?;
    let mut steps = Steps::default();
    for package in packages.iter().filter(|package| package.is_ours()) {
        features(&mut steps, package);
        examples(&mut steps, package);
    }
    steps.cargo("test --locked -p lockkit --no-default-features --tests");
    steps.cargo(&optimized("longer a_million a_right_store"));
    steps.cargo("test --locked --workspace --all-features --doc");
    steps.step("every test program", suites::run);
    steps.finish()
}

/// What is optimized for the tests that ask for speed: the core, and where random histories come from.
const FAST: &[&str] =
    &["lockkit-core", "proptest", "rand", "rand_core", "rand_chacha", "ppv-lite86"];

/// The tests of the core that ask for speed, or look at more with it: these alone with optimization,
/// and most of their dependencies are built already.
fn optimized(tests: &str) -> String {
    let fast = FAST.iter().map(|package| format!("--config profile.dev.package.{package}"));
    let fast: Vec<String> = fast.map(|package| format!("{package}.opt-level=2")).collect();
    let unchecked = "--config profile.dev.package.lockkit-core.debug-assertions=false";
    let suites = "-p lockkit-core --features conformance --lib --test history";
    let run = format!("test --locked {suites} -- --include-ignored {tests}");
    format!("{} {unchecked} {run}", fast.join(" "))
}

/// Each feature must build alone; `--lib` keeps the dev-dependencies' features out. What a package's
/// tests and examples need must be said, so that its own `cargo test` works.
fn features(steps: &mut Steps, package: &Package) {
    steps.cargo(&format!("check --locked -p {} --all-targets", package.name));
    let check = format!("check --locked -p {} --lib --no-default-features", package.name);
    steps.cargo(&check);
    for feature in package.features.iter().filter(|feature| *feature != "default") {
        steps.cargo(&format!("{check} --features {feature}"));
    }
}

/// The examples that bring their store with them.
const WITHOUT_URL: &[&str] = &["own_backend"];

/// Each example runs as it is, and with the URL of a store that processes share.
fn examples(steps: &mut Steps, package: &Package) {
    let directory = env::temp_dir().join(format!("lockkit-xtask-{}", process::id()));
    for example in &package.examples {
        let run = format!("run --locked -p {} --example {example}", package.name);
        steps.cargo(&run);
        if cfg!(unix) && !WITHOUT_URL.contains(&example.as_str()) {
            steps.cargo(&format!("{run} -- file:{}", directory.display()));
        }
    }
    // It is there only if an example made it.
    fs::remove_dir_all(directory).ok();
}
