//! What runs have done and met, counted.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What one run, or many, did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// How many seeds were run.
    pub seeds: u64,
    /// How long they took together, in the time of their own clocks.
    pub virtual_time: Duration,
    /// The calls on the store, the grants and the accesses, by what they were.
    pub operations: BTreeMap<&'static str, u64>,
    /// What went wrong on purpose, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What became of the updates at the resources, by how they are fenced.
    pub losses: BTreeMap<&'static str, u64>,
    /// The shortest time from the last belief of one holder to the next grant of its name.
    pub smallest_gap: Option<Duration>,
    /// Follows from all that happened: two runs of one seed have the same.
    pub digest: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.virtual_time += other.virtual_time;
        for (all, more) in [
            (&mut self.operations, &other.operations),
            (&mut self.faults, &other.faults),
            (&mut self.losses, &other.losses),
        ] {
            for (kind, number) in more {
                *all.entry(kind).or_default() += number;
            }
        }
        let gaps = [self.smallest_gap, other.smallest_gap];
        self.smallest_gap = gaps.into_iter().flatten().min();
        // The same in whatever order the seeds end.
        self.digest ^= other.digest;
    }

    /// Whether these runs did enough to show anything; what was too little, if not.
    ///
    /// # Errors
    /// What was missing, in words: grants, a kind of fault, or an update that the controls lost.
    pub fn enough(&self) -> Result<(), String> {
        let days = self.virtual_time.as_secs() / (24 * 3600);
        let count = |of: &BTreeMap<&'static str, u64>, kind| of.get(kind).copied().unwrap_or(0);
        let least = (days * 100).max(1);
        for kind in OPERATIONS {
            let number = count(&self.operations, kind);
            if number < least {
                return Err(format!("only {number} times {kind:?}, which is below {least}"));
            }
        }
        let least = days.max(1);
        for kind in FAULTS {
            let number = count(&self.faults, kind);
            if number < least {
                return Err(format!("only {number} times {kind:?}, which is below {least}"));
            }
        }
        // A run in which nothing is lost without a fence does not show that the fence does good.
        for control in CONTROLS {
            if count(&self.losses, control) == 0 {
                return Err(format!("no update was lost {control:?}: the faults are too tame"));
            }
        }
        Ok(())
    }
}

/// Each must happen a hundred times a day.
const OPERATIONS: &[&str] =
    &["try_acquire", "acquire", "renew", "release", "withdraw", "granted", "fenced update"];

pub(super) const WITHOUT_FENCE: &str = "without a fence";
pub(super) const WRITES_ONLY: &str = "with a fence for writes only";
/// Each must lose updates.
const CONTROLS: &[&str] = &[WITHOUT_FENCE, WRITES_ONLY];

/// Each must happen once a day.
const FAULTS: &[&str] = &[
    "request lost",
    "reply lost",
    "message duplicated",
    "message held",
    "call refused",
    "connection reset",
    "link cut",
    "requests cut",
    "replies cut",
    "process frozen",
    "process frozen for more than a ttl",
    "process killed",
    "store stalled",
    "attempt abandoned",
    "stale write refused",
    "held until lost",
];

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.virtual_time.as_secs() / 3600;
        writeln!(f, "{:>12}  seeds", self.seeds)?;
        writeln!(f, "{:>12}  virtual time", format!("{} d {} h", hours / 24, hours % 24))?;
        for (title, counts) in [("", &self.operations), ("fault: ", &self.faults)] {
            for (kind, number) in counts {
                writeln!(f, "{number:>12}  {title}{kind}")?;
            }
        }
        for (kind, number) in &self.losses {
            writeln!(f, "{number:>12}  updates lost {kind}")?;
        }
        writeln!(f, "{:>12}  updates lost with the fence", 0)?;
        match self.smallest_gap {
            Some(gap) => write!(
                f,
                "{:>12}  smallest time from a holder's last belief to the next grant",
                format!("{gap:.1?}")
            ),
            None => Ok(()),
        }
    }
}
