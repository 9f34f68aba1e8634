//! What a holder has of its grant: its renewal, its loss and its release.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use lockkit_core::kit::call_limit;
use lockkit_core::{Error, Grant, Instant, Lease, LossReason, Result, Term};

use super::Client;
use super::held::{Held, State};

impl Held {
    /// The grant to its request, with a term from `sent` on.
    pub(super) fn grant(self: &Arc<Self>, client: &Arc<Client>, sent: Instant) -> Grant {
        let term = Term { sent, ttl: Some(self.ttl) };
        let (client, held) = (Arc::clone(client), Arc::clone(self));
        Grant::new(self.token, term, AdvisoryLease { client, held })
    }
}

#[derive(Debug)]
struct AdvisoryLease {
    client: Arc<Client>,
    held: Arc<Held>,
}

#[async_trait]
impl Lease for AdvisoryLease {
    async fn renew(&self) -> Result<Term> {
        let held = &self.held;
        let sent = held.clock().now();
        let session = held.life().as_ref().map(|life| Arc::clone(life.session.session()));
        let outcome = match &session {
            Some(session) => session.ping(held.clock(), call_limit(held.ttl)).await,
            None => Ok(()),
        };
        if let State::Lost(reason) = *held.state.borrow() {
            return Err(Error::lost(reason));
        }
        if !held.is_live() {
            return Err(Error::lost(LossReason::Released));
        }
        if session.is_none_or(|session| session.is_ended()) {
            return Err(Error::lost(LossReason::SessionEnded));
        }
        outcome?;
        held.renew(sent);
        Ok(Term { sent, ttl: Some(held.ttl) })
    }

    async fn lost(&self) -> LossReason {
        let ended = self.held.life().as_ref().map(|life| life.session.ended());
        let mut states = self.held.state.subscribe();
        let told = async move {
            let lost = states.wait_for(|state| matches!(state, State::Lost(_))).await;
            match lost.map(|state| *state) {
                Ok(State::Lost(reason)) => Some(reason),
                _ => None,
            }
        };
        let ended = async {
            match ended {
                Some(ended) => ended.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(reason) = told => reason,
            () = ended => LossReason::SessionEnded,
            else => std::future::pending().await,
        }
    }

    async fn release(&self) -> Result<()> {
        self.client.release(&self.held).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
