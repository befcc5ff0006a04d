//! The first pages of the file of the trees, in memory: copied there when they are first read, and by merges where
//! something was read nearby, so that what nobody reads takes no memory.
//!
//! The memory is in huge pages where the system has them. What a read of settled data costs is waiting for
//! memory, and half of that, in a mapping of the file, is looking up where its pages are.
//!
//! Invariants:
//! - a frame whose bit is set begins a node that was verified, or that was written here, and all of it is there
//! - a frame is written only while no bit of its pages is set and no Version names what will be there; so
//!   nobody looks at bytes that change

use crate::{
    env::Memory,
    format::node::NodePointer,
    sync::{
        AtomicU64, Mutex,
        Ordering::{Acquire, Relaxed, Release},
    },
};

const WORD_BITS: u64 = u64::BITS as u64;
/// Memory comes in huge pages.
const PART_BYTES: u64 = 2 << 20;

/// A bit for each page: whether the node that begins there may be read where it is.
pub(super) struct PageBits(Box<[AtomicU64]>);

impl PageBits {
    pub(super) fn new(pages: u64) -> PageBits {
        PageBits((0..pages.div_ceil(WORD_BITS)).map(|_| AtomicU64::new(0)).collect())
    }

    #[inline]
    pub(super) fn has(&self, page: u64) -> bool {
        let word = self.0.get((page / WORD_BITS) as usize);
        // Acquire: who set the bit had written or read the node.
        word.is_some_and(|word| word.load(Acquire) >> (page % WORD_BITS) & 1 == 1)
    }

    pub(super) fn set(&self, page: u64) {
        if let Some(word) = self.0.get((page / WORD_BITS) as usize) {
            word.fetch_or(1 << (page % WORD_BITS), Release);
        }
    }

    pub(super) fn clear(&self, pages: std::ops::Range<u64>) {
        let end = pages.end.min(self.0.len() as u64 * WORD_BITS);
        for page in pages.start..end {
            if let Some(word) = self.0.get((page / WORD_BITS) as usize) {
                word.fetch_and(!(1 << (page % WORD_BITS)), Relaxed);
            }
        }
    }
}

/// Room for the first pages of the file.
pub(crate) struct Frames {
    /// `None`: room for none.
    memory: Option<Memory>,
    page_bytes: u64,
    pages: u64,
    filled: PageBits,
    /// The parts of the memory, of [`PART_BYTES`] each, in which something was read.
    used: PageBits,
    /// Held while frames are written.
    writing: Mutex<()>,
}

/// Another node than the one to be put there is looked at in these pages.
#[derive(Debug, PartialEq)]
pub(super) struct Occupied;

impl Frames {
    /// Room for as many pages as `bytes` have. The memory is taken as it comes into use. Without any there are
    /// none, and pages are read in other ways.
    pub(super) fn new(bytes: usize, page_bytes: usize) -> Frames {
        let pages = (bytes / page_bytes) as u64;
        let memory = match pages {
            0 => None,
            _ => Memory::zeroed(pages as usize * page_bytes, "pages of trees")
                .inspect_err(|error| tracing::warn!(%error, "no memory for pages of trees"))
                .ok(),
        };
        let pages = if memory.is_some() { pages } else { 0 };
        let page_bytes = page_bytes as u64;
        let used = PageBits::new((pages * page_bytes).div_ceil(PART_BYTES));
        let (filled, writing) = (PageBits::new(pages), Mutex::new(()));
        Frames { memory, page_bytes, pages, filled, used, writing }
    }

    /// The parts of the memory in which a node lies.
    fn parts(&self, pointer: NodePointer) -> std::ops::RangeInclusive<u64> {
        let part_of = |page: u64| page.saturating_mul(self.page_bytes) / PART_BYTES;
        part_of(pointer.page)..=part_of(pointer.page + u64::from(pointer.pages) - 1)
    }

    /// How many pages there is room for.
    #[inline]
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether there is room for all pages of a node.
    #[inline]
    pub(super) fn covers(&self, pointer: NodePointer) -> bool {
        pointer.page.saturating_add(pointer.pages.into()) <= self.pages
    }

    #[inline]
    pub(super) fn is_filled(&self, page: u64) -> bool {
        self.filled.has(page)
    }

    /// Where the frame of a page begins. Only to be looked at with [`Frames::bytes`].
    #[inline]
    pub(super) fn start(&self, page: u64) -> *const u8 {
        let start = self.memory.as_ref().map_or(std::ptr::null_mut(), Memory::as_ptr);
        start.wrapping_add(page.wrapping_mul(self.page_bytes) as usize)
    }

    /// The frames of a node that was found filled, and whose tree is held by the caller.
    #[inline]
    #[expect(unsafe_code, reason = "the one place where frames are read")]
    pub(super) fn bytes(&self, pointer: NodePointer) -> Option<&[u8]> {
        let len = u64::from(pointer.pages) * self.page_bytes;
        if !self.covers(pointer) {
            return None;
        }
        // SAFETY: within the memory, which is initialized, as it came zeroed. Nobody writes there meanwhile:
        // whoever reads a node holds the Version that names it and has seen the bit of its first page; `fill`
        // leaves pages alone of which a bit is set, and what `put` writes no Version names (`Pager::give_back`).
        // A pointer in a file made to deceive may lead to a whole node in a page that the manifest calls free,
        // and then to bytes that change meanwhile; every access to them is checked.
        Some(unsafe { std::slice::from_raw_parts(self.start(pointer.page), len as usize) })
    }

    /// Copies a node that was read from the file and verified, unless it is there by now.
    pub(super) fn fill(&self, pointer: NodePointer, node: &[u8]) -> Result<(), Occupied> {
        let _one = self.writing.lock();
        let mut pages = pointer.page..pointer.page + u64::from(pointer.pages);
        if self.filled.has(pointer.page) {
            // Another thread was faster. That it is the same node the caller sees by its header.
            return Ok(());
        }
        // Two nodes that share pages: one of the pointers is wrong.
        if pages.any(|page| self.filled.has(page)) {
            return Err(Occupied);
        }
        self.parts(pointer).for_each(|part| self.used.set(part));
        self.write(pointer, node);
        Ok(())
    }

    /// Copies nodes that a merge writes into pages that no Version names, where memory is in use. Each is given with
    /// its pointer.
    pub(super) fn put<'n>(&self, nodes: impl Iterator<Item = (NodePointer, &'n [u8])>) {
        let _one = self.writing.lock();
        for (pointer, node) in nodes {
            self.filled.clear(pointer.page..pointer.page + u64::from(pointer.pages));
            if self.parts(pointer).all(|part| self.used.has(part)) {
                self.write(pointer, node);
            }
        }
    }

    #[expect(unsafe_code, reason = "the one place where frames are written")]
    fn write(&self, pointer: NodePointer, node: &[u8]) {
        let len = usize::from(pointer.pages) * self.page_bytes as usize;
        if self.covers(pointer) && node.len() == len {
            // SAFETY: within the memory. `writing` is held, so nobody else writes; no bit of these pages is set,
            // so nobody reads.
            unsafe {
                let start = self.start(pointer.page).cast_mut();
                std::ptr::copy_nonoverlapping(node.as_ptr(), start, len);
            }
            self.filled.set(pointer.page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(page: u64, pages: u16) -> NodePointer {
        NodePointer { page, pages, generation: 1 }
    }

    #[test]
    fn frames_hold_what_was_copied_and_nothing_else() {
        let frames = Frames::new(4096 * 70 + 5, 4096);
        assert_eq!(frames.pages(), 70);
        let two = [[1; 4096], [2; 4096]].concat();
        frames.fill(node(68, 2), &two).expect("free pages");
        assert!(frames.is_filled(68) && !frames.is_filled(69));
        assert_eq!(frames.bytes(node(68, 2)), Some(&two[..]));
        // What does not fit is not there, and is no error: it is read in other ways.
        frames.fill(node(69, 2), &two).expect("not covered");
        assert!(!frames.covers(node(69, 2)) && frames.bytes(node(69, 2)).is_none());
        assert!(!frames.is_filled(69) && !frames.is_filled(u64::MAX));
        assert!(frames.bytes(node(u64::MAX, 1)).is_none());
        let none = Frames::new(4095, 4096);
        assert!(!none.covers(node(0, 1)) && none.bytes(node(0, 1)).is_none());
    }

    /// A wrong pointer must not change what others look at.
    #[test]
    fn a_node_does_not_take_the_pages_of_another() {
        let frames = Frames::new(4096 * 8, 4096);
        frames.put([(node(6, 1), &[6; 4096][..])].into_iter());
        assert!(!frames.is_filled(6), "where nothing was read nothing is kept");
        frames.fill(node(3, 1), &[3; 4096]).expect("free pages");
        assert_eq!(frames.fill(node(2, 2), &[2; 8192]), Err(Occupied));
        frames.fill(node(3, 2), &[4; 8192]).expect("left as it is");
        assert_eq!(frames.bytes(node(3, 1)), Some(&[3; 4096][..]));
        // A merge writes pages that nobody names any more.
        frames.put([(node(2, 2), &[5; 8192][..])].into_iter());
        assert!(frames.is_filled(2) && !frames.is_filled(3));
        assert_eq!(frames.bytes(node(2, 2)), Some(&[5; 8192][..]));
    }
}
