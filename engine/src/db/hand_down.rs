//! Merging a memtable into trees without a run between: what keyspaces of kind BTree do with it.
//!
//! The thread that flushes hands the memtable to the one that merges, as trees have one writer, and waits.
//! It is merged a slice at a time; no edit says how far, as the memtable stays where it is, and its log,
//! until all of it is in the trees: what a recovery brings back of it stands above them and says the same
//! once more.

use super::{Db, background::Background};
use crate::{
    config::StorageKind,
    error::{Error, Result},
    iter::{
        Direction,
        merge::{Merge, Source},
    },
    types::{KeyspaceId, SeqNo},
    upkeep::merge_down::cuts,
    version::{Sealed, Version},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

/// A memtable on its way into the trees of some keyspaces.
pub(super) struct HandedDown {
    sealed: Arc<Sealed>,
    keyspaces: BTreeSet<KeyspaceId>,
    /// How it ended, once it has.
    outcome: Option<Result<()>>,
}

/// While one of these lives, the trees count as places where a memtable may be, and are not let go.
struct HandedOver<'a>(&'a Background);

impl Drop for HandedOver<'_> {
    fn drop(&mut self) {
        self.0.state.lock().handed_down = None;
    }
}

impl Background {
    fn hand_down(&self, sealed: &Arc<Sealed>, keyspaces: BTreeSet<KeyspaceId>) -> HandedOver<'_> {
        let handed_down = HandedDown { sealed: Arc::clone(sealed), keyspaces, outcome: None };
        self.state.lock().handed_down = Some(handed_down);
        self.compact_wanted.notify();
        HandedOver(self)
    }

    /// The keyspaces into whose trees a memtable is being merged, or was a moment ago.
    pub(super) fn handed_down_keyspaces(&self) -> BTreeSet<KeyspaceId> {
        let state = self.state.lock();
        state.handed_down.as_ref().map(|handed| handed.keyspaces.clone()).unwrap_or_default()
    }

    /// What there is to merge.
    pub(super) fn handed_down(&self) -> Option<(Arc<Sealed>, BTreeSet<KeyspaceId>)> {
        let state = self.state.lock();
        let waiting = state.handed_down.as_ref().filter(|handed| handed.outcome.is_none());
        waiting.map(|handed| (Arc::clone(&handed.sealed), handed.keyspaces.clone()))
    }

    /// Says how it went.
    pub(super) fn took_down(&self, outcome: Result<()>) {
        if let Some(handed) = &mut self.state.lock().handed_down {
            handed.outcome = Some(outcome);
        }
        self.done.notify();
    }

    fn outcome(&self) -> Option<Result<()>> {
        self.state.lock().handed_down.as_ref()?.outcome.clone()
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
        let keyspaces = to_merge(&self.versions.load(), sealed, &self.background.unmerged());
        if keyspaces.is_empty() {
            return rest(&keyspaces);
        }
        // To the end of the rest: until then the trees hold what the memtable still covers.
        let _handed_over = self.background.hand_down(sealed, keyspaces.clone());
        self.background.done.wait(|| {
            let ended = || self.background.stopped().then_some(Err(Error::Closed));
            let refused = || self.poison.check().err().map(Err);
            self.background.outcome().or_else(refused).or_else(ended)
        })?;
        crate::sync::sometimes("flush: merges a memtable into trees");
        rest(&keyspaces)
    }

    /// The part of the thread that merges.
    pub(super) fn take_down(&self, sealed: &Sealed, keyspaces: &BTreeSet<KeyspaceId>) {
        let outcome = keyspaces.iter().try_for_each(|id| {
            let merged = self.merge_memtable(sealed, *id);
            self.background.merged(*id, merged.is_ok());
            merged
        });
        self.background.took_down(outcome);
    }

    fn merge_memtable(&self, sealed: &Sealed, id: KeyspaceId) -> Result<()> {
        let tombstones = sealed.memtable.range_tombstones(id);
        let mut cuts = cuts([&*tombstones].into_iter());
        let mut from = Bound::Unbounded;
        loop {
            let Some(keyspace) = self.versions.load().keyspace(id).cloned() else {
                return Ok(()); // dropped
            };
            let cursor = Box::new(sealed.memtable.cursor(id, SeqNo::MAX));
            let source = Source { cursor, tombstones: Arc::clone(&tombstones) };
            let bounds = (from, Bound::Unbounded);
            let merge = Merge::new(vec![source], SeqNo::MAX, Direction::Forward, bounds);
            let bytes = sealed.memtable.reserved_bytes() as u64;
            let stopped = self.merge_slice(&keyspace, &[], merge, &cuts, sealed.last_seq, bytes)?;
            match stopped {
                None => return Ok(()),
                Some(key) => from = Bound::Included(key),
            }
            crate::sync::sometimes("flush: merges a memtable in more than one slice");
            cuts.clear(); // the first slice has made them all
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
