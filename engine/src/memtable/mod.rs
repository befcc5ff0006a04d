//! The memtable: what was written last, in memory, for all keyspaces.
//!
//! Life of an entry: its room is reserved in the order of SeqNos, under the sequencer lock
//! ([`Memtable::reserve`]); outside it the entry is copied into the [`arena`], marked ready, and
//! linked into the hash [`index`] ([`Memtable::insert`]), by many threads at once; its commit is
//! published; sometime later an ordering pass finds it and sorts it into a run ([`order`]).
//!
//! Invariants:
//! - Nothing that was inserted ever moves, changes or goes before the memtable does. References
//!   and cursors stay valid, whatever is inserted meanwhile.
//! - Whoever reads a published SeqNo first, and then looks here, finds every entry up to it.
//!   Newer ones may be found too, by [`Memtable::get`] only if `visible` allows them.
//! - What is reserved is inserted: an entry that never comes hides all later ones from cursors.
//!
//! When to flush, and what is visible, others decide.

#[expect(
    unsafe_code,
    reason = "entries written and read in place, by many threads: the one home of raw memory"
)]
mod arena;
mod cursor;
mod index;
mod order;
mod ranges;
mod run;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
#[cfg(test)]
mod tests;

pub(crate) use arena::Reservation;
pub(crate) use cursor::MemtableCursor;

use crate::{
    blob::Blob,
    error::Result,
    iter::tombstones::{RangeTombstone, RangeTombstones},
    sync::{AtomicU64, AtomicUsize, CachePadded, Mutex, Ordering, point},
    types::{KeyspaceId, Kind, SeqKind, SeqNo},
};
use arena::Arena;
use index::{Found, Index};
use order::Order;
use ranges::RangeDeletes;
use std::{collections::BTreeSet, sync::Arc};

/// Memory is made present in steps of this many bytes.
const POPULATE_STEP_BYTES: usize = 2 << 20;

/// The entries of a range of SeqNos, of all keyspaces.
pub(crate) struct Memtable {
    arena: Arena,
    index: Index,
    order: Order,
    range_deletes: RangeDeletes,
    /// Those that entries point to.
    blobs: Mutex<Vec<Arc<Blob>>>,
    blob_bytes: AtomicU64,
    /// Entries of keys that were there before: they claim no slot.
    updates: CachePadded<AtomicUsize>,
    /// Bytes of the arena that were made present.
    populated: AtomicUsize,
}

impl Memtable {
    /// A memtable for entries whose [`entry_bytes`](Memtable::entry_bytes)
    /// add up to `capacity`. No memory is present yet: see [`Memtable::populate`].
    pub(crate) fn new(capacity: usize) -> Result<Memtable> {
        Ok(Memtable {
            arena: Arena::new(capacity)?,
            index: Index::new(capacity)?,
            order: Order::new(),
            range_deletes: RangeDeletes::new(),
            blobs: Mutex::default(),
            blob_bytes: AtomicU64::new(0),
            updates: CachePadded(AtomicUsize::new(0)),
            populated: AtomicUsize::new(0),
        })
    }

    /// A capacity with which an empty memtable has room for `entries` entries of `bytes` bytes:
    /// for a commit that no memtable of the usual capacity has room for.
    pub(crate) fn capacity_for(entries: usize, bytes: usize) -> usize {
        bytes.max(Index::capacity_for(entries))
    }

    /// Arena bytes that an entry of these lengths takes. A range delete counts as an entry whose
    /// key is its start and whose value is its end.
    #[inline]
    pub(crate) fn entry_bytes(key_len: usize, value_len: usize) -> usize {
        Arena::entry_bytes(key_len, value_len)
    }

    /// The hash of a key, which [`insert`](Memtable::insert) and [`get`](Memtable::get) ask for.
    #[inline]
    pub(crate) fn hash(keyspace: KeyspaceId, key: &[u8]) -> u64 {
        keyspace.hash(key)
    }

    /// Brings the place of a hash in the index near, ahead of its use.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Reserves room for `entries` entries that take `bytes` bytes, the sum of their
    /// [`entry_bytes`](Memtable::entry_bytes). `None`: full, and nothing was reserved.
    /// Called in the order of the SeqNos that the entries get, so under the sequencer lock.
    #[inline]
    pub(crate) fn reserve(&self, entries: usize, bytes: usize) -> Option<Reservation> {
        if self.range_deletes.is_full() {
            return None;
        }
        // Updates that are not counted yet only make this stricter.
        let entries_max = self.index.keys_max() + self.updates.0.load(Ordering::Relaxed);
        self.arena.reserve(entries, bytes, entries_max)
    }

    /// Copies an entry into the next place of the reservation, from where `get` and new cursors
    /// find it. The entries of a reservation come in the order of their SeqNos; different
    /// reservations may be filled at once and in any order. `kind` is `Put`, `Delete` or `Blob`.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the fields of one entry")]
    pub(crate) fn insert(
        &self,
        reservation: &mut Reservation,
        keyspace: KeyspaceId,
        hash: u64,
        key: &[u8],
        seq: SeqNo,
        kind: Kind,
        value: &[u8],
    ) {
        debug_assert!(kind != Kind::RangeDelete);
        debug_assert_eq!(hash, Memtable::hash(keyspace, key));
        let seq_kind = SeqKind::new(seq, kind);
        let place = (self.arena).write(reservation, keyspace, key, seq_kind, value);
        point("memtable entry ready");
        let is_new = (self.index).insert(&self.arena, hash, keyspace, key, place);
        if !is_new {
            self.updates.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Holds blobs for as long as the memtable lives: entries that are about to be inserted point to them.
    pub(crate) fn hold_blobs(&self, blobs: &[Arc<Blob>]) {
        let bytes = blobs.iter().map(|blob| u64::from(blob.pointer.len)).sum();
        self.blob_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.blobs.lock().extend(blobs.iter().cloned());
    }

    /// The blobs held.
    pub(crate) fn blobs(&self) -> Vec<Arc<Blob>> {
        self.blobs.lock().clone()
    }

    /// Bytes of the values of all blobs held.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blob_bytes.load(Ordering::Relaxed)
    }

    /// Adds a range delete. It takes the next place of the reservation too.
    pub(crate) fn insert_range_delete(
        &self,
        reservation: &mut Reservation,
        keyspace: KeyspaceId,
        tombstone: RangeTombstone,
    ) {
        let end = tombstone.end.as_deref().unwrap_or_default();
        let seq_kind = SeqKind::new(tombstone.seq, Kind::RangeDelete);
        (self.arena).write(reservation, keyspace, &tombstone.start, seq_kind, end);
        self.range_deletes.add(keyspace, tombstone);
    }

    /// The newest version of a key not above `visible`, range deletes apart.
    #[inline]
    pub(crate) fn get(
        &self,
        keyspace: KeyspaceId,
        hash: u64,
        key: &[u8],
        visible: SeqNo,
    ) -> Option<(SeqNo, Kind, &[u8])> {
        debug_assert_eq!(hash, Memtable::hash(keyspace, key));
        // Settled data is read past a memtable that holds nothing: no need to look into its index.
        if self.is_empty() {
            return None;
        }
        let entry = match (self.index).get(&self.arena, hash, keyspace, key, visible) {
            Found::Version(entry) => entry,
            Found::Nothing => return None,
            Found::TooFar => self.get_in_order(keyspace, key, visible)?,
        };
        Some((entry.seq(), entry.kind(), entry.value()))
    }

    /// What `get` gives, for a key that was written very often since `visible`.
    #[cold]
    fn get_in_order(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        visible: SeqNo,
    ) -> Option<arena::EntryRef<'_>> {
        let sorted = self.order.sorted(&self.arena, keyspace, visible);
        sorted.get(&self.arena, key, visible)
    }

    /// The newest range delete not above `visible` that covers the key. Costs one load if there
    /// are none.
    #[inline]
    pub(crate) fn covering(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        visible: SeqNo,
    ) -> Option<SeqNo> {
        self.range_deletes.covering(keyspace, key, visible)
    }

    /// All range deletes of a keyspace, fragmented.
    pub(crate) fn range_tombstones(&self, keyspace: KeyspaceId) -> Arc<RangeTombstones> {
        self.range_deletes.list(keyspace)
    }

    /// A cursor over all versions of a keyspace's keys: every one that is not above `visible`,
    /// which was read before this call, and perhaps newer ones.
    pub(crate) fn cursor(self: &Arc<Self>, keyspace: KeyspaceId, visible: SeqNo) -> MemtableCursor {
        let sorted = self.order.sorted(&self.arena, keyspace, visible);
        MemtableCursor::new(Arc::clone(self), sorted)
    }

    /// One step of putting entries in order: sorts a full chunk, or merges two long runs. For a
    /// background thread. Returns whether there was anything to do.
    pub(crate) fn sort_chunks(&self) -> bool {
        self.order.step(&self.arena)
    }

    /// Whether [`sort_chunks`](Memtable::sort_chunks) has something to do. Two loads.
    #[inline]
    pub(crate) fn has_full_unsorted_chunk(&self) -> bool {
        self.order.has_work(self.arena.reserved())
    }

    /// Makes the index and the arena present, the arena up to `ahead` bytes beyond what is
    /// reserved, so that inserting does not fault. For a background thread.
    pub(crate) fn populate(&self, ahead: usize) {
        let memory = self.arena.memory();
        if self.populated.load(Ordering::Relaxed) == 0 {
            let index = self.index.slots().memory();
            index.populate(0, index.len());
        }
        while !self.is_populated(ahead) {
            let from = self.populated.load(Ordering::Relaxed);
            let len = POPULATE_STEP_BYTES.min(memory.len() - from);
            memory.populate(from, len);
            self.populated.fetch_max(from + len, Ordering::Relaxed);
        }
    }

    /// Whether [`populate`](Memtable::populate) has nothing to do. Two loads.
    #[inline]
    pub(crate) fn is_populated(&self, ahead: usize) -> bool {
        let wanted = self.arena.reserved().bytes().saturating_add(ahead);
        self.populated.load(Ordering::Relaxed) >= wanted.min(self.arena.memory().len())
    }

    /// Bytes of the arena given out so far.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.arena.reserved().bytes()
    }

    /// The keyspaces that have entries or range deletes, in order.
    pub(crate) fn keyspaces(&self) -> Vec<KeyspaceId> {
        let mut all: BTreeSet<KeyspaceId> = self.order.keyspaces(&self.arena).into_iter().collect();
        all.extend(self.range_deletes.keyspaces());
        all.into_iter().collect()
    }

    /// Bytes held in all, whether present or not.
    pub(crate) fn memory_bytes(&self) -> usize {
        let index = self.index.slots().memory().len();
        self.arena.memory().len() + index + self.order.memory_bytes()
    }

    /// Whether nothing was written that is visible, as of what was read before this call. One load.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.arena.reserved().entries() == 0
    }
}
