//! Wake-ups, and news of revocations: one subscription of a client, made again when it ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lockkit_core::kit::{Alive, Backoff, LONGEST_CALL, Notice};
use lockkit_core::{Applied, Error, LossReason, Result};
use redis::RedisError;
use redis::aio::PubSub;
use tokio::sync::watch;

use crate::RedisConfig;
use crate::client::Client;
use crate::cohorts::Cohorts;
use crate::connection::client_again;
use crate::error::to_error;
use crate::handoff::Waiters;
use crate::protocol::{CHANNELS, request_of};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a silent subscription is asked whether it lives.
const PROBE: Duration = Duration::from_secs(5);

/// Serves the subscription in the current runtime, unless a task that lives does; it begins with the one
/// that is `made`, if there is one.
pub(crate) fn subscribe(client: &Client, made: Option<PubSub>) -> Result<()> {
    client.subscription.ensure(|alive| {
        let told =
            Told { waiters: Arc::clone(&client.waiters), cohorts: Arc::clone(&client.cohorts) };
        let channel = format!("{CHANNELS}{}", client.address);
        let server = At {
            config: client.commands.config().clone(),
            channel,
            changes: client.commands.role().changes(),
        };
        serve(alive, server, told, made)
    })
}

/// Where to listen.
struct At {
    config: RedisConfig,
    channel: String,
    /// Of the server's role.
    changes: watch::Receiver<u64>,
}

/// Listens again and again until the client is closed.
async fn serve(mut alive: Alive, mut server: At, told: Told, mut made: Option<PubSub>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut last_cause = String::new();
    loop {
        tokio::select! {
            ended = listen(&told, &mut server, made.take()) => match ended {
                Ok(()) => {
                    backoff.reset();
                    last_cause.clear();
                }
                Err(error) => warn(&error, &mut last_cause),
            },
            () = alive.stopped() => return,
        }
        tokio::select! {
            () = backoff.pause() => {}
            () = alive.stopped() => return,
        }
    }
}

/// What the messages are for.
struct Told {
    waiters: Arc<Waiters>,
    cohorts: Arc<Cohorts>,
}

impl Told {
    /// A message: what to do, for which request, and a time in milliseconds.
    fn deliver(&self, message: &str) {
        let mut words = message.split(' ');
        let (Some(what), Some(entry)) = (words.next(), words.next()) else { return };
        let after = words.next().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let Some(id) = request_of(entry) else { return };
        let notice = match (what, after) {
            ("go", _) => Notice::Ask,
            ("arm", Some(after)) => Notice::AskIn(after),
            ("lost", _) => return self.cohorts.lost(&self.waiters, id, LossReason::Revoked),
            _ => return,
        };
        if let Some(waiter) = self.waiters.find(id) {
            waiter.data().mailbox.post(notice);
        }
    }

    /// Has every request ask again: what was said before the subscription is lost.
    fn ask_all(&self) {
        for waiter in self.waiters.in_use() {
            waiter.data().mailbox.post(Notice::Ask);
        }
    }
}

/// A subscription to this channel.
pub(crate) async fn subscription(config: &RedisConfig, channel: &str) -> Result<PubSub> {
    let driver = client_again(config)?;
    let subscribe = async {
        let mut subscription = driver.get_async_pubsub().await?;
        subscription.subscribe(channel).await?;
        Ok(subscription)
    };
    match tokio::time::timeout(LONGEST_CALL, subscribe).await {
        Ok(outcome) => outcome.map_err(|error: RedisError| to_error(&error)),
        Err(_) => Err(Error::unavailable(
            Applied::No,
            format!("Redis took no subscription within {LONGEST_CALL:?}"),
        )),
    }
}

/// Listens until the subscription ends.
async fn listen(told: &Told, server: &mut At, made: Option<PubSub>) -> Result<()> {
    server.changes.mark_unchanged();
    let subscription = match made {
        Some(made) => made,
        None => subscription(&server.config, &server.channel).await?,
    };
    told.ask_all();
    let (mut sink, mut messages) = subscription.split();
    loop {
        tokio::select! {
            // Never an error: the client that has the sender stops this task first.
            Ok(()) = server.changes.changed() => return Ok(()),
            message = messages.next() => match message {
                Some(message) => told.deliver(&String::from_utf8_lossy(message.get_payload_bytes())),
                None => return Ok(()),
            },
            () = tokio::time::sleep(PROBE) => {
                let probe = sink.ping::<redis::Value>();
                if !matches!(tokio::time::timeout(LONGEST_CALL, probe).await, Ok(Ok(_))) {
                    return Ok(());
                }
            }
        }
    }
}

/// Tells of a subscription that failed, once for each cause in a row.
fn warn(error: &Error, last_cause: &mut String) {
    let cause = error.to_string();
    if cause != *last_cause {
        tracing::warn!(
            target: "lockkit", event = "subscription_failed", error = %cause,
            "no wake-ups from Redis: waiters find a free name by their heartbeats alone",
        );
        *last_cause = cause;
    }
}
