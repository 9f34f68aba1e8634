//! A holder's key, kept in sight by a watch of its own.
//!
//! ```text
//! unseen --its watch stands--> unread --the key is read, and is there--> there
//! unread, there --its deletion is told, or the key is not there--> gone
//! unread, there --the stream ends--> unseen
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// One incarnation of a key, kept in sight until dropped.
#[derive(Debug)]
pub(crate) struct Sight {
    pub(crate) key: Vec<u8>,
    /// Its create revision: another incarnation of the same key is another one.
    created: i64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    view: View,
    /// How many streams have ended: a reading counts only if it began on this one.
    stream: u64,
}

/// What is known of a key in sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// No watch of it stands.
    Unseen,
    /// It is to be read, on the stream with this number.
    Unread {
        stream: u64,
    },
    There,
    Gone,
}

impl Sight {
    pub(crate) fn new(key: &[u8], created: i64) -> Self {
        let state = Mutex::new(State { view: View::Unseen, stream: 0 });
        Self { key: key.to_vec(), created, state, changed: Notify::new() }
    }

    pub(crate) fn view(&self) -> View {
        self.state().view
    }

    /// Completes at the next change of the view after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The watch stands: what is deleted from now on is told.
    pub(crate) fn stands(&self) {
        self.change(|state| match state.view {
            View::Unseen => View::Unread { stream: state.stream },
            view => view,
        });
    }

    /// A reading that began on this stream found the key, or did not.
    pub(crate) fn read(&self, stream: u64, is_there: bool) {
        self.change(|state| match state.view {
            View::Gone => View::Gone,
            _ if !is_there => View::Gone,
            View::Unread { stream: now } if now == stream => View::There,
            view => view,
        });
    }

    /// The key was deleted at this revision.
    pub(crate) fn deleted(&self, revision: i64) {
        self.change(|state| if self.created < revision { View::Gone } else { state.view });
    }

    /// The stream has ended.
    pub(crate) fn close(&self) {
        self.change(|state| {
            state.stream += 1;
            if state.view == View::Gone { View::Gone } else { View::Unseen }
        });
    }

    fn change(&self, next: impl FnOnce(&mut State) -> View) {
        {
            let mut state = self.state();
            state.view = next(&mut state);
        }
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_there_once_it_was_read_on_a_stream_that_lasts_and_gone_for_ever() {
        let sight = Sight::new(b"a", 7);
        sight.read(0, true);
        assert_eq!(sight.view(), View::Unseen, "it may have gone before the watch stood");
        sight.stands();
        assert_eq!(sight.view(), View::Unread { stream: 0 });
        sight.close();
        sight.stands();
        sight.read(0, true);
        assert_eq!(sight.view(), View::Unread { stream: 1 }, "read on the stream before");
        sight.read(1, true);
        assert_eq!(sight.view(), View::There);
        sight.deleted(6);
        assert_eq!(sight.view(), View::There, "another incarnation");
        sight.deleted(9);
        assert_eq!(sight.view(), View::Gone);
        sight.close();
        sight.stands();
        sight.read(2, true);
        assert_eq!(sight.view(), View::Gone);
    }
}
