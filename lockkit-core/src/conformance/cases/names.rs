//! Safety: any text is a name, and no two names meet.

use crate::conformance::case::Case;
use crate::conformance::case::Challenge::Safety;
use crate::conformance::context::Context;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::{Error, Guard, Lock, LockName};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "SF-25",
        Safety,
        "C3",
        "names of every odd shape are locks of their own, held all at once",
        |cx| Box::pin(odd_names(cx)),
    ),
    Case::new(
        "C3-01",
        Safety,
        "C3",
        "an empty name and one of more than 512 bytes are refused at once",
        |cx| Box::pin(no_names(cx)),
    ),
    Case::new(
        "C3-02",
        Safety,
        "C3",
        "hundreds of short names that are near to each other are locks of their own",
        |cx| Box::pin(near_names(cx)),
    ),
];

/// Names that stores, paths, patterns, quoting and text libraries treat in a way of their own.
const ODDITIES: &[&str] = &[
    "/",
    "//",
    "a/",
    "/a",
    "a/b",
    "a//b",
    "a",
    "A",
    "ab",
    "aB",
    "a b",
    " ",
    "  ",
    " a",
    "a ",
    ".",
    "..",
    "../a",
    "./a",
    "a/..",
    "a.",
    "-",
    "--",
    "*",
    "?",
    "a*",
    "a?",
    "[a]",
    "{x}",
    "{x}a",
    "%s",
    "%00",
    "%2F",
    "a%2Fb",
    "\\",
    "a\\b",
    "'",
    "''",
    "\"",
    "`",
    ";",
    "$x",
    "#",
    "\0",
    "a\0",
    "a\0b",
    "\u{1}",
    "\n",
    "a\n",
    "\r\n",
    "\t",
    "\u{7f}",
    "_",
    "__",
    ":",
    "a:b",
    "\u{5d0}\u{5d1}",
    "\u{202e}ab",
    "\u{200b}",
    "\u{feff}",
    "\u{e9}",
    "e\u{301}",
    "\u{c9}",
    "\u{df}",
    "ss",
    "\u{130}",
    "i",
    "I",
    "\u{131}",
    "\u{1f512}",
    "\u{10ffff}",
    "CON",
    "nul",
    "lock",
    "Lock",
    "LOCK",
    "a-lock-0000000000",
    "_c_-lock-1",
];

/// All of them, and names of odd lengths.
fn oddities() -> Vec<String> {
    let mut names: Vec<String> = ODDITIES.iter().copied().map(str::to_owned).collect();
    for len in [3, 63, 64, 65, 127, 128, 200, 254, 255, 256, 257, 300, 511, 512] {
        names.push("n".repeat(len));
    }
    // As long as can be, and different in the first, the middle or the last byte only.
    let long = "n".repeat(LockName::MAX_LEN);
    for at in [0, 255, 511] {
        let mut name = long.clone();
        name.replace_range(at..=at, "m");
        names.push(name);
    }
    names.push("\u{1f512}".repeat(128));
    names.push("/".repeat(512));
    names.push("\0".repeat(512));
    names
}

async fn odd_names(cx: Context) -> Verdict {
    each_its_own(&cx, &oddities()).await
}

async fn near_names(cx: Context) -> Verdict {
    let characters = ['a', 'b', 'A', '/', '.', '_', '%', '\u{e9}'];
    let mut names = Vec::new();
    for first in characters {
        for second in characters {
            for third in characters {
                // Runs of the suite do not meet by this tail, and it keeps the start as it is.
                names.push(format!("{first}{second}{third}{}", cx.name("")));
            }
        }
    }
    each_its_own(&cx, &names[..if cx.is_virtual() { 512 } else { 200 }]).await
}

/// Holds all of `names` at once, which excludes any two of them sharing a lock, and releases half.
pub(super) async fn each_its_own(cx: &Context, names: &[String]) -> Verdict {
    let (ours, theirs) = (cx.locks().await?, cx.locks().await?);
    let mut guards = Vec::new();
    for name in names {
        // It is not about renewals, which a busy machine may miss.
        let lock = ours.lock(name).ttl(cx.long_ttl());
        let guard = match lock.acquire_within(cx.wake_up()).await {
            Ok(guard) => guard,
            Err(error @ Error::TimedOut { .. }) => {
                let held = guards.into_iter().flatten().collect();
                let Some(other) = held_under(&lock, held).await? else { return Err(error.into()) };
                return Err(Stop::failed(format!(
                    "C3: {other:?} was held, and {name:?}, another name, was refused for it"
                )));
            }
            Err(error) => return Err(error.into()),
        };
        require!(guard.name().as_str() == name, "{name:?} became {:?}", guard.name());
        guards.push(Some(guard));
    }
    for name in names {
        let second = theirs.lock(name).try_acquire().await?;
        require!(second.is_none(), "{name:?} was granted twice");
    }
    for guard in guards.iter_mut().step_by(2).filter_map(Option::take) {
        guard.release().await?;
    }
    for (number, name) in names.iter().enumerate() {
        let second = theirs.lock(name).try_acquire().await?;
        let free = number % 2 == 0;
        require!(second.is_some() == free, "{name:?} is free: {}", second.is_some());
        if let Some(operator) = cx.provider.operator() {
            let seen = operator.inspect(&LockName::new(name)?).await?;
            require!(seen.name.as_str() == name, "{name:?} is shown as {:?}", seen.name);
            require!(seen.holders.len() == 1, "{name:?} is shown with {:?}", seen.holders);
        }
        if let Some(guard) = second {
            guard.release().await?;
        }
    }
    for guard in guards.into_iter().flatten() {
        guard.release().await?;
    }
    Ok(())
}

/// The name whose release lets `lock` be taken: the store takes the two for each other.
async fn held_under(lock: &Lock, held: Vec<Guard>) -> Verdict<Option<String>> {
    for guard in held.into_iter().rev() {
        let name = guard.name().to_string();
        guard.release().await?;
        if lock.try_acquire().await?.is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

async fn no_names(cx: Context) -> Verdict {
    let locks = cx.locks().await?;
    for text in [String::new(), "n".repeat(513), "\u{1f512}".repeat(129)] {
        let refused = locks.lock(&text).try_acquire().await;
        let invalid = matches!(refused, Err(Error::Invalid { .. }));
        require!(invalid, "a name of {} bytes: {refused:?}", text.len());
    }
    Ok(())
}
