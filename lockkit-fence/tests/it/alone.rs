//! What the crate depends on where only tokens are checked.

use std::process::Command;

#[test]
fn without_features_it_depends_on_thiserror_alone() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-p", "lockkit-fence", "--no-default-features"])
        .args(["--edges", "normal,build", "--target", "all", "--depth", "1", "--prefix", "none"])
        .args(["--format", "{lib}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(tree.status.success(), "{}", text(&tree.stderr));
    let listed = text(&tree.stdout);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["lockkit_fence", "thiserror"]);
}
