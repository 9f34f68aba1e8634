//! One client in two versions: of the oldest commit that shares today's layouts, and of today.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::steps::{output, root, run};

/// The last commit before stores had a mark of their layout, which is 1 in all of them. Where a store's
/// layout changes so that older clients cannot share it, this becomes the first commit that can.
const OLDEST: &str = "f896b5849c9622bf13bf9619789871d2f79b6293";
/// The variables that tell the tests of `testbed::versions` where the two programs are.
const VARIABLES: [&str; 2] = ["LOCKKIT_OLD_PEER", "LOCKKIT_NEW_PEER"];
/// The client's source, which both trees build.
const SOURCE: &str = "testbed/examples/peer.rs";

/// Builds both, and gives the variables for the tests.
pub(crate) fn build() -> Result<[(&'static str, String); 2]> {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let target = root().join(target);
    let place = target.join("peers");
    let tree = place.join(OLDEST);
    if !tree.join("Cargo.toml").exists() {
        check_out(&place, &tree)?;
    }
    let source = tree.join(SOURCE);
    make(source.parent().unwrap_or(&tree))?;
    copy(&root().join(SOURCE), &source)?;
    let [old, new] = VARIABLES;
    Ok([
        (old, peer(&tree, &target, &place.join("old-peer"))?),
        (new, peer(root(), &target, &place.join("new-peer"))?),
    ])
}

/// The tree of the oldest commit, from this repository's own history.
fn check_out(place: &Path, tree: &Path) -> Result<()> {
    if output(&format!("git cat-file -e {OLDEST}^{{commit}}")).is_err() {
        return Err(format!(
            "the commit {OLDEST}, which an old client is built from, is not in this clone: fetch the \
             whole history (git fetch --unshallow)"
        ));
    }
    make(tree)?;
    let archive = place.join("old.tar");
    run(Command::new("git").args(["archive", "--output"]).arg(&archive).arg(OLDEST))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(tree))
}

/// Builds the client in this tree. Both trees share the target directory, and so the builds of what they
/// depend on; the program is copied before the other one takes its place.
fn peer(tree: &Path, target: &Path, to: &Path) -> Result<String> {
    let build = "build --release --locked -p testbed --example peer";
    let mut cargo = Command::new("cargo");
    cargo.args(build.split(' ')).env("CARGO_TARGET_DIR", target);
    run(cargo.current_dir(tree))?;
    let built: PathBuf = target.join("release").join("examples").join("peer");
    copy(&built, to)?;
    Ok(to.display().to_string())
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = fs::copy(from, to).map(drop);
    copied.map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}
