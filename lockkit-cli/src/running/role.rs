//! What this program does for itself, by its first argument.

/// A supervisor; the command follows.
pub(super) const SUPERVISE: &str = "internal-supervise";
/// About to become the command; the supervisor's process id and the command follow.
pub(super) const BECOME: &str = "internal-become";
