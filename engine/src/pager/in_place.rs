//! What of the file of the trees is read in place: its first pages in memory ([`Frames`]), and those behind them
//! as they lie in the page cache, through a mapping of the file.

use super::frames::{Frames, PageBits};
use crate::{
    env::ReadMap,
    format::node::{NodeHeader, NodePointer},
    sync::{AtomicU64, Ordering::Relaxed, prefetch},
};
use std::{ops::Range, sync::Arc};

/// What is read first of a node.
const NEAR_BYTES: usize = 384;
/// What the CPU brings near at once.
const LINE_BYTES: usize = 64;
/// How many lines behind the header hold what a search reads, where entries are not small.
const LINES_OF_HEADS: usize = 3;
/// How much of an entry is brought near ahead: what is behind follows fast.
const LINES_OF_ENTRY: usize = 4;
/// Parts of a page that hints tell apart: `cache::hints::Spot::line`.
const PAGE_PARTS: usize = 64;

/// Where nodes are read in place, and which of them were verified.
pub(crate) struct InPlace {
    frames: Arc<Frames>,
    page_bytes: u64,
    mapped: Option<Mapped>,
}

/// A mapping of the first pages of the file.
pub(super) struct Mapped {
    map: Box<dyn ReadMap>,
    pages: u64,
    /// Pages that the file has by now: it may have become shorter than the mapping.
    file_pages: Arc<AtomicU64>,
    /// The nodes that were verified since their pages were written.
    verified: PageBits,
}

impl Mapped {
    pub(super) fn new(map: Box<dyn ReadMap>, pages: u64, file_pages: Arc<AtomicU64>) -> Mapped {
        Mapped { map, pages, file_pages, verified: PageBits::new(pages) }
    }
}

impl InPlace {
    pub(super) fn new(frames: Arc<Frames>, page_bytes: usize, mapped: Option<Mapped>) -> InPlace {
        InPlace { frames, page_bytes: page_bytes as u64, mapped }
    }

    /// How many pages of the file can be read in place, as far as it has them.
    pub(crate) fn pages(&self) -> u64 {
        self.mapped.as_ref().map_or(0, |mapped| mapped.pages).max(self.frames.pages())
    }

    /// Up to which page reads are the same here as in `other`, which was taken from the same pager: what was
    /// read in place there is here too.
    pub(crate) fn common_pages(&self, other: &InPlace) -> u64 {
        match std::ptr::eq(self, other) {
            true => self.pages(),
            false => self.frames.pages(),
        }
    }

    /// The node is about to be read: its header and heads, and the entries at its end if that is where
    /// reading begins.
    #[inline]
    pub(crate) fn prefetch(&self, pointer: NodePointer, at_end: bool) {
        let len = u64::from(pointer.pages) * self.page_bytes;
        let behind = at_end.then(|| len.saturating_sub(NEAR_BYTES as u64));
        for from in [Some(0), behind].into_iter().flatten() {
            if self.frames.covers(pointer) {
                let start = self.frames.start(pointer.page).wrapping_add(from as usize);
                let lines = (0..NEAR_BYTES).step_by(LINE_BYTES);
                lines.for_each(|at| prefetch(start.wrapping_add(at)));
            } else if let Some(mapped) = &self.mapped {
                let offset = pointer.page.saturating_mul(self.page_bytes).saturating_add(from);
                mapped.map.prefetch(offset, NEAR_BYTES);
            }
        }
    }

    /// Pages of the mapping that are read soon.
    pub(super) fn read_ahead(&self, pages: Range<u64>) {
        if let Some(mapped) = &self.mapped {
            let len = (pages.end - pages.start).saturating_mul(self.page_bytes);
            mapped.map.read_ahead(pages.start.saturating_mul(self.page_bytes), len as usize);
        }
    }

    /// Whether there is a frame for the node.
    #[inline]
    pub(crate) fn has_frame(&self, pointer: NodePointer) -> bool {
        self.frames.covers(pointer)
    }

    /// Whether there is a frame for the node, and the node is not in it.
    #[inline]
    pub(crate) fn lacks(&self, pointer: NodePointer) -> bool {
        self.frames.covers(pointer) && !self.frames.is_filled(pointer.page)
    }

    /// The bytes of a node of a tree that the caller holds, which was found verified here. `None`: it cannot be
    /// read in place.
    #[inline]
    pub(crate) fn bytes(&self, pointer: NodePointer) -> Option<&[u8]> {
        match self.frames.covers(pointer) {
            true => self.frames.bytes(pointer),
            false => self.mapped_bytes(pointer),
        }
    }

    /// The pages pointed to, as they are in the mapping. `None`: they are not mapped.
    #[inline]
    #[expect(unsafe_code, reason = "the one place where nodes are read in the file")]
    pub(super) fn mapped_bytes(&self, pointer: NodePointer) -> Option<&[u8]> {
        let mapped = self.mapped.as_ref()?;
        if pointer.page.checked_add(pointer.pages.into())? > mapped.file_pages.load(Relaxed) {
            return None;
        }
        let len = u64::from(pointer.pages).checked_mul(self.page_bytes)?;
        let offset = pointer.page.checked_mul(self.page_bytes)?;
        // SAFETY: `pointer` was found in a tree that a Version names, and whoever reads a tree holds its
        // Version. Pages are written only when no Version names a tree that has them (`Background::retired`,
        // `Pager::give_back`), and so is the file cut, before pages that no Version names (`Pager::end_at`). A
        // pointer that is wrong leads to bytes that may change meanwhile; they are compared with their checksum
        // and header before anything in them is believed, and every access to them is checked. None leads behind
        // the end of the file, which is asked for above and falls before the file is cut. (A cut between that
        // question and the look at what a wrong pointer names ends the process: of what a Version names nothing
        // is cut.)
        unsafe { mapped.map.bytes(offset, usize::try_from(len).ok()?) }
    }

    /// The node, if it was verified since its pages were written.
    #[inline]
    pub(super) fn verified(&self, pointer: NodePointer, level: u8) -> Option<&[u8]> {
        let bytes = match self.frames.covers(pointer) {
            true if self.frames.is_filled(pointer.page) => self.frames.bytes(pointer)?,
            true => return None,
            false if self.mapped.as_ref()?.verified.has(pointer.page) => {
                self.mapped_bytes(pointer)?
            }
            false => return None,
        };
        (NodeHeader::of(bytes) == Some(NodeHeader { pointer, level })).then_some(bytes)
    }

    /// The first page of the leaf that begins at `page`, which was verified here and belongs to a tree of a
    /// Version that the caller holds.
    #[inline]
    pub(crate) fn first_page(&self, page: u64) -> Option<&[u8]> {
        let pointer = NodePointer { page, pages: 1, generation: 0 };
        // A leaf for whose last pages there is no frame is in the mapping, with its first.
        match self.frames.is_filled(page) {
            true => self.frames.bytes(pointer),
            false => self.mapped_bytes(pointer),
        }
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

    /// A node in the mapping was verified.
    pub(super) fn set_verified(&self, page: u64) {
        if let Some(mapped) = &self.mapped {
            mapped.verified.set(page);
        }
    }

    /// These pages of the file are about to be written.
    pub(super) fn forget(&self, pages: std::ops::Range<u64>) {
        if let Some(mapped) = &self.mapped {
            mapped.verified.clear(pages);
        }
    }
}

/// Brings near what comparing one entry of a leaf reads: what describes it, its heads and offsets, and the entry,
/// which begins in the 64th part `line` of `first`, the leaf's first page. Not its header.
#[inline]
pub(crate) fn prefetch_entry(first: &[u8], line: usize) {
    for at in (1..=LINES_OF_HEADS).map(|line| line * LINE_BYTES) {
        if let Some(byte) = first.get(at) {
            prefetch(byte);
        }
    }
    let at = first.len() / PAGE_PARTS * line;
    for line in first.get(at..).unwrap_or_default().chunks(LINE_BYTES).take(LINES_OF_ENTRY) {
        prefetch(line.as_ptr());
    }
}
