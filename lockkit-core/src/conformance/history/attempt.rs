//! One attempt, as its events tell it.

use super::at::At;
use super::event::{AttemptId, What};
use super::fence::{Access, Effect, Outcome};
use super::verdict::Violation;
use crate::{FencingToken, Instant, Kind, LockName};

/// What an attempt has come to.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    /// The number of its name.
    pub(super) name: usize,
    pub(super) kind: Kind,
    pub(super) asked: At,
    pub(super) granted: Option<Granted>,
    stage: Stage,
    /// Where its access that is under way stands among those to the name's resource.
    access: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) token: FencingToken,
    /// From when on it certainly believed, if it ever did.
    pub(super) from: At,
    /// The last instant at which it certainly believed.
    pub(super) until: Option<At>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asking,
    /// It gave up, or was refused.
    GaveUp,
    Holding,
    Releasing(At),
    Ended,
}

/// How an event contradicts those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    LateGrant,
    GhostRelease,
    BeliefAfterLoss,
    Unheard,
}

impl Wrong {
    pub(super) fn violation(self, name: LockName, attempt: AttemptId, at: Instant) -> Violation {
        match self {
            Self::LateGrant => Violation::LateGrant { name, attempt, at },
            Self::GhostRelease => Violation::GhostRelease { name, attempt, at },
            Self::BeliefAfterLoss => Violation::BeliefAfterLoss { name, attempt, at },
            Self::Unheard => Violation::OutOfOrder { attempt, at },
        }
    }
}

impl Attempt {
    pub(super) const fn new(id: AttemptId, name: usize, kind: Kind, asked: At) -> Self {
        Self { id, name, kind, asked, granted: None, stage: Stage::Asking, access: None }
    }

    /// Takes an event in; its accesses go to `accesses`.
    pub(super) fn on(
        &mut self,
        at: At,
        what: &What,
        accesses: &mut Vec<Access>,
    ) -> Result<(), Wrong> {
        match (self.stage, what) {
            (Stage::Asking, What::Granted(token)) => {
                self.granted = Some(Granted { token: *token, from: at, until: None });
                self.stage = Stage::Holding;
            }
            (Stage::Asking, What::Refused | What::Unknown) => self.stage = Stage::GaveUp,
            (_, What::Granted(_)) => return Err(Wrong::LateGrant),
            (Stage::Holding, What::Believes) => self.believed(at),
            (Stage::Releasing(_) | Stage::Ended, What::Believes) => {
                return Err(Wrong::BeliefAfterLoss);
            }
            (Stage::Holding, What::Releases) => self.stage = Stage::Releasing(at),
            (Stage::Releasing(called), What::Released) => {
                // An acknowledged release says that the grant lasted until then.
                self.believed(called);
                self.stage = Stage::Ended;
            }
            (_, What::Released) | (Stage::Asking | Stage::GaveUp, What::Releases) => {
                return Err(Wrong::GhostRelease);
            }
            (Stage::Holding | Stage::Releasing(_) | Stage::Ended, What::Lost) => {
                self.stage = Stage::Ended;
            }
            // It may be late: that is what the fence is for.
            (_, What::Reads) => self.calls(at, Effect::Read(None), accesses)?,
            (_, What::Writes { seen, wrote }) => {
                let write = Effect::Write { seen: *seen, wrote: *wrote };
                self.calls(at, write, accesses)?;
            }
            (_, What::Read(version)) => {
                let access = self.answered(at, accesses)?;
                if access.effect != Effect::Read(None) {
                    return Err(Wrong::Unheard);
                }
                access.effect = Effect::Read(Some(*version));
                access.outcome = Outcome::Accepted;
            }
            (_, What::Wrote) => {
                let access = self.answered(at, accesses)?;
                if !matches!(access.effect, Effect::Write { .. }) {
                    return Err(Wrong::Unheard);
                }
                access.outcome = Outcome::Accepted;
            }
            (_, What::Stale) => self.answered(at, accesses)?.outcome = Outcome::Refused,
            _ => return Err(Wrong::Unheard),
        }
        Ok(())
    }

    fn believed(&mut self, at: At) {
        if let Some(granted) = &mut self.granted {
            granted.until = granted.until.max(Some(at));
        }
    }

    fn calls(&mut self, at: At, effect: Effect, accesses: &mut Vec<Access>) -> Result<(), Wrong> {
        let Some(granted) = self.granted else { return Err(Wrong::Unheard) };
        self.access = Some(accesses.len());
        accesses.push(Access {
            attempt: self.id,
            token: granted.token,
            kind: self.kind,
            called: at,
            answered: None,
            effect,
            outcome: Outcome::Unknown,
        });
        Ok(())
    }

    fn answered<'a>(
        &mut self,
        at: At,
        accesses: &'a mut [Access],
    ) -> Result<&'a mut Access, Wrong> {
        let access = self.access.take().and_then(|access| accesses.get_mut(access));
        let access = access.ok_or(Wrong::Unheard)?;
        access.answered = Some(at);
        Ok(access)
    }
}
