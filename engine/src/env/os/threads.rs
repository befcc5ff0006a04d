//! Threads, their slots, and events.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the one home of the system's threads and waits"
)]

use super::OsClock;
use crate::env::{Clock, Event, Task};
use parking_lot::Mutex;
use parking_lot_core::{DEFAULT_PARK_TOKEN, DEFAULT_UNPARK_TOKEN};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
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

/// An event count on parking_lot's queue of waiting threads, keyed by the address of the epoch. Notifying
/// without waiters costs two atomic operations and no system call; waiters wake all at once, not one
/// after the other through a lock.
pub(super) struct OsEvent {
    epoch: AtomicU64,
    waiters: AtomicU64,
    clock: OsClock,
}

impl OsEvent {
    pub(super) fn new(clock: OsClock) -> OsEvent {
        OsEvent { epoch: AtomicU64::new(0), waiters: AtomicU64::new(0), clock }
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(&self.epoch) as usize
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
            #[expect(
                unsafe_code,
                reason = "parking_lot's queue is unsafe to use; this is its home"
            )]
            // SAFETY: the key is the address of a field of ours, which nobody else parks on; the
            // closures neither panic nor call parking_lot.
            unsafe {
                parking_lot_core::park(
                    self.key(),
                    || self.epoch.load(SeqCst) == seen,
                    || {},
                    |_, _| {},
                    DEFAULT_PARK_TOKEN,
                    until,
                );
            }
        }
        self.waiters.fetch_sub(1, SeqCst);
    }

    fn notify_all(&self) {
        self.epoch.fetch_add(1, SeqCst);
        if self.waiters.load(SeqCst) > 0 {
            #[expect(
                unsafe_code,
                reason = "parking_lot's queue is unsafe to use; this is its home"
            )]
            // SAFETY: as in `wait`. A waiter between its check and its sleep is in the queue already or
            // checks the epoch again under the queue's lock.
            unsafe {
                parking_lot_core::unpark_all(self.key(), DEFAULT_UNPARK_TOKEN);
            }
        }
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
