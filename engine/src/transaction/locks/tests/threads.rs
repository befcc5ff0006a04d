//! Threads that wait.

use super::*;
use crate::env::OsEnv;
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread::scope,
};

pub(super) const NEVER: &dyn Fn() -> Result<()> = &|| Ok(());

pub(super) fn owner(id: u64) -> Owner {
    Owner::new(id, id)
}

pub(super) fn locks() -> (Arc<dyn Env>, Poison, Locks) {
    let (env, poison): (Arc<dyn Env>, _) = (Arc::new(OsEnv::new()), Poison::default());
    let locks = Locks::new(&env, &poison);
    (env, poison, locks)
}

impl Locks {
    fn exclusive(&self, id: u64, name: &str) -> Result<()> {
        self.lock(owner(id), key(name), Exclusive, None, NEVER)
    }

    fn until_waiting(&self, count: usize) {
        while self.table.lock().count_waiting() != count {
            self.env.yield_now();
        }
    }

    fn assert_bare(&self) {
        assert!(!self.in_use() && self.table.lock().is_bare());
    }
}

#[test]
fn a_lock_is_handed_to_the_thread_that_waits_for_it() {
    let (_, _, locks) = locks();
    assert!(!locks.in_use());
    locks.exclusive(1, "k").unwrap();
    assert!(locks.in_use());
    scope(|s| {
        let waits = s.spawn(|| locks.exclusive(2, "k"));
        locks.until_waiting(1);
        locks.unlock_all(1);
        waits.join().unwrap().unwrap();
    });
    assert!(locks.in_use());
    locks.unlock_all(2);
    locks.assert_bare();
}

#[test]
fn a_lock_is_waited_for_until_the_deadline() {
    let (env, _, locks) = locks();
    let after = |millis| Some(env.clock().now() + Duration::from_millis(millis));
    locks.exclusive(1, "k").unwrap();
    for deadline in [Some(Duration::ZERO), after(20)] {
        let late = locks.lock(owner(2), key("k"), Shared, deadline, NEVER);
        assert!(matches!(late, Err(Error::LockTimeout)), "{late:?}");
        assert!(deadline <= after(0));
    }
    // A deadline that is not reached is no error.
    scope(|s| {
        let waits = s.spawn(|| locks.lock(owner(2), key("k"), Shared, after(60_000), NEVER));
        locks.until_waiting(1);
        locks.unlock_all(1);
        waits.join().unwrap().unwrap();
    });
    locks.unlock_all(2);
    locks.assert_bare();
}

#[test]
fn waiters_are_refused_when_the_database_is_closed_or_poisoned() {
    let (_, poison, locks) = locks();
    let closed = AtomicBool::new(false);
    let refused = || match closed.load(SeqCst) {
        true => Err(Error::Closed),
        false => poison.check(),
    };
    let wait = |id| locks.lock(owner(id), key("k"), Exclusive, None, &refused);
    locks.exclusive(1, "k").unwrap();
    scope(|s| {
        let waits = s.spawn(|| wait(2));
        locks.until_waiting(1);
        poison.set(Error::LockTimeout);
        assert!(matches!(waits.join().unwrap(), Err(Error::Poisoned { .. })));
        closed.store(true, SeqCst);
        assert!(matches!(wait(3), Err(Error::Closed)), "before it sleeps");
        closed.store(false, SeqCst);
    });
    let (_, _, locks) = self::locks();
    let refused = || match closed.load(SeqCst) {
        true => Err(Error::Closed),
        false => Ok(()),
    };
    locks.exclusive(1, "k").unwrap();
    scope(|s| {
        let (locks, refused) = (&locks, &refused);
        let waits: Vec<_> = (2..40)
            .map(|id| s.spawn(move || locks.lock(owner(id), key("k"), Shared, None, refused)))
            .collect();
        locks.until_waiting(waits.len());
        closed.store(true, SeqCst);
        locks.wake();
        for wait in waits {
            assert!(matches!(wait.join().unwrap(), Err(Error::Closed)));
        }
    });
    locks.unlock_all(1);
    locks.assert_bare();
}

#[test]
fn another_thread_that_is_younger_loses_a_deadlock() {
    let (_, _, locks) = locks();
    locks.exclusive(1, "a").unwrap();
    locks.exclusive(2, "b").unwrap();
    scope(|s| {
        let young = s.spawn(|| {
            let lost = circle(locks.exclusive(2, "a"));
            locks.unlock_all(2);
            lost
        });
        locks.until_waiting(1);
        locks.exclusive(1, "b").unwrap();
        assert_eq!(young.join().unwrap(), [2, 1]);
    });
    locks.unlock_all(1);
    locks.assert_bare();
}

/// For a lock that two hold at once, and for threads that wait for ever: this test would not end.
#[test]
fn threads_exclude_each_other_and_all_come_to_their_end() {
    const THREADS: u64 = 8;
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    let rounds = if cfg!(miri) { 5 } else { 500 };
    let (env, _, locks) = locks();
    let counts: [AtomicU64; 4] = Default::default();
    let (added, lost, late) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (ids, ages) = (AtomicU64::new(1), AtomicU64::new(1));
    // As if it were no atomic: what is added twice at once is lost.
    let add = |at: usize| {
        let before = counts[at].load(Relaxed);
        env.yield_now();
        counts[at].store(before + 1, Relaxed);
        added.fetch_add(1, Relaxed);
    };
    let read = |at: usize| {
        let before = counts[at].load(Relaxed);
        env.yield_now();
        assert_eq!(counts[at].load(Relaxed), before, "written while a shared lock was held");
    };
    let attempt = |owner: Owner, random: &mut model::Random| -> Result<()> {
        let patience = Duration::from_micros(50 << random.below(10));
        let deadline = (random.below(4) == 0).then(|| env.clock().now().saturating_add(patience));
        for _ in 0..1 + random.below(3) {
            let at = random.below(4) as usize;
            let mode = if random.below(2) == 0 { Shared } else { Exclusive };
            if random.below(8) == 0 {
                locks.lock(owner, range(KEYS[at], "~"), mode, deadline, NEVER)?;
                (at..4).for_each(if mode == Shared { &read } else { &add as &dyn Fn(usize) });
            } else {
                locks.lock(owner, key(KEYS[at]), mode, deadline, NEVER)?;
                if mode == Shared { read(at) } else { add(at) }
            }
        }
        Ok(())
    };
    scope(|s| {
        for thread in 0..THREADS {
            let (attempt, locks, ids, ages, lost, late) =
                (&attempt, &locks, &ids, &ages, &lost, &late);
            s.spawn(move || {
                let mut random = model::Random(thread);
                for _ in 0..rounds {
                    let age = ages.fetch_add(1, Relaxed);
                    loop {
                        let owner = Owner::new(ids.fetch_add(1, Relaxed), age);
                        let done = attempt(owner, &mut random);
                        locks.unlock_all(owner.id);
                        match done {
                            Ok(()) => break,
                            Err(Error::Deadlock { cycle }) => {
                                assert_eq!(cycle[0], owner.id);
                                lost.fetch_add(1, Relaxed);
                            }
                            Err(Error::LockTimeout) => {
                                late.fetch_add(1, Relaxed);
                            }
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            });
        }
    });
    let sum: u64 = counts.iter().map(|count| count.load(Relaxed)).sum();
    assert_eq!(sum, added.load(Relaxed), "two held an exclusive lock at once");
    assert!(cfg!(miri) || lost.load(Relaxed) > 0 && late.load(Relaxed) > 0);
    locks.assert_bare();
}
