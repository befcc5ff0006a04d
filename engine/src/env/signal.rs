//! Waiting for a condition that other tasks change.

use super::{Env, Event};
use crate::sync::{AtomicU32, Ordering::SeqCst};
use std::{sync::Arc, time::Duration};

/// An [`Event`] whose notification costs one load while nobody waits.
pub(crate) struct Signal {
    env: Arc<dyn Env>,
    event: Arc<dyn Event>,
    waiters: AtomicU32,
}

impl Signal {
    pub(crate) fn new(env: &Arc<dyn Env>) -> Arc<Signal> {
        let (env, event) = (Arc::clone(env), env.event());
        Arc::new(Signal { env, event, waiters: AtomicU32::new(0) })
    }

    /// Wakes whoever waits. What the waiters check was changed before, by a sequentially
    /// consistent operation or under a lock that the check takes: so either the waiter sees the
    /// change, or the load below sees the waiter.
    #[inline]
    pub(crate) fn notify(&self) {
        if self.waiters.load(SeqCst) > 0 {
            self.event.notify_all();
        }
    }

    /// Waits until `check` gives something.
    pub(crate) fn wait<T>(&self, mut check: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = self.wait_for(Duration::from_secs(3600), &mut check) {
                return found;
            }
        }
    }

    /// Waits until `check` gives something, or about `patience` has passed.
    pub(crate) fn wait_for<T>(
        &self,
        patience: Duration,
        mut check: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = check() {
            return Some(found);
        }
        let deadline = self.env.clock().now().saturating_add(patience);
        self.waiters.fetch_add(1, SeqCst);
        let found = loop {
            let seen = self.event.epoch();
            if let Some(found) = check() {
                break Some(found);
            }
            if self.env.clock().now() >= deadline {
                break None;
            }
            self.event.wait(seen, Some(deadline));
        };
        self.waiters.fetch_sub(1, SeqCst);
        found
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::{env::model::ModelEnv, sync::model::explore};
    use shuttle::thread;

    /// Nobody sleeps through a change: shuttle would call it a deadlock.
    #[test]
    fn shuttle_every_waiter_sees_the_change() {
        explore(|| {
            let env: Arc<dyn Env> = ModelEnv::new();
            let signal = Signal::new(&env);
            let count = Arc::new(AtomicU32::new(0));
            let threads: Vec<_> = (0..3)
                .map(|i| {
                    let (signal, count) = (signal.clone(), count.clone());
                    thread::spawn(move || {
                        // Each waits for the one before it.
                        signal.wait(|| (count.load(SeqCst) >= i).then_some(()));
                        count.fetch_add(1, SeqCst);
                        signal.notify();
                    })
                })
                .collect();
            signal.wait(|| (count.load(SeqCst) == 3).then_some(()));
            threads.into_iter().for_each(|t| t.join().unwrap());
            assert_eq!(signal.waiters.load(SeqCst), 0);
        });
    }
}
