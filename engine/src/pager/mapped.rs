//! The file of the trees as it lies in the page cache, read in place.

use crate::{
    env::ReadMap,
    format::node::{NodeHeader, NodePointer},
    sync::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        prefetch,
    },
};

/// What is read first of a node.
const NEAR_BYTES: usize = 384;
const WORD_BITS: u64 = u64::BITS as u64;
/// What the CPU brings near at once.
const LINE_BYTES: usize = 64;
/// How much of an entry is brought near ahead: what is behind follows fast.
const LINES_OF_ENTRY: usize = 4;
/// Parts of a page that hints tell apart: `cache::hints::Spot::line`.
const PAGE_PARTS: usize = 64;

/// A mapping of the first pages of the file, and which nodes in it were verified.
pub(crate) struct Mapped {
    map: Box<dyn ReadMap>,
    page_bytes: u64,
    pages: u64,
    /// A bit for each page: the node that begins there was verified since the page was written.
    verified: Box<[AtomicU64]>,
}

impl Mapped {
    pub(super) fn new(map: Box<dyn ReadMap>, page_bytes: usize, pages: u64) -> Mapped {
        let words = (0..pages.div_ceil(WORD_BITS)).map(|_| AtomicU64::new(0));
        Mapped { map, page_bytes: page_bytes as u64, pages, verified: words.collect() }
    }

    /// The node is about to be read: its header and heads, and the entries at its end if that is where
    /// reading begins.
    #[inline]
    pub(crate) fn prefetch(&self, pointer: NodePointer, at_end: bool) {
        let offset = pointer.page.saturating_mul(self.page_bytes);
        self.map.prefetch(offset, NEAR_BYTES);
        if at_end {
            let len = u64::from(pointer.pages) * self.page_bytes;
            self.map.prefetch(offset.saturating_add(len - NEAR_BYTES as u64), NEAR_BYTES);
        }
    }

    /// How many pages are mapped.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// The pages pointed to, as they are. `None`: they are not mapped.
    #[inline]
    #[expect(unsafe_code, reason = "the one place where nodes are read in place")]
    pub(crate) fn bytes(&self, pointer: NodePointer) -> Option<&[u8]> {
        let len = u64::from(pointer.pages).checked_mul(self.page_bytes)?;
        let offset = pointer.page.checked_mul(self.page_bytes)?;
        // SAFETY: `pointer` was found in a tree that a Version names, and whoever reads a tree holds its
        // Version. Pages are written only when no Version names a tree that has them (`Background::retired`,
        // `Pager::give_back`), and the file of the trees is never cut while it is open. A pointer that is
        // wrong leads to bytes that may change meanwhile; they are compared with their checksum and header
        // before anything in them is believed, and every access to them is checked.
        unsafe { self.map.bytes(offset, usize::try_from(len).ok()?) }
    }

    /// The node, if it was verified since its pages were written.
    #[inline]
    pub(super) fn verified(&self, pointer: NodePointer, level: u8) -> Option<&[u8]> {
        let word = self.verified.get((pointer.page / WORD_BITS) as usize)?;
        // Acquire: who set the bit had read the node.
        if word.load(Acquire) >> (pointer.page % WORD_BITS) & 1 == 0 {
            return None;
        }
        let bytes = self.bytes(pointer)?;
        (NodeHeader::of(bytes) == Some(NodeHeader { pointer, level })).then_some(bytes)
    }

    /// The first page of the leaf that begins at `page`, which was verified here and belongs to a tree of a
    /// Version that the caller holds.
    #[inline]
    pub(crate) fn first_page(&self, page: u64) -> Option<&[u8]> {
        self.bytes(NodePointer { page, pages: 1, generation: 0 })
    }

    /// The leaf that begins with such a page.
    #[inline]
    pub(crate) fn leaf<'m>(&'m self, page: u64, first: &'m [u8]) -> Option<&'m [u8]> {
        let header = NodeHeader::of(first).filter(|h| h.level == 0 && h.pointer.page == page)?;
        match header.pointer.pages {
            1 => Some(first),
            _ => self.bytes(header.pointer),
        }
    }

    pub(super) fn set_verified(&self, page: u64) {
        if let Some(word) = self.verified.get((page / WORD_BITS) as usize) {
            word.fetch_or(1 << (page % WORD_BITS), Release);
        }
    }

    /// The pages are about to be written.
    pub(super) fn forget(&self, page: u64, pages: u64) {
        for page in page..page.saturating_add(pages).min(self.pages) {
            if let Some(word) = self.verified.get((page / WORD_BITS) as usize) {
                word.fetch_and(!(1 << (page % WORD_BITS)), Relaxed);
            }
        }
    }
}

/// Brings near what comparing one entry of a leaf reads: its heads, and the entry, which begins in the 64th
/// part `line` of `first`, the leaf's first page.
#[inline]
pub(crate) fn prefetch_entry(first: &[u8], line: usize) {
    for at in [LINE_BYTES, 2 * LINE_BYTES] {
        if let Some(byte) = first.get(at) {
            prefetch(byte);
        }
    }
    let at = first.len() / PAGE_PARTS * line;
    for line in first.get(at..).unwrap_or_default().chunks(LINE_BYTES).take(LINES_OF_ENTRY) {
        prefetch(line.as_ptr());
    }
}
