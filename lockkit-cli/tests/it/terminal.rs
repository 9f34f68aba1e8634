//! A command at a terminal: it reads what is typed, is interrupted, stopped and continued as with `flock(1)`.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::common::{files, until};

const PROMPT: &str = "next? ";

/// A shell with job control at a terminal of its own, which `script` makes.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(store: &str) -> Self {
        let mut script = Command::new("script")
            .args(["-q", "-c", &format!("PS1='{PROMPT}' bash --norc --noprofile -i"), "/dev/null"])
            .env("LOCKKIT_STORE", store)
            .env("LK", env!("CARGO_BIN_EXE_lockkit"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("script, of util-linux");
        let keys = script.stdin.take().expect("piped");
        let mut screen = script.stdout.take().expect("piped");
        let shown = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&shown);
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { script, keys, shown }
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush()).expect("a terminal");
    }

    fn text(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this is shown once more than it is now, after these keys.
    fn types_until(&mut self, keys: &str, what: &str) {
        let before = self.text().matches(what).count();
        self.types(keys);
        until(what, || self.text().matches(what).count() > before);
    }

    /// Waits until a line that was printed, and not typed, is this one.
    fn shows(&self, line: &str) {
        until(line, || self.text().lines().any(|shown| shown.trim_end().ends_with(line)));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        println!("{}", self.text());
        self.script.kill().ok();
        self.script.wait().ok();
    }
}

#[test]
fn a_command_reads_what_is_typed_and_the_terminal_is_the_shells_again() {
    let (_directory, url) = files();
    let mut terminal = Terminal::open(&url);
    terminal.types("$LK run a -- sh -c 'read x; echo got-$x'; echo code-$?\n");
    terminal.types("word\n");
    terminal.shows("got-word");
    terminal.shows("code-0");
    terminal.types("read y; echo shell-$y\n");
    terminal.types("more\n");
    terminal.shows("shell-more");
}

#[test]
fn an_interrupt_ends_the_command_and_the_shells_loop() {
    let (_directory, url) = files();
    let mut terminal = Terminal::open(&url);
    terminal
        .types("for i in 1 2; do $LK run a -- sh -c 'echo begun-$1; exec sleep 60' sh $i; done\n");
    terminal.shows("begun-1");
    terminal.types_until("\u{3}", PROMPT);
    terminal.types("echo code-$?\n");
    terminal.shows("code-130");
}

#[test]
fn a_command_that_is_stopped_at_the_terminal_goes_on_there() {
    let (_directory, url) = files();
    let mut terminal = Terminal::open(&url);
    terminal.types("$LK run a -- sh -c 'read w; echo got-$w; read x; echo got-$x'\n");
    terminal.types("first\n");
    terminal.shows("got-first");
    terminal.types_until("\u{1a}", "Stopped");
    terminal.types("echo stopped-$((1 + 1))\n");
    terminal.shows("stopped-2");
    terminal.types("$LK run --no-wait a -- true; echo code-$?\n");
    terminal.shows("code-201");
    terminal.types_until("fg\n", "$LK run a -- sh");
    terminal.types("word\n");
    terminal.shows("got-word");
}
