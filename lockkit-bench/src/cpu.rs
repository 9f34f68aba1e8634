//! The processor time of a server.

use std::fs;

/// The kernel's ticks in a second.
const TICKS: f64 = 100.0;

/// The processor time that a process and its children have used, in seconds.
///
/// # Panics
/// Where there is no `/proc`.
#[must_use]
pub fn used(pid: u32) -> f64 {
    let parent = pid.to_string();
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        // A process may end meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<_> = rest.split(' ').collect();
        let number = |n: usize| fields[n].parse::<u64>().expect("a number of ticks");
        if head.starts_with(&format!("{pid} (")) {
            // With that of its children that have ended.
            ticks += (11..15).map(number).sum::<u64>();
        } else if fields[1] == parent {
            ticks += number(11) + number(12);
        }
    }
    ticks as f64 / TICKS
}
