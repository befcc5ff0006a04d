//! Settling: what was committed goes down into the trees, and space that nothing uses back to the file
//! system. It happens when it is asked for, and by itself once nothing was written for a while.

use super::{
    Db,
    background::{Background, RETRY},
};
use crate::{
    error::Result,
    types::{FileId, SeqNo},
    version::Version,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Nothing was written for so long: time to settle.
const IDLE: Duration = Duration::from_secs(20);
/// How often to look whether anything was written.
pub(super) const IDLE_LOOK: Duration = Duration::from_secs(10);
/// Idling settles what has at least this share of the trees' bytes, and gives as much back; but no less than
/// this share of a memtable: a few writes now and then are not worth a merge.
const WORTH_OF_TREES: u64 = 16;
const WORTH_OF_MEMTABLE: u64 = 256;

/// What the thread that merges knows of idling.
#[derive(Default)]
pub(super) struct Idling<'a> {
    visible: SeqNo,
    since: Duration,
    /// Runs are merged, however few, until this is gone.
    settling: Option<Settling<'a>>,
}

/// While one of these lives, all runs are merged and unused space is given back.
pub(super) struct Settling<'a>(&'a Background);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.0.settle(false);
    }
}

impl Db {
    fn settling(&self) -> Settling<'_> {
        self.background.settle(true);
        Settling(&self.background)
    }

    /// Merges everything that was committed before into the trees, and gives unused space back.
    pub(crate) fn compact(&self) -> Result<()> {
        self.check_open()?;
        let _settling = self.settling();
        let upto = self.seal_active()?;
        self.wait_until(|version| version.sealed.iter().all(|sealed| sealed.last_seq > upto))?;
        let version = self.versions.load();
        let runs = version.keyspaces.iter().flat_map(|keyspace| &keyspace.runs);
        let runs: BTreeSet<FileId> = runs.map(|run| run.file_id()).collect();
        drop(version);
        self.wait_until(|version| {
            let mut now = version.keyspaces.iter().flat_map(|keyspace| &keyspace.runs);
            !now.any(|run| runs.contains(&run.file_id()))
        })?;
        self.background.wants_space_back();
        self.wait_until(|_| !self.background.is_untidy())
    }

    /// Lets the memtable be flushed that commits go to, if it has entries. Returns the last SeqNo given
    /// so far.
    fn seal_active(&self) -> Result<SeqNo> {
        let (active, upto) = {
            let sequencer = self.sequencer.lock();
            (Arc::clone(&sequencer.target.memtable), SeqNo(sequencer.next_seq.0 - 1))
        };
        if active.reserved_bytes() > 0 {
            crate::sync::sometimes("settle: seals a memtable that is not full");
            self.seal(&active, self.config.memtable_size, false)?;
        }
        Ok(upto)
    }

    /// Waits for work of the background. Fails if any of it fails meanwhile.
    fn wait_until(&self, done: impl Fn(&Version) -> bool) -> Result<()> {
        let background = &self.background;
        let failures = background.failures();
        background.done.wait(|| {
            if done(&self.versions.load()) {
                return Some(Ok(()));
            }
            if let Err(refused) = self.poison.check().and_then(|()| self.check_open()) {
                return Some(Err(refused));
            }
            background.failure_since(failures).map(Err)
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
        trees.map_or(Ok(()), |pager| pager.give_up_space())
    }

    /// Begins or ends settling, if nothing was written for a while and there is something to win.
    pub(super) fn look_idle<'a>(&'a self, idling: &mut Idling<'a>) {
        let (visible, now) = (self.visible(), self.env.clock().now());
        if visible != idling.visible {
            *idling = Idling { visible, since: now, settling: None };
        }
        let version = self.versions.load();
        if now.saturating_sub(idling.since) < IDLE || self.poison.check().is_err() {
            return;
        }
        let runs = version.keyspaces.iter().flat_map(|keyspace| &keyspace.runs);
        let run_bytes: u64 = runs.map(|run| run.summary().file_bytes).sum();
        let memtables = version.memtables().map(|memtable| memtable.reserved_bytes() as u64);
        let above = run_bytes + memtables.sum::<u64>();
        let trees = self.trees.lock().clone();
        let (tree_bytes, free_bytes) = trees.map_or((0, 0), |pager| pager.size());
        let least = self.config.memtable_size as u64 / WORTH_OF_MEMTABLE;
        let worth = |bytes| bytes >= (tree_bytes / WORTH_OF_TREES).max(least);
        match &idling.settling {
            None if worth(above) || worth(free_bytes) => {
                crate::sync::sometimes("settle: begins because nothing is written");
                idling.settling = Some(self.settling());
                self.background.wants_space_back();
                // If it fails, on a full disk say, what can be merged is.
                if worth(above) && version.sealed.is_empty() {
                    let _ = self.seal_active();
                }
            }
            Some(_) if above == 0 && !self.background.is_untidy() => idling.settling = None,
            _ => {}
        }
    }
}
