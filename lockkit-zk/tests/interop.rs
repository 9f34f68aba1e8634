//! Beside other clients of the field on the same nodes: kazoo's Lock and Curator's
//! InterProcessMutex.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use common::{SLACK, at, by, ms, queued, server};
use lockkit_core::{Lock, Locks};
use lockkit_zk::{Layout, ZkProvider};
use testbed::{ZkServer, java};

const KAZOO: &str = "2.11.0";
const BASE: &str = "/app/locks";
const PATH: &str = "/app/locks/a";
const TTL: Duration = ms(3_000);

/// The Python of a virtual environment with kazoo, made once and kept under `target`.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kazoo-{KAZOO}"));
        if !kept.exists() {
            let fresh = kept.with_extension(std::process::id().to_string());
            run(Command::new("python3").args(["-m", "venv"]).arg(&fresh));
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
            run(Command::new(fresh.join("bin/python")).args(pip).arg(format!("kazoo=={KAZOO}")));
            // Whoever is first wins; the others have made the same.
            if fs::rename(&fresh, &kept).is_err() {
                fs::remove_dir_all(&fresh).unwrap();
            }
        }
        kept.join("bin/python")
    })
}

/// The directory with the compiled class, made once.
fn classes() -> &'static Path {
    static CLASSES: OnceLock<PathBuf> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let kept =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("curator-{}", std::process::id()));
        fs::create_dir_all(&kept).unwrap();
        let jars = ["client", "framework", "recipes"];
        let jars = jars.map(|jar| format!("/usr/share/java/curator-{jar}.jar")).join(":");
        let class_path = format!("{jars}:/usr/share/java/zookeeper.jar");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/Peer.java");
        run(Command::new("javac").args(["-cp", &class_path, "-d"]).arg(&kept).arg(source));
        kept
    })
}

fn run(command: &mut Command) {
    let outcome = command.output();
    let why = match &outcome {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    panic!("a client of the field cannot be had: run `cargo xtask setup`\n{command:?}: {why}");
}

/// A process with another client's lock.
struct Peer {
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Peer {
    fn kazoo(server: &ZkServer, patterns: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/client.py");
        let mut command = Command::new(python());
        command.arg(script).arg(server.port().to_string()).args(patterns);
        Self::start(command)
    }

    fn curator(server: &ZkServer) -> Self {
        let jars =
            ["curator-recipes", "curator-framework", "curator-client", "zookeeper", "slf4j-nop"];
        let mut command = java::command(&jars).unwrap();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let path = arguments.last().unwrap().to_str().unwrap();
        let path = format!("{path}:{}:/usr/share/java/guava.jar", classes().display());
        command.args(["-cp", &path, "Peer", &server.port().to_string()]);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let pipes = Mutex::new((process.stdin.take().unwrap(), answers));
        Self { process, pipes }
    }

    /// Blocks until it answers.
    fn tell(&self, line: &str) -> String {
        let mut pipes = self.pipes.lock().unwrap();
        writeln!(pipes.0, "{line}").unwrap();
        let mut answer = String::new();
        pipes.1.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the other client ended at {line}");
        answer.trim().to_owned()
    }

    /// The same without blocking the runtime.
    async fn told(self: &std::sync::Arc<Self>, line: String) -> String {
        let peer = std::sync::Arc::clone(self);
        tokio::task::spawn_blocking(move || peer.tell(&line)).await.unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

async fn ours(server: &ZkServer, layout: Layout) -> Locks {
    let config = at(server.port()).base(BASE).layout(layout);
    Locks::new(ZkProvider::connect(config).await.unwrap())
}

/// Each waits for the other and is granted after it, and neither gets in beside the other.
async fn exclude_each_other(lock: &Lock, peer: Peer) {
    let peer = std::sync::Arc::new(peer);
    let guard = lock.acquire().await.unwrap();
    assert_eq!(peer.told(format!("acquire {PATH} 0.3")).await, "no");
    let waiting = {
        let peer = std::sync::Arc::clone(&peer);
        tokio::spawn(async move { peer.told(format!("acquire {PATH} 20")).await })
    };
    queued(lock, 1).await;
    tokio::time::sleep(ms(300)).await;
    assert!(guard.is_held() && !waiting.is_finished(), "another client got in beside ours");
    guard.release().await.unwrap();
    assert_eq!(by(SLACK, "the other client's grant", waiting).await.unwrap(), "yes");

    let seen = lock.inspect().await.unwrap();
    assert_eq!(seen.holders[0].token, None, "{seen:?}");
    assert!(lock.try_acquire().await.unwrap().is_none(), "ours got in beside another client");
    let waiting = tokio::spawn(lock.acquire());
    queued(lock, 1).await;
    tokio::time::sleep(ms(300)).await;
    assert!(!waiting.is_finished(), "ours got in beside another client");
    assert_eq!(peer.told("release".to_owned()).await, "released");
    let guard = by(SLACK, "our grant", waiting).await.unwrap().unwrap();
    assert!(guard.is_held());
    guard.release().await.unwrap();
    assert_eq!(lock.inspect().await.unwrap().waiters, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_kazoo_and_the_layouts_that_promise_it_exclude_each_other() {
    let server = server();
    for layout in [Layout::Kazoo, Layout::Both] {
        let lock = ours(&server, layout).await.lock("a").ttl(TTL);
        exclude_each_other(&lock, Peer::kazoo(&server, &[])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kazoo_with_the_extra_pattern_and_every_layout_exclude_each_other() {
    let server = server();
    for layout in [Layout::Curator, Layout::Kazoo, Layout::Both] {
        let lock = ours(&server, layout).await.lock("a").ttl(TTL);
        exclude_each_other(&lock, Peer::kazoo(&server, &["-lock-"])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curator_and_the_layouts_that_promise_it_exclude_each_other() {
    let server = server();
    for layout in [Layout::Curator, Layout::Both] {
        let lock = ours(&server, layout).await.lock("a").ttl(TTL);
        exclude_each_other(&lock, Peer::curator(&server)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_all_layouts_exclude_each_other_in_the_order_of_their_arrival() {
    let server = server();
    let layouts = [Layout::Curator, Layout::Kazoo, Layout::Both];
    let operator = ours(&server, Layout::Curator).await.lock("a");
    let mut waiting = Vec::new();
    let holder = ours(&server, Layout::Both).await.lock("a").ttl(TTL).acquire().await.unwrap();
    for number in 0..6 {
        let lock = ours(&server, layouts[number % 3]).await.lock("a").ttl(TTL);
        waiting.push(tokio::spawn(lock.acquire()));
        queued(&operator, number + 1).await;
    }
    let mut last = holder.token();
    holder.release().await.unwrap();
    for waiter in waiting {
        let guard = by(SLACK, "the next grant", waiter).await.unwrap().unwrap();
        assert!(guard.token() > last);
        last = guard.token();
        guard.release().await.unwrap();
    }
}
