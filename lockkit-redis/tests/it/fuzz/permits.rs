//! What was granted of a semaphore whose limit changes, and what its limit was meanwhile.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use lockkit_core::{Error, FencingToken, Guard, GuardWatch, Locks};

use super::NAMES;
use crate::common::ms;
use crate::scripts::chance::Chance;

/// The limits, from the least.
const LIMITS: [u32; 5] = [LEAST, 2, 3, 4, 5];
pub(super) const LEAST: u32 = 1;

#[derive(Debug, Default)]
pub(super) struct Permits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Each limit, and from when it may have been in force; and when it was acknowledged.
    limits: Vec<(u32, Instant, Option<Instant>)>,
    /// Grants that were believed in when they were last looked at.
    latest: Vec<GuardWatch>,
    /// The greatest token of all grants, and of each slot.
    greatest: Option<FencingToken>,
    of_slots: HashMap<u32, FencingToken>,
    /// Grants beside another that was believed in.
    together: u64,
}

/// What was known as a task began to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    at: Instant,
    greatest: Option<FencingToken>,
}

impl State {
    /// The greatest limit that may have been in force since then.
    fn limit_since(&self, since: Instant) -> u32 {
        let mut limits = Vec::new();
        for (n, (limit, _, _)) in self.limits.iter().enumerate() {
            // It was over when the next one was acknowledged.
            let end = self.limits.get(n + 1).and_then(|next| next.2);
            limits.extend(end.is_none_or(|end| end >= since).then_some(*limit));
        }
        // Before the first one, the limit that each request says.
        limits.into_iter().max().unwrap_or(LEAST)
    }
}

impl Permits {
    pub(super) fn asked(&self) -> Asked {
        let state = self.0.lock().unwrap();
        Asked { at: Instant::now(), greatest: state.greatest }
    }

    /// Checks a grant against those before it.
    pub(super) fn granted(&self, guard: &Guard, asked: Asked) {
        let mut state = self.0.lock().unwrap();
        // Told late, it may have ended: then it is no belief.
        if !guard.is_held() {
            return;
        }
        let (token, slot) = (guard.token(), guard.slot().expect("a slot"));
        state.latest.retain(GuardWatch::is_held);
        let others = state.latest.iter().map(|other| (other.token(), other.slot()));
        let others: Vec<_> = others.collect();
        let limit = state.limit_since(asked.at);
        let told = format!("{token} in slot {slot} of at most {limit}, beside {others:?}");
        // Those that were granted before it, and are believed in still, were live at its grant.
        let before = others.iter().filter(|other| other.0 < token).count();
        assert!(before < limit as usize && slot < limit, "{told}");
        let is_alone = others.iter().all(|other| other.0 != token && other.1 != Some(slot));
        assert!(is_alone, "twice: {told}");
        let of_slot = state.of_slots.insert(slot, token);
        assert!(of_slot < Some(token), "{of_slot:?} before {told}");
        assert!(asked.greatest < Some(token), "{asked:?} before {told}");
        state.greatest = state.greatest.max(Some(token));
        state.latest.push(guard.watch());
        state.together += u64::from(!others.is_empty());
    }

    /// Grants beside others, and resizes.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        (state.together, state.limits.len() as u64)
    }
}

/// Changes the limit again and again.
pub(super) async fn resize(
    locks: &Locks,
    permits: &Permits,
    mut chance: Chance,
    is_over: impl Fn() -> bool,
) {
    let semaphore = locks.semaphore(NAMES[0], LEAST);
    while !is_over() {
        let limit = LIMITS[chance.below(LIMITS.len())];
        permits.0.lock().unwrap().limits.push((limit, Instant::now(), None));
        loop {
            match semaphore.resize(limit).await {
                Ok(_) => break,
                Err(Error::Unavailable { .. }) => tokio::time::sleep(ms(20)).await,
                Err(error) => panic!("neither an answer nor an outage: {error}"),
            }
        }
        permits.0.lock().unwrap().limits.last_mut().unwrap().2 = Some(Instant::now());
        tokio::time::sleep(ms(chance.below(300) as u64)).await;
    }
}
