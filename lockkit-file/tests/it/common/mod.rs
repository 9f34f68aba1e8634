//! What the tests share: stores in fresh directories, and children that never outlive their test.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use lockkit_core::{Clock, LockName, Locks, Request, StoreSays};
use lockkit_file::{FileConfig, FileProvider};
use testbed::timing;

/// The variable that tells a child in which directory its store lies.
const DIRECTORY: &str = "LOCKKIT_FILE_TEST_DIRECTORY";

pub(crate) const TTL: Duration = Duration::from_secs(5);

pub(crate) async fn provider(directory: &Path) -> FileProvider {
    FileProvider::connect(FileConfig::new(directory)).await.expect("a store")
}

pub(crate) async fn locks(directory: &Path) -> Locks {
    Locks::new(provider(directory).await)
}

pub(crate) fn request(name: &str) -> Request {
    Request::new(LockName::new(name).expect("a name"), TTL, Clock::system()).expect("a request")
}

/// The store of this process, if it is a child; its tests are ignored, so nothing else runs them.
pub(crate) fn child_directory() -> std::path::PathBuf {
    std::env::var_os(DIRECTORY).expect("run by a parent test only").into()
}

/// This test binary again, in the role of its ignored test `role`.
pub(crate) fn command(role: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args([role, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// A child process, killed by its id when the test is over, also by a panic.
#[derive(Debug)]
pub(crate) struct Role {
    child: Child,
    lines: BufReader<ChildStderr>,
    before: VecDeque<String>,
}

impl Role {
    pub(crate) fn start(role: &str, directory: &Path) -> Self {
        Self::spawn(command(role, directory))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("a child");
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, lines, before: VecDeque::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What follows `word` in the next line of the child that begins with it.
    pub(crate) fn hear(&mut self, word: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).expect("a pipe");
            assert_ne!(read, 0, "the child ended before {word:?}, after {:?}", self.before);
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
            self.before.push_back(line);
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
    }

    /// Stops the child, and waits until it stands still.
    pub(crate) fn stop(&self) {
        use rustix::process::{Pid, Signal, WaitOptions, waitpid};
        self.signal(Signal::STOP);
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        let (_, status) = waitpid(pid, WaitOptions::UNTRACED).expect("waited").expect("stopped");
        assert!(status.stopped());
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    /// Waits for the child's own end, which must be a success.
    pub(crate) fn finish(mut self) {
        let status = self.child.wait().expect("waited");
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.lines, &mut rest).expect("a pipe");
        assert!(status.success(), "the child failed: {:?} {rest}", self.before);
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Whether the request was told of the holder that it waits behind.
pub(crate) fn knows_the_holder(request: &Request) -> bool {
    matches!(request.last_word(), Some(StoreSays::Held(Some(_))))
}

/// Has an attempt wait until `is_told`, which its first steps come to.
pub(crate) async fn waits<T: Debug>(
    waiting: &mut Pin<&mut impl Future<Output = T>>,
    is_told: impl FnMut() -> bool,
) {
    let told = timing::until(Duration::from_secs(10), "a wait", is_told);
    tokio::select! {
        biased;
        ended = waiting => panic!("granted beside a holder: {ended:?}"),
        () = told => {}
    }
}
