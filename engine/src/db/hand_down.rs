//! Merging a memtable into trees without a run between: what keyspaces of kind BTree do with it.
//!
//! The thread that flushes hands the memtable to the one that merges, as trees have one writer, and waits.
//! It is merged a slice at a time; no edit says how far, as the memtable stays where it is, and its log,
//! until all of it is in the trees: what a recovery brings back of it stands above them and says the same
//! once more.

use super::{
    Db,
    background::{Background, State},
    compact::Size,
};
use crate::{
    btree::Cut,
    config::StorageKind,
    error::{Error, Result},
    iter::{
        Direction,
        merge::{Merge, Source},
    },
    pager::ENTRY_BYTES,
    types::{KeyspaceId, SeqNo},
    upkeep::merge_down::cuts,
    version::{Sealed, Version},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

/// A memtable, the oldest that is sealed, on its way into the trees of some keyspaces.
pub(super) struct HandedDown {
    sealed: Arc<Sealed>,
    /// To be merged by the thread that merges.
    wanted: BTreeSet<KeyspaceId>,
    /// Those into whose trees all is merged that it holds of them.
    merged: BTreeSet<KeyspaceId>,
    /// A flush relies on what is merged. Between two tries nothing does.
    relied_on: bool,
}

/// While one of these lives, a flush relies on what is merged.
struct Relying<'a>(&'a Background);

impl Drop for Relying<'_> {
    fn drop(&mut self) {
        if let Some(handed) = &mut self.0.state.lock().handed_down {
            handed.relied_on = false;
            handed.wanted.clear();
        }
    }
}

impl Background {
    /// Hands a memtable down for these keyspaces, but not for those into which it is merged already.
    fn hand_down(&self, sealed: &Arc<Sealed>, mut wanted: BTreeSet<KeyspaceId>) -> Relying<'_> {
        let mut state = self.state.lock();
        let last = state.handed_down.take().filter(|last| Arc::ptr_eq(&last.sealed, sealed));
        let merged = last.map(|last| last.merged).unwrap_or_default();
        wanted.retain(|keyspace| !merged.contains(keyspace));
        let sealed = Arc::clone(sealed);
        state.handed_down = Some(HandedDown { sealed, wanted, merged, relied_on: true });
        drop(state);
        self.compact_wanted.notify();
        Relying(self)
    }

    /// What there is to merge. What is being loaded gets a run.
    pub(super) fn handed_down(&self) -> Option<(Arc<Sealed>, KeyspaceId)> {
        let mut state = self.state.lock();
        let State { handed_down, loading, .. } = &mut *state;
        let HandedDown { sealed, wanted, .. } = handed_down.as_mut()?;
        let before = wanted.len();
        wanted.retain(|keyspace| !loading.contains(keyspace));
        let next = wanted.first().map(|keyspace| (Arc::clone(sealed), *keyspace));
        if wanted.len() < before {
            crate::sync::sometimes("flush: writes a run for a keyspace that is being loaded");
            drop(state);
            self.done.notify();
        }
        next
    }

    /// The keyspaces into which all is merged, once there is no more to merge.
    fn taken_down(&self) -> Option<BTreeSet<KeyspaceId>> {
        let state = self.state.lock();
        let handed = state.handed_down.as_ref().filter(|handed| handed.wanted.is_empty())?;
        Some(handed.merged.clone())
    }

    /// Says whether the memtable is merged into the tree of this keyspace.
    fn took_down(&self, keyspace: KeyspaceId, done: bool) {
        if let Some(handed) = &mut self.state.lock().handed_down {
            handed.wanted.remove(&keyspace);
            if done {
                handed.merged.insert(keyspace);
            }
        }
        self.done.notify();
    }

    /// The keyspaces whose trees a flush relies on.
    pub(super) fn relied_on(&self) -> BTreeSet<KeyspaceId> {
        let state = self.state.lock();
        let handed = state.handed_down.as_ref().filter(|handed| handed.relied_on);
        handed.map(|handed| &handed.wanted | &handed.merged).unwrap_or_default()
    }

    /// Whether a tree may be let go for a range delete of a memtable that is in a Version loaded from now on.
    /// If all that the memtable holds is in the tree, some of it newer than the range delete, it is merged
    /// again, unless a flush relies on it.
    pub(super) fn may_let_go(&self, keyspace: KeyspaceId) -> bool {
        match &mut self.state.lock().handed_down {
            Some(handed) if handed.relied_on => {
                !handed.wanted.contains(&keyspace) && !handed.merged.contains(&keyspace)
            }
            Some(handed) => {
                handed.merged.remove(&keyspace);
                true
            }
            None => true,
        }
    }
}

impl Db {
    /// Merges what a memtable, the oldest that is sealed, holds of some keyspaces into their trees, then
    /// does the `rest`, for which it is told which keyspaces these are. What the memtable holds must be
    /// durable, and visible.
    pub(super) fn merge_handed_down<R>(
        &self,
        sealed: &Arc<Sealed>,
        rest: impl FnOnce(&BTreeSet<KeyspaceId>) -> Result<R>,
    ) -> Result<R> {
        let wanted = to_merge(&self.versions.load(), sealed, &self.background.unmerged());
        // To the end of the rest: until then the trees hold what the memtable still covers.
        let _relying = self.background.hand_down(sealed, wanted);
        let merged = self.background.done.wait(|| {
            let ended = || self.background.stopped().then_some(Err(Error::Closed));
            let refused = || self.poison.check().err().map(Err);
            self.background.taken_down().map(Ok).or_else(refused).or_else(ended)
        })?;
        let done = rest(&merged)?;
        self.background.state.lock().handed_down = None;
        Ok(done)
    }

    /// The part of the thread that merges. What fails is tried as a run.
    pub(super) fn take_down(&self, sealed: &Sealed, keyspace: KeyspaceId) {
        let merged = self.merge_memtable(sealed, keyspace);
        if let Err(error) = &merged {
            crate::sync::sometimes("flush: a memtable cannot be merged into a tree");
            tracing::warn!(%error, "a memtable becomes a run, as it cannot be merged into a tree");
        }
        self.background.merged(keyspace, merged.is_ok());
        self.background.took_down(keyspace, merged.is_ok());
    }

    fn merge_memtable(&self, sealed: &Sealed, id: KeyspaceId) -> Result<()> {
        let tombstones = sealed.memtable.range_tombstones(id);
        let mut cuts = cuts([&*tombstones].into_iter());
        let mut from = Bound::Unbounded;
        loop {
            if self.background.stopped() {
                return Err(Error::Closed);
            }
            let Some(keyspace) = self.versions.load().keyspace(id).cloned() else {
                return Ok(()); // dropped
            };
            let cursor = Box::new(sealed.memtable.cursor(id, SeqNo::MAX));
            let source = Source { cursor, tombstones: Arc::clone(&tombstones) };
            let bounds = (from, Bound::Unbounded);
            let merge = Merge::new(vec![source], SeqNo::MAX, Direction::Forward, bounds);
            let bytes = sealed.memtable.reserved_bytes() as u64;
            let size = Size { bytes, entry_bytes: ENTRY_BYTES };
            let stopped = self.merge_slice(&keyspace, &[], merge, &cuts, sealed.last_seq, size)?;
            match stopped {
                None => return Ok(()),
                Some(key) => {
                    cuts = Cut::all_from(&cuts, &key);
                    from = Bound::Included(key);
                }
            }
            crate::sync::sometimes("flush: merges a memtable in more than one slice");
        }
    }
}

/// The keyspaces of which a memtable is merged into the trees. Not those with runs, which are older than it:
/// these go first. Nor those whose last merge failed: a run may find a place where a tree does not.
fn to_merge(
    version: &Version,
    sealed: &Sealed,
    unmerged: &BTreeMap<KeyspaceId, u64>,
) -> BTreeSet<KeyspaceId> {
    let all = sealed.memtable.keyspaces().into_iter();
    all.filter(|id| {
        version.keyspace(*id).is_some_and(|keyspace| {
            keyspace.storage_kind == StorageKind::BTree
                && keyspace.runs.is_empty()
                && !unmerged.contains_key(id)
        })
    })
    .collect()
}
