//! Order, made apart from the hot path: the entries of each keyspace in sorted runs.
//!
//! An ordering pass walks the arena from where the last one ended. It stops at the first entry
//! that is not ready and never skips one, so that every entry up to the SeqNo of the last one
//! walked is in some run. At most [`CHUNK`] entries at a time become a new run; small runs are
//! merged at once, so that the newest partial chunk stays a handful of runs even if a scan follows
//! every write; large ones are merged by doubling, by the background thread and without the lock.
//!
//! Runs never change. A cursor keeps those that it began with.
//!
//! A run is an array of [`Item`]s: 12 bytes of the key, after the prefix that all keys of the
//! keyspace share, and the entry's place, in 16 bytes. Most comparisons end there.

use super::arena::{Arena, EntryRef, Place, Reserved, Walk};
use crate::{
    sync::{AtomicBool, AtomicU32, AtomicUsize, Mutex, Ordering},
    types::{KeyspaceId, Kind, SeqNo},
};
use std::{cmp, collections::BTreeMap, sync::Arc};

/// Entries that an ordering pass sorts at a time.
pub(super) const CHUNK: usize = if cfg!(miri) { 16 } else { 4096 };
/// After so many shrinkings of a keyspace's common prefix it is given up, because every
/// shrinking makes all heads anew.
const SHRINKINGS_MAX: u32 = 8;

/// An entry in a run.
#[derive(Clone, Copy)]
pub(super) struct Item {
    head: u64,
    more: u32,
    pub(super) place: Place,
}

impl Item {
    fn new(arena: &Arena, skip: usize, place: Place) -> Item {
        let (head, more) = head(&arena.entry(place).key()[skip..]);
        Item { head, more, place }
    }

    /// Key ascending, then SeqNo descending; both of one keyspace and with the same prefix cut off.
    #[inline]
    pub(super) fn order(&self, other: &Item, arena: &Arena) -> cmp::Ordering {
        self.heads()
            .cmp(&other.heads())
            .then_with(|| arena.entry(self.place).order(arena.entry(other.place)))
    }

    #[inline]
    fn heads(&self) -> (u64, u32) {
        (self.head, self.more)
    }
}

/// The first 12 bytes, padded with zeros: they order keys as far as they differ.
#[inline]
fn head(key: &[u8]) -> (u64, u32) {
    let padded = match key.first_chunk::<12>() {
        Some(twelve) => *twelve,
        None => {
            let mut padded = [0; 12];
            padded[..key.len()].copy_from_slice(key);
            padded
        }
    };
    let all = padded
        .iter()
        .fold(0u128, |all, byte| all << 8 | u128::from(*byte));
    ((all >> 32) as u64, all as u32)
}

pub(super) type Run = Arc<Vec<Item>>;

/// The ordered entries of one keyspace.
#[derive(Clone, Default)]
pub(super) struct Sorted {
    /// Every key begins with it, and no item's head contains it.
    prefix: Vec<u8>,
    shrinkings: u32,
    /// Longest first.
    pub(super) runs: Vec<Run>,
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
        let heads = head(rest);
        run.partition_point(|item| {
            item.heads()
                .cmp(&heads)
                .then_with(|| {
                    let entry = arena.entry(item.place);
                    entry.key().cmp(key).then_with(|| newest.cmp(&entry.seq()))
                })
                .is_lt()
        })
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
        let mut run: Vec<Item> = places
            .map(|place| Item::new(arena, self.prefix.len(), place))
            .collect();
        run.sort_unstable_by(|a, b| a.order(b, arena));
        // Each run at least three times as long as the next.
        while let Some(small) = self
            .runs
            .pop_if(|last| last.len() < 3 * run.len() && last.len() + run.len() <= CHUNK)
        {
            run = merge(arena, &small, &run);
        }
        self.push(Arc::new(run));
    }

    fn push(&mut self, run: Run) {
        let at = self.runs.partition_point(|r| r.len() >= run.len());
        self.runs.insert(at, run);
    }

    /// Cuts the prefix down to what the keys at `places` have in common with it.
    fn share_prefix(&mut self, arena: &Arena, places: impl Iterator<Item = Place>) {
        let mut len = self.prefix.len();
        for place in places {
            let key = arena.entry(place).key();
            if self.runs.is_empty() && self.prefix.is_empty() && self.shrinkings == 0 {
                self.prefix = key.to_vec();
                self.shrinkings = 1;
                len = key.len();
            }
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
            let anew = run.iter().map(|item| Item::new(arena, skip, item.place));
            *run = Arc::new(anew.collect());
        }
    }

    /// Two runs that are to become one: the longest two neighbours of which one is less than
    /// twice the other. Only those too long to be merged at once count.
    fn mergeable(&self) -> Option<(Run, Run)> {
        self.runs.windows(2).find_map(|two| {
            let (long, short) = (&two[0], &two[1]);
            (long.len() < 2 * short.len() && long.len() + short.len() > CHUNK)
                .then(|| (Arc::clone(long), Arc::clone(short)))
        })
    }

    /// Replaces two runs by what they were merged to, unless they are gone by now.
    fn replace(&mut self, old: &(Run, Run), merged: Vec<Item>) {
        let is_old = |run: &Run| Arc::ptr_eq(run, &old.0) || Arc::ptr_eq(run, &old.1);
        if self.runs.iter().filter(|run| is_old(run)).count() == 2 {
            self.runs.retain(|run| !is_old(run));
            self.push(Arc::new(merged));
        }
    }
}

fn merge(arena: &Arena, a: &[Item], b: &[Item]) -> Vec<Item> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let first = x.order(y, arena).is_lt();
        merged.push(if first { *x } else { *y });
        i += usize::from(first);
        j += usize::from(!first);
    }
    merged.extend_from_slice(&a[i..]);
    merged.extend_from_slice(&b[j..]);
    merged
}

/// The runs of all keyspaces.
pub(super) struct Order {
    state: Mutex<State>,
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
            state: Mutex::new(State {
                walk: Walk::new(),
                last: None,
                keyspaces: BTreeMap::new(),
            }),
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
        let mut state = self.state.lock();
        while state.last.is_none_or(|last| last < visible)
            && self.order_chunk(arena, end, &mut state)
        {}
        state.keyspaces.get(&keyspace).cloned().unwrap_or_default()
    }

    /// The keyspaces of all entries that are ready.
    pub(super) fn keyspaces(&self, arena: &Arena) -> Vec<KeyspaceId> {
        let end = arena.reserved();
        let mut state = self.state.lock();
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
        let mut state = self.state.lock();
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
            let state = self.state.lock();
            let mut all = state.keyspaces.iter();
            let found = all.find_map(|(id, sorted)| Some((*id, sorted.mergeable()?)));
            self.mergeable.store(found.is_some(), Ordering::Relaxed);
            found
        };
        let Some((keyspace, old)) = found else {
            return false;
        };
        let merged = merge(arena, &old.0, &old.1);
        let mut state = self.state.lock();
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
