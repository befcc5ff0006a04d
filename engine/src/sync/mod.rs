//! Locks and atomics of the engine.
//!
//! In production a lock is parking_lot's, plus one relaxed load. Under the simulator
//! taking a lock is a scheduling point, and a contended lock parks the simulated thread:
//! all simulated threads share one OS thread, so a plain lock held across simulated I/O
//! would hang the run. Lock-free protocols put [`point`] between their steps, because a
//! scheduler that preempts only at locks and I/O cannot see them.
//!
//! Under `--cfg shuttle`, which only a step of `.ci/run` sets, every atomic operation is a place where
//! threads may be switched, and tests beside the lock-free structures explore how they interleave.
//!
//! Leaf module: it knows nothing of the simulator but the functions it installs.

#[cfg(shuttle)]
pub(crate) mod model;
#[cfg(shuttle)]
pub use model::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
pub use std::sync::atomic::{self, Ordering};
#[cfg(not(shuttle))]
pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};

use lock_api::RawMutex as _;
use std::sync::OnceLock;

/// What a simulator does at the engine's scheduling points.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// The calling task may be preempted here. The text names the place; the number is what the
    /// place tells of it, or 0.
    pub point: fn(&'static str, u64),
    /// A branch was taken that is taken only sometimes. The text names it.
    pub sometimes: fn(&'static str),
    /// Park the calling task until `unpark` is called with the same lock's address.
    /// Returns false if the caller is not a simulated task: it then takes the lock as usual.
    pub park: fn(usize) -> bool,
    /// Wake the tasks parked on the lock at this address.
    pub unpark: fn(usize),
}

static SIMULATED: atomic::AtomicBool = atomic::AtomicBool::new(false);
static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Sends every lock and every [`point`] of this process through a simulator.
/// The first caller's hooks stay for the life of the process.
pub fn install_hooks(hooks: Hooks) {
    HOOKS.get_or_init(|| hooks);
    SIMULATED.store(true, Ordering::SeqCst);
}

#[inline(always)]
fn hooks() -> Option<&'static Hooks> {
    if SIMULATED.load(Ordering::Relaxed) { HOOKS.get() } else { None }
}

/// A place between two steps of a lock-free protocol where the simulator may switch
/// tasks. One relaxed load in production.
///
/// ```
/// lightning_db::sync::point("between two steps");
/// ```
#[inline(always)]
pub fn point(site: &'static str) {
    point_at(site, 0);
}

/// A [`point`] that tells the simulator a number, such as the SeqNo of the commit that passes it.
///
/// ```
/// lightning_db::sync::point_at("a commit is published", 7);
/// ```
#[inline(always)]
pub fn point_at(site: &'static str, number: u64) {
    if let Some(hooks) = hooks() {
        cold_point(hooks, site, number);
    }
}

#[cold]
fn cold_point(hooks: &Hooks, site: &'static str, number: u64) {
    (hooks.point)(site, number);
}

/// A mark in a branch that is seldom taken: the simulator tells which were never reached. One
/// relaxed load in production, so not for the hottest paths.
///
/// ```
/// if cfg!(target_os = "none") {
///     lightning_db::sync::sometimes("no operating system");
/// }
/// ```
#[inline(always)]
pub fn sometimes(mark: &'static str) {
    if let Some(hooks) = hooks() {
        cold_sometimes(hooks, mark);
    }
}

#[cold]
fn cold_sometimes(hooks: &Hooks, mark: &'static str) {
    (hooks.sometimes)(mark);
}

/// The raw lock under [`Mutex`].
pub struct RawMutex(parking_lot::RawMutex);

#[expect(unsafe_code, reason = "lock_api's trait is unsafe to implement; this is its one home")]
// SAFETY: `lock` and `try_lock` succeed only through parking_lot's lock, so the lock is
// exclusive; `unlock` is parking_lot's.
unsafe impl lock_api::RawMutex for RawMutex {
    const INIT: RawMutex = RawMutex(parking_lot::RawMutex::INIT);
    type GuardMarker = <parking_lot::RawMutex as lock_api::RawMutex>::GuardMarker;

    #[inline]
    fn lock(&self) {
        match hooks() {
            None => self.0.lock(),
            Some(hooks) => self.simulated_lock(hooks),
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock, as the trait demands.
        unsafe { self.0.unlock() };
        if let Some(hooks) = hooks() {
            (hooks.unpark)(std::ptr::from_ref(self) as usize);
        }
    }
}

impl RawMutex {
    #[cold]
    fn simulated_lock(&self, hooks: &Hooks) {
        (hooks.point)("lock", 0);
        while !self.0.try_lock() {
            if !(hooks.park)(std::ptr::from_ref(self) as usize) {
                return self.0.lock();
            }
        }
    }
}

/// The engine's lock: exclusive, not reentrant, never poisoned.
///
/// ```
/// use lightning_db::sync::Mutex;
/// let count = Mutex::new(1);
/// *count.lock() += 1;
/// assert_eq!(*count.lock(), 2);
/// ```
pub type Mutex<T> = lock_api::Mutex<RawMutex, T>;
/// What holds a [`Mutex`] locked.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawMutex, T>;

/// A value on a cache line of its own, so that threads writing neighbours do not
/// slow each other down. 128 bytes: x86 fetches lines in pairs.
///
/// ```
/// use lightning_db::sync::{AtomicU64, CachePadded};
/// let count = CachePadded(AtomicU64::new(0));
/// assert_eq!(size_of_val(&count), 128);
/// ```
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CachePadded<T>(pub T);

/// Asks the CPU to bring the line of its cache that `at` is in near, ahead of its use.
#[inline]
#[expect(unsafe_code, reason = "the one home of the instruction")]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, and every x86-64 has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

mod in_order;
pub(crate) use in_order::InOrder;

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use shuttle::thread;
    use std::sync::Arc;

    /// For a lock that two threads hold at once, or that is not let go, where a contended one parks as it
    /// does in the simulator. That no wake-up is missed is the simulator's part: its tasks are not switched
    /// between the attempt that fails and the parking.
    #[test]
    fn shuttle_one_thread_at_a_time_holds_a_lock() {
        model::explore(|| {
            let (lock, held) = (Arc::new(Mutex::new(0)), Arc::new(AtomicBool::new(false)));
            let count = || {
                let (lock, held) = (Arc::clone(&lock), Arc::clone(&held));
                thread::spawn(move || {
                    for _ in 0..2 {
                        let mut count = lock.lock();
                        assert!(!held.swap(true, Ordering::SeqCst), "held by another thread");
                        *count += 1;
                        held.store(false, Ordering::SeqCst);
                    }
                })
            };
            let threads = [count(), count(), count()];
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(*lock.lock(), 6);
        });
    }
}
