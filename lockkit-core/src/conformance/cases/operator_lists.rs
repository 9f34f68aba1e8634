//! Operators: which names a list shows, and what it shows of holders and waiters that come and go.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use crate::conformance::case::Challenge::Safety;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::{Guard, Inspection, LockName, Locks};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C16-04",
        Safety,
        "C16",
        "list takes a prefix as it is: no wildcard, no pattern, no path, and no other case",
        |cx| Box::pin(prefixes(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C16-05",
        Safety,
        "C16",
        "list goes on after any name, held or not, and its limit counts what it shows",
        |cx| Box::pin(pages(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C16-06",
        Safety,
        "C16",
        "list shows the holders and waiters that inspect shows, also of a name that passes between them",
        |cx| Box::pin(as_inspected(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C16-07",
        Safety,
        "C16",
        "inspect and list show how long a holder has held and has left, and nobody once it expired",
        |cx| Box::pin(over_time(cx)),
    )
    .needs(&[Need::Operator, Need::LeaseTtl]),
];

/// What comes between two names of a prefix and its look-alikes.
const MARKS: &[&str] = &[
    "%", "_", "*", "?", "[a-z]", "[^b]", "\\", "\\%", "{a,b}", ".", ".*", "^", "$", "+", "/", "//",
    "'", "\"", " ", "#", ":", "A", "a", "\u{e9}", "e\u{301}", "\u{c9}",
];

async fn held(locks: &Locks, cx: &Context, name: &str) -> Verdict<Guard> {
    Ok(locks.lock(name).ttl(cx.long_ttl()).acquire().await?)
}

async fn prefixes(cx: Context) -> Verdict {
    let (operator, locks) = (cx.operator()?, cx.locks().await?);
    let (mut names, mut guards) = (BTreeSet::new(), Vec::new());
    for mark in MARKS {
        for tail in ["", "z", "/z"] {
            names.insert(cx.name(&format!("x{mark}{tail}")));
        }
    }
    for plain in ["x", "xb", "xaz", "xbz", "xabz", "Xaz"] {
        names.insert(cx.name(plain));
    }
    for name in &names {
        guards.push(held(&locks, &cx, name).await?);
    }
    let prefixes = MARKS.iter().map(|mark| cx.name(&format!("x{mark}")));
    for prefix in prefixes.chain([cx.name("x"), cx.name("X"), cx.name("xa"), cx.name("y")]) {
        let seen = operator.list(&prefix, None, 1000).await?;
        let shown: Vec<_> = seen.iter().map(|seen| seen.name.as_str()).collect();
        let expected: Vec<_> = names.iter().filter(|name| name.starts_with(&prefix)).collect();
        require!(shown == expected, "{prefix:?} shows {shown:?}, and {expected:?} are held");
    }
    for guard in guards {
        guard.release().await?;
    }
    Ok(())
}

async fn pages(cx: Context) -> Verdict {
    let (operator, locks) = (cx.operator()?, cx.locks().await?);
    let prefix = cx.name("page/");
    let mut guards = Vec::new();
    for number in 0..30 {
        guards.push(held(&locks, &cx, &format!("{prefix}{number:02}")).await?);
    }
    // Of three names one stays, and the first two of all go.
    let expected: Vec<_> =
        guards.iter().skip(2).step_by(3).map(|guard| guard.name().clone()).collect();
    let mut kept = Vec::new();
    for (number, guard) in guards.into_iter().enumerate() {
        if number % 3 == 2 { kept.push(guard) } else { guard.release().await? }
    }
    let names = |seen: Vec<Inspection>| seen.into_iter().map(|seen| seen.name).collect::<Vec<_>>();
    for limit in [0, 1, 4, 10, 11] {
        let shown = names(operator.list(&prefix, None, limit).await?);
        let first = &expected[..limit.min(expected.len())];
        require!(shown == first, "the first {limit} are {first:?}, and {shown:?} are shown");
    }
    let afters = [cx.name("page"), cx.name("page/"), cx.name("page/0"), cx.name("page/03")];
    let later = [cx.name("page/15"), cx.name("page/150"), cx.name("page/29"), cx.name("pagf")];
    for after in afters.into_iter().chain(later) {
        let after = LockName::new(after)?;
        let rest: Vec<_> = expected.iter().filter(|name| **name > after).cloned().collect();
        let shown = names(operator.list(&prefix, Some(&after), 100).await?);
        require!(shown == rest, "after {after:?} come {rest:?}, and {shown:?} are shown");
    }
    // The name that a page ended with may be free by the time of the next.
    let page = names(operator.list(&prefix, None, 3).await?);
    for guard in kept.drain(..3) {
        guard.release().await?;
    }
    let shown = names(operator.list(&prefix, page.last(), 100).await?);
    require!(shown == expected[3..], "after a name that was released come {shown:?}");
    for guard in kept {
        guard.release().await?;
    }
    Ok(())
}

async fn as_inspected(cx: Context) -> Verdict {
    let operator = cx.operator()?;
    let name = cx.lock_name("listed")?;
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let request = cx.request_with_ttl("listed", cx.long_ttl())?.with_label("who holds");
    let holder = cx.granted(&*client, &request).await?;
    let mut queue = Queue::default();
    for label in ["who is first", "who is second"] {
        let request = cx.request_with_ttl("listed", cx.long_ttl())?.with_label(label);
        queue.add_request(&cx, &other, request).await?;
    }
    // A longer name, and what a range read from the shorter one would take in.
    let longer = cx.request_with_ttl("listed/and", cx.long_ttl())?;
    let longer = cx.granted(&*client, &longer).await?;
    let mut longer_queue = Queue::default();
    let waits = cx.request_with_ttl("listed/and", cx.long_ttl())?;
    longer_queue.add_request(&cx, &other, waits).await?;

    let inspected = operator.inspect(&name).await?;
    let waiters = inspected.waiters;
    require!(waiters.is_none_or(|waiters| waiters == 2), "2 wait, and {waiters:?} are shown");
    let listed = operator.list(name.as_str(), None, 10).await?;
    let [listed, _] = &listed[..] else {
        return Err(Stop::failed(format!("two names are held, and listed are {listed:?}")));
    };
    let what = |seen: &Inspection| {
        let who = seen.holders.iter().map(|holder| (holder.label.clone(), holder.token));
        (seen.name.clone(), who.collect::<Vec<_>>(), seen.waiters)
    };
    let (listed, inspected) = (what(listed), what(&inspected));
    require!(listed == inspected, "{listed:?} is listed, and {inspected:?} inspected");
    require!(listed.1[0].1 == Some(holder.token), "{:?} is shown for {holder:?}", listed.1);
    require!(listed.1[0].0 == "who holds", "the holder's label is {:?}", listed.1);
    holder.lease.release().await?;
    for _ in 0..2 {
        queue.granted(&cx).await?.1.lease.release().await?;
    }
    longer.lease.release().await?;
    longer_queue.granted(&cx).await?.1.lease.release().await?;
    passes_between_them(&cx).await
}

/// A name that was released, and that its next waiter has not come for yet.
async fn passes_between_them(cx: &Context) -> Verdict {
    let operator = cx.operator()?;
    let client = cx.connect().await?;
    let first = cx.request_with_ttl("passing", cx.long_ttl())?;
    let holder = cx.granted(&*client, &first).await?;
    let request = cx.request_with_ttl("passing", cx.long_ttl())?;
    let mut waiting = pin!(client.acquire(&request));
    tokio::select! {
        granted = &mut waiting => require!(false, "granted beside a holder: {granted:?}"),
        queued = cx.queued(&request) => queued?,
    }
    let name = cx.lock_name("passing")?;
    let waits = operator.inspect(&name).await?.waiters.is_some_and(|waiters| waiters > 0);
    // Its waiter is not polled from here on.
    holder.lease.release().await?;
    if waits {
        let listed = operator.list(name.as_str(), None, 10).await?;
        require!(listed.len() == 1, "a name that is waited for is listed as {listed:?}");
    }
    let grant = cx.by(cx.wake_up(), "the waiter is granted", waiting).await??;
    grant.lease.release().await?;
    cx.no_residue("passing").await
}

async fn over_time(cx: Context) -> Verdict {
    let operator = cx.operator()?;
    let (client, ttl) = (cx.connect().await?, cx.ttl());
    for lists in [false, true] {
        let tail = format!("over-{lists}");
        let name = cx.lock_name(&tail)?;
        let look = || async {
            let mut seen = match lists {
                true => operator.list(name.as_str(), None, 10).await?,
                false => vec![operator.inspect(&name).await?],
            };
            Verdict::Ok(seen.pop().map(|seen| seen.holders).unwrap_or_default().pop())
        };
        let grant = cx.granted(&*client, &cx.request_with_ttl(&tail, 3 * ttl)?).await?;
        let began = cx.clock.now();
        cx.sleep(ttl / 2).await;
        grant.lease.renew().await?;
        let renewed = cx.clock.now();
        cx.sleep(ttl).await;
        let (passed, since) = (cx.clock.now().saturating_since(began), ttl);
        let Some(seen) = look().await? else {
            return Err(Stop::failed("a holder within its ttl is not shown"));
        };
        // What a store rounds, and what a busy machine adds.
        let rounded = ttl / 10;
        let age = seen.age.unwrap_or(passed);
        require!(age + rounded >= passed, "held for {passed:?}, and shown for {age:?}");
        let left = seen.expires_in.unwrap_or_default();
        let most = 3 * ttl - since + rounded;
        require!(left <= most, "at most {most:?} are left, and {left:?} are shown");
        // Nobody renews it from here on, and nobody asks for it.
        let end = renewed.saturating_add(3 * ttl).saturating_add(cx.expiry_slack());
        cx.sleep(end.saturating_since(cx.clock.now()) + Duration::from_millis(1)).await;
        let seen = look().await?;
        require!(seen.is_none(), "a holder whose ttl has passed is shown: {seen:?}");
        require!(grant.lease.renew().await.is_err(), "a grant that has expired was renewed");
    }
    Ok(())
}
