//! The cases, each on a fresh resource.

use std::collections::BTreeMap;

use super::resource::Resource;
use super::together::together;
use crate::{Access, Error, FencingToken, Result, Seen, Stale};

type Passed = std::result::Result<(), String>;

fn token(value: u64) -> FencingToken {
    FencingToken::new(value).unwrap_or(FencingToken::MIN)
}

fn exclusive(value: u64) -> Access {
    Access::Exclusive(token(value))
}

fn shared(value: u64) -> Access {
    Access::Shared(token(value))
}

const fn counted(slot: u32, token: FencingToken) -> Access {
    Access::Counted { token, slot }
}

/// The answer must be that the access passed.
fn passes<T>(what: &str, answer: Result<T>) -> std::result::Result<T, String> {
    answer.map_err(|error| format!("{what} must pass, and ended in: {error}"))
}

/// The answer must be the refusal of a stale token, and tell both tokens.
fn refused<T>(what: &str, answer: Result<T>, presented: u64, newest: u64) -> Passed {
    let expected = Stale { presented: token(presented), newest: token(newest) };
    match answer {
        Err(Error::Stale(stale)) if stale == expected => Ok(()),
        Err(error) => {
            Err(format!("{what} must be refused with {expected:?}, and ended in: {error:?}"))
        }
        Ok(_) => Err(format!("{what} must be refused with {expected:?}, and passed")),
    }
}

pub(super) async fn older_tokens_are_refused(resource: impl Resource) -> Passed {
    passes("the first token, 34,", resource.raise(exclusive(34)).await)?;
    refused("a check of 33 behind 34", resource.check(exclusive(33)).await, 33, 34)?;
    refused("raising to 33 behind 34", resource.raise(exclusive(33)).await, 33, 34)?;
    refused("beginning with 33 behind 34", resource.begin(exclusive(33)).await, 33, 34)?;
    refused("writing with 33 behind 34", resource.write(exclusive(33), 1).await, 33, 34)?;
    passes("a check of 34 again", resource.check(exclusive(34)).await)?;
    passes("raising to 34 again", resource.raise(exclusive(34)).await)?;
    passes("beginning with 35", resource.begin(exclusive(35)).await)?;
    refused("writing with 34 behind 35", resource.write(exclusive(34), 1).await, 34, 35)?;
    passes("writing with 36", resource.write(exclusive(36), 2).await)?;
    refused("raising to 35 behind a write with 36", resource.raise(exclusive(35)).await, 35, 36)
}

pub(super) async fn a_check_remembers_nothing(resource: impl Resource) -> Passed {
    passes("a check of 40", resource.check(exclusive(40)).await)?;
    passes("raising to 34 behind a check of 40", resource.raise(exclusive(34)).await)?;
    passes("a check of shared 41", resource.check(shared(41)).await)?;
    passes("raising to 35 behind a check of shared 41", resource.raise(exclusive(35)).await)
}

pub(super) async fn tokens_compare_as_numbers(resource: impl Resource) -> Passed {
    let precise = 1 << 53;
    let greatest = FencingToken::MAX.as_u64();
    let pairs = [(9, 10), (99, 100), (precise, precise + 1), (greatest - 1, greatest)];
    for (older, newer) in pairs {
        passes(&format!("raising to {older}"), resource.raise(exclusive(older)).await)?;
        passes(&format!("raising to {newer}"), resource.raise(exclusive(newer)).await)?;
        let what = format!("raising to {older} behind {newer}");
        refused(&what, resource.raise(exclusive(older)).await, older, newer)?;
    }
    Ok(())
}

pub(super) async fn shared_grants_pass_in_any_order(resource: impl Resource) -> Passed {
    passes("writing with 30", resource.write(exclusive(30), 30).await)?;
    refused("shared 30 behind exclusive 30", resource.raise(shared(30)).await, 30, 30)?;
    for reader in [33, 31, 32, 31] {
        let read = passes(
            &format!("beginning with shared {reader}"),
            resource.begin(shared(reader)).await,
        )?;
        if read != 30 {
            return Err(format!("shared {reader} must read 30, and read {read}"));
        }
    }
    for writer in [30, 32, 33] {
        let what = format!("writing with {writer} behind shared 33");
        refused(&what, resource.write(exclusive(writer), 1).await, writer, 33)?;
    }
    passes("writing with 34", resource.write(exclusive(34), 34).await)?;
    for reader in [31, 33, 34] {
        let what = format!("beginning with shared {reader} behind exclusive 34");
        refused(&what, resource.begin(shared(reader)).await, reader, 34)?;
    }
    Ok(())
}

pub(super) async fn each_slot_has_its_own_fence(resource: impl Resource) -> Passed {
    passes("slot 0 with 30", resource.begin(counted(0, token(30))).await)?;
    passes("slot 1 with 32", resource.begin(counted(1, token(32))).await)?;
    passes("slot 0 with 31, beside 32 in slot 1,", resource.write(counted(0, token(31)), 1).await)?;
    passes("slot 1 with 33", resource.begin(counted(1, token(33))).await)?;
    let stale = resource.write(counted(1, token(32)), 1).await;
    refused("slot 1 with 32 behind 33", stale, 32, 33)?;
    passes("slot 0 with 31, beside 33 in slot 1,", resource.write(counted(0, token(31)), 2).await)
}

pub(super) async fn a_refused_write_changes_nothing(resource: impl Resource) -> Passed {
    passes("beginning with 33", resource.begin(exclusive(33)).await)?;
    passes("writing 7 with 33", resource.write(exclusive(33), 7).await)?;
    passes("beginning with 34", resource.begin(exclusive(34)).await)?;
    refused("writing 8 with 33 behind 34", resource.write(exclusive(33), 8).await, 33, 34)?;
    match passes("beginning with 34 again", resource.begin(exclusive(34)).await)? {
        7 => Ok(()),
        other => Err(format!("the refused write must leave 7, and {other} is there")),
    }
}

/// A holder that was paused writes while a new one begins: either the new one reads that write, or it is refused.
pub(super) async fn a_new_holders_read_is_not_undone(resource: impl Resource) -> Passed {
    for round in 0..8 {
        let (old, new) = (exclusive(100 + 2 * round), exclusive(101 + 2 * round));
        let before = passes("beginning with the older token", resource.begin(old).await)?;
        let (read, wrote) = together(resource.begin(new), resource.write(old, before + 1)).await;
        let read = passes("beginning with the newer token", read)?;
        match wrote {
            Ok(()) if read != before + 1 => {
                return Err(format!(
                    "a stale write of {} passed after the new holder had read {read}: the fence must be raised before \
                     the read",
                    before + 1
                ));
            }
            Ok(()) | Err(Error::Stale(_)) => {}
            Err(error) => {
                return Err(format!(
                    "a stale write must be refused as stale, and ended in: {error}"
                ));
            }
        }
        passes("writing with the newer token", resource.write(new, read + 1).await)?;
    }
    Ok(())
}

pub(super) async fn the_newest_of_two_raises_stays(resource: impl Resource) -> Passed {
    for round in 0..8 {
        let (older, newer) = (100 + 2 * round, 101 + 2 * round);
        let both =
            together(resource.raise(exclusive(newer)), resource.raise(exclusive(older))).await;
        passes("the newer of two raises at once", both.0)?;
        if !matches!(both.1, Ok(()) | Err(Error::Stale(_))) {
            return Err(format!("the older of two raises at once ended in: {:?}", both.1));
        }
        let what = "the older of two tokens that raised at once";
        refused(what, resource.check(exclusive(older)).await, older, newer)?;
    }
    Ok(())
}

pub(super) async fn a_durable_fence_survives_a_restart(resource: impl Resource) -> Passed {
    if !resource.is_durable() {
        return Ok(());
    }
    passes("raising to 34", resource.raise(exclusive(34)).await)?;
    passes("slot 2 with 50", resource.raise(counted(2, token(50))).await)?;
    let resource = resource.restarted().await;
    refused("writing with 33 after the restart", resource.write(exclusive(33), 1).await, 33, 34)?;
    let slot = resource.raise(counted(2, token(49))).await;
    refused("slot 2 with 49 after the restart", slot, 49, 50)?;
    passes("writing with 34 after the restart", resource.write(exclusive(34), 1).await)
}

/// Accesses of all kinds beside the rule: every answer must be the rule's.
pub(super) async fn a_random_walk_follows_the_rule(resource: impl Resource) -> Passed {
    let (mut seen, mut random) = (BTreeMap::<Option<u32>, Seen>::new(), 0x2545_f491_4f6c_dd1d_u64);
    let mut next = |below: u64| {
        // Xorshift: every run walks the same way.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for step in 0..60 {
        let presented = token(1 + step / 3 + next(8));
        let access = match next(4) {
            0 => Access::Shared(presented),
            1 => counted(if next(2) == 0 { 0 } else { 1 }, presented),
            _ => Access::Exclusive(presented),
        };
        let model = seen.entry(access.slot()).or_default();
        let (what, expected, answer) = match next(3) {
            0 => ("check", model.check(access), resource.check(access).await),
            1 => ("raise", model.raise(access), resource.raise(access).await),
            _ => ("begin", model.raise(access), resource.begin(access).await.map(drop)),
        };
        let is_right = match (&answer, expected) {
            (Ok(()), Ok(())) => true,
            (Err(Error::Stale(stale)), Err(expected)) => *stale == expected,
            _ => false,
        };
        if !is_right {
            return Err(format!(
                "step {step}, {what} of {access:?}: {answer:?}, and the rule says {expected:?}"
            ));
        }
    }
    Ok(())
}
