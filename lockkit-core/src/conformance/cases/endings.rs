//! Atomicity: guards and runtimes that end in every way.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::conformance::case::Challenge::Atomicity;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::fixture::Time;
use crate::conformance::runtime::{Ending, runtime};
use crate::conformance::stop::{Stop, Verdict, require, require_held};
use crate::{Guard, Locks};

pub(super) const CASES: &[Case] = &[
    Case::new("AT-13", Atomicity, "C9", "a guard dropped without a release frees its name", |cx| {
        Box::pin(dropped_guard(cx))
    }),
    Case::new(
        "AT-14",
        Atomicity,
        "C9",
        "a guard dropped outside a runtime, in another one or by a panic frees its name",
        |cx| Box::pin(dropped_anywhere(cx)),
    )
    .needs(&[Need::RealTime]),
    Case::new(
        "AT-15",
        Atomicity,
        "C11",
        "a runtime that ends while it holds, waits and renews leaves nothing for longer than a ttl",
        |cx| Box::pin(runtime_ends(cx)),
    )
    .needs(&[Need::RealTime]),
    Case::new(
        "AT-18",
        Atomicity,
        "C11",
        "a waiter that ends without a word, as with its runtime, frees its place although its client \
         is used on",
        |cx| Box::pin(waiter_ends(cx)),
    ),
    Case::new(
        "C11-08",
        Atomicity,
        "C11",
        "a holder that ends without a word, as with its runtime, frees its name although its client \
         is used on",
        |cx| Box::pin(holder_ends(cx)),
    ),
];

async fn dropped_guard(cx: Context) -> Verdict {
    let (ours, theirs) = (cx.lock("dropped").await?, cx.lock("dropped").await?);
    for _ in 0..50 {
        let guard = ours.acquire().await?;
        let watch = guard.watch();
        drop(guard);
        require!(!watch.is_held(), "a dropped guard is held");
        cx.is_free_for(&theirs).await?;
    }
    cx.no_residue("dropped").await
}

async fn dropped_anywhere(cx: Context) -> Verdict {
    let lock = cx.lock("dropped").await?;
    let probe = cx.lock("dropped").await?;
    type Drop = fn(Guard);
    let ways: [(&str, Drop); 3] = [
        ("outside a runtime", |guard| drop(guard)),
        ("in another runtime", |guard| {
            let other = runtime(Time::Real).expect("a runtime");
            other.block_on(async { drop(guard) });
        }),
        ("by a panic", |guard| {
            let _guard = guard;
            // Not `panic!`: the hook would print what is no failure.
            resume_unwind(Box::new("expected"));
        }),
    ];
    for (way, drop_it) in ways {
        let guard = lock.acquire().await?;
        let dropped = thread::spawn(move || drop_it(guard)).join();
        require!(dropped.is_ok() || way == "by a panic", "dropping a guard {way} panicked");
        cx.is_free_for(&probe)
            .await
            .map_err(|stop| stop.of(format_args!("a guard was dropped {way}")))?;
    }
    cx.no_residue("dropped").await
}

async fn waiter_ends(cx: Context) -> Verdict {
    type End = fn(Runtime);
    // What the provider sees of it: a call that is dropped, and no withdrawal.
    let mut ways: Vec<(&str, Option<End>)> = vec![("dropped", None)];
    if !cx.is_virtual() {
        ways.push(("with its runtime", Some(Runtime::shutdown_background)));
    }
    let bound = cx.ttl() + cx.expiry_slack();
    for (way, end) in ways {
        let client = cx.connect().await?;
        let locks = cx.locks_of(Arc::clone(&client));
        // It uses the client, and what the client's locks live on, to the end.
        let kept = locks.lock(cx.name("kept")).acquire().await?;
        let blocker = locks.lock(cx.name("waited")).acquire().await?;
        let request = cx.request("waited")?;
        let (asker, asked) = (Arc::clone(&client), request.clone());
        let call = async move { asker.acquire(&asked).await.map(drop) };
        let dropped = async |call: JoinHandle<_>| {
            call.abort();
            cx.by(cx.slack(), "a call that is dropped ends", call).await.map(drop)
        };
        match end {
            None => {
                let waiting = tokio::spawn(call);
                cx.queued(&request).await?;
                dropped(waiting).await?;
            }
            Some(end) => {
                let ending = Ending::new(Time::Real)?;
                let waiting = ending.spawn(call);
                cx.queued(&request).await?;
                ending.end(end);
                dropped(waiting).await?;
            }
        }
        blocker.release().await?;
        let next = cx.lock("waited").await?.acquire_within(bound).await;
        let next = next.map_err(|error| {
            Stop::error(&error, format_args!("a waiter ended {way}, and blocks its name"))
        })?;
        require_held(&kept, "lost with a waiter of its client")?;
        next.release().await?;
        kept.release().await?;
        cx.no_residue("waited").await?;
    }
    Ok(())
}

async fn holder_ends(cx: Context) -> Verdict {
    let bound = cx.ttl() + cx.expiry_slack();
    let client = cx.connect().await?;
    // It uses the client to the end.
    let kept = cx.locks_of(Arc::clone(&client)).lock(cx.name("kept")).acquire().await?;
    for with_its_runtime in [false, true] {
        if with_its_runtime && cx.is_virtual() {
            continue;
        }
        let grant = cx.granted(&*client, &cx.request("held")?).await?;
        if with_its_runtime {
            let ending = Ending::new(Time::Real)?;
            let holding = ending.spawn(async move {
                let _grant = grant;
                pending::<()>().await;
            });
            ending.end(Runtime::shutdown_background);
            let ended = cx.by(cx.slack(), "a task ends with its runtime", holding).await?;
            require!(ended.is_err(), "a task outlived its runtime");
        } else {
            drop(grant);
        }
        let next = cx.lock("held").await?.acquire_within(bound).await;
        let next = next.map_err(|error| {
            let way = if with_its_runtime { "with its runtime" } else { "unreleased" };
            Stop::error(&error, format_args!("a lease was dropped {way}, and keeps its name"))
        })?;
        require_held(&kept, "lost with another lease of its client")?;
        next.release().await?;
        cx.no_residue("held").await?;
    }
    kept.release().await?;
    cx.no_residue("kept").await
}

async fn runtime_ends(cx: Context) -> Verdict {
    type End = fn(Runtime);
    let ways: [(&str, End); 2] =
        [("shut-down", Runtime::shutdown_background), ("dropped", |runtime| drop(runtime))];
    for (way, end) in ways {
        let (held, waited) = (format!("held-{way}"), format!("waited-{way}"));
        let blocker = cx.lock(&waited).await?.acquire().await?;
        let ending = Ending::new(Time::Real)?;
        let Inside { locks, guard, waiting } = Inside::begin(&cx, &ending, &held, &waited).await?;
        require_held(&guard, "lost before its runtime ended")?;

        let ended = tokio::task::spawn_blocking(move || ending.end(end));
        cx.by(Duration::from_secs(1) + cx.slack(), "a runtime that holds ends", ended).await??;
        cx.by(cx.slack(), "a guard whose driver has ended tells so", guard.lost()).await?;
        require!(!guard.is_held(), "held by a driver that has ended");
        let answer = cx.by(cx.slack(), "a caller whose runtime has ended is told", waiting).await?;
        require!(!matches!(answer, Ok(Ok(_))), "granted beside a holder");
        let bound = cx.ttl() + cx.expiry_slack();
        let late = locks.lock(cx.name(&format!("late-{way}"))).acquire_within(cx.ttl());
        drop(cx.by(bound, "locks whose first runtime has ended answer", late).await?);
        drop(guard);

        let next = cx.lock(&held).await?.acquire_within(bound).await?;
        next.release().await?;
        blocker.release().await?;
        let next = cx.lock(&waited).await?.acquire_within(bound).await?;
        next.release().await?;
        cx.no_residue(&held).await?;
        cx.no_residue(&waited).await?;
    }
    Ok(())
}

/// What lives in a runtime that is about to end.
struct Inside {
    locks: Locks,
    guard: Guard,
    waiting: JoinHandle<crate::Result<Guard>>,
}

impl Inside {
    async fn begin(cx: &Context, runtime: &Runtime, held: &str, waited: &str) -> Verdict<Self> {
        let fixture = Arc::clone(&cx.fixture);
        let builder = Locks::builder().clock(cx.clock.clone()).ttl(cx.ttl());
        let (held, waited, ttl) = (cx.name(held), cx.name(waited), cx.ttl());
        let begun = runtime.spawn(async move {
            let locks = builder.build(fixture.connect().await?);
            let guard = locks.lock(held).acquire().await?;
            let waiting = tokio::spawn(locks.lock(waited).acquire());
            // Past the first renewal.
            tokio::time::sleep(ttl / 2).await;
            Ok::<_, crate::Error>(Self { locks, guard, waiting })
        });
        Ok(begun.await??)
    }
}
