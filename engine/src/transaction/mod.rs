//! What transactions are made of, below the commit path: what each has read and written, the window that
//! finds conflicts, the locks, and the list of those that are open.
//!
//! - [`reads`] and [`writes`]: what one transaction has done so far
//! - [`window`]: what others have committed meanwhile
//! - [`loads`]: changes that have no SeqNo
//! - [`locks`]: keys and ranges that others have to wait for
//!
//! How they become a commit is in [`crate::db::transact`], and the handle that users hold in
//! [`crate::handles`].

pub(crate) mod loads;
pub(crate) mod locks;
pub(crate) mod reads;
pub(crate) mod window;
pub(crate) mod writes;

use self::loads::Loads;
use crate::{
    error::{Error, Result},
    metrics::Counter,
    sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering::SeqCst},
    types::SeqNo,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

/// An open transaction or snapshot, as the list knows it.
pub(crate) trait Expires: Send + Sync {
    /// Ends it because its time is over: gives back what it holds.
    fn expire(&self);

    /// Ends it because what it holds is needed, if that is so: returns whether an old Version is free now.
    fn give_up(&self) -> bool;
}

/// The transactions and snapshots that are open.
pub(crate) struct Transactions {
    open: Mutex<BTreeMap<u64, Open>>,
    next: AtomicU64,
    added: AtomicU64,
    /// How many transactions are open, and how many of them may write.
    count: AtomicUsize,
    writers: AtomicUsize,
    /// Whether there is a conflict window, and what the last one began behind. Changed under the sequencer lock.
    recording: AtomicBool,
    floor: AtomicU64,
    pub(crate) loads: Arc<Loads>,
    /// Somebody looks soon whose time is over. Who begins when nobody does says so.
    watched: AtomicBool,
    /// Bytes of what all of them have read and written.
    bytes: AtomicUsize,
    pub(crate) committed: Counter,
    pub(crate) aborted: Counter,
    pub(crate) conflicts: Counter,
}

struct Open {
    began: Duration,
    deadline: Option<Duration>,
    /// The transaction or snapshot.
    it: Weak<dyn Expires>,
}

impl Transactions {
    /// `first` is the first number given out.
    pub(crate) fn new(first: u64) -> Arc<Transactions> {
        Arc::new(Transactions {
            open: Mutex::default(),
            next: AtomicU64::new(first),
            added: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            writers: AtomicUsize::new(0),
            recording: AtomicBool::new(false),
            floor: AtomicU64::new(0),
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

    /// Counts one more transaction, if there may be one.
    pub(crate) fn enter(&self, max: usize, writes: bool) -> Result<()> {
        if self.count.fetch_add(1, SeqCst) >= max {
            self.count.fetch_sub(1, SeqCst);
            crate::sync::sometimes("transaction: there are too many");
            return Err(Error::TooManyTransactions { max });
        }
        if writes {
            self.writers.fetch_add(1, SeqCst);
        }
        Ok(())
    }

    /// Counts one less.
    pub(crate) fn leave(&self, writes: bool) {
        if writes {
            self.writers.fetch_sub(1, SeqCst);
        }
        self.count.fetch_sub(1, SeqCst);
    }

    /// Lists a transaction or a snapshot.
    pub(crate) fn add(
        &self,
        id: u64,
        began: Duration,
        deadline: Option<Duration>,
        it: Weak<dyn Expires>,
    ) {
        self.open.lock().insert(id, Open { began, deadline, it });
        self.added.fetch_add(1, SeqCst);
    }

    /// Takes it out of the list.
    pub(crate) fn remove(&self, id: u64) {
        self.open.lock().remove(&id);
    }

    /// How many were listed: it changes when a transaction begins.
    pub(crate) fn begun(&self) -> u64 {
        self.added.load(SeqCst)
    }

    /// Says whether somebody will look soon whose time is over.
    pub(crate) fn set_watched(&self, watched: bool) {
        self.watched.store(watched, SeqCst);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(SeqCst)
    }

    /// Ends the transactions and snapshots whose time is over. Returns when the next one's will be.
    pub(crate) fn expire(&self, now: Duration) -> Option<Duration> {
        let mut next = None;
        let over: Vec<_> = {
            let open = self.open.lock();
            let over = open.values().filter(|open| match open.deadline {
                Some(deadline) if deadline > now => {
                    next = Some(next.map_or(deadline, |next: Duration| next.min(deadline)));
                    false
                }
                Some(_) => true,
                None => false,
            });
            over.filter_map(|open| open.it.upgrade()).collect()
        };
        // Not under the lock: each takes its place out of the list.
        over.iter().for_each(|it| it.expire());
        next
    }

    /// Ends the oldest of those that hold a Version which nobody needs else, but never the youngest of all. `false`:
    /// there is none.
    pub(crate) fn give_up_oldest(&self) -> bool {
        let mut after = 0;
        loop {
            let next = {
                let open = self.open.lock();
                let mut rest = open.range(after..);
                let next = rest.next().filter(|_| rest.next().is_some());
                next.map(|(id, open)| (*id, open.it.upgrade()))
            };
            let Some((id, it)) = next else { return false };
            if it.is_some_and(|it| it.give_up()) {
                return true;
            }
            after = id + 1;
        }
    }

    /// How many transactions are open.
    pub(crate) fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// How many of them may write.
    pub(crate) fn writers(&self) -> usize {
        self.writers.load(SeqCst)
    }

    /// When the oldest transaction or snapshot began.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.open.lock().values().map(|open| open.began).min()
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.recording.load(SeqCst)
    }

    /// The conflict window does not know of what was given a SeqNo up to `floor`.
    pub(crate) fn begin_recording(&self, floor: SeqNo) {
        self.floor.store(floor.0, SeqCst);
        self.recording.store(true, SeqCst);
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
        if new <= old {
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
