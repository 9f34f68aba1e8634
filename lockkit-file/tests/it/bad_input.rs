//! Odd names, damaged files, directories that cannot be used: an error that says what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::common::{Role, child_directory, command, locks, provider, request};
use lockkit_core::{Error, Grant, LockProvider, Result};
use lockkit_file::{FileConfig, FileProvider};

async fn take(provider: &FileProvider, name: &str) -> Grant {
    provider.try_acquire(&request(name)).await.expect("an answer").expect("free")
}

/// What was refused, and the remedy.
fn refused<T: std::fmt::Debug>(outcome: Result<T>) -> (String, String) {
    match outcome {
        Err(Error::Rejected { what, remedy, .. } | Error::Invalid { what, remedy, .. }) => {
            assert!(!what.is_empty() && !remedy.is_empty());
            (what, remedy)
        }
        other => panic!("not refused with a remedy: {other:?}"),
    }
}

#[tokio::test]
async fn odd_names_are_locks_of_their_own_inside_the_directory() {
    let place = tempfile::tempdir().expect("a directory");
    let store = place.path().join("locks");
    let provider = provider(&store).await;
    let long = "x".repeat(512);
    let longer = format!("{}y", "x".repeat(511));
    let names = [
        "a",
        "A",
        "a/b",
        "a%2fb",
        "a\\b",
        "/",
        "//",
        "/etc/passwd",
        ".",
        "..",
        "../..",
        "./a",
        "a/..",
        ".lockkit",
        ".lock",
        "a.lock",
        "\0",
        "a\0b",
        "{}",
        "{0}",
        "%s",
        "\n",
        " ",
        "a ",
        "🔒",
        "é",
        "e\u{301}",
        "\u{202e}txt.a",
        "~",
        "*",
        "-rf",
        "con",
        "nul",
        "İ",
        "ı",
        "=",
        "+a",
        &long,
        &longer,
    ];
    let mut grants = Vec::new();
    for name in names {
        grants.push(take(&provider, name).await);
    }
    for name in names {
        assert!(provider.try_acquire(&request(name)).await.expect("an answer").is_none());
    }
    let operator = provider.operator().expect("an operator");
    let listed = operator.list("", None, 100).await.expect("an answer");
    let mut expected = names.to_vec();
    expected.sort_unstable();
    assert_eq!(listed.iter().map(|seen| seen.name.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(fs::read_dir(&store).expect("read").count(), names.len() + 1);
    assert_eq!(fs::read_dir(place.path()).expect("read").count(), 1);
}

#[tokio::test]
async fn an_odd_label_is_shown_as_it_is_and_a_long_one_is_cut() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let operator = provider.operator().expect("an operator");
    for label in ["", "a b\nheld pid=1", "🔒\0\u{202e}", &"é".repeat(4000)] {
        let asked = request("a").with_label(label);
        let grant = provider.acquire(&asked).await.expect("granted");
        let seen = operator.inspect(asked.name()).await.expect("an answer");
        let shown = &seen.holders[0].label;
        assert!(label.starts_with(&**shown) && shown.len() == label.len().min(1024));
        assert_eq!(seen.holders[0].token, Some(grant.token));
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_there_is_refused_with_a_remedy() {
    let place = tempfile::tempdir().expect("a directory");
    let connect = |path: &Path| FileProvider::connect(FileConfig::new(path));
    let (what, remedy) = refused(connect(&place.path().join("no/locks")).await);
    assert!(
        what.contains("/no does not exist") && remedy.contains("create it"),
        "{what}; {remedy}"
    );
    refused(connect(Path::new("")).await);
    let file = place.path().join("file");
    fs::write(&file, "mine").expect("written");
    refused(connect(&file).await);
    refused(connect(&file.join("locks")).await);
    assert_eq!(fs::read(&file).expect("read"), b"mine");
    // What is there is taken, by a link and from anywhere.
    symlink(place.path(), place.path().join("link")).expect("linked");
    let (one, other) = (provider(place.path()).await, provider(&place.path().join("link")).await);
    let _grant = take(&one, "a").await;
    assert!(other.try_acquire(&request("a")).await.expect("an answer").is_none());
}

#[tokio::test]
async fn links_pipes_and_directories_in_place_of_a_file_are_refused_and_left_alone() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let path = store.path().join("a.lock");
    let victim = store.path().join("victim");
    fs::write(&victim, "mine").expect("written");
    symlink(&victim, &path).expect("linked");
    let (_, remedy) = refused(provider.try_acquire(&request("a")).await);
    assert!(remedy.contains("remove"), "{remedy}");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("created");
    refused(provider.try_acquire(&request("a")).await);
    fs::remove_dir(&path).expect("removed");
    assert!(Command::new("mkfifo").arg(&path).status().expect("run").success());
    refused(provider.try_acquire(&request("a")).await);
    fs::remove_file(&path).expect("removed");
    assert_eq!(fs::read(&victim).expect("read"), b"mine");
    take(&provider, "a").await;
}

/// Each damage is done between two processes, so that none knows the token from before.
#[test]
fn a_damaged_file_costs_no_token_and_two_damaged_copies_are_refused() {
    let store = tempfile::tempdir().expect("a directory");
    let (file, twin) = (store.path().join("a.lock"), store.path().join(".lockkit/a.twin"));
    let grant = |role| {
        let mut child = Role::start(role, store.path());
        let token: u64 = child.hear("token ").parse().expect("a token");
        child.finish();
        token
    };
    let mut last = grant("bad_input::child_with_a_high_token");
    let garbage = vec![0xff_u8; 4096];
    let newest_slot_torn = |path: &Path| {
        let text = fs::read_to_string(path).expect("text");
        let newest = format!(
            "token {:020}",
            text.lines()
                .filter_map(|line| {
                    line.strip_prefix("token ")?.split(' ').next()?.parse::<u64>().ok()
                })
                .max()
                .expect("a slot")
        );
        let at = text.find(&newest).expect("there") as u64;
        let open = fs::OpenOptions::new().write(true).open(path).expect("opened");
        open.write_all_at(b"token 9999", at).expect("written");
    };
    for path in [&file, &twin] {
        fs::write(path, &garbage).expect("written");
        let token = grant("bad_input::child_with_the_next_token");
        assert_eq!(token, last + 1, "after garbage in {}", path.display());
        fs::write(path, "").expect("written");
        last = grant("bad_input::child_with_the_next_token");
        assert_eq!(last, token + 1, "after a cut of {}", path.display());
        newest_slot_torn(path);
        let token = grant("bad_input::child_with_the_next_token");
        assert_eq!(token, last + 1, "after a torn slot in {}", path.display());
        last = token;
    }
    // A torn write of the newest slot in both: the record tells, or the slots before it, which are whole.
    newest_slot_torn(&file);
    newest_slot_torn(&twin);
    let token = grant("bad_input::child_with_the_next_token");
    assert_eq!(token, last + 1, "the record of the last holder, and one more");

    fs::write(&file, &garbage).expect("written");
    fs::write(&twin, "text of somebody else").expect("written");
    let mut child = Role::start("bad_input::child_that_is_refused", store.path());
    let said = child.hear("refused ");
    assert!(said.contains("a.lock") && said.contains("remove both files"), "{said}");
    child.finish();
    // The remedy works.
    fs::remove_file(&file).expect("removed");
    fs::remove_file(&twin).expect("removed");
    assert!(grant("bad_input::child_with_the_next_token") > 1_000_000_000_000_000);
}

#[tokio::test]
async fn a_file_that_was_copied_from_another_name_is_refused() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    take(&provider, "a").await;
    fs::copy(store.path().join("a.lock"), store.path().join("b.lock")).expect("copied");
    let (what, remedy) = refused(provider.try_acquire(&request("b")).await);
    assert!(what.contains("\"a\"") && remedy.contains("remove"), "{what}; {remedy}");
}

/// A full file system if we may mount one, else a limit of zero bytes on this process's files.
#[test]
fn on_a_full_disk_the_error_names_the_remedy_and_known_names_still_work() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).expect("set");
    let store = place.path().join("locks");
    let inner = command("bad_input::child_on_a_full_disk", &store);
    let mut shell = Command::new("sh");
    let may_mount = may_mount();
    let script = if may_mount {
        eprintln!("on a full tmpfs");
        r#"mount -t tmpfs -o size=64k none "$PLACE" && exec "$0" "$@""#
    } else {
        eprintln!("under a limit on file size");
        r#"trap "" XFSZ; ulimit -f 0; exec "$0" "$@""#
    };
    shell.arg("-c").arg(script).arg(inner.get_program()).args(inner.get_args());
    shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("PLACE", place.path());
    let mut command = Command::new("unshare");
    if may_mount {
        command.arg("--mount").arg(shell.get_program()).args(shell.get_args());
        command.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    } else {
        command = shell;
    }
    command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = Role::spawn(command);
    let said = child.hear("refused ");
    assert!(said.contains("free space"), "{said}");
    child.finish();
}

/// Root may not, in a container without the right to.
pub(crate) fn may_mount() -> bool {
    let script = ["--mount", "sh", "-c", "mount -t tmpfs none /mnt"];
    Command::new("unshare").args(script).output().is_ok_and(|ended| ended.status.success())
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_on_a_full_disk() {
    let directory = child_directory();
    let provider = provider(&directory).await;
    let limited = provider.try_acquire(&request("known")).await.is_err();
    if !limited {
        let filler = fs::File::create(directory.parent().expect("a parent").join("filler"));
        let mut at = 0;
        while filler.as_ref().expect("created").write_all_at(&[1], at).is_ok() {
            at += 512;
        }
    }
    let (what, remedy) = refused(provider.try_acquire(&request("a")).await);
    // Refused is refused: nobody holds it, and nothing half-written stays.
    let again = refused(locks(&directory).await.lock("a").acquire().await);
    assert_eq!(again.1, remedy);
    if !limited {
        take(&provider, "known").await;
        fs::remove_file(directory.parent().expect("a parent").join("filler")).expect("removed");
        take(&provider, "a").await;
    }
    eprintln!("refused {what}; {remedy}");
}

/// Where this test may change its user, it becomes nobody; else it is nobody special already.
pub(crate) fn as_a_stranger(role: &str, directory: &Path) -> (tempfile::TempDir, Role) {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("set");
    let program = place.path().join("program");
    // By a process of its own: a file that this one has open to write could not be executed.
    let mut copy = Command::new("cp");
    copy.arg(std::env::current_exe().expect("a path")).arg(&program);
    assert!(copy.status().expect("run").success());
    let asked = command(role, directory);
    let mut command = Command::new(&program);
    command.args(asked.get_args());
    command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir("/").stderr(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::null());
    if rustix::process::getuid().is_root() {
        command.uid(65534).gid(65534);
    }
    (place, Role::spawn(command))
}

pub(crate) fn with_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
}

#[test]
fn a_directory_that_may_not_be_written_is_refused_with_a_remedy() {
    let store = tempfile::tempdir().expect("a directory");
    with_mode(store.path(), 0o555);
    let (_program, mut child) =
        as_a_stranger("bad_input::child_that_may_not_connect", store.path());
    let said = child.hear("refused ");
    assert!(said.contains("ermission denied") && said.contains("chmod"), "{said}");
    child.finish();
    // The same when the store is there, for a name that is new.
    with_mode(store.path(), 0o755);
    fs::create_dir(store.path().join(".lockkit")).expect("created");
    with_mode(&store.path().join(".lockkit"), 0o555);
    with_mode(store.path(), 0o555);
    let (_program, mut child) = as_a_stranger("bad_input::child_that_is_refused", store.path());
    let said = child.hear("refused ");
    assert!(said.contains("ermission denied") && said.contains("chmod"), "{said}");
    child.finish();
    with_mode(store.path(), 0o755);
}

/// Two users in truth only for root; other users check the modes that make it possible.
#[tokio::test]
async fn files_take_the_rights_of_their_directory_so_a_directory_for_all_is_locked_by_all() {
    let store = tempfile::tempdir().expect("a directory");
    for (mode, files) in [(0o700, 0o600), (0o2770, 0o660), (0o755, 0o644), (0o777, 0o666)] {
        with_mode(store.path(), mode);
        let provider = provider(store.path()).await;
        let grant = take(&provider, "a").await;
        for file in ["a.lock", ".lockkit/a.twin"] {
            let found = fs::metadata(store.path().join(file)).expect("there").mode();
            assert_eq!(found & 0o7777, files, "{file} under {mode:o}");
        }
        let twins = store.path().join(".lockkit");
        assert_eq!(fs::metadata(&twins).expect("there").mode() & 0o7777, mode);
        if mode == 0o777 {
            let (_program, mut child) = as_a_stranger("bad_input::child_that_waits", store.path());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let token = grant.token;
            drop(grant);
            let next: u64 = child.hear("token ").parse().expect("a token");
            assert!(next > token.as_u64());
            child.finish();
            assert!(take(&provider, "a").await.token.as_u64() > next);
        } else {
            drop(grant);
            fs::remove_dir_all(twins).expect("removed");
            fs::remove_file(store.path().join("a.lock")).expect("removed");
        }
    }
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_may_not_connect() {
    let (what, remedy) = refused(FileProvider::connect(FileConfig::new(child_directory())).await);
    eprintln!("refused {what}; {remedy}");
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_is_refused() {
    let provider = provider(&child_directory()).await;
    let (what, remedy) = refused(provider.try_acquire(&request("a")).await);
    refused(provider.acquire(&request("a")).await);
    eprintln!("refused {what}; {remedy}");
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_waits() {
    let provider = provider(&child_directory()).await;
    let grant = provider.acquire(&request("a")).await.expect("granted");
    eprintln!("token {}", grant.token);
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_with_a_high_token() {
    let config = FileConfig::new(child_directory()).token_base(1 << 60);
    let provider = FileProvider::connect(config).await.expect("a store");
    take(&provider, "a").await;
    eprintln!("token {}", take(&provider, "a").await.token);
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_with_the_next_token() {
    eprintln!("token {}", take(&provider(&child_directory()).await, "a").await.token);
}
