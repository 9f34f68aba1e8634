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
        // The sender lives as long as this seat.
        let word = words.wait_for(|word| *word != Word::Wait).await.map_or(Word::Ask, |word| *word);
        self.tell(Word::Wait);
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
            let changes = !latest.is_last() && *latest != word;
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
