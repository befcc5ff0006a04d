//! Counters of what happens seldom enough to be counted in one place.

use crate::sync::{AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) flushes: Counter,
    pub(crate) flushed_bytes: Counter,
    pub(crate) compactions: Counter,
    pub(crate) compacted_bytes: Counter,
    pub(crate) tables_dropped: Counter,
    pub(crate) stalls: Counter,
    pub(crate) snapshots_ended: Counter,
    pub(crate) recovered_commits: Counter,
    pub(crate) blob_bytes: Counter,
    /// By which payloads of the log became shorter by being compressed.
    pub(crate) log_saved_bytes: Counter,
}
