//! A request's seat: what it is told, and whether it asks or rests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Instant, LossReason, Request};
use tokio::sync::Notify;

use crate::cohort::HandedOn;
use crate::wake::Wake;

/// What a request is told.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    /// Ask again now.
    Ask,
    /// Ask again after this.
    AskIn(Duration),
    /// A holder of this provider granted it the name.
    Granted(HandedOn),
    /// The grant has ended.
    Lost(LossReason),
    /// The request was withdrawn: nobody shall ask again.
    Withdrawn,
}

/// What became of an offer to hand the name on.
#[derive(Debug)]
pub(crate) enum Offered {
    Taken(Request),
    /// It was withdrawn, or has another place by now.
    Left,
    /// It asks by itself, does not listen, or needs another term.
    Busy,
}

/// One request of this provider, as long as somebody asks or holds for it.
#[derive(Debug)]
pub(crate) struct Seat {
    request: Request,
    wake: Arc<Wake>,
    news: Mutex<News>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct News {
    latest: Option<Word>,
    /// How many ask the server for it now.
    asking: u32,
    /// How many wait for news, and ask nothing.
    resting: u32,
    /// Its ticket by the last answer, and until when it has that for certain.
    place: Option<(u64, Instant)>,
}

impl Word {
    /// Whether it stays, and is not taken but shown.
    const fn is_last(&self) -> bool {
        matches!(self, Self::Granted(_) | Self::Lost(_) | Self::Withdrawn)
    }
}

impl Seat {
    pub(crate) fn new(request: &Request, wake: Arc<Wake>) -> Self {
        Self { request: request.clone(), wake, news: Mutex::default(), changed: Notify::new() }
    }

    /// Takes the latest news, waiting for it.
    pub(crate) async fn news(&self) -> Word {
        loop {
            let changed = self.changed.notified();
            {
                let mut news = self.lock();
                if let Some(last) = news.latest.as_ref().filter(|word| word.is_last()) {
                    return last.clone();
                }
                if let Some(word) = news.latest.take() {
                    return word;
                }
            }
            changed.await;
        }
    }

    /// Completes when the grant was lost; level-triggered.
    pub(crate) async fn lost(&self) -> LossReason {
        loop {
            let changed = self.changed.notified();
            if let Some(Word::Lost(reason)) = self.lock().latest {
                return reason;
            }
            changed.await;
        }
    }

    /// Whether its withdrawal has begun.
    pub(crate) fn is_withdrawn(&self) -> bool {
        matches!(self.lock().latest, Some(Word::Withdrawn))
    }

    /// Begins to ask the server, unless a last word makes that needless.
    pub(crate) fn ask(&self) -> Result<Asking<'_>, Word> {
        let mut news = self.lock();
        if let Some(last) = news.latest.as_ref().filter(|word| word.is_last()) {
            return Err(last.clone());
        }
        news.asking += 1;
        Ok(Asking(self))
    }

    /// Waits for news, and asks nothing meanwhile; it has this ticket until then.
    pub(crate) fn rest(&self, ticket: Option<u64>, until: Instant) -> Resting<'_> {
        let mut news = self.lock();
        news.resting += 1;
        news.place = ticket.map(|ticket| (ticket, until));
        Resting(self)
    }

    /// Grants what `of` held, if this request waits for just that, with this ticket.
    pub(crate) fn offer(&self, of: &Request, ticket: u64, handed_on: HandedOn) -> Offered {
        let request = &self.request;
        let mut news = self.lock();
        let same_term = request.ttl() == of.ttl() && request.clock().shares_time_with(of.clock());
        let is_idle = news.resting > 0 && news.asking == 0 && same_term;
        match (&news.latest, news.place) {
            (Some(Word::Withdrawn), _) => Offered::Left,
            (None | Some(Word::Ask | Word::AskIn(_)), Some((own, until)))
                if is_idle && request.clock().now() < until =>
            {
                if own != ticket {
                    return Offered::Left;
                }
                news.latest = Some(Word::Granted(handed_on));
                drop(news);
                self.changed.notify_waiters();
                Offered::Taken(request.clone())
            }
            _ => Offered::Busy,
        }
    }

    pub(crate) fn tell(&self, word: Word) {
        let mut news = self.lock();
        // The last words stay, a grant may still end, and "now" is not put off.
        let stays = match news.latest {
            Some(Word::Lost(_) | Word::Withdrawn) => true,
            Some(Word::Granted(_)) => !word.is_last(),
            Some(Word::Ask) => matches!(word, Word::AskIn(_)),
            _ => false,
        };
        if !stays {
            news.latest = Some(word);
        }
        drop(news);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who asks, until dropped.
#[derive(Debug)]
pub(crate) struct Asking<'a>(&'a Seat);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lock().asking -= 1;
    }
}

/// One who rests, until dropped.
#[derive(Debug)]
pub(crate) struct Resting<'a>(&'a Seat);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.lock().resting -= 1;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.wake.left(self.request.id());
    }
}

#[cfg(test)]
mod tests {
    use lockkit_core::{Clock, LockName};

    use super::*;

    #[tokio::test]
    async fn who_is_to_ask_now_is_not_told_to_wait_instead() {
        let name = LockName::new("a").expect("a name");
        let request = Request::new(name, Duration::from_secs(3), Clock::manual());
        let seat = Arc::<Wake>::default().seat(&request.expect("a request"));
        seat.tell(Word::Ask);
        seat.tell(Word::AskIn(Duration::from_secs(1)));
        assert!(matches!(seat.news().await, Word::Ask));
        seat.tell(Word::AskIn(Duration::from_secs(1)));
        seat.tell(Word::Ask);
        assert!(matches!(seat.news().await, Word::Ask));
        seat.tell(Word::Withdrawn);
        seat.tell(Word::Ask);
        assert!(matches!(seat.news().await, Word::Withdrawn));
    }
}
