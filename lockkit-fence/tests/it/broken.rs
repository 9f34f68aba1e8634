//! Fences with one mistake each, and the cases that convict them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use lockkit_fence::conformance::{Fixture, Resource, failures};
use lockkit_fence::{Access, Fencing, FencingToken, Result, Seen, Stale};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    ChecksWithoutRaise,
    RaisesAfterRead,
    ComparesAsText,
    ForgetsAtRestart,
    ChecksRaise,
    WritesWithoutCheck,
    LastRaiseStays,
    OneNumberForAllKinds,
    OneFenceForAllSlots,
    RefusesEqualTokens,
}

const MISTAKES: [(Mistake, &str); 10] = [
    (Mistake::ChecksWithoutRaise, "FN-01"),
    (Mistake::RaisesAfterRead, "FN-07"),
    (Mistake::ComparesAsText, "FN-03"),
    (Mistake::ForgetsAtRestart, "FN-09"),
    (Mistake::ChecksRaise, "FN-02"),
    (Mistake::WritesWithoutCheck, "FN-06"),
    (Mistake::LastRaiseStays, "FN-08"),
    (Mistake::OneNumberForAllKinds, "FN-04"),
    (Mistake::OneFenceForAllSlots, "FN-05"),
    (Mistake::RefusesEqualTokens, "FN-01"),
];

struct Broken {
    mistake: Mistake,
    kept: Mutex<Kept>,
}

#[derive(Clone, Default)]
struct Kept {
    seen: BTreeMap<Option<u32>, Seen>,
    value: u64,
}

/// Lets the other call of the case come in.
async fn pause() {
    let mut has_paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Broken {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The access as this fence takes it.
    fn taken(&self, access: Access) -> Access {
        match self.mistake {
            Mistake::OneNumberForAllKinds if access.is_shared() => {
                Access::Exclusive(access.token())
            }
            Mistake::OneFenceForAllSlots => Access::Exclusive(access.token()),
            _ => access,
        }
    }

    fn checked(&self, access: Access) -> Result<()> {
        let access = self.taken(access);
        let seen = self.kept().seen.get(&access.slot()).copied().unwrap_or_default();
        let presented = access.token();
        let text = |token: FencingToken| token.to_string();
        let refuses = |newest: &FencingToken| match self.mistake {
            Mistake::ComparesAsText => text(presented) < text(*newest),
            _ => presented <= *newest,
        };
        match self.mistake {
            Mistake::ComparesAsText | Mistake::RefusesEqualTokens if !access.is_shared() => {
                let newest = seen.newest().filter(refuses);
                newest.map_or(Ok(()), |newest| Err(Stale { presented, newest }.into()))
            }
            _ => Ok(seen.check(access)?),
        }
    }

    fn remember(&self, access: Access) {
        let access = self.taken(access);
        let mut kept = self.kept();
        let seen = kept.seen.entry(access.slot()).or_default();
        match (self.mistake, access.is_shared()) {
            (Mistake::ChecksWithoutRaise, _) => {}
            (Mistake::ComparesAsText | Mistake::LastRaiseStays, false) => {
                seen.exclusive = Some(access.token());
            }
            _ => drop(seen.raise(access)),
        }
    }
}

impl Fencing for Broken {
    async fn raise(&self, access: Access) -> Result<()> {
        self.checked(access)?;
        if self.mistake == Mistake::LastRaiseStays {
            pause().await;
            // The older of two comes last.
            if access.token().as_u64() % 2 == 0 {
                pause().await;
            }
        }
        self.remember(access);
        Ok(())
    }

    async fn check(&self, access: Access) -> Result<()> {
        self.checked(access)?;
        if self.mistake == Mistake::ChecksRaise {
            self.remember(access);
        }
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

impl Resource for Broken {
    async fn begin(&self, access: Access) -> Result<u64> {
        if self.mistake == Mistake::RaisesAfterRead {
            let value = self.kept().value;
            pause().await;
            self.raise(access).await?;
            return Ok(value);
        }
        self.raise(access).await?;
        Ok(self.kept().value)
    }

    async fn write(&self, access: Access, value: u64) -> Result<()> {
        if self.mistake == Mistake::WritesWithoutCheck {
            self.kept().value = value;
        }
        self.raise(access).await?;
        self.kept().value = value;
        Ok(())
    }

    async fn restarted(self) -> Self {
        let mut kept = self.kept().clone();
        if self.mistake == Mistake::ForgetsAtRestart {
            kept.seen.clear();
        }
        Self { mistake: self.mistake, kept: Mutex::new(kept) }
    }
}

impl Fixture for Mistake {
    type Resource = Broken;

    async fn fresh(&self) -> Broken {
        Broken { mistake: *self, kept: Mutex::default() }
    }
}

#[test]
fn each_mistake_is_convicted_by_its_case() {
    for (mistake, case) in MISTAKES {
        let failed = futures_executor::block_on(failures(&mistake));
        let is_convicted = failed.iter().any(|failure| failure.case.starts_with(case));
        assert!(is_convicted, "{mistake:?} passed {case}: {failed:?}");
    }
}

#[test]
fn the_same_fence_without_a_mistake_passes_every_case() {
    assert_eq!(futures_executor::block_on(failures(&Mistake::None)), []);
}
