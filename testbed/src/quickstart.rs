//! The facade's example `quickstart` on a real server.

use std::fs::File;
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.rs");

/// Runs it with this feature of the facade on the store at `url`, and checks that it tells its
/// whole story: eight grants, and a frozen holder's write that is refused.
///
/// # Panics
/// Where it cannot be run or fails, or a part of the story is missing.
pub fn tells_its_story(feature: &str, url: &str) {
    // It starts itself again, and building it for another feature would replace it meanwhile.
    let one_at_a_time = File::open(SOURCE).expect("the example");
    one_at_a_time.lock().expect("a lock on the example");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "-p", "lockkit", "--features", feature])
        .args(["--example", "quickstart", "--", url])
        .output()
        .expect("cargo");
    let (story, errors) = (&output.stdout, &output.stderr);
    let (story, errors) = (String::from_utf8_lossy(story), String::from_utf8_lossy(errors));
    assert!(output.status.success(), "{story}{errors}");
    assert_eq!(story.matches("holds token").count(), 8, "{story}");
    for part in ["freezes", "the late write is refused", "is stale"] {
        assert!(story.contains(part), "{story}");
    }
}
