//! Where the next record goes. Lives under the sequencer lock.

use super::segment::Segment;
use crate::{
    format::record::{BLOCK_BYTES, SWITCH_BYTES, block_end, record_bytes},
    types::Lsn,
};
use std::sync::Arc;

/// The end of the log. Positions are reserved here, one after the other; copying the bytes is
/// done later, by whoever reserved, without the lock.
pub(crate) struct Tail {
    segment: Option<Arc<Segment>>,
    /// Where the next record goes.
    next: Lsn,
    /// Where the last one ended: `next`, or less if `next` was padded to a block.
    last_end: Lsn,
    /// Reservations are numbered; see [`crate::sync::InOrder`].
    ticket: u64,
}

/// A stretch of the log that belongs to one writer.
pub(crate) struct LogSlot {
    pub(crate) lsn: Lsn,
    pub(crate) end: Lsn,
    pub(crate) gap: u16,
    pub(crate) ticket: u64,
}

/// The tickets that must be filled before the log is synced, and what is durable afterwards.
#[derive(Clone, Copy)]
pub(crate) struct Padded {
    pub(crate) tickets: u64,
    pub(crate) durable: Lsn,
}

/// The last block of a segment is kept for its switch record.
const SWITCH_ROOM: u64 = BLOCK_BYTES;
/// Room for the mark behind the copies that an opening makes.
const MARK_ROOM: u64 = BLOCK_BYTES;
/// This part of a segment, and not more than so many bytes, is kept for deletes on a full disk.
const KEPT_PART: u64 = 16;
const KEPT_BYTES_MAX: u64 = 64 << 10;

impl Tail {
    /// A log that ends at `end` and has no segment to write to yet.
    pub(crate) fn new(end: Lsn) -> Tail {
        Tail { segment: None, next: end, last_end: end, ticket: 0 }
    }

    pub(crate) fn segment(&self) -> Option<&Arc<Segment>> {
        self.segment.as_ref()
    }

    /// Where the next record goes.
    pub(crate) fn next(&self) -> Lsn {
        self.next
    }

    /// Where the last record ends: before the next one there may be padding.
    pub(crate) fn last_end(&self) -> Lsn {
        self.last_end
    }

    pub(crate) fn next_ticket(&self) -> u64 {
        self.ticket
    }

    /// Bytes of capacity that a segment needs for a record of `len` bytes and its switch.
    pub(crate) fn capacity_for(len: usize) -> u64 {
        (len as u64).next_multiple_of(BLOCK_BYTES) + SWITCH_ROOM
    }

    /// Bytes of capacity that a segment needs to take copies of records of `len` bytes.
    pub(crate) fn copy_capacity_for(len: usize) -> u64 {
        Tail::capacity_for(len) + MARK_ROOM
    }

    /// Bytes of capacity that a segment needs to take a record of `len` bytes beside what it keeps for
    /// deletes, and to take a copy of the record when it is a spare.
    pub(crate) fn commit_capacity_for(len: usize) -> u64 {
        let copy = Tail::copy_capacity_for(len);
        (copy + (copy / (KEPT_PART / 2)).min(KEPT_BYTES_MAX)).next_multiple_of(BLOCK_BYTES)
    }

    /// Bytes of records that a segment of this capacity can take copies of.
    pub(crate) fn copied_into(capacity: u64) -> u64 {
        capacity.saturating_sub(MARK_ROOM + SWITCH_ROOM)
    }

    /// Bytes of the segment that only deletes may use, and they only when the log cannot go on in
    /// another: a full disk is left by deleting.
    #[inline]
    pub(crate) fn kept_bytes(&self) -> usize {
        let kept = self.segment.as_ref().map_or(0, |s| s.header.capacity / KEPT_PART);
        (kept.min(KEPT_BYTES_MAX) / BLOCK_BYTES * BLOCK_BYTES) as usize
    }

    /// Whether the segment has room for a record of `len` bytes: padding may follow it, and behind
    /// that the switch must still fit.
    #[inline]
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let end = Lsn(self.next.0 + len as u64);
        self.segment.as_ref().is_some_and(|s| block_end(end).0 + SWITCH_ROOM <= s.end().0)
    }

    /// Reserves `len` bytes. `None`: the segment has no room.
    #[inline]
    pub(crate) fn reserve(&mut self, len: usize) -> Option<LogSlot> {
        self.has_room(len).then(|| self.give(len))
    }

    #[inline]
    fn give(&mut self, len: usize) -> LogSlot {
        let end = Lsn(self.next.0 + len as u64);
        let slot = LogSlot {
            lsn: self.next,
            end,
            gap: (self.next.0 - self.last_end.0) as u16,
            ticket: self.ticket,
        };
        self.ticket += 1;
        self.next = end;
        self.last_end = end;
        slot
    }

    /// Reserves `len` bytes for the last record of all: no switch will follow, so its room is free.
    pub(crate) fn reserve_last(&mut self, len: usize) -> Option<LogSlot> {
        let fits = |s: &Arc<Segment>| self.next.0 + len as u64 <= s.end().0;
        self.segment.as_ref().is_some_and(fits).then(|| self.give(len))
    }

    /// Ends the block of the last record, because it is about to become durable.
    pub(crate) fn pad(&mut self) -> Padded {
        self.next = block_end(self.next);
        Padded { tickets: self.ticket, durable: self.last_end }
    }

    /// Goes on in `segment`. What is returned is the segment before it, with the place of its switch
    /// record; there is none if the log had no segment.
    pub(crate) fn switch(&mut self, segment: Arc<Segment>) -> Option<(Arc<Segment>, LogSlot)> {
        debug_assert!(segment.first() >= self.next);
        let slot = self.segment.take().map(|old| {
            let end = Lsn(self.next.0 + record_bytes(SWITCH_BYTES) as u64);
            debug_assert!(end <= old.end() && old.end() == segment.first());
            let gap = (self.next.0 - self.last_end.0) as u16;
            self.ticket += 1;
            (old, LogSlot { lsn: self.next, end, gap, ticket: self.ticket - 1 })
        });
        self.next = segment.first();
        self.last_end = self.next;
        self.segment = Some(segment);
        slot
    }
}
