//! What is seen of a store, and changed in it.

use crate::common::{Running, code, errors, files, lockkit, out, ran, until};

use testbed::RedisServer;

#[test]
fn a_free_name_and_a_held_one_are_shown_in_both_forms() {
    let (_directory, url) = files();
    assert_eq!(
        out(&ran(&url, &["inspect", "a", "--json"])),
        "{\"family\":\"lock\",\"holders\":[],\"name\":\"a\",\"permits\":null,\"waiters\":null}\n"
    );
    let _holder =
        Running::start(lockkit(&url).args(["run", "--label", "me", "a", "--", "sleep", "60"]));
    until("a holder", || out(&ran(&url, &["inspect", "a"])).contains("me"));
    let shown = out(&ran(&url, &["--json", "list"]));
    for part in
        [r#""label":"me""#, r#""kind":"exclusive""#, r#""expires_in_ms":null"#, r#""token":""#]
    {
        assert!(shown.contains(part), "{shown}");
    }
    let shown = out(&ran(&url, &["list"]));
    assert_eq!(shown.lines().count(), 2);
    assert!(shown.starts_with("NAME") && !shown.contains('\u{1b}'), "no colours: {shown:?}");
    assert_eq!(out(&ran(&url, &["list", "b"])).lines().count(), 1);
    let watched = out(&ran(&url, &["watch", "--count", "2", "--every", "10ms"]));
    assert_eq!(watched.matches("me").count(), 2, "{watched}");
}

#[test]
fn completions_and_the_manual_are_made_of_the_command_line() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef lockkit"), ("fish", "complete -c lockkit")]
    {
        let script = out(&ran("memory:", &["completions", shell]));
        assert!(script.contains(word) && script.contains("doctor"), "{shell}");
    }
    // No store is needed for it.
    let mut man = lockkit("");
    man.env_remove("HOME").env_remove("XDG_STATE_HOME").arg("man");
    let manual = out(&man.output().expect("the manual"));
    assert!(manual.contains(".TH lockkit 1") && manual.contains("run \\-\\-wait 10s"), "{manual}");
    let help = out(&ran("memory:", &["run", "--help"]));
    assert!(help.contains("Example: lockkit run"), "{help}");
}

mod redis {
    use super::*;

    #[test]
    fn a_holder_that_is_revoked_has_its_command_killed_and_a_waiter_is_shown() {
        let server = RedisServer::start().unwrap();
        let url = server.url();
        let mut one = lockkit(&url);
        one.args(["run", "a", "--", "sleep", "60"]).stderr(std::process::Stdio::piped());
        let mut one = Running::start(&mut one);
        until("a holder", || out(&ran(&url, &["inspect", "a"])).contains("sleep"));
        let mut two = Running::start(lockkit(&url).args(["run", "a", "--", "true"]));
        until("a waiter", || {
            out(&ran(&url, &["inspect", "a", "--json"])).contains(r#""waiters":1"#)
        });
        let shown = out(&ran(&url, &["inspect", "a", "--json"]));
        let token = shown.split(r#""token":""#).nth(1).and_then(|rest| rest.split('"').next());
        let revoke = ["revoke", "a", "--token", token.expect("a token")];
        assert_eq!(code(&ran(&url, &revoke)), 0);
        assert_eq!(one.ended(), Some(202));
        assert!(one.errors().contains("revoked"));
        assert_eq!(two.ended(), Some(0));
        let again = ran(&url, &revoke);
        assert_eq!(code(&again), 1, "{}", errors(&again));
        assert_eq!(
            out(&ran(&url, &["forget", "a", "--unused-for", "0s", "--json"])).len(),
            "{\"forgotten\":0}\n".len()
        );
    }

    #[test]
    fn shared_holders_run_together() {
        let server = RedisServer::start().unwrap();
        let url = server.url();
        let share =
            || Running::start(lockkit(&url).args(["run", "--shared", "a", "--", "sleep", "60"]));
        let _both = [share(), share()];
        until("two holders", || out(&ran(&url, &["inspect", "a"])).matches("shared").count() == 2);
        assert_eq!(code(&ran(&url, &["run", "--no-wait", "a", "--", "true"])), 201);
    }
}
