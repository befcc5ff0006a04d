//! Order, made apart from the hot path: the entries of each keyspace in sorted runs.
//!
//! An ordering pass walks the arena from where the last one ended. It stops at the first entry
//! that is not ready and never skips one, so that every entry up to the SeqNo of the last one
//! walked is in some run. At most [`CHUNK`] entries at a time become a new run; small runs are
//! merged at once, so that the newest partial chunk stays a handful of runs even if a scan follows
//! every write; large ones are merged by doubling, by the background thread and without the lock.
//!
//! Runs never change. A cursor keeps those that it began with.

use super::{
    arena::{Arena, EntryRef, Place, Reserved, Walk},
    run::{Item, Run},
};
use crate::{
    sync::{AtomicBool, AtomicU32, AtomicUsize, CachePadded, Mutex, Ordering},
    types::{KeyspaceId, Kind, SeqNo},
};
use std::{collections::BTreeMap, sync::Arc};

/// Entries that an ordering pass sorts at a time.
pub(super) const CHUNK: usize = if cfg!(miri) { 16 } else { 4096 };
/// After so many shrinkings of a keyspace's common prefix it is given up, because every
/// shrinking makes all heads anew.
const SHRINKINGS_MAX: u32 = 8;

/// The ordered entries of one keyspace.
#[derive(Clone, Default)]
pub(super) struct Sorted {
    /// Every key begins with it, and no item's head contains it.
    prefix: Vec<u8>,
    shrinkings: u32,
    /// Longest first.
    pub(super) runs: Vec<Arc<Run>>,
}

impl Sorted {
    /// The number of entries of `run` that come before (`key`, `newest`): those with smaller keys,
    /// and those of the same key with SeqNos above `newest`.
    pub(super) fn before(&self, arena: &Arena, run: &Run, key: &[u8], newest: SeqNo) -> usize {
        let Some(rest) = key.strip_prefix(self.prefix.as_slice()) else {
            return if key < self.prefix.as_slice() {
                0
            } else {
                run.len()
            };
        };
        run.before(arena, key, rest, newest)
    }

    /// The newest version of `key` not above `visible`.
    pub(super) fn get<'a>(
        &self,
        arena: &'a Arena,
        key: &[u8],
        visible: SeqNo,
    ) -> Option<EntryRef<'a>> {
        self.runs
            .iter()
            .filter_map(|run| run.get(self.before(arena, run, key, visible)))
            .map(|item| arena.entry(item.place))
            .filter(|entry| entry.key() == key)
            .max_by_key(|entry| entry.seq())
    }

    /// Adds the entries at `places` as a run, then merges small runs.
    fn add(&mut self, arena: &Arena, places: impl Iterator<Item = Place> + Clone) {
        self.share_prefix(arena, places.clone());
        let mut run = Run::sort(arena, self.prefix.len(), places);
        // Each run at least three times as long as the next.
        while let Some(small) = self
            .runs
            .pop_if(|last| last.len() < 3 * run.len() && last.len() + run.len() <= CHUNK)
        {
            run = Run::merge(arena, &small, &run);
        }
        self.push(Arc::new(run));
    }

    fn push(&mut self, run: Arc<Run>) {
        let at = self.runs.partition_point(|r| r.len() >= run.len());
        self.runs.insert(at, run);
    }

    /// Cuts the prefix down to what the keys at `places` have in common with it.
    fn share_prefix(&mut self, arena: &Arena, places: impl Iterator<Item = Place>) {
        let mut keys = places.map(|place| arena.entry(place).key());
        if self.runs.is_empty() {
            self.prefix = keys.next().unwrap_or_default().to_vec();
        }
        let mut len = self.prefix.len();
        for key in keys {
            if !key.starts_with(&self.prefix[..len]) {
                len = (self.prefix.iter().zip(key))
                    .take_while(|(a, b)| a == b)
                    .count();
            }
        }
        if len == self.prefix.len() {
            return;
        }
        self.shrinkings += 1;
        self.prefix.truncate(if self.shrinkings > SHRINKINGS_MAX {
            0
        } else {
            len
        });
        let skip = self.prefix.len();
        for run in &mut self.runs {
            *run = Arc::new(run.with_skip(arena, skip));
        }
    }

    /// Two runs that are to become one: the longest two neighbours of which one is less than
    /// twice the other. Only those too long to be merged at once count.
    fn mergeable(&self) -> Option<(Arc<Run>, Arc<Run>)> {
        self.runs.windows(2).find_map(|two| {
            let (long, short) = (&two[0], &two[1]);
            (long.len() < 2 * short.len() && long.len() + short.len() > CHUNK)
                .then(|| (Arc::clone(long), Arc::clone(short)))
        })
    }

    /// Replaces two runs by what they were merged to, unless they are gone by now.
    fn replace(&mut self, old: &(Arc<Run>, Arc<Run>), merged: Run) {
        let is_old = |run: &Arc<Run>| Arc::ptr_eq(run, &old.0) || Arc::ptr_eq(run, &old.1);
        if self.runs.iter().filter(|run| is_old(run)).count() == 2 {
            self.runs.retain(|run| !is_old(run));
            self.push(Arc::new(merged));
        }
    }
}

/// The runs of all keyspaces.
pub(super) struct Order {
    state: CachePadded<Mutex<State>>,
    /// How many entries were walked. Written under the lock.
    walked: AtomicU32,
    /// Whether long runs wait to be merged. Written under the lock.
    mergeable: AtomicBool,
    /// Held by the one who merges long runs, while the state is not locked.
    merging: Mutex<()>,
    item_bytes: AtomicUsize,
}

struct State {
    walk: Walk,
    /// Of the entry walked last.
    last: Option<SeqNo>,
    keyspaces: BTreeMap<KeyspaceId, Arc<Sorted>>,
}

impl Order {
    pub(super) fn new() -> Order {
        Order {
            state: CachePadded(Mutex::new(State {
                walk: Walk::new(),
                last: None,
                keyspaces: BTreeMap::new(),
            })),
            walked: AtomicU32::new(0),
            mergeable: AtomicBool::new(false),
            merging: Mutex::new(()),
            item_bytes: AtomicUsize::new(0),
        }
    }

    /// The entries of one keyspace, among them all whose SeqNo is not above `visible`, which was
    /// read before.
    pub(super) fn sorted(
        &self,
        arena: &Arena,
        keyspace: KeyspaceId,
        visible: SeqNo,
    ) -> Arc<Sorted> {
        let end = arena.reserved();
        let mut state = self.state.0.lock();
        while state.last.is_none_or(|last| last < visible)
            && self.order_chunk(arena, end, &mut state)
        {}
        state.keyspaces.get(&keyspace).cloned().unwrap_or_default()
    }

    /// The keyspaces of all entries that are ready.
    pub(super) fn keyspaces(&self, arena: &Arena) -> Vec<KeyspaceId> {
        let end = arena.reserved();
        let mut state = self.state.0.lock();
        while self.order_chunk(arena, end, &mut state) {}
        state.keyspaces.keys().copied().collect()
    }

    /// Whether [`Order::step`] finds something to do, unless others are doing it.
    #[inline]
    pub(super) fn has_work(&self, reserved: Reserved) -> bool {
        // Relaxed: a hint.
        let unordered = (reserved.entries()).saturating_sub(self.walked.load(Ordering::Relaxed));
        unordered as usize >= CHUNK || self.mergeable.load(Ordering::Relaxed)
    }

    /// Sorts one full chunk, or merges two long runs. Returns whether there was any.
    pub(super) fn step(&self, arena: &Arena) -> bool {
        let end = arena.reserved();
        if !self.has_work(end) {
            return false;
        }
        let mut state = self.state.0.lock();
        let unordered = end
            .entries()
            .saturating_sub(self.walked.load(Ordering::Relaxed));
        if unordered as usize >= CHUNK && self.order_chunk(arena, end, &mut state) {
            return true;
        }
        drop(state);
        self.merge_two(arena)
    }

    /// Merges two long runs, without the lock while it does.
    fn merge_two(&self, arena: &Arena) -> bool {
        let Some(_merging) = self.merging.try_lock() else {
            return false;
        };
        let found = {
            let state = self.state.0.lock();
            let mut all = state.keyspaces.iter();
            let found = all.find_map(|(id, sorted)| Some((*id, sorted.mergeable()?)));
            self.mergeable.store(found.is_some(), Ordering::Relaxed);
            found
        };
        let Some((keyspace, old)) = found else {
            return false;
        };
        let merged = Run::merge(arena, &old.0, &old.1);
        let mut state = self.state.0.lock();
        if let Some(sorted) = state.keyspaces.get_mut(&keyspace) {
            Arc::make_mut(sorted).replace(&old, merged);
        }
        true
    }

    /// Walks and sorts up to [`CHUNK`] entries below `end`. Returns whether there was any.
    fn order_chunk(&self, arena: &Arena, end: Reserved, state: &mut State) -> bool {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK
            && let Some(place) = arena.walk(&mut state.walk, end)
        {
            let entry = arena.entry(place);
            debug_assert!(
                state.last < Some(entry.seq()),
                "room is reserved in the order of SeqNos"
            );
            state.last = Some(entry.seq());
            chunk.push((entry.keyspace(), place));
        }
        if chunk.is_empty() {
            return false;
        }
        self.walked.fetch_add(chunk.len() as u32, Ordering::Relaxed);
        chunk.retain(|(_, place)| arena.entry(*place).kind() != Kind::RangeDelete);
        self.item_bytes
            .fetch_add(chunk.len() * size_of::<Item>(), Ordering::Relaxed);
        chunk.sort_by_key(|(keyspace, _)| *keyspace);
        for group in chunk.chunk_by(|a, b| a.0 == b.0) {
            let sorted = Arc::make_mut(state.keyspaces.entry(group[0].0).or_default());
            sorted.add(arena, group.iter().map(|(_, place)| *place));
            if sorted.mergeable().is_some() {
                self.mergeable.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    /// Bytes of the runs, but for those that only cursors still hold.
    pub(super) fn memory_bytes(&self) -> usize {
        self.item_bytes.load(Ordering::Relaxed)
    }
}
