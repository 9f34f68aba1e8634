//! What must hold before a change is merged.

use crate::Result;
use crate::steps::{Steps, has};
use crate::{licences, msrv, readme, room, setup};

/// The commands of the README as they stand there, and the static checks.
///
/// What the README promises without an installation comes before one; the tests come last.
pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::default();
    let (last, first): (Vec<String>, Vec<String>) =
        readme::commands()?.into_iter().partition(|command| command == readme::TEST);
    steps.cargo("fmt --all --check");
    for command in first {
        steps.command(&command, &[]);
    }
    // Whatever has to do with etcd needs protoc to build.
    steps.step("cargo xtask setup", setup::run);
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
    for command in last {
        steps.command(&command, &[]);
    }
    steps.step("the room that all this took", room::run);
    steps.finish()
}
