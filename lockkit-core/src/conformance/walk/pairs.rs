//! Combinations in which every two values of different dimensions meet at least once.

use crate::conformance::simulation::Random;

/// How many random combinations each one that is taken is the best of.
const TRIED: usize = 40;

/// Combinations of values, one of each dimension, so that each two values meet; `sizes` says how many
/// values each dimension has. The first combinations have the most pairs.
pub(super) fn combinations<const N: usize>(seed: u64, sizes: [usize; N]) -> Vec<[usize; N]> {
    let mut random = Random::new(seed);
    let mut open = all_pairs(&sizes);
    let mut taken = Vec::new();
    while let Some(first) = open.first().copied() {
        let tried = (0..TRIED).map(|_| {
            let mut row = sizes.map(|size| random.place(size));
            // One open pair is in each that is tried: there is always progress.
            for (dimension, value) in first {
                row[dimension] = value;
            }
            row
        });
        let covered = |row: &[usize; N]| open.iter().filter(|pair| is_in(pair, row)).count();
        let Some(best) = tried.max_by_key(covered) else { break };
        open.retain(|pair| !is_in(pair, &best));
        taken.push(best);
    }
    taken
}

/// Two dimensions, each with one of its values.
type Pair = [(usize, usize); 2];

fn all_pairs(sizes: &[usize]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for second in 0..sizes.len() {
        for first in 0..second {
            for value in 0..sizes[first] * sizes[second] {
                pairs.push([(first, value % sizes[first]), (second, value / sizes[first])]);
            }
        }
    }
    pairs
}

fn is_in(pair: &Pair, row: &[usize]) -> bool {
    pair.iter().all(|(dimension, value)| row[*dimension] == *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_two_values_meet_in_few_combinations() {
        for seed in 0..20 {
            let sizes = [2, 2, 3, 4, 4, 4, 5];
            let rows = combinations(seed, sizes);
            assert!(all_pairs(&sizes).iter().all(|pair| rows.iter().any(|row| is_in(pair, row))));
            // Fewer than 20 cannot do; all would be 3,840.
            assert!((20..40).contains(&rows.len()), "{} combinations", rows.len());
            assert_eq!(rows, combinations(seed, sizes), "a seed gives the same again");
        }
    }
}
