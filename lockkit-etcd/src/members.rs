//! Whether a member is of our cluster: looked at once for each connection, and in every answer.

use std::future::ready;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etcd_client::{GetOptions, GetResponse, ResponseHeader};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lockkit_core::kit::{LONGEST_CALL, within};
use lockkit_core::{Clock, Error, Result};

use crate::endpoints::Endpoints;
use crate::error::Failure;
use crate::mark::Mark;
use crate::member_client::MemberClient;
use crate::protocol::{reads, revision_of, send};

/// How long a client that connects waits for members that do not answer: they are looked at later.
const GRACE: Duration = Duration::from_millis(250);
const REMEDY: &str = "list the members of one cluster only; if this is that cluster, set up again or \
    restored from a backup, or if another lockkit has raised the layout of its keys, connect again";

impl Endpoints {
    /// From now on only members with this mark serve; refuses one that has another.
    pub(crate) async fn know(&self, mark: Mark) -> Result<()> {
        // Set once, by the client that connects.
        let _ = self.mark.set(mark);
        let clock = Clock::system();
        let look =
            |member| self.once(member, &clock, LONGEST_CALL, LONGEST_CALL, |_| ready(Ok(())));
        let mut looks: FuturesUnordered<_> = (0..self.count()).map(look).collect();
        let until = clock.now().saturating_add(GRACE);
        loop {
            tokio::select! {
                biased;
                looked = looks.next() => match looked {
                    Some(Err(Failure::Foreign(error))) => return Err(error),
                    Some(_) => {}
                    None => return Ok(()),
                },
                () = clock.sleep_until(until) => return Ok(()),
            }
        }
    }

    /// Checks that the member at the other end is of our cluster; nothing is asked of it before.
    /// `false`: the connection was given up meanwhile.
    pub(crate) async fn verify(&self, client: &MemberClient) -> Result<bool, Failure> {
        let Some(mark) = self.mark.get() else { return Ok(true) };
        if self.members[client.member].is_verified(client) {
            return Ok(true);
        }
        tokio::select! {
            biased;
            verified = self.verify_once(client, mark) => verified.map(|()| true),
            // Others must not wait behind a connection that is stuck.
            () = self.given_up(client) => Ok(false),
        }
    }

    /// Whether our user may not read our keys. A call renews a login that has expired.
    pub(crate) async fn lacks_a_right(&self, client: &MemberClient) -> bool {
        let Some(mark) = self.mark.get() else { return false };
        let mut kv = client.driver.kv_client();
        let look = kv.get(mark.key(), Some(GetOptions::new().with_serializable()));
        let found = within(&Clock::system(), LONGEST_CALL, look).await;
        matches!(found, Some(Err(error)) if matches!(Failure::of(&error), Failure::Refused(_)))
    }

    /// A crowd on a new connection looks once.
    async fn verify_once(&self, client: &MemberClient, mark: &Mark) -> Result<(), Failure> {
        let member = &self.members[client.member];
        let _one_at_a_time = member.verifying.lock().await;
        if member.is_verified(client) {
            return Ok(());
        }
        self.look(client, mark).await?;
        member.lacks_mark.store(false, Ordering::SeqCst);
        member.is_told.store(false, Ordering::SeqCst);
        member.verified(client);
        Ok(())
    }

    async fn look(&self, client: &MemberClient, mark: &Mark) -> Result<(), Failure> {
        // A member answers the first one from memory, also while there is no leader; one that has
        // no mark may lag behind, and is asked as of now.
        for options in [GetOptions::new().with_serializable(), GetOptions::new()] {
            let found = client.driver.kv_client().get(mark.key(), Some(options)).await;
            let found = match found.map_err(|error| Failure::of(&error)) {
                Ok(found) => found,
                // The request itself is refused too, or needs no right: a keep-alive.
                Err(Failure::Refused(_)) => return Ok(()),
                Err(Failure::Unclear(text)) => return Err(Failure::Unserved(text)),
                Err(failure) => return Err(failure),
            };
            self.compare(client.member, found.header())?;
            match mark.is_in(&found) {
                Some(true) => return Ok(()),
                Some(false) => return Err(self.another_mark(client.member, &found)),
                None => {}
            }
        }
        self.members[client.member].lacks_mark.store(true, Ordering::SeqCst);
        let lacking = self.members.iter().filter(|one| one.lacks_mark.load(Ordering::SeqCst));
        // A new cluster has none, nor has ours if it was restored from a backup that is older than
        // the mark: then most of the members that we know have lost it.
        if lacking.count() * 2 <= self.members.len() {
            return Err(self.foreign(client.member, "it does not have the mark of ours"));
        }
        self.put_back(client, mark).await
    }

    /// Puts the mark where there was one: the history went back to before it.
    async fn put_back(&self, client: &MemberClient, mark: &Mark) -> Result<(), Failure> {
        let sent = self.history.moment();
        let answer = send(&mark.put())(client.driver.clone()).await;
        let answer = answer.map_err(|error| match Failure::of(&error) {
            Failure::Unclear(text) => Failure::Unserved(text),
            failure => failure,
        })?;
        if let Some(found) = reads(&answer).first().filter(|found| mark.is_in(found) != Some(true))
        {
            return Err(self.another_mark(client.member, found));
        }
        let now = revision_of(&answer).map_err(Failure::Refused)?;
        if self.history.fell_back(sent, now) {
            self.close();
        }
        Ok(())
    }

    /// Refuses an answer of another cluster; the first one of all says which is ours.
    pub(crate) fn compare(
        &self,
        member: usize,
        header: Option<&ResponseHeader>,
    ) -> Result<(), Failure> {
        let Some(id) = header.map(ResponseHeader::cluster_id) else { return Ok(()) };
        if *self.cluster.get_or_init(|| id) == id {
            return Ok(());
        }
        Err(self.foreign(member, "it has another cluster id"))
    }

    /// Refuses a member with another mark than ours: of another cluster, or of a newer layout.
    fn another_mark(&self, member: usize, found: &GetResponse) -> Failure {
        let url = &self.members[member].url;
        match Mark::check_layout(found, &format!("{url}, which has another mark now,")) {
            Err(error) => self.refuse(member, error),
            Ok(()) => self.foreign(member, "it has another mark"),
        }
    }

    fn foreign(&self, member: usize, why: &str) -> Failure {
        let what = format!("{} is of another etcd cluster: {why}", self.members[member].url);
        self.refuse(member, Error::rejected(what, REMEDY))
    }

    /// Told once, until it is found to be of our cluster after all.
    fn refuse(&self, member: usize, error: Error) -> Failure {
        let one = &self.members[member];
        if !one.is_told.swap(true, Ordering::SeqCst) {
            tracing::warn!(
                target: "lockkit", event = "foreign_member", member = %one.url, error = %error,
                "this member is not asked: it has another mark, or another cluster id",
            );
        }
        Failure::Foreign(error)
    }
}
