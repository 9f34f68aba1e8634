//! Wake-ups: a connection of its own that listens, made at the first wait, re-made when it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lockkit_core::{LossReason, RequestId};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;

use crate::listener::{Heard, Listener, Listening, PROBE};

/// What a request is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Word {
    #[default]
    Wait,
    /// Ask again now.
    Ask,
    /// Ask again after this.
    AskIn(Duration),
    /// The grant was revoked.
    Revoked,
    /// The request was withdrawn: nobody shall ask again.
    Withdrawn,
}

impl Word {
    const fn is_last(self) -> bool {
        matches!(self, Self::Revoked | Self::Withdrawn)
    }
}

/// One request of this provider, as long as somebody asks or holds for it.
#[derive(Debug)]
pub(super) struct Seat(watch::Sender<Word>);

impl Seat {
    /// Takes the latest word, waiting for one; last words stay.
    pub(super) async fn news(&self) -> Word {
        let mut words = self.0.subscribe();
        loop {
            let word = self.take();
            if word != Word::Wait {
                return word;
            }
            // The sender lives as long as this seat.
            words.changed().await.ok();
        }
    }

    /// The latest word, once: what is told afterwards is not lost.
    fn take(&self) -> Word {
        let mut word = Word::Wait;
        self.0.send_if_modified(|latest| {
            word = if latest.is_last() { *latest } else { std::mem::take(latest) };
            false
        });
        word
    }

    /// Completes when the grant was revoked; level-triggered.
    pub(super) async fn lost(&self) -> LossReason {
        self.0.subscribe().wait_for(|word| *word == Word::Revoked).await.ok();
        LossReason::Revoked
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        *self.0.borrow() == Word::Withdrawn
    }

    pub(super) fn tell(&self, word: Word) {
        self.0.send_if_modified(|latest| {
            // To ask now is not put off by another word.
            let is_sooner = *latest == Word::Ask && matches!(word, Word::AskIn(_));
            let changes = !latest.is_last() && *latest != word && !is_sooner;
            if changes {
                *latest = word;
            }
            changes
        });
    }
}

/// The seats of a provider, and whether somebody listens for them.
#[derive(Debug, Default)]
pub(super) struct Wake {
    seats: Mutex<HashMap<RequestId, Weak<Seat>>>,
    listening: Listening,
    closed: watch::Sender<bool>,
}

impl Wake {
    /// The seat of this request.
    pub(super) fn seat(&self, id: RequestId) -> Arc<Seat> {
        let mut seats = self.seats();
        if let Some(seat) = seats.get(&id).and_then(Weak::upgrade) {
            return seat;
        }
        if seats.len() >= 64 && seats.len() == seats.capacity() {
            seats.retain(|_, seat| seat.strong_count() > 0);
        }
        let seat = Arc::new(Seat(watch::Sender::new(Word::Wait)));
        seats.insert(id, Arc::downgrade(&seat));
        seat
    }

    /// The seat of this request, if somebody sits there.
    pub(super) fn taken(&self, id: RequestId) -> Option<Arc<Seat>> {
        self.seats().get(&id).and_then(Weak::upgrade)
    }

    /// Listens in the current runtime, unless somebody does.
    pub(super) fn listen(self: &Arc<Self>, options: &PgConnectOptions, channel: &str) {
        let Some(mut up) = self.listening.begin() else { return };
        let (wake, options, channel) = (Arc::downgrade(self), options.clone(), channel.to_owned());
        let mut closed = self.closed.subscribe();
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        tokio::spawn(async move {
            while wake.strong_count() > 0 {
                let lasted = tokio::select! {
                    lasted = listen(&wake, &options, &channel) => lasted,
                    // Also when its provider is gone.
                    _ = closed.wait_for(|closed| *closed) => return,
                };
                up.pause(lasted).await;
            }
        });
    }

    /// Ends the listening.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// A message: what to do, for whom, and a time in milliseconds.
    fn deliver(&self, message: &str) {
        let mut words = message.split(' ');
        let (Some(word), Some(id)) = (words.next(), words.next()) else { return };
        let after = words.next().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let word = match (word, after) {
            ("go", _) => Word::Ask,
            ("arm", Some(after)) => Word::AskIn(after),
            ("lost", _) => Word::Revoked,
            _ => return,
        };
        let id = u128::from_str_radix(id, 16).map(|id| RequestId::from_bytes(id.to_be_bytes()));
        if let Some(seat) = id.ok().and_then(|id| self.taken(id)) {
            seat.tell(word);
        }
    }

    /// Everybody asks again: what was said while nobody listened is lost.
    fn ask_all(&self) {
        for seat in self.seats().values().filter_map(Weak::upgrade) {
            seat.tell(Word::Ask);
        }
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<RequestId, Weak<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens until the connection ends; whether there was one.
async fn listen(wake: &Weak<Wake>, options: &PgConnectOptions, channel: &str) -> bool {
    let Some(mut listener) = Listener::open(options, channel).await else { return false };
    if let Some(wake) = wake.upgrade() {
        wake.ask_all();
    }
    loop {
        match listener.hear(PROBE).await {
            Heard::Message(message) => match wake.upgrade() {
                Some(wake) => wake.deliver(&message),
                None => return true,
            },
            Heard::Silence if listener.lives().await => {}
            Heard::Silence | Heard::End => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat() -> Seat {
        Seat(watch::Sender::new(Word::Wait))
    }

    #[tokio::test]
    async fn a_word_is_taken_once_and_the_sooner_or_the_last_one_stays() {
        let (seat, later) = (seat(), Word::AskIn(Duration::from_millis(500)));
        seat.tell(later);
        assert_eq!(seat.news().await, later);
        assert_eq!(seat.take(), Word::Wait);
        seat.tell(Word::Ask);
        seat.tell(later);
        assert_eq!(seat.news().await, Word::Ask);
        seat.tell(Word::Withdrawn);
        seat.tell(Word::Ask);
        assert_eq!([seat.news().await, seat.news().await], [Word::Withdrawn; 2]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_go_that_comes_while_another_word_is_taken_is_heard() {
        let seat = Arc::new(seat());
        let (next, mut rounds) = watch::channel(0);
        let told = Arc::clone(&seat);
        let telling = tokio::spawn(async move {
            while rounds.changed().await.is_ok() {
                told.tell(Word::AskIn(Duration::ZERO));
                told.tell(Word::Ask);
            }
        });
        for round in 1..20_000 {
            next.send_replace(round);
            let heard = async { while seat.news().await != Word::Ask {} };
            let heard = tokio::time::timeout(Duration::from_secs(5), heard).await;
            assert!(heard.is_ok(), "the go of round {round} was lost");
        }
        drop(next);
        telling.await.expect("it ends");
    }
}
