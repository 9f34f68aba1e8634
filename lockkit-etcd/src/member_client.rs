//! A member of the list, and its clients: one at a time, each until it is given up.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::Client as Driver;
use lockkit_core::Error;
use tokio::sync::Notify;

use crate::EtcdConfig;
use crate::error::Failure;

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
    driver: Option<Driver>,
    progress: Progress,
    /// Whether the other end of this client is a member of our cluster.
    is_verified: bool,
}

/// How far the calls to a member have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Which client: only the one that failed is given up, and not its successor.
    pub(crate) number: u64,
    /// How many calls it has answered.
    answers: u64,
}

/// A client of one member, until it is given up.
#[derive(Clone)]
pub(crate) struct MemberClient {
    pub(crate) driver: Driver,
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
    pub(crate) async fn client(&self, config: &EtcdConfig) -> Result<MemberClient, Failure> {
        if let Some(client) = self.known() {
            return Ok(client);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(client) = self.known() {
            return Ok(client);
        }
        let options = config.options().map_err(Failure::Refused)?;
        let made = Driver::connect([&self.url], Some(options)).await;
        // Nothing of the request has left yet: here only the login is sent.
        let driver = made.map_err(|error| match (Failure::of(&error), &config.tls) {
            (Failure::Unclear(text), _) => Failure::Unserved(text),
            (Failure::Refused(Error::Invalid { what, .. }), Some(tls)) => {
                Failure::Refused(tls.unusable(what))
            }
            (failure, _) => failure,
        })?;
        let mut live = self.live();
        let number = live.progress.number + 1;
        let progress = Progress { number, answers: 0 };
        *live = Live { driver: Some(driver.clone()), progress, is_verified: false };
        Ok(MemberClient { driver, member: self.index, number })
    }

    /// The client there is.
    pub(crate) fn known(&self) -> Option<MemberClient> {
        let live = self.live();
        let number = live.progress.number;
        live.driver.clone().map(|driver| MemberClient { driver, member: self.index, number })
    }

    pub(crate) fn is_verified(&self, client: &MemberClient) -> bool {
        let live = self.live();
        live.progress.number == client.number && live.is_verified
    }

    pub(crate) fn verified(&self, client: &MemberClient) {
        let mut live = self.live();
        live.is_verified |= live.progress.number == client.number;
    }

    pub(crate) fn progress(&self) -> Progress {
        self.live().progress
    }

    /// The client with this number has answered a call.
    pub(crate) fn answered(&self, number: u64) {
        let mut live = self.live();
        if live.progress.number == number {
            live.progress.answers += 1;
        }
    }

    /// Lets the client with this number go, unless it has a successor.
    pub(crate) fn give_up(&self, number: u64) {
        let mut live = self.live();
        if number == live.progress.number {
            live.driver = None;
            drop(live);
            self.given_up.notify_waiters();
        }
    }

    /// Lets the client go, whatever its number.
    pub(crate) fn let_go(&self) {
        self.live().driver = None;
        self.given_up.notify_waiters();
    }

    /// Completes when this client was given up.
    pub(crate) async fn given_up(&self, client: &MemberClient) {
        loop {
            let given_up = self.given_up.notified();
            {
                let live = self.live();
                if live.progress.number != client.number || live.driver.is_none() {
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
