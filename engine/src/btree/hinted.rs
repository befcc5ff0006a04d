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
//!
//! That there is no hint is an answer where the tree has nothing that was not put into the table ([`Hinted::has_all`]).
//! So it is with a tree that merges alone have made since the database was opened, if no load made the table larger
//! meanwhile: all of its entries were put by the merges that wrote its leaves, before anybody saw it, into this table or
//! one that this was grown from behind that.

use super::{Bytes, Found, spot};
use crate::{
    cache::hints::{Hints, Spot},
    format::node::{Node, NodeBuilder, NodePointer},
    pager::{InPlace, prefetch_entry},
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

/// Two bits for each page: whether a leaf begins there, and whether it has more pages than one.
struct Chunk([[AtomicU64; 2]; CHUNK_WORDS]);

/// Leaves of one tree that were read in place, by their first pages.
pub(crate) struct Leaves {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
}

impl Leaves {
    /// None yet, of so many pages that are read in place.
    pub(crate) fn new(pages: u64) -> Leaves {
        Leaves { chunks: (0..pages.div_ceil(CHUNK_PAGES)).map(|_| OnceLock::new()).collect() }
    }

    /// Those of the tree that a merge made of this one, which let go of the nodes `freed`: all that the new
    /// tree does not have. Of the `pages` pages that are read in place now, those below `kept` are read as
    /// before; about the others nothing is known. Nothing is shared: what is added to one set need not be true
    /// of the other.
    pub(crate) fn without(&self, freed: &[NodePointer], kept: u64, pages: u64) -> Leaves {
        let copy = |chunk: &Chunk| {
            // A leaf that is added meanwhile is there whole or not at all.
            Chunk(chunk.0.each_ref().map(|[leaves, long]| {
                let leaves = leaves.load(Acquire);
                [AtomicU64::new(leaves), AtomicU64::new(long.load(Relaxed))]
            }))
        };
        let mut next = Leaves::new(pages);
        let chunks = self.chunks.iter().zip(&mut next.chunks);
        for (old, new) in chunks.take(kept.div_ceil(CHUNK_PAGES) as usize) {
            if let Some(chunk) = old.get() {
                *new = OnceLock::from(Box::new(copy(chunk)));
            }
        }
        (kept..kept.next_multiple_of(CHUNK_PAGES)).for_each(|page| next.remove(page));
        freed.iter().for_each(|node| next.remove(node.page));
        next
    }

    fn remove(&self, page: u64) {
        let chunk = self.chunks.get((page / CHUNK_PAGES) as usize).and_then(|chunk| chunk.get());
        let (word, bit) = place_of(page);
        if let Some(chunk) = chunk {
            for bits in &chunk.0[word] {
                bits.fetch_and(!bit, Relaxed);
            }
        }
    }

    /// Whether the leaf that begins at a page has more than that; `None` if no leaf of the tree is known to
    /// begin there.
    #[inline]
    fn is_long(&self, page: u64) -> Option<bool> {
        let chunk = self.chunks.get((page / CHUNK_PAGES) as usize)?.get()?;
        let (word, bit) = place_of(page);
        let [leaves, long] = &chunk.0[word];
        // Acquire: who added it had verified the leaf, and said before whether it is long.
        (leaves.load(Acquire) & bit != 0).then(|| long.load(Relaxed) & bit != 0)
    }

    pub(crate) fn add(&self, leaf: NodePointer) {
        if let Some(chunk) = self.chunks.get((leaf.page / CHUNK_PAGES) as usize) {
            let none =
                || Box::new(Chunk([const { [const { AtomicU64::new(0) }; 2] }; CHUNK_WORDS]));
            let (word, bit) = place_of(leaf.page);
            let [leaves, long] = &chunk.get_or_init(none).0[word];
            if leaf.pages > 1 {
                long.fetch_or(bit, Relaxed);
            }
            leaves.fetch_or(bit, Release);
        }
    }
}

/// Where the entry of a key may be: in a leaf of the tree.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    spot: Spot,
    is_long: bool,
}

/// What is known of a key before its tree is looked at.
#[derive(Clone, Copy, Default)]
pub(crate) enum Clue {
    /// Nothing.
    #[default]
    None,
    /// The entry may be there.
    At(Place),
    /// The tree does not have it.
    Missing,
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
    /// All entries of the tree were put into `hints`.
    pub(crate) has_all: bool,
}

impl Hinted {
    /// Where the entry with a hash may be, if there is one.
    #[inline]
    pub(crate) fn find(&self, hash: u64) -> Clue {
        match self.hints.find(hash) {
            Some(spot) => match self.leaves.is_long(spot.page) {
                Some(is_long) => Clue::At(Place { spot, is_long }),
                None => Clue::None,
            },
            None if self.has_all && self.hints.keeps_all(hash) => Clue::Missing,
            None => Clue::None,
        }
    }

    /// The value of a key, if that is its place. `in_place` is where the tree is read.
    #[inline]
    pub(crate) fn get<'m>(
        &self,
        in_place: &'m InPlace,
        place: Place,
        key: &[u8],
    ) -> Option<Found<'m>> {
        let (leaf, node) = match in_place.first_page(place.spot.page)? {
            first if place.is_long => {
                let leaf = in_place.leaf(place.spot.page, first)?;
                (leaf, Node::of(leaf)?)
            }
            leaf => (leaf, Node::leaf(leaf)?),
        };
        let entry = node.entry_of(place.spot.index, key)?;
        let (at, len) = (entry.value_at, entry.value.len());
        Some(Found { node: Bytes::InPlace(leaf), at, len, is_blob: entry.is_blob })
    }

    /// Brings near what [`Hinted::get`] will read.
    #[inline]
    pub(crate) fn prefetch(&self, in_place: &InPlace, place: Place) {
        if let Some(first) = in_place.first_page(place.spot.page) {
            prefetch_entry(first, place.spot.line);
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
            self.leaves.add(pointer);
            self.hints.put(hash, found.spot(pointer, index, key));
        }
    }
}

/// Leaves hints to the entries of a leaf that was just written. Returns whether there is one to each.
/// `put` does it.
pub(crate) fn leave_hints(
    (hints, put): (&Hints, impl Fn(&Hints, u64, Spot)),
    hash: impl Fn(&[u8]) -> u64,
    leaf: &[u8],
    pointer: NodePointer,
    built: &NodeBuilder,
) -> bool {
    let Some(node) = Node::of(leaf) else {
        return false;
    };
    let page_bytes = leaf.len() / usize::from(pointer.pages);
    let hashes: Vec<u64> = built.keys().map(hash).collect();
    // Their places in the table are anywhere: all are looked up before any is waited for.
    hashes.iter().for_each(|hash| hints.prefetch(*hash));
    for (index, (key, hash)) in built.keys().zip(&hashes).enumerate() {
        let Some(entry) = node.entry(index) else {
            return false;
        };
        put(hints, *hash, spot(pointer, index, key, entry.value_at, page_bytes));
    }
    hashes.len() == node.len()
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
        let has = |leaves: &Leaves, page| leaves.is_long(page).is_some();
        assert!((0..pages).all(|page| !has(&leaves, page)));
        some.iter().for_each(|page| leaves.add(node(*page)));
        (0..pages).for_each(|page| assert_eq!(has(&leaves, page), some.contains(&page), "{page}"));
        let freed = [node(64), node(CHUNK_PAGES), node(2), node(u64::MAX >> 16)];
        let next = leaves.without(&freed, pages, pages);
        let left = [1, 63, CHUNK_PAGES - 1, pages - 1];
        (0..pages).for_each(|page| assert_eq!(has(&next, page), left.contains(&page), "{page}"));
        next.add(node(5));
        leaves.add(node(6));
        assert!(!has(&leaves, 5) && !has(&next, 6), "nothing is shared");
        assert!(has(&leaves, 64), "whoever reads the old tree still has its leaves");
        leaves.add(node(CHUNK_PAGES * 3));
        assert!(!has(&leaves, CHUNK_PAGES * 3), "behind what is read in place");
        // Of more pages than before, of which some are read in another way.
        let next = leaves.without(&[], CHUNK_PAGES + 1, pages + CHUNK_PAGES);
        for page in 0..pages + CHUNK_PAGES {
            let stays = has(&leaves, page) && page <= CHUNK_PAGES;
            assert_eq!(has(&next, page), stays, "{page}");
        }
        next.add(NodePointer { pages: 2, ..node(pages + 1) });
        assert_eq!((next.is_long(pages + 1), next.is_long(5)), (Some(true), None));
        let after = next.without(&[node(pages + 1)], pages + 2, pages + 2);
        after.add(node(pages + 1));
        assert_eq!(after.is_long(pages + 1), Some(false), "a page that is used again");
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::{cache::hints::BUCKET_BYTES, sync::Mutex, sync::model::explore};
    use shuttle::thread;
    use std::sync::Weak;

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
            let hinted = self.hints.find(KEY);
            let hinted = hinted.filter(|spot| tree.leaves.is_long(spot.page).is_some());
            let page = hinted.map_or(tree.page, |spot| spot.page as usize);
            assert_eq!(self.read(page), [tree.value; 2], "page {page} of {}", tree.page);
            if hinted.is_none() {
                tree.leaves.add(NodePointer { page: page as u64, pages: 1, generation: 1 });
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
            let mut older: Vec<(Weak<Tree>, usize)> = vec![];
            for value in 2..5 {
                // A page is written again once nobody holds a tree that has it.
                older.retain(|(tree, _)| tree.strong_count() > 0);
                let old = Arc::clone(&model.current.lock());
                let free =
                    |page: &usize| *page != old.page && older.iter().all(|(_, held)| held != page);
                let Some(page) = (1..PAGES).find(free) else {
                    continue;
                };
                model.write(page, value);
                let freed = NodePointer { page: old.page as u64, pages: 1, generation: 1 };
                let leaves = old.leaves.without(&[freed], PAGES as u64, PAGES as u64);
                *model.current.lock() = Arc::new(Tree { page, value, leaves });
                older.push((Arc::downgrade(&old), old.page));
            }
            readers.into_iter().for_each(|t| t.join().unwrap());
        });
    }
}
