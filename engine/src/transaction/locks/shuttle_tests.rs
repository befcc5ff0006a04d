//! Every order of the steps of a few threads that lock.

use super::*;
use crate::{
    env::model::ModelEnv,
    sync::{AtomicU32, AtomicU64, model::explore},
};
use shuttle::thread;

const NEVER: &dyn Fn() -> Result<()> = &|| Ok(());

fn key(key: &'static str) -> Target<'static> {
    Target::Key(KeyspaceId::DEFAULT, key.as_bytes())
}

const ALL: Target<'static> = Target::Range(KeyspaceId::DEFAULT, b"", None);

fn owner(id: u64) -> Owner {
    Owner::new(id, id)
}

fn locks() -> Arc<Locks> {
    let env: Arc<dyn Env> = ModelEnv::new();
    Arc::new(Locks::new(&env, &Poison::default()))
}

impl Locks {
    fn take(&self, id: u64, target: Target<'_>, mode: Mode) -> Result<()> {
        self.lock(owner(id), target, mode, None, NEVER)
    }
}

/// Runs one thread for each owner, and expects nothing to be left of what they locked.
fn run(locks: &Arc<Locks>, owners: &[u64], body: impl Fn(&Locks, u64) + Send + Sync + 'static) {
    let body = Arc::new(body);
    let thread = |id: &u64| {
        let (locks, body, id) = (Arc::clone(locks), Arc::clone(&body), *id);
        thread::spawn(move || {
            body(&locks, id);
            locks.unlock_all(id);
        })
    };
    let threads: Vec<_> = owners.iter().map(thread).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(!locks.in_use() && locks.table.lock().is_bare());
}

/// For a lock that two hold at once, a wake-up that is missed, which shuttle calls a deadlock, and for locks that
/// are held while nobody seems to.
#[test]
fn shuttle_locks_exclude_and_are_handed_on() {
    explore(|| {
        let inside = AtomicBool::new(false);
        run(&locks(), &[1, 2, 3], move |locks, id| {
            // Whoever has the range conflicts with those who have the key.
            let target = if id == 2 { ALL } else { key("k") };
            locks.take(id, target, Mode::Exclusive).unwrap();
            assert!(locks.in_use());
            assert!(!inside.swap(true, SeqCst), "locked by two");
            inside.store(false, SeqCst);
        });
    });
}

#[test]
fn shuttle_shared_locks_wait_for_the_exclusive_one_and_it_for_them() {
    explore(|| {
        let count = AtomicU64::new(0);
        run(&locks(), &[1, 2, 3], move |locks, id| {
            let mode = if id == 1 { Mode::Exclusive } else { Mode::Shared };
            locks.take(id, key("k"), mode).unwrap();
            let before = count.load(SeqCst);
            if mode == Mode::Exclusive {
                count.store(before + 1, SeqCst);
            }
            assert_eq!(count.load(SeqCst), before + u64::from(mode == Mode::Exclusive));
        });
    });
}

/// For a deadlock that is not seen, or two that lose where one is enough.
#[test]
fn shuttle_of_two_that_deadlock_the_younger_one_loses() {
    explore(|| {
        run(&locks(), &[1, 2], |locks, id| {
            let (first, second) = if id == 1 { ("a", "b") } else { ("b", "a") };
            locks.take(id, key(first), Mode::Exclusive).unwrap();
            match locks.take(id, key(second), Mode::Exclusive) {
                Ok(()) => {}
                Err(Error::Deadlock { cycle }) => assert_eq!((id, cycle), (2, vec![2, 1])),
                Err(other) => panic!("{other}"),
            }
        });
    });
}

/// As above, where it is certain that there is a deadlock.
#[test]
fn shuttle_of_two_upgrades_one_is_granted() {
    explore(|| {
        let locks = locks();
        (1..=2).for_each(|id| locks.take(id, key("k"), Mode::Shared).unwrap());
        run(&locks, &[1, 2], |locks, id| {
            let upgraded = locks.take(id, key("k"), Mode::Exclusive);
            // Neither lets go before it was answered: each waits for the other.
            assert_eq!(upgraded.is_ok(), id == 1, "the younger one loses");
        });
    });
}

/// For a lock that is granted to one who has given up, and belongs to nobody then.
#[test]
fn shuttle_a_waiter_that_is_too_late_has_the_lock_or_leaves_no_trace() {
    explore(|| {
        let locks = locks();
        locks.take(1, key("k"), Mode::Exclusive).unwrap();
        let held = AtomicBool::new(true);
        run(&locks, &[1, 2, 3], move |locks, id| match id {
            1 => held.store(false, SeqCst),
            2 => {
                // The model's clock moves when it is looked at: this is over after a few looks.
                let deadline = Some(Duration::from_micros(4));
                match locks.lock(owner(2), key("k"), Mode::Exclusive, deadline, NEVER) {
                    Ok(()) => assert!(!held.swap(true, SeqCst)),
                    Err(Error::LockTimeout) => return,
                    Err(other) => panic!("{other}"),
                }
                held.store(false, SeqCst);
            }
            _ => {
                locks.take(id, key("k"), Mode::Exclusive).unwrap();
                assert!(!held.swap(true, SeqCst), "locked by two");
                held.store(false, SeqCst);
            }
        });
    });
}

/// For a waiter that sleeps through the closing of the database.
#[test]
fn shuttle_whoever_waits_sees_that_it_is_refused() {
    explore(|| {
        let locks = locks();
        locks.take(9, key("k"), Mode::Exclusive).unwrap();
        let (closed, refusals) = (AtomicBool::new(false), AtomicU32::new(0));
        let holder = Arc::clone(&locks);
        run(&locks, &[1, 2, 3], move |locks, id| {
            if id == 1 {
                closed.store(true, SeqCst);
                return locks.wake();
            }
            let refused = || if closed.load(SeqCst) { Err(Error::Closed) } else { Ok(()) };
            let answer = locks.lock(owner(id), key("k"), Mode::Shared, None, &refused);
            assert!(matches!(answer, Err(Error::Closed)));
            if refusals.fetch_add(1, SeqCst) == 1 {
                holder.unlock_all(9);
            }
        });
    });
}
