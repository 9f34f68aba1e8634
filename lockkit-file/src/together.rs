//! How a request takes a name that it holds together with others.
//!
//! Those who share a name have both its files locked shared, so that an exclusive request, of an earlier version too, and
//! flock(1) are kept out. Each has a seat of its own beside, which names it. Their tokens are written one after the
//! other, within the door.
//!
//! An exclusive request that is refused by those who share keeps the gate, through which each shared request passes. So it
//! waits for those alone that hold already. The kernel opens the gate when its process dies.

use lockkit_core::{Kind, Result};

use crate::files::Opened;
use crate::process::Claim;
use crate::protocol::{Attempted, Blocked, Candidate, Passage};
use crate::seat::Seat;
use crate::turns::Turn;

impl Candidate {
    /// Tries to lock both files shared, and to take a seat.
    pub(crate) fn beside_others(mut self, waits: Option<Turn>) -> Result<Attempted> {
        let passes = self.passes()?;
        let file_locked = passes && self.file.try_lock_shared()?;
        let locked = file_locked && self.twin.try_lock_shared()?;
        if self.passage != Passage::Passed {
            self.gate.iter().for_each(Opened::unlock);
        }
        if file_locked {
            self.passage = Passage::Passed;
        } else {
            // Also one that it got in the kernel's queue: who keeps the gate waits for it.
            self.file.unlock();
        }
        if !self.file.is_in_place()? || !self.twin.is_in_place()? {
            return Ok(Attempted::Stale);
        }
        if !locked {
            self.look()?;
            let by = match (passes, file_locked) {
                (false, _) => Blocked::Gate,
                (true, false) => Blocked::File,
                (true, true) => Blocked::Twin,
            };
            return Ok(self.blocked(by, waits));
        }
        let door = Opened::open(&self.files.door())?;
        let is_within = door.try_lock()? && door.is_in_place()?;
        // Read within the door, behind which the last token does not change.
        self.look()?;
        if !is_within {
            return Ok(self.blocked(Blocked::Door, waits));
        }
        let Some(claim) = Claim::beside_others(&self.files.file) else {
            return Ok(self.blocked(Blocked::Twin, waits));
        };
        match Seat::take(&self.files)? {
            Some(seat) => Ok(self.taken(Kind::Shared, claim, Some(seat), Some(door))),
            None => Ok(self.blocked(Blocked::Door, waits)),
        }
    }

    /// Whether no exclusive request keeps the gate; it stays locked shared until the file is tried.
    fn passes(&mut self) -> Result<bool> {
        if self.passage == Passage::Passed {
            return Ok(true);
        }
        self.open_gate()?.try_lock_shared()
    }

    fn open_gate(&mut self) -> Result<&Opened> {
        let gate = match self.gate.take() {
            Some(gate) if gate.is_in_place()? => gate,
            _ => Opened::open(&self.files.gate())?,
        };
        Ok(self.gate.insert(gate))
    }

    /// Keeps the gate for an exclusive request that those who share keep out; whether that is done, or need not be.
    pub(crate) fn keeps_gate(&mut self) -> bool {
        let is_shared = self.seen.iter().flatten().any(|seen| seen.content.is_shared());
        if is_shared && self.passage == Passage::Before {
            let is_kept = self.open_gate().and_then(Opened::try_lock);
            if !is_kept.unwrap_or(false) {
                return false;
            }
            self.passage = Passage::Within;
        }
        true
    }
}
