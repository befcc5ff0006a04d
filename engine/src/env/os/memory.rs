//! Large zeroed memory straight from the system, in huge pages where it has them: a random
//! access then costs one miss of the address cache less.

use crate::{
    error::{Error, Result},
    sync::{AtomicU64, prefetch},
};
use memmap2::{Advice, MmapMut, MmapRaw};

/// Zeroed memory that belongs to its holder. It is given back when dropped. No reference to it is made here, as
/// several threads may write it.
pub(crate) struct Memory {
    map: MmapRaw,
}

/// Smaller pieces gain nothing from huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

impl Memory {
    /// So many bytes; `what` they are for, if there are none.
    pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Memory> {
        let map = MmapMut::map_anon(len.max(1))
            .map_err(|e| Error::io("allocate memory for", what, e))
            .map(MmapRaw::from)?;
        if len >= HUGE_PAGE_BYTES {
            // Advice: without it everything works, in ordinary pages.
            let _ = map.advise(Advice::HugePage);
        }
        Ok(Memory { map })
    }

    /// Makes the pages of a range present, so that their first use does not fault.
    pub(crate) fn populate(&self, offset: usize, len: usize) {
        // Advice: without it pages come at their first use.
        let _ = self.map.advise_range(Advice::PopulateWrite, offset, len);
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

/// Atomic words in memory of their own, all of them 0 at first.
pub(crate) struct Words {
    memory: Memory,
    len: usize,
}

impl Words {
    /// At least one; `what` they are for, if there is no memory.
    pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Words> {
        let len = len.max(1);
        Ok(Words { memory: Memory::zeroed(len * size_of::<u64>(), what)?, len })
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The word numbered `i`, less than `len`.
    #[inline]
    pub(crate) fn get(&self, i: usize) -> &AtomicU64 {
        assert!(i < self.len);
        #[expect(unsafe_code, reason = "the one way to these words")]
        // SAFETY: within the memory, aligned since the memory is, zeroed at the beginning, and
        // only ever accessed as this atomic.
        unsafe {
            &*self.memory.as_ptr().cast::<AtomicU64>().add(i)
        }
    }

    /// Brings the word numbered `i` near, ahead of its use.
    #[inline]
    pub(crate) fn prefetch(&self, i: usize) {
        let word: *const AtomicU64 = self.get(i);
        prefetch(word.cast());
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering::Relaxed;

    #[test]
    fn is_zeroed_and_as_long_as_asked() {
        for len in [1, 4096, 5 << 20] {
            let memory = Memory::zeroed(len, "a test").unwrap();
            memory.populate(0, len);
            assert_eq!(memory.len(), len);
            #[expect(unsafe_code, reason = "a look at what nobody else has")]
            // SAFETY: of that length, and nobody else knows of it.
            let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr(), len) };
            assert!(bytes.iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn each_word_is_one_of_its_own() {
        let words = Words::zeroed(1000, "a test").unwrap();
        (0..1000).for_each(|i| words.get(i).store(i as u64 + 1, Relaxed));
        assert!((0..1000).all(|i| words.get(i).load(Relaxed) == i as u64 + 1));
    }

    #[test]
    #[should_panic(expected = "i < self.len")]
    fn there_is_no_word_behind_the_last() {
        Words::zeroed(3, "a test").unwrap().get(3).load(Relaxed);
    }
}
