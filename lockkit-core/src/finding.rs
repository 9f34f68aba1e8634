//! What a backend finds amiss with its server.

use std::fmt;

/// Something about a store's server that a backend knows to matter, with what to do about it.
///
/// ```
/// use lockkit_core::{Finding, Severity};
///
/// let finding = Finding::new(
///     Severity::Danger,
///     "maxmemory-policy is allkeys-lru: Redis may evict a lock that is held",
///     "set maxmemory-policy to noeviction",
/// );
/// assert!(finding.severity > Severity::Warning);
/// assert!(finding.to_string().starts_with("danger: maxmemory-policy"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// How much a [`Finding`] matters, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Good to know.
    Note,
    /// Locks work; something that the store's page promises may not hold, or may end soon.
    Warning,
    /// Locks may be lost, or held twice, or will be refused.
    Danger,
}

impl Finding {
    /// Something found, and its remedy.
    pub fn new(severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.severity, self.what, self.remedy)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Danger => "danger",
        })
    }
}
