//! Wake-ups: a connection of its own that listens, made at the first wait, made again when it ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::kit::{Alive, Backoff, Mailbox, Notice, Requests};
use lockkit_core::{LossReason, RequestId};
use sqlx::postgres::PgConnectOptions;

use crate::listener::{FIRST_PAUSE, Heard, LONGEST_PAUSE, Listener, PROBE};

/// The requests of a client, each with what it was told.
pub(super) type Waiters = Requests<Mailbox<Infallible>>;

/// Listens again and again until the provider is closed.
pub(super) async fn serve(
    mut alive: Alive,
    waiters: Arc<Waiters>,
    options: PgConnectOptions,
    channel: String,
) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        tokio::select! {
            lasted = listen(&waiters, &options, &channel) => if lasted { backoff.reset() },
            () = alive.stopped() => return,
        }
        tokio::select! {
            () = backoff.pause() => {}
            () = alive.stopped() => return,
        }
    }
}

/// Listens until the connection ends; whether there was one.
async fn listen(waiters: &Waiters, options: &PgConnectOptions, channel: &str) -> bool {
    let Some(mut listener) = Listener::open(options, channel).await else { return false };
    // What was said before is lost.
    for waiter in waiters.in_use() {
        waiter.data().post(Notice::Ask);
    }
    loop {
        match listener.hear(PROBE).await {
            Heard::Message(message) => deliver(waiters, &message),
            Heard::Silence if listener.lives().await => {}
            Heard::Silence | Heard::End => return true,
        }
    }
}

/// A message: what to do, for which request, and a time in milliseconds.
fn deliver(waiters: &Waiters, message: &str) {
    let mut words = message.split(' ');
    let (Some(what), Some(id)) = (words.next(), words.next()) else { return };
    let after = words.next().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    let notice = match (what, after) {
        ("go", _) => Notice::Ask,
        ("arm", Some(after)) => Notice::AskIn(after),
        ("lost", _) => Notice::Lost(LossReason::Revoked),
        _ => return,
    };
    let id = u128::from_str_radix(id, 16).map(|id| RequestId::from_bytes(id.to_be_bytes()));
    if let Some(waiter) = id.ok().and_then(|id| waiters.find(id)) {
        waiter.data().post(notice);
    }
}
