//! The end of all writing after a failure.

use super::{Env, Signal};
use crate::{
    error::{Error, Result},
    sync::Mutex,
};
use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
};

/// The failure that ended all writing, if there was one. Set once.
#[derive(Default)]
pub(crate) struct Poison {
    cause: OnceLock<Error>,
    /// Whoever waits for something that will not come now is woken, and checks.
    wakes: Mutex<Vec<Arc<Signal>>>,
}

impl Poison {
    /// Refuses with the failure, if there was one.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        match self.cause.get() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Wakes `signal` too when writing ends.
    pub(crate) fn wakes(&self, signal: &Arc<Signal>) {
        self.wakes.lock().push(Arc::clone(signal));
    }

    /// Ends all writing, because of `cause`. The first cause stays.
    #[cold]
    pub(crate) fn set(&self, cause: Error) -> Error {
        tracing::error!(%cause, "a write or sync failed: no more writes until reopened");
        let error = self.cause.get_or_init(|| cause.poison()).clone();
        // A full fence, so that a waiter either is seen here or sees the cause.
        crate::sync::atomic::fence(crate::sync::Ordering::SeqCst);
        let wakes = self.wakes.lock().clone();
        wakes.iter().for_each(|signal| signal.notify());
        error
    }

    /// Begins something that others wait for, and that must come to its end: see [`Unfinished`].
    #[inline]
    pub(crate) fn unless_finished<'a>(
        &'a self,
        env: &'a dyn Env,
        op: &'static str,
        dir: &'a Path,
    ) -> Unfinished<'a> {
        Unfinished { poison: self, env, op, dir }
    }
}

/// Ends all writing when it is dropped: its thread left in the middle, by a panic, and nobody else
/// can finish what it had begun. Without this, all who wait for it would wait for ever.
#[must_use]
pub(crate) struct Unfinished<'a> {
    poison: &'a Poison,
    env: &'a dyn Env,
    op: &'static str,
    dir: &'a Path,
}

impl Unfinished<'_> {
    /// The end was reached.
    #[inline]
    pub(crate) fn finish(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unfinished<'_> {
    #[cold]
    fn drop(&mut self) {
        // After a failure there is nothing left to say; in a simulated crash nobody is left to hear it.
        if !self.env.is_dying() && self.poison.check().is_ok() {
            let panicked = io::Error::other("its thread panicked before it was done");
            self.poison.set(Error::io(self.op, self.dir, panicked));
        }
    }
}
