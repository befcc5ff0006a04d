//! What nobody looks at any more is freed: Versions, then the files that no Version names, and pages of the trees.

use super::Db;
use crate::upkeep::output::sstable_name;
use std::sync::Arc;

impl Db {
    /// Whether there is something that [`collect`](Db::collect) may free.
    pub(super) fn has_garbage(&self) -> bool {
        let state = self.background.state.lock();
        self.versions.has_retired()
            || self.blobs.has_dead()
            || !state.obsolete.is_empty()
            || !state.retired.is_empty()
    }

    /// Frees Versions that nobody looks at, then removes files that no Version names. Returns how much is
    /// left to free later.
    pub(crate) fn collect(&self) -> usize {
        let versions = self.versions.collect();
        let mut state = self.background.state.lock();
        if self.poison.check().is_err() {
            crate::sync::sometimes("background: keeps files because of poison");
            // An edit that failed may be durable all the same, and name any of the files.
            let kept = versions + state.obsolete.len() + state.retired.len();
            drop(state);
            return kept + self.remove_dead_blobs();
        }
        let (dead, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut state.obsolete)
            .into_iter()
            .partition(|run| Arc::strong_count(run) == 1);
        state.obsolete = kept;
        let unseen = state.retired.iter().take_while(|old| old.tree.strong_count() == 0).count();
        // What the last reader read of a tree, it read before its pages are written again: the counts alone
        // do not say so.
        crate::sync::atomic::fence(crate::sync::Ordering::Acquire);
        // Under the lock: who finds nothing to collect finds the pages among the free ones.
        for old in state.retired.drain(..unseen) {
            old.pager.give_back(old.pages.runs());
        }
        let left = versions + state.obsolete.len() + state.retired.len();
        drop(state);
        for run in dead {
            let path = self.dir.join(sstable_name(run.file_id()));
            crate::sync::sometimes("background: removes an sstable");
            self.blocks.cache.remove_file(run.file_id());
            drop(run);
            if let Err(error) = self.env.disk().remove(&path) {
                crate::sync::sometimes("background: cannot remove a file");
                tracing::warn!(%error, path = %path.display(), "cannot remove a file");
            }
        }
        // Last: what was let go above named some of them.
        left + self.remove_dead_blobs()
    }
}

#[cfg(test)]
impl Db {
    /// How many of the trees that merges have replaced are in memory.
    pub(crate) fn old_trees(&self) -> usize {
        self.collect();
        let state = self.background.state.lock();
        state.retired.iter().filter(|old| old.tree.strong_count() > 0).count()
    }
}
