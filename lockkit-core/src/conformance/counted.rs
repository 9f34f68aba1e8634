//! Links and servers that count their faults: a case that made too few proves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::faults::{Link, Server, Traffic, Way};
use super::notes::Notes;
use crate::Result;

/// A link that counts the faults made at it, as soon as it has carried something: one that the
/// client does not go through disturbs nobody.
pub(super) struct CountedLink {
    link: Arc<dyn Link>,
    notes: Notes,
    /// Those made while it had carried nothing.
    idle: AtomicU64,
}

impl CountedLink {
    pub(super) fn new(link: Arc<dyn Link>, notes: Notes) -> Self {
        Self { link, notes, idle: AtomicU64::new(0) }
    }

    async fn fault(&self) -> Result<()> {
        self.idle.fetch_add(1, Ordering::SeqCst);
        self.look().await
    }

    async fn look(&self) -> Result<()> {
        if self.link.traffic().await?.sent > 0 {
            (0..self.idle.swap(0, Ordering::SeqCst)).for_each(|_| self.notes.fault());
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl Link for CountedLink {
    async fn pass(&self) -> Result<()> {
        self.look().await?;
        self.link.pass().await
    }

    async fn refuse(&self) -> Result<()> {
        self.fault().await?;
        self.link.refuse().await
    }

    async fn reset(&self) -> Result<()> {
        self.fault().await?;
        self.link.reset().await
    }

    async fn blackhole(&self) -> Result<()> {
        self.fault().await?;
        self.link.blackhole().await
    }

    async fn blackhole_old(&self) -> Result<()> {
        self.fault().await?;
        self.link.blackhole_old().await
    }

    async fn lose(&self, way: Way) -> Result<()> {
        self.fault().await?;
        self.link.lose(way).await
    }

    async fn hold(&self, way: Way) -> Result<()> {
        self.fault().await?;
        self.link.hold(way).await
    }

    async fn hold_old(&self, way: Way) -> Result<()> {
        self.fault().await?;
        self.link.hold_old(way).await
    }

    async fn deliver(&self) -> Result<()> {
        self.look().await?;
        self.link.deliver().await
    }

    async fn delay(&self, by: Duration) -> Result<()> {
        self.fault().await?;
        self.link.delay(by).await
    }

    async fn cut(&self, way: Way, after: u64) -> Result<()> {
        self.fault().await?;
        self.link.cut(way, after).await
    }

    async fn traffic(&self) -> Result<Traffic> {
        self.look().await?;
        self.link.traffic().await
    }
}

/// A server that counts how often it is disturbed.
pub(super) struct CountedServer {
    pub(super) server: Arc<dyn Server>,
    pub(super) notes: Notes,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl Server for CountedServer {
    async fn pause(&self) -> Result<()> {
        self.notes.fault();
        self.server.pause().await
    }

    async fn resume(&self) -> Result<()> {
        self.server.resume().await
    }

    async fn kill(&self) -> Result<()> {
        self.notes.fault();
        self.server.kill().await
    }

    async fn restart(&self) -> Result<()> {
        self.notes.fault();
        self.server.restart().await
    }

    async fn restart_empty(&self) -> Result<()> {
        self.notes.fault();
        self.server.restart_empty().await
    }
}
