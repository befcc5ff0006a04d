//! How the parts make a database. One file a verb:
//!
//! - [`open`]: create or recover, the only place that replays the log
//! - [`commit`]: the one way to write
//! - [`large`]: values that go to files of their own
//! - [`transact`]: what the commit of a transaction is bound to
//! - [`bulk`]: sorted entries straight into a tree
//! - [`read`] and [`scan`]: the one list of places to look
//! - [`feed`]: what was committed, again and in order
//! - [`keyspaces`]: creating and dropping them
//! - [`background`]: flushing, syncing, preparing; what waits and what wakes
//! - [`collect`]: freeing what nobody looks at any more
//! - [`compact`]: fewer runs
//! - [`settle`]: none, and no unused space
//! - [`check`]: whether all is as it should be
//! - [`close`]: the end

pub(crate) mod background;
pub(crate) mod bulk;
pub(crate) mod check;
pub(crate) mod close;
mod collect;
pub(crate) mod commit;
pub(crate) mod compact;
pub(crate) mod feed;
mod hand_down;
pub(crate) mod keyspaces;
pub(crate) mod large;
pub(crate) mod open;
pub(crate) mod read;
pub(crate) mod scan;
pub(crate) mod settle;
mod shrink;
pub(crate) mod stats;
pub(crate) mod transact;
pub(crate) mod view;

use crate::{
    blob::Blobs,
    config::{LightningDbConfig, WalSyncMode},
    env::{DirLock, Env, Names, Poison, Signal, Unfinished},
    error::{Error, Result},
    memtable::Memtable,
    metrics::Metrics,
    pager::Pager,
    sstable::SharedBlocks,
    sync::{AtomicBool, AtomicU64, InOrder, Mutex, Ordering::SeqCst},
    transaction::{Transactions, locks::Locks, window::Window},
    types::{Lsn, SeqNo},
    version::{
        Version,
        cell::{Pinned, VersionCell},
        manifest::Manifest,
    },
    wal::{LogSlot, Segment, Tail, Wal},
};
use std::{path::PathBuf, sync::Arc};

/// An open database. Handles, snapshots and iterators share it; the directory stays locked until the
/// last of them is gone.
pub(crate) struct Db {
    pub(crate) env: Arc<dyn Env>,
    pub(crate) dir: PathBuf,
    pub(crate) names: Arc<Names>,
    pub(crate) config: LightningDbConfig,
    pub(crate) uuid: [u8; 16],
    pub(crate) poison: Arc<Poison>,
    pub(crate) wal: Wal,
    /// Gives SeqNos and log positions. Held for a few instructions, never across I/O or waiting.
    pub(crate) sequencer: Mutex<Sequencer>,
    /// The visible SeqNo: everything up to it is published, nothing above it is read.
    pub(crate) published: Arc<InOrder>,
    pub(crate) published_moved: Arc<Signal>,
    pub(crate) versions: VersionCell,
    /// Held across the I/O of an edit.
    pub(crate) manifest: Mutex<Manifest>,
    /// The next file id.
    pub(crate) file_ids: Arc<AtomicU64>,
    pub(crate) blocks: Arc<SharedBlocks>,
    pub(crate) blobs: Blobs,
    pub(crate) loads: feed::Loads,
    /// The file of the trees, once something was merged into one.
    pub(crate) trees: Mutex<Option<Arc<Pager>>>,
    /// How many merges into trees this process has begun.
    pub(crate) merges_tried: AtomicU64,
    pub(crate) background: background::Background,
    pub(crate) metrics: Metrics,
    pub(crate) transactions: Arc<Transactions>,
    pub(crate) locks: Locks,
    /// No new call is let in.
    pub(crate) closing: AtomicBool,
    /// Dropped last, with the whole.
    pub(crate) lock: Arc<dyn DirLock>,
}

/// What the sequencer lock covers.
pub(crate) struct Sequencer {
    pub(crate) next_seq: SeqNo,
    pub(crate) tail: Tail,
    /// Where commits go now.
    pub(crate) target: Arc<Target>,
    /// Where the log of the active memtable begins, or of what it holds since opening.
    pub(crate) memtable_from: Lsn,
    /// Bytes of log that the next opening has room to copy, however full the disk is, because a segment
    /// besides the one being written is prepared. No more than this is written without being synced.
    pub(crate) spare_bytes: u64,
    /// Bytes of the records of commits since opening.
    pub(crate) committed_bytes: u64,
    pub(crate) commits: u64,
    /// What the newest commits touch, while there are transactions that could conflict with them.
    pub(crate) window: Option<Window>,
}

/// Where a commit's bytes go. Replaced as a whole, so that a commit holds one reference.
pub(crate) struct Target {
    /// The segment of the log's tail, if it has one.
    pub(crate) segment: Option<Arc<Segment>>,
    /// The active memtable of the current Version.
    pub(crate) memtable: Arc<Memtable>,
}

impl Sequencer {
    /// Lets commits go to `memtable`.
    pub(crate) fn set_memtable(&mut self, memtable: Arc<Memtable>) {
        let segment = self.target.segment.clone();
        self.memtable_from = self.tail.last_end();
        self.target = Arc::new(Target { segment, memtable });
    }

    /// Bytes of log that the active memtable needs.
    pub(crate) fn memtable_log_bytes(&self) -> u64 {
        self.tail.last_end().0.saturating_sub(self.memtable_from.0)
    }

    /// Lets the log go on in `segment`: see [`Tail::switch`].
    pub(crate) fn switch(&mut self, segment: Arc<Segment>) -> Option<(Arc<Segment>, LogSlot)> {
        let memtable = Arc::clone(&self.target.memtable);
        self.target = Arc::new(Target { segment: Some(Arc::clone(&segment)), memtable });
        self.tail.switch(segment)
    }
}

impl Db {
    /// Refuses once the database is being closed.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closing.load(SeqCst) {
            false => Ok(()),
            true => Err(Error::Closed),
        }
    }

    #[inline]
    pub(crate) fn pin(&self) -> Pinned<'_> {
        self.versions.pin(self.env.task_slot())
    }

    /// The newest SeqNo that readers see.
    #[inline]
    pub(crate) fn visible(&self) -> SeqNo {
        SeqNo(self.published.watermark())
    }

    /// A Version and the visible SeqNo that belong together: every memtable that may hold entries up to
    /// the SeqNo, and was not flushed before it, is in the Version.
    pub(crate) fn view(&self) -> (Arc<Version>, SeqNo) {
        loop {
            let version = self.versions.load();
            crate::sync::point("db.view");
            let visible = self.visible();
            if self.versions.is_current(&version) {
                return (version, visible);
            }
        }
    }

    /// Ends all writing unless it is told that what was begun is done: [`Unfinished`].
    #[inline]
    pub(crate) fn unless_finished(&self, op: &'static str) -> Unfinished<'_> {
        self.poison.unless_finished(&*self.env, op, &self.dir)
    }

    /// Whether commits wait for the disk unless they say otherwise.
    pub(crate) fn syncs_by_default(&self) -> bool {
        self.config.wal_enabled && self.config.wal_sync_mode == WalSyncMode::Sync
    }

    /// Makes everything durable that was committed so far.
    pub(crate) fn sync(&self) -> Result<()> {
        self.poison.check()?;
        let end = self.sequencer.lock().tail.last_end();
        self.sync_through(end)
    }

    pub(crate) fn sync_through(&self, end: Lsn) -> Result<()> {
        let synced = self.wal.sync_through(end, &|| self.sequencer.lock().tail.pad());
        self.published_moved.notify(); // leading it has published the commits that waited
        synced
    }
}
