//! Decides what to merge; does nothing.

use crate::version::{KeyspaceVersion, Version};
use std::sync::Arc;

/// When more runs than this stand in a keyspace, all are merged into one.
pub(crate) const RUNS_MAX: usize = 8;

/// The keyspace whose runs are to be merged now, if any: the one with the most.
pub(crate) fn crowded(version: &Version) -> Option<&Arc<KeyspaceVersion>> {
    version.keyspaces.iter().filter(|k| k.runs.len() > RUNS_MAX).max_by_key(|k| k.runs.len())
}
