//! Settling: what was committed goes down into the trees, and space that nothing uses back to the file
//! system. It happens when it is asked for, and by itself once nothing was written for a while.

use super::{
    Db,
    background::{Background, RETRY},
    read,
};
use crate::{
    btree,
    error::{Error, Result},
    format::manifest::Change,
    iter::Cursor,
    memtable::Memtable,
    pager::{ENTRY_BYTES, Pager},
    types::{FileId, Kind, SeqNo},
    upkeep::merge_down::cuts,
    version::{Sealed, Version},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Nothing was written for so long: time to settle.
const IDLE: Duration = Duration::from_secs(20);
/// How often to look whether anything was written.
pub(super) const IDLE_LOOK: Duration = Duration::from_secs(10);
/// Idling settles what has, or deletes, at least this share of the trees' bytes, and gives as much back; but no less than
/// this share of a memtable: a few writes now and then are not worth a merge.
const WORTH_OF_TREES: u64 = 16;
const WORTH_OF_MEMTABLE: u64 = 256;

/// A tail of fewer bytes is not worth an edit.
const TAIL_BYTES_MIN: u64 = 64 << 10;
/// Of how many large values of a tree it is asked whether they are overwritten or deleted.
const BLOBS_LOOKED_AT: usize = 10_000;

/// Of how many deleted ranges of a keyspace it is asked how much of the tree they cover.
const CUTS_LOOKED_AT: usize = 1_000;

/// What the thread that merges knows of idling.
#[derive(Default)]
pub(super) struct Idling<'a> {
    visible: SeqNo,
    since: Duration,
    /// When it was first looked at since something failed.
    began: Option<Duration>,
    /// Bytes of trees that are deleted, as far as it is known.
    deleted: Option<u64>,
    /// Runs are merged, however few, until this is gone.
    settling: Option<Settling<'a>>,
}

impl Idling<'_> {
    /// Whether memtables and runs hold `enough`, or delete it, or large values of at least `least` bytes.
    fn is_worth_it(
        &mut self,
        version: &Version,
        visible: SeqNo,
        run_bytes: u64,
        (least, enough): (u64, u64),
    ) -> bool {
        let memtables = version.memtables().map(|memtable| memtable.reserved_bytes() as u64);
        if run_bytes + memtables.sum::<u64>() >= enough
            || blob_bytes_to_win(version, visible) >= least
        {
            return true;
        }
        // Once: nothing is written. What cannot be read is not worth it.
        let count = || deleted_bytes(version, enough).unwrap_or(0);
        let much = *self.deleted.get_or_insert_with(count) >= enough;
        if much {
            crate::sync::sometimes("settle: what is deleted is worth it");
        }
        much
    }
}

/// While one of these lives, all runs are merged and unused space is given back.
pub(super) struct Settling<'a>(&'a Background);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.0.settle(false);
    }
}

/// Bytes of large values to win by settling: those that memtables and runs hold, as they may be overwritten, and those
/// of trees that are.
fn blob_bytes_to_win(version: &Version, visible: SeqNo) -> u64 {
    let in_memory: u64 = version.memtables().map(|memtable| memtable.blob_bytes()).sum();
    let in_runs: u64 = version.keyspaces.iter().map(|k| k.runs_blob_bytes()).sum();
    let trees = version.keyspaces.iter().filter_map(|k| Some((k, k.tree.as_ref()?)));
    let superseded =
        trees.filter(|(k, _)| version.lone_tree(k.id).is_none()).flat_map(|(k, tree)| {
            let looked_at = tree.blobs.iter().take(BLOBS_LOOKED_AT);
            // What cannot be read is not worth it.
            let is_gone =
                |key: &[u8]| matches!(read::is_of_tree(version, visible, k.id, key), Ok(false));
            looked_at
                .filter(move |(key, _)| is_gone(key))
                .map(|(_, blob)| u64::from(blob.pointer.len))
        });
    in_memory + in_runs + superseded.sum::<u64>()
}

/// Bytes of trees that memtables and runs delete, about: of each key that is deleted an entry, and of ranges all that lies
/// within. Counts on to `enough`.
fn deleted_bytes(version: &Version, enough: u64) -> Result<u64> {
    let mut bytes = 0;
    for keyspace in &version.keyspaces {
        let Some(tree) = &keyspace.tree else { continue };
        let of_runs = keyspace.runs.iter().map(|run| run.summary().contents.deletes);
        let mut deletes: u64 = of_runs.sum();
        let mut tombstones = vec![];
        for memtable in version.memtables() {
            let mut cursor = memtable.cursor(keyspace.id, SeqNo::MAX);
            cursor.seek_first()?;
            while let Some(entry) = cursor.entry() {
                deletes += u64::from(entry.kind == Kind::Delete);
                cursor.next()?;
            }
            tombstones.push(memtable.range_tombstones(keyspace.id));
        }
        let of_runs = keyspace.runs.iter().map(|run| &**run.range_tombstones());
        let mut cuts = cuts(of_runs.chain(tombstones.iter().map(|list| &**list)));
        cuts.truncate(CUTS_LOOKED_AT);
        let page_bytes = tree.pager.page_bytes() as u64;
        bytes += deletes * ENTRY_BYTES;
        if bytes < enough && !cuts.is_empty() {
            let most = (enough - bytes).div_ceil(page_bytes);
            bytes += btree::pages_within(&**tree, tree.root, &cuts, most)? * page_bytes;
        }
    }
    Ok(bytes)
}

impl Db {
    fn settling(&self) -> Settling<'_> {
        self.background.settle(true);
        Settling(&self.background)
    }

    /// Merges everything that was committed before into the trees, and gives unused space back.
    pub(crate) fn compact(&self) -> Result<()> {
        self.check_open()?;
        // First all of memory to runs, then all runs at once: each merge may write the whole tree.
        self.background.wait_for_flush(self, false)?;
        if let Some(memtable) = self.seal_active()? {
            let is_it = |sealed: &Arc<Sealed>| Arc::ptr_eq(&sealed.memtable, &memtable);
            self.wait_until(|version| !version.sealed.iter().any(is_it))?;
        }
        let _settling = self.settling();
        let version = self.versions.load();
        let runs = version.keyspaces.iter().flat_map(|keyspace| &keyspace.runs);
        let runs: BTreeSet<FileId> = runs.map(|run| run.file_id()).collect();
        drop(version);
        self.wait_until(|version| {
            // Whoever loads a keyspace may take his time.
            let loading = self.background.loading();
            let others = version.keyspaces.iter().filter(|k| !loading.contains(&k.id));
            let mut now = others.flat_map(|keyspace| &keyspace.runs);
            !now.any(|run| runs.contains(&run.file_id()))
        })?;
        let failures = self.background.space_failures();
        let request = self.background.ask_for_space();
        self.wait_unless(
            |_| self.background.is_space_given(request),
            || self.background.space_failure_since(failures),
        )?;
        // Not while others write: it would be in their way, and they would need large ones again.
        if self.may_shrink_log() {
            crate::sync::sometimes("settle: asks the log for its large spares");
            self.shrink_log();
        }
        Ok(())
    }

    /// Seals the memtable that commits go to, if it has entries. Returns the newest that is sealed then, if
    /// any is: once it is flushed, everything is that was committed before the call.
    pub(super) fn seal_active(&self) -> Result<Option<Arc<Memtable>>> {
        let active = Arc::clone(&self.sequencer.lock().target.memtable);
        if !active.is_empty() {
            crate::sync::sometimes("settle: seals a memtable that is not full");
            self.seal_at_once(&active, self.config.memtable_size)?;
            return Ok(Some(active));
        }
        Ok(self.versions.load().sealed.first().map(|sealed| Arc::clone(&sealed.memtable)))
    }

    /// Waits for work of the background. Fails if any of it fails meanwhile.
    pub(super) fn wait_until(&self, done: impl Fn(&Version) -> bool) -> Result<()> {
        let failures = self.background.failures();
        self.wait_unless(done, || self.background.failure_since(failures))
    }

    /// The same, unless `failed` tells of an error.
    fn wait_unless(
        &self,
        done: impl Fn(&Version) -> bool,
        failed: impl Fn() -> Option<Error>,
    ) -> Result<()> {
        self.background.done.wait(|| {
            if done(&self.versions.load()) {
                return Some(Ok(()));
            }
            if let Err(refused) = self.poison.check().and_then(|()| self.check_open()) {
                return Some(Err(refused));
            }
            failed().map(Err)
        })
    }

    /// Gives pages back that no Version names any more, and the space of all free pages.
    pub(super) fn tidy_up(&self) -> Result<()> {
        if self.collect() > 0 {
            // Whoever looks at an old Version may be done soon.
            let background = &self.background;
            background.ended.wait_for(RETRY, || background.stopped().then_some(()));
            self.collect();
        }
        let trees = self.trees.lock().clone();
        crate::sync::sometimes("settle: gives unused space back");
        let Some(pager) = trees else { return Ok(()) };
        let cut = self.cut_tail(&pager);
        // Even if that failed: on a full disk the holes may give the space that an edit needs.
        pager.give_up_space().and(cut)
    }

    /// Ends the file of the trees before the free pages at its end: first in the manifest, durably, then itself.
    fn cut_tail(&self, pager: &Pager) -> Result<()> {
        let least = if self.env.buggify("settle: cuts few pages") { 1 } else { TAIL_BYTES_MIN };
        let mut manifest = self.manifest.lock();
        let Some(tail) = pager.take_tail(least.div_ceil(pager.page_bytes() as u64)) else {
            return Ok(());
        };
        if tail.first < manifest.state().trees.end {
            if let Err(error) = manifest.append(&[Change::TreeEnd(tail.first)]) {
                pager.give_back([tail]);
                return Err(error);
            }
            self.wal.set_durable_edit(manifest.number());
        }
        drop(manifest);
        pager.end_at(tail)
    }

    /// Ends what idling began: it idles no more.
    pub(super) fn stop_settling_if_written(&self, idling: &mut Idling<'_>) {
        let visible = self.visible();
        if visible != idling.visible {
            *idling = Idling { visible, since: self.env.clock().now(), ..Idling::default() };
        }
    }

    /// Begins, continues or ends settling, if nothing was written for a while and there is something to
    /// win.
    pub(super) fn look_idle<'a>(&'a self, idling: &mut Idling<'a>) {
        let now = self.env.clock().now();
        let since = *idling.began.get_or_insert(now);
        if now.saturating_sub(since.max(idling.since)) < IDLE || self.poison.check().is_err() {
            return;
        }
        let visible = self.visible(); // before the Version
        let version = self.versions.load();
        let trees = self.trees.lock().clone();
        let (tree_bytes, free_bytes) = trees.map_or((0, 0), |pager| pager.size());
        let least = self.config.memtable_size as u64 / WORTH_OF_MEMTABLE;
        let enough = (tree_bytes / WORTH_OF_TREES).max(least);
        let runs = version.keyspaces.iter().flat_map(|keyspace| &keyspace.runs);
        let run_bytes: u64 = runs.map(|run| run.summary().file_bytes).sum();
        match idling.settling.is_some() {
            true if run_bytes > 0 || !version.sealed.is_empty() => {}
            false if idling.is_worth_it(&version, visible, run_bytes, (least, enough)) => {
                crate::sync::sometimes("settle: begins because nothing is written");
                idling.settling = Some(self.settling());
                // If it fails, on a full disk say, what can be merged is. It waits for nothing: a flush
                // may wait for this thread.
                if version.sealed.is_empty() {
                    let _ = self.seal_active();
                }
            }
            // Merged, as far as it goes.
            merged => {
                idling.settling = None;
                if merged {
                    idling.deleted = None; // what is left is counted anew
                }
                // Pages of snapshots become free when these are gone; they are asked for again then.
                if merged || free_bytes >= enough {
                    self.background.ask_for_space();
                }
            }
        }
    }
}
