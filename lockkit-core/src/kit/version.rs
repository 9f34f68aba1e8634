//! Whether a server is new enough.

/// Whether a server's version is at least this major and minor one. A part that is no number counts as 0.
///
/// ```
/// use lockkit_core::kit::is_at_least;
///
/// assert!(is_at_least("7.0.15", (6, 2)) && is_at_least("3.6.0-rc.1", (3, 4)));
/// assert!(!is_at_least("6.0.16", (6, 2)) && !is_at_least("", (3, 4)));
/// ```
pub fn is_at_least(version: &str, least: (u32, u32)) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
}
