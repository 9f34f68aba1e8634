//! What must hold before a change is merged.

use crate::Result;
use crate::steps::{Steps, has};
use crate::{licences, msrv, readme, room};

/// The static checks, then the commands of the README as they stand there.
pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::default();
    steps.cargo("fmt --all --check");
    steps.cargo("clippy --locked --workspace --all-targets --all-features -- -D warnings");
    steps.cargo("clippy --locked -p lockkit --all-targets --no-default-features -- -D warnings");
    let strict = [("RUSTDOCFLAGS", "-D warnings")];
    steps.command("cargo doc --locked --workspace --all-features --no-deps", &strict);
    steps.step("cargo xtask msrv", msrv::run);
    if has("cargo-deny") {
        steps.cargo("deny check");
    } else {
        steps.step(
            "licences and sources (cargo-deny is not installed: no advisories)",
            licences::run,
        );
    }
    for command in readme::commands()? {
        steps.command(&command, &[]);
    }
    steps.step("the room that all this took", room::run);
    steps.finish()
}
