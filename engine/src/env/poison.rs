//! The end of all writing after a failure.

use super::Signal;
use crate::{
    error::{Error, Result},
    sync::Mutex,
};
use std::sync::{Arc, OnceLock};

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
}
