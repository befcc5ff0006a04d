//! What transactions are made of, below the commit path: what each has read and written, the window that
//! finds conflicts, the locks, and the list of those that are open.
//!
//! - [`reads`] and [`writes`]: what one transaction has done so far
//! - [`window`]: what others have committed meanwhile
//! - [`loads`]: changes that have no SeqNo
//! - [`locks`]: keys and ranges that others have to wait for
//! - [`open`]: the list of those that are open
//!
//! How they become a commit is in [`crate::db::transact`], and the handle that users hold in
//! [`crate::handles`].

pub(crate) mod loads;
pub(crate) mod locks;
pub(crate) mod open;
pub(crate) mod reads;
pub(crate) mod window;
pub(crate) mod writes;

use self::{loads::Loads, open::OpenList, window::Points};
use crate::{
    error::{Error, Result},
    metrics::Counter,
    sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    types::SeqNo,
};
use std::sync::{Arc, OnceLock};

/// An open transaction or snapshot, as the list knows it.
pub(crate) trait Expires: Send + Sync {
    /// Ends it because its time is over: gives back what it holds.
    fn expire(&self);

    /// Ends it because what it holds is needed, if that is so: returns whether an old Version is free now.
    fn give_up(&self) -> bool;
}

/// What all transactions share.
pub(crate) struct Transactions {
    /// With the snapshots.
    pub(crate) open: OpenList,
    next: AtomicU64,
    /// How many transactions are open that may write.
    writers: AtomicUsize,
    /// Whether there is a conflict window, and what the last one began behind. Changed under the sequencer lock.
    recording: AtomicBool,
    floor: AtomicU64,
    /// Of all windows that there ever are.
    points: OnceLock<Arc<Points>>,
    pub(crate) loads: Arc<Loads>,
    /// Somebody looks soon whose time is over. Who begins when nobody does says so.
    watched: AtomicBool,
    /// Bytes of what all of them have read and written.
    bytes: AtomicUsize,
    pub(crate) committed: Counter,
    pub(crate) aborted: Counter,
    pub(crate) conflicts: Counter,
}

impl Transactions {
    /// `first` is the first number given out.
    pub(crate) fn new(first: u64) -> Arc<Transactions> {
        Arc::new(Transactions {
            open: OpenList::default(),
            next: AtomicU64::new(first),
            writers: AtomicUsize::new(0),
            recording: AtomicBool::new(false),
            floor: AtomicU64::new(0),
            points: OnceLock::new(),
            loads: Arc::default(),
            watched: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            committed: Counter::default(),
            aborted: Counter::default(),
            conflicts: Counter::default(),
        })
    }

    /// A number that no other transaction has.
    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, SeqCst)
    }

    /// One more may write.
    pub(crate) fn begin_write(&self) {
        self.writers.fetch_add(1, SeqCst);
    }

    /// One less.
    pub(crate) fn end_write(&self) {
        self.writers.fetch_sub(1, SeqCst);
    }

    /// Says whether somebody will look soon whose time is over.
    pub(crate) fn set_watched(&self, watched: bool) {
        self.watched.store(watched, SeqCst);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(SeqCst)
    }

    /// How many of them may write.
    pub(crate) fn writers(&self) -> usize {
        self.writers.load(SeqCst)
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.recording.load(SeqCst)
    }

    /// The conflict window does not know of what was given a SeqNo up to `floor`.
    pub(crate) fn begin_recording(&self, floor: SeqNo) {
        self.floor.store(floor.0, SeqCst);
        self.recording.store(true, SeqCst);
    }

    /// The points of this database, about so many if there are none yet.
    pub(crate) fn points(&self, keys: usize) -> Result<Arc<Points>> {
        if self.points.get().is_none() {
            let _ = self.points.set(Points::new(keys)?); // another thread may have been faster
        }
        self.points.get().cloned().map_or_else(|| Points::new(keys), Ok)
    }

    /// Brings near what entering a key with this hash into the window writes, if there is a window.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        if let Some(points) = self.points.get().filter(|_| self.is_recording()) {
            points.prefetch(hash);
        }
    }

    pub(crate) fn end_recording(&self) {
        self.recording.store(false, SeqCst);
    }

    pub(crate) fn floor(&self) -> SeqNo {
        SeqNo(self.floor.load(SeqCst))
    }

    /// Says that what a transaction holds in memory has grown or shrunk. Refuses what is too much for all of
    /// them together; then nothing has changed.
    pub(crate) fn resize(&self, old: usize, new: usize, max: usize) -> Result<()> {
        if new == old {
            return Ok(()); // what was reserved was right
        }
        if new < old {
            self.bytes.fetch_sub(old - new, SeqCst);
            return Ok(());
        }
        let all = self.bytes.fetch_add(new - old, SeqCst) + (new - old);
        if all > max {
            self.bytes.fetch_sub(new - old, SeqCst);
            crate::sync::sometimes("transaction: too large for memory");
            return Err(Error::CommitTooLarge { len: all as u64, max: max as u64 });
        }
        Ok(())
    }
}
