//! Locks on keys and ranges, for transactions that wait for each other instead of failing.
//!
//! Invariants:
//! - no two owners hold conflicting locks: such that overlap, one of them exclusive
//! - a request waits only while [`Table::blockers`] finds someone: whoever lets a lock or a request go grants
//!   what this made free, before anyone else can ask. So woken threads do not race for what woke them
//! - no circle of owners waits for each other: it is broken by the request that would close it
//!
//! The table decides, without waiting; here is the waiting. An owner makes one request at a time, and lets go
//! of nothing meanwhile: a deadlock of owners who do otherwise may be seen by their deadlines only.
//!
//! What is locked, and why, others decide: a lock says nothing of the data.

mod nodes;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod table;
#[cfg(test)]
mod tests;

use self::table::{Asked, Request, Table};
use crate::{
    env::{Env, Poison, Signal},
    error::{Error, Result},
    sync::{AtomicBool, Mutex, Ordering::SeqCst, point, sometimes},
    types::KeyspaceId,
};
use std::{ops::Bound, sync::Arc, time::Duration};

/// Whether others may hold the lock too. The stronger mode is the greater one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

impl Mode {
    fn conflicts(self, other: Mode) -> bool {
        self.max(other) == Mode::Exclusive
    }
}

/// What is locked: one key, or the keys `start <= key < end` of a keyspace, without an `end` all from `start` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target<'a> {
    Key(KeyspaceId, &'a [u8]),
    Range(KeyspaceId, &'a [u8], Option<&'a [u8]>),
}

impl<'a> Target<'a> {
    fn keyspace(self) -> KeyspaceId {
        let (Target::Key(keyspace, _) | Target::Range(keyspace, ..)) = self;
        keyspace
    }

    /// The keys of it, for a map. Not for a range that [`is_empty`](Target::is_empty).
    fn bounds(self) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        match self {
            Target::Key(_, key) => (Bound::Included(key), Bound::Included(key)),
            Target::Range(_, start, end) => {
                (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded))
            }
        }
    }

    fn is_empty(self) -> bool {
        matches!(self, Target::Range(_, start, Some(end)) if start >= end)
    }

    fn overlaps(self, other: Target<'_>) -> bool {
        let before_end = |key: &[u8], end: Option<&[u8]>| end.is_none_or(|end| key < end);
        self.keyspace() == other.keyspace()
            && match (self, other) {
                (Target::Key(_, a), Target::Key(_, b)) => a == b,
                (Target::Key(_, key), Target::Range(_, start, end))
                | (Target::Range(_, start, end), Target::Key(_, key)) => {
                    start <= key && before_end(key, end)
                }
                (Target::Range(_, a, a_end), Target::Range(_, b, b_end)) => {
                    before_end(a, b_end) && before_end(b, a_end)
                }
            }
    }

    /// Whether all of `other` lies in it.
    fn covers(self, other: Target<'_>) -> bool {
        match (self, other) {
            (Target::Range(_, start, end), Target::Range(_, inner, inner_end)) => {
                let ends = end.is_none_or(|end| inner_end.is_some_and(|inner| inner <= end));
                self.keyspace() == other.keyspace() && start <= inner && ends
            }
            (Target::Key(..), Target::Range(..)) => false,
            (_, Target::Key(..)) => self.overlaps(other),
        }
    }
}

/// Who locks: a transaction, or a plain write, which has no use for locks but to wait for those of transactions. `id` is unique for each attempt of a transaction, and never used again; `age` is less for an older
/// transaction, and the same for all its attempts, so that one that lost is not the youngest for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) id: u64,
    pub(crate) age: u64,
    pub(crate) plain: bool,
}

impl Owner {
    /// A try of a transaction.
    pub(crate) fn new(id: u64, age: u64) -> Owner {
        Owner { id, age, plain: false }
    }
}

/// Request number n waits for signal n % SIGNALS: few are woken that have nothing to see.
const SIGNALS: u64 = 16;

/// The lock table of a database.
pub(crate) struct Locks {
    env: Arc<dyn Env>,
    /// Whether the table has anything in it of a transaction. Changed under its lock.
    in_use: AtomicBool,
    table: Mutex<Table>,
    signals: [Arc<Signal>; SIGNALS as usize],
}

impl Locks {
    pub(crate) fn new(env: &Arc<dyn Env>, poison: &Poison) -> Locks {
        let signals = std::array::from_fn(|_| Signal::new(env));
        signals.iter().for_each(|signal| poison.wakes(signal));
        let (in_use, table) = (AtomicBool::new(false), Mutex::new(Table::default()));
        Locks { env: Arc::clone(env), in_use, table, signals }
    }

    /// Whether a transaction holds or waits for any lock. Plain writes take locks only while one does.
    #[inline]
    pub(crate) fn in_use(&self) -> bool {
        self.in_use.load(SeqCst)
    }

    /// Locks `target` for `owner`, who holds it until [`unlock_all`](Locks::unlock_all); at once if it holds it
    /// already. Waits for others, first come, first served, until `deadline` ([`Error::LockTimeout`]), or until
    /// `refused` gives an error: it is asked each time that the waiting thread wakes. With [`Error::Deadlock`]
    /// this owner was chosen to give way: it must let go of everything, as others wait for it.
    pub(crate) fn lock(
        &self,
        owner: Owner,
        target: Target<'_>,
        mode: Mode,
        deadline: Option<Duration>,
        refused: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let late = || deadline.is_some_and(|deadline| deadline <= self.env.clock().now());
        match self.with_table(|table| table.ask(owner, target, mode, late))? {
            Asked::Granted => Ok(()),
            Asked::Waits(request) => {
                sometimes("locks: a request waits");
                self.wait(request, deadline, refused)
            }
        }
    }

    /// Waits until the request is decided.
    #[cold]
    fn wait(
        &self,
        request: Request,
        deadline: Option<Duration>,
        refused: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        // Decided, one way or the other; or the reason to wait no longer.
        let check = || match self.with_table(|table| table.decision(request)) {
            Some(decision) => Some(Ok(decision)),
            None => refused().err().map(Err),
        };
        let signal = &self.signals[(request.number % SIGNALS) as usize];
        let ended = match deadline {
            None => signal.wait(check),
            Some(deadline) => {
                let patience = deadline.saturating_sub(self.env.clock().now());
                signal.wait_for(patience, check).unwrap_or(Err(Error::LockTimeout))
            }
        };
        ended.unwrap_or_else(|reason| {
            point("locks: a waiter gives up");
            self.with_table(|table| table.withdraw(request, reason))
        })
    }

    /// Lets go of all that the owner holds, and hands it to those who can go on.
    pub(crate) fn unlock_all(&self, owner: u64) {
        self.with_table(|table| table.unlock_all(owner));
    }

    /// Wakes all who wait, so that they ask whether they are refused. What refuses them was changed before, by
    /// a sequentially consistent operation.
    pub(crate) fn wake(&self) {
        self.signals.iter().for_each(|signal| signal.notify());
    }

    /// The one way to the table: tells whether it is in use, and wakes those for whom something was decided.
    fn with_table<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock();
        let was_in_use = table.is_in_use();
        let done = act(&mut table);
        if table.is_in_use() != was_in_use {
            self.in_use.store(!was_in_use, SeqCst);
        }
        let mut decided = std::mem::take(&mut table.decided);
        drop(table);
        while decided != 0 {
            self.signals[decided.trailing_zeros() as usize].notify();
            decided &= decided - 1;
        }
        done
    }
}
