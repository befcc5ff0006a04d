//! Random numbers that are a function of (seed, site, count).
//!
//! An event draws from a stream of its own, named by the place it happens at and by how
//! often that place was passed before. So leaving one event out of a schedule, or adding a
//! draw to one place, does not change what happens anywhere else.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use std::{ops::Range, time::Duration};

/// The random stream of one event.
#[derive(Debug, Clone)]
pub struct Dice(ChaCha8Rng);

/// A number for a site's name. Stable: it is part of what a seed means.
#[inline]
pub fn site_hash(site: &str) -> u64 {
    // FNV-1a: short names, and no dependency whose output might change.
    site.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Dice {
    /// The stream of the event number `count` at `site`.
    pub fn new(seed: u64, site: &str, count: u64) -> Dice {
        Dice::of_hash(seed, site_hash(site), count)
    }

    /// Like [`new`](Dice::new), for a site whose [`site_hash`] is at hand.
    pub fn of_hash(seed: u64, site: u64, count: u64) -> Dice {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&site.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(count);
        Dice(rng)
    }

    /// Any number.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`, or 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias of multiplying instead of rejecting is under 2^-32 for every range here.
        ((u128::from(self.u64()) * u128::from(end)) >> 64) as u64
    }

    /// A number in `range`, or its start if it is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// A number in `range`, each power of two as likely as the next: small ones are frequent,
    /// large ones occur.
    pub fn skewed(&mut self, range: Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        let bits = self.below(u64::from(width.ilog2()) + 1);
        range.start + self.below(width.min(2 << bits))
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A duration in `range`.
    pub fn duration(&mut self, range: Range<Duration>) -> Duration {
        let nanos = |d: Duration| d.as_nanos() as u64;
        Duration::from_nanos(self.range(nanos(range.start)..nanos(range.end)))
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// The numbers below `len` in random order.
    pub fn shuffled(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for last in (1..len).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, every recorded seed means something else than before.
    #[test]
    fn streams_never_change() {
        assert_eq!(site_hash("write"), 0xb93a_12b0_d06c_aefc);
        let first = |site, count| Dice::new(1, site, count).u64();
        assert_eq!(first("write", 0), Dice::new(1, "write", 0).u64());
        assert_ne!(first("write", 0), first("write", 1));
        assert_ne!(first("write", 0), first("read", 0));
    }

    #[test]
    fn draws_stay_in_range() {
        let mut dice = Dice::new(7, "test", 0);
        for _ in 0..1000 {
            assert!((3..9).contains(&dice.range(3..9)));
            assert!((3..900).contains(&dice.skewed(3..900)));
            assert!(dice.below(1) == 0 && !dice.chance(0.0) && dice.chance(1.0));
        }
        let mut order = dice.shuffled(20);
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }
}
