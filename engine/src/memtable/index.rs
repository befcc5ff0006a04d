//! The hash index: from (keyspace, key) to the newest version, and from there down the chain of
//! older ones.
//!
//! Open addressing with linear probing over slots of (tag, place). A slot belongs to one key for
//! ever once it is claimed, and a key is always found before the first empty slot, because slots
//! never empty. A tag is 32 bits of the hash that do not choose the slot: a lookup that misses
//! does not touch the arena.
//!
//! Chains descend by SeqNo at every moment: a newer version goes in front, by replacing the slot;
//! a late older one goes between two others, by replacing one link. Nothing is ever unlinked.

use super::arena::{Arena, EntryRef, Place, Slots};
use crate::{
    error::Result,
    sync::point,
    types::{KeyspaceId, SeqNo},
};

/// Arena bytes for each slot. Entries of 24-byte keys and 150-byte values (200 bytes) then fill
/// a third of the slots; entries of 86 bytes fill arena and index together.
const BYTES_PER_SLOT: usize = 64;

pub(super) struct Index {
    slots: Slots,
}

/// What a lookup found.
pub(super) enum Found<'a> {
    /// No version that is old enough.
    Nothing,
    /// The newest that is old enough.
    Version(EntryRef<'a>),
    /// The chain is long; this many links did not reach a version that is old enough.
    TooFar,
}

/// Links that a lookup follows before it turns to the sorted runs.
const LINKS_MAX: usize = 64;

impl Index {
    pub(super) fn new(capacity: usize) -> Result<Index> {
        Ok(Index {
            slots: Slots::new((capacity / BYTES_PER_SLOT).max(8))?,
        })
    }

    /// A capacity whose index may hold so many keys.
    pub(super) fn capacity_for(keys: usize) -> usize {
        (keys.div_ceil(3) * 4).saturating_mul(BYTES_PER_SLOT)
    }

    /// How many keys it may hold: three quarters of the slots, so that probes stay short.
    #[inline]
    pub(super) fn keys_max(&self) -> usize {
        self.slots.len() / 4 * 3
    }

    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        self.slots.prefetch(self.home(hash));
    }

    /// Makes an entry the newest version of its key, or links it in among the older ones.
    /// Returns whether the key is new.
    #[inline]
    pub(super) fn insert(
        &self,
        arena: &Arena,
        hash: u64,
        keyspace: KeyspaceId,
        key: &[u8],
        place: Place,
    ) -> bool {
        let tag = tag(hash);
        let mut i = self.home(hash);
        let mut seen = self.slots.slot(i).load();
        loop {
            match seen {
                None => {
                    point("memtable slot claim");
                    match self.slots.slot(i).replace(None, tag, place) {
                        Ok(()) => return true,
                        // It may have been the same key.
                        Err(now) => seen = now,
                    }
                }
                Some((t, head)) if t == tag && arena.entry(head).is_of(keyspace, key) => {
                    match self.insert_version(arena, i, tag, head, place) {
                        Ok(()) => return false,
                        Err(now) => seen = now,
                    }
                }
                Some(_) => {
                    i = self.after(i);
                    seen = self.slots.slot(i).load();
                }
            }
        }
    }

    /// Puts a version into the chain that begins with `head`; fails if it must go in front but
    /// another came first.
    fn insert_version(
        &self,
        arena: &Arena,
        i: usize,
        tag: u32,
        head: Place,
        place: Place,
    ) -> Result<(), Option<(u32, Place)>> {
        let entry = arena.entry(place);
        if arena.entry(head).seq() < entry.seq() {
            entry.set_older(head);
            point("memtable chain head");
            return self.slots.slot(i).replace(Some((tag, head)), tag, place);
        }
        let mut newer = arena.entry(head);
        loop {
            debug_assert!(newer.seq() > entry.seq(), "a SeqNo is given once");
            let older = newer.older();
            if let Some(older) = older {
                if arena.entry(older).seq() > entry.seq() {
                    newer = arena.entry(older);
                    continue;
                }
                entry.set_older(older);
            }
            point("memtable chain middle");
            if newer.replace_older(older, place) {
                return Ok(());
            }
        }
    }

    /// The newest version not above `visible`.
    #[inline]
    pub(super) fn get<'a>(
        &self,
        arena: &'a Arena,
        hash: u64,
        keyspace: KeyspaceId,
        key: &[u8],
        visible: SeqNo,
    ) -> Found<'a> {
        let tag = tag(hash);
        let mut i = self.home(hash);
        while let Some((t, head)) = self.slots.slot(i).load() {
            if t == tag {
                let entry = arena.entry(head);
                if entry.is_of(keyspace, key) {
                    return version(arena, entry, visible);
                }
            }
            i = self.after(i);
        }
        Found::Nothing
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    #[inline]
    fn after(&self, i: usize) -> usize {
        if i + 1 == self.slots.len() { 0 } else { i + 1 }
    }
}

/// The bits of a hash that a slot keeps. The upper ones choose the slot.
#[inline]
fn tag(hash: u64) -> u32 {
    hash as u32
}

/// Down the chain to the first version not above `visible`.
#[inline]
fn version<'a>(arena: &'a Arena, head: EntryRef<'a>, visible: SeqNo) -> Found<'a> {
    let mut entry = head;
    for _ in 0..LINKS_MAX {
        if entry.seq() <= visible {
            return Found::Version(entry);
        }
        point("memtable chain walk");
        match entry.older() {
            Some(older) => entry = arena.entry(older),
            None => return Found::Nothing,
        }
    }
    Found::TooFar
}
