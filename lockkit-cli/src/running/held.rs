//! The time from the grant until nothing of the command is left, and the release.

use std::time::{Duration, Instant};

use lockkit::{Error, Guard, LossReason};
use rustix::process::Signal;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;

use super::clock::now;
use super::group::Group;
use super::message::{End, Link, ToFront, ToSupervisor};
use crate::ending::{Failure, Own};

/// How long at most between two looks at the deadline.
const LOOK: Duration = Duration::from_millis(500);
/// How often the supervisor checks that processes which the command has left behind are gone.
const LOOK_FOR_REST: Duration = Duration::from_millis(50);
/// For so long after the command has ended, what it has left behind may end too before the front is told: the release
/// comes first then.
const LAST: Duration = Duration::from_millis(100);
/// How often to look while processes are to end soon.
const LOOK_FOR_END: Duration = Duration::from_millis(5);
/// A deadline that has moved by less is no news to the front.
const NEWS: Duration = Duration::from_millis(20);

/// How a term is over.
pub(super) enum Over {
    /// As the front is to end; `None`: it was told before, or is gone.
    Ended(Option<End>),
    /// The lock was lost, and the command was ended.
    Lost(Failure),
}

/// How long before the guard's deadline the command is ended: a part of the ttl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lead {
    /// SIGTERM comes so long before SIGKILL.
    term: Duration,
    kill: Duration,
}

pub(super) struct Hold<'a> {
    link: &'a mut Link,
    told_to_end: &'a mut Receiver<i32>,
    children: &'a mut Receiver<i32>,
    group: Group,
    guard: Guard,
    kill_after: Duration,
    lead: Option<Lead>,
    /// Whether the front is there.
    has_front: bool,
    /// Whether the front was told how the command ended.
    has_told: bool,
    /// When the command was seen to have ended, with processes left behind.
    ended_at: Option<Instant>,
    /// What the front knows of the deadline.
    kill_by: Option<Duration>,
    /// Why the lock counts as lost.
    loss: Option<String>,
    /// SIGTERM was sent, and SIGKILL follows then.
    kill_at: Option<Instant>,
    is_killed: bool,
}

impl Lead {
    fn of(ttl: Duration, kill_after: Duration) -> Self {
        Self { term: (ttl / 6).min(kill_after), kill: (ttl / 30).min(Duration::from_secs(1)) }
    }
}

impl<'a> Hold<'a> {
    pub(super) fn new(
        link: &'a mut Link,
        told_to_end: &'a mut Receiver<i32>,
        children: &'a mut Receiver<i32>,
        group: Group,
        guard: Guard,
        kill_after: Duration,
    ) -> Self {
        let lead = guard.ttl().map(|ttl| Lead::of(ttl, kill_after));
        Self {
            link,
            told_to_end,
            children,
            group,
            guard,
            kill_after,
            lead,
            has_front: true,
            has_told: false,
            ended_at: None,
            kill_by: None,
            loss: None,
            kill_at: None,
            is_killed: false,
        }
    }

    /// Watches the command, the lock and the front; releases.
    pub(super) async fn until_nothing_is_left(mut self) -> Over {
        self.link.offer(&ToFront::Started(self.group.number()));
        loop {
            if let Some(number) = self.group.collect() {
                self.link.offer(&ToFront::Stopped(number));
            }
            if self.group.is_gone() {
                return self.release().await;
            }
            self.look_at_deadline();
            self.look_at_command().await;
            let pause = self.pause();
            tokio::select! {
                message = self.link.next(), if self.has_front => self.heard(message.as_ref()),
                _ = self.children.recv() => {}
                _ = self.told_to_end.recv() => if !self.has_front {
                    self.end_within(self.kill_after);
                },
                reason = self.guard.lost(), if !self.is_killed => self.lost(reason),
                () = sleep(pause) => {}
            }
        }
    }

    fn heard(&mut self, message: Option<&ToSupervisor>) {
        match message {
            Some(ToSupervisor::Signal(number)) => {
                if let Some(signal) = Signal::from_named_raw(*number) {
                    self.group.signal(signal);
                }
            }
            Some(ToSupervisor::Continue) => self.group.signal(Signal::CONT),
            None => {
                self.has_front = false;
                if !self.has_told {
                    self.end_within(self.kill_after);
                }
            }
        }
    }

    /// The lock may be another's by now: nothing is left to wait for.
    fn lost(&mut self, reason: LossReason) {
        self.loss.get_or_insert_with(|| reason.to_string());
        self.kill();
    }

    /// Ends the command in time where renewals do not get through, and tells the front until when it has time.
    fn look_at_deadline(&mut self) {
        let (Some(lead), Some(left)) = (self.lead, self.guard.remaining()) else { return };
        let before_kill = left.saturating_sub(lead.kill);
        if before_kill <= lead.term {
            let why = "no renewal was acknowledged, and the deadline came near";
            self.loss.get_or_insert_with(|| why.to_owned());
            self.end_within(before_kill);
        }
        if before_kill.is_zero() {
            self.kill();
        }
        // Later than this process would kill it itself.
        let kill_by = now() + left.saturating_sub(lead.kill / 2);
        let is_news = self.kill_by.is_none_or(|told| kill_by.abs_diff(told) > NEWS);
        if self.has_front && is_news && self.link.offer(&ToFront::KillBy(kill_by)) {
            self.kill_by = Some(kill_by);
        }
    }

    /// Tells the front of a command that has ended, even where it has left processes behind.
    async fn look_at_command(&mut self) {
        if self.kill_at.is_some_and(|time| Instant::now() >= time) {
            self.kill();
        }
        let is_ending = self.kill_at.is_some();
        if let Some(end) = self.group.end().filter(|_| !is_ending && !self.has_told) {
            let ended_at = *self.ended_at.get_or_insert_with(Instant::now);
            if ended_at.elapsed() >= LAST {
                self.link.send(&ToFront::Ended(end.clone())).await;
                self.has_told = true;
            }
        }
    }

    /// SIGTERM now, SIGKILL after so long.
    fn end_within(&mut self, limit: Duration) {
        let time = Instant::now() + limit;
        if self.kill_at.is_none() {
            self.group.signal(Signal::TERM);
            // A command that is stopped hears it only then.
            self.group.signal(Signal::CONT);
        }
        self.kill_at = Some(self.kill_at.map_or(time, |earlier| earlier.min(time)));
    }

    fn kill(&mut self) {
        self.kill_at.get_or_insert_with(Instant::now);
        self.is_killed = true;
        self.group.signal(Signal::KILL);
    }

    fn pause(&self) -> Duration {
        let mut pause = LOOK;
        if let (Some(lead), Some(left)) = (self.lead, self.guard.remaining()) {
            let next = if self.loss.is_some() { lead.kill } else { lead.kill + lead.term };
            pause = pause.min(left.saturating_sub(next));
        }
        if let Some(time) = self.kill_at {
            pause = pause.min(time.saturating_duration_since(Instant::now())).min(LOOK_FOR_END);
        } else if self.group.end().is_some() {
            pause = pause.min(if self.has_told { LOOK_FOR_REST } else { LOOK_FOR_END });
        }
        pause.max(Duration::from_millis(1))
    }

    /// Nothing of the command is left.
    async fn release(self) -> Over {
        // The release may take longer than there is time left.
        self.link.offer(&ToFront::Gone);
        let (name, end) = (self.guard.name().clone(), self.group.end().cloned());
        let released = self.guard.release().await;
        let lost = |why: &str| {
            let line = format!("lock {:?}: lost: {why}; the command was ended", name.as_str());
            Over::Lost(Failure::new(Own::Lost, line))
        };
        let over = match (self.loss, released) {
            (Some(why), _) => lost(&why),
            (None, Err(Error::Lost { reason, .. })) => lost(&reason.to_string()),
            (None, Err(error)) => {
                let line = format!("{error}; the name may stay held until its ttl ends");
                let note = Failure::new(Own::Unavailable, line);
                self.link.offer(&ToFront::Note(note));
                Over::Ended(end)
            }
            (None, Ok(())) => Over::Ended(end),
        };
        if self.has_told || !self.has_front { Over::Ended(None) } else { over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_ended_after_the_guard_is_at_risk_and_before_its_deadline() {
        for ttl in [200, 2_000, 15_000, 600_000, 86_400_000].map(Duration::from_millis) {
            let lead = Lead::of(ttl, Duration::from_secs(10));
            assert!(lead.kill > Duration::from_millis(5), "{lead:?}");
            // By default a guard's deadline is a tenth of the ttl, 2 s at most, before the store's.
            let deadline = ttl - (ttl / 10).min(Duration::from_secs(2));
            assert!(deadline - lead.kill - lead.term > ttl * 2 / 3, "{ttl:?}");
        }
    }
}
