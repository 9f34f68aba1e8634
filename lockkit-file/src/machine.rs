//! The machine: its name for this run of it, and its clock.

use std::sync::OnceLock;
use std::time::Duration;

use lockkit_core::Clock;

/// What names this run of the machine; `None` where the system does not tell.
pub(crate) fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let id = id.trim();
        (!id.is_empty()).then(|| id.to_owned())
    };
    BOOT.get_or_init(read).as_deref()
}

/// The time since boot: one clock for all processes of the machine.
pub(crate) fn boot_time() -> Duration {
    Clock::system().now().since_origin()
}
