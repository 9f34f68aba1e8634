//! From a holder's SIGKILL to the next grant.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::report::Part;
use crate::way::Store;

pub(crate) const VARIABLE: &str = "LOCKKIT_BENCH_HOLDER";

/// Whether this process is such a holder: if so, it holds until it is killed.
pub(crate) fn is_holder<S: Store>(ttl: Duration) -> bool {
    let address = std::env::var(VARIABLE);
    address.is_ok_and(|address| hold::<S>(&address, ttl))
}

/// Kills a process that holds a name for which a waiter is there, in each round: the time to the waiter's grant.
pub(crate) fn crash<S: Store>(store: &S, rounds: usize, ttl: Duration) -> Part {
    let program = std::env::current_exe().expect("this program");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let locks = runtime.block_on(store.locks());
    let mut took = Vec::new();
    for _ in 0..rounds {
        let mut command = Command::new(&program);
        command.args(std::env::args().skip(1)).env(VARIABLE, store.address());
        let mut holder = command.stdout(Stdio::piped()).spawn().expect("a holder");
        let said = BufReader::new(holder.stdout.take().expect("what it says"));
        assert!(said.lines().map_while(Result::ok).any(|line| line == "held"), "it holds");
        let waiting = runtime.spawn(locks.lock("crash").ttl(ttl).acquire());
        // A moment between two of its renewals.
        std::thread::sleep(ttl / 5);
        let began = Instant::now();
        holder.kill().expect("its end");
        let guard = runtime.block_on(waiting).expect("a task").expect("a grant");
        took.push(began.elapsed().as_secs_f64() * 1e3);
        holder.wait().expect("its end");
        runtime.block_on(guard.release()).expect("a release");
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Part::new(
        format!("a holder with a ttl of {} ms is killed: to the next grant", ttl.as_millis()),
        "ms",
    )
    .row("lockkit", took, "")
}

fn hold<S: Store>(address: &str, ttl: Duration) -> bool {
    let store = S::at(address);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let locks = store.locks().await;
        let _guard = locks.lock("crash").ttl(ttl).acquire().await.expect("a grant");
        println!("held");
        std::future::pending::<()>().await;
    });
    true
}
