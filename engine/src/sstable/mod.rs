//! Sorted, immutable files of entries: written once by [`SstableBuilder`], read through
//! [`Sstable`]. Format: `docs/formats/sstable.md`.
//!
//! Invariants: a file has one version per key; every byte of it is covered by a checksum that
//! also covers where the byte belongs, and is checked on every read from disk; index, filter and
//! range tombstones stay in memory while the file is open, blocks of entries go through the
//! [`Cache`].
//!
//! Which files exist, and which of them a reader asks, is not known here.

mod builder;
mod cursor;
mod filter;
mod index;
mod reader;

#[cfg(test)]
pub(crate) use crate::format::sstable::KeyBounds;
pub(crate) use crate::format::sstable::SstableSummary;
pub(crate) use builder::{SstableBuilder, SstableOptions};
pub(crate) use reader::{Found, Sstable};

use crate::{cache::Cache, codec::Decompressors};
use std::sync::Arc;

/// What the open sstables of a database share.
pub(crate) struct SharedBlocks {
    /// Decompressed blocks by the place where their stored form begins. Nodes of trees share it.
    pub(crate) cache: Arc<Cache<[u8]>>,
    decompressors: Decompressors,
}

impl SharedBlocks {
    pub(crate) fn new(cache_bytes: usize) -> SharedBlocks {
        let cache = Arc::new(Cache::new(cache_bytes));
        SharedBlocks { cache, decompressors: Decompressors::default() }
    }
}

/// What the filter encodes to that these bytes are, if they are one.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn reencoded_filter(contents: &[u8]) -> Option<Vec<u8>> {
    let filter = filter::Filter::decode(contents).ok()?;
    let _ = filter.may_contain(contents.len() as u64);
    Some(filter.encode())
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
