//! Blocks of files in memory, within a hard limit of bytes.
//!
//! What stays is decided by CAR, "clock with adaptive replacement" (Bansal and Modha, FAST 2004):
//! blocks seen once and blocks seen again stand on a clock each, a hit sets a bit and moves
//! nothing, and the share of the two adapts to which of them is missed after its eviction. A long
//! scan passes through the first clock and leaves the second alone.
//!
//! Invariants: the blocks held, with what holding them costs, never weigh more than the limit; a
//! value is never that of another file or offset; which block is evicted depends on nothing but
//! the order of calls.

mod car;
pub(crate) mod hints;
mod table;

use crate::{
    sync::{AtomicU32, Mutex, Ordering},
    types::FileId,
};
use car::Shard;
use std::sync::Arc;

/// Below this, splitting the limit would refuse blocks that one shard could keep.
const SHARD_BYTES_MIN: usize = 4 << 20;
const SHARDS_MAX: usize = 16;

/// Values by file and offset. All methods may be called from many threads.
pub(crate) struct Cache<V: ?Sized> {
    /// A power of two of them, chosen by the highest bits of the hash.
    shards: Vec<Mutex<Shard<V>>>,
}

/// Remembers for whoever asks for one place again and again where in the cache it was found,
/// which saves a search, one access to far memory. A hint that is out of date, or another
/// place's, costs that search and nothing else.
#[derive(Default)]
pub(crate) struct Hint(AtomicU32);

/// What a cache did since it was made, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct CacheStats {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) inserted: u64,
    pub(crate) evicted: u64,
    /// Held now, with what holding them costs.
    pub(crate) bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    file: FileId,
    offset: u64,
}

impl Key {
    #[inline]
    fn hash(self) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.file.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

impl<V: ?Sized> Cache<V> {
    pub(crate) fn new(limit_bytes: usize) -> Cache<V> {
        let shards = (limit_bytes / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        let shards = 1 << shards.ilog2();
        Cache {
            shards: (0..shards).map(|_| Mutex::new(Shard::new(limit_bytes / shards))).collect(),
        }
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Mutex<Shard<V>> {
        &self.shards[((hash >> 32) as usize * self.shards.len()) >> 32]
    }

    /// The value at this place, if it is held. `hint` belongs to this place.
    #[inline]
    pub(crate) fn get(&self, file: FileId, offset: u64, hint: &Hint) -> Option<Arc<V>> {
        let key = Key { file, offset };
        let hash = key.hash();
        // Before the lock, behind which no load begins: it is waited for together with what the caller has just read.
        let hinted = hint.0.load(Ordering::Relaxed);
        self.shard(hash).lock().get(key, hash, hinted, hint)
    }

    /// Holds `value`, which weighs `bytes`, unless that is more than a shard may hold. What is
    /// held at this place already stays.
    pub(crate) fn insert(&self, file: FileId, offset: u64, value: Arc<V>, bytes: usize) {
        let key = Key { file, offset };
        let hash = key.hash();
        let evicted = self.shard(hash).lock().insert(key, hash, value, bytes);
        drop(evicted); // with the lock given back: freeing memory takes its time
    }

    /// Holds what `value` makes, which weighs `bytes`, where nothing has to go for it.
    pub(crate) fn insert_if_room(
        &self,
        file: FileId,
        offset: u64,
        value: impl FnOnce() -> Arc<V>,
        bytes: usize,
    ) {
        let key = Key { file, offset };
        let hash = key.hash();
        let shard = self.shard(hash);
        if !shard.lock().has_room(bytes) {
            return;
        }
        let value = value(); // not under the lock
        let mut shard = shard.lock();
        if shard.has_room(bytes) {
            shard.insert(key, hash, value, bytes); // nothing was evicted
        }
    }

    /// Forgets a file, because it was removed.
    pub(crate) fn remove_file(&self, file: FileId) {
        for shard in &self.shards {
            let removed = shard.lock().remove_file(file);
            drop(removed); // with the lock given back
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let mut all = CacheStats::default();
        for shard in &self.shards {
            let one = shard.lock().stats();
            all.hits += one.hits;
            all.misses += one.misses;
            all.inserted += one.inserted;
            all.evicted += one.evicted;
            all.bytes += one.bytes;
        }
        all
    }
}

#[cfg(test)]
mod tests;
