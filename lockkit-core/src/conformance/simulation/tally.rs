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
        let least = |a_day: u64| if days < EVEN { 1 } else { days * a_day };
        for (counts, kinds) in [(&self.operations, OPERATIONS), (&self.faults, FAULTS)] {
            for (kind, a_day) in kinds {
                let (number, least) = (counts.get(kind).copied().unwrap_or(0), least(*a_day));
                if number < least {
                    return Err(format!("only {number} times {kind:?}, which is below {least}"));
                }
            }
        }
        // A run in which nothing is lost without a fence does not show that the fence does good.
        for (control, a_day) in CONTROLS {
            let lost = self.losses.get(control).copied().unwrap_or(0);
            if lost < least(*a_day) {
                return Err(format!(
                    "only {lost} updates were lost {control}: the faults are too tame"
                ));
            }
        }
        Ok(())
    }
}

/// In so many days the weather evens out; fewer must have done and met everything once.
const EVEN: u64 = 10;

/// Each must happen this often a day: a third of what is usual over 200 days.
const OPERATIONS: &[(&str, u64)] = &[
    ("try_acquire", 700),
    ("acquire", 3_500),
    ("renew", 4_800),
    ("release", 3_100),
    ("withdraw", 1_700),
    ("granted", 2_300),
    ("fenced update", 4_000),
];

/// The same.
const FAULTS: &[(&str, u64)] = &[
    ("request lost", 200),
    ("reply lost", 190),
    ("message duplicated", 210),
    ("message held", 95),
    ("call refused", 95),
    ("connection reset", 70),
    ("link cut", 70),
    ("requests cut", 70),
    ("replies cut", 70),
    ("process frozen", 135),
    ("process frozen for more than a ttl", 135),
    ("process killed", 70),
    ("store stalled", 70),
    ("attempt abandoned", 330),
    ("stale write refused", 4),
    ("held until lost", 180),
];

pub(super) const FENCED: &str = "with the fence";
pub(super) const WITHOUT_FENCE: &str = "without a fence";
pub(super) const WRITES_ONLY: &str = "with a fence for writes only";
/// Each must lose this many updates a day.
const CONTROLS: &[(&str, u64)] = &[(WITHOUT_FENCE, 14), (WRITES_ONLY, 3)];

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
        for kind in CONTROLS.iter().map(|(kind, _)| *kind).chain([FENCED]) {
            let number = self.losses.get(kind).copied().unwrap_or(0);
            writeln!(f, "{number:>12}  updates lost {kind}")?;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_days_must_do_much_of_everything() {
        let whole = |share: u64| {
            let of = |kinds: &'static [(&'static str, u64)]| {
                kinds.iter().map(|(kind, a_day)| (*kind, 20 * a_day / share)).collect()
            };
            Tally {
                virtual_time: Duration::from_secs(20 * 24 * 3600),
                operations: of(OPERATIONS),
                faults: of(FAULTS),
                losses: of(CONTROLS),
                ..Tally::default()
            }
        };
        assert_eq!(whole(1).enough(), Ok(()));
        for (kind, _) in OPERATIONS.iter().chain(FAULTS).chain(CONTROLS) {
            let mut tally = whole(1);
            for counts in [&mut tally.operations, &mut tally.faults, &mut tally.losses] {
                counts.entry(kind).and_modify(|number| *number -= 1);
            }
            let little = tally.enough().expect_err("one less");
            assert!(little.contains(kind), "{little}");
        }
        let short = Tally { virtual_time: Duration::from_secs(24 * 3600), ..whole(50) };
        assert_eq!(short.enough(), Ok(()));
    }
}
