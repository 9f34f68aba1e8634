//! Wake-ups, and news of revocations: one subscription of a client, made again when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lockkit_core::kit::{Alive, Backoff, LONGEST_CALL};
use lockkit_core::{Applied, Error, LossReason, Result};
use redis::RedisError;
use redis::aio::PubSub;
use tokio::sync::watch;

use crate::RedisConfig;
use crate::client::Client;
use crate::connection::client_again;
use crate::error::to_error;
use crate::protocol::{CHANNELS, Word, request_of};
use crate::shared::Shared;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a silent subscription is asked whether it lives.
const PROBE: Duration = Duration::from_secs(5);

/// Serves the subscription in the current runtime, unless a task that lives does; it begins with the one
/// that is `made`, if there is one.
pub(crate) fn subscribe(client: &Client, made: Option<PubSub>) -> Result<()> {
    client.subscription.ensure(|alive| {
        let shared = Arc::clone(&client.shared);
        let channel = format!("{CHANNELS}{}", client.address);
        let server = At {
            config: client.commands.config().clone(),
            channel,
            changes: client.commands.role().changes(),
        };
        serve(alive, server, shared, made)
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
async fn serve(mut alive: Alive, mut server: At, shared: Arc<Shared>, mut made: Option<PubSub>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut last_cause = String::new();
    loop {
        tokio::select! {
            ended = listen(&shared, &mut server, made.take()) => match ended {
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

/// A message: `go` and the word of a grant, or `lost` and the request whose grant was revoked.
fn deliver(shared: &Shared, message: &str) {
    let Some((what, rest)) = message.split_once(' ') else { return };
    match what {
        "go" => Word::of(rest).iter().for_each(|word| shared.granted(word)),
        "lost" => request_of(rest).into_iter().for_each(|id| shared.lost(id, LossReason::Revoked)),
        _ => {}
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

/// Says that the client hears what is pushed, until dropped.
struct Listens<'a>(&'a AtomicBool);

impl<'a> Listens<'a> {
    fn new(listens: &'a AtomicBool) -> Self {
        listens.store(true, Ordering::SeqCst);
        Self(listens)
    }
}

impl Drop for Listens<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Listens until the subscription ends.
async fn listen(shared: &Shared, server: &mut At, made: Option<PubSub>) -> Result<()> {
    server.changes.mark_unchanged();
    let subscription = match made {
        Some(made) => made,
        None => subscription(&server.config, &server.channel).await?,
    };
    let _listens = Listens::new(&shared.listens);
    // What was pushed before is lost.
    shared.ask_all();
    let (mut sink, mut messages) = subscription.split();
    loop {
        tokio::select! {
            // Never an error: the client that has the sender stops this task first.
            Ok(()) = server.changes.changed() => return Ok(()),
            message = messages.next() => match message {
                Some(message) => deliver(shared, &String::from_utf8_lossy(message.get_payload_bytes())),
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
