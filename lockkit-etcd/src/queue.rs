//! A request's way through the queue: entering it, waiting in it, leaving it.

use etcd_client::{GetResponse, Txn, TxnOpResponse, TxnResponse};
use lockkit_core::{Applied, Error, Holder, Kind, Request, Result, StoreSays};

use crate::client::Client;
use crate::endpoints::CallOutcome;
use crate::error::Failure;
use crate::protocol::{Directory, FEW, Own, garbled, reads, revision_of, unless_there};
use crate::replica::{Place, Standing};
use crate::requests::{Record, refused, sending};
use crate::session::Use;

/// Where a request stands once its key is in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Position {
    /// No key was created before it, as of the revision `known`: it holds.
    First { created: i64, known: i64 },
    /// Others may be before it.
    Queued { created: i64 },
}

/// What came of an attempt that does not wait.
#[derive(Debug)]
pub(crate) enum TakeOutcome {
    Taken {
        created: i64,
        known: i64,
    },
    Held,
    /// Held, and a key of an earlier attempt is in the queue.
    Queued,
    /// The session has ended: it must be tried on another one.
    Ended,
}

impl Client {
    /// Joins the queue, or finds the position in it again; `None`: the session has ended.
    pub(crate) async fn enter(
        &self,
        request: &Request,
        record: &Record,
        session: &Use,
    ) -> Result<Option<Position>> {
        let at = self.keys.directory(request.name());
        let key = at.key(session.lease, request.id());
        let own = Own { key: &key, lease: session.lease, session: &session.key };
        let _turn = tokio::select! {
            biased;
            () = record.withdrawn() => return Err(Error::withdrawn()),
            turn = self.turn() => turn,
        };
        loop {
            let revision = session.revision();
            let txn = own.enter(&at, &self.mark, revision, request.label());
            let Some(answer) = self.send(request, record, session, own, txn).await? else {
                return Ok(None);
            };
            let found = reads(&answer);
            if answer.succeeded() {
                let created = revision_of(&answer)?;
                let [some] = &found[..] else { return Err(garbled()) };
                return Ok(Some(match some.count() {
                    1 => Position::First { created, known: created },
                    _ => Position::Queued { created },
                }));
            }
            let [ours, session_key, mark] = &found[..] else { return Err(garbled()) };
            self.recognize(mark)?;
            match ours.kvs().first() {
                Some(kv) if kv.lease() == session.lease => {
                    return Ok(Some(Position::Queued { created: kv.create_revision() }));
                }
                // An operator has put it again, on no lease: it does not contend.
                Some(kv) => {
                    let delete = own.delete(kv.create_revision(), false);
                    self.read(request, &delete).await?;
                    continue;
                }
                None => {}
            }
            if !self.catch_up(session, session_key, revision).await {
                return Ok(None);
            }
        }
    }

    /// Takes the name if no request holds it or waits for it, and never enters the queue.
    pub(crate) async fn take(
        &self,
        request: &Request,
        record: &Record,
        session: &Use,
    ) -> Result<TakeOutcome> {
        let at = self.keys.directory(request.name());
        let key = at.key(session.lease, request.id());
        let own = Own { key: &key, lease: session.lease, session: &session.key };
        let (mut known, mut limit) = (None, FEW);
        // A replay is to find its own key, and not another's behind it.
        let mut seen = if record.data().is_new() { self.seen.get(request.name()) } else { None };
        loop {
            let revision = session.revision();
            let take = own.take(&at, &self.mark, revision, request.label(), known, limit);
            let txn = match &seen {
                Some(seen) => unless_there(seen, take),
                None => take,
            };
            let Some(answer) = self.send(request, record, session, own, txn).await? else {
                return Ok(TakeOutcome::Ended);
            };
            let now = revision_of(&answer)?;
            let answer = match seen.take() {
                Some(_) if answer.succeeded() => return Ok(TakeOutcome::Held),
                Some(_) => nested(&answer)?,
                None => answer,
            };
            if answer.succeeded() {
                return Ok(TakeOutcome::Taken { created: now, known: now });
            }
            let found = reads(&answer);
            let [ours, session_key, mark, some] = &found[..] else { return Err(garbled()) };
            self.recognize(mark)?;
            if let Some(kv) = ours.kvs().first() {
                return self.look(request, &at, own, kv.create_revision()).await;
            }
            if !self.catch_up(session, session_key, revision).await {
                return Ok(TakeOutcome::Ended);
            }
            if let Some(contends) = some.kvs().iter().find(|kv| at.contender(kv).is_some()) {
                self.seen.keep(request.name(), (contends.key().to_vec(), contends.mod_revision()));
                return Ok(TakeOutcome::Held);
            }
            if limit > 0 && some.more() {
                // Only stray keys so far; a contender may be behind them.
                limit = 0;
            } else {
                // All that is there is stray, and no obstacle; what comes after it is.
                known = Some(now);
            }
        }
    }

    /// Waits for the first position; `None`: the key or its session is gone, and the position with it.
    pub(crate) async fn wait(
        &self,
        request: &Request,
        record: &Record,
        session: &Use,
        position: Position,
    ) -> Result<Option<(i64, i64)>> {
        // A holder needs it as well.
        self.watch.run(&self.endpoints)?;
        let created = match position {
            Position::First { created, known } => return Ok(Some((created, known))),
            Position::Queued { created } => created,
        };
        let key = self.keys.directory(request.name()).key(session.lease, request.id());
        let place = self.watch.replica(request.name()).place(&key, created);
        let granted = tokio::select! {
            biased;
            () = record.withdrawn() => return Err(Error::withdrawn()),
            () = session.ended(&self.keepers) => None,
            error = self.watch.serve(&self.endpoints) => return Err(error),
            known = self.first(request, &place) => known?.map(|known| (created, known)),
        };
        Ok(granted.filter(|_| !session.is_past()))
    }

    /// Completes once nothing is before this place: the revision as of which this is so; `None`: its key is
    /// gone.
    async fn first(&self, request: &Request, place: &Place) -> Result<Option<i64>> {
        let mut is_told_away = false;
        loop {
            let changed = place.changed();
            match place.standing(request.kind()) {
                Standing::First { known } => return Ok(Some(known)),
                Standing::Gone => return Ok(None),
                Standing::Behind { holder } => {
                    request.report(StoreSays::Held(Some(Holder::new(holder))));
                    changed.await;
                    is_told_away = false;
                }
                Standing::Unread { stream } => {
                    let _one_reads = place.replica.reading.lock().await;
                    // Another waiter may have read meanwhile.
                    if place.standing(request.kind()) == (Standing::Unread { stream }) {
                        let _turn = self.turn().await;
                        let all = Txn::new().and_then([place.replica.at.all()]);
                        let answer = self.read(request, &all).await?;
                        let (found, now) = (reads(&answer), revision_of(&answer)?);
                        let found = found.first().ok_or_else(garbled)?;
                        let queue = place.replica.at.contenders(found);
                        place.replica.take_in(stream, queue, now);
                    }
                }
                Standing::Unknown => tokio::select! {
                    () = changed => {}
                    () = self.watch.away(), if !is_told_away => {
                        request.report(StoreSays::Unreachable);
                        is_told_away = true;
                    }
                },
            }
        }
    }

    /// Whether the key that `created` made holds.
    async fn look(
        &self,
        request: &Request,
        at: &Directory,
        own: Own<'_>,
        created: i64,
    ) -> Result<TakeOutcome> {
        let answer = self.read(request, &Txn::new().and_then([at.all()])).await?;
        let (found, known) = (reads(&answer), revision_of(&answer)?);
        let queue = at.contenders(found.first().ok_or_else(garbled)?);
        let (before, others) =
            queue.split_at(queue.partition_point(|other| other.created < created));
        let is_there = others.iter().any(|other| other.created == created && other.key == own.key);
        // Every contender is exclusive.
        let is_admitted = request.kind().admits(before.iter().map(|_| Kind::Exclusive));
        Ok(match (is_there, is_admitted) {
            (false, _) => TakeOutcome::Held,
            (true, true) => TakeOutcome::Taken { created, known },
            (true, false) => TakeOutcome::Queued,
        })
    }

    /// Sends what may leave a key; `None`: the session's lease is gone, and nothing was left.
    async fn send(
        &self,
        request: &Request,
        record: &Record,
        session: &Use,
        own: Own<'_>,
        txn: Txn,
    ) -> Result<Option<TxnResponse>> {
        // Counted first: a withdrawal that comes now finds this sending, and has it refused.
        let sending = sending(record, session, own.key)?;
        let CallOutcome { value, late } = self.txn(request, &txn).await;
        match &value {
            Err(Failure::Unclear(_)) => drop(sending),
            _ if late => drop(sending),
            // Its key may be there, and is then to be withdrawn.
            Ok(_) | Err(Failure::Full(_)) => sending.answered(),
            Err(_) => refused(record, sending),
        }
        match value {
            Ok(_) if session.is_past() => {
                // It goes with its lease, whatever it has put there.
                drop(session.revoke(&self.endpoints).await);
                Ok(None)
            }
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::NoLease) => {
                session.end();
                Ok(None)
            }
            Err(failure) => Err(failure.into_error(late)),
        }
    }

    /// Refuses what a cluster without our mark says; the next call checks the member before it asks.
    fn recognize(&self, mark: &GetResponse) -> Result<()> {
        if self.mark.is_in(mark) == Some(true) {
            return Ok(());
        }
        self.endpoints.close();
        let names = self.endpoints.names();
        let what = format!("a member of {names} does not have our cluster's mark");
        Err(Error::unavailable(Applied::Maybe, what))
    }

    /// Learns the session key's revision after a refusal of one that compared `compared`; whether
    /// there is a session.
    async fn catch_up(&self, session: &Use, session_key: &GetResponse, compared: i64) -> bool {
        match session_key.kvs().first() {
            Some(kv) if kv.mod_revision() < compared => {
                // A backup in which the cluster's revision has passed ours since then. Without this
                // it would be compared, and refused, without an end.
                session.fell_back(compared, kv.mod_revision());
                drop(session.revoke(&self.endpoints).await);
                false
            }
            Some(kv) => {
                session.touched(kv.mod_revision());
                true
            }
            None => {
                // Expired; or that key was deleted, and the lease would go on for nothing.
                if !session.has_ended() {
                    drop(session.revoke(&self.endpoints).await);
                }
                false
            }
        }
    }
}

/// The answer to the transaction within another one.
fn nested(answer: &TxnResponse) -> Result<TxnResponse> {
    match answer.op_responses().into_iter().next() {
        Some(TxnOpResponse::Txn(answer)) => Ok(answer),
        _ => Err(garbled()),
    }
}
