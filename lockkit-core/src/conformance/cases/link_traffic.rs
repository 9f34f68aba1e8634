//! At the link: what waiting costs, and many calls at once on a slow one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::conformance::case::Challenge::Performance;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::faults::{Link, Linked};
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require, require_in_time};
use crate::{Guard, Lock, Locks, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "PF-03",
        Performance,
        "C8",
        "one release among sixty waiters has them ask the store hardly more than one among ten",
        |cx| Box::pin(no_herd(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Push])
    .within(60)
    .operations(80),
    Case::new(
        "PF-04",
        Performance,
        "C8",
        "a waiter that is told of a release asks the store at most twice a second until then",
        |cx| Box::pin(idle(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Push])
    .operations(20),
    Case::new(
        "PF-10-names",
        Performance,
        "C12",
        "on a slow link fifty names are taken side by side in little more than the time of one",
        |cx| Box::pin(side_by_side(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(60)
    .operations(100)
    .faults(1),
];

/// One client of a link, whose bytes to the store are counted: what comes from there may be meant
/// for others.
struct Client {
    locks: Locks,
    link: Arc<dyn Link>,
    /// What a call on the store takes.
    call: u64,
}

impl Client {
    async fn connect(cx: &Context) -> Verdict<Self> {
        const PAIRS: u64 = 10;
        let Linked { client, link } = cx.linked().await?;
        let mut client = Self { locks: cx.locks_of(client), link, call: 0 };
        let lock = client.lock(cx, "free");
        // The first time connects.
        lock.acquire().await?.release().await?;
        let before = client.sent().await?;
        for _ in 0..PAIRS {
            lock.acquire().await?.release().await?;
        }
        client.call = (client.sent().await? - before) / (2 * PAIRS);
        require!(client.call > 0, "calls send nothing over the link");
        Ok(client)
    }

    /// A lock whose ttl asks for no renewal here.
    fn lock(&self, cx: &Context, tail: &str) -> Lock {
        self.locks.lock(cx.name(tail)).ttl(cx.long_ttl())
    }

    async fn sent(&self) -> Verdict<u64> {
        Ok(self.link.traffic().await?.sent)
    }

    /// So many waiters behind a holder, which have come and have nothing more to say.
    async fn waiting(
        &self,
        cx: &Context,
        tail: &str,
        waiters: usize,
    ) -> Verdict<(Guard, JoinSet<Result<Guard>>)> {
        let holder = cx.lock(tail).await?.ttl(cx.long_ttl()).acquire().await?;
        let mut waiting = JoinSet::new();
        for _ in 0..waiters {
            waiting.spawn(self.lock(cx, tail).acquire());
        }
        cx.have_come(tail, 1 + waiters).await?;
        cx.sleep(2 * cx.slack()).await;
        Ok((holder, waiting))
    }

    /// Ends them all, and waits for what is left of them.
    async fn end(
        self,
        cx: &Context,
        tail: &str,
        holder: Guard,
        mut waiting: JoinSet<Result<Guard>>,
    ) -> Verdict {
        waiting.shutdown().await;
        holder.release().await?;
        self.locks.close(cx.healed()).await?;
        cx.no_residue(tail).await
    }
}

async fn no_herd(cx: Context) -> Verdict {
    const FEW: usize = 10;
    const MANY: usize = 60;
    let client = Client::connect(&cx).await?;
    let call = client.call;
    let few = caused(&cx, client, FEW).await?;
    let many = caused(&cx, Client::connect(&cx).await?, MANY).await?;
    cx.notes.count("bytes of a call", call);
    cx.notes.count("bytes after a release among ten", few);
    cx.notes.count("bytes after a release among sixty", many);
    // Half of what it takes if each of those that are more asks once.
    let bound = few + (MANY - FEW) as u64 * call / 2;
    require!(many <= bound, "{many} bytes among {MANY}, {few} among {FEW}, {call} for a call");
    Ok(())
}

/// The bytes that a client sends until shortly after one of its waiters is granted, at the least: a
/// heartbeat may fall into some of those times.
async fn caused(cx: &Context, client: Client, waiters: usize) -> Verdict<u64> {
    const RELEASES: u32 = 5;
    let tail = format!("of-{waiters}");
    let (mut holder, mut waiting) = client.waiting(cx, &tail, waiters).await?;
    let mut least = u64::MAX;
    for _ in 0..RELEASES {
        let before = client.sent().await?;
        holder.release().await?;
        let next = cx.by(cx.wake_up(), "the next is granted", waiting.join_next()).await?;
        holder = next.ok_or_else(|| Stop::failed("nobody waits any more"))???;
        cx.sleep(Duration::from_millis(150)).await;
        least = least.min(client.sent().await? - before);
        require!(waiting.try_join_next().is_none(), "granted beside a holder");
        cx.sleep(Duration::from_millis(220)).await;
    }
    client.end(cx, &tail, holder, waiting).await?;
    Ok(least)
}

async fn idle(cx: Context) -> Verdict {
    const WAITERS: usize = 10;
    const SECONDS: u64 = 4;
    let client = Client::connect(&cx).await?;
    let (holder, waiting) = client.waiting(&cx, "idle", WAITERS).await?;
    let before = client.sent().await?;
    cx.sleep(Duration::from_secs(SECONDS)).await;
    let (sent, call) = (client.sent().await? - before, client.call);
    cx.notes.count("bytes of a call", call);
    cx.notes.count("bytes of ten waiters in four seconds", sent);
    let bound = 2 * SECONDS * WAITERS as u64 * call;
    require!(sent <= bound, "{WAITERS} waiters sent {sent} bytes in {SECONDS} s: {call} is a call");
    client.end(&cx, "idle", holder, waiting).await
}

async fn side_by_side(cx: Context) -> Verdict {
    const DELAY: Duration = Duration::from_millis(100);
    const NAMES: usize = 50;
    let client = Client::connect(&cx).await?;
    let locks: Vec<_> =
        (0..NAMES).map(|number| client.lock(&cx, &format!("beside-{number}"))).collect();
    let all = async || {
        let taken = locks.iter().map(|lock| async { lock.acquire().await?.release().await });
        join_all(taken).await.into_iter().collect::<Result<()>>()
    };
    client.link.delay(DELAY).await?;
    // A client may open more connections for so many, and be late meanwhile.
    let settled = async {
        while all().await.is_err() {
            cx.sleep(DELAY).await;
        }
    };
    cx.by(cx.limit() / 2, "a slow link is made use of", settled).await?;
    let begun = cx.clock.now();
    locks[0].acquire().await?.release().await?;
    let one = cx.clock.now().saturating_since(begun);
    let begun = cx.clock.now();
    cx.by(cx.limit(), "fifty names are taken", all()).await??;
    let fifty = cx.clock.now().saturating_since(begun);
    cx.notes.time("one name", one);
    cx.notes.time("fifty names", fifty);
    // A few connections may share them out; a turn for each would take fifty times as long.
    let bound = 10 * one + cx.slack();
    require_in_time!(fifty <= bound, "fifty names took {fifty:?} where one took {one:?}");
    client.link.pass().await?;
    Ok(client.locks.close(cx.healed()).await?)
}
