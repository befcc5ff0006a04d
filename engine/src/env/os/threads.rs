//! Threads, their slots, and events.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the one home of the system's threads and waits"
)]

use super::OsClock;
use crate::{
    env::{Clock, Event, Task},
    sync::{AtomicU64, Ordering::SeqCst},
};
use parking_lot::Mutex;
use std::{
    io,
    time::{Duration, Instant},
};

struct OsTask(std::thread::JoinHandle<()>);

impl Task for OsTask {
    fn join(self: Box<Self>) {
        // A thread that panicked has told so on stderr; whoever joins has no more to add.
        let _panicked = self.0.join();
    }
}

pub(super) fn spawn(name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(body)?;
    Ok(Box::new(OsTask(thread)))
}

/// Numbers free for new threads, and the next number never given out.
static FREE: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));

struct Slot(usize);

impl Drop for Slot {
    fn drop(&mut self) {
        FREE.lock().0.push(self.0);
    }
}

thread_local! {
    static SLOT: Slot = {
        let mut free = FREE.lock();
        Slot(free.0.pop().unwrap_or_else(|| {
            free.1 += 1;
            free.1 - 1
        }))
    };
}

/// The number of the calling thread. A destructor that runs after the thread's locals are
/// gone gets `usize::MAX`: no slot.
#[inline]
pub(super) fn slot() -> usize {
    SLOT.try_with(|slot| slot.0).unwrap_or(usize::MAX)
}

/// Lets another thread have the processor.
pub(super) fn yield_now() {
    std::thread::yield_now();
}

/// An event count on a queue of waiting threads. Notifying without waiters costs two atomic operations and
/// no system call; waiters wake all at once, not one after the other through a lock.
pub(super) struct OsEvent {
    epoch: AtomicU64,
    waiters: AtomicU64,
    queue: queue::Queue,
    clock: OsClock,
}

impl OsEvent {
    pub(super) fn new(clock: OsClock) -> OsEvent {
        let (epoch, waiters) = (AtomicU64::new(0), AtomicU64::new(0));
        OsEvent { epoch, waiters, queue: queue::Queue::default(), clock }
    }
}

/// Threads that wait: parking_lot's, keyed by an address.
#[cfg(not(shuttle))]
mod queue {
    use parking_lot_core::{DEFAULT_PARK_TOKEN, DEFAULT_UNPARK_TOKEN};
    use std::time::Instant;

    /// Not empty, so that its address is its own.
    #[derive(Default)]
    pub(super) struct Queue(u8);

    impl Queue {
        fn key(&self) -> usize {
            std::ptr::from_ref(&self.0) as usize
        }

        /// Waits until it is woken, unless `must_wait` says no once no wake-up can be missed any more.
        pub(super) fn park(&self, must_wait: impl Fn() -> bool, until: Option<Instant>) {
            #[expect(
                unsafe_code,
                reason = "parking_lot's queue is unsafe to use; this is its home"
            )]
            // SAFETY: the key is the address of a field of ours, which nobody else parks on; the
            // closures neither panic nor call parking_lot.
            unsafe {
                let (key, token) = (self.key(), DEFAULT_PARK_TOKEN);
                parking_lot_core::park(key, must_wait, || {}, |_, _| {}, token, until);
            }
        }

        /// Wakes all that wait.
        pub(super) fn unpark_all(&self) {
            #[expect(
                unsafe_code,
                reason = "parking_lot's queue is unsafe to use; this is its home"
            )]
            // SAFETY: as in `park`. A waiter between its check and its sleep is in the queue already or
            // checks again under the queue's lock.
            unsafe {
                parking_lot_core::unpark_all(self.key(), DEFAULT_UNPARK_TOKEN);
            }
        }
    }
}

/// The same for shuttle, which sees through it.
#[cfg(shuttle)]
mod queue {
    use shuttle::sync::{Condvar, Mutex};
    use std::time::Instant;

    #[derive(Default)]
    pub(super) struct Queue {
        wake_ups: Mutex<u64>,
        moved: Condvar,
    }

    impl Queue {
        pub(super) fn park(&self, must_wait: impl Fn() -> bool, _until: Option<Instant>) {
            let mut wake_ups = self.wake_ups.lock().unwrap();
            let before = *wake_ups;
            while must_wait() && *wake_ups == before {
                wake_ups = self.moved.wait(wake_ups).unwrap();
            }
        }

        pub(super) fn unpark_all(&self) {
            *self.wake_ups.lock().unwrap() += 1;
            self.moved.notify_all();
        }
    }
}

impl Event for OsEvent {
    fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    fn wait(&self, seen: u64, deadline: Option<Duration>) {
        // Counted before the epoch is read: a notifier that misses this waiter has moved
        // the epoch before the read below (both sides are sequentially consistent).
        self.waiters.fetch_add(1, SeqCst);
        while self.epoch.load(SeqCst) == seen {
            let until = match deadline.map(|deadline| deadline.checked_sub(self.clock.now())) {
                None => None,
                // A deadline that no clock can show is none.
                Some(Some(left)) if !left.is_zero() => Instant::now().checked_add(left),
                Some(_) => break,
            };
            self.queue.park(|| self.epoch.load(SeqCst) == seen, until);
        }
        self.waiters.fetch_sub(1, SeqCst);
    }

    fn notify_all(&self) {
        self.epoch.fetch_add(1, SeqCst);
        if self.waiters.load(SeqCst) > 0 {
            self.queue.unpark_all();
        }
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::sync::model::explore;
    use shuttle::thread;
    use std::sync::Arc;

    /// A waiter that looked before the change and is not counted yet, or not asleep yet, must not sleep
    /// through it: shuttle would call that a deadlock.
    #[test]
    fn shuttle_no_notification_is_slept_through() {
        explore(|| {
            let event = Arc::new(OsEvent::new(OsClock::new()));
            let threads: Vec<_> = (0..3)
                .map(|i| {
                    let event = Arc::clone(&event);
                    // Each waits for the notification of the one before it.
                    thread::spawn(move || {
                        while event.epoch() < i {
                            let seen = event.epoch();
                            if seen < i {
                                event.wait(seen, None);
                            }
                        }
                        event.notify_all();
                    })
                })
                .collect();
            threads.into_iter().for_each(|t| t.join().unwrap());
            assert_eq!((event.epoch(), event.waiters.load(SeqCst)), (3, 0));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn slots_are_distinct_and_given_out_again() {
        let mine = slot();
        assert_eq!(mine, slot());
        let other = std::thread::scope(|s| s.spawn(slot).join().unwrap());
        assert_ne!(mine, other);
    }

    #[test]
    fn a_notification_between_check_and_wait_is_not_slept_through() {
        let event = Arc::new(OsEvent::new(OsClock::new()));
        let seen = event.epoch();
        event.notify_all();
        event.wait(seen, None); // returns at once, or this test hangs
        let seen = event.epoch();
        let deadline = event.clock.now() + Duration::from_millis(1);
        event.wait(seen, Some(deadline));
        assert!(event.clock.now() >= deadline);
        std::thread::scope(|s| {
            s.spawn(|| event.wait(seen, None));
            event.notify_all(); // whether the waiter sleeps yet or not, it must end
        });
    }
}
