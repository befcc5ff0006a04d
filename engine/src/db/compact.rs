//! Fewer runs: dropping those that a range delete covers whole, merging all of a keyspace into one.

use super::{
    Db,
    background::{RETRY, whole},
    scan,
};
use crate::{
    error::Result, format::manifest::Change, iter::tombstones::RangeTombstones, sstable::Sstable,
    types::KeyspaceId, upkeep::pick, version::KeyspaceVersion,
};
use std::sync::Arc;

/// What there is to do.
enum Work {
    Drop(KeyspaceId, Vec<Arc<Sstable>>),
    Merge(Arc<KeyspaceVersion>),
    End,
}

impl Db {
    /// Drops covered runs, and merges the runs of a keyspace when there are too many.
    pub(super) fn run_compact(&self) {
        let background = &self.background;
        loop {
            let work = background.compact_wanted.wait(|| {
                if background.stopped() {
                    return Some(Work::End);
                }
                self.poison.check().ok()?;
                self.work()
            });
            let done = match &work {
                Work::End => return,
                Work::Drop(keyspace, runs) => self.drop_runs(*keyspace, runs),
                Work::Merge(keyspace) => {
                    let merged = self.compact(keyspace);
                    background.merged(keyspace.id, merged.is_ok());
                    merged
                }
            };
            if let Err(error) = done {
                background.failed("merge of runs", error);
                let stopped = || background.stopped().then_some(());
                background.ended.wait_for(RETRY, stopped);
            }
        }
    }

    fn work(&self) -> Option<Work> {
        // The SeqNo before the Version: what was visible is in it.
        let visible = self.visible();
        let version = self.versions.load();
        // It needs no space, and what it drops need not be merged.
        if let Some((keyspace, runs)) = pick::covered(&version, visible) {
            return Some(Work::Drop(keyspace, runs));
        }
        pick::crowded(&version, &self.background.unmerged()).cloned().map(Work::Merge)
    }

    /// Lets go of runs of which nothing is left to see. Readers of older Versions keep them.
    fn drop_runs(&self, keyspace: KeyspaceId, runs: &[Arc<Sstable>]) -> Result<()> {
        crate::sync::sometimes("compact: drops covered runs");
        // The range delete may be in the log only: it must not be lost where the runs are.
        self.sync()?;
        self.replace_runs(keyspace, runs, None)?;
        self.metrics.tables_dropped.add(runs.len() as u64);
        Ok(())
    }

    /// Merges the runs that stand in the keyspace now. All of them, so that tombstones end here.
    fn compact(&self, keyspace: &KeyspaceVersion) -> Result<()> {
        let sources = keyspace.runs.iter().map(scan::run_source).collect();
        let none = RangeTombstones::default();
        let merge = whole(sources);
        let merged = self.write_output(keyspace, merge, &none, true)?;
        if let Err(error) = self.sync_dir() {
            crate::sync::sometimes("compact: the directory cannot be synced");
            self.background.add_obsolete(merged);
            return Err(error);
        }
        self.metrics.compacted_bytes.add(merged.as_ref().map_or(0, |m| m.summary().file_bytes));
        self.replace_runs(keyspace.id, &keyspace.runs, merged)?;
        crate::sync::sometimes("compact: merges all runs");
        self.metrics.compactions.add(1);
        Ok(())
    }

    /// Makes the edit durable that puts `merged` in the place of `runs`, then shows it to readers.
    fn replace_runs(
        &self,
        keyspace: KeyspaceId,
        runs: &[Arc<Sstable>],
        merged: Option<Arc<Sstable>>,
    ) -> Result<()> {
        let replaced: Vec<_> = runs.iter().map(|run| run.file_id()).collect();
        let mut changes: Vec<Change> =
            replaced.iter().map(|file| Change::DropTable(keyspace, *file)).collect();
        changes.extend(merged.iter().map(|m| Change::AddTable(keyspace, m.summary().clone())));
        changes.push(self.next_file());

        let mut manifest = self.manifest.lock();
        if !manifest.state().keyspaces.contains_key(&keyspace) {
            crate::sync::sometimes("compact: the keyspace was dropped meanwhile");
            self.background.add_obsolete(merged); // dropped meanwhile
            self.background.wake_all();
            return Ok(());
        }
        if let Err(error) = manifest.append(&changes) {
            crate::sync::sometimes("compact: the edit fails");
            self.background.add_obsolete(merged);
            return Err(error);
        }
        self.wal.set_durable_edit(manifest.number());
        self.versions.install(|v| v.compacted(keyspace, &replaced, merged));
        drop(manifest);
        self.background.add_obsolete(runs.iter().cloned());
        self.background.wake_all();
        Ok(())
    }
}
