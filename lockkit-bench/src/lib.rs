//! Benches only: floors, the driver, the stores and their peers.

/// Whether the command line asks for the part of a bench with this name: it gives no word, or one that the
/// name contains.
#[must_use]
pub fn is_wanted(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}
