//! One member of the list, and the clients of it: one at a time, each until it is given up.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::{Client, ConnectOptions};
use tokio::sync::Notify;

use crate::failure::Failure;

pub(crate) struct Member {
    pub(crate) url: String,
    /// Where it stands in the list.
    index: usize,
    live: Mutex<Live>,
    connecting: tokio::sync::Mutex<()>,
    pub(crate) verifying: tokio::sync::Mutex<()>,
    given_up: Notify,
    /// Whether it was found without a mark, and whether that was told.
    pub(crate) lacks_mark: AtomicBool,
    pub(crate) is_told: AtomicBool,
}

#[derive(Default)]
struct Live {
    client: Option<Client>,
    heard: Heard,
    /// Whether the other end of this client is a member of our cluster.
    is_verified: bool,
}

/// What was heard of a member so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Which client: only the one that failed is given up, and not its successor.
    pub(crate) number: u64,
    /// How many calls it has answered.
    answers: u64,
}

/// A client of one member, until it is given up.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) client: Client,
    pub(crate) member: usize,
    pub(crate) number: u64,
}

impl Member {
    pub(crate) fn new(index: usize, url: String) -> Self {
        Self {
            url,
            index,
            live: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            verifying: tokio::sync::Mutex::default(),
            given_up: Notify::new(),
            lacks_mark: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
        }
    }

    /// The client there is, or a new one; a crowd connects once.
    pub(crate) async fn line(&self, options: &ConnectOptions) -> Result<Line, Failure> {
        if let Some(line) = self.known() {
            return Ok(line);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(line) = self.known() {
            return Ok(line);
        }
        let made = Client::connect([&self.url], Some(options.clone())).await;
        // Nothing of the request has left yet: here only the login is sent.
        let client = made.map_err(|error| match Failure::of(&error) {
            Failure::Unclear(text) => Failure::Unserved(text),
            failure => failure,
        })?;
        let mut live = self.live();
        let number = live.heard.number + 1;
        let heard = Heard { number, answers: 0 };
        *live = Live { client: Some(client.clone()), heard, is_verified: false };
        Ok(Line { client, member: self.index, number })
    }

    fn known(&self) -> Option<Line> {
        let live = self.live();
        let number = live.heard.number;
        live.client.clone().map(|client| Line { client, member: self.index, number })
    }

    pub(crate) fn is_verified(&self, line: &Line) -> bool {
        let live = self.live();
        live.heard.number == line.number && live.is_verified
    }

    pub(crate) fn verified(&self, line: &Line) {
        let mut live = self.live();
        live.is_verified |= live.heard.number == line.number;
    }

    pub(crate) fn heard(&self) -> Heard {
        self.live().heard
    }

    /// The client with this number has answered a call.
    pub(crate) fn hear(&self, number: u64) {
        let mut live = self.live();
        if live.heard.number == number {
            live.heard.answers += 1;
        }
    }

    /// Lets the client with this number go, unless it has a successor.
    pub(crate) fn give_up(&self, number: u64) {
        let mut live = self.live();
        if number == live.heard.number {
            live.client = None;
            drop(live);
            self.given_up.notify_waiters();
        }
    }

    /// Lets the client go, whichever it is.
    pub(crate) fn let_go(&self) {
        self.live().client = None;
        self.given_up.notify_waiters();
    }

    /// Completes when this client was given up.
    pub(crate) async fn given_up(&self, line: &Line) {
        loop {
            let given_up = self.given_up.notified();
            {
                let live = self.live();
                if live.heard.number != line.number || live.client.is_none() {
                    return;
                }
            }
            given_up.await;
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
