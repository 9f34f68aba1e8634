//! The signals that a process listens to, as one channel.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};

/// As many may wait as a process gets in a moment.
const ROOM: usize = 16;

/// Listens to these signals, but for those that were ignored when this process began: `nohup` means it.
///
/// Called within a runtime.
pub(super) fn listen(numbers: &[i32]) -> io::Result<Receiver<i32>> {
    let (sender, receiver) = channel(ROOM);
    let ignored = ignored();
    // Without a handler for its end, a child of a process that ignores such ends leaves no word.
    let is_wanted = |number: &i32| *number == Signal::CHILD.as_raw() || !is_in(ignored, *number);
    for &number in numbers.iter().filter(|number| is_wanted(number)) {
        let mut arrivals = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() && sender.send(number).await.is_ok() {}
        });
    }
    Ok(receiver)
}

/// The ignored signals, as the kernel tells them: a bit for each. Where it tells nothing, none.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn is_in(mask: u64, number: i32) -> bool {
    u32::try_from(number - 1)
        .is_ok_and(|bit| mask.checked_shr(bit).is_some_and(|rest| rest & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_a_bit_for_each_signal() {
        assert!(is_in(0b1, 1) && is_in(1 << 14, 15) && is_in(1 << 63, 64));
        assert!(!is_in(0b1, 2) && !is_in(u64::MAX, 65) && !is_in(u64::MAX, 0));
    }
}
