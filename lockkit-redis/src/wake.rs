//! Wake-ups: one subscription per provider, made at the first wait, re-made when it ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use lockkit_core::RequestId;
use redis::Client;
use tokio::sync::Notify;

use crate::connection::LIMIT;
use crate::protocol::CHANNELS;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a silent subscription is asked whether it lives.
const PROBE: Duration = Duration::from_secs(5);

/// What a request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Ask again now.
    Ask,
    /// Ask again after this.
    AskIn(Duration),
    /// The grant was revoked.
    Revoked,
    /// The request was withdrawn: nobody shall ask again.
    Withdrawn,
}

/// One request of this provider, as long as somebody asks or holds for it.
#[derive(Debug)]
pub(crate) struct Seat {
    id: RequestId,
    wake: Arc<Wake>,
    news: Mutex<Option<Word>>,
    changed: Notify,
}

/// The seats of a provider, and whether its subscription is up.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    seats: Mutex<HashMap<RequestId, Weak<Seat>>>,
    subscribed: AtomicBool,
    closed: AtomicBool,
    closing: Notify,
}

impl Seat {
    /// Takes the latest news, waiting for it; last words are not taken but shown.
    pub(crate) async fn news(&self) -> Word {
        loop {
            let changed = self.changed.notified();
            {
                let mut latest = self.latest();
                match *latest {
                    Some(last @ (Word::Revoked | Word::Withdrawn)) => return last,
                    Some(word) => {
                        *latest = None;
                        return word;
                    }
                    None => {}
                }
            }
            changed.await;
        }
    }

    /// Completes when the grant was revoked; level-triggered.
    pub(crate) async fn revoked(&self) {
        loop {
            let changed = self.changed.notified();
            if *self.latest() == Some(Word::Revoked) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        *self.latest() == Some(Word::Withdrawn)
    }

    pub(crate) fn tell(&self, word: Word) {
        let mut latest = self.latest();
        // The last words stay.
        if !matches!(*latest, Some(Word::Revoked | Word::Withdrawn)) {
            *latest = Some(word);
        }
        drop(latest);
        self.changed.notify_waiters();
    }

    fn latest(&self) -> MutexGuard<'_, Option<Word>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.wake.seats();
        // A replay of the same request may have taken its place.
        if seats.get(&self.id).is_some_and(|seat| seat.strong_count() == 0) {
            seats.remove(&self.id);
        }
    }
}

impl Wake {
    /// The seat of this request.
    pub(crate) fn seat(self: &Arc<Self>, id: RequestId) -> Arc<Seat> {
        let mut seats = self.seats();
        if let Some(seat) = seats.get(&id).and_then(Weak::upgrade) {
            return seat;
        }
        let seat = Arc::new(Seat {
            id,
            wake: Arc::clone(self),
            news: Mutex::new(None),
            changed: Notify::new(),
        });
        seats.insert(id, Arc::downgrade(&seat));
        seat
    }

    /// The seat of this request, if somebody sits there.
    pub(crate) fn taken(&self, id: RequestId) -> Option<Arc<Seat>> {
        self.seats().get(&id).and_then(Weak::upgrade)
    }

    /// Subscribes in the current runtime, unless that was done and its task lives.
    pub(crate) fn subscribe(self: &Arc<Self>, client: &Client, provider: &str) {
        if self.subscribed.swap(true, Ordering::SeqCst) {
            return;
        }
        let up = Up(Arc::downgrade(self));
        let (client, channel) = (client.clone(), format!("{CHANNELS}{provider}"));
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            while let Some(wake) = up.0.upgrade() {
                let closing = wake.closing.notified();
                if wake.closed.load(Ordering::SeqCst) {
                    return;
                }
                tokio::select! {
                    lasted = listen(&wake, &client, &channel) => {
                        if lasted {
                            pause = FIRST_PAUSE;
                        }
                    }
                    () = closing => return,
                }
                drop(wake);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Ends the subscription.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.notify_waiters();
    }

    /// A message: what to do, for whom, and a time in milliseconds.
    fn deliver(&self, message: &str) {
        let mut words = message.split(' ');
        let (Some(word), Some(entry)) = (words.next(), words.next()) else { return };
        let after = words.next().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let word = match (word, after) {
            ("go", _) => Word::Ask,
            ("arm", Some(after)) => Word::AskIn(after),
            ("lost", _) => Word::Revoked,
            _ => return,
        };
        let id = entry.split('.').next().and_then(|hex| u128::from_str_radix(hex, 16).ok());
        let id = id.map(|id| RequestId::from_bytes(id.to_be_bytes()));
        if let Some(seat) = id.and_then(|id| self.taken(id)) {
            seat.tell(word);
        }
    }

    /// Everybody asks again: what was said while nobody listened is lost.
    fn ask_all(&self) {
        let seats: Vec<_> = self.seats().values().filter_map(Weak::upgrade).collect();
        for seat in seats {
            seat.tell(Word::Ask);
        }
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<RequestId, Weak<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the subscription's task lives, until its runtime drops it.
struct Up(Weak<Wake>);

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(wake) = self.0.upgrade() {
            wake.subscribed.store(false, Ordering::SeqCst);
        }
    }
}

/// Listens until the subscription ends; whether there was one.
async fn listen(wake: &Wake, client: &Client, channel: &str) -> bool {
    let subscribe = async {
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(channel).await?;
        redis::RedisResult::Ok(subscription)
    };
    let Ok(Ok(subscription)) = tokio::time::timeout(LIMIT, subscribe).await else { return false };
    wake.ask_all();
    let (mut sink, mut messages) = subscription.split();
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => wake.deliver(&String::from_utf8_lossy(message.get_payload_bytes())),
                None => break,
            },
            () = tokio::time::sleep(PROBE) => {
                let probe = sink.ping::<redis::Value>();
                if !matches!(tokio::time::timeout(LIMIT, probe).await, Ok(Ok(_))) {
                    break;
                }
            }
        }
    }
    true
}
