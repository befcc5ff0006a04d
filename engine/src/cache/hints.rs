//! Where entries of trees were seen last, by the hash of keyspace and key, so that a read need not descend.
//!
//! Nothing here is believed. A hint may be another key's with the same tag, or of a page that has since been
//! let go or written anew, and two threads that write to one bucket may lose a hint or keep it twice. Whoever
//! takes a hint looks whether the page is one of the tree's and whether the key stands there
//! (`btree::Hinted`). Each hint is one atomic word, so that it is never half of one and half of another.
//!
//! What is not here is another matter: that is believed, of a key that was put ([`Hints::keeps_all`]). Therefore:
//! - a place that has a word always has one, and as long as the bucket has lost nothing, one with the same tag
//! - a bucket says that it has lost something before a word with another tag takes the place of one
//! - a larger table has, for all that was put into the one before it when it was made, a word or that mark

use crate::{
    env::Memory,
    error::Result,
    sync::{
        AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
        prefetch,
    },
};

/// A bucket is one line of the CPU's cache.
const BUCKET: usize = 8;
pub(crate) const BUCKET_BYTES: usize = BUCKET * size_of::<u64>();
const WORD_BITS: usize = u64::BITS as usize;

/// A word: line, index, page, tag, from the lowest bits on. Empty: 0, for no node begins at page 0.
const LINE_BITS: u32 = 6;
const INDEX_BITS: u32 = 12;
const PAGE_BITS: u32 = 28;
const TAG_SHIFT: u32 = LINE_BITS + INDEX_BITS + PAGE_BITS;

/// A word that only says that there is an entry with its tag.
const SOMEWHERE: Spot = Spot { page: 0, index: 1, line: 0 };
/// A table in which one bucket of so many has lost a hint is too small.
const LOST_OF: usize = 16;
/// How often a table may be doubled: each time one bit more of a tag says in which bucket it is, and nothing else.
const DOUBLINGS_MAX: u32 = 8;

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

    /// A word, in which numbers for which there is no room are not told.
    fn pack(self, hash: u64) -> u64 {
        let fits = self.page >> PAGE_BITS == 0 && self.index >> INDEX_BITS == 0 && self.page > 0;
        let spot = if fits { self } else { SOMEWHERE };
        let line = spot.line as u64 & ((1 << LINE_BITS) - 1);
        let word = (spot.page << INDEX_BITS | spot.index as u64) << LINE_BITS | line;
        (hash >> TAG_SHIFT) << TAG_SHIFT | word
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
    /// A bit for each bucket: it has lost a hint.
    lossy: Box<[AtomicU64]>,
    /// How many buckets have lost their first one since this table was made.
    lost: AtomicUsize,
    /// How many the first table had of which this one is grown, as a power of two. The bits of a hash that choose
    /// among so many stand right below the tag; in a larger table the lowest of the tag choose too.
    first_buckets_log: u32,
}

impl Hints {
    /// A table of `bytes` bytes, a power of two and at least [`BUCKET_BYTES`].
    pub(crate) fn new(bytes: usize) -> Result<Hints> {
        let buckets = (bytes / BUCKET_BYTES).max(1);
        Hints::with(buckets, buckets.ilog2().min(TAG_SHIFT))
    }

    fn with(buckets: usize, first_buckets_log: u32) -> Result<Hints> {
        debug_assert!(buckets.is_power_of_two());
        let memory = Memory::zeroed(buckets * BUCKET_BYTES, "a table of hints")?;
        let lossy = (0..buckets.div_ceil(WORD_BITS)).map(|_| AtomicU64::new(0)).collect();
        Ok(Hints { memory, buckets, lossy, lost: AtomicUsize::new(0), first_buckets_log })
    }

    /// Whether a larger table would lose much less.
    pub(crate) fn is_too_small(&self) -> bool {
        self.lost.load(Relaxed) > self.buckets / LOST_OF
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buckets * BUCKET_BYTES
    }

    /// A larger table that has the hints of this one.
    pub(crate) fn grown(&self, bytes: usize) -> Result<Hints> {
        let larger = Hints::with((bytes / BUCKET_BYTES).max(self.buckets), self.first_buckets_log)?;
        let known = self.buckets.ilog2() - self.first_buckets_log.min(self.buckets.ilog2());
        let doublings = larger.buckets.ilog2() - self.buckets.ilog2();
        if known + doublings > DOUBLINGS_MAX {
            let anew = Hints::new(larger.bytes())?;
            anew.lossy.iter().for_each(|word| word.store(u64::MAX, Relaxed));
            return Ok(anew);
        }
        for bucket in 0..self.buckets {
            let into = |n: usize| n << self.buckets.ilog2() | bucket;
            for word in self.bucket(bucket).each_ref().map(|word| word.load(Acquire)) {
                if word != 0 {
                    let chosen = word >> (TAG_SHIFT + known) & ((1 << doublings) - 1);
                    larger.put_word(into(chosen as usize), word);
                }
            }
            // Behind the words: what is missing among them was taken out behind this mark.
            if self.is_lossy(bucket) {
                (0..1 << doublings).for_each(|n| larger.set_lossy(into(n)));
            }
        }
        larger.lost.store(0, Relaxed); // what the smaller one has lost, no larger one brings back
        Ok(larger)
    }

    #[inline]
    fn is_lossy(&self, bucket: usize) -> bool {
        let word = self.lossy.get(bucket / WORD_BITS);
        word.is_none_or(|word| word.load(Relaxed) >> (bucket % WORD_BITS) & 1 == 1)
    }

    fn set_lossy(&self, bucket: usize) {
        if let Some(word) = self.lossy.get(bucket / WORD_BITS) {
            let bit = 1 << (bucket % WORD_BITS);
            if word.fetch_or(bit, Relaxed) & bit == 0 {
                self.lost.fetch_add(1, Relaxed);
            }
        }
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
    fn number_of(&self, hash: u64) -> usize {
        (hash >> (TAG_SHIFT - self.first_buckets_log)) as usize & (self.buckets - 1)
    }

    #[inline]
    fn bucket_of(&self, hash: u64) -> &[AtomicU64; BUCKET] {
        self.bucket(self.number_of(hash))
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
        // Acquire: see `keeps_all`.
        let words = self.bucket_of(hash).each_ref().map(|word| word.load(Acquire));
        // All are compared before any is chosen: where in its bucket a hint is, no CPU foretells.
        let mut same = 0_u32;
        for (i, word) in words.iter().enumerate() {
            same |= u32::from((word ^ hash) >> TAG_SHIFT == 0) << i;
        }
        // A tag of 0 is that of an empty word too.
        let word = words.get(same.trailing_zeros() as usize).filter(|word| **word != 0)?;
        Some(Spot::unpack(*word))
    }

    /// Whether [`Hints::find`], which was called before, had found something if the hash had ever been put, as far as
    /// the caller knows of it.
    #[inline]
    pub(crate) fn keeps_all(&self, hash: u64) -> bool {
        // Whoever has seen a word in a place that another one was taken from sees the mark.
        !self.is_lossy(self.number_of(hash))
    }

    /// Remembers where the entry with this hash is, in the place of what was known of it, or of the
    /// oldest hint of its bucket.
    #[inline]
    pub(crate) fn put(&self, hash: u64, spot: Spot) {
        self.put_word(self.number_of(hash), spot.pack(hash));
    }

    /// The same where there is room, or something was known of the entry: no other hint goes for it.
    #[inline]
    pub(crate) fn put_if_room(&self, hash: u64, spot: Spot) {
        self.try_put(self.number_of(hash), spot.pack(hash));
    }

    fn try_put(&self, number: usize, word: u64) -> bool {
        for place in self.bucket(number) {
            let mut was = place.load(Relaxed);
            // A place that is free, or has what was known of the entry, unless another thread is faster.
            while was == 0 || (was ^ word) >> TAG_SHIFT == 0 {
                match place.compare_exchange(was, word, Relaxed, Relaxed) {
                    Ok(_) => return true,
                    Err(now) => was = now,
                }
            }
        }
        false
    }

    fn put_word(&self, number: usize, mut word: u64) {
        if self.try_put(number, word) {
            return;
        }
        self.set_lossy(number);
        for place in self.bucket(number).iter().rev() {
            let was = place.load(Relaxed);
            // Release: behind the mark.
            place.store(word, Release);
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

    /// What to add for another bucket of a table that has more than one.
    const ANOTHER: u64 = 1 << (TAG_SHIFT - 1);

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
        assert_eq!(hints.find(hash(1) + ANOTHER), None, "another bucket");
        assert!(!hints.keeps_all(hash(9)) && hints.keeps_all(hash(9) + ANOTHER));
    }

    /// For a load that takes the hints of all that others read.
    #[test]
    fn what_is_put_only_if_there_is_room_takes_no_place() {
        let hints = Hints::new(BUCKET_BYTES).unwrap();
        (0..7).for_each(|n| hints.put(hash(n), spot(n)));
        (7..12).for_each(|n| hints.put_if_room(hash(n), spot(n)));
        (0..8).for_each(|n| assert_eq!(hints.find(hash(n)), Some(spot(n))));
        (8..12).for_each(|n| assert_eq!(hints.find(hash(n)), None));
        assert!(hints.keeps_all(hash(8)), "of what is read nothing was lost");
        hints.put_if_room(hash(3), spot(30));
        assert_eq!(hints.find(hash(3)), Some(spot(30)));
    }

    /// For short entries, of which a table that suits the bytes of their file holds a part.
    #[test]
    fn a_table_that_loses_much_is_too_small() {
        let random = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut hints = Hints::new(BUCKET_BYTES * 64).unwrap();
        (0..200).for_each(|n| hints.put(random(n), spot(n)));
        assert!(!hints.is_too_small());
        (200..600).for_each(|n| hints.put(random(n), spot(n)));
        assert!(hints.is_too_small());
        hints = hints.grown(BUCKET_BYTES * 256).unwrap();
        assert!(!hints.is_too_small(), "what is lost is lost");
        (600..1000).for_each(|n| hints.put(random(n), spot(n)));
        assert!(!hints.is_too_small());
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
        hints.put(hash(0), Spot { page: 0, ..last });
        // No hint, but there is an entry.
        let unknown = [2, 3, 4, 0].map(|n| hints.find(hash(n)));
        assert_eq!(unknown, [Some(SOMEWHERE); 4]);
        assert_eq!(hints.find(hash(1)), Some(last));
        assert!(hints.find(hash(5)).is_none() && hints.keeps_all(hash(5)));
    }

    /// For an entry that counts as missing since a table grew.
    #[test]
    fn a_larger_table_has_the_hints_of_the_smaller() {
        let random = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut hints = Hints::new(BUCKET_BYTES * 2).unwrap();
        let (mut put, mut kept) = (0..0, 0);
        for bytes in [2, 8, 16, 512, 1024, 2048].map(|buckets| BUCKET_BYTES * buckets) {
            hints = hints.grown(bytes).unwrap();
            assert_eq!(hints.bytes(), bytes);
            put.end += bytes as u64 / 50;
            (put.end - bytes as u64 / 50..put.end).for_each(|n| hints.put(random(n), spot(n)));
            let missing = put.clone().filter(|n| hints.find(random(*n)).is_none());
            missing.for_each(|n| assert!(!hints.keeps_all(random(n))));
            let others = (put.end..2 * put.end).map(random);
            kept = others.filter(|hash| hints.keeps_all(*hash)).count() as u64;
        }
        assert_eq!(kept, 0, "behind the last doublings nothing is known any more");
        let mut hints = Hints::new(BUCKET_BYTES * 64).unwrap();
        (0..100).for_each(|n| hints.put(random(n), spot(n)));
        hints = hints.grown(BUCKET_BYTES * 128).unwrap();
        (0..100).for_each(|n| assert_eq!(hints.find(random(n)), Some(spot(n))));
        assert!((100..1000).all(|n| hints.keeps_all(random(n))));
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
    use crate::sync::{Mutex, model::explore};
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

    /// What was put is found, or its bucket says that it may have lost it, in a table that is grown meanwhile too.
    #[test]
    fn shuttle_what_was_put_does_not_count_as_missing() {
        explore(|| {
            let hints = Arc::new(Hints::new(BUCKET_BYTES).unwrap());
            let hash = |tag: u64| tag << TAG_SHIFT;
            let spot = Spot { page: 1, index: 0, line: 0 };
            (1..7).for_each(|tag| hints.put(hash(tag), spot));
            let writers: Vec<_> = [[7, 8, 1], [1, 9, 2]]
                .map(|tags| {
                    let hints = hints.clone();
                    thread::spawn(move || {
                        for tag in tags {
                            hints.put(hash(tag), spot);
                            let here = |hints: &Hints, tag: u64| {
                                hints.find(hash(tag)).is_some() || !hints.keeps_all(hash(tag))
                            };
                            (1..7).chain([tag]).for_each(|tag| assert!(here(&hints, tag)));
                            let larger = hints.grown(2 * BUCKET_BYTES).unwrap();
                            (1..7).chain([tag]).for_each(|tag| assert!(here(&larger, tag)));
                        }
                    })
                })
                .into();
            writers.into_iter().for_each(|t| t.join().unwrap());
        });
    }

    /// What a merge put is in the newest table, or in none that counts as whole: another thread may make a larger one
    /// before, while or after it puts.
    #[test]
    fn shuttle_what_is_put_late_does_not_count_as_missing_in_a_larger_table() {
        explore(|| {
            let hash = |tag: u64| tag << TAG_SHIFT;
            let newest = Arc::new(Mutex::new(Arc::new(Hints::new(BUCKET_BYTES).unwrap())));
            let grower = thread::spawn({
                let newest = newest.clone();
                move || {
                    for bytes in [2, 4].map(|buckets| buckets * BUCKET_BYTES) {
                        let mut newest = newest.lock();
                        *newest = Arc::new(newest.grown(bytes).unwrap());
                    }
                }
            });
            let merge = |tags: std::ops::Range<u64>, had_all: bool| {
                let mine = Arc::clone(&newest.lock());
                tags.for_each(|tag| mine.put(hash(tag), Spot { page: 1, index: 0, line: 0 }));
                had_all && Arc::ptr_eq(&mine, &newest.lock())
            };
            let first = merge(1..5, true);
            let second = merge(5..12, first);
            let here = |hints: &Hints, tag: u64| {
                hints.find(hash(tag)).is_some() || !hints.keeps_all(hash(tag))
            };
            let check = || {
                let newest = Arc::clone(&newest.lock());
                assert!(!first || (1..5).all(|tag| here(&newest, tag)));
                assert!(!second || (1..12).all(|tag| here(&newest, tag)));
            };
            check();
            grower.join().unwrap();
            check();
        });
    }
}
