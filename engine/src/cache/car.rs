//! One shard: the two clocks, the two lists of ghosts, and the replacement between them. Sizes
//! are bytes, where the paper counts pages of one size.

use super::{CacheStats, Hint, Key, table::Table};
use crate::{sync::Ordering, types::FileId};
use std::sync::Arc;

/// What holding a block costs beside its bytes: its slot and its share of the table, and those
/// of a ghost.
const SLOT_BYTES: usize = 192;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// The clock of blocks seen once.
    Once,
    /// The clock of blocks seen again.
    Often,
    /// Ghosts of blocks evicted from `Once`: their keys alone.
    OnceGone,
    /// Ghosts of blocks evicted from `Often`.
    OftenGone,
    /// The slot is free.
    Free,
}

/// What a hit reads: half a cache line.
#[repr(align(32))]
struct Block<V: ?Sized> {
    key: Key,
    /// Held exactly while on one of the two clocks.
    value: Option<Arc<V>>,
}

/// What else there is to know of a block.
struct Slot {
    /// The low half of the key's hash.
    hash: u32,
    place: Place,
    prev: u32,
    next: u32,
    bytes: usize,
}

/// A doubly linked list through the slots. A clock's hand points at `first`.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
    bytes: usize,
}

pub(super) struct Shard<V: ?Sized> {
    limit: usize,
    /// The bytes that `Once` should have. Between 0 and `limit`.
    once_target: usize,
    blocks: Vec<Block<V>>,
    /// Set by a hit, cleared when the hand passes. One for each of `blocks`, as are `slots`.
    referenced: Vec<bool>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    table: Table,
    lists: [List; 4],
    stats: CacheStats,
}

impl<V: ?Sized> Shard<V> {
    pub(super) fn new(limit: usize) -> Shard<V> {
        let list = List { first: NONE, last: NONE, bytes: 0 };
        Shard {
            limit,
            once_target: 0,
            blocks: vec![],
            referenced: vec![],
            slots: vec![],
            free: vec![],
            table: Table::new(),
            lists: [list; 4],
            stats: CacheStats::default(),
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        CacheStats { bytes: self.held(), ..self.stats }
    }

    fn held(&self) -> usize {
        self.bytes(Place::Once) + self.bytes(Place::Often)
    }

    fn bytes(&self, place: Place) -> usize {
        self.lists[place as usize].bytes
    }

    #[inline]
    fn find(&self, key: Key, hash: u64) -> Option<u32> {
        self.table.find(hash as u32, |i| self.blocks[i as usize].key == key)
    }

    #[inline]
    pub(super) fn get(&mut self, key: Key, hash: u64, hinted: u32, hint: &Hint) -> Option<Arc<V>> {
        let found = match self.blocks.get(hinted as usize) {
            Some(block) if block.key == key && block.value.is_some() => Some(hinted),
            _ => self.find(key, hash),
        };
        if let Some(index) = found {
            if index != hinted {
                hint.0.store(index, Ordering::Relaxed);
            }
            if let Some(value) = &self.blocks[index as usize].value {
                self.referenced[index as usize] = true;
                self.stats.hits += 1;
                return Some(value.clone());
            }
        }
        self.stats.misses += 1;
        None
    }

    /// Whether so many bytes fit without an eviction.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        bytes.saturating_add(SLOT_BYTES).saturating_add(self.held()) <= self.limit
    }

    /// Holds `value` and returns what had to go.
    pub(super) fn insert(
        &mut self,
        key: Key,
        hash: u64,
        value: Arc<V>,
        bytes: usize,
    ) -> Vec<Arc<V>> {
        let bytes = bytes.saturating_add(SLOT_BYTES);
        let known = self.find(key, hash);
        let held = known.is_some_and(|i| self.blocks[i as usize].value.is_some());
        if bytes > self.limit || held {
            return vec![];
        }
        let evicted = self.make_room(bytes);
        let place = match known {
            None => Place::Once,
            Some(ghost) => {
                self.adapt(self.slots[ghost as usize].place, bytes);
                self.forget(ghost);
                Place::Often
            }
        };
        let slot = Slot { hash: hash as u32, place: Place::Free, prev: NONE, next: NONE, bytes };
        let value = Some(value);
        let index = self.fill(Block { key, value }, slot);
        self.table.insert(hash as u32, index);
        self.link(index, place);
        self.drop_ghosts();
        self.stats.inserted += 1;
        self.stats.evicted += evicted.len() as u64;
        evicted
    }

    /// Turns the hands until `bytes` more fit. Every step evicts or clears a bit.
    fn make_room(&mut self, bytes: usize) -> Vec<Arc<V>> {
        let mut evicted = vec![];
        while self.held() + bytes > self.limit {
            let once = self.lists[Place::Once as usize];
            let often = self.lists[Place::Often as usize];
            let from_once = once.bytes >= self.once_target.max(1) || often.first == NONE;
            let (index, ghosts) = match from_once {
                true => (once.first, Place::OnceGone),
                false => (often.first, Place::OftenGone),
            };
            let to = if std::mem::take(&mut self.referenced[index as usize]) {
                Place::Often
            } else {
                evicted.extend(self.blocks[index as usize].value.take());
                ghosts
            };
            self.unlink(index);
            self.link(index, to);
        }
        evicted
    }

    /// A block came back after its eviction: the clock that it fell from should be larger.
    fn adapt(&mut self, ghost: Place, bytes: usize) {
        let once = self.bytes(Place::OnceGone).max(1);
        let often = self.bytes(Place::OftenGone).max(1);
        self.once_target = if ghost == Place::OnceGone {
            let step = bytes.saturating_mul((often / once).max(1));
            self.once_target.saturating_add(step).min(self.limit)
        } else {
            let step = bytes.saturating_mul((once / often).max(1));
            self.once_target.saturating_sub(step)
        };
    }

    /// Blocks seen once and their ghosts together stay within the limit, all within twice that.
    fn drop_ghosts(&mut self) {
        let first = |shard: &Self, place: Place| shard.lists[place as usize].first;
        while self.bytes(Place::Once) + self.bytes(Place::OnceGone) > self.limit
            && first(self, Place::OnceGone) != NONE
        {
            self.forget(first(self, Place::OnceGone));
        }
        while self.lists.iter().map(|l| l.bytes).sum::<usize>() > 2 * self.limit
            && first(self, Place::OftenGone) != NONE
        {
            self.forget(first(self, Place::OftenGone));
        }
    }

    pub(super) fn remove_file(&mut self, file: FileId) -> Vec<Arc<V>> {
        let mut removed = vec![];
        for index in 0..self.slots.len() {
            let block = &mut self.blocks[index];
            if block.key.file == file && self.slots[index].place != Place::Free {
                removed.extend(block.value.take());
                self.forget(index as u32);
            }
        }
        removed
    }

    /// Puts a block where there is none and returns where.
    fn fill(&mut self, block: Block<V>, slot: Slot) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.blocks[index as usize] = block;
                self.referenced[index as usize] = false;
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.blocks.push(block);
                self.referenced.push(false);
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// Frees a slot that is on a list.
    fn forget(&mut self, index: u32) {
        self.unlink(index);
        self.blocks[index as usize].value = None;
        let slot = &mut self.slots[index as usize];
        slot.place = Place::Free;
        self.table.remove(slot.hash, index);
        self.free.push(index);
    }

    /// Appends to the list of `place`.
    fn link(&mut self, index: u32, place: Place) {
        let list = &mut self.lists[place as usize];
        let last = std::mem::replace(&mut list.last, index);
        let slot = &mut self.slots[index as usize];
        slot.place = place;
        slot.prev = last;
        slot.next = NONE;
        list.bytes += slot.bytes;
        match last {
            NONE => list.first = index,
            last => self.slots[last as usize].next = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        let (prev, next) = (slot.prev, slot.next);
        let list = &mut self.lists[slot.place as usize];
        list.bytes -= slot.bytes;
        match prev {
            NONE => list.first = next,
            prev => self.slots[prev as usize].next = next,
        }
        match next {
            NONE => list.last = prev,
            next => self.slots[next as usize].prev = prev,
        }
    }
}
