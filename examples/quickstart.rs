//! Two promises in a few seconds, with no server: `cargo run --example quickstart`
//!
//! 1. Processes contend for one name: every grant carries a greater token than the one before.
//! 2. A holder freezes and the next one is granted: the resource refuses the frozen one's write.
//!
//! The same story runs on any store: `cargo run --example quickstart -- file:/tmp/locks`

use std::io::{BufRead, BufReader, pipe};
use std::process::{self, Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, sync::mpsc, thread};

use lockkit::{Expiry, Fenced, FencingToken, Lock, connect};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let directory = tempfile::tempdir()?;
    let embedded = format!("file:{}", directory.path().display());
    let (contended, expiring) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", url] => return worker(url).await,
        ["holder", url] => return holder(url).await,
        [url] if !url.starts_with("memory:") => (url, url),
        _ => (&*embedded, "memory:"),
    };
    tokens_grow(contended)?;
    a_stale_write_is_refused(expiring).await
}

/// Four processes take turns, and write their tokens into one pipe while they hold the lock.
fn tokens_grow(url: &str) -> Result<()> {
    println!("1. Four processes contend for one name");
    let started = Instant::now();
    let (tokens, pipe) = pipe()?;
    let spawn = |_| {
        Command::new(env::current_exe()?).args(["worker", url]).stdout(pipe.try_clone()?).spawn()
    };
    let mut workers = (0..4).map(spawn).collect::<Result<Vec<_>, _>>()?;
    drop(pipe);
    let mut newest = None;
    for line in BufReader::new(tokens).lines() {
        let line = line?;
        let (worker, token) = line.split_once(' ').ok_or("a worker wrote no token")?;
        let token: FencingToken = token.parse()?;
        say(started, &format!("process {worker} holds token {token}"));
        if newest.replace(token) >= Some(token) {
            return Err("a later holder's token is not greater".into());
        }
    }
    for worker in &mut workers {
        worker.wait()?.success().then_some(()).ok_or("a worker failed")?;
    }
    Ok(())
}

async fn worker(url: &str) -> Result<()> {
    let locks = connect(url).await?;
    for _ in 0..2 {
        let guard = locks.lock("quickstart/turns").acquire().await?;
        println!("{} {}", process::id(), guard.token());
        tokio::time::sleep(Duration::from_millis(100)).await;
        guard.release().await?;
    }
    Ok(locks.close(Duration::from_secs(5)).await?)
}

/// A holder stops in the middle of its work; its write comes after the next holder's.
async fn a_stale_write_is_refused(url: &str) -> Result<()> {
    println!("2. A holder stops in the middle of its work");
    let started = Instant::now();
    let ledger = Fenced::new(vec!["opened"]);
    let locks = connect(url).await?;
    let lock = locks.lock("quickstart/ledger").ttl(Duration::from_secs(1));
    let dies = locks.guarantees().expiry == Expiry::HolderDeath;
    let how = if dies { "dies with a write on its way" } else { "freezes" };

    let (token, late_write) =
        if url == "memory:" { freeze_thread(lock.clone())? } else { stop_process(url, dies)? };
    say(started, &format!("the holder with token {token} {how}"));

    let guard = lock.acquire().await?;
    ledger.access(guard.token(), |entries| entries.push("by the next holder"))?;
    say(started, &format!("the next holder writes with token {}", guard.token()));

    let late = tokio::task::spawn_blocking(late_write).await??;
    let refusal = ledger.access(late, |entries| entries.push("by the stopped holder"));
    let refusal = refusal.err().ok_or("the late write was accepted")?;
    say(started, &format!("the late write is refused: {refusal}"));
    guard.release().await?;
    println!("The ledger: {:?}", ledger.into_inner());
    Ok(())
}

/// A stopped holder's token, and what brings its late write: the token that comes with it.
type Stopped = (FencingToken, Box<dyn FnOnce() -> Result<FencingToken> + Send>);

/// In this process, for memory: blocks the runtime in which the holder lives.
fn freeze_thread(lock: Lock) -> Result<Stopped> {
    let ((granted, token), (wake, woken)) = (mpsc::channel(), mpsc::channel::<()>());
    let holder = thread::spawn(move || -> Result<FencingToken> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let guard = lock.acquire().await?;
            granted.send(guard.token())?;
            woken.recv().ok(); // nothing renews, nothing notices
            Ok(guard.token())
        })
    });
    let wake = move || (drop(wake), holder.join().map_err(|_| "the holder panicked")?).1;
    Ok((token.recv()?, Box::new(wake)))
}

/// In a process of its own: stopped, or killed on a store where only a holder's death frees a name.
fn stop_process(url: &str, dies: bool) -> Result<Stopped> {
    let mut process =
        Command::new(env::current_exe()?).args(["holder", url]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(process.stdout.take().ok_or("a holder without a pipe")?).lines();
    let mut read = move || Ok(lines.next().ok_or("the holder wrote no token")??.parse()?);
    let token = read()?;
    signal(if dies { "-KILL" } else { "-STOP" }, &process)?;
    let wake =
        move || if dies { Ok(token) } else { signal("-CONT", &process).and_then(|()| read()) };
    Ok((token, Box::new(wake)))
}

fn signal(signal: &str, process: &Child) -> Result<()> {
    let kill = Command::new("kill").args([signal, &process.id().to_string()]).status()?;
    kill.success().then_some(()).ok_or("the holder was not stopped".into())
}

async fn holder(url: &str) -> Result<()> {
    let locks = connect(url).await?;
    let lock = locks.lock("quickstart/ledger").ttl(Duration::from_secs(1));
    let guard = lock.acquire().await?;
    println!("{}", guard.token());
    tokio::time::sleep(Duration::from_secs(2)).await; // stopped here
    println!("{}", guard.token()); // the write that it had decided on before
    Ok(())
}

fn say(started: Instant, text: &str) {
    println!("  {:.3} s  {text}", started.elapsed().as_secs_f32());
}
