//! Operators: which names a list shows, and what it shows of holders and waiters that come and go.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;

use crate::conformance::case::Challenge::Safety;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, all, require, require_in_time};
use crate::{Guard, Holder, Inspection, LockName, LockProvider, Locks};

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
        "C16-08",
        Safety,
        "C16",
        "inspect and list show each holder's label as it was given, and its token after any refusals",
        |cx| Box::pin(labels(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C16-07",
        Safety,
        "C16",
        "inspect and list show how long a holder has held and has left, and no holder once it has expired",
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
    after_marks(&cx, &locks).await?;
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

/// A store that writes names down in another way may have them in another order.
async fn after_marks(cx: &Context, locks: &Locks) -> Verdict {
    let (operator, prefix) = (cx.operator()?, cx.name("mark"));
    let with = |mark: &&str| [format!("{prefix}{mark}"), format!("{prefix}a{mark}z")];
    let names: BTreeSet<_> = MARKS.iter().flat_map(with).collect();
    let mut guards = Vec::new();
    for name in &names {
        guards.push(held(locks, cx, name).await?);
    }
    for (number, after) in names.iter().enumerate() {
        let seen = operator.list(&prefix, Some(&LockName::new(after)?), 1000).await?;
        let shown: Vec<_> = seen.iter().map(|seen| seen.name.as_str()).collect();
        let rest: Vec<_> = names.iter().skip(number + 1).collect();
        require!(shown == rest, "after {after:?} come {rest:?}, and {shown:?} are shown");
    }
    for guard in guards {
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
    let expected = [("who holds".to_owned(), Some(holder.token))];
    require!(listed.1 == expected, "{:?} is shown for {holder:?}", listed.1);
    holder.lease.release().await?;
    for _ in 0..2 {
        queue.granted(&cx).await?.1.lease.release().await?;
    }
    longer.lease.release().await?;
    longer_queue.granted(&cx).await?.1.lease.release().await?;
    who_came_first_holds(&cx).await?;
    passes_between_them(&cx).await
}

/// How a store calls its entries says nothing of their order: where chance does, it is asked often.
async fn who_came_first_holds(cx: &Context) -> Verdict {
    const ROUNDS: usize = 8;
    const WAITERS: usize = 3;
    let (operator, name, client) = (cx.operator()?, cx.lock_name("first")?, cx.connect().await?);
    for _ in 0..ROUNDS {
        let holder = cx.granted(&*client, &cx.request_with_ttl("first", cx.long_ttl())?).await?;
        let mut queue = Queue::default();
        for _ in 0..WAITERS {
            queue.add_request(cx, &client, cx.request_with_ttl("first", cx.long_ttl())?).await?;
        }
        let listed = operator.list(name.as_str(), None, 10).await?;
        for seen in listed.iter().chain([&operator.inspect(&name).await?]) {
            let tokens: Vec<_> = seen.holders.iter().map(|holder| holder.token).collect();
            let token = holder.token;
            require!(tokens == [Some(token)], "{:?} are shown as holders of {token}", seen.holders);
        }
        holder.lease.release().await?;
        for _ in 0..WAITERS {
            queue.granted(cx).await?.1.lease.release().await?;
        }
    }
    Ok(())
}

/// A name that was released, and that its next waiter has not come for yet: it stays with its client, or
/// goes to another.
async fn passes_between_them(cx: &Context) -> Verdict {
    let client = cx.connect().await?;
    passes_on(cx, &*client, &*client).await?;
    passes_on(cx, &*cx.provider, &*client).await
}

async fn passes_on(cx: &Context, from: &dyn LockProvider, client: &dyn LockProvider) -> Verdict {
    let operator = cx.operator()?;
    let first = cx.request_with_ttl("passing", cx.long_ttl())?;
    let holder = cx.granted(from, &first).await?;
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
    let listed = operator.list(name.as_str(), None, 10).await?;
    require!(!waits || listed.len() == 1, "a name that is waited for is listed as {listed:?}");
    let inspected = operator.inspect(&name).await?;
    let grant = cx.by(cx.wake_up(), "the waiter is granted", waiting).await??;
    // Where the store has not granted the name by then, it has no holder.
    for shown in listed.iter().chain([&inspected]).flat_map(|seen| &seen.holders) {
        let granted = grant.token;
        require!(shown.token == Some(granted), "{shown:?} is shown before the grant of {granted}");
    }
    grant.lease.release().await?;
    cx.no_residue("passing").await
}

/// Labels that a store may take apart, cut off or write in another way.
const LABELS: &[&str] = &[
    "plain",
    "two\nlines\r\n",
    "a\0b",
    "a:b:c",
    "host/1/program|{\"a\": [1, 2]}",
    "  blanks at both ends\t ",
    "%20%2F%25 %s",
    "\u{1f512} \u{e9} e\u{301} \u{5d0}\u{202e}",
    "'; -- \"`$(x)\\",
    "\u{1}\u{7f}",
    "last",
];

async fn labels(cx: Context) -> Verdict {
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let name = cx.lock_name("labelled")?;
    let long = ["a label of many words, ".repeat(12), "\u{e9}".repeat(100)];
    for label in LABELS.iter().copied().chain(long.iter().map(String::as_str)) {
        let request = cx.request_with_ttl("labelled", cx.long_ttl())?.with_label(label);
        let grant = cx.granted(&*client, &request).await?;
        let refused = cx.request("labelled")?.with_label("one that is refused");
        let refused = other.try_acquire(&refused).await?;
        require!(refused.is_none(), "granted beside a holder");
        for look in [Look::Inspect, Look::List] {
            let Some(seen) = look.at(&cx, &name).await? else {
                return Err(Stop::failed(format!("{look:?} shows no holder of {label:?}")));
            };
            require!(
                // A store whose texts have no NUL may show what stands for it.
                seen.label == label || seen.label == label.replace('\0', "\u{fffd}"),
                "{look:?} shows the label {:?} for {label:?}",
                seen.label
            );
            let token = seen.token;
            require!(token == Some(grant.token), "{look:?} shows {token:?} for {}", grant.token);
        }
        grant.lease.release().await?;
    }
    cx.no_residue("labelled").await
}

async fn over_time(cx: Context) -> Verdict {
    let looks = [Look::Inspect, Look::List].map(|look| shown_over_time(&cx, look));
    all(join_all(looks).await)?;
    Ok(())
}

/// How an operator looks at a name.
#[derive(Clone, Copy, Debug)]
enum Look {
    Inspect,
    List,
}

impl Look {
    async fn at(self, cx: &Context, name: &LockName) -> Verdict<Option<Holder>> {
        let operator = cx.operator()?;
        let seen = match self {
            Self::Inspect => Some(operator.inspect(name).await?),
            Self::List => operator.list(name.as_str(), None, 10).await?.pop(),
        };
        Ok(seen.and_then(|seen| seen.holders.into_iter().next()))
    }
}

async fn shown_over_time(cx: &Context, look: Look) -> Verdict {
    let (client, ttl) = (cx.connect().await?, cx.ttl());
    let tail = format!("over-{look:?}");
    let name = cx.lock_name(&tail)?;
    let grant = cx.granted(&*client, &cx.request_with_ttl(&tail, 3 * ttl)?).await?;
    let began = cx.clock.now();
    cx.sleep(ttl / 2).await;
    grant.lease.renew().await?;
    let renewed = cx.clock.now();
    cx.sleep(ttl).await;
    let now = cx.clock.now();
    let (held, since) = (now.saturating_since(began), now.saturating_since(renewed));
    let Some(seen) = look.at(cx, &name).await? else {
        require_in_time!(since < 2 * ttl, "a holder is not shown, {since:?} after its renewal");
        return Err(Stop::failed(format!("{look:?} does not show a holder within its ttl")));
    };
    // What a store rounds.
    let range = cx.guarantees.expiry.range();
    let rounded = ttl / 10 + range.map_or(Duration::ZERO, |range| 2 * range.granularity);
    let age = seen.age.unwrap_or(held);
    require!(age + rounded >= held, "{look:?} shows a holder of {held:?} as one of {age:?}");
    let (left, most) = (seen.expires_in.unwrap_or_default(), 3 * ttl + rounded);
    require!(left + since <= most, "{look:?} shows {left:?}, {since:?} after a renewal");
    // From here on the case neither renews it nor asks for the name.
    let end = renewed.saturating_add(3 * ttl).saturating_add(cx.expiry_slack());
    cx.sleep(end.saturating_since(cx.clock.now())).await;
    let seen = look.at(cx, &name).await?;
    require!(seen.is_none(), "{look:?} shows a holder whose ttl has passed: {seen:?}");
    require!(grant.lease.renew().await.is_err(), "a grant that has expired was renewed");
    Ok(())
}
