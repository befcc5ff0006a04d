//! Where entries of trees were seen last, by the hash of keyspace and key, so that a read need not descend.
//!
//! Nothing here is believed. A hint may be another key's with the same tag, or of a page that has since been
//! let go or written anew, and two threads that write to one bucket may lose a hint or keep it twice. Whoever
//! takes a hint looks whether the page is one of the tree's and whether the key stands there
//! (`btree::Hinted`). Each hint is one atomic word, so that it is never half of one and half of another.

use crate::{
    env::Memory,
    error::Result,
    sync::{AtomicU64, Ordering::Relaxed, prefetch},
};

/// A bucket is one line of the CPU's cache.
const BUCKET: usize = 8;
pub(crate) const BUCKET_BYTES: usize = BUCKET * size_of::<u64>();

/// A word: line, index, page, tag, from the lowest bits on. Empty: 0, for no node begins at page 0.
const LINE_BITS: u32 = 6;
const INDEX_BITS: u32 = 12;
const PAGE_BITS: u32 = 28;
const TAG_SHIFT: u32 = LINE_BITS + INDEX_BITS + PAGE_BITS;

/// The place of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    /// The first page of its leaf.
    pub(crate) page: u64,
    /// Its number in the leaf.
    pub(crate) index: usize,
    /// In which 64th of that page its cell begins: what to bring near ahead of reading it.
    pub(crate) line: usize,
}

impl Spot {
    /// Of an entry whose cell begins at byte `at` of its leaf.
    pub(crate) fn new(page: u64, index: usize, at: usize, page_bytes: usize) -> Spot {
        let line = at.checked_div(page_bytes >> LINE_BITS).unwrap_or(0);
        Spot { page, index, line: line.min((1 << LINE_BITS) - 1) }
    }

    /// `None`: there is no room for such numbers.
    fn pack(self, hash: u64) -> Option<u64> {
        let fits = self.page >> PAGE_BITS == 0 && self.index >> INDEX_BITS == 0 && self.page > 0;
        let line = self.line as u64 & ((1 << LINE_BITS) - 1);
        let word = (self.page << INDEX_BITS | self.index as u64) << LINE_BITS | line;
        fits.then_some((hash >> TAG_SHIFT) << TAG_SHIFT | word)
    }

    fn unpack(word: u64) -> Spot {
        let bits = |at: u32, count: u32| word >> at & ((1 << count) - 1);
        Spot {
            page: bits(LINE_BITS + INDEX_BITS, PAGE_BITS),
            index: bits(LINE_BITS, INDEX_BITS) as usize,
            line: bits(0, LINE_BITS) as usize,
        }
    }
}

/// A table of hints. All methods may be called from many threads.
pub(crate) struct Hints {
    memory: Memory,
    /// A power of two.
    buckets: usize,
}

impl Hints {
    /// A table of `bytes` bytes, a power of two and at least [`BUCKET_BYTES`].
    pub(crate) fn new(bytes: usize) -> Result<Hints> {
        let buckets = (bytes / BUCKET_BYTES).max(1);
        debug_assert!(buckets.is_power_of_two());
        Ok(Hints { memory: Memory::zeroed(buckets * BUCKET_BYTES, "a table of hints")?, buckets })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buckets * BUCKET_BYTES
    }

    /// A larger table that has the hints of this one. Which of the buckets that take the place of one a
    /// hint belongs to it does not tell, so it goes to all.
    pub(crate) fn grown(&self, bytes: usize) -> Result<Hints> {
        let larger = Hints::new(bytes)?;
        for bucket in 0..larger.buckets {
            let old = self.bucket(bucket & (self.buckets - 1));
            for (from, to) in old.iter().zip(larger.bucket(bucket)) {
                to.store(from.load(Relaxed), Relaxed);
            }
        }
        Ok(larger)
    }

    #[inline]
    #[expect(unsafe_code, reason = "large memory comes without a type")]
    fn bucket(&self, number: usize) -> &[AtomicU64; BUCKET] {
        assert!(number < self.buckets);
        // SAFETY: within the memory, aligned since the memory is, zeroed at the beginning, and only ever
        // accessed as these atomics.
        unsafe { &*self.memory.as_ptr().cast::<[AtomicU64; BUCKET]>().add(number) }
    }

    #[inline]
    fn bucket_of(&self, hash: u64) -> &[AtomicU64; BUCKET] {
        self.bucket(hash as usize & (self.buckets - 1))
    }

    /// Brings the bucket of a hash near, ahead of its use.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        let bucket: *const [AtomicU64; BUCKET] = self.bucket_of(hash);
        prefetch(bucket.cast());
    }

    /// Where the entry with this hash may be.
    #[inline]
    pub(crate) fn find(&self, hash: u64) -> Option<Spot> {
        let words = self.bucket_of(hash).each_ref().map(|word| word.load(Relaxed));
        // All are compared before any is chosen: where in its bucket a hint is, no CPU foretells.
        let mut same = 0_u32;
        for (i, word) in words.iter().enumerate() {
            same |= u32::from((word ^ hash) >> TAG_SHIFT == 0) << i;
        }
        // A tag of 0 is that of an empty word too.
        let word = words.get(same.trailing_zeros() as usize).filter(|word| **word != 0)?;
        Some(Spot::unpack(*word))
    }

    /// Remembers where the entry with this hash is, in the place of what was known of it, or of the
    /// oldest hint of its bucket.
    pub(crate) fn put(&self, hash: u64, spot: Spot) {
        let Some(mut word) = spot.pack(hash) else {
            return;
        };
        for place in self.bucket_of(hash) {
            let was = place.load(Relaxed);
            place.store(word, Relaxed);
            if was == 0 || (was ^ hash) >> TAG_SHIFT == 0 {
                return;
            }
            word = was;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(n: u64) -> Spot {
        Spot { page: n + 1, index: n as usize % 4096, line: n as usize % 64 }
    }

    /// A hash for one bucket, whatever the size of the table, with tag `tag`.
    fn hash(tag: u64) -> u64 {
        tag << TAG_SHIFT
    }

    #[test]
    fn what_was_put_is_found_until_others_take_its_place() {
        let hints = Hints::new(BUCKET_BYTES * 4).unwrap();
        assert_eq!(hints.find(hash(0)), None, "an empty word is no hint");
        for n in 0..8 {
            hints.put(hash(n), spot(n));
        }
        (0..8).for_each(|n| assert_eq!(hints.find(hash(n)), Some(spot(n))));
        hints.put(hash(3), spot(30));
        assert_eq!(hints.find(hash(3)), Some(spot(30)));
        (0..8).filter(|n| *n != 3).for_each(|n| assert_eq!(hints.find(hash(n)), Some(spot(n))));
        hints.put(hash(8), spot(8));
        assert_eq!(hints.find(hash(0)), None, "the oldest went");
        (1..9).filter(|n| *n != 3).for_each(|n| assert_eq!(hints.find(hash(n)), Some(spot(n))));
        assert_eq!(hints.find(hash(9)), None);
        assert_eq!(hints.find(hash(1) + 1), None, "another bucket");
    }

    #[test]
    fn numbers_that_do_not_fit_are_no_hints() {
        let hints = Hints::new(BUCKET_BYTES).unwrap();
        let last = Spot { page: (1 << PAGE_BITS) - 1, index: (1 << INDEX_BITS) - 1, line: 63 };
        hints.put(hash(1), last);
        assert_eq!(hints.find(hash(1)), Some(last));
        hints.put(hash(2), Spot { page: 1 << PAGE_BITS, ..last });
        hints.put(hash(3), Spot { index: 1 << INDEX_BITS, ..last });
        hints.put(hash(4), Spot { page: 0, ..last });
        (2..5).for_each(|n| assert_eq!(hints.find(hash(n)), None));
        assert_eq!(hints.find(hash(1)), Some(last));
    }

    #[test]
    fn a_larger_table_has_the_hints_of_the_smaller() {
        let hints = Hints::new(BUCKET_BYTES * 2).unwrap();
        let hashes: Vec<u64> = (0..12).map(|n| hash(n + 1) + n).collect();
        hashes.iter().zip(0..).for_each(|(hash, n)| hints.put(*hash, spot(n)));
        let larger = hints.grown(BUCKET_BYTES * 8).unwrap();
        assert_eq!(larger.bytes(), BUCKET_BYTES * 8);
        hashes.iter().zip(0..).for_each(|(hash, n)| assert_eq!(larger.find(*hash), Some(spot(n))));
    }

    #[test]
    fn a_spot_knows_the_line_of_its_cell() {
        assert_eq!(Spot::new(7, 3, 130, 4096), Spot { page: 7, index: 3, line: 2 });
        assert_eq!(Spot::new(7, 3, 130 << 4, 4096 << 4), Spot { page: 7, index: 3, line: 2 });
        assert_eq!(Spot::new(7, 3, 9000, 4096).line, 63, "in another page of the node");
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::sync::model::explore;
    use shuttle::thread;
    use std::sync::Arc;

    /// Whoever writes to a bucket meanwhile, what is found for a hash is a spot that was put for it,
    /// never one made of two.
    #[test]
    fn shuttle_hints_are_whole_and_of_the_tag_they_were_put_for() {
        explore(|| {
            let hints = Arc::new(Hints::new(BUCKET_BYTES).unwrap());
            let spot = |tag: u64, n: u64| Spot { page: tag * 100 + n, index: n as usize, line: 0 };
            let is_of = |tag: u64, found: Option<Spot>| {
                found.is_none_or(|f| f.page / 100 == tag && f.index as u64 == f.page % 100)
            };
            let threads: Vec<_> = (0..2)
                .map(|thread| {
                    let hints = hints.clone();
                    thread::spawn(move || {
                        for n in 0..6 {
                            let tag = (thread + n) % 10 + 1;
                            hints.put(tag << TAG_SHIFT, spot(tag, n * 2 + thread));
                            assert!(is_of(tag, hints.find(tag << TAG_SHIFT)));
                        }
                    })
                })
                .collect();
            for tag in 1..11 {
                assert!(is_of(tag, hints.find(tag << TAG_SHIFT)));
            }
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
    }
}
