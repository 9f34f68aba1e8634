//! Benches only: floors, the driver, the stores and their peers.

/// Whether the command line asks for the part of a bench with this name: it gives no word, or one that the
/// name contains.
#[must_use]
pub fn is_wanted(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

/// The value in the middle.
///
/// # Panics
/// Without values.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

/// Prints the median of the ratios of some rounds with the least and the most, beside what it should be.
///
/// # Panics
/// Without ratios.
pub fn print_ratios(what: &str, ratios: &[f64], goal: &str) {
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let middle = median(ratios);
    let goal = if goal.is_empty() { String::new() } else { format!("goal {goal}") };
    println!("  {what:<58} {middle:>6.2} ({least:.2} to {most:.2}){goal:>14}");
}
