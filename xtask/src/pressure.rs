//! For how long threads of this machine waited for a core.
//!
//! The suite reads the same file for itself: xtask depends on no crate of the workspace, so that it is built
//! before they are.

use std::fs;
use std::time::Duration;

/// How long they had waited at one moment; nothing where the system does not tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pressure(Option<Duration>);

impl Pressure {
    pub(crate) fn now() -> Self {
        Self(fs::read_to_string("/proc/pressure/cpu").ok().as_deref().and_then(total))
    }

    /// Whether they have waited since for at least half of `time`, which has passed.
    pub(crate) fn is_half_of(self, time: Duration) -> bool {
        let (Some(before), Some(now)) = (self.0, Self::now().0) else { return false };
        2 * now.saturating_sub(before) >= time
    }
}

/// The total of a line such as `some avg10=0.00 avg60=0.89 avg300=13.77 total=8258516853`.
fn total(text: &str) -> Option<Duration> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split(' ').find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_in_microseconds() {
        let told = "some avg10=0.00 avg60=0.89 avg300=13.77 total=8258516853\nfull total=0\n";
        assert_eq!(total(told), Some(Duration::from_micros(8_258_516_853)));
        assert_eq!(total("full total=0\n"), None);
        assert!(!Pressure(None).is_half_of(Duration::ZERO));
    }
}
