//! Random numbers that a seed repeats.

use std::env;

/// Vigna's SplitMix64: eight bytes of state, of which any value works.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self::stream(seed, 0)
    }

    /// Another sequence for each `stream` of the same seed, so that each thread has one.
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.next();
        random
    }

    /// The first seed and how many, as `FIRST,COUNT` in this variable; else the first `count`.
    pub fn seeds(variable: &str, count: u64) -> (u64, u64) {
        let Ok(text) = env::var(variable) else { return (1, count) };
        let numbers = text.split_once(',').expect("FIRST,COUNT");
        (numbers.0.parse().expect("a number"), numbers.1.parse().expect("a number"))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`. The low ones are likelier by a negligible amount.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// True half of the time.
    pub fn coin(&mut self) -> bool {
        self.one_in(2)
    }

    /// What `make` makes, once in `count` times.
    pub fn maybe<T>(&mut self, count: u64, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(count).then(|| make(self))
    }

    /// One of `choices`.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
