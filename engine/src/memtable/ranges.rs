//! The range tombstones of a memtable.
//!
//! A list that only grows, in blocks. Readers walk it without a lock, up to the count that they
//! read; a full block carries its tombstones fragmented, so that a lookup costs one binary search
//! a block. Each block is fragmented for itself: the fragments of n ranges that lie within each
//! other hold n² SeqNos, and a block is small.

use crate::{
    iter::tombstones::{RangeTombstone, RangeTombstones},
    sync::{AtomicUsize, Mutex, Ordering, point},
    types::{KeyspaceId, SeqNo},
};
use std::{
    array,
    collections::BTreeMap,
    iter::successors,
    sync::{Arc, OnceLock},
};

const BLOCK: usize = 64;
/// A memtable with so many is full, which bounds what a lookup costs.
const TOMBSTONES_MAX: usize = 1024;

pub(super) struct RangeDeletes {
    /// How many there are, all of them whole.
    count: AtomicUsize,
    first: Block,
    /// What all tombstones of a keyspace fragment to, and how many there were of all keyspaces
    /// then. Locked while adding, so that one adds at a time.
    lists: Mutex<BTreeMap<KeyspaceId, (usize, Arc<RangeTombstones>)>>,
}

struct Block {
    tombstones: [OnceLock<(KeyspaceId, RangeTombstone)>; BLOCK],
    /// Set when the block is full.
    fragments: OnceLock<BTreeMap<KeyspaceId, RangeTombstones>>,
    next: OnceLock<Box<Block>>,
}

impl RangeDeletes {
    pub(super) fn new() -> RangeDeletes {
        RangeDeletes {
            count: AtomicUsize::new(0),
            first: Block::new(),
            lists: Mutex::new(BTreeMap::new()),
        }
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= TOMBSTONES_MAX
    }

    pub(super) fn add(&self, keyspace: KeyspaceId, tombstone: RangeTombstone) {
        let _one_at_a_time = self.lists.lock();
        let count = self.count.load(Ordering::Relaxed);
        let mut block = &self.first;
        for _ in 0..count / BLOCK {
            block = block.next.get_or_init(|| Box::new(Block::new()));
        }
        block.tombstones[count % BLOCK].get_or_init(|| (keyspace, tombstone));
        if (count + 1).is_multiple_of(BLOCK) {
            block.fragments.get_or_init(|| block.fragment());
        }
        point("memtable range delete");
        // Release: whoever reads the count sees the tombstone.
        self.count.store(count + 1, Ordering::Release);
    }

    /// The newest range delete not above `visible` that covers the key.
    #[inline]
    pub(super) fn covering(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        visible: SeqNo,
    ) -> Option<SeqNo> {
        match self.count.load(Ordering::Acquire) {
            0 => None,
            count => (self.blocks(count))
                .filter_map(|(block, len)| block.covering(len, keyspace, key, visible))
                .max(),
        }
    }

    /// All range deletes of a keyspace.
    pub(super) fn list(&self, keyspace: KeyspaceId) -> Arc<RangeTombstones> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Arc::default();
        }
        let mut lists = self.lists.lock();
        let count = self.count.load(Ordering::Acquire);
        let (fragmented, list) = lists.entry(keyspace).or_default();
        if *fragmented != count {
            let tombstones: Vec<RangeTombstone> = (self.all(count))
                .filter(|(of, _)| *of == keyspace)
                .map(|(_, tombstone)| tombstone.clone())
                .collect();
            (*fragmented, *list) = (count, Arc::new(RangeTombstones::new(&tombstones)));
        }
        Arc::clone(list)
    }

    /// The keyspaces that have range deletes, each perhaps more than once.
    pub(super) fn keyspaces(&self) -> impl Iterator<Item = KeyspaceId> {
        let count = self.count.load(Ordering::Acquire);
        self.all(count).map(|(keyspace, _)| *keyspace)
    }

    fn all(&self, count: usize) -> impl Iterator<Item = &(KeyspaceId, RangeTombstone)> {
        self.blocks(count)
            .flat_map(|(block, len)| block.tombstones[..len].iter().filter_map(OnceLock::get))
    }

    /// The blocks of the first `count` tombstones, each with how many of those it holds.
    fn blocks(&self, count: usize) -> impl Iterator<Item = (&Block, usize)> {
        successors(Some(&self.first), |block| block.next.get().map(|b| &**b))
            .zip((0..count).step_by(BLOCK))
            .map(move |(block, start)| (block, BLOCK.min(count - start)))
    }
}

impl Block {
    fn new() -> Block {
        Block {
            tombstones: array::from_fn(|_| OnceLock::new()),
            fragments: OnceLock::new(),
            next: OnceLock::new(),
        }
    }

    /// Of the first `len` tombstones, the newest that is not above `visible` and covers the key.
    fn covering(
        &self,
        len: usize,
        keyspace: KeyspaceId,
        key: &[u8],
        visible: SeqNo,
    ) -> Option<SeqNo> {
        if len == BLOCK
            && let Some(fragments) = self.fragments.get()
        {
            return fragments.get(&keyspace)?.covering(key, visible);
        }
        (self.tombstones[..len].iter().filter_map(OnceLock::get))
            .filter(|(of, t)| *of == keyspace && t.seq <= visible)
            .filter(|(_, t)| t.start.as_slice() <= key)
            .filter(|(_, t)| t.end.as_deref().is_none_or(|end| key < end))
            .map(|(_, t)| t.seq)
            .max()
    }

    fn fragment(&self) -> BTreeMap<KeyspaceId, RangeTombstones> {
        let mut of: BTreeMap<KeyspaceId, Vec<RangeTombstone>> = BTreeMap::new();
        for (keyspace, tombstone) in self.tombstones.iter().filter_map(OnceLock::get) {
            of.entry(*keyspace).or_default().push(tombstone.clone());
        }
        of.into_iter().map(|(keyspace, list)| (keyspace, RangeTombstones::new(&list))).collect()
    }
}

impl Drop for RangeDeletes {
    /// One block after the other: a long list must not become a deep recursion.
    fn drop(&mut self) {
        let mut next = self.first.next.take();
        while let Some(mut block) = next {
            next = block.next.take();
        }
    }
}
