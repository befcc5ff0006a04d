//! Raw memory: the append-only arena of entries and the slots of the hash index. The only home
//! of unsafe code in this module.
//!
//! An entry lies at a [`Place`], a multiple of 8 bytes:
//!
//! ```text
//!  0  u64  SeqKind; 0 until the entry is whole (the ready mark)
//!  8  u32  place of the next older version of the key, 0 if none
//! 12  u32  length of the value
//! 16  u32  keyspace
//! 20  u32  length of the key
//! 24       key, then value, then nothing up to the next multiple of 8
//! ```
//!
//! Invariants:
//! - Memory begins as zeros. A byte is written once, by the holder of the reservation that it
//!   lies in; only the link to the older version changes afterwards.
//! - A `Place` exists only for an entry whose ready mark was stored, so all its bytes may be read.
//!   A place belongs to one arena, and never leaves the memtable of that arena.
//! - Reservations follow each other without gaps, and so do the entries within one: whoever walks
//!   from entry to entry sees them in the order of their SeqNos, up to the first that is not ready.

use crate::{
    env::{Memory, Words},
    error::{Error, Result},
    sync::{AtomicU32, AtomicU64, CachePadded, Ordering, prefetch},
    types::{KeyspaceId, Kind, SeqKind, SeqNo},
};
use std::{cmp, marker::PhantomData, num::NonZeroU32, slice};

/// Entries begin at multiples of this many bytes, so that 32 bits name a place in 32 GiB.
const UNIT_BYTES: usize = 8;
/// Place 0 means "none".
const FIRST_UNIT: u32 = 1;

#[repr(C)]
struct Header {
    seq_kind: AtomicU64,
    older: AtomicU32,
    value_len: u32,
    keyspace: u32,
    key_len: u32,
}

const HEADER_BYTES: usize = size_of::<Header>();

/// Where a whole entry lies, in units of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(NonZeroU32);

/// Room for some entries, which lie there in the order of their insertion.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// Address of the arena, so that no other one takes this for its own.
    arena: usize,
    next: u32,
    end: u32,
}

pub(super) struct Arena {
    memory: Memory,
    /// Reserved so far: entries in the upper half, the first free unit in the lower. Every write
    /// changes it, and no read of the fields around it should wait for that.
    reserved: CachePadded<AtomicU64>,
}

/// What was reserved at some moment.
#[derive(Clone, Copy)]
pub(super) struct Reserved(u64);

impl Reserved {
    pub(super) fn entries(self) -> u32 {
        (self.0 >> 32) as u32
    }
    fn end(self) -> u32 {
        self.0 as u32
    }
    /// Bytes from the beginning of the memory.
    pub(super) fn bytes(self) -> usize {
        self.end() as usize * UNIT_BYTES
    }
}

impl Arena {
    pub(super) fn new(capacity: usize) -> Result<Arena> {
        let units = capacity.div_ceil(UNIT_BYTES) + FIRST_UNIT as usize;
        if u32::try_from(units).is_err() {
            return Err(Error::InvalidArgument {
                what: "memtable capacity",
                why: format!("{capacity} bytes is more than 32 GiB"),
            });
        }
        Ok(Arena {
            memory: Memory::zeroed(units * UNIT_BYTES, "a memtable")?,
            reserved: CachePadded(AtomicU64::new(FIRST_UNIT.into())),
        })
    }

    #[inline]
    pub(super) fn entry_bytes(key_len: usize, value_len: usize) -> usize {
        (HEADER_BYTES + key_len + value_len).next_multiple_of(UNIT_BYTES)
    }

    /// Reserves room, unless that passes the end of the arena or `entries_max` in all.
    #[inline]
    pub(super) fn reserve(
        &self,
        entries: usize,
        bytes: usize,
        entries_max: usize,
    ) -> Option<Reservation> {
        debug_assert_eq!(bytes % UNIT_BYTES, 0);
        let mut now = self.reserved();
        loop {
            let all = now.entries() as usize + entries;
            if bytes > self.memory.len() - now.bytes() || all > entries_max.min(u32::MAX as usize) {
                return None;
            }
            let end = now.end() + (bytes / UNIT_BYTES) as u32;
            let then = (all as u64) << 32 | u64::from(end);
            // Relaxed: what is reserved says nothing of what is written. A reader that knows of
            // an entry through its publication also knows of its reservation.
            match self.reserved.0.compare_exchange(
                now.0,
                then,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    return Some(Reservation { arena: self.base() as usize, next: now.end(), end });
                }
                Err(other) => now = Reserved(other),
            }
        }
    }

    #[inline]
    pub(super) fn reserved(&self) -> Reserved {
        Reserved(self.reserved.0.load(Ordering::Relaxed))
    }

    /// Copies an entry into the next place of the reservation and makes it ready.
    #[inline]
    pub(super) fn write(
        &self,
        reservation: &mut Reservation,
        keyspace: KeyspaceId,
        key: &[u8],
        seq_kind: SeqKind,
        value: &[u8],
    ) -> Place {
        let units = (Arena::entry_bytes(key.len(), value.len()) / UNIT_BYTES) as u64;
        assert!(
            reservation.arena == self.base() as usize
                && units <= u64::from(reservation.end - reservation.next),
            "an entry goes into the room that was reserved for it"
        );
        let Some(place) = NonZeroU32::new(reservation.next) else {
            unreachable!("the first unit is never reserved")
        };
        reservation.next += units as u32;
        let base = self.at(place.get());
        // SAFETY: the reservation lies within the memory and owns `units` units from here, which
        // nobody else writes; others read there no more than the ready mark, atomically.
        // Lengths fit 32 bits, because all of the arena's units do, times 8.
        unsafe {
            let header = base.cast::<Header>();
            (&raw mut (*header).value_len).write(value.len() as u32);
            (&raw mut (*header).keyspace).write(keyspace.0);
            (&raw mut (*header).key_len).write(key.len() as u32);
            let key_at = base.add(HEADER_BYTES);
            key_at.copy_from_nonoverlapping(key.as_ptr(), key.len());
            key_at.add(key.len()).copy_from_nonoverlapping(value.as_ptr(), value.len());
            // Release: whoever sees the mark sees the bytes above.
            (*header).seq_kind.store(seq_kind.0, Ordering::Release);
        }
        Place(place)
    }

    /// The entry at a place of this arena.
    #[inline]
    pub(super) fn entry(&self, place: Place) -> EntryRef<'_> {
        EntryRef { base: self.at(place.0.get()), arena: PhantomData }
    }

    /// Brings the beginning of the entry near, ahead of its use.
    #[inline]
    pub(super) fn prefetch(&self, place: Place) {
        prefetch(self.at(place.0.get()));
    }

    /// The place after those walked so far, if its entry is ready. `end` was read before.
    pub(super) fn walk(&self, walk: &mut Walk, end: Reserved) -> Option<Place> {
        if walk.next >= end.end() {
            return None;
        }
        // SAFETY: `next` is where an entry was reserved, so a header lies there within the
        // memory, and its first word is only ever accessed atomically.
        let mark = unsafe { &(*self.at(walk.next).cast::<Header>()).seq_kind };
        if mark.load(Ordering::Acquire) == 0 {
            return None;
        }
        let place = Place(NonZeroU32::new(walk.next)?);
        let entry = self.entry(place);
        let bytes = Arena::entry_bytes(entry.key().len(), entry.value().len());
        walk.next += (bytes / UNIT_BYTES) as u32;
        Some(place)
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    #[inline]
    fn base(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    #[inline]
    fn at(&self, unit: u32) -> *mut u8 {
        debug_assert!((unit as usize) * UNIT_BYTES < self.memory.len());
        // SAFETY: every unit that is handed around lies within the memory.
        unsafe { self.base().add(unit as usize * UNIT_BYTES) }
    }
}

/// How far an arena was walked: always the beginning of an entry, or where the next will begin.
pub(super) struct Walk {
    next: u32,
}

impl Walk {
    pub(super) fn new() -> Walk {
        Walk { next: FIRST_UNIT }
    }
}

/// A whole entry in the arena.
#[derive(Clone, Copy)]
pub(super) struct EntryRef<'a> {
    base: *mut u8,
    arena: PhantomData<&'a Arena>,
}

impl<'a> EntryRef<'a> {
    #[inline]
    pub(super) fn seq(self) -> SeqNo {
        self.seq_kind().seq()
    }

    #[inline]
    pub(super) fn kind(self) -> Kind {
        match self.seq_kind().kind() {
            Some(kind) => kind,
            None => unreachable!("only known kinds are written"),
        }
    }

    #[inline]
    fn seq_kind(self) -> SeqKind {
        // SAFETY: the place of an entry is that of a header. Relaxed: the word never changes
        // after the entry has a place, and whoever has the place has synchronised with that.
        SeqKind(unsafe { (*self.header()).seq_kind.load(Ordering::Relaxed) })
    }

    #[inline]
    pub(super) fn keyspace(self) -> KeyspaceId {
        // SAFETY: as above; the field never changes.
        KeyspaceId(unsafe { (*self.header()).keyspace })
    }

    #[inline]
    pub(super) fn key(self) -> &'a [u8] {
        // SAFETY: the key lies behind the header, was written before the entry was ready, and
        // stays as it is while the arena lives.
        unsafe {
            let len = (*self.header()).key_len as usize;
            slice::from_raw_parts(self.base.add(HEADER_BYTES), len)
        }
    }

    #[inline]
    pub(super) fn value(self) -> &'a [u8] {
        // SAFETY: as for the key, which the value follows.
        unsafe {
            let header = self.header();
            let at = HEADER_BYTES + (*header).key_len as usize;
            slice::from_raw_parts(self.base.add(at), (*header).value_len as usize)
        }
    }

    #[inline]
    pub(super) fn is_of(self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        self.key() == key && self.keyspace() == keyspace
    }

    /// Key ascending, then SeqNo descending. Both entries are of one keyspace.
    pub(super) fn order(self, other: EntryRef<'_>) -> cmp::Ordering {
        debug_assert_eq!(self.keyspace(), other.keyspace());
        self.key().cmp(other.key()).then_with(|| other.seq().cmp(&self.seq()))
    }

    #[inline]
    pub(super) fn older(self) -> Option<Place> {
        // Acquire: whoever follows the link sees the entry there.
        NonZeroU32::new(self.link().load(Ordering::Acquire)).map(Place)
    }

    /// Links to the next older version; of an entry that no other one links to yet.
    #[inline]
    pub(super) fn set_older(self, older: Place) {
        // Relaxed: the entry itself is published after this, with release.
        self.link().store(older.0.get(), Ordering::Relaxed);
    }

    /// Puts `new` between this entry and `older`, or says that something else is there by now.
    pub(super) fn replace_older(self, older: Option<Place>, new: Place) -> bool {
        let bits = |place: Option<Place>| place.map_or(0, |p| p.0.get());
        self.link()
            .compare_exchange(bits(older), new.0.get(), Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    fn link(self) -> &'a AtomicU32 {
        // SAFETY: the place of an entry is that of a header, whose link is only ever accessed
        // atomically.
        unsafe { &(*self.header()).older }
    }

    #[inline]
    fn header(self) -> *const Header {
        self.base.cast()
    }
}

/// The slots of a hash index, each empty or a tag and a place.
pub(super) struct Slots(Words);

impl Slots {
    pub(super) fn new(len: usize) -> Result<Slots> {
        Words::zeroed(len, "the index of a memtable").map(Slots)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The slot numbered `i`, less than `len`.
    #[inline]
    pub(super) fn slot(&self, i: usize) -> Slot<'_> {
        Slot(self.0.get(i))
    }

    /// Brings the slot numbered `i` near, ahead of its use.
    #[inline]
    pub(super) fn prefetch(&self, i: usize) {
        self.0.prefetch(i);
    }

    pub(super) fn memory(&self) -> &Memory {
        self.0.memory()
    }
}

/// One slot. It never becomes empty again, and its tag never changes.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a>(&'a AtomicU64);

impl Slot<'_> {
    #[inline]
    pub(super) fn load(self) -> Option<(u32, Place)> {
        // Acquire: whoever reads the place sees the entry there.
        Slot::unpack(self.0.load(Ordering::Acquire))
    }

    /// Replaces what was read before, or answers what is there by now.
    #[inline]
    pub(super) fn replace(
        self,
        seen: Option<(u32, Place)>,
        tag: u32,
        place: Place,
    ) -> Result<(), Option<(u32, Place)>> {
        let pack = |(tag, place): (u32, Place)| u64::from(tag) << 32 | u64::from(place.0.get());
        self.0
            .compare_exchange(
                seen.map_or(0, pack),
                pack((tag, place)),
                // Release for the entry; acquire for the one that was faster.
                Ordering::Release,
                Ordering::Acquire,
            )
            .map(|_| ())
            .map_err(Slot::unpack)
    }

    #[inline]
    fn unpack(word: u64) -> Option<(u32, Place)> {
        let place = NonZeroU32::new(word as u32)?;
        Some(((word >> 32) as u32, Place(place)))
    }
}
