//! A Bloom filter in blocks of one cache line, so that asking it costs one memory access. Format:
//! `docs/formats/sstable.md`.
//!
//! It never denies a key that was added. Of other keys it admits about one in a hundred, at ten
//! bits per key.

use crate::{format::block::Refused, sync::prefetch};

const LINE_BYTES: usize = 64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u32; LINE_BYTES / 4]);

pub(super) struct Filter {
    /// Empty: everything may be there.
    lines: Vec<Line>,
    /// Bits that each key sets in its line.
    probes: u8,
}

impl Filter {
    /// 0 bits per key make a filter that admits everything.
    pub(super) fn build(hashes: &[u64], bits_per_key: u32) -> Filter {
        let bits = hashes.len() * bits_per_key as usize;
        let mut filter = Filter {
            lines: vec![Line([0; LINE_BYTES / 4]); bits.div_ceil(LINE_BYTES * 8)],
            // ln 2 of the bits per key, less a little, because lines fill unevenly.
            probes: (bits_per_key * 6 / 10).clamp(1, 12) as u8,
        };
        if bits > 0 {
            for hash in hashes {
                let line = line_of(*hash, filter.lines.len());
                for bit in bits_of(*hash, filter.probes) {
                    filter.lines[line].0[bit / 32] |= 1 << (bit % 32);
                }
            }
        }
        filter
    }

    /// Whether the key with this hash may have been added.
    #[inline]
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        match self.lines.get(line_of(hash, self.lines.len())) {
            None => true,
            Some(line) => {
                bits_of(hash, self.probes).all(|bit| line.0[bit / 32] >> (bit % 32) & 1 == 1)
            }
        }
    }

    /// Brings the line of a hash near, ahead of its use.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(line) = self.lines.get(line_of(hash, self.lines.len())) {
            let line: *const Line = line;
            prefetch(line.cast());
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let words = self.lines.iter().flat_map(|line| line.0);
        let mut out = Vec::with_capacity(self.memory_bytes() + 1);
        out.extend(words.flat_map(u32::to_le_bytes));
        out.push(self.probes);
        out
    }

    pub(super) fn decode(contents: &[u8]) -> Result<Filter, Refused> {
        let Some((&probes, bits)) = contents.split_last() else {
            return Err(Refused::Corrupt("a filter", "nothing".into()));
        };
        let (lines, rest) = bits.as_chunks::<LINE_BYTES>();
        if !rest.is_empty() || !(1..=12).contains(&probes) {
            let found = format!("{} bytes, {probes} probes", bits.len());
            return Err(Refused::Corrupt("whole lines of a filter", found));
        }
        let line = |bytes: &[u8; LINE_BYTES]| {
            let mut line = Line([0; LINE_BYTES / 4]);
            for (word, bytes) in line.0.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*bytes);
            }
            line
        };
        Ok(Filter { lines: lines.iter().map(line).collect(), probes })
    }
}

/// The high half of the hash chooses the line.
#[inline]
fn line_of(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize
}

/// The low half chooses the bits within it.
#[inline]
fn bits_of(hash: u64, probes: u8) -> impl Iterator<Item = usize> {
    let mut state = hash as u32;
    (0..probes).map(move |_| {
        let bit = state >> 23;
        state = state.wrapping_mul(0x9e37_79b9);
        bit as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KeyspaceId;

    fn hash(n: u64) -> u64 {
        KeyspaceId(3).hash(format!("user{n:012}").as_bytes())
    }

    #[test]
    fn admits_what_was_added_and_about_one_in_a_hundred_others() {
        for added in [1u64, 100, 50_000] {
            let hashes: Vec<u64> = (0..added).map(hash).collect();
            let built = Filter::build(&hashes, 10);
            let filter = Filter::decode(&built.encode()).unwrap();
            assert!(hashes.iter().all(|h| filter.may_contain(*h)));
            let others = 100_000..200_000;
            let wrong = others.filter(|n| filter.may_contain(hash(*n))).count();
            assert!(wrong < 2_000, "{wrong} of 100,000 with {added} keys");
        }
    }

    #[test]
    fn without_bits_everything_is_admitted() {
        let filter = Filter::decode(&Filter::build(&[1, 2, 3], 0).encode()).unwrap();
        assert!((0..100).all(|n| filter.may_contain(hash(n))));
    }

    #[test]
    fn impossible_filters_are_refused() {
        for bad in [&[][..], &[0], &[13], &[0; 64], &[6; 66]] {
            assert!(Filter::decode(bad).is_err(), "{} bytes", bad.len());
        }
    }
}
