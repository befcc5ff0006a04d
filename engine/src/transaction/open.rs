//! The list of the transactions and snapshots that are open.

use super::Expires;
use crate::{
    error::{Error, Result},
    sync::{AtomicU32, Mutex, Ordering::Relaxed},
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// All that are open. Each has a place, which is free again when it ends: beginning and ending one touches little
/// memory, and none that depends on how many there are.
#[derive(Default)]
pub(crate) struct OpenList(Mutex<Places>);

#[derive(Default)]
struct Places {
    places: Vec<Option<Open>>,
    free: Vec<u32>,
    transactions: usize,
    /// How many there ever were.
    begun: u64,
}

/// One of them.
pub(crate) struct Open {
    /// Greater for what began later.
    pub(crate) id: u64,
    pub(crate) began: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) it: Weak<dyn Expires>,
    /// Not a snapshot.
    pub(crate) is_transaction: bool,
}

impl OpenList {
    /// Adds one, if it is a snapshot or there are less than `max` transactions. `place` is its place, before anybody finds
    /// it in the list and ends it.
    pub(crate) fn add(&self, open: Open, max: usize, place: &AtomicU32) -> Result<()> {
        let mut list = self.0.lock();
        if open.is_transaction {
            if list.transactions >= max {
                drop(list);
                crate::sync::sometimes("transaction: there are too many");
                return Err(Error::TooManyTransactions { max });
            }
            list.transactions += 1;
        }
        list.begun += 1;
        let free = list.free.pop().unwrap_or_else(|| {
            list.places.push(None);
            (list.places.len() - 1) as u32
        });
        list.places[free as usize] = Some(open);
        place.store(free, Relaxed);
        Ok(())
    }

    /// Takes one out, if it is still there.
    pub(crate) fn remove(&self, place: u32, id: u64) {
        let mut list = self.0.lock();
        let found = list.places.get_mut(place as usize);
        let Some(open) = found.and_then(|found| found.take_if(|open| open.id == id)) else {
            return;
        };
        list.transactions -= usize::from(open.is_transaction);
        list.free.push(place);
        if list.free.len() == list.places.len() {
            // Whatever there once were.
            list.places.truncate(KEPT);
            list.free.retain(|place| (*place as usize) < KEPT);
        }
        drop(list);
    }

    /// How many there ever were: it changes when one begins.
    pub(crate) fn begun(&self) -> u64 {
        self.0.lock().begun
    }

    /// How many transactions there are.
    pub(crate) fn transactions(&self) -> usize {
        self.0.lock().transactions
    }

    /// When the oldest one began.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.0.lock().places.iter().flatten().map(|open| open.began).min()
    }

    /// Ends those whose time is over. Returns when the next one's will be.
    pub(crate) fn expire(&self, now: Duration) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut over = vec![];
        for open in self.0.lock().places.iter().flatten() {
            match open.deadline {
                Some(deadline) if deadline > now => {
                    next = Some(next.map_or(deadline, |next| next.min(deadline)));
                }
                Some(_) => over.extend(open.it.upgrade()),
                None => {}
            }
        }
        // Not under the lock: each takes itself out of the list.
        over.iter().for_each(|it| it.expire());
        next
    }

    /// Ends the oldest of those that hold a Version which nobody needs else, but never the youngest of all. `false`:
    /// there is none.
    pub(crate) fn give_up_oldest(&self) -> bool {
        let mut all: Vec<(u64, Arc<dyn Expires>)> = {
            let list = self.0.lock();
            let open = list.places.iter().flatten();
            open.filter_map(|open| Some((open.id, open.it.upgrade()?))).collect()
        };
        all.sort_unstable_by_key(|(id, _)| *id);
        all.pop();
        all.iter().any(|(_, it)| it.give_up())
    }
}

/// How many places stay when nothing is open.
const KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{AtomicBool, Ordering::SeqCst};

    #[derive(Default)]
    struct One(AtomicBool);

    impl Expires for One {
        fn expire(&self) {
            self.0.store(true, SeqCst);
        }

        fn give_up(&self) -> bool {
            !self.0.swap(true, SeqCst)
        }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn open(one: &Arc<One>, id: u64, deadline: Option<u64>, is_transaction: bool) -> Open {
        let it: Weak<One> = Arc::downgrade(one);
        Open { id, began: at(id), deadline: deadline.map(at), it, is_transaction }
    }

    #[test]
    fn places_are_used_again_and_no_other_is_taken_out() {
        let (list, one) = (OpenList::default(), Arc::new(One::default()));
        let add = |id, is_transaction| {
            let place = AtomicU32::new(u32::MAX);
            list.add(open(&one, id, None, is_transaction), 50, &place).map(|()| place.load(Relaxed))
        };
        let places: Vec<_> = (0..100).map(|id| add(id, id % 2 == 0).unwrap()).collect();
        assert_eq!((list.transactions(), list.begun(), list.oldest()), (50, 100, Some(at(0))));
        let refused = add(100, true);
        assert!(matches!(refused, Err(Error::TooManyTransactions { max: 50 })));
        list.remove(places[0], 0);
        let again = add(101, true).unwrap();
        assert_eq!(again, places[0]);
        list.remove(places[0], 0); // ended before
        assert_eq!((list.transactions(), list.oldest()), (50, Some(at(1))));
        (1..100).for_each(|id| list.remove(places[id as usize], id));
        list.remove(again, 101);
        assert_eq!((list.transactions(), list.oldest()), (0, None));
        let list = list.0.lock();
        assert!(list.places.len() <= KEPT && list.free.len() == list.places.len());
    }

    #[test]
    fn the_oldest_go_first_and_the_youngest_never() {
        let list = OpenList::default();
        let all: Vec<_> = (0..4).map(|_| Arc::new(One::default())).collect();
        // The place of the first is taken by the youngest.
        let place = AtomicU32::new(u32::MAX);
        list.add(open(&all[3], 1, None, false), 9, &place).unwrap();
        for id in [3, 2] {
            let place = AtomicU32::new(u32::MAX);
            list.add(open(&all[id as usize - 2], id, Some(id * 10), true), 9, &place).unwrap();
        }
        list.remove(place.load(Relaxed), 1);
        list.add(open(&all[2], 4, None, false), 9, &place).unwrap();
        let ended = |n: usize| all[n].0.load(SeqCst);
        assert!(list.give_up_oldest() && ended(0) && !ended(1));
        assert_eq!(list.expire(at(20)), Some(at(30)));
        assert!(!ended(1));
        assert!(list.give_up_oldest() && ended(1));
        assert!(!list.give_up_oldest() && !ended(2));
        assert_eq!(list.expire(at(30)), None);
    }
}
