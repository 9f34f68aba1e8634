//! How a run ends: as its command does, as `flock(1)` and a shell do, and else with a code of its own.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{Running, code, errors, files, lockkit, out, ran, until};

/// The code of `flock(1)` on the same command, where this machine has it.
fn of_flock(script: &str) -> Option<i32> {
    let lock = tempfile::NamedTempFile::new().ok()?;
    let mut flock = std::process::Command::new("flock");
    flock.arg(lock.path()).args(["sh", "-c", script]);
    flock.stderr(Stdio::null()).status().ok()?.code()
}

#[test]
fn the_commands_end_is_the_runs_end_as_it_is_flocks() {
    let (_directory, url) = files();
    for (script, expected) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
    ] {
        let run = ran(&url, &["run", "a", "--", "sh", "-c", script]);
        assert_eq!((code(&run), errors(&run)), (expected, String::new()), "{script}");
        assert!(of_flock(script).is_none_or(|code| code == expected), "{script}");
    }
    for (command, expected, said) in
        [("no-such-command", 127, "not found"), ("/etc/passwd", 126, "denied")]
    {
        let run = ran(&url, &["run", "a", "--", command]);
        assert_eq!(code(&run), expected, "{command}");
        assert!(errors(&run).contains(said), "{}", errors(&run));
    }
}

#[test]
fn a_code_of_our_own_is_never_the_commands() {
    let (_directory, url) = files();
    for number in 201..=207 {
        let run = ran(&url, &["run", "a", "--", "sh", "-c", &format!("exit {number}")]);
        assert_eq!(code(&run), 207, "{number}");
        assert!(errors(&run).contains(&number.to_string()), "{}", errors(&run));
    }
}

#[test]
fn tokens_grow_and_the_command_knows_its_lock() {
    let (directory, _) = files();
    let shown = "echo $LOCKKIT_FENCING_TOKEN $LOCKKIT_NAME $LOCKKIT_STORE";
    let run = || {
        // The default store, on a machine where nothing is set up.
        let mut command = lockkit("");
        command.env("XDG_STATE_HOME", directory.path());
        out(&command.args(["run", "nightly", "--", "sh", "-c", shown]).output().expect("a run"))
    };
    let tokens = [(); 3].map(|()| {
        let said = run();
        let words: Vec<&str> = said.split_whitespace().collect();
        let [token, "nightly", store] = words[..] else { panic!("{said}") };
        assert_eq!(store, format!("file:{}/lockkit/locks", directory.path().display()));
        token.parse::<u64>().expect("a number")
    });
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

#[test]
fn streams_are_the_commands_own_and_a_closed_pipe_ends_it() {
    let (_directory, url) = files();
    let script = format!(
        "echo in | {0} run a -- sh -c 'cat; echo err >&2'; {0} run a -- yes | head -1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_lockkit")
    );
    let mut bash = std::process::Command::new("bash");
    let run = bash.args(["-c", &script]).env("LOCKKIT_STORE", &url).output().expect("bash");
    assert_eq!((&*out(&run), &*errors(&run)), ("in\ny\n141\n", "err\n"));
}

#[test]
fn a_name_that_is_held_is_told_with_its_holder() {
    let (_directory, url) = files();
    let mut holder = lockkit(&url);
    holder.args(["run", "--label", "night shift", "a", "--", "sleep", "60"]);
    let holder = Running::start(&mut holder);
    until("a holder", || out(&ran(&url, &["list"])).contains("night shift"));
    for wait in [&["--no-wait"][..], &["--wait", "100ms"]] {
        let words = [&["run"], wait, &["a", "--", "true"]].concat();
        let run = ran(&url, &words);
        assert_eq!(code(&run), 201);
        assert!(errors(&run).contains("night shift") && errors(&run).lines().count() == 1);
    }
    let run = ran(&url, &["run", "--json", "--no-wait", "a", "--", "true"]);
    assert!(errors(&run).starts_with(r#"{"error":{"code":201,"kind":"held","#), "{}", errors(&run));
    // The signal is the command's, and the lock is free after it.
    holder.signal(Signal::TERM);
    let mut holder = holder;
    assert_eq!(holder.ended(), Some(143));
    assert_eq!(code(&ran(&url, &["run", "--no-wait", "a", "--", "true"])), 0);
}

#[test]
fn a_signal_ends_the_waiting_and_leaves_nothing() {
    let (_directory, url) = files();
    let mut holder = Running::start(lockkit(&url).args(["run", "a", "--", "sleep", "60"]));
    until("a holder", || out(&ran(&url, &["list"])).contains("sleep"));
    let mut waiter = Running::start(lockkit(&url).args(["run", "a", "--", "true"]));
    waiter.supervisor();
    waiter.signal(Signal::TERM);
    assert_eq!(waiter.ended(), Some(143));
    holder.signal(Signal::INT);
    assert_eq!(holder.ended(), None, "ended by the interrupt itself, so that a shell's loop ends");
    assert_eq!(code(&ran(&url, &["run", "--no-wait", "a", "--", "true"])), 0);
}

#[test]
fn a_command_that_becomes_a_daemon_is_let_go() {
    let (directory, url) = files();
    let pid = directory.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 60' >/dev/null 2>&1 & exit 3",
        pid.display()
    );
    let run = ran(&url, &["run", "a", "--", "sh", "-c", &script]);
    assert_eq!(code(&run), 3);
    // It has left the group, once it runs.
    until("a daemon", || std::fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')));
    until("a free name", || code(&ran(&url, &["run", "--no-wait", "a", "--", "true"])) == 0);
    let pid = std::fs::read_to_string(&pid).expect("a number");
    let ended = std::process::Command::new("kill").arg(pid.trim()).status();
    assert!(ended.expect("kill").success(), "the daemon lived on");
}

#[test]
fn what_was_ignored_stays_ignored_for_the_command_and_its_end_is_seen_all_the_same() {
    let (_directory, url) = files();
    for (signal, script, expected) in [
        ("HUP", "kill -HUP $$; exit 7", 7),
        ("TERM", "kill -TERM $$; exit 7", 143),
        ("CHLD", "exit 7", 7),
    ] {
        // As `nohup` does; SIGTERM is not ignored here.
        let ignored = if signal == "TERM" { "USR1" } else { signal };
        let begin = format!(r#"trap "" {ignored}; exec "$@""#);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &begin, "sh", env!("CARGO_BIN_EXE_lockkit")]);
        shell.args(["run", "a", "--", "sh", "-c", script]).env("LOCKKIT_STORE", &url);
        let run = shell.output().expect("a shell");
        assert_eq!(code(&run), expected, "{signal}: {}", errors(&run));
    }
}

#[test]
fn a_minimum_hold_outlasts_its_command_and_neither_its_caller_nor_its_streams_wait_for_it() {
    let (_directory, url) = files();
    let least = Duration::from_secs(3);
    let began = Instant::now();
    let first = ran(&url, &["run", "--hold-at-least", "3s", "tick", "--", "echo", "done"]);
    // Its output is read to the end of the stream.
    assert_eq!((code(&first), &*out(&first)), (0, "done\n"));
    let held = ran(&url, &["run", "--no-wait", "tick", "--", "true"]);
    let is_early = began.elapsed() < least;
    assert!(!is_early || code(&held) == 201, "{}: {}", code(&held), errors(&held));
    let next = ran(&url, &["run", "--wait", "30s", "tick", "--", "true"]);
    assert_eq!(code(&next), 0, "{}", errors(&next));
    assert!(began.elapsed() >= least, "free after {:?}", began.elapsed());
}
