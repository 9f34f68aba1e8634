//! Names that a store takes for each other if it keeps less than the name, or more beside it.

use std::collections::BTreeSet;

use crate::conformance::case::Case;
use crate::conformance::case::Challenge::Safety;
use crate::conformance::cases::names::each_its_own;
use crate::conformance::context::Context;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Verdict, require, require_held};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C3-03",
        Safety,
        "C3",
        "names that well-known 32-bit hashes take for each other never share a lock",
        |cx| Box::pin(colliding(cx)),
    ),
    Case::new(
        "C3-04",
        Safety,
        "C3",
        "a name does not meet what a store may keep beside another: its queue, counter or mark",
        |cx| Box::pin(derived(cx)),
    )
    .within(60),
    Case::new(
        "C3-05",
        Safety,
        "C3",
        "a name with a special character and one that spells its escape sequence are two locks",
        |cx| Box::pin(escaped(cx)),
    ),
];

/// What has the same hash, also with the same text behind it.
const COLLISIONS: &[&str] = &[
    // CRC-32.
    "plumless",
    "buckeroo",
    "codding",
    "gnu",
    // FNV-1a and FNV-1, of 32 bits.
    "costarring",
    "liquid",
    "declinate",
    "macallums",
    "altarage",
    "zinke",
    "creamwove",
    "quists",
    // DJB2, by addition and by exclusive or.
    "hetairas",
    "mentioner",
    "heliotropes",
    "neurospora",
    "haggadot",
    "loathsomenesses",
    "playwright",
    "snush",
    // Java's String.hashCode().
    "AaAa",
    "AaBB",
    "BBAa",
    "BBBB",
];

/// What stores and their users call what they keep beside a name.
const BESIDE: &[&str] = &[
    "queue",
    "waiters",
    "wait",
    "wake",
    "token",
    "tokens",
    "fence",
    "fencing",
    "counter",
    "seq",
    "lock",
    "owner",
    "holder",
    "holders",
    "lease",
    "meta",
    "channel",
    "notify",
    "released",
    "withdrawn",
    "q",
    "t",
    "0",
    "1",
];

/// What a store may write down in another way. It forgets easily that the character which begins such a
/// sequence needs that too.
const SPECIAL: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \t";

async fn colliding(cx: Context) -> Verdict {
    // Runs of the suite do not meet by this tail.
    let tail = cx.name("");
    let names: Vec<_> = COLLISIONS.iter().map(|start| format!("{start}{tail}")).collect();
    each_its_own(&cx, &names).await
}

async fn escaped(cx: Context) -> Verdict {
    let mut names = BTreeSet::new();
    for special in SPECIAL.chars() {
        let code = u32::from(special);
        let spelt = [
            special.to_string(),
            format!("%{code:02X}"),
            format!("%{code:02x}"),
            format!("\\{special}"),
        ];
        names.extend(spelt.iter().map(|spelt| cx.name(&format!("x{spelt}y"))));
    }
    each_its_own(&cx, &Vec::from_iter(names)).await
}

async fn derived(cx: Context) -> Verdict {
    let mut names = Vec::new();
    for separator in [":", "/", ".", "-", "_"] {
        for beside in BESIDE {
            names.push(cx.name(&format!("beside{separator}{beside}")));
        }
    }
    let holder = cx.lock("beside").await?.ttl(cx.long_ttl()).acquire().await?;
    let (client, mut queue) = (cx.connect().await?, Queue::default());
    queue.add_request(&cx, &client, cx.request_with_ttl("beside", cx.long_ttl())?).await?;
    each_its_own(&cx, &names).await?;
    require_held(&holder, "a holder, after locks of names that begin with its name")?;
    require!(!queue.someone_ended(&cx).await, "a waiter was granted beside its holder");
    holder.release().await?;
    queue.granted(&cx).await?.1.lease.release().await?;
    cx.no_residue("beside").await
}
