//! Changes of whole keyspaces that have no SeqNo, so that the conflict window does not know of them: bulk loads, and
//! keyspaces that are dropped.

use crate::{
    sync::{AtomicU64, AtomicUsize, Mutex, Ordering::SeqCst},
    types::KeyspaceId,
};
use std::{collections::VecDeque, sync::Arc};

/// As many changes are remembered with their keyspaces.
const REMEMBERED: usize = 64;

/// What was changed, and what is being loaded. All is changed under the sequencer lock, but for the begin and the end
/// of a load.
#[derive(Default)]
pub(crate) struct Loads {
    /// How many changes there were.
    count: AtomicU64,
    /// How many loads are under way.
    running: AtomicUsize,
    which: Mutex<Which>,
}

#[derive(Default)]
struct Which {
    running: Vec<KeyspaceId>,
    /// The newest changes, numbered from 1.
    done: VecDeque<(u64, KeyspaceId)>,
}

/// A load that is under way, until it is dropped.
pub(crate) struct Running {
    loads: Arc<Loads>,
    keyspace: KeyspaceId,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut which = self.loads.which.lock();
        if let Some(at) = which.running.iter().position(|id| *id == self.keyspace) {
            which.running.swap_remove(at);
            self.loads.running.fetch_sub(1, SeqCst);
        }
    }
}

impl Loads {
    /// How many changes there were until now: for [`Loads::touch`].
    pub(crate) fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// A load begins, and has no place among the commits yet.
    pub(crate) fn begin(self: &Arc<Self>, keyspace: KeyspaceId) -> Running {
        self.which.lock().running.push(keyspace);
        self.running.fetch_add(1, SeqCst);
        Running { loads: Arc::clone(self), keyspace }
    }

    /// A keyspace was changed, and whoever looks next sees it. Under the sequencer lock.
    pub(crate) fn add(&self, keyspace: KeyspaceId) {
        let mut which = self.which.lock();
        let number = self.count.fetch_add(1, SeqCst) + 1;
        which.done.push_back((number, keyspace));
        if which.done.len() > REMEMBERED {
            which.done.pop_front();
        }
    }

    /// Whether one of the keyspaces that `concern` says yes to was changed behind the first `since` changes, or is
    /// being loaded. A load has its place among the commits where it begins, and shows when it is done: what is read
    /// of the keyspace meanwhile is not what was there. Under the sequencer lock.
    #[inline]
    pub(crate) fn touch(&self, since: u64, concern: impl Fn(KeyspaceId) -> bool) -> bool {
        if self.count() == since && self.running.load(SeqCst) == 0 {
            return false;
        }
        let which = self.which.lock();
        let forgotten = which.done.front().map_or(0, |(number, _)| number - 1);
        let done = which.done.iter().any(|(number, id)| *number > since && concern(*id));
        forgotten > since || done || which.running.iter().any(|id| concern(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: KeyspaceId = KeyspaceId(1);
    const B: KeyspaceId = KeyspaceId(2);

    #[test]
    fn only_what_was_changed_since_counts() {
        let loads = Arc::new(Loads::default());
        let touch = |since, id| loads.touch(since, |other| other == id);
        assert!(!touch(0, A));
        loads.add(A);
        assert!(touch(0, A) && !touch(0, B));
        assert!(!touch(1, A));
        let running = loads.begin(B);
        assert!(touch(1, B) && !touch(1, A));
        drop(running);
        assert!(!touch(1, B));
        (0..REMEMBERED).for_each(|_| loads.add(A));
        assert!(touch(0, B), "what is forgotten may have been anything");
        assert!(!touch(1, B) && touch(1, A));
        assert!(!touch(loads.count(), A));
    }
}
