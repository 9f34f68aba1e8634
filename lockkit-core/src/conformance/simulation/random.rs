//! The one source of chance in a simulation.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Random numbers that follow from a seed, the same on every platform.
#[derive(Clone, Debug)]
pub(crate) struct Random(Xoshiro256PlusPlus);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// A seed for another source.
    pub(crate) fn seed(&mut self) -> u64 {
        self.0.random()
    }

    /// 128 bits.
    pub(crate) fn id(&mut self) -> u128 {
        self.0.random()
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.0.random_range(0..end)
    }

    /// Whether something happens that does so this often in a thousand times.
    pub(crate) fn often(&mut self, in_a_thousand: u32) -> bool {
        self.0.random_ratio(in_a_thousand, 1000)
    }

    /// A duration from nothing to `longest`.
    pub(crate) fn up_to(&mut self, longest: Duration) -> Duration {
        self.0.random_range(Duration::ZERO..=longest)
    }

    /// A place in a list of `length`, which is not zero.
    pub(crate) fn place(&mut self, length: usize) -> usize {
        // For a `usize` that fits into a `u32`, rand draws the same on every platform.
        self.0.random_range(0..length)
    }

    /// One of these, of which there is at least one.
    pub(crate) fn one_of<T: Clone>(&mut self, these: &[T]) -> T {
        these[self.place(these.len())].clone()
    }
}
