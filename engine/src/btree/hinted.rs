//! Gets without a descent, by hints.
//!
//! No wrong value comes of a hint, whatever the table holds, because of [`Leaves`]:
//! - A tree's set has only first pages of leaves of that tree, each reached from its root, verified, and read
//!   in place. That a leaf is the tree's stays true for as long as the tree is held: whoever reads a tree holds
//!   its Version, and pages are written again only when no Version names a tree that has them. So there is no
//!   moment between asking the set and reading the page at which the page could change.
//! - The tree that a merge makes has a set of its own, without the pages that the merge let go. It gets pages
//!   that are used again only from reads that reach them from its own root, when they are written and durable.
//! - A key stands in a leaf of the tree at most once, so that whoever finds it there has found its newest
//!   value; the whole key is compared. The set is that of one keyspace: a page of another keyspace's tree, to
//!   which an equal tag may lead, is not in it.
//!
//! A page that is not in the set, or does not have the key at that place, is no answer: the read descends.

use super::{Bytes, Found, spot};
use crate::{
    cache::hints::{Hints, Spot},
    format::node::{Node, NodeBuilder, NodePointer},
    pager::{Mapped, prefetch_entry},
    sync::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};
use std::sync::{Arc, OnceLock};

/// Pages of a chunk.
const CHUNK_PAGES: u64 = 4096;
const WORD_BITS: u64 = u64::BITS as u64;

const CHUNK_WORDS: usize = (CHUNK_PAGES / WORD_BITS) as usize;

/// A bit for each page.
struct Chunk([AtomicU64; CHUNK_WORDS]);

/// Leaves of one tree that were read in place through one mapping, by their first pages.
pub(crate) struct Leaves {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
}

impl Leaves {
    /// None yet, of a mapping of so many pages.
    pub(crate) fn new(pages: u64) -> Leaves {
        Leaves { chunks: (0..pages.div_ceil(CHUNK_PAGES)).map(|_| OnceLock::new()).collect() }
    }

    /// Those of the tree that a merge made of this one, which let go of the nodes `freed`: all that the new
    /// tree does not have. Nothing is shared: what is added to one set need not be true of the other.
    pub(crate) fn without(&self, freed: &[NodePointer]) -> Leaves {
        let copy = |chunk: &Chunk| {
            Chunk(chunk.0.each_ref().map(|word| AtomicU64::new(word.load(Acquire))))
        };
        let chunks = self.chunks.iter().map(|chunk| match chunk.get() {
            Some(chunk) => OnceLock::from(Box::new(copy(chunk))),
            None => OnceLock::new(),
        });
        let next = Leaves { chunks: chunks.collect() };
        freed.iter().for_each(|node| next.remove(node.page));
        next
    }

    fn remove(&self, page: u64) {
        let chunk = self.chunks.get((page / CHUNK_PAGES) as usize).and_then(|chunk| chunk.get());
        let (word, bit) = place_of(page);
        if let Some(chunk) = chunk {
            chunk.0[word].fetch_and(!bit, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn has(&self, page: u64) -> bool {
        let chunk = self.chunks.get((page / CHUNK_PAGES) as usize).and_then(|chunk| chunk.get());
        let (word, bit) = place_of(page);
        // Acquire: who added it had verified the leaf.
        chunk.is_some_and(|chunk| chunk.0[word].load(Acquire) & bit != 0)
    }

    fn add(&self, page: u64) {
        if let Some(chunk) = self.chunks.get((page / CHUNK_PAGES) as usize) {
            let none = || Box::new(Chunk([const { AtomicU64::new(0) }; CHUNK_WORDS]));
            let (word, bit) = place_of(page);
            chunk.get_or_init(none).0[word].fetch_or(bit, Release);
        }
    }
}

/// A page's word of its chunk, and its bit there.
#[inline]
fn place_of(page: u64) -> (usize, u64) {
    ((page % CHUNK_PAGES / WORD_BITS) as usize, 1 << (page % WORD_BITS))
}

/// What a tree that is read in place has for its hints.
pub(crate) struct Hinted {
    pub(crate) hints: Arc<Hints>,
    pub(crate) leaves: Leaves,
}

impl Hinted {
    /// Where the entry with a hash may be, if that is in a leaf of the tree.
    #[inline]
    fn find(&self, hash: u64) -> Option<Spot> {
        self.hints.find(hash).filter(|spot| self.leaves.has(spot.page))
    }

    /// The value of a key, if there is a hint to it. `mapped` is what the tree is read through.
    #[inline]
    pub(crate) fn get<'m>(&self, mapped: &'m Mapped, hash: u64, key: &[u8]) -> Option<Found<'m>> {
        let spot = self.find(hash)?;
        let first = mapped.first_page(spot.page)?;
        prefetch_entry(first, spot.line);
        let leaf = mapped.leaf(spot.page, first)?;
        let entry = Node::of(leaf)?.entry_of(spot.index, key)?;
        let (at, len) = (entry.value_at, entry.value.len());
        Some(Found { node: Bytes::InPlace(leaf), at, len })
    }

    /// Brings near what [`Hinted::get`] will read of the leaf.
    #[inline]
    pub(crate) fn prefetch(&self, mapped: &Mapped, hash: u64) {
        if let Some(spot) = self.find(hash)
            && let Some(first) = mapped.first_page(spot.page)
        {
            prefetch_entry(first, spot.line);
        }
    }

    /// Remembers an entry that a descent of the tree found in the leaf at `pointer`, where it lies.
    pub(crate) fn remember(
        &self,
        hash: u64,
        key: &[u8],
        found: &Found<'_>,
        pointer: NodePointer,
        index: usize,
    ) {
        if let Bytes::InPlace(_) = found.node {
            if self.hints.find(hash).is_some() {
                crate::sync::sometimes("tree: a hint leads to nothing");
            }
            self.leaves.add(pointer.page);
            self.hints.put(hash, found.spot(pointer, index, key));
        }
    }
}

/// Leaves hints to the entries of a leaf that was just written.
pub(crate) fn leave_hints(
    hints: &Hints,
    hash: impl Fn(&[u8]) -> u64,
    leaf: &[u8],
    pointer: NodePointer,
    built: &NodeBuilder,
) {
    let Some(node) = Node::of(leaf) else {
        return;
    };
    let page_bytes = leaf.len() / usize::from(pointer.pages);
    for (index, key) in built.keys().enumerate() {
        if let Some(entry) = node.entry(index) {
            hints.put(hash(key), spot(pointer, index, key, entry.value_at, page_bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(page: u64) -> NodePointer {
        NodePointer { page, pages: 1, generation: 1 }
    }

    #[test]
    fn a_tree_has_the_leaves_that_were_added_and_not_let_go() {
        let pages = CHUNK_PAGES * 2 + 1;
        let leaves = Leaves::new(pages);
        let some = [1, 63, 64, CHUNK_PAGES - 1, CHUNK_PAGES, pages - 1];
        assert!((0..pages).all(|page| !leaves.has(page)));
        some.iter().for_each(|page| leaves.add(*page));
        (0..pages).for_each(|page| assert_eq!(leaves.has(page), some.contains(&page), "{page}"));
        let next = leaves.without(&[node(64), node(CHUNK_PAGES), node(2), node(u64::MAX >> 16)]);
        let left = [1, 63, CHUNK_PAGES - 1, pages - 1];
        (0..pages).for_each(|page| assert_eq!(next.has(page), left.contains(&page), "{page}"));
        next.add(5);
        leaves.add(6);
        assert!(!leaves.has(5) && !next.has(6), "nothing is shared");
        assert!(leaves.has(64), "whoever reads the old tree still has its leaves");
        leaves.add(CHUNK_PAGES * 3);
        assert!(!leaves.has(CHUNK_PAGES * 3), "behind the mapping");
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::{cache::hints::BUCKET_BYTES, sync::Mutex, sync::model::explore};
    use shuttle::thread;

    const KEY: u64 = 7;
    /// Pages of the model's file. No node begins at the first.
    const PAGES: usize = 3;

    /// A tree of one leaf, which has the value of the key twice.
    struct Tree {
        page: usize,
        value: u64,
        leaves: Leaves,
    }

    struct Model {
        pages: [[AtomicU64; 2]; PAGES],
        hints: Hints,
        current: Mutex<Arc<Tree>>,
    }

    impl Model {
        fn write(&self, page: usize, value: u64) {
            self.pages[page].iter().for_each(|half| half.store(value, Relaxed));
        }

        fn read(&self, page: usize) -> [u64; 2] {
            self.pages[page].each_ref().map(|half| half.load(Relaxed))
        }

        fn get(&self) {
            let tree = Arc::clone(&self.current.lock());
            let hinted = self.hints.find(KEY).filter(|spot| tree.leaves.has(spot.page));
            let page = hinted.map_or(tree.page, |spot| spot.page as usize);
            assert_eq!(self.read(page), [tree.value; 2], "page {page} of {}", tree.page);
            if hinted.is_none() {
                tree.leaves.add(page as u64);
                self.hints.put(KEY, Spot { page: page as u64, index: 0, line: 0 });
            }
        }
    }

    /// Reads by hint while merges write pages anew that older trees had: each reads the value of the tree
    /// that it holds, whole.
    #[test]
    fn shuttle_no_hint_leads_to_a_page_that_is_used_again() {
        explore(|| {
            let tree = Tree { page: 1, value: 1, leaves: Leaves::new(PAGES as u64) };
            let model = Arc::new(Model {
                pages: std::array::from_fn(|_| [1, 1].map(AtomicU64::new)),
                hints: Hints::new(BUCKET_BYTES).unwrap(),
                current: Mutex::new(Arc::new(tree)),
            });
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let model = model.clone();
                    thread::spawn(move || (0..3).for_each(|_| model.get()))
                })
                .collect();
            let mut older: Vec<Arc<Tree>> = vec![];
            for value in 2..5 {
                // A page is written again once nobody holds a tree that has it.
                older.retain(|tree| Arc::strong_count(tree) > 1);
                let old = Arc::clone(&model.current.lock());
                let free =
                    |page: &usize| *page != old.page && older.iter().all(|tree| tree.page != *page);
                let Some(page) = (1..PAGES).find(free) else {
                    continue;
                };
                model.write(page, value);
                let freed = NodePointer { page: old.page as u64, pages: 1, generation: 1 };
                let leaves = old.leaves.without(&[freed]);
                *model.current.lock() = Arc::new(Tree { page, value, leaves });
                older.push(old);
            }
            readers.into_iter().for_each(|t| t.join().unwrap());
        });
    }
}
