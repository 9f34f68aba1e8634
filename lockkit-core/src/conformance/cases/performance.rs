//! Performance: hand-offs are prompt, and nothing grows.

use std::time::Duration;

use crate::conformance::case::Challenge::Performance;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::stop::{Stop, Verdict, require, require_held, require_in_time};
use crate::conformance::tap::Tap;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "PF-01",
        Performance,
        "C8",
        "a name that nobody else wants is granted and released at once, three hundred times",
        |cx| Box::pin(uncontended(cx)),
    ),
    Case::new(
        "PF-02",
        Performance,
        "C8",
        "half of all hand-offs take no longer than the declared wake-up",
        |cx| Box::pin(hand_offs(cx)),
    ),
    Case::new(
        "PF-05",
        Performance,
        "C12",
        "two hundred names held at once by one client are renewed at most four times a ttl",
        |cx| Box::pin(many_held(cx)),
    )
    .within(60),
    Case::new(
        "PF-06",
        Performance,
        "C8",
        "two hundred waiters for one name are all granted, and none is left",
        |cx| Box::pin(drained(cx)),
    ),
    Case::new(
        "PF-07",
        Performance,
        "C9",
        "a thousand names taken and released leave nothing that an operator could see",
        |cx| Box::pin(no_growth(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "PF-09",
        Performance,
        "C9",
        "an attempt on a held name is answered at once, as None, and leaves nothing",
        |cx| Box::pin(busy(cx)),
    ),
    Case::new(
        "PF-10",
        Performance,
        "C12",
        "a waiter for one name holds up no other name of its client",
        |cx| Box::pin(no_head_of_line(cx)),
    ),
];

async fn uncontended(cx: Context) -> Verdict {
    const ROUNDS: usize = 300;
    let lock = cx.lock("free").await?;
    let (mut acquired, mut released) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = cx.clock.now();
        let guard = lock.acquire().await?;
        let granted = cx.clock.now();
        guard.release().await?;
        acquired.push(granted.saturating_since(started));
        released.push(cx.clock.now().saturating_since(granted));
    }
    // What a busy machine adds to one of them, it does not add to half of them.
    let bound = cx.moment();
    for (what, took) in [("acquire", acquired), ("release", released)] {
        let median = cx.notes.times(what, took);
        require_in_time!(
            median <= bound,
            "half of all times, {what} of a free name took {median:?}"
        );
    }
    Ok(())
}

async fn hand_offs(cx: Context) -> Verdict {
    const ROUNDS: usize = 51;
    let (ours, theirs) = (cx.lock("handed").await?, cx.lock("handed").await?);
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let holder = ours.acquire().await?;
        let (waiter, clock) = (theirs.acquire(), cx.clock.clone());
        let waiter = tokio::spawn(async move { waiter.await.map(|guard| (clock.now(), guard)) });
        cx.sleep(Duration::from_millis(5) + cx.call).await;
        let released = cx.clock.now();
        holder.release().await?;
        let (granted, guard) = cx.by(cx.wake_up(), "a hand-off", waiter).await???;
        took.push(granted.saturating_since(released));
        guard.release().await?;
    }
    let median = cx.notes.times("hand-off", took);
    // What a busy machine adds to one of them, it does not add to half of them.
    let declared = cx.poll();
    let bound = declared + cx.moment();
    require_in_time!(
        median <= bound,
        "the median hand-off took {median:?}, declared are {declared:?}"
    );
    Ok(())
}

async fn many_held(cx: Context) -> Verdict {
    const NAMES: u32 = 200;
    let ttl = 2 * cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let locks = cx.locks_of(tap.clone());
    let mut guards = Vec::new();
    for number in 0..NAMES {
        guards.push(locks.lock(cx.name(&number.to_string())).ttl(ttl).acquire().await?);
    }
    let before = tap.renewals();
    cx.sleep(3 * ttl).await;
    let renewals = tap.renewals() - before;
    let lost = guards.iter().filter(|guard| !guard.is_held()).count();
    for guard in &guards {
        require_held(guard, format_args!("{lost} of {NAMES} were lost"))?;
    }
    cx.notes.count("names held", NAMES.into());
    cx.notes.count("renewals in three ttls", renewals.into());
    let most = 3 * 4 * NAMES;
    require!(renewals <= most, "{renewals} renewals of {NAMES} leases in three ttls");
    for guard in guards {
        guard.release().await?;
    }
    Ok(())
}

async fn drained(cx: Context) -> Verdict {
    const WAITERS: u32 = 200;
    let holder = cx.lock("drained").await?.acquire().await?;
    let clients = [cx.locks().await?, cx.locks().await?];
    let mut waiters = tokio::task::JoinSet::new();
    for waiter in 0..WAITERS {
        let lock = clients[waiter as usize % clients.len()].lock(cx.name("drained"));
        waiters.spawn(async move { lock.acquire().await?.release().await });
    }
    cx.sleep(Duration::from_millis(50) + cx.call).await;
    holder.release().await?;
    // Each hand-off has the whole declared time, but a busy machine's slack counts only once.
    let bound = WAITERS * (cx.poll() + cx.arrival()) + 2 * cx.slack();
    let drain = async {
        while let Some(ended) = waiters.join_next().await {
            ended??;
        }
        Verdict::Ok(())
    };
    let started = cx.clock.now();
    cx.by(bound, "all waiters are granted", drain).await??;
    cx.notes.time("two hundred hand-offs", cx.clock.now().saturating_since(started));
    cx.no_residue("drained").await
}

async fn no_growth(cx: Context) -> Verdict {
    let locks = cx.locks().await?;
    let prefix = cx.name("growing-");
    for number in 0..1000 {
        locks.lock(format!("{prefix}{number}")).acquire().await?.release().await?;
    }
    let left = locks.list(&prefix, None, 10).await?;
    require!(left.is_empty(), "left of a thousand names: {left:?}");
    locks.close(cx.wake_up()).await?;
    Ok(())
}

async fn busy(cx: Context) -> Verdict {
    let holder = cx.lock("busy").await?.acquire().await?;
    let lock = cx.lock("busy").await?;
    let started = cx.clock.now();
    for _ in 0..100 {
        require!(lock.try_acquire().await?.is_none(), "granted beside a holder");
    }
    let each = cx.clock.now().saturating_since(started) / 100;
    cx.notes.time("attempt on a held name, mean", each);
    require_in_time!(each <= cx.moment(), "an attempt on a held name took {each:?}");
    require_held(&holder, "attempts ended the holder's lease")?;
    holder.release().await?;
    cx.no_residue("busy").await
}

async fn no_head_of_line(cx: Context) -> Verdict {
    let holder = cx.lock("held").await?.acquire().await?;
    let locks = cx.locks().await?;
    let others = async |what: &str| {
        for number in 0..100 {
            let lock = locks.lock(cx.name(&format!("{what}-{number}")));
            lock.acquire().await?.release().await?;
        }
        Verdict::Ok(())
    };
    let started = cx.clock.now();
    others("before").await?;
    // What this store takes for them where nobody waits.
    let alone = cx.clock.now().saturating_since(started);
    let waiters: Vec<_> =
        (0..20).map(|_| tokio::spawn(locks.lock(cx.name("held")).acquire())).collect();
    cx.sleep(cx.arrival()).await;
    let bound = alone * 3 + Duration::from_secs(1) + cx.slack();
    let started = cx.clock.now();
    let beside = others("beside");
    cx.by(bound, "a hundred other names are granted beside waiters", beside).await??;
    for number in 0..20 {
        let guard = locks.lock(cx.name(&format!("tried-{number}"))).try_acquire().await?;
        let Some(guard) = guard else {
            return Err(Stop::failed(
                "an attempt on a free name was refused beside waits for another",
            ));
        };
        guard.release().await?;
    }
    cx.notes.time("a hundred other names", cx.clock.now().saturating_since(started));
    for waiter in &waiters {
        waiter.abort();
    }
    holder.release().await?;
    cx.is_free("held").await?;
    Ok(())
}
