//! Cases with several processes.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use crate::conformance::case::Challenge::{Atomicity, Fairness, Liveness};
use crate::conformance::case::{Case, Need};
use crate::conformance::child::{CLIENTS, Process};
use crate::conformance::context::Context;
use crate::conformance::history;
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require, require_in_time};
use crate::{Error, Expiry, FencingToken};

const PROCESSES: &[Need] = &[Need::RealTime, Need::Hook(Hook::Processes)];

pub(super) const CASES: &[Case] = &[
    Case::new(
        "AT-02",
        Atomicity,
        "C1",
        "eight processes of eight tasks try at once, and exactly one wins each round",
        |cx| Box::pin(one_of_many_processes_wins(cx)),
    )
    .needs(PROCESSES),
    Case::new(
        "LV-01",
        Liveness,
        "C11",
        "the name of a killed process is granted to its waiter as declared, and not early",
        |cx| Box::pin(holder_ends(cx, Process::kill)),
    )
    .needs(PROCESSES),
    Case::new(
        "LV-02",
        Liveness,
        "C11",
        "the name of a process that exits without a release is granted to its waiter as declared",
        |cx| Box::pin(holder_ends(cx, Process::exit)),
    )
    .needs(PROCESSES),
    Case::new(
        "FR-08",
        Fairness,
        "C10",
        "two processes share a lock, evenly if it is Fifo; what both saw is a lock's history",
        |cx| Box::pin(processes_share(cx)),
    )
    .needs(PROCESSES),
    Case::new(
        "C4-02",
        Liveness,
        "C4",
        "a token is greater than that of a holder whose process was killed",
        |cx| Box::pin(tokens_outlive_a_process(cx)),
    )
    .needs(PROCESSES),
    Case::new(
        "C16-10",
        Liveness,
        "C16",
        "inspect and list show the holder in another process, and none soon after that was killed",
        |cx| Box::pin(killed_and_not_shown(cx)),
    )
    .needs(&[Need::RealTime, Need::Hook(Hook::Processes), Need::Operator]),
];

async fn one_of_many_processes_wins(cx: Context) -> Verdict {
    const PROCESSES: usize = 8;
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(&cx).await?);
    }
    for round in 0..20 {
        for process in &mut processes {
            process.tell(&format!("race {}", cx.name("contended")))?;
        }
        let (mut winners, mut unanswered) = (Vec::new(), 0);
        for process in &mut processes {
            let answer = process.expect("won").await?;
            let (won, errors) = answer.split_once(" failed ").unwrap_or((&answer, "?"));
            let (failed, late) = errors.split_once(" late ").unwrap_or((errors, "0"));
            require!(failed == "0", "{failed} attempts ended with an error in round {round}");
            unanswered += late.parse::<usize>().unwrap_or(0);
            if won != "0" {
                winners.push((won.to_owned(), process));
            }
        }
        let won: Vec<_> = winners.iter().map(|(won, _)| won.as_str()).collect();
        let tasks = PROCESSES * CLIENTS;
        let enough = won == ["1"] || won.is_empty() && unanswered > 0;
        require!(enough, "{won:?} of {tasks} tasks won round {round} instead of one");
        require_in_time!(unanswered == 0, "{unanswered} attempts got no answer in round {round}");
        for (_, process) in winners {
            process.tell("release")?;
            process.expect("released").await?;
        }
    }
    Ok(())
}

async fn holder_ends(cx: Context, end: fn(&mut Process) -> Verdict) -> Verdict {
    let ttl = cx.ttl();
    let mut took = Vec::new();
    for _ in 0..3 {
        let mut holder = Process::start(&cx).await?;
        holder.tell(&format!("acquire {} {}", ttl.as_millis(), cx.name("orphaned")))?;
        holder.expect("granted").await?;
        let waiter = tokio::spawn(cx.lock("orphaned").await?.acquire());
        // So that it renews at least once.
        cx.sleep(ttl / 2).await;
        // A machine that stands still for longer than a ttl ends its lease.
        require_in_time!(!waiter.is_finished(), "granted beside a holder that lives");
        let ended = cx.clock.now();
        end(&mut holder)?;
        let guard =
            cx.by(dead_within(&cx), "the waiter of a dead holder is granted", waiter).await???;
        let after = cx.clock.now().saturating_since(ended);
        // The last renewal was sent at most half a ttl before the end.
        require!(
            !matches!(cx.guarantees.expiry, Expiry::Ttl(_)) || after > ttl * 2 / 5,
            "granted {after:?} after the holder's end, before its ttl of {ttl:?}"
        );
        guard.release().await?;
        took.push(after);
    }
    cx.notes.times("end to next grant", took);
    cx.no_residue("orphaned").await
}

/// By when the name of a process that died is free, as declared.
fn dead_within(cx: &Context) -> Duration {
    match cx.guarantees.expiry {
        Expiry::HolderDeath => cx.wake_up(),
        Expiry::Ttl(_) | Expiry::Session(_) | Expiry::Connection(_) => cx.ttl() + cx.expiry_slack(),
    }
}

async fn killed_and_not_shown(cx: Context) -> Verdict {
    let (operator, name) = (cx.operator()?, cx.lock_name("shown")?);
    let mut holder = Process::start(&cx).await?;
    holder.tell(&format!("acquire {} {}", cx.ttl().as_millis(), cx.name("shown")))?;
    holder.expect("granted").await?;
    let seen = operator.inspect(&name).await?.holders;
    require!(seen.len() == 1, "another process holds, and {seen:?} are shown");
    let listed = operator.list(name.as_str(), None, 10).await?;
    require!(listed.len() == 1, "another process holds, and {listed:?} are listed");
    holder.kill()?;
    let bound = dead_within(&cx);
    let end = cx.clock.now().saturating_add(bound);
    loop {
        let seen = operator.inspect(&name).await?.holders;
        let listed = operator.list(name.as_str(), None, 10).await?;
        if seen.is_empty() && listed.is_empty() {
            return Ok(());
        }
        require_in_time!(
            cx.clock.now() < end,
            "{bound:?} after its end a process is shown as the holder: {seen:?}, in a list: {listed:?}"
        );
        cx.sleep(cx.moment()).await;
    }
}

async fn processes_share(cx: Context) -> Verdict {
    let mut processes = [Process::start(&cx).await?, Process::start(&cx).await?];
    let histories = Histories::new(&cx);
    for (process, history) in processes.iter_mut().zip(&histories.0) {
        process.tell(&format!("share 3000 {} {}", cx.name("shared"), history.display()))?;
    }
    let mut shares = Vec::new();
    for process in &mut processes {
        shares.push(process.expect("granted").await?.parse::<u32>().unwrap_or(0));
    }
    shares.sort_unstable();
    let (least, most) = (shares[0], shares[1]);
    require!(least > 0, "one process got every grant: {shares:?}");
    let fifo = cx.guarantees.fairness == crate::Fairness::Fifo;
    // One may have started a little earlier.
    require!(!fifo || most <= least * 3 / 2 + 10, "the order is Fifo, the shares are {shares:?}");
    let seen = history::read(&histories.0)?.check();
    let seen = seen.map_err(|why| Stop::failed(format!("no lock has such a history: {why}")))?;
    require!(seen.grants >= (least + most) as usize, "{shares:?} of {seen:?} were recorded");
    cx.notes.count("grants of two processes", seen.grants as u64);
    if let Some(gap) = seen.smallest_gap {
        cx.notes.time("belief to next grant, smallest", gap);
    }
    Ok(())
}

/// Where each of two processes records what it sees; removed when dropped.
struct Histories([PathBuf; 2]);

impl Histories {
    fn new(cx: &Context) -> Self {
        let of = |number| env::temp_dir().join(cx.name(&format!("{number}.history")));
        Self([of(1), of(2)])
    }
}

impl Drop for Histories {
    fn drop(&mut self) {
        for file in &self.0 {
            // It is there only if its process got so far.
            fs::remove_file(file).ok();
        }
    }
}

async fn tokens_outlive_a_process(cx: Context) -> Verdict {
    let mut last = None;
    for _ in 0..3 {
        let mut holder = Process::start(&cx).await?;
        holder.tell(&format!("acquire {} {}", cx.ttl().as_millis(), cx.name("tokens")))?;
        let token: FencingToken = holder.expect("granted").await?.parse().map_err(Error::from)?;
        require!(Some(token) > last, "token {token} came after {last:?}");
        holder.kill()?;
        last = Some(cx.lock("tokens").await?.acquire().await?.token());
        require!(last > Some(token), "{last:?} came after token {token}");
    }
    Ok(())
}
