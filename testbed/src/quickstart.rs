//! The facade's example `quickstart` on a real server.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

/// Built with all features, as all the tests are: beside them there is nothing left to build.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let build = "build --locked --quiet --workspace --all-features --example quickstart";
    let built = Command::new("cargo")
        .args(build.split(' '))
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(built.status.success(), "{}", said(&built));
    let messages = String::from_utf8_lossy(&built.stdout);
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "quickstart").then_some(())?;
        message["executable"].as_str().map(PathBuf::from)
    });
    program.expect("cargo says where the example is")
});

/// Runs it on the store at `url`, and checks that it tells its whole story: eight grants, and a
/// frozen holder's write that is refused.
///
/// # Panics
/// Where it cannot be built or run, or fails, or a part of the story is missing.
pub fn tells_its_story(url: &str) {
    let told = Command::new(&*PROGRAM).arg(url).output().expect("the quickstart");
    let story = said(&told);
    assert!(told.status.success(), "{story}");
    assert_eq!(story.matches("holds token").count(), 8, "{story}");
    for part in ["freezes", "the late write is refused", "is stale"] {
        assert!(story.contains(part), "{story}");
    }
}

fn said(ended: &Output) -> String {
    String::from_utf8_lossy(&[&*ended.stdout, &ended.stderr].concat()).into_owned()
}
