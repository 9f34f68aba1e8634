//! Many processes on one directory: exclusion, order of tokens, kills, operators.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::common::{Role, child_directory, knows_the_holder, locks, provider, request, waits};
use lockkit_core::{Error, LockName, LockProvider, StoreSays};
use testbed::{in_time, timing};

const PROCESSES: usize = 8;
const TASKS: usize = 8;
const ROUNDS: usize = 20;

#[test]
fn eight_processes_of_eight_tasks_lose_no_update_and_get_tokens_in_the_order_of_grants() {
    let store = tempfile::tempdir().expect("a directory");
    fs::write(store.path().join("counter"), "0").expect("written");
    let started = Instant::now();
    let children: Vec<_> =
        (0..PROCESSES).map(|_| Role::start("processes::child_that_counts", store.path())).collect();
    let mut worst = Duration::ZERO;
    for mut child in children {
        let waited: u64 = child.hear("longest wait ").parse().expect("a number");
        worst = worst.max(Duration::from_micros(waited));
        child.finish();
    }
    let grants = PROCESSES * TASKS * ROUNDS;
    eprintln!("{grants} grants in {:?}; longest wait {worst:?}", started.elapsed());

    let counter = fs::read_to_string(store.path().join("counter")).expect("read");
    assert_eq!(counter.parse(), Ok(grants), "lost updates");
    let log = fs::read_to_string(store.path().join("tokens")).expect("read");
    let tokens: Vec<u64> = log.lines().map(|line| line.parse().expect("a token")).collect();
    assert_eq!(tokens.len(), grants);
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "tokens out of order");
}

#[test]
#[ignore = "the role of a child"]
fn child_that_counts() {
    let directory = child_directory();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let longest = runtime.block_on(async {
        let locks = locks(&directory).await;
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (lock, directory) = (locks.lock("counter"), directory.clone());
                tokio::spawn(async move {
                    let mut longest = Duration::ZERO;
                    for _ in 0..ROUNDS {
                        let asked = Instant::now();
                        let guard = lock.acquire().await.expect("granted");
                        longest = longest.max(asked.elapsed());
                        let path = directory.join("counter");
                        let count: u64 =
                            fs::read_to_string(&path).expect("read").parse().expect("a count");
                        let tokens = directory.join("tokens");
                        let mut log = OpenOptions::new().append(true).create(true).open(tokens);
                        writeln!(log.as_mut().expect("opened"), "{}", guard.token())
                            .expect("written");
                        tokio::task::yield_now().await;
                        fs::write(&path, (count + 1).to_string()).expect("written");
                        guard.release().await.expect("released");
                    }
                    longest
                })
            })
            .collect();
        let mut longest = Duration::ZERO;
        for task in tasks {
            longest = longest.max(task.await.expect("no panic"));
        }
        longest
    });
    eprintln!("longest wait {}", longest.as_micros());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_waiter_has_the_lock_within_50_ms_of_the_kill_of_its_holder() {
    let store = tempfile::tempdir().expect("a directory");
    let locks = locks(store.path()).await;
    let (mut waits, first) = (Vec::new(), timing::start());
    for _ in 0..10 {
        let mut holder = Role::start("processes::child_that_holds", store.path());
        let token: u64 = holder.hear("holds ").parse().expect("a token");
        let waiter = tokio::spawn(locks.lock("held").acquire());
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!waiter.is_finished(), "granted while another process holds");
        let killed = Instant::now();
        holder.kill();
        let guard = waiter.await.expect("no panic").expect("granted");
        waits.push(killed.elapsed());
        assert!(guard.token().as_u64() > token);
        guard.release().await.expect("released");
    }
    waits.sort_unstable();
    eprintln!("from SIGKILL to the grant: median {:?}, longest {:?}", waits[5], waits[9]);
    in_time!(first, waits[5] < Duration::from_millis(50), "{waits:?}");
    in_time!(first, waits[9] < Duration::from_millis(500), "{waits:?}");
}

#[tokio::test]
async fn the_kill_of_a_waiter_leaves_the_others_waiting_and_then_granted() {
    let store = tempfile::tempdir().expect("a directory");
    let locks = locks(store.path()).await;
    let guard = locks.lock("held").acquire().await.expect("granted");
    let mut first = Role::start("processes::child_that_holds", store.path());
    let mut second = Role::start("processes::child_that_holds", store.path());
    first.hear("asks");
    second.hear("asks");
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.kill();
    assert!(guard.is_held());
    let token = guard.token();
    guard.release().await.expect("released");
    let second: u64 =
        tokio::task::spawn_blocking(move || second.hear("holds ").parse().expect("a token"))
            .await
            .expect("no panic");
    assert!(second > token.as_u64());
}

#[tokio::test]
async fn a_stopped_holder_keeps_the_name_and_is_shown_to_operators_of_other_processes() {
    let store = tempfile::tempdir().expect("a directory");
    let mut holder = Role::start("processes::child_that_holds", store.path());
    let token: u64 = holder.hear("holds ").parse().expect("a token");
    holder.stop();

    let provider = provider(store.path()).await;
    let operator = provider.operator().expect("an operator");
    let name = LockName::new("held").expect("a name");
    let seen = operator.inspect(&name).await.expect("an answer");
    let shown = seen.holders.first().expect("a holder");
    assert!(shown.label.contains(&holder.pid().to_string()), "{shown}");
    assert_eq!(shown.token.map(u64::from), Some(token));
    assert!(shown.age.expect("known") < Duration::from_secs(60));
    assert_eq!(shown.expires_in, None);
    let listed = operator.list("", None, 10).await.expect("an answer");
    let tokens: Vec<_> = listed.iter().map(|seen| seen.holders[0].token).collect();
    assert_eq!(tokens, [shown.token]);

    let asked = request("held");
    assert!(provider.try_acquire(&asked).await.expect("an answer").is_none());
    let waiting = request("held");
    let mut waited = pin!(provider.acquire(&waiting));
    waits(&mut waited, || knows_the_holder(&waiting)).await;
    let Some(StoreSays::Held(Some(said))) = waiting.last_word() else { panic!("no holder named") };
    assert_eq!(said.token, shown.token);

    let refused = operator.revoke(&name, shown.token.expect("known")).await;
    let Err(Error::Rejected { remedy, .. }) = refused else { panic!("revoked: {refused:?}") };
    assert!(remedy.contains(&holder.pid().to_string()), "{remedy}");
    let other = lockkit_core::FencingToken::MIN;
    assert!(!operator.revoke(&name, other).await.expect("an answer"));

    // The remedy works, and the record of a dead holder shows nobody.
    holder.kill();
    timing::gone(Duration::from_secs(1), "the name is held", async || {
        operator.inspect(&name).await.expect("an answer").holders.is_empty()
    })
    .await;
    assert!(operator.list("", None, 10).await.expect("an answer").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_who_look_all_the_time_never_make_a_free_name_look_held() {
    let store = tempfile::tempdir().expect("a directory");
    let onlooker = Role::start("processes::child_that_looks", store.path());
    let provider = provider(store.path()).await;
    for _ in 0..500 {
        let grant = provider.try_acquire(&request("held")).await.expect("an answer");
        grant.expect("nobody holds it");
    }
    drop(onlooker);
}

#[tokio::test]
async fn what_the_shell_s_flock_holds_is_held_for_us_and_the_other_way_round() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let grant = provider.try_acquire(&request("held")).await.expect("an answer").expect("free");
    let file = fs::File::open(store.path().join("held.lock")).expect("opened");
    assert!(file.try_lock().is_err());
    drop(grant);
    file.try_lock().expect("free");
    assert!(provider.try_acquire(&request("held")).await.expect("an answer").is_none());
}

/// One at a time: those that count the threads that wait.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Programs that take a name by flock(1) again and again, killed when this is dropped.
struct Loops(Vec<Child>);

impl Loops {
    fn start(file: &Path, count: usize, pause: &str) -> Self {
        let script = format!("while :; do flock \"$0\" sleep {pause} || exit; done");
        let start = |_| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).arg(file).process_group(0).spawn().expect("a shell")
        };
        Self((0..count).map(start).collect())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for shell in &mut self.0 {
            // With what it runs: that may hold the lock.
            let group = format!("-{}", shell.id());
            Command::new("kill").args(["-KILL", "--", &group]).status().expect("kill");
            shell.wait().ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_is_granted_beside_programs_that_block_in_flock() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().expect("a directory");
    let locks = [locks(store.path()).await, locks(store.path()).await];
    let file = store.path().join("busy.lock");
    // So many that always one of them blocks.
    for (count, pause) in [(4, "0.05"), (8, "0")] {
        let loops = Loops::start(&file, count, pause);
        comes_to("a loop holds the name", || is_locked(&file));
        let asked = Instant::now();
        let mut last = None;
        for round in 0..10 {
            let guard = locks[round % 2].lock("busy").acquire_within(Duration::from_secs(5));
            let guard = guard.await.expect("granted beside the loops");
            assert!(Some(guard.token()) > last && is_locked(&file));
            last = Some(guard.token());
            guard.release().await.expect("released");
        }
        eprintln!("10 grants beside {count} loops of `sleep {pause}`: {:?}", asked.elapsed());
        drop(loops);
    }
    // The threads are gone with the last wait, and hold nothing.
    locks[0].lock("busy").acquire().await.expect("granted").release().await.expect("released");
    comes_to("no thread waits", || threads("lockkit-flock") == 0);
}

#[test]
fn a_waiter_in_the_kernels_queue_leaves_at_once_and_keeps_no_runtime_from_ending() {
    let _alone = ALONE.blocking_lock();
    let store = tempfile::tempdir().expect("a directory");
    let file = store.path().join("long.lock");
    let mut runtime = Some(tokio::runtime::Runtime::new().expect("a runtime"));
    let block_on = |runtime: &Option<tokio::runtime::Runtime>, limit| {
        runtime.as_ref().expect("one").block_on(async {
            let locks = locks(store.path()).await;
            // Released before the next step: a lock that lingers would be taken for the program's.
            locks.lock("long").acquire_within(limit).await?.release().await
        })
    };
    block_on(&runtime, Duration::from_secs(5)).expect("free");
    let holder = Loops::start(&file, 1, "60");
    comes_to("the program holds the name", || is_locked(&file));
    for _ in 0..3 {
        let (began, limit) = (timing::start(), Duration::from_millis(500));
        let left = block_on(&runtime, limit).expect_err("held");
        assert!(matches!(left, Error::TimedOut { .. }), "{left}");
        in_time!(began, began.elapsed() < limit * 2, "left after {:?}", began.elapsed());
        let waiting = threads("lockkit-flock");
        assert!(waiting <= 1, "each request goes on with the same wait, not one of {waiting}");
        in_time!(began, waiting == 1, "no wait began");
    }
    let began = timing::start();
    drop(runtime.take());
    in_time!(began, began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    // The thread that is left gives the lock back the moment it has it.
    drop(holder);
    comes_to("the name is free", || !is_locked(&file));
    comes_to("no thread waits", || threads("lockkit-flock") == 0);
    let runtime = Some(tokio::runtime::Runtime::new().expect("a runtime"));
    block_on(&runtime, Duration::from_secs(5)).expect("free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_in_the_kernels_queue_notices_that_its_file_was_removed() {
    let _alone = ALONE.lock().await;
    let store = tempfile::tempdir().expect("a directory");
    let (locks, file) = (locks(store.path()).await, store.path().join("gone.lock"));
    locks.lock("gone").acquire().await.expect("free").release().await.expect("released");
    let _holder = Loops::start(&file, 1, "60");
    comes_to("the program holds the name", || is_locked(&file));
    let waiter = tokio::spawn(locks.lock("gone").acquire_within(Duration::from_secs(5)));
    comes_to("it waits in the kernel's queue", || threads("lockkit-flock") == 1);
    fs::remove_file(&file).expect("removed");
    let guard = waiter.await.expect("no panic").expect("granted by the new file");
    assert!(is_locked(&file), "the file is made again");
    guard.release().await.expect("released");
}

/// Whether a program could not take the file by `flock -n`.
fn is_locked(file: &Path) -> bool {
    let Ok(opened) = fs::File::open(file) else { return false };
    opened.try_lock_shared().is_err()
}

/// Waits until this is so.
fn comes_to(what: &str, is_so: impl Fn() -> bool) {
    let began = timing::start();
    while !is_so() {
        in_time!(began, began.elapsed() < Duration::from_secs(4), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many threads of this process have this name.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("a listing");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim() == name).count()
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_holds() {
    let locks = locks(&child_directory()).await;
    eprintln!("asks");
    let guard = locks.lock("held").acquire().await.expect("granted");
    eprintln!("holds {}", guard.token());
    std::future::pending::<()>().await;
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_looks() {
    let provider = provider(&child_directory()).await;
    let operator = provider.operator().expect("an operator");
    let name = LockName::new("held").expect("a name");
    loop {
        operator.inspect(&name).await.expect("an answer");
    }
}
