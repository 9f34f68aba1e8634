//! What a client finds amiss with its directory, its files, and the limits of the process.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::bad_input::{as_a_stranger, may_mount, with_mode};
use crate::common::{Role, child_directory, command, provider, request};
use lockkit_core::{Grant, LockProvider, Severity};
use lockkit_file::{FileConfig, FileProvider};
use testbed::findings::{amiss, examined, only};

async fn take(provider: &FileProvider, name: &str) -> Grant {
    provider.try_acquire(&request(name)).await.expect("an answer").expect("free")
}

#[tokio::test]
async fn a_plain_directory_has_nothing_amiss() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    assert_eq!(amiss(&provider).await, []);
    let grant = take(&provider, "a").await;
    take(&provider, &"long/".repeat(60)).await;
    assert_eq!(amiss(&provider).await, []);
    grant.lease.release().await.expect("released");
    assert_eq!(amiss(&provider).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_examination_beside_grants_finds_nothing_and_takes_no_name() {
    let store = tempfile::tempdir().expect("a directory");
    let (ours, others) = (provider(store.path()).await, provider(store.path()).await);
    let granting = tokio::spawn(async move {
        for number in 0..200 {
            // A new one, and one that only they use.
            for name in [format!("new{number}"), "old".to_owned()] {
                take(&others, &name).await.lease.release().await.expect("released");
            }
        }
    });
    let mut examinations = 0;
    while !granting.is_finished() {
        assert_eq!(amiss(&ours).await, []);
        examinations += 1;
    }
    granting.await.expect("all were granted at once");
    assert!(examinations > 10, "{examinations}");
}

#[tokio::test]
async fn a_directory_for_all_or_of_two_rights_is_found_and_one_that_is_gone_too() {
    let store = tempfile::tempdir().expect("a directory");
    with_mode(store.path(), 0o777);
    let shared = provider(store.path()).await;
    only(&amiss(&shared).await, Severity::Warning, &["every user may write", "chmod 700"]);
    with_mode(store.path(), 0o770);
    only(&amiss(&shared).await, Severity::Warning, &[".lockkit has other rights", "mode (770)"]);
    with_mode(&store.path().join(".lockkit"), 0o770);
    assert_eq!(amiss(&shared).await, []);
    fs::remove_dir_all(store.path()).expect("removed");
    only(&amiss(&shared).await, Severity::Danger, &["directory is gone", "create it again"]);
}

#[test]
fn a_user_without_rights_finds_that_out() {
    let store = tempfile::tempdir().expect("a directory");
    let twins = store.path().join(".lockkit");
    fs::create_dir(&twins).expect("created");
    let role = "examine::child_that_examines";
    let findings = || {
        let (_program, mut child) = as_a_stranger(role, store.path());
        let found = child.hear("found ");
        child.finish();
        found
    };
    with_mode(store.path(), 0o555);
    with_mode(&twins, 0o555);
    let found = findings();
    assert!(found.starts_with("danger: using ") && found.contains("chmod"), "{found}");
    assert!(found.contains("ermission denied"), "{found}");
    // As flock(1) makes a file, under the umask of another user.
    with_mode(&twins, 0o777);
    with_mode(store.path(), 0o777);
    for name in ["a.lock", "b.lock"] {
        fs::write(store.path().join(name), "").expect("written");
        with_mode(&store.path().join(name), 0o444);
    }
    let found = findings();
    let words = [".lock: ", "ermission denied", "(2 such names)", "chmod", "strangers"];
    assert!(words.iter().all(|word| found.contains(word)), "{found}");
    assert!(found.starts_with("danger: opening "), "{found}");
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_examines() {
    let found = amiss(&provider(&child_directory()).await).await;
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    eprintln!("found {}", found.join(" | "));
}

/// This program in that role, by a shell that does this first.
fn after(first: &str, program: &str, arguments: &[&str], role: &str, directory: &Path) -> Role {
    let asked = command(role, directory);
    let mut command = Command::new(program);
    command.args(arguments).args(["sh", "-c", &format!(r#"{first} && exec "$0" "$@""#)]);
    command.arg(asked.get_program()).args(asked.get_args());
    command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PLACE", directory.parent().expect("a parent"));
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    Role::spawn(command)
}

#[test]
fn a_file_system_that_is_nearly_full_is_found_and_a_full_one_too() {
    let place = tempfile::tempdir().expect("a directory");
    let own: &[&str] = if may_mount() { &["--mount"] } else { &["--user", "-r", "--mount"] };
    let role = "examine::child_on_a_small_disk";
    for (options, room) in [("size=256k", "size"), ("size=8m,nr_inodes=12", "inodes")] {
        let mount = format!(r#"mount -t tmpfs -o {options} none "$PLACE""#);
        let mut child = after(&mount, "unshare", own, role, &place.path().join("locks"));
        println!("{room}: {}", child.hear("found "));
        child.finish();
    }
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_on_a_small_disk() {
    let directory = child_directory();
    let provider = provider(&directory).await;
    let few = examined(&provider).await;
    only(&few[..1], Severity::Warning, &["new names fit", "free space or inodes"]);
    only(&few[1..], Severity::Note, &["tmpfs", "restart"]);
    let mut names = 0;
    while let Ok(Some(grant)) = provider.try_acquire(&request(&format!("a{names}"))).await {
        drop(grant);
        names += 1;
    }
    let none = amiss(&provider).await;
    only(&none, Severity::Danger, &["no new name fits", "refused", "free space or inodes"]);
    // A name that is there goes on.
    take(&provider, "a0").await;
    eprintln!("found {}, and {names} were taken", few[0]);
}

#[test]
fn a_limit_on_open_files_that_is_nearly_reached_is_found() {
    let store = tempfile::tempdir().expect("a directory");
    let role = "examine::child_with_few_files";
    let mut child = after("ulimit -n 70", "env", &[], role, store.path());
    let found = child.hear("found ");
    assert!(found.contains("of the 70 files") && found.contains("ulimit -n"), "{found}");
    child.finish();
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_with_few_files() {
    let found = amiss(&provider(&child_directory()).await).await;
    only(&found, Severity::Warning, &[]);
    eprintln!("found {}", found[0]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_user_who_is_told_of_no_closed_files_finds_that_out() {
    let store = tempfile::tempdir().expect("a directory");
    // In a user namespace of its own: all processes of a user share that limit, so what others open and close meanwhile
    // would give this child an instance, and take theirs.
    let limit = "echo 0 > /proc/sys/user/max_inotify_instances";
    let role = "examine::child_without_close_events";
    let mut child = after(limit, "unshare", &["--user", "-r"], role, &store.path().join("locks"));
    let found = child.hear("found ");
    assert!(found.contains("look every 10ms") && found.contains("max_user_instances"), "{found}");
    child.finish();
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "the role of a child"]
async fn child_without_close_events() {
    let provider = provider(&child_directory()).await;
    let found = amiss(&provider).await;
    let said = found.iter().find(|finding| finding.what.contains("look every"));
    eprintln!("found {}", said.expect("a finding"));
}

#[tokio::test]
async fn files_that_would_be_refused_are_found_before_they_are_asked_for() {
    let store = tempfile::tempdir().expect("a directory");
    let ours = provider(store.path()).await;
    let file = |name: &str| store.path().join(format!("{name}.lock"));
    let twin = |name: &str| store.path().join(format!(".lockkit/{name}.twin"));
    for name in ["a", "b"] {
        take(&ours, name).await;
    }
    let token = take(&ours, "a").await.token;
    let whole = fs::read(file("a")).expect("read");
    // One copy, which the next grant mends, and both.
    fs::write(file("a"), "damaged").expect("written");
    only(&amiss(&ours).await, Severity::Warning, &["a.lock", "the other copy"]);
    fs::write(twin("a"), "damaged").expect("written");
    let words = ["no copy of its last token", "\"a\"", "remove both files"];
    only(&amiss(&ours).await, Severity::Danger, &words);
    for path in [file("a"), twin("a")] {
        fs::write(path, &whole).expect("written");
    }
    assert_eq!(amiss(&ours).await, []);
    assert!(take(&ours, "a").await.token > token);
    // A newer layout.
    let open = fs::OpenOptions::new().write(true).open(file("b")).expect("opened");
    open.write_all_at(b"lockkit-file 9", 0).expect("written");
    only(&amiss(&ours).await, Severity::Danger, &["b.lock", "layout 9", "upgrade this program"]);
    open.write_all_at(b"lockkit-file 1", 0).expect("written");
    // A copy under another name, and what is no file.
    fs::copy(file("a"), file("c")).expect("copied");
    only(
        &amiss(&ours).await,
        Severity::Danger,
        &["c.lock", "belongs to \"a\"", "copied or renamed"],
    );
    fs::remove_file(file("c")).expect("removed");
    symlink(file("a"), file("d")).expect("linked");
    only(&amiss(&ours).await, Severity::Danger, &["d.lock", "not a plain file"]);
}

#[tokio::test]
async fn tokens_above_the_clock_are_found_by_clients_with_a_smaller_base() {
    let store = tempfile::tempdir().expect("a directory");
    let config = FileConfig::new(store.path());
    let hours = config.clone().token_base(3_600_000_000);
    let hours = FileProvider::connect(hours).await.expect("a store");
    take(&hours, "a").await;
    assert_eq!(amiss(&hours).await, []);
    let none = FileProvider::connect(config).await.expect("a store");
    only(
        &amiss(&none).await,
        Severity::Warning,
        &["\"a\"", "above token_base", "raise token_base"],
    );
}

#[tokio::test]
async fn many_files_of_free_names_are_a_note() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let _held = take(&provider, "held").await;
    for name in 0..1_000 {
        fs::write(store.path().join(format!("n{name}.lock")), "").expect("written");
    }
    let found = examined(&provider).await;
    let many = found.iter().find(|finding| finding.what.starts_with("1000 names"));
    assert_eq!(many.expect("a finding").severity, Severity::Note);
    assert_eq!(amiss(&provider).await, []);
}
