//! Transactions at the sequencer: what a commit is bound to, and when a transaction may begin.

use super::{Db, Sequencer};
use crate::{
    error::{Error, Result},
    format::ops::{Op, Ops},
    transaction::{
        locks::{Mode, Owner, Target},
        window::{Backlog, Checks, Footprint, Verdict, Window},
        writes::Writes,
    },
    types::{KeyspaceId, SeqNo},
    version::Version,
};
use std::{sync::Arc, time::Duration};

/// Commits without an open transaction after which the window is given up.
const IDLE_COMMITS: u32 = 10_000;
/// Bytes of memtable for which the window knows the newest commit of one key.
const BYTES_PER_POINT: usize = 64;
/// Keys whose newest commit the window knows, at most.
const POINTS_MAX: usize = 1 << 20;
/// How often a plain write that lost a deadlock is tried again before the caller is told.
const PLAIN_TRIES: u32 = 100;

/// What a commit is bound to besides its operations. A plain one is bound to nothing.
#[derive(Default)]
pub(crate) struct Terms<'a> {
    /// What must not have been touched.
    pub(crate) checks: Checks<'a>,
    /// How many changes without a SeqNo there had been before what the transaction sees: there must not be one more
    /// that concerns it.
    pub(crate) loads: Option<u64>,
    /// What it writes.
    pub(crate) writes: Option<&'a Writes>,
    /// Whose locks do not count.
    pub(crate) owner: Option<Owner>,
    /// Until when it waits for locks.
    pub(crate) deadline: Option<Duration>,
}

/// The locks of a plain write, until it is published.
pub(super) struct WriteLocks<'a> {
    db: &'a Db,
    /// A transaction keeps its locks until it ends.
    plain: Option<u64>,
}

impl Drop for WriteLocks<'_> {
    fn drop(&mut self) {
        if let Some(owner) = self.plain {
            self.db.locks.unlock_all(owner);
        }
    }
}

impl Db {
    /// What a transaction that begins now reads. Every commit behind it will be in the window, if the
    /// transaction is counted already.
    pub(crate) fn begin_view(&self, writes: bool) -> Result<(Arc<Version>, SeqNo)> {
        if writes {
            if !self.transactions.is_recording() {
                self.begin_recording()?;
            }
            // What was given its SeqNo before is not in the window.
            self.wait_until_visible(self.transactions.floor())?;
        }
        Ok(self.view())
    }

    /// Has a conflict window from now on.
    fn begin_recording(&self) -> Result<()> {
        let keys = (self.config.memtable_size / BYTES_PER_POINT).min(POINTS_MAX);
        let short = self.env.buggify("transaction: a short window");
        let points = self.transactions.points(if short { 16 } else { keys })?;
        let mut sequencer = self.sequencer.lock();
        if sequencer.window.is_none() {
            crate::sync::sometimes("transaction: the window begins");
            let newest = SeqNo(sequencer.next_seq.0 - 1);
            sequencer.window = Some(Window::new(points, newest, short));
            self.transactions.begin_recording(newest);
        }
        Ok(())
    }

    /// Waits until everything up to a SeqNo is published.
    pub(crate) fn wait_until_visible(&self, seq: SeqNo) -> Result<()> {
        if self.visible() >= seq {
            return Ok(());
        }
        crate::sync::sometimes("transaction: waits for commits to be published");
        self.published_moved.wait(|| {
            if self.visible() >= seq {
                return Some(Ok(()));
            }
            self.poison.check().err().map(Err)
        })
    }

    /// Waits until every commit that was sequenced before is published: whoever has a lock now sees what was
    /// written before it was taken.
    pub(crate) fn wait_for_sequenced(&self) -> Result<()> {
        let newest = SeqNo(self.sequencer.lock().next_seq.0 - 1);
        self.wait_until_visible(newest)
    }

    /// Waits for a lock.
    pub(crate) fn lock_for(
        &self,
        owner: Owner,
        target: Target<'_>,
        deadline: Option<Duration>,
    ) -> Result<()> {
        let refused = || self.check_open().and_then(|()| self.poison.check());
        self.locks.lock(owner, target, Mode::Exclusive, deadline, &refused)
    }

    /// Locks what a commit writes, in order, against transactions that have locks.
    #[cold]
    pub(super) fn lock_written(&self, payload: &[u8], terms: &Terms<'_>) -> Result<WriteLocks<'_>> {
        crate::sync::sometimes("commit: takes locks");
        let mut targets: Vec<_> = Ops::new(payload).flatten().map(written).collect();
        targets.sort_unstable_by_key(|target| match *target {
            Target::Key(keyspace, key) => (keyspace, key, false),
            Target::Range(keyspace, start, _) => (keyspace, start, true),
        });
        targets.dedup_by(
            |a, b| matches!((a, b), (Target::Key(k, x), Target::Key(l, y)) if k == l && x == y),
        );
        let deadline = match terms.owner {
            Some(_) => terms.deadline,
            None => self.env.clock().now().checked_add(self.config.transaction_timeout),
        };
        let lock_all = |owner| {
            let locked =
                targets.iter().try_for_each(|target| self.lock_for(owner, *target, deadline));
            let plain = terms.owner.is_none().then_some(owner.id);
            let locks = WriteLocks { db: self, plain };
            locked.map(|()| locks)
        };
        if let Some(owner) = terms.owner {
            return lock_all(owner);
        }
        // The age of the first try, so that it is its turn sometime.
        let age = self.transactions.next_id();
        let plain = || Owner { plain: true, ..Owner::new(self.transactions.next_id(), age) };
        for _ in 0..PLAIN_TRIES {
            match lock_all(plain()) {
                Err(Error::Deadlock { .. }) => {
                    crate::sync::sometimes("commit: a plain one is in a deadlock")
                }
                other => return other,
            }
        }
        lock_all(plain())
    }

    /// Looks at the commits that a transaction is behind, without the sequencer lock.
    #[cold]
    pub(super) fn catch_up(&self, checks: &mut Checks<'_>) -> Result<()> {
        crate::sync::sometimes("commit: a transaction catches up");
        let backlog = {
            let sequencer = self.sequencer.lock();
            let newest = SeqNo(sequencer.next_seq.0 - 1);
            match &sequencer.window {
                Some(window) => window.after(checks, newest),
                None => Backlog::Forgotten,
            }
        };
        match backlog.judge(checks) {
            Verdict::Holds | Verdict::Behind => Ok(()),
            Verdict::Conflict => Err(self.conflict()),
        }
    }

    /// Looks whether all holds until now, whatever was sequenced.
    pub(crate) fn check_now(&self, terms: &mut Terms<'_>) -> Result<()> {
        loop {
            let verdict = self.judge(&self.sequencer.lock(), terms)?;
            match verdict {
                Verdict::Behind => self.catch_up(&mut terms.checks)?,
                Verdict::Holds | Verdict::Conflict => return Ok(()),
            }
        }
    }

    pub(super) fn conflict(&self) -> Error {
        self.transactions.conflicts.add(1);
        Error::TransactionConflict
    }

    /// Whether a commit may have the next SeqNo. Under the sequencer lock.
    #[inline]
    pub(super) fn judge(&self, sequencer: &Sequencer, terms: &mut Terms<'_>) -> Result<Verdict> {
        let Terms { checks, loads, writes, .. } = &*terms;
        let concern =
            |id| checks.concern(id) || writes.is_some_and(|writes| writes.of(id).is_some());
        if loads.is_some_and(|loads| self.transactions.loads.touch(loads, concern)) {
            crate::sync::sometimes("commit: a keyspace was loaded or dropped meanwhile");
            return Err(self.conflict());
        }
        if terms.checks.is_empty() {
            return Ok(Verdict::Holds);
        }
        let verdict = match &sequencer.window {
            Some(window) => window.judge(&mut terms.checks),
            None => terms.checks.lose_all(),
        };
        match verdict {
            Verdict::Conflict => Err(self.conflict()),
            other => Ok(other),
        }
    }

    /// Enters a commit into the window. Returns a window that is not needed any more, to be dropped without
    /// the lock. Under the sequencer lock.
    #[inline]
    pub(super) fn record(
        &self,
        sequencer: &mut Sequencer,
        seq: SeqNo,
        footprint: Option<Footprint>,
    ) -> Option<Window> {
        let window = sequencer.window.as_mut()?;
        if window.is_idle(self.transactions.writers(), IDLE_COMMITS) {
            crate::sync::sometimes("commit: gives the window up");
            self.transactions.end_recording();
            return sequencer.window.take();
        }
        if let Some(footprint) = footprint {
            window.record(seq, footprint);
        }
        None
    }
}

/// What an operation writes, as a lock knows it.
fn written(op: Op<'_>) -> Target<'_> {
    match op {
        Op::Put { keyspace, key, .. }
        | Op::Blob { keyspace, key, .. }
        | Op::Delete { keyspace, key } => Target::Key(keyspace, key),
        Op::RangeDelete { keyspace, start, end } => Target::Range(keyspace, start, end),
    }
}

/// A lock on all keys between.
pub(crate) fn range_lock<'a>(
    keyspace: KeyspaceId,
    start: &'a [u8],
    end: Option<&'a [u8]>,
) -> Target<'a> {
    Target::Range(keyspace, start, end)
}
