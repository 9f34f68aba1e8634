//! A request's way through the queue: entering it, waiting in it, leaving it.

use std::sync::Arc;

use etcd_client::{GetResponse, Txn, TxnOpResponse, TxnResponse};
use lockkit_core::{Applied, Error, Kind, Request, Result, StoreSays};

use crate::client::Client;
use crate::endpoints::CallOutcome;
use crate::error::Failure;
use crate::own::{Found, Own, delete, unless_there};
use crate::protocol::{Directory, FEW, garbled, kinds, reads, revision_of};
use crate::replica::{Place, Standing};
use crate::requests::{Record, Sending};
use crate::session::Use;
use crate::slots::Left;

/// Where a request stands once its key is in the queue.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) own: Arc<Own>,
    /// The revision that created its key.
    pub(crate) created: i64,
    /// One as of which none was before it that keeps it out, so that it holds; `None`: such may be before it.
    pub(crate) first: Option<i64>,
}

/// What came of an attempt that does not wait.
#[derive(Debug)]
pub(crate) enum TakeOutcome {
    Taken(Position),
    Held,
    /// It must be tried on another session.
    Ended,
}

/// Why a put was refused.
#[derive(Debug)]
enum Refusal {
    /// Its key is there, created at this revision.
    There(i64),
    /// What lay at its key is removed.
    Removed,
    /// Its guard was touched, or the name is not free.
    Compared,
    /// The session has ended.
    Ended,
}

impl Client {
    /// Joins the queue, or finds the position in it again; `None`: on another session.
    pub(crate) async fn enter(
        &self,
        request: &Request,
        record: &Record,
        session: &Use,
    ) -> Result<Option<Position>> {
        let at = self.keys.directory(request.name());
        let is_crowd = || session.slots().is_crowd(request.name());
        let mut turn = tokio::select! {
            biased;
            () = record.withdrawn() => return Err(Error::withdrawn()),
            turn = self.turns.to_enter(request.name(), is_crowd) => turn,
        };
        loop {
            let Some(sending) = self.sending(record, session).await? else { return Ok(None) };
            let own = Arc::clone(&sending.own);
            let txn = own.enter(&at, &self.mark, sending.guard);
            let sent = turn.send(self.send(request, session, sending, txn));
            let Some((answer, sending)) = sent.await? else { return Ok(None) };
            let found = reads(&answer);
            if answer.succeeded() {
                let created = revision_of(&answer)?;
                sending.answered(Left::Key(created));
                let [some] = &found[..] else { return Err(garbled()) };
                let first = (some.count() == 1).then_some(created);
                return Ok(Some(Position { own, created, first }));
            }
            match self.refused(request, session, sending, &found).await? {
                Refusal::There(created) => {
                    return Ok(Some(Position { own, created, first: None }));
                }
                Refusal::Removed | Refusal::Compared => {}
                Refusal::Ended => return Ok(None),
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
        let mut turn = tokio::select! {
            biased;
            () = record.withdrawn() => return Err(Error::withdrawn()),
            turn = self.turns.to_take(request.name()) => turn,
        };
        let is_shared = request.kind() != Kind::Exclusive;
        let (mut known, mut limit) = (None, FEW);
        loop {
            let Some(sending) = self.sending(record, session).await? else {
                return Ok(TakeOutcome::Ended);
            };
            let own = Arc::clone(&sending.own);
            // A replay is to find its own key, and not another's behind it; a shared request may hold beside it.
            let is_held_off = sending.is_first && !is_shared;
            let seen = self.seen.get(request.name()).filter(|_| is_held_off);
            // Only the values tell who shares.
            let read = if is_shared { at.all() } else { at.some(limit) };
            let take = own.take(&at, &self.mark, sending.guard, known, read);
            let txn = match &seen {
                Some(seen) => unless_there(seen, take),
                None => take,
            };
            let sent = turn.send(self.send(request, session, sending, txn));
            let Some((answer, sending)) = sent.await? else { return Ok(TakeOutcome::Ended) };
            let now = revision_of(&answer)?;
            let answer = match seen {
                Some(_) if answer.succeeded() => {
                    sending.answered(Left::Nothing);
                    return Ok(TakeOutcome::Held);
                }
                Some(_) => nested(&answer)?,
                None => answer,
            };
            if answer.succeeded() {
                sending.answered(Left::Key(now));
                return Ok(TakeOutcome::Taken(Position { own, created: now, first: Some(now) }));
            }
            let found = reads(&answer);
            match self.refused(request, session, sending, &found).await? {
                Refusal::There(created) => return self.look(request, &at, own, created).await,
                Refusal::Removed => continue,
                Refusal::Compared => {}
                Refusal::Ended => return Ok(TakeOutcome::Ended),
            }
            let some = found.last().ok_or_else(garbled)?;
            if self.is_kept_out(request, &at, some) {
                return Ok(TakeOutcome::Held);
            }
            if limit > 0 && some.more() {
                // Only stray keys so far; a contender may be behind them.
                limit = 0;
            } else {
                // All that is there is stray, or shares, and no obstacle; what comes after it is.
                known = Some(now);
            }
        }
    }

    /// Whether one of these keys below the name keeps a request out that does not wait.
    fn is_kept_out(&self, request: &Request, at: &Directory, found: &GetResponse) -> bool {
        if request.kind() != Kind::Exclusive {
            return !request.kind().admits(kinds(&at.contenders(found)));
        }
        let contends = found.kvs().iter().find(|kv| at.contender(kv).is_some());
        if let Some(contends) = contends {
            self.seen.keep(request.name(), (contends.key().to_vec(), contends.mod_revision()));
        }
        contends.is_some()
    }

    /// Waits for the first position; `None`: the key or its session is gone, and the position with it.
    pub(crate) async fn wait(
        &self,
        request: &Request,
        record: &Record,
        session: &Use,
        position: Position,
    ) -> Result<Option<Position>> {
        if position.first.is_some() {
            return Ok(Some(position));
        }
        let place = self.watch.replica(request.name()).place(&position.own.key, position.created);
        let first = tokio::select! {
            biased;
            () = record.withdrawn() => return Err(Error::withdrawn()),
            () = session.ended(&self.keepers) => None,
            error = self.watch.serve(&self.endpoints) => return Err(error),
            known = self.first(request, &place) => known?,
        };
        let is_first = first.is_some() && !session.is_past();
        Ok(is_first.then_some(Position { first, ..position }))
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
                    request.report(StoreSays::Held(Some(holder)));
                    changed.await;
                    is_told_away = false;
                }
                Standing::Unread { stream } => {
                    let _one_reads = place.replica.reading.lock().await;
                    // Another waiter may have read meanwhile.
                    if place.standing(request.kind()) == (Standing::Unread { stream }) {
                        let _turn = self.turns.to_read().await;
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
        own: Arc<Own>,
        created: i64,
    ) -> Result<TakeOutcome> {
        let answer = self.read(request, &Txn::new().and_then([at.all()])).await?;
        let (found, known) = (reads(&answer), revision_of(&answer)?);
        let queue = at.contenders(found.first().ok_or_else(garbled)?);
        let (before, others) =
            queue.split_at(queue.partition_point(|other| other.created < created));
        let is_there = others.iter().any(|other| other.created == created && other.key == own.key);
        let is_admitted = request.kind().admits(kinds(before));
        Ok(match is_there && is_admitted {
            true => TakeOutcome::Taken(Position { own, created, first: Some(known) }),
            false => TakeOutcome::Held,
        })
    }

    /// Sends what may leave a key; `None`: the session's lease is gone, and nothing was left.
    async fn send<'a>(
        &self,
        request: &Request,
        session: &Use,
        mut sending: Sending<'a>,
        txn: Txn,
    ) -> Result<Option<(TxnResponse, Sending<'a>)>> {
        let CallOutcome { value, late } = self.txn(request, &txn).await;
        sending.is_late = late;
        match value {
            Ok(_) if session.is_past() => {
                // It goes with its lease, whatever it has put there.
                drop(session.revoke(&self.endpoints).await);
                Ok(None)
            }
            Ok(answer) => Ok(Some((answer, sending))),
            Err(Failure::NoLease) => {
                sending.answered(Left::Nothing);
                session.end();
                Ok(None)
            }
            Err(failure) => {
                match failure {
                    Failure::Unclear(_) => drop(sending),
                    Failure::Full(_) => sending.answered(Left::Perhaps),
                    _ => sending.answered(Left::Nothing),
                }
                Err(failure.into_error(late))
            }
        }
    }

    /// Takes in why the store has refused a put, from what it read of the key, the guard and the mark.
    async fn refused(
        &self,
        request: &Request,
        session: &Use,
        sending: Sending<'_>,
        found: &[GetResponse],
    ) -> Result<Refusal> {
        let [key, guard, mark, ..] = found else { return Err(garbled()) };
        self.recognize(mark)?;
        let (own, compared) = (Arc::clone(&sending.own), sending.guard);
        match own.find(key) {
            Found::Own(created) => {
                sending.answered(Left::Key(created));
                return Ok(Refusal::There(created));
            }
            Found::Stray(created) => {
                sending.answered(Left::Nothing);
                self.read(request, &delete(&own.key, created)).await?;
                return Ok(Refusal::Removed);
            }
            Found::Nothing => sending.answered(Left::Nothing),
        }
        let now = guard.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision);
        if now >= compared {
            session.slots().touched(own.slot, now);
            return Ok(Refusal::Compared);
        }
        if now > 0 {
            // A backup in which the cluster's revision has passed ours since then. Without this it would be
            // compared, and refused, without an end.
            session.fell_back(compared, now);
        }
        // Expired; or that guard was deleted, also by a restore, and the lease would go on for nothing.
        if !session.has_ended() || now > 0 {
            drop(session.revoke(&self.endpoints).await);
        }
        Ok(Refusal::Ended)
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
}

/// The answer to the transaction within another one.
fn nested(answer: &TxnResponse) -> Result<TxnResponse> {
    match answer.op_responses().into_iter().next() {
        Some(TxnOpResponse::Txn(answer)) => Ok(answer),
        _ => Err(garbled()),
    }
}
