//! A request's way through the queue: entering it, waiting in it, leaving it.

use etcd_client::{GetResponse, KeyValue, Txn, TxnResponse};
use lockkit_core::{Applied, Error, Holder, Kind, Request, Result, StoreSays};

use crate::client::Client;
use crate::endpoints::CallOutcome;
use crate::error::Failure;
use crate::protocol::{Directory, FEW, Own, garbled, reads, revision_of};
use crate::requests::{Record, refused, sending};
use crate::session::Use;
use crate::watch::KeyState;

/// Where a request stands, as of the revision `known`.
#[derive(Debug)]
pub(crate) enum Position {
    /// No key was created before it: it holds.
    First {
        created: i64,
        known: i64,
    },
    Behind(Behind),
    /// Its key is gone.
    Lost,
}

/// Directly behind this key, and somewhere behind the holder with this label.
#[derive(Debug)]
pub(crate) struct Behind {
    created: i64,
    known: i64,
    before: (Vec<u8>, i64),
    holder: String,
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
                let [firsts, befores] = &found[..] else { return Err(garbled()) };
                return match position(&at, request.kind(), (created, created), firsts, befores, FEW)
                {
                    Some(position) => Ok(Some(position)),
                    None => self.look(request, &at, own, created).await.map(Some),
                };
            }
            let [ours, session_key, mark] = &found[..] else { return Err(garbled()) };
            self.recognize(mark)?;
            if let Some(kv) = ours.kvs().first() {
                return self.look(request, &at, own, kv.create_revision()).await.map(Some);
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
        loop {
            let revision = session.revision();
            let txn = own.take(&at, &self.mark, revision, request.label(), known, limit);
            let Some(answer) = self.send(request, record, session, own, txn).await? else {
                return Ok(TakeOutcome::Ended);
            };
            let now = revision_of(&answer)?;
            if answer.succeeded() {
                return Ok(TakeOutcome::Taken { created: now, known: now });
            }
            let found = reads(&answer);
            let [ours, session_key, mark, firsts] = &found[..] else { return Err(garbled()) };
            self.recognize(mark)?;
            if let Some(kv) = ours.kvs().first() {
                return match self.look(request, &at, own, kv.create_revision()).await? {
                    Position::First { created, known } => Ok(TakeOutcome::Taken { created, known }),
                    Position::Behind(_) => Ok(TakeOutcome::Queued),
                    Position::Lost => Ok(TakeOutcome::Held),
                };
            }
            if !self.catch_up(session, session_key, revision).await {
                return Ok(TakeOutcome::Ended);
            }
            if !at.contenders(firsts).is_empty() {
                return Ok(TakeOutcome::Held);
            }
            if limit > 0 && i64::try_from(firsts.kvs().len()).is_ok_and(|found| found >= limit) {
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
        mut position: Position,
    ) -> Result<Option<(i64, i64)>> {
        let at = self.keys.directory(request.name());
        let key = at.key(session.lease, request.id());
        let own = Own { key: &key, lease: session.lease, session: &session.key };
        self.watch.run(&self.endpoints)?;
        loop {
            let behind = match position {
                Position::First { created, known } => return Ok(Some((created, known))),
                Position::Lost => return Ok(None),
                Position::Behind(behind) => behind,
            };
            let Behind { created, known, before, holder } = &behind;
            request.report(StoreSays::Held(Some(Holder::new(holder.as_str()))));
            let ours = self.watch.sight(&key, *created, *known);
            let theirs = self.watch.sight(&before.0, before.1, *known);
            let turn = async {
                let state = tokio::select! {
                    state = ours.news() => state,
                    state = theirs.news() => state,
                };
                if state == KeyState::Gone {
                    return Ok(None);
                }
                let up = self.watch.up(&self.endpoints);
                tokio::pin!(up);
                tokio::select! {
                    biased;
                    is_up = &mut up => is_up?,
                    () = self.watch.away() => {
                        request.report(StoreSays::Unreachable);
                        up.await?;
                    }
                }
                Ok(Some(self.turn().await))
            };
            let _turn = tokio::select! {
                biased;
                () = record.withdrawn() => return Err(Error::withdrawn()),
                () = session.ended(&self.keepers) => return Ok(None),
                turn = turn => turn?,
            };
            position = self.look_again(request, &at, own, behind).await?;
            if session.is_past() {
                return Ok(None);
            }
        }
    }

    /// Reads the position of the key that `created` made.
    pub(crate) async fn look(
        &self,
        request: &Request,
        at: &Directory,
        own: Own<'_>,
        created: i64,
    ) -> Result<Position> {
        // All of them, if the first few are stray.
        for limit in [FEW, 0] {
            let answer = self.read(request, &own.look(at, created, limit)).await?;
            if let Some(position) = position_in(&answer, at, request.kind(), created, limit)? {
                return Ok(position);
            }
        }
        Err(garbled())
    }

    /// Reads the position of a key that was behind another key.
    async fn look_again(
        &self,
        request: &Request,
        at: &Directory,
        own: Own<'_>,
        behind: Behind,
    ) -> Result<Position> {
        let created = behind.created;
        let answer = self.read(request, &own.look_again(at, created, &behind.before)).await?;
        if answer.succeeded() {
            return Ok(Position::Behind(Behind { known: revision_of(&answer)?, ..behind }));
        }
        match position_in(&answer, at, request.kind(), created, FEW)? {
            Some(position) => Ok(position),
            None => self.look(request, at, own, created).await,
        }
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

/// The position that follows from the answer to a look; `None`: more must be read.
fn position_in(
    answer: &TxnResponse,
    at: &Directory,
    kind: Kind,
    created: i64,
    limit: i64,
) -> Result<Option<Position>> {
    let found = reads(answer);
    let [ours, firsts, befores] = &found[..] else { return Err(garbled()) };
    if ours.kvs().first().map(KeyValue::create_revision) != Some(created) {
        return Ok(Some(Position::Lost));
    }
    Ok(position(at, kind, (created, revision_of(answer)?), firsts, befores, limit))
}

/// The position that follows from the first keys of a queue and from those before ours, the nearest
/// first; `None`: they are all stray, and more may lie behind them.
fn position(
    at: &Directory,
    kind: Kind,
    (created, known): (i64, i64),
    firsts: &GetResponse,
    befores: &GetResponse,
    limit: i64,
) -> Option<Position> {
    let mut before = at.contenders(befores);
    before.retain(|other| other.created < created);
    // Every contender is exclusive.
    let is_admitted = kind.admits(before.iter().map(|_| Kind::Exclusive));
    let Some(nearest) = before.into_iter().next().filter(|_| !is_admitted) else {
        let is_all = limit == 0 || i64::try_from(befores.kvs().len()).is_ok_and(|n| n < limit);
        return is_all.then_some(Position::First { created, known });
    };
    let holder = at.contenders(firsts).into_iter().next().unwrap_or_else(|| nearest.clone());
    let before = (nearest.key, nearest.created);
    Some(Position::Behind(Behind { created, known, before, holder: holder.label }))
}
