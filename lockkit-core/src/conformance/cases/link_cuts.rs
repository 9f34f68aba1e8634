//! At the link: each operation with its connection cut after every byte.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::case::Challenge::Atomicity;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::faults::{Linked, Way};
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require, require_in_time};
use crate::{Applied, Error, Grant, LossReason, Request, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "AT-05",
        Atomicity,
        "C9",
        "an attempt cut after any byte ends, leaves one entry at the most, and none once withdrawn",
        |cx| Box::pin(sweep(cx, |cut| Box::pin(cut.attempt()))),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(120)
    .operations(40)
    .faults(20),
    Case::new(
        "AT-05-refused",
        Atomicity,
        "C15",
        "an attempt cut after any byte, and refused from then on, tells whether it may have effect",
        |cx| Box::pin(sweep(cx, |cut| Box::pin(cut.attempt_alone()))),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(120)
    .operations(20)
    .faults(20),
    Case::new(
        "AT-05-waiting",
        Atomicity,
        "C8",
        "a waiter cut after any byte, from its first request to its grant, is granted all the same",
        |cx| Box::pin(sweep(cx, |cut| Box::pin(cut.wait()))),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(120)
    .operations(40)
    .faults(20),
    Case::new(
        "AT-05-renewal",
        Atomicity,
        "C12",
        "a renewal cut after any byte costs no lease but one declared to end with its connection",
        |cx| Box::pin(sweep(cx, |cut| Box::pin(cut.renewal()))),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Ttl])
    .within(120)
    .operations(60)
    // A renewal may be as short as five bytes, and six of reply.
    .faults(10),
    Case::new(
        "AT-05-release",
        Atomicity,
        "C6",
        "a release cut after any byte can be repeated, and frees the name for others",
        |cx| Box::pin(sweep(cx, |cut| Box::pin(cut.release()))),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(120)
    .operations(60)
    .faults(20),
    Case::new(
        "AT-05-withdrawal",
        Atomicity,
        "C9",
        "a withdrawal cut after any byte can be repeated, and leaves nothing",
        |cx| Box::pin(sweep(cx, |cut| Box::pin(cut.withdrawal()))),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(120)
    .operations(40)
    .faults(20),
];

/// How many clients share the work: the cases mostly wait for connections.
const CLIENTS: u32 = 4;

/// One client, what it works on, and where it is cut.
struct Cut {
    cx: Arc<Context>,
    linked: Linked,
    tail: String,
    /// `None`: not cut, to count the bytes.
    at: Option<(Way, u64)>,
    /// The bytes in each direction, from where it would be cut on to where it was looked after.
    bytes: (u64, u64),
}

type Operation = for<'a> fn(&'a mut Cut) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// Does `operation` once for every byte that it sends and receives, cut after that byte.
async fn sweep(cx: Context, operation: Operation) -> Verdict {
    let cx = Arc::new(cx);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (linked, cx) = (cx.linked().await?, Arc::clone(&cx));
        clients.spawn(async move {
            let mut cut =
                Cut { cx, linked, tail: client.to_string(), at: None, bytes: Default::default() };
            // A client's first time may need what later ones find in place; the least of the others,
            // for a store may tell a client what others do meanwhile.
            operation(&mut cut).await?;
            let (mut sent, mut received) = (u64::MAX, u64::MAX);
            for _ in 0..3 {
                operation(&mut cut).await?;
                (sent, received) = (sent.min(cut.bytes.0), received.min(cut.bytes.1));
            }
            require!(sent > 0 && received > 0, "nothing went over the link");
            let (before, mut cuts) = (cut.linked.link.traffic().await?.connections, 0);
            for (way, bytes) in [(Way::Requests, sent), (Way::Replies, received)] {
                for after in
                    (0..=bytes).filter(|after| after % u64::from(CLIENTS) == u64::from(client))
                {
                    cut.at = Some((way, after));
                    cuts += 1;
                    operation(&mut cut).await.map_err(|stop| {
                        stop.of(format_args!("cut after byte {after} of {bytes} {way:?}"))
                    })?;
                }
            }
            // Whoever was cut has connected again, unless the cuts met nothing.
            let made = cut.linked.link.traffic().await?.connections - before;
            require!(made >= cuts / 2, "{cuts} cuts broke only {made} connections");
            cut.cx.no_residue(&cut.tail).await?;
            Verdict::Ok((sent + received, cuts))
        });
    }
    let (mut bytes, mut cuts) = (u64::MAX, 0);
    while let Some(ended) = clients.join_next().await {
        let (of_one, cut) = ended??;
        // A heartbeat may add to what some of them counted.
        bytes = of_one.min(bytes);
        cuts += cut;
    }
    cx.notes.count("bytes", bytes);
    cx.notes.count("cuts", cuts);
    // Each byte in both directions, the end and the beginning too.
    require!(cuts >= bytes, "{cuts} cuts in {bytes} bytes");
    Ok(())
}

impl Cut {
    /// From here on the bytes count.
    async fn begin(&mut self) -> Verdict {
        let traffic = self.linked.link.traffic().await?;
        self.bytes = (traffic.sent, traffic.received);
        if let Some((way, after)) = self.at {
            self.linked.link.cut(way, after).await?;
        }
        Ok(())
    }

    /// Up to here; a cut that was not reached is called off.
    async fn end(&mut self) -> Verdict {
        let traffic = self.linked.link.traffic().await?;
        self.bytes = (traffic.sent - self.bytes.0, traffic.received - self.bytes.1);
        Ok(self.linked.link.pass().await?)
    }

    /// No second connection can mend what happens to the first.
    async fn attempt_alone(&mut self) -> Verdict {
        if self.at.is_some() {
            self.linked.link.refuse().await?;
        }
        self.attempt().await
    }

    async fn attempt(&mut self) -> Verdict {
        let cx = Arc::clone(&self.cx);
        let request = cx.request_with_ttl(&self.tail, cx.long_ttl())?;
        let client = Arc::clone(&self.linked.client);
        self.begin().await?;
        let tried = client.try_acquire(&request);
        let tried = cx.by(cx.call_limit(), "an attempt that is cut ends", tried).await?;
        self.end().await?;
        let entries = cx.entries(&self.tail).await?.unwrap_or(0);
        require!(entries <= 1, "one request has {entries} entries in the store");
        match &tried {
            Ok(Some(grant)) => {
                let other = cx.provider.try_acquire(&cx.request(&self.tail)?).await?;
                if let Some(other) = other {
                    let freed = format!("granted to another beside {grant:?}");
                    self.told_of_its_end(grant, &freed).await?;
                    other.lease.release().await?;
                }
            }
            Err(Error::Unavailable { applied: Applied::No, .. }) => {
                require!(entries == 0, "an attempt with effect said that it had none: {tried:?}");
            }
            Err(Error::Unavailable { .. }) if self.at.is_some() => {}
            other => require!(false, "an attempt at a free name answered {other:?}"),
        }
        if let Ok(Some(grant)) = tried {
            self.ended(&grant).await?;
        }
        cx.answered("the withdrawal is answered", || client.withdraw(&request)).await?;
        self.all_is_free().await
    }

    async fn wait(&mut self) -> Verdict {
        let cx = Arc::clone(&self.cx);
        let holder = cx.request_with_ttl(&self.tail, cx.long_ttl())?;
        let holder = cx.granted(&*cx.provider, &holder).await?;
        let request = cx.request_with_ttl(&self.tail, cx.long_ttl())?;
        let client = Arc::clone(&self.linked.client);
        self.begin().await?;
        let waiting = {
            let request = request.clone();
            tokio::spawn(async move {
                loop {
                    match client.acquire(&request).await {
                        // As the driver does: the same request again.
                        Err(Error::Unavailable { .. }) => {
                            request.clock().sleep(Duration::from_millis(10)).await;
                        }
                        ended => return ended,
                    }
                }
            })
        };
        cx.queued(&request).await?;
        let entries = cx.entries(&self.tail).await?.unwrap_or(1);
        require!(entries <= 2, "a holder and one waiter have {entries} entries in the store");
        holder.lease.release().await?;
        let grant = cx.by(cx.recovery(), "a waiter that was cut is granted", waiting).await???;
        self.end().await?;
        let (token, before) = (grant.token, holder.token);
        require!(token > before, "token {token} came after {before}");
        self.ended(&grant).await?;
        let client = Arc::clone(&self.linked.client);
        cx.answered("the withdrawal is answered", || client.withdraw(&request)).await?;
        self.all_is_free().await
    }

    /// Fails unless a lease that lived on the connection was cut with it, and its holder is told: a
    /// store may look twice a second.
    async fn told_of_its_end(&self, grant: &Grant, freed: &str) -> Verdict {
        let told = tokio::time::timeout(2 * self.cx.slack(), grant.lease.lost()).await;
        require!(self.may_end(), "{freed}");
        require_in_time!(told.is_ok(), "{freed}, and the holder was not told");
        require!(told == Ok(LossReason::SessionEnded), "{freed}, and the holder was told {told:?}");
        Ok(())
    }

    async fn renewal(&mut self) -> Verdict {
        let (cx, grant) = self.granted().await?;
        self.begin().await?;
        let renewed = cx.by(cx.call_limit(), "a renewal that is cut ends", grant.lease.renew());
        let renewed = renewed.await?;
        self.end().await?;
        if self.is_over(&renewed) {
            return self.is_free_soon().await;
        }
        let known = matches!(renewed, Ok(_) | Err(Error::Unavailable { .. }));
        require!(known, "a renewal that was cut answered {renewed:?}");
        if let Some(other) = cx.provider.try_acquire(&cx.request(&self.tail)?).await? {
            self.told_of_its_end(&grant, "a renewal that was cut freed the name").await?;
            other.lease.release().await?;
            return self.all_is_free().await;
        }
        let again = cx.answered("the next renewal is answered", || async {
            match grant.lease.renew().await {
                renewed if self.is_over(&renewed) => Ok(None),
                renewed => renewed.map(Some),
            }
        });
        if again.await?.is_none() {
            return self.is_free_soon().await;
        }
        self.ended(&grant).await?;
        self.all_is_free().await
    }

    async fn release(&mut self) -> Verdict {
        let (cx, grant) = self.granted().await?;
        self.begin().await?;
        let released = cx.by(cx.call_limit(), "a release that is cut ends", grant.lease.release());
        let released = released.await?;
        self.end().await?;
        let known = matches!(released, Ok(()) | Err(Error::Unavailable { .. }));
        require!(known, "a release that was cut answered {released:?}");
        self.ended(&grant).await?;
        self.all_is_free().await?;
        // Now that another has held and left, nothing of this one comes back.
        let next = cx.request_with_ttl(&self.tail, cx.long_ttl())?;
        let next = cx.granted(&*cx.provider, &next).await?;
        drop(grant.lease.release().await);
        let other = cx.provider.try_acquire(&cx.request(&self.tail)?).await?;
        require!(other.is_none(), "a repeated release freed the next holder's name");
        Ok(next.lease.release().await?)
    }

    async fn withdrawal(&mut self) -> Verdict {
        let (cx, client) = (Arc::clone(&self.cx), Arc::clone(&self.linked.client));
        let request = cx.request_with_ttl(&self.tail, cx.long_ttl())?;
        let grant = self.granted_to(&request).await?;
        self.begin().await?;
        let withdrawn = cx.by(cx.call_limit(), "a withdrawal ends", client.withdraw(&request));
        let withdrawn = withdrawn.await?;
        self.end().await?;
        let known = matches!(withdrawn, Ok(()) | Err(Error::Unavailable { .. }));
        require!(known, "a withdrawal that was cut answered {withdrawn:?}");
        cx.answered("the withdrawal is answered", || client.withdraw(&request)).await?;
        self.all_is_free().await?;
        drop(grant);
        Ok(())
    }

    async fn granted(&self) -> Verdict<(Arc<Context>, Grant)> {
        let cx = Arc::clone(&self.cx);
        let request = cx.request_with_ttl(&self.tail, cx.long_ttl())?;
        let grant = self.granted_to(&request).await?;
        Ok((cx, grant))
    }

    async fn granted_to(&self, request: &Request) -> Verdict<Grant> {
        let (cx, client) = (&self.cx, &self.linked.client);
        let granted = cx.answered("an attempt is answered", || client.try_acquire(request));
        granted.await?.ok_or_else(|| Stop::failed("a free name was refused"))
    }

    /// Whether the cut may end a lease, as declared.
    fn may_end(&self) -> bool {
        self.at.is_some() && self.cx.ends_with_connection()
    }

    /// Whether an answer says that the cut has ended the lease, as declared.
    fn is_over<T>(&self, answer: &Result<T>) -> bool {
        let ended = matches!(answer, Err(Error::Lost { reason: LossReason::SessionEnded, .. }));
        ended && self.may_end()
    }

    /// What a cut has ended is free for others as soon as a waiter learns of it.
    async fn is_free_soon(&self) -> Verdict {
        self.cx.is_free(&self.tail).await.map(drop)
    }

    /// Ends a grant by its release, unless the cut has ended it.
    async fn ended(&self, grant: &Grant) -> Verdict {
        let release = || async {
            match grant.lease.release().await {
                released if self.is_over(&released) => Ok(()),
                released => released,
            }
        };
        self.cx.answered("the release is answered", release).await
    }

    /// Another is granted at once, and nothing is left.
    async fn all_is_free(&self) -> Verdict {
        let (cx, tail) = (&self.cx, &self.tail);
        cx.granted(&*cx.provider, &cx.request(tail)?).await?.lease.release().await?;
        let entries = cx.entries(tail).await?.unwrap_or(0);
        require!(entries == 0, "{entries} are left in the store");
        Ok(())
    }
}
