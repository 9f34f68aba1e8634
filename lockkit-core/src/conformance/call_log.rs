//! The calls that a case makes on its clients, so that a failure tells what was done and what was seen.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Clock, Error, Grant, Instant, Request, RequestId, Term};

/// How many calls are kept.
const KEPT: usize = 64;
/// How many of the last calls a failure tells, and how many of those before them that have no answer.
const TOLD: usize = 12;
const UNANSWERED: usize = 6;

/// The calls of one run of a case; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct CallLog(Arc<Mutex<Calls>>);

#[derive(Debug, Default)]
struct Calls {
    /// The newest at the end; the first has the number `forgotten`.
    kept: VecDeque<Call>,
    forgotten: usize,
    /// How many of them were made before the case began.
    before: usize,
    /// When the first call began: all times are told from it.
    begun: Option<Instant>,
    clients: usize,
    requests: usize,
    /// The requests of the kept calls, with their numbers.
    numbers: VecDeque<(RequestId, usize)>,
    /// Is a part of every name of the run: a story leaves it out.
    prefix: String,
}

#[derive(Debug)]
struct Call {
    client: usize,
    /// For example: try_acquire "a" (request 3, ttl 1.5s).
    what: String,
    begun: Instant,
    end: Option<End>,
}

#[derive(Debug)]
struct End {
    at: Instant,
    how: String,
}

impl CallLog {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all names of the run have in common.
    pub(super) fn names_contain(&self, prefix: &str) {
        prefix.clone_into(&mut self.calls().prefix);
    }

    /// The number of one more client.
    pub(super) fn client(&self) -> usize {
        let mut calls = self.calls();
        calls.clients += 1;
        calls.clients
    }

    /// A call on a request begins.
    pub(super) fn of_request(&self, client: usize, method: &str, request: &Request) -> OpenCall {
        let (name, ttl) = (self.short(request.name().as_str()), request.ttl());
        let number = self.calls().number(request.id());
        let what = format!("{method} {name:?} (request {number}, ttl {ttl:?})");
        self.begins(client, what, request.clock())
    }

    /// A call begins.
    pub(super) fn begins(&self, client: usize, what: String, clock: &Clock) -> OpenCall {
        let begun = clock.now();
        let number = self.calls().push(Call { client, what, begun, end: None });
        OpenCall { log: self.clone(), number, clock: clock.clone(), is_answered: false }
    }

    /// A name without what all names of the run have in common.
    pub(super) fn short(&self, name: impl AsRef<str>) -> String {
        let (name, calls) = (name.as_ref(), self.calls());
        if calls.prefix.is_empty() { name.to_owned() } else { name.replace(&*calls.prefix, "") }
    }

    /// How many calls were made.
    pub(super) fn count(&self) -> usize {
        self.calls().count()
    }

    /// Forgets the calls that are kept, for a failure that has a story of its own.
    pub(super) fn forget(&self) {
        let mut calls = self.calls();
        calls.forgotten += calls.kept.len();
        calls.kept.clear();
    }

    /// The case begins: what was called before is not part of it.
    pub(super) fn begin(&self) {
        self.forget();
        let mut calls = self.calls();
        (calls.before, calls.begun, calls.requests) = (calls.forgotten, None, 0);
        calls.numbers.clear();
    }

    /// The last calls, a line each; empty if there were none.
    pub(super) fn story(&self) -> String {
        let calls = self.calls();
        let count = calls.count();
        let last = calls.kept.len().saturating_sub(TOLD);
        let begun = calls.begun;
        let open = calls.kept.iter().take(last).filter(|call| call.end.is_none());
        let mut story = String::new();
        let lines: Vec<_> = open.take(UNANSWERED).chain(calls.kept.iter().skip(last)).collect();
        if lines.is_empty() {
            return story;
        }
        // Writing to a string does not fail.
        write!(story, "\n  The last calls, {} of {count}:", lines.len()).ok();
        for call in lines {
            let since = call.begun.saturating_since(begun.unwrap_or(call.begun));
            write!(story, "\n  {:>8.3}s  client {}  {call}", since.as_secs_f64(), call.client).ok();
        }
        story
    }
}

impl Calls {
    fn count(&self) -> usize {
        self.forgotten + self.kept.len() - self.before
    }

    fn push(&mut self, call: Call) -> usize {
        self.begun.get_or_insert(call.begun);
        self.kept.push_back(call);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
            self.forgotten += 1;
        }
        self.forgotten + self.kept.len() - 1
    }

    fn number(&mut self, id: RequestId) -> usize {
        if let Some((_, number)) = self.numbers.iter().find(|(known, _)| *known == id) {
            return *number;
        }
        self.requests += 1;
        self.numbers.push_back((id, self.requests));
        if self.numbers.len() > KEPT {
            self.numbers.pop_front();
        }
        self.requests
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.end {
            Some(End { at, how }) => {
                write!(f, "{}: {how}", self.what)?;
                let took = at.saturating_since(self.begun);
                if took.is_zero() { Ok(()) } else { write!(f, ", after {took:.1?}") }
            }
            None => write!(f, "{}: no answer", self.what),
        }
    }
}

/// A call that has begun; dropped without an answer, the caller gave it up.
#[derive(Debug)]
pub(super) struct OpenCall {
    log: CallLog,
    number: usize,
    clock: Clock,
    is_answered: bool,
}

impl OpenCall {
    /// Notes the answer and passes it on; `say` tells a good one.
    pub(super) fn answered<T>(
        mut self,
        answer: Result<T, Error>,
        say: impl FnOnce(&T) -> String,
    ) -> Result<T, Error> {
        self.is_answered = true;
        self.end(match &answer {
            Ok(good) => say(good),
            Err(error) => format!("error: {error}"),
        });
        answer
    }

    fn end(&self, how: String) {
        let at = self.clock.now();
        let mut calls = self.log.calls();
        let place = self.number.checked_sub(calls.forgotten);
        if let Some(call) = place.and_then(|place| calls.kept.get_mut(place)) {
            call.end = Some(End { at, how });
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if !self.is_answered {
            self.end("given up by its caller".to_owned());
        }
    }
}

/// A grant, for the log.
pub(super) fn of_grant(grant: &Grant, now: Instant) -> String {
    format!("granted with token {}{}", grant.token, of_term(&grant.term, now))
}

/// A term, for the log.
pub(super) fn of_term(term: &Term, now: Instant) -> String {
    let Some(ttl) = term.ttl else { return " without an expiry".to_owned() };
    let ago: Duration = now.saturating_since(term.sent);
    if ago.is_zero() {
        return format!(" for {ttl:?}");
    }
    format!(" for {ttl:?} from {ago:.1?} ago")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Applied, LockName, LossReason};

    fn request(name: &str) -> Request {
        let name = LockName::new(name).expect("a name");
        Request::new(name, Duration::from_secs(1), Clock::tokio()).expect("random bytes")
    }

    #[tokio::test(start_paused = true)]
    async fn a_story_tells_who_called_what_when_and_what_came_of_it() {
        let log = CallLog::default();
        log.names_contain("run-1-");
        let (first, second) = (log.client(), log.client());
        let asked = request("run-1-a");
        let open = log.of_request(first, "try_acquire", &asked);
        tokio::time::sleep(Duration::from_millis(5)).await;
        open.answered(Ok(()), |()| "refused".to_owned()).expect("it is passed on");
        let _waits = log.of_request(second, "acquire", &request("run-1-a"));
        drop(log.of_request(first, "acquire", &asked));
        let lost = log.of_request(first, "renew", &asked);
        lost.answered::<()>(Err(Error::lost(LossReason::Removed)), |()| String::new())
            .expect_err("it is passed on");
        let story = log.story();
        let lines: Vec<_> = story.lines().skip(1).map(str::trim).collect();
        let expected = [
            "The last calls, 4 of 4:",
            "0.000s  client 1  try_acquire \"a\" (request 1, ttl 1s): refused, after 5.0ms",
            "0.005s  client 2  acquire \"a\" (request 2, ttl 1s): no answer",
            "0.005s  client 1  acquire \"a\" (request 1, ttl 1s): given up by its caller",
        ];
        assert_eq!(lines[..4], expected, "{story}");
        assert!(lines[4].contains("renew \"a\" (request 1, ttl 1s): error: the lease is lost"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_calls_the_last_are_told_and_those_without_an_answer() {
        let log = CallLog::default();
        let waits = log.of_request(1, "acquire", &request("a"));
        for _ in 0..KEPT - 1 {
            let asked = log.of_request(2, "try_acquire", &request("b"));
            asked.answered(Ok(()), |()| "refused".to_owned()).expect("it is passed on");
        }
        assert_eq!(log.count(), KEPT);
        let story = log.story();
        assert_eq!(story.lines().count(), 2 + 1 + TOLD, "{story}");
        assert!(
            story.contains("client 1  acquire \"a\" (request 1, ttl 1s): no answer"),
            "{story}"
        );
        // One that is no longer kept may end all the same.
        log.of_request(2, "try_acquire", &request("b"));
        let cut = Err(Error::unavailable(Applied::Maybe, "reset"));
        waits.answered::<()>(cut, |()| String::new()).expect_err("it is passed on");
        assert_eq!((log.count(), log.story().contains("reset")), (KEPT + 1, false));
        assert_eq!(CallLog::default().story(), "");
    }
}
