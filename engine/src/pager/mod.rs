//! The file of the trees, in pages: which of them are free, how nodes are read and written. Format:
//! `docs/formats/tree.md`.
//!
//! Invariants:
//! - a page is written only while no edit names it: it was free in the last one, and no Version that is
//!   still looked at knew it otherwise
//! - a node is verified when it is read from disk, against the pointer that led to it
//! - what is written is durable when [`NewPages::finish`] returns
//!
//! Which nodes make a tree is not known here.

use crate::{
    cache::{
        Cache, Hint,
        hints::{BUCKET_BYTES, Hints},
    },
    env::{DirLock, NamedFile},
    error::{Error, Result, place},
    format::{
        block::Refused,
        header::{FileHeader, FileKind, HEADER_BYTES, HeaderError},
        node::{Node, NodeBuilder, NodeHeader, NodePointer},
        pages::{PageRun, PageSet, TreeFileMeta},
    },
    sync::{
        AtomicU64, Mutex,
        Ordering::{Acquire, Release},
    },
    types::FileId,
};
use std::{ops::Range, path::Path, sync::Arc};

mod frames;
mod in_place;
#[cfg(test)]
mod tests;
use frames::Frames;
use in_place::Mapped;
pub(crate) use in_place::{InPlace, prefetch_entry};

/// The file of the trees, open. All methods may be called from many threads.
pub(crate) struct Pager {
    file: NamedFile,
    meta: TreeFileMeta,
    shared: Shared,
    space: Mutex<Space>,
    /// Held while the file grows, or the space behind its pages is given back. Above `space`.
    growing: Mutex<()>,
    /// How many syncs of the file have failed: what one that fails takes with it, of what others have written,
    /// must not pass for durable because their own succeeds behind it.
    failed_syncs: AtomicU64,
    /// Why the last of them did. Held during each sync.
    failure: Mutex<Option<Error>>,
    frames: Arc<Frames>,
    /// Where nodes are read in place now. Trees keep what it was when they were made.
    in_place: Mutex<Arc<InPlace>>,
    /// Pages that may be looked at in a mapping: not more than the file has.
    file_pages: Arc<AtomicU64>,
    /// The newest table of hints, as for the mapping.
    hints: Mutex<Option<Arc<Hints>>>,
}

/// What the file of the trees shares with the rest of the database.
pub(crate) struct Shared {
    pub(crate) cache: Arc<Cache<[u8]>>,
    /// Bytes of memory for the first pages of the file.
    pub(crate) frame_bytes: usize,
    /// A file of more bytes than this is not mapped.
    pub(crate) map_bytes_max: u64,
    /// No table of hints is larger. 0: there is none.
    pub(crate) hint_bytes_max: usize,
    /// The directory stays locked while anybody looks at a tree: another process would write over what it
    /// holds free, and what is read in place would change.
    pub(crate) _lock: Option<Arc<dyn DirLock>>,
}

struct Space {
    free: PageSet,
    /// Free as well, and without space in the file, so that to write there may fail for want of it.
    hollow: PageSet,
    /// Pages from here on were never used.
    end: u64,
    /// Pages that the file has room for.
    allocated: u64,
}

impl Space {
    /// Takes pages that are free, those with space first.
    fn take(&mut self, pages: u64) -> Option<u64> {
        self.free.take(pages).or_else(|| self.hollow.take(pages))
    }
}

/// Bytes of a table of hints for each entry: 8 for the hint, and room, so that few buckets are full.
const HINT_BYTES: u64 = 12;
/// How long entries are taken to be if nothing is known of them, and at most.
pub(crate) const ENTRY_BYTES: u64 = 192;
/// And at least.
const ENTRY_BYTES_MIN: u64 = 16;
/// So many bytes of the file, from a multiple of them on, are read at once where a read needs one of their leaves.
const BRING_BYTES: u64 = 64 << 10;
/// What a walk from leaf to leaf asks for at once.
const AHEAD_BYTES: u64 = 512 << 10;
/// The first table of hints has this fraction of the bytes of the largest.
const HINT_BYTES_GROW: usize = 64;
/// What is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;
/// A file grows by an eighth, but by no less and no more than this.
const GROW_BYTES_MIN: u64 = 64 << 10;
const GROW_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn tree_file_name(id: FileId) -> String {
    format!("{id:06}.tree")
}

/// The file id in the name of a file of trees.
pub(crate) fn tree_file_id(name: &str) -> Option<FileId> {
    FileId::in_name(name, "", ".tree", tree_file_name)
}

impl Pager {
    /// Makes the file, without nodes, and syncs it; the directory is the caller's to sync.
    pub(crate) fn create(
        file: NamedFile,
        uuid: [u8; 16],
        meta: TreeFileMeta,
        shared: Shared,
    ) -> Result<Pager> {
        let page = u64::from(meta.page_bytes);
        file.allocate(0, page)?;
        let mut first = vec![0; meta.page_bytes as usize];
        first[..HEADER_BYTES].copy_from_slice(&header_of(meta, uuid).encode());
        file.write_all_at(&first, 0)?;
        file.sync_all()?;
        let space =
            Space { free: PageSet::default(), hollow: PageSet::default(), end: 1, allocated: 1 };
        Ok(Pager::new(file, meta, shared, space))
    }

    fn new(file: NamedFile, meta: TreeFileMeta, shared: Shared, space: Space) -> Pager {
        let page_bytes = meta.page_bytes as usize;
        let frames = Arc::new(Frames::new(shared.frame_bytes, page_bytes));
        let in_place = InPlace::new(Arc::clone(&frames), page_bytes, None);
        let (space, hints) = (Mutex::new(space), Mutex::new(None));
        let (growing, failed_syncs, failure) =
            (Mutex::new(()), AtomicU64::new(0), Mutex::new(None));
        let in_place = Mutex::new(Arc::new(in_place));
        let file_pages = Arc::new(AtomicU64::new(space.lock().allocated));
        Pager {
            file,
            meta,
            shared,
            space,
            growing,
            failed_syncs,
            failure,
            frames,
            in_place,
            file_pages,
            hints,
        }
    }

    /// Opens the file that the manifest describes, of whose pages below `end` those in `free` are free.
    pub(crate) fn open(
        file: NamedFile,
        uuid: [u8; 16],
        meta: TreeFileMeta,
        (free, end): (PageSet, u64),
        shared: Shared,
    ) -> Result<Pager> {
        let len = file.len()?;
        let allocated = len / u64::from(meta.page_bytes);
        if allocated < end.max(1) {
            let wanted = format!("a file of at least {end} pages of {} bytes", meta.page_bytes);
            return Err(file.corruption(len, wanted, format!("one of {len} bytes")));
        }
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0)?;
        let wanted = header_of(meta, uuid);
        match FileHeader::decode(&bytes, FileKind::Tree) {
            Ok(found) if found == wanted => {}
            Ok(found) => {
                return Err(file.corruption(0, format!("{wanted:?}"), format!("{found:?}")));
            }
            Err(HeaderError::Corrupt(wanted, found)) => {
                return Err(file.corruption(0, wanted, found));
            }
            Err(HeaderError::Unsupported(what)) => {
                return Err(Error::Unsupported { file: file.path.to_path_buf(), what });
            }
        }
        // Which of the free pages have no space is not known: it makes no difference to what is written.
        let (end, hollow) = (end.max(1), PageSet::default()); // the first page holds the header
        let space = Space { free, hollow, end, allocated };
        let pager = Pager::new(file, meta, shared, space);
        pager.map_all();
        Ok(pager)
    }

    /// Maps the whole file, unless there is a frame for each of its pages, or it is mapped already or is not to
    /// be: then the nodes behind the frames are read through the cache.
    fn map_all(&self) {
        let mut in_place = self.in_place.lock();
        let pages = self.space.lock().allocated;
        let bytes = pages * u64::from(self.meta.page_bytes);
        if in_place.pages() >= pages || bytes > self.shared.map_bytes_max {
            return;
        }
        match self.file.map_read(bytes) {
            Ok(Some(map)) => {
                let mapped = Mapped::new(map, pages, Arc::clone(&self.file_pages));
                let frames = Arc::clone(&self.frames);
                *in_place = Arc::new(InPlace::new(frames, self.page_bytes(), Some(mapped)));
            }
            Ok(None) => crate::sync::sometimes("pager: the file cannot be mapped"),
            Err(error) => tracing::warn!(%error, "cannot map the file of the trees"),
        }
    }

    /// Where nodes are read in place now.
    pub(crate) fn in_place(&self) -> Arc<InPlace> {
        self.in_place.lock().clone()
    }

    /// The table of hints, made larger for what the file holds and `more` bytes of nodes, in entries of about
    /// `entry_bytes` each, or because it was too small. `None`: there is to be none, or no memory for it, or nothing
    /// is read in place that it could lead to.
    pub(crate) fn hints(&self, more: u64, entry_bytes: u64) -> Option<Arc<Hints>> {
        let max = self.shared.hint_bytes_max;
        if max == 0 || self.in_place.lock().pages() == 0 {
            return None;
        }
        let (held, unused) = self.size();
        let entries =
            (held.saturating_sub(unused) + more) / entry_bytes.clamp(ENTRY_BYTES_MIN, ENTRY_BYTES);
        let wanted = entries * HINT_BYTES;
        // A table is doubled a few times only before what is missing in it says nothing.
        let least = (max / HINT_BYTES_GROW).max(BUCKET_BYTES);
        let wanted = usize::try_from(wanted).unwrap_or(max).max(least).min(max);
        let wanted = wanted.checked_next_power_of_two().map_or(max, |bytes| bytes.min(max));
        let mut hints = self.hints.lock();
        let doubled = hints.as_ref().filter(|hints| hints.is_too_small()).map(|h| 2 * h.bytes());
        let wanted = wanted.max(doubled.unwrap_or(0).min(max));
        let larger = match &*hints {
            Some(hints) if hints.bytes() >= wanted => return Some(Arc::clone(hints)),
            Some(hints) => hints.grown(wanted),
            None => Hints::new(wanted),
        };
        match larger {
            Ok(larger) => {
                if hints.is_some() {
                    crate::sync::sometimes("pager: the table of hints grows");
                }
                *hints = Some(Arc::new(larger));
            }
            Err(error) => tracing::warn!(%error, "no memory for more hints"),
        }
        hints.clone()
    }

    /// The newest table of hints, as it is.
    pub(crate) fn newest_hints(&self) -> Option<Arc<Hints>> {
        self.hints.lock().clone()
    }

    /// The node where it lies, verified when it is first looked at. `None`: it is not read in place.
    #[inline]
    pub(crate) fn read_in_place<'p>(
        &self,
        in_place: &'p InPlace,
        pointer: NodePointer,
        level: u8,
    ) -> Result<Option<&'p [u8]>> {
        match in_place.verified(pointer, level) {
            Some(bytes) => Ok(Some(bytes)),
            None => self.verify_in_place(in_place, pointer, level),
        }
    }

    #[cold]
    fn verify_in_place<'p>(
        &self,
        in_place: &'p InPlace,
        pointer: NodePointer,
        level: u8,
    ) -> Result<Option<&'p [u8]>> {
        if self.frames.covers(pointer) {
            let node = self.read_file(pointer, level)?;
            let filled = self.frames.fill(pointer, &node).ok();
            let same = filled.and_then(|()| in_place.verified(pointer, level));
            return same.map(Some).ok_or_else(|| self.used_twice(pointer));
        }
        let Some(bytes) = in_place.mapped_bytes(pointer).filter(|_| pointer.page > 0) else {
            return Ok(None);
        };
        Node::verify(bytes, pointer, level, self.meta.identity)
            .map_err(|why| self.refuse(pointer, why))?;
        in_place.set_verified(pointer.page);
        Ok(Some(bytes))
    }

    /// Fills the frames of a leaf and of its neighbours under the same branch that lie side by side with it in the
    /// file, and tells of each that is in its frame. What cannot be read, or is damaged, is left to whoever needs it.
    pub(crate) fn bring(
        &self,
        in_place: &InPlace,
        branch: Node<'_>,
        index: usize,
        mut each: impl FnMut(NodePointer),
    ) {
        let leaves = side_by_side(branch, index, BRING_BYTES / u64::from(self.meta.page_bytes));
        let (Some(first), Some(last)) = (leaves.first(), leaves.last()) else {
            return;
        };
        let pages = last.page - first.page + u64::from(last.pages);
        let all = u16::try_from(pages).map(|pages| NodePointer { pages, ..*first });
        let Some(bytes) = all.ok().and_then(|all| self.read_pages(all).ok()) else {
            return;
        };
        for leaf in &leaves {
            let start = (leaf.page - first.page) as usize * self.page_bytes();
            let node = bytes.get(start..start + usize::from(leaf.pages) * self.page_bytes());
            let Some(node) = node.filter(|_| in_place.lacks(*leaf)) else {
                continue;
            };
            let verified = Node::verify(node, *leaf, 0, self.meta.identity).is_ok();
            // Another thread may have been faster, with another node.
            if verified
                && self.frames.fill(*leaf, node).is_ok()
                && in_place.verified(*leaf, 0).is_some()
            {
                each(*leaf);
            }
        }
    }

    /// Asks for the leaves beside one that lie side by side with it in the file, behind the frames: the mapping brings
    /// pages one by one otherwise. Returns their pages.
    #[cold]
    pub(crate) fn read_ahead(
        &self,
        in_place: &InPlace,
        branch: Node<'_>,
        index: usize,
    ) -> Range<u64> {
        let leaves = side_by_side(branch, index, AHEAD_BYTES / u64::from(self.meta.page_bytes));
        let (Some(first), Some(last)) = (leaves.first(), leaves.last()) else {
            return 0..0;
        };
        let pages = first.page..last.page + u64::from(last.pages);
        if leaves.len() > 1 {
            in_place.read_ahead(pages.clone());
        }
        pages
    }

    pub(crate) fn meta(&self) -> TreeFileMeta {
        self.meta
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Bytes of a page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.meta.page_bytes as usize
    }

    /// Bytes that the file takes, and of these those of pages that are free. What was given back it does
    /// not take.
    pub(crate) fn size(&self) -> (u64, u64) {
        let (space, page_bytes) = (self.space.lock(), u64::from(self.meta.page_bytes));
        let unused = space.free.pages() + space.allocated - space.end;
        ((space.allocated - space.hollow.pages()) * page_bytes, unused * page_bytes)
    }

    /// Lets pages be used again: no edit names them, and nobody looks at them any more.
    pub(crate) fn give_back(&self, runs: impl IntoIterator<Item = PageRun>) {
        let mut space = self.space.lock();
        for run in runs {
            let whole = space.free.insert(run);
            debug_assert!(whole, "freed twice: {run:?}");
        }
    }

    /// Takes the free pages at the end out, for the file to end before them, if there are at least so many.
    /// [`Pager::end_at`] or [`Pager::give_back`] is to follow.
    pub(crate) fn take_tail(&self, least: u64) -> Option<PageRun> {
        let mut space = self.space.lock();
        let (end, mut first) = (space.end, space.end);
        if !space.free.ends_at(end) && !space.hollow.ends_at(end) {
            return None;
        }
        let (mut free, mut hollow) = (space.free.clone(), space.hollow.clone());
        while let Some(run) = free.take_ending_at(first).or_else(|| hollow.take_ending_at(first)) {
            first = run.first;
        }
        if first == end || end - first < least {
            return None;
        }
        (space.free, space.hollow) = (free, hollow);
        Some(PageRun { first, pages: end - first })
    }

    /// Ends the file before the tail that was taken, unless it was needed to grow meanwhile. No edit names a page of it
    /// any more, nor says that the file is so long.
    pub(crate) fn end_at(&self, tail: PageRun) -> Result<()> {
        let _one = self.growing.lock();
        let mut space = self.space.lock();
        if space.end != tail.end() {
            crate::sync::sometimes("pager: the file grew while its end was cut off");
            let whole = space.free.insert(tail);
            debug_assert!(whole, "freed twice: {tail:?}");
            return Ok(());
        }
        (space.end, space.allocated) = (tail.first, tail.first);
        drop(space);
        self.file_pages.store(tail.first, Release);
        crate::sync::sometimes("pager: the file becomes shorter");
        self.file.set_len(tail.first * u64::from(self.meta.page_bytes))
    }

    /// Gives the space of free pages back to the file system. Where it cannot be done they stay as they are.
    pub(crate) fn give_up_space(&self) -> Result<()> {
        let page_bytes = u64::from(self.meta.page_bytes);
        let _one = self.growing.lock(); // what is given up behind the last page must not be taken meanwhile
        let len = self.file.len()?;
        // Nobody takes what is being given up, so it is not among the free meanwhile.
        let (free, end) = {
            let mut space = self.space.lock();
            space.allocated = space.end;
            self.file_pages.store(space.end, Release);
            (std::mem::take(&mut space.free), space.end * page_bytes)
        };
        // What is there behind the pages counted it has grown by, or was left by growing that failed half-way.
        let mut punched = match len > end {
            true => self.file.set_len(end),
            false => Ok(()),
        };
        for run in free.runs() {
            let done = self.file.punch(run.first * page_bytes, run.pages * page_bytes);
            let mut space = self.space.lock();
            let whole = match &done {
                Ok(()) => space.hollow.insert(run),
                Err(_) => space.free.insert(run),
            };
            debug_assert!(whole, "freed twice: {run:?}");
            punched = punched.and(done);
        }
        punched
    }

    /// Begins to write nodes of one generation.
    pub(crate) fn write(&self, generation: u64) -> NewPages<'_> {
        let failed_syncs = self.failed_syncs.load(Acquire);
        let (taken, bytes, pointers) = (vec![], vec![], vec![]);
        NewPages { pager: self, generation, failed_syncs, taken, bytes, at: 0, pointers }
    }

    /// The node's bytes, out of the cache or read and verified.
    #[inline]
    pub(crate) fn read(&self, pointer: NodePointer, level: u8) -> Result<Arc<[u8]>> {
        let file = self.meta.file_id;
        if let Some(bytes) = self.shared.cache.get(file, cache_key(pointer), &Hint::default())
            && NodeHeader::of(&bytes) == Some(NodeHeader { pointer, level })
        {
            return Ok(bytes);
        }
        self.load(pointer, level)
    }

    #[cold]
    fn load(&self, pointer: NodePointer, level: u8) -> Result<Arc<[u8]>> {
        let bytes = self.read_file(pointer, level)?;
        self.shared.cache.insert(self.meta.file_id, cache_key(pointer), bytes.clone(), bytes.len());
        Ok(bytes)
    }

    /// The node's bytes, read from the file and verified, whatever is cached.
    pub(crate) fn read_file(&self, pointer: NodePointer, level: u8) -> Result<Arc<[u8]>> {
        let bytes = self.read_pages(pointer)?;
        Node::verify(&bytes, pointer, level, self.meta.identity)
            .map_err(|why| self.refuse(pointer, why))?;
        Ok(bytes)
    }

    fn read_pages(&self, pointer: NodePointer) -> Result<Arc<[u8]>> {
        self.check_is_there(pointer)?;
        self.read_bytes(pointer)
    }

    fn check_is_there(&self, pointer: NodePointer) -> Result<()> {
        let allocated = self.space.lock().allocated;
        if pointer.page == 0 || pointer.page.saturating_add(pointer.pages.into()) > allocated {
            let found = format!("a file of {allocated}");
            return Err(self.refuse(pointer, Refused::Corrupt("the pages pointed to", found)));
        }
        Ok(())
    }

    fn read_bytes(&self, pointer: NodePointer) -> Result<Arc<[u8]>> {
        let page_bytes = self.page_bytes();
        let mut bytes: Arc<[u8]> =
            std::iter::repeat_n(0, usize::from(pointer.pages) * page_bytes).collect();
        if let Some(bytes) = Arc::get_mut(&mut bytes) {
            let read = self.file.read_exact_at(bytes, self.offset(pointer));
            read.map_err(|error| error.in_page(pointer.page))?;
        }
        Ok(bytes)
    }

    /// Where the node begins in the file.
    pub(crate) fn offset(&self, pointer: NodePointer) -> u64 {
        pointer.page.saturating_mul(self.meta.page_bytes.into())
    }

    /// The error for a node that makes no sense.
    #[cold]
    pub(crate) fn refuse(&self, pointer: NodePointer, why: Refused) -> Error {
        match why {
            Refused::Corrupt(expected, found) => {
                let offset = self.offset(pointer);
                self.file.corruption(offset, expected, found).in_page(pointer.page)
            }
            Refused::Unsupported(what) => {
                // What is read in place may have changed since it was verified.
                let bytes = self.read_bytes(pointer);
                let changed = bytes.map(|bytes| {
                    let level = Node::of(&bytes).map_or(0, |node| node.level());
                    Node::verify(&bytes, pointer, level, self.meta.identity).err()
                });
                match changed {
                    Ok(Some(why @ Refused::Corrupt(..))) => self.refuse(pointer, why),
                    Ok(_) => {
                        let place = place(Some(pointer.page), self.offset(pointer));
                        let what = format!("{what}, in {place}");
                        Error::Unsupported { file: self.file.path.to_path_buf(), what }
                    }
                    Err(error) => error,
                }
            }
        }
    }

    /// The error for a node that two pointers lead to.
    #[cold]
    pub(crate) fn used_twice(&self, pointer: NodePointer) -> Error {
        let found = format!("pages from {} on used twice", pointer.page);
        self.refuse(pointer, Refused::Corrupt("pages with one use", found))
    }

    /// Takes pages that are free, or new ones.
    fn take(&self, pages: u64) -> Result<u64> {
        let page_bytes = u64::from(self.meta.page_bytes);
        if let Some(page) = self.space.lock().take(pages) {
            return Ok(page);
        }
        let _one = self.growing.lock();
        let (end, allocated) = {
            let space = self.space.lock();
            (space.end + pages, space.allocated)
        };
        let mut grown = allocated;
        if end > allocated {
            let step = (allocated * page_bytes / 8).clamp(GROW_BYTES_MIN, GROW_BYTES_MAX);
            grown = end.max(allocated + step / page_bytes);
            let room = |grown: u64| {
                self.file.allocate(allocated * page_bytes, (grown - allocated) * page_bytes)
            };
            match room(grown) {
                // On a disk that is nearly full what is needed may still fit.
                Err(Error::NoSpace { .. }) if grown > end => {
                    grown = end;
                    room(grown)?;
                }
                other => other?,
            }
        }
        let mut space = self.space.lock();
        space.allocated = grown;
        space.end = end;
        self.file_pages.store(grown, Release);
        Ok(end - pages)
    }
}

/// The children of a branch around the one at `index` that follow each other in the file without a gap, among the
/// `pages` pages that it is one of.
fn side_by_side(branch: Node<'_>, index: usize, pages: u64) -> Vec<NodePointer> {
    let Some(middle) = branch.child(index) else {
        return vec![];
    };
    let end_of = |leaf: &NodePointer| leaf.page.saturating_add(leaf.pages.into());
    let part_of = |page: u64| page / pages.max(1);
    // With its last page too: what is large is read by whoever needs it.
    let is_near = |leaf: &NodePointer| {
        let last = end_of(leaf).saturating_sub(1);
        [leaf.page, last].iter().all(|page| part_of(*page) == part_of(middle.page))
    };
    let mut leaves = vec![middle];
    let mut first = middle;
    for before in (0..index).rev().map_while(|index| branch.child(index)) {
        if end_of(&before) != first.page || !is_near(&before) {
            break;
        }
        leaves.push(before);
        first = before;
    }
    leaves.reverse();
    let mut end = end_of(&middle);
    for after in (index + 1..branch.len()).map_while(|index| branch.child(index)) {
        if after.page != end || !is_near(&after) {
            break;
        }
        leaves.push(after);
        end = end_of(&after);
    }
    leaves
}

fn header_of(meta: TreeFileMeta, uuid: [u8; 16]) -> FileHeader {
    let TreeFileMeta { file_id, identity, .. } = meta;
    FileHeader { kind: FileKind::Tree, uuid, file_id, identity }
}

/// Pages are used again, but what is cached of one use is not found by the pointers of the next. (Should
/// generations come round, the node's header tells.)
fn cache_key(pointer: NodePointer) -> u64 {
    pointer.page | pointer.generation << 40
}

/// Pages that were written and are durable.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) pages: PageSet,
    /// All of them are below this one, and after a loss of power the file is so long. 0: nothing was written.
    pub(crate) end: u64,
}

/// Nodes being written, into pages that nothing names yet. Dropped without [`NewPages::finish`], it gives
/// the pages back.
pub(crate) struct NewPages<'a> {
    pager: &'a Pager,
    generation: u64,
    /// How many syncs had failed before anything was written.
    failed_syncs: u64,
    taken: Vec<PageRun>,
    /// Nodes that lie one behind the other from page `at` on, not written yet.
    bytes: Vec<u8>,
    at: u64,
    /// Where they are.
    pointers: Vec<NodePointer>,
}

impl NewPages<'_> {
    /// Writes a node.
    pub(crate) fn add(&mut self, node: &NodeBuilder) -> Result<NodePointer> {
        let page_bytes = self.pager.page_bytes();
        let pages = node.encoded_len().div_ceil(page_bytes);
        let Ok(pages) = u16::try_from(pages) else {
            let why = format!("a node of the tree of {pages} pages");
            return Err(Error::InvalidArgument { what: "page_size", why });
        };
        let page = self.pager.take(pages.into())?;
        match self.taken.last_mut() {
            Some(last) if last.end() == page => last.pages += u64::from(pages),
            _ => self.taken.push(PageRun { first: page, pages: pages.into() }),
        }
        let follows = self.at + (self.bytes.len() / page_bytes) as u64 == page;
        if !follows || self.bytes.len() >= WRITE_BYTES {
            self.write_out()?;
        }
        if self.bytes.is_empty() {
            self.at = page;
        }
        let pointer = NodePointer { page, pages, generation: self.generation };
        let start = self.bytes.len();
        node.encode(usize::from(pages) * page_bytes, &mut self.bytes);
        let header = NodeHeader { pointer, level: node.level() };
        header.seal(&mut self.bytes[start..], self.pager.meta.identity);
        self.pointers.push(pointer);
        Ok(pointer)
    }

    /// The node that was written last.
    pub(crate) fn last(&self, pointer: NodePointer) -> &[u8] {
        let len = usize::from(pointer.pages) * self.pager.page_bytes();
        &self.bytes[self.bytes.len().saturating_sub(len)..]
    }

    /// Writes what was gathered to the file and to its frames.
    fn write_out(&mut self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let pager = self.pager;
        let (page_bytes, at) = (pager.page_bytes(), self.at);
        pager.in_place().forget(at..at + (self.bytes.len() / page_bytes) as u64);
        let start_of = |pointer: NodePointer| (pointer.page - at) as usize * page_bytes;
        let nodes = self.pointers.iter().map(|pointer| {
            let start = start_of(*pointer);
            (*pointer, &self.bytes[start..start + usize::from(pointer.pages) * page_bytes])
        });
        pager.frames.put(nodes);
        let offset = at * page_bytes as u64;
        pager.file.write_all_at(&self.bytes, offset)?;
        pager.file.file.begin_writeback(offset, self.bytes.len() as u64);
        self.bytes.clear();
        self.pointers.clear();
        Ok(())
    }

    /// Makes what was written durable, unless a sync that failed since the first write may have lost some of it:
    /// then its pages count as clean, and no later sync writes them.
    fn sync(&self) -> Result<()> {
        let mut failure = self.pager.failure.lock();
        let synced = self.pager.file.sync_all();
        if let Err(error) = &synced {
            *failure = Some(error.clone());
            self.pager.failed_syncs.fetch_add(1, Release);
        }
        match &*failure {
            // It is for the same reason that this is not durable: on a disk that was full, say.
            Some(lost)
                if synced.is_ok() && self.pager.failed_syncs.load(Acquire) != self.failed_syncs =>
            {
                crate::sync::sometimes("pager: a sync of another failed meanwhile");
                Err(lost.clone())
            }
            _ => synced,
        }
    }

    /// Makes all of it durable, and says which pages it takes. They stay taken.
    pub(crate) fn finish(mut self) -> Result<Taken> {
        self.write_out()?;
        // No further: others may have taken pages behind these, or the file ends before those that are free.
        let end = self.taken.iter().map(|run| run.end()).max().unwrap_or(0);
        if end > 0 {
            self.sync()?;
            self.pager.map_all();
        }
        let pages = std::mem::take(&mut self.taken).into_iter().collect();
        Ok(Taken { pages, end })
    }
}

impl Drop for NewPages<'_> {
    fn drop(&mut self) {
        self.pager.give_back(std::mem::take(&mut self.taken));
    }
}
