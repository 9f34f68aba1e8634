//! What a round comes to: a majority that agrees on a token and has time left, or an end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::round::{Round, Stage, State};
use super::seats::{self, Seat};
use crate::{Error, FencingToken, Instant};

/// What a round came to.
#[derive(Debug)]
pub(super) enum Outcome {
    Granted(FencingToken),
    /// So many members are held by others that no majority was left.
    Refused,
    /// Several requests hold some members each, or a majority had too little time left.
    Split,
    /// Fewer than a majority of the members answer: this error of one of them.
    Apart(Option<Error>),
    /// It was withdrawn.
    Withdrawn,
}

/// The time that a majority takes to answer, as last measured.
#[derive(Debug, Default)]
pub(super) struct RoundTrip(AtomicU64);

/// Before anything was measured.
const UNKNOWN: Duration = Duration::from_millis(10);
/// One slow member among quick ones is no split vote.
const SHORTEST: Duration = Duration::from_millis(3);

impl RoundTrip {
    pub(super) fn get(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => UNKNOWN,
            micros => Duration::from_micros(micros).max(SHORTEST),
        }
    }

    fn measured(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.0.load(Ordering::Relaxed);
        let smoothed = if before == 0 { micros } else { before / 8 * 7 + micros / 8 };
        self.0.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// How long a request may hold some members but no majority: 2 to 6 round trips, twice as many after each split up
    /// to 16 times, and never so long that it would have to renew them.
    fn part_limit(&self, splits: u32, ttl: Duration, random: u32) -> Duration {
        let trips = self.get() * (1 << splits.min(4));
        (trips * 2 + trips * 4 * random / 255).min(ttl / 4)
    }

    /// A pause before a request that does not wait is tried once more: up to 8 round trips, doubled after each split.
    pub(super) fn jitter(&self, splits: u32, ttl: Duration, random: u32) -> Duration {
        (self.get() * (1 << splits.min(5)) * 8 * random / 255).min(ttl / 16)
    }
}

/// What is next, by what the members have answered so far.
#[derive(Debug)]
enum Next {
    End(Outcome),
    Agree,
    /// Something has to change, or this instant to come.
    Wait(Option<Instant>),
}

/// The times of a round.
#[derive(Debug)]
struct Times {
    part_limit: Duration,
    grace: Duration,
    /// Since when some members are held, but no majority.
    partly: Option<Instant>,
    /// Since when a majority is held.
    wholly: Option<Instant>,
}

/// Waits for what the round comes to; a round that was `split` so often before gives its places up later.
pub(super) async fn settle(round: &Round, round_trip: &RoundTrip, splits: u32) -> Outcome {
    let begun = round.now();
    let random = round.members[0].surroundings.random();
    let mut times = Times {
        part_limit: round_trip.part_limit(splits, round.request.ttl(), random),
        grace: round_trip.get(),
        partly: None,
        wholly: None,
    };
    let (mut seen, mut is_measured) = (round.watch(), false);
    loop {
        let now = round.now();
        let next = {
            let state = seen.borrow_and_update();
            if !is_measured && answered(&state) >= round.majority() {
                is_measured = true;
                round_trip.measured(now.saturating_since(begun));
            }
            times.next(&state, round.waits, now)
        };
        let until = match next {
            Next::End(outcome) => return outcome,
            Next::Agree => match agree(round).await {
                Some(token) => return Outcome::Granted(token),
                None => return Outcome::Split,
            },
            Next::Wait(until) => until,
        };
        let timer = async {
            match until {
                Some(until) => round.request.clock().sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // The sender lives as long as the round.
            _ = seen.changed() => {}
            () = timer => {}
        }
    }
}

fn answered(state: &State) -> usize {
    let has = |seat: &&Seat| !matches!(seat, Seat::Asked | Seat::Apart(_));
    state.seats.iter().filter(has).count()
}

impl Times {
    fn next(&mut self, state: &State, waits: bool, now: Instant) -> Next {
        match state.stage {
            Stage::Over(_) => return Next::End(Outcome::Withdrawn),
            Stage::Granted(token) => return Next::End(Outcome::Granted(token)),
            Stage::Open => {}
        }
        let (seats, majority) = (&state.seats, seats::majority(state.seats.len()));
        let live = seats::live(seats, now);
        if live >= majority {
            let until = self.wholly.get_or_insert(now).saturating_add(self.grace);
            let all_answered = !seats.iter().any(|seat| matches!(seat, Seat::Asked));
            return if all_answered || now >= until {
                Next::Agree
            } else {
                Next::Wait(Some(until))
            };
        }
        self.wholly = None;
        if seats::possible(seats, now) < majority {
            let apart = |seat: &&Seat| matches!(seat, Seat::Apart(_));
            let outcome = match seats.len() - seats.iter().filter(apart).count() < majority {
                true => Outcome::Apart(failure(seats)),
                false if waits || live > 0 => Outcome::Split,
                false => Outcome::Refused,
            };
            return Next::End(outcome);
        }
        // Without a queue every member answers at once, or is silent.
        if live == 0 || !waits {
            self.partly = None;
            return Next::Wait(None);
        }
        let until = self.partly.get_or_insert(now).saturating_add(self.part_limit);
        if now >= until { Next::End(Outcome::Split) } else { Next::Wait(Some(until)) }
    }
}

/// The error to tell of: a refusal comes before an outage.
fn failure(seats: &[Seat]) -> Option<Error> {
    let errors = seats.iter().filter_map(|seat| match seat {
        Seat::Apart(error) => error.clone(),
        _ => None,
    });
    let errors: Vec<_> = errors.collect();
    let refusal = errors.iter().find(|error| !error.is_retryable());
    refusal.or(errors.first()).cloned()
}

/// Has a majority agree on the greatest token of all answers; `None`: it is no longer possible.
///
/// The token is written back only where the member's grant is still this round's and carries no greater token. Whether
/// a majority has time left is judged after that.
async fn agree(round: &Round) -> Option<FencingToken> {
    let token = round.look(|state| seats::greatest(&state.seats))?;
    if let Some(granted) = granted(round, token) {
        return Some(granted);
    }
    let mut raises: FuturesUnordered<_> = round
        .held()
        .into_iter()
        .filter(|(_, held)| held.token.is_some_and(|answered| answered != token))
        .map(|(number, held)| async move {
            let raise = held.lease.raise(token);
            let member = &round.members[number];
            (number, member.ask(&round.request, round.limit(), raise).await)
        })
        .collect();
    while let Some((number, answer)) = raises.next().await {
        match answer {
            Ok(true) => round.change(|state| {
                if let Seat::Held(held) = &mut state.seats[number] {
                    held.agreed = Some(token);
                }
            }),
            Err(Error::Lost { reason, .. }) => round.lost_on(number, reason),
            Ok(false) | Err(_) => {}
        }
        if let Some(granted) = granted(round, token) {
            return Some(granted);
        }
    }
    None
}

/// Grants the round if a majority agrees and has time left now.
fn granted(round: &Round, token: FencingToken) -> Option<FencingToken> {
    let now = round.now();
    round.change(|state| {
        let is_open = state.stage == Stage::Open;
        if is_open && seats::is_granted(&state.seats, token, now) {
            state.stage = Stage::Granted(token);
        }
        state.token()
    })
}
