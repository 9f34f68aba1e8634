//! Clients whose calls are logged; where a case disturbs their link, they are counted too.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::call_log::{CallLog, OpenCall, of_grant, of_term};
use super::notes::Notes;
use crate::{
    Clock, FencingToken, Finding, Grant, Guarantees, Inspection, Lease, LockName, LockProvider,
    LossReason, Operator, Permits, Request, Result, Term,
};

/// What the calls of one client are noted in.
#[derive(Clone, Debug)]
struct Log {
    notes: Notes,
    clock: Clock,
    client: usize,
    /// Whether a link or a server of this client is disturbed: its calls count for the report.
    is_counted: bool,
}

impl Log {
    fn calls(&self) -> &CallLog {
        self.notes.calls()
    }

    fn of_request(&self, method: &str, request: &Request) -> OpenCall {
        if self.is_counted {
            self.notes.operation();
        }
        self.calls().of_request(self.client, method, request)
    }

    fn begins(&self, what: String) -> OpenCall {
        self.calls().begins(self.client, what, &self.clock)
    }
}

/// A client whose calls are logged.
pub(super) struct LoggedClient {
    client: Arc<dyn LockProvider>,
    log: Log,
}

impl LoggedClient {
    pub(super) fn new(client: Arc<dyn LockProvider>, notes: &Notes, clock: &Clock) -> Self {
        let (number, notes, clock) = (notes.calls().client(), notes.clone(), clock.clone());
        Self { client, log: Log { notes, clock, client: number, is_counted: false } }
    }

    /// Counts its calls too.
    pub(super) fn counted(mut self) -> Self {
        self.log.is_counted = true;
        self
    }

    fn logged(&self, grant: Grant, request: &Request) -> Grant {
        let (log, request) = (self.log.clone(), request.clone());
        grant.wrapped(|lease| LoggedLease { lease, log, request })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl LockProvider for LoggedClient {
    fn guarantees(&self) -> Guarantees {
        self.client.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let call = self.log.of_request("try_acquire", request);
        let answer = self.client.try_acquire(request).await;
        let said = call.answered(answer, |grant| match grant {
            Some(grant) => of_grant(grant, request.clock().now()),
            None => "refused".to_owned(),
        });
        Ok(said?.map(|grant| self.logged(grant, request)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let call = self.log.of_request("acquire", request);
        let answer = self.client.acquire(request).await;
        let said = call.answered(answer, |grant| of_grant(grant, request.clock().now()));
        Ok(self.logged(said?, request))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let call = self.log.of_request("withdraw", request);
        let answer = self.client.withdraw(request).await;
        call.answered(answer, |()| "done".to_owned())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.client.operator().is_some().then_some(self as &dyn Operator)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        let call = self.log.begins("examine".to_owned());
        call.answered(self.client.examine().await, |found| format!("{} findings", found.len()))
    }

    async fn close(&self) -> Result<()> {
        let call = self.log.begins("close".to_owned());
        call.answered(self.client.close().await, |()| "done".to_owned())
    }
}

impl LoggedClient {
    fn own_operator(&self) -> Result<&dyn Operator> {
        let gone =
            || crate::Error::rejected("the operator is gone", "keep it for as long as its client");
        self.client.operator().ok_or_else(gone)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl Operator for LoggedClient {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let call = self.log.begins(format!("inspect {:?}", self.log.calls().short(name.as_str())));
        let answer = self.own_operator()?.inspect(name).await;
        call.answered(answer, of_inspection)
    }

    async fn granted_after(&self, name: &LockName, token: Option<FencingToken>) {
        match self.own_operator() {
            Ok(operator) => operator.granted_after(name, token).await,
            Err(_) => std::future::pending().await,
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let calls = self.log.calls();
        let after_it = after.map(|name| format!(" after {:?}", calls.short(name.as_str())));
        let (shown, after_it) = (calls.short(prefix), after_it.unwrap_or_default());
        let call = self.log.begins(format!("list {shown:?}{after_it}, at most {limit}"));
        let answer = self.own_operator()?.list(prefix, after, limit).await;
        call.answered(answer, |page| format!("{} names", page.len()))
    }

    async fn forget(&self, prefix: &str, unused_for: Duration) -> Result<u64> {
        let call = self.log.begins(format!("forget {prefix:?}, unused for {unused_for:?}"));
        let answer = self.own_operator()?.forget(prefix, unused_for).await;
        call.answered(answer, |names| format!("{names} names"))
    }

    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        let name_of_it = self.log.calls().short(name.as_str());
        let call = self.log.begins(format!("resize {name_of_it:?} to {}", permits.wished()));
        let answer = self.own_operator()?.resize(name, permits).await;
        call.answered(answer, |before| format!("{before} before"))
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let name_of_it = self.log.calls().short(name.as_str());
        let call = self.log.begins(format!("revoke {name_of_it:?}, token {token}"));
        let answer = self.own_operator()?.revoke(name, token).await;
        let said = |ended: &bool| if *ended { "ended" } else { "no such grant" }.to_owned();
        call.answered(answer, said)
    }
}

/// What an operator was shown.
fn of_inspection(seen: &Inspection) -> String {
    let holders: Vec<_> = seen
        .holders
        .iter()
        .map(|holder| match holder.token {
            Some(token) => format!("token {token}"),
            None => "an unknown token".to_owned(),
        })
        .collect();
    let held = if holders.is_empty() { "free".to_owned() } else { holders.join(", ") + " holds" };
    match seen.waiters {
        Some(waiters) => format!("{held}, {waiters} wait"),
        None => held,
    }
}

struct LoggedLease {
    lease: Box<dyn Lease>,
    log: Log,
    request: Request,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl Lease for LoggedLease {
    async fn renew(&self) -> Result<Term> {
        let call = self.log.of_request("renew", &self.request);
        let answer = self.lease.renew().await;
        let now = || self.request.clock().now();
        call.answered(answer, |term| format!("renewed{}", of_term(term, now())))
    }

    async fn lost(&self) -> LossReason {
        self.lease.lost().await
    }

    async fn out_of_reach(&self) {
        self.lease.out_of_reach().await;
    }

    async fn release(&self) -> Result<()> {
        let call = self.log.of_request("release", &self.request);
        call.answered(self.lease.release().await, |()| "done".to_owned())
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        let call = self.log.of_request("release_after", &self.request);
        call.answered(self.lease.release_after(rest).await, |rests| match rests {
            true => format!("done, free after {rest:?}"),
            false => "not offered".to_owned(),
        })
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        let call = self.log.of_request("raise", &self.request);
        let answer = self.lease.raise(token).await;
        call.answered(answer, |raised| format!("to {token}: {raised}"))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease.native()
    }
}

// What a case failed on is told by its calls, not by what an author's client looks like inside.
impl fmt::Debug for LoggedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.log.client)
    }
}

impl fmt::Debug for LoggedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a lease of client {}", self.log.client)
    }
}
