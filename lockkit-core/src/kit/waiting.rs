//! How a request waits in a store whose waiters expire by themselves.

use std::borrow::BorrowMut;
use std::time::Duration;

use super::requests::{Notes, Record};
use crate::{Error, LossReason, Result};

/// The shortest life of a waiter: it must not die of a busy machine.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// The longest: a waiter that has crashed blocks those behind it for so long.
const LONGEST_LIFE: Duration = Duration::from_secs(3);

/// How long a waiter of this ttl stays in the store's queue without asking again: its ttl, from 1 s to 3 s.
/// It asks again after a third of that.
pub fn waiter_life(ttl: Duration) -> Duration {
    ttl.clamp(SHORTEST_LIFE, LONGEST_LIFE)
}

/// What a waiter, or a holder, is told. `G` is a grant that comes without asking the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice<G> {
    /// Ask the store again now.
    Ask,
    /// Ask it again after this.
    AskIn(Duration),
    /// A holder of the same provider handed the name on.
    Granted(G),
    /// The grant has ended.
    Lost(LossReason),
}

/// The latest notice to a request.
///
/// `Ask` is not put off by an `AskIn` that comes later. A grant and a loss stay, and only a loss replaces
/// a grant; the others are taken once.
#[derive(Clone, Debug)]
pub struct Mailbox<G>(Option<Notice<G>>);

impl<G> Default for Mailbox<G> {
    fn default() -> Self {
        Self(None)
    }
}

impl<G> Notes for Mailbox<G> {}

impl<G: Clone> Mailbox<G> {
    /// Leaves a notice.
    pub fn post(&mut self, notice: Notice<G>) {
        let stays = match &self.0 {
            Some(Notice::Lost(_)) => true,
            Some(Notice::Granted(_)) => !notice.is_final(),
            Some(Notice::Ask) => matches!(notice, Notice::AskIn(_)),
            Some(Notice::AskIn(_)) | None => false,
        };
        if !stays {
            self.0 = Some(notice);
        }
    }

    /// The latest notice. A grant and a loss are shown again, the others are not.
    pub fn take(&mut self) -> Option<Notice<G>> {
        self.last().or_else(|| self.0.take())
    }

    /// Takes a grant back that has too little left to be held: the store is asked again.
    pub fn refuse(&mut self) {
        if matches!(self.0, Some(Notice::Granted(_))) {
            self.0 = None;
        }
    }

    /// The grant or the loss that has come.
    pub fn last(&self) -> Option<Notice<G>> {
        self.0.as_ref().filter(|notice| notice.is_final()).cloned()
    }
}

impl<G> Notice<G> {
    const fn is_final(&self) -> bool {
        matches!(self, Self::Granted(_) | Self::Lost(_))
    }
}

/// Waits until the store is to be asked again: for a notice, for `ask_in` if the store gave one, and for
/// at most `heartbeat`. A grant that comes instead is given.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use lockkit_core::kit::{Mailbox, Notice, Requests, wait};
/// use lockkit_core::{Clock, LockName, Request};
///
/// let requests = Arc::<Requests<Mailbox<u64>>>::default();
/// let request = Request::new(LockName::new("a")?, Duration::from_secs(3), Clock::system())?;
/// let entry = requests.enter(&request);
/// entry.data().post(Notice::Ask);
/// assert_eq!(wait(&entry, None, Duration::from_secs(1)).await?, None);
/// entry.data().post(Notice::Granted(7));
/// assert_eq!(wait(&entry, None, Duration::from_secs(1)).await?, Some(7));
/// # Ok(()) }
/// ```
///
/// # Errors
/// `Unavailable` (not applied): the request was withdrawn or revoked.
///
/// # Cancel safety
/// Cancel-safe: a notice that was not returned is not taken.
pub async fn wait<T, G>(
    record: &Record<T>,
    ask_in: Option<Duration>,
    heartbeat: Duration,
) -> Result<Option<G>>
where
    T: BorrowMut<Mailbox<G>>,
    G: Clone,
{
    let clock = record.request().clock();
    let latest = clock.now().saturating_add(heartbeat);
    // A little later than the store said: its clock and ours round differently.
    let just_after =
        |left: Duration| clock.now().saturating_add(left + Duration::from_millis(1)).min(latest);
    let mut until = ask_in.map_or(latest, just_after);
    loop {
        let notice = record.wait_unless_withdrawn(|data| data.borrow_mut().take());
        tokio::select! {
            notice = notice => match notice? {
                Notice::AskIn(after) => until = until.min(just_after(after)),
                Notice::Ask => return Ok(None),
                Notice::Granted(granted) => return Ok(Some(granted)),
                Notice::Lost(_) => return Err(Error::withdrawn()),
            },
            () = clock.sleep_until(until) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::requests::Requests;
    use super::*;
    use crate::{Clock, LockName, Request};

    const LATER: Notice<u8> = Notice::AskIn(Duration::from_secs(1));
    const LOST: Notice<u8> = Notice::Lost(LossReason::Revoked);

    /// What is taken, in turn, after these were posted.
    fn taken(posted: &[Notice<u8>]) -> Option<Notice<u8>> {
        let mut mailbox = Mailbox::default();
        posted.iter().for_each(|notice| mailbox.post(notice.clone()));
        mailbox.take()
    }

    #[test]
    fn what_is_to_be_done_now_is_not_put_off_and_what_is_final_stays() {
        assert_eq!(taken(&[Notice::Ask, LATER]), Some(Notice::Ask));
        assert_eq!(taken(&[LATER, Notice::Ask]), Some(Notice::Ask));
        assert_eq!(taken(&[Notice::Granted(1), Notice::Ask]), Some(Notice::Granted(1)));
        assert_eq!(taken(&[Notice::Granted(1), LOST, Notice::Granted(2)]), Some(LOST));
        let mut mailbox = Mailbox::default();
        mailbox.post(LATER);
        assert_eq!((mailbox.take(), mailbox.take()), (Some(LATER), None));
        mailbox.post(LOST);
        assert_eq!(
            (mailbox.take(), mailbox.take(), mailbox.last()),
            (Some(LOST), Some(LOST), Some(LOST))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_asks_again_after_its_heartbeat_or_as_soon_as_it_is_told() {
        let clock = Clock::tokio();
        let name = LockName::new("a").expect("a name");
        let request = Request::new(name, Duration::from_secs(3), clock.clone()).expect("an id");
        let entry = Arc::<Requests<Mailbox<u8>>>::default().enter(&request);
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let waited = async |ask_in| {
            let started = clock.now();
            assert_eq!(wait(&entry, ask_in, second).await.expect("not withdrawn"), None);
            clock.now().saturating_since(started).as_millis()
        };
        assert_eq!([waited(None).await, waited(Some(hour)).await], [1_000; 2]);
        assert!((250..255).contains(&waited(Some(second / 4)).await));
        entry.data().post(Notice::AskIn(second / 2));
        assert!((500..505).contains(&waited(None).await));
        entry.withdraw();
        assert!(wait(&entry, None, second).await.is_err());
    }
}
