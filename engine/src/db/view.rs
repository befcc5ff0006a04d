//! What snapshots hold: one moment, until they are dropped, or until it is too old.
//!
//! A moment is a Version and a SeqNo. The Version keeps memtables, files and pages of trees from being freed, so a
//! snapshot that is forgotten would cost ever more. So a moment may be ended by the database: when it is older than
//! [`version_retention`](crate::LightningDbConfig::version_retention), and, the oldest first, when memtables that
//! nobody needs but for old moments fill a quarter of `max_memory`.

use super::Db;
use crate::{
    error::{Error, Result},
    sync::{AtomicU32, Ordering::Relaxed},
    transaction::{Expires, open::Open},
    types::SeqNo,
    version::{
        Version,
        cell::{Held, Pinned},
    },
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

/// A moment that is looked at.
pub(crate) struct View {
    db: Arc<Db>,
    /// Its number and its place in the list of what is open.
    id: u64,
    place: AtomicU32,
    held: Held,
    seq: SeqNo,
}

impl View {
    /// The present moment.
    pub(crate) fn begin(db: &Arc<Db>) -> Result<Arc<View>> {
        db.check_open()?;
        let (version, seq) = db.view();
        let id = db.transactions.next_id();
        let place = AtomicU32::new(u32::MAX);
        let view = Arc::new(View { db: Arc::clone(db), id, place, held: Held::new(version), seq });
        let began = db.env.clock().about_now();
        let mut retention = db.config.version_retention;
        if db.env.buggify("snapshot: is soon too old") {
            retention = retention.min(Duration::from_millis(100));
        }
        let deadline = began.checked_add(retention);
        let it: Weak<View> = Arc::downgrade(&view);
        let open = Open { id, began, deadline, it, is_transaction: false };
        db.transactions.open.add(open, usize::MAX, &view.place)?;
        if deadline.is_some() && !db.transactions.is_watched() {
            db.background.wake_prepare();
        }
        Ok(view)
    }

    pub(crate) fn seq(&self) -> SeqNo {
        self.seq
    }

    /// The Version, for the length of one call.
    #[inline]
    pub(crate) fn pin(&self) -> Result<Pinned<'_>> {
        self.db.check_open()?;
        let pinned = self.db.versions.pin_held(&self.held, self.db.env.task_slot());
        pinned.ok_or(Error::SnapshotTooOld)
    }

    /// The Version, to be held for longer: whoever does keeps what it names, whatever becomes of the snapshot.
    pub(crate) fn version(&self) -> Result<Arc<Version>> {
        self.db.check_open()?;
        self.held.counted().ok_or(Error::SnapshotTooOld)
    }

    /// Refuses a moment that was ended.
    pub(crate) fn check(&self) -> Result<()> {
        if self.held.is_gone() { Err(Error::SnapshotTooOld) } else { Ok(()) }
    }
}

impl Expires for View {
    fn expire(&self) {
        crate::sync::sometimes("snapshot: ended because its time is over");
        self.give_up();
    }

    fn give_up(&self) -> bool {
        let was_held = !self.held.is_gone();
        let frees = self.db.versions.let_go(&self.held);
        if was_held {
            self.db.metrics.snapshots_ended.add(1);
        }
        self.db.transactions.open.remove(self.place.load(Relaxed), self.id);
        frees
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.db.transactions.open.remove(self.place.load(Relaxed), self.id);
    }
}

impl Db {
    /// Ends moments, the oldest first, until the memtables that are kept for them alone are not too many.
    pub(crate) fn bound_pinned(&self) {
        let max = self.config.max_memory as u64 / 4;
        while self.pinned_bytes() > max && self.transactions.open.give_up_oldest() {
            crate::sync::sometimes("snapshot: ended because of what it holds in memory");
            self.collect();
        }
    }

    /// Bytes of memtables that the current Version does not need.
    fn pinned_bytes(&self) -> u64 {
        let versions = self.versions.all();
        let Some((current, old)) = versions.split_first() else { return 0 };
        let mut pinned = BTreeMap::new();
        for memtable in old.iter().flat_map(|version| version.memtables()) {
            pinned.insert(Arc::as_ptr(memtable), memtable.memory_bytes() as u64);
        }
        for memtable in current.memtables() {
            pinned.remove(&Arc::as_ptr(memtable));
        }
        pinned.values().sum()
    }
}
