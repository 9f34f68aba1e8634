//! What must hold before a change is merged.

use crate::Result;
use crate::steps::{Steps, has};
use crate::{circles, licences, matrix, msrv, readme, room, setup, test};

/// The commands of the README as they stand there, then what they leave out.
pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::default();
    for command in readme::commands()? {
        steps.command(&command, &[]);
    }
    // The README's command for the tests did it already, unless it failed.
    steps.step("cargo xtask setup", setup::run);
    steps.step("the tests of every store that are not in the first tier", test::stores);
    steps.cargo("test --locked --workspace --all-features --doc");
    steps.cargo("fmt --all --check");
    steps.cargo("clippy --locked --workspace --all-targets --all-features -- -D warnings");
    steps.cargo("clippy --locked -p lockkit --all-targets --no-default-features -- -D warnings");
    let strict = [("RUSTDOCFLAGS", "-D warnings")];
    steps.command("cargo doc --locked --workspace --all-features --no-deps", &strict);
    steps.step("each feature alone, and the examples", matrix::run);
    steps.step("cargo xtask circles", circles::check);
    steps.step("cargo xtask msrv", msrv::run);
    if has("cargo-deny") {
        steps.cargo("deny check");
    } else {
        steps.step(
            "licences and sources (cargo-deny is not installed: no advisories)",
            licences::run,
        );
    }
    steps.step("the room that all this took", room::run);
    steps.finish()
}
