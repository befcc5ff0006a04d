//! The write-ahead log: a commit is durable when its record is, and nothing else waits for the disk.
//!
//! The log is a sequence of bytes, addressed by [`Lsn`], over segment files that were written
//! and synced before their first use. Invariants:
//!
//! - positions are reserved in commit order under the sequencer lock ([`Tail`]); the bytes are copied
//!   afterwards, by many threads at once; a ticket of [`InOrder`] is filled when they are
//! - a sync is led by one thread for all that wait; it pads the log to a block, waits until it is
//!   filled, and syncs the segments in order: a block with durable records is never written again
//! - besides the segments in use there is always one that nothing needs, so that a database
//!   can be opened on a full disk
//! - what recovery does not need any more is kept for those who follow the log, up to a limit ([`follow`])
//! - after a failed write or sync nothing more is made durable: [`Poison`]

pub(crate) mod follow;
pub(crate) mod replay;
pub(crate) mod segment;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
pub(crate) mod tail;

pub(crate) use segment::Segment;
pub(crate) use tail::{LogSlot, Padded, Tail};

use follow::Pins;

use crate::{
    env::{Env, Names, Poison, Signal},
    error::{Error, Result},
    format::{
        manifest::LogPiece,
        record::{
            BLOCK_BYTES, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SWITCH_BYTES,
            SegmentHeader, Switch, record_bytes,
        },
    },
    sync::{
        AtomicBool, AtomicU32, AtomicU64, InOrder, Mutex, MutexGuard,
        Ordering::{Relaxed, SeqCst},
        point,
    },
    types::{EditNo, FileId, Lsn, SeqNo},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How new segments are made.
#[derive(Clone, Copy)]
pub(crate) struct SegmentPlan {
    /// Bytes of the first one.
    pub(crate) first: u64,
    /// Bytes of the largest.
    pub(crate) max: u64,
    /// Whether they are written before use, not only allocated.
    pub(crate) written: bool,
    /// Bytes of log that one memtable may need. One that needs more is flushed though it is not full.
    pub(crate) memtable_bytes: u64,
    /// Bytes of segments, at most, that are kept for those who follow the log, besides those that recovery needs.
    pub(crate) held_bytes: u64,
}

pub(crate) struct Wal {
    env: Arc<dyn Env>,
    names: Arc<Names>,
    uuid: [u8; 16],
    poison: Arc<Poison>,
    file_ids: Arc<AtomicU64>,
    plan: SegmentPlan,
    /// Pages below this position were made present.
    populated: AtomicU64,
    /// Numbers the reservations. A ticket is filled once its bytes are in the kernel's hands.
    tickets: Arc<InOrder>,
    /// Tickets below are known to be filled. Only the leader looks.
    filled: AtomicU64,
    filled_moved: Arc<Signal>,
    /// Everything below is durable.
    durable: AtomicU64,
    /// The newest manifest edit known durable: written into every record.
    durable_edit: AtomicU64,
    durable_moved: Arc<Signal>,
    leading: AtomicBool,
    /// How many wait for a sync now, and how many did when the last one ended.
    waiting: AtomicU32,
    crowd: AtomicU32,
    /// How long the last sync took, in nanoseconds.
    sync_nanos: AtomicU64,
    segments: Mutex<Segments>,
    /// One thread prepares segments at a time. Held across I/O.
    preparing: Mutex<()>,
}

struct Segments {
    epoch: u64,
    continues: Lsn,
    /// In use, oldest first; the last is the one being written.
    live: VecDeque<Arc<Segment>>,
    /// Prepared to follow the last live one, in order.
    ready: VecDeque<Arc<Segment>>,
    /// What recovery does not need any more and somebody who follows the log does, oldest first.
    held: VecDeque<Arc<Segment>>,
    pins: Pins,
    /// What the log consisted of when the database was opened.
    ended: Vec<LogPiece>,
    /// Files that nothing needs.
    idle: Vec<Arc<Segment>>,
    /// Where the log goes on if no segment is live.
    base: Lsn,
    next_bytes: u64,
    /// Commits had to wait because segments were too small: see [`Wal::is_too_small`].
    too_small: bool,
    /// Until when segments do not become smaller.
    large_until: Duration,
    switched_at: Duration,
}

/// Segments of the first size that are prepared and not ready yet. No others are prepared while it
/// lives.
pub(crate) struct Small<'a> {
    segments: Vec<Arc<Segment>>,
    _one: MutexGuard<'a, ()>,
}

impl Segments {
    /// Where the log goes on behind the segment that is being written. Segments of earlier epochs
    /// are not: the log never goes on in them.
    fn live_end(&self) -> Lsn {
        self.live.back().map_or(self.base, |s| s.end().max(self.base))
    }

    /// Of the largest of the segments that are ready, without the first `taken` of them.
    fn spare_capacity(&self, taken: usize) -> u64 {
        self.ready.iter().skip(taken).map(|s| s.header.capacity).max().unwrap_or(0)
    }
}

/// What goes into every record besides its place.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) kind: RecordKind,
    pub(crate) flags: u8,
    pub(crate) first_seq: SeqNo,
    pub(crate) operations: u32,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
}

impl Stamp {
    /// Of a record without operations, before the commit of `next_seq`.
    pub(crate) fn mark(next_seq: SeqNo, flags: u8) -> Stamp {
        Stamp {
            kind: RecordKind::Mark,
            flags,
            first_seq: next_seq,
            operations: 0,
            payload_len: 0,
            payload_crc: crc32fast::hash(b""),
        }
    }
}

/// What recovery found, from which the log goes on.
pub(crate) struct LogStart {
    pub(crate) epoch: u64,
    /// Where the log ends; new positions begin at `base`, which no segment has ever used.
    pub(crate) continues: Lsn,
    pub(crate) base: Lsn,
    pub(crate) live: Vec<Segment>,
    pub(crate) idle: Vec<Segment>,
    pub(crate) durable_edit: EditNo,
}

/// A leader waits for others no longer than this part of the last sync's time, and never longer than
/// [`GATHER_MAX`].
const GATHER_PART: u64 = 2;
const GATHER_MAX: Duration = Duration::from_millis(1);
/// How far ahead pages are made present.
const POPULATE_BYTES: u64 = 2 << 20;
/// How many prepared segments are kept ready.
const READY_SEGMENTS: usize = 2;
/// How many segments are kept that nothing needs, besides those, whatever their size.
const IDLE_SEGMENTS: usize = 1;
/// A log goes on in segments of eight times the size if one would be full sooner than this: so long the disk may be
/// busy with something else before commits wait for the next segment, or for a sync as too much is not durable.
const LASTS: Duration = Duration::from_millis(500);
/// Where commits wait for the disk anyway, and each segment is written before use, if it filled faster than this for
/// each MiB.
const WRITTEN_MIB: Duration = Duration::from_millis(20);
/// Segments stay so large for so long after commits have waited because they were too small.
const STAY_LARGE: Duration = Duration::from_secs(10);

impl Wal {
    #[expect(clippy::too_many_arguments, reason = "what a log is made of")]
    pub(crate) fn new(
        env: &Arc<dyn Env>,
        names: Arc<Names>,
        uuid: [u8; 16],
        poison: Arc<Poison>,
        file_ids: Arc<AtomicU64>,
        tickets: Arc<InOrder>,
        plan: SegmentPlan,
        start: LogStart,
    ) -> Wal {
        let (filled_moved, durable_moved) = (Signal::new(env), Signal::new(env));
        poison.wakes(&filled_moved);
        poison.wakes(&durable_moved);
        Wal {
            env: Arc::clone(env),
            names,
            uuid,
            poison,
            file_ids,
            plan,
            populated: AtomicU64::new(0),
            tickets,
            filled: AtomicU64::new(0),
            filled_moved,
            durable: AtomicU64::new(start.base.0),
            durable_edit: AtomicU64::new(start.durable_edit.0),
            durable_moved,
            leading: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            crowd: AtomicU32::new(0),
            sync_nanos: AtomicU64::new(0),
            segments: Mutex::new(Segments {
                epoch: start.epoch,
                continues: start.continues,
                live: start.live.into_iter().map(Arc::new).collect(),
                ready: VecDeque::new(),
                held: VecDeque::new(),
                pins: Pins::default(),
                ended: vec![],
                idle: start.idle.into_iter().map(Arc::new).collect(),
                base: start.base,
                next_bytes: plan.first,
                too_small: false,
                large_until: Duration::ZERO,
                switched_at: Duration::ZERO,
            }),
            preparing: Mutex::new(()),
        }
    }

    /// Everything below is durable.
    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.durable.load(SeqCst))
    }

    pub(crate) fn set_durable_edit(&self, edit: EditNo) {
        self.durable_edit.fetch_max(edit.0, SeqCst);
    }

    /// Whether a segment that the log can go on in is prepared, and another besides it that holds as
    /// much.
    pub(crate) fn is_prepared_for(&self, capacity: u64) -> bool {
        let segments = self.segments.lock();
        segments.ready.len() >= READY_SEGMENTS
            && segments.ready.front().is_some_and(|s| s.header.capacity >= capacity)
            && segments.spare_capacity(1) >= capacity
    }

    /// How much log an opening can copy into the largest of the segments that are ready, without the
    /// first `taken` of them.
    pub(crate) fn spare_bytes(&self, taken: usize) -> u64 {
        Tail::copied_into(self.segments.lock().spare_capacity(taken))
    }

    /// Writes one record into its place: `buf` is room for the header, the payload, and padding to
    /// the record's alignment.
    #[inline]
    pub(crate) fn write(
        &self,
        segment: &Segment,
        slot: &LogSlot,
        buf: &mut [u8],
        stamp: Stamp,
    ) -> Result<()> {
        debug_assert_eq!(buf.len() as u64, slot.end.0 - slot.lsn.0);
        point("wal.header");
        let header = RecordHeader {
            kind: stamp.kind,
            flags: stamp.flags,
            lsn: slot.lsn,
            gap: slot.gap,
            durable: self.durable(),
            durable_edit: EditNo(self.durable_edit.load(SeqCst)),
            first_seq: stamp.first_seq,
            wall_micros: self.env.clock().wall().as_micros() as u64,
            operations: stamp.operations,
            payload_len: stamp.payload_len,
            payload_crc: stamp.payload_crc,
        };
        if let Some(place) = buf.first_chunk_mut::<RECORD_HEADER_BYTES>() {
            header.encode(segment.header.salt, place);
        }
        point("wal.write");
        if let Err(error) = segment.write(slot.lsn, buf) {
            crate::sync::sometimes("log: a write fails");
            return Err(self.poison.set(error));
        }
        self.tickets.fill(slot.ticket);
        self.filled_moved.notify();
        Ok(())
    }

    /// Writes the record that ends a segment.
    pub(crate) fn write_switch(
        &self,
        (segment, slot): &(Arc<Segment>, LogSlot),
        next: &Segment,
        seq: SeqNo,
    ) -> Result<()> {
        let mut buf = vec![0; record_bytes(SWITCH_BYTES)];
        let payload = Switch { first: next.first(), salt: next.header.salt }.encode();
        buf[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + SWITCH_BYTES].copy_from_slice(&payload);
        let stamp = Stamp {
            kind: RecordKind::Switch,
            flags: 0,
            first_seq: seq,
            operations: 0,
            payload_len: SWITCH_BYTES as u32,
            payload_crc: crc32fast::hash(&payload),
        };
        self.write(segment, slot, &mut buf, stamp)
    }

    /// Returns once everything below `target` is durable. `pad` ends the block of the last
    /// record, under the sequencer lock.
    pub(crate) fn sync_through(&self, target: Lsn, pad: &dyn Fn() -> Padded) -> Result<()> {
        self.waiting.fetch_add(1, SeqCst);
        let synced = self.wait_or_lead(target, pad);
        self.waiting.fetch_sub(1, SeqCst);
        synced
    }

    fn wait_or_lead(&self, target: Lsn, pad: &dyn Fn() -> Padded) -> Result<()> {
        loop {
            let lead = self.durable_moved.wait(|| {
                if self.durable() >= target {
                    return Some(Ok(false));
                }
                if let Err(poisoned) = self.poison.check() {
                    return Some(Err(poisoned));
                }
                point("wal.lead");
                (!self.leading.swap(true, SeqCst)).then_some(Ok(true))
            })?;
            if !lead {
                crate::sync::sometimes("log: a sync that another led was enough");
                return Ok(());
            }
            let unfinished =
                self.poison.unless_finished(&*self.env, "sync the log in", self.names.dir());
            let synced = self.lead(pad);
            unfinished.finish();
            self.leading.store(false, SeqCst);
            self.durable_moved.notify();
            synced?;
        }
    }

    /// Makes durable what is in the log now, for all who wait. Only the leader is here.
    fn lead(&self, pad: &dyn Fn() -> Padded) -> Result<()> {
        self.poison.check()?;
        self.gather();
        let padded = pad();
        self.filled_moved.wait(|| {
            let filled = self.tickets.is_filled_below(self.filled.load(Relaxed), padded.tickets);
            (filled || self.poison.check().is_err()).then_some(())
        });
        self.poison.check()?;
        self.filled.store(padded.tickets, Relaxed);
        let from = self.durable();
        let segments: Vec<_> = {
            let segments = self.segments.lock();
            let unsynced = |s: &&Arc<Segment>| s.end() > from && s.first() < padded.durable;
            segments.live.iter().filter(unsynced).cloned().collect()
        };
        // Pages made present ahead would be taken back, too.
        let present = padded.durable.max(Lsn(self.populated.swap(0, Relaxed)));
        let began = self.env.clock().now();
        // Oldest first: nothing in a segment counts as durable before those below it are.
        for segment in segments {
            segment.sync(from, present).map_err(|error| self.poison.set(error))?;
        }
        let took = self.env.clock().now().saturating_sub(began);
        self.sync_nanos.store(took.as_nanos() as u64, Relaxed);
        self.crowd.store(self.waiting.load(SeqCst), Relaxed);
        // Published first: whoever finds its commit durable finds it published.
        self.tickets.raise(padded.durable.0);
        self.durable.fetch_max(padded.durable.0, SeqCst);
        Ok(())
    }

    /// Gives those whom the last sync woke a moment to be back with their next commit: alone, the leader
    /// would be off with the first of them, and the others would wait for two syncs. The moment is short against
    /// a sync, and there is none for a thread that was alone.
    fn gather(&self) {
        let crowd = self.crowd.load(Relaxed);
        if self.waiting.load(SeqCst) >= crowd {
            return;
        }
        let patience = Duration::from_nanos(self.sync_nanos.load(Relaxed) / GATHER_PART);
        let deadline = self.env.clock().now() + patience.min(GATHER_MAX);
        while self.waiting.load(SeqCst) < crowd && self.env.clock().now() < deadline {
            crate::sync::sometimes("log: the leader waits for followers");
            self.env.yield_now();
        }
    }

    /// Prepares segments until one of at least `capacity` bytes can follow and another as large is
    /// left besides it. Nothing changes if that fails.
    pub(crate) fn prepare(&self, capacity: u64) -> Result<()> {
        let _one = self.preparing.lock();
        while let Some((header, replaces)) = self.next_header(capacity) {
            let segment = Arc::new(self.prepare_one(header, capacity)?);
            let mut segments = self.segments.lock();
            // While it was prepared, the log may have gone on into another.
            let follows = match (replaces, segments.ready.back()) {
                (true, _) => segments.live_end() == segment.first(),
                (false, Some(last)) => last.end() == segment.first(),
                (false, None) => false,
            };
            if !follows {
                crate::sync::sometimes("log: went on while the segment was prepared");
                segments.idle.push(segment);
                continue;
            }
            if replaces {
                crate::sync::sometimes("log: prepared segments were too small");
                let small = std::mem::take(&mut segments.ready);
                segments.idle.extend(small);
            }
            segments.ready.push_back(segment);
        }
        self.remove_surplus();
        Ok(())
    }

    /// The header of the segment to prepare next, and whether it replaces all that are ready because
    /// they are too small. `None`: enough are ready.
    fn next_header(&self, capacity: u64) -> Option<(SegmentHeader, bool)> {
        let segments = self.segments.lock();
        let replaces = segments.ready.front().is_none_or(|s| s.header.capacity < capacity);
        let enough =
            segments.ready.len() >= READY_SEGMENTS && segments.spare_capacity(1) >= capacity;
        if !replaces && enough {
            return None;
        }
        let first = match segments.ready.back() {
            Some(last) if !replaces => last.end(),
            _ => segments.live_end(),
        };
        let header = self.header(&segments, first, segments.next_bytes.max(capacity));
        Some((header, replaces))
    }

    fn header(&self, segments: &Segments, first: Lsn, capacity: u64) -> SegmentHeader {
        SegmentHeader {
            salt: self.env.random("wal.salt"),
            first,
            capacity: capacity.next_multiple_of(BLOCK_BYTES),
            epoch: segments.epoch,
            continues: segments.continues,
            first_seq: SeqNo(self.tickets.watermark() + 1),
            timeline: 0,
        }
    }

    /// Whether files that nothing needs yet, or any more, are larger than the first segment was, or more than
    /// a log needs that nobody writes to.
    pub(crate) fn has_large_spares(&self) -> bool {
        let segments = self.segments.lock();
        if segments.idle.len() > IDLE_SEGMENTS && segments.ready.len() >= READY_SEGMENTS {
            return true;
        }
        let mut spares = segments.ready.iter().chain(&segments.idle);
        spares.any(|s| s.header.capacity > self.plan.first)
    }

    /// Whether the segment is larger than the first was.
    pub(crate) fn is_large(&self, segment: Option<&Arc<Segment>>) -> bool {
        segment.is_some_and(|segment| segment.header.capacity > self.plan.first)
    }

    /// Takes the large files that nothing needs any more, if two segments are ready. They are to be given up.
    pub(crate) fn take_large_idle(&self) -> Vec<Arc<Segment>> {
        let segments = &mut *self.segments.lock();
        if segments.ready.len() < READY_SEGMENTS {
            return vec![];
        }
        segments.idle.extract_if(.., |segment| segment.header.capacity > self.plan.first).collect()
    }

    /// The log goes on in the first ready segment, if that is a small one: see [`Wal::take_ready`].
    pub(crate) fn take_small(&self) -> Option<Arc<Segment>> {
        let mut segments = self.segments.lock();
        if segments.ready.len() < READY_SEGMENTS || self.is_large(segments.ready.front()) {
            return None;
        }
        let next = segments.ready.pop_front()?;
        segments.live.push_back(Arc::clone(&next));
        segments.switched_at = self.env.clock().now();
        Some(next)
    }

    /// Prepares small segments to be ready in the place of large ones: see [`Wal::exchange`].
    pub(crate) fn prepare_small(&self) -> Result<Small<'_>> {
        let one = self.preparing.lock();
        let mut small = Small { segments: vec![], _one: one };
        while small.segments.len() < READY_SEGMENTS {
            let header = {
                let segments = self.segments.lock();
                let last = small.segments.last();
                let first = last.map_or_else(|| segments.live_end(), |s: &Arc<Segment>| s.end());
                self.header(&segments, first, self.plan.first)
            };
            match self.create_one(header) {
                Ok(segment) => small.segments.push(Arc::new(segment)),
                Err(error) => {
                    small.segments.iter().for_each(|segment| self.give_up(segment));
                    return Err(error);
                }
            }
        }
        Ok(small)
    }

    /// Makes the small segments ready in the place of all others, if the log did not go on meanwhile and
    /// there is nothing that the next opening would copy. Called under the sequencer lock; what it returns
    /// is to be given up without.
    pub(crate) fn exchange(&self, small: Small<'_>, nothing_to_copy: bool) -> Vec<Arc<Segment>> {
        let mut segments = self.segments.lock();
        let follows = small.segments.first().is_some_and(|s| s.first() == segments.live_end());
        if !follows || !nothing_to_copy {
            return small.segments;
        }
        segments.next_bytes = self.plan.first;
        let mut rest = Vec::from(std::mem::replace(&mut segments.ready, small.segments.into()));
        rest.append(&mut segments.idle);
        rest
    }

    /// Makes a segment out of a file that nothing needs, or out of a new one. When the disk is full,
    /// a file of another size is taken, as long as it has `least` bytes, or else the space of smaller ones.
    fn prepare_one(&self, header: SegmentHeader, least: u64) -> Result<Segment> {
        if let Some(idle) = self.take_idle(|s| s.header.capacity == header.capacity) {
            crate::sync::sometimes("log: recycles a segment");
            return self.recycle(&idle, header);
        }
        match self.create_one(header) {
            Err(full @ Error::NoSpace { .. }) => {
                let fits = |s: &Segment| s.header.capacity >= least;
                let idle = self.take_idle(fits).or_else(|| {
                    self.let_go_of_held();
                    self.take_idle(fits)
                });
                let Some(idle) = idle else {
                    if !self.remove_idle(0) {
                        return Err(full);
                    }
                    crate::sync::sometimes("log: takes the space of small ones on a full disk");
                    let capacity = least.next_multiple_of(BLOCK_BYTES);
                    return self.create_one(SegmentHeader { capacity, ..header });
                };
                crate::sync::sometimes("log: recycles one of another size on a full disk");
                let capacity = idle.header.capacity;
                self.recycle(&idle, SegmentHeader { capacity, ..header })
            }
            other => other,
        }
    }

    /// Makes a new file into a segment.
    fn create_one(&self, header: SegmentHeader) -> Result<Segment> {
        let id = FileId(self.file_ids.fetch_add(1, SeqCst));
        let (disk, dir) = (self.env.disk(), self.names.dir());
        let before = self.names.before();
        let segment = Segment::create(disk, dir, self.uuid, id, header, self.plan.written)?;
        if let Err(error) = self.names.sync(before) {
            crate::sync::sometimes("log: a new segment's name is not durable");
            self.give_up(&segment);
            return Err(error);
        }
        Ok(segment)
    }

    fn recycle(&self, idle: &Segment, header: SegmentHeader) -> Result<Segment> {
        let recycled = idle.recycle(self.uuid, header, !self.plan.written);
        if recycled.is_err() {
            crate::sync::sometimes("log: recycling fails");
            self.give_up(idle); // what its header is now, nobody knows
        }
        recycled
    }

    /// Removes a file that nothing needs. If that fails, the next opening does it.
    pub(crate) fn give_up(&self, segment: &Segment) {
        if let Err(error) = self.env.disk().remove(segment.path()) {
            tracing::warn!(%error, path = %segment.path().display(), "cannot remove a segment");
        }
    }

    fn take_idle(&self, fits: impl Fn(&Segment) -> bool) -> Option<Arc<Segment>> {
        let mut segments = self.segments.lock();
        let at = segments.idle.iter().position(|s| fits(s))?;
        Some(segments.idle.remove(at))
    }

    /// Begins the log in a segment of at least `capacity` bytes. Used once, before anything is
    /// written; a segment that nothing needs does as well as a new one.
    pub(crate) fn begin(&self, capacity: u64) -> Result<Arc<Segment>> {
        let (mut header, _) = self.next_header(capacity).ok_or(Error::Closed)?;
        header.first = self.segments.lock().base;
        let segment = Arc::new(self.prepare_one(header, capacity)?);
        self.segments.lock().live.push_back(Arc::clone(&segment));
        Ok(segment)
    }

    /// Where the log ended that this epoch continues.
    pub(crate) fn continues(&self) -> Lsn {
        self.segments.lock().continues
    }

    /// The log goes on in the first ready segment, which must hold `capacity` bytes. `None`: none
    /// is ready, or no other would be left. Called under the sequencer lock.
    pub(crate) fn take_ready(&self, capacity: u64) -> Option<Arc<Segment>> {
        let mut segments = self.segments.lock();
        if segments.ready.len() < READY_SEGMENTS
            || segments.ready.front()?.header.capacity < capacity
        {
            return None;
        }
        let next = segments.ready.pop_front()?;
        let filled = segments.live.back().map_or(0, |s| s.header.capacity);
        segments.live.push_back(Arc::clone(&next));
        self.choose_size(&mut segments, filled);
        Some(next)
    }

    /// How large the next segments are, now that the log has left one of `filled` bytes.
    fn choose_size(&self, segments: &mut Segments, filled: u64) {
        let now = self.env.clock().now();
        let mib = |bytes: u64| (bytes >> 20).max(1) as u32;
        let took_mib = now.saturating_sub(segments.switched_at) / mib(filled);
        segments.switched_at = now;
        let is_short = |bytes| match self.plan.written {
            true => took_mib < WRITTEN_MIB,
            false => took_mib * mib(bytes) < LASTS,
        };
        let too_small = std::mem::take(&mut segments.too_small);
        if too_small {
            segments.large_until = now.saturating_add(STAY_LARGE);
        }
        if too_small || is_short(segments.next_bytes) {
            segments.next_bytes = (segments.next_bytes * 8).min(self.plan.max);
        } else if now >= segments.large_until && !is_short(self.plan.first) {
            segments.next_bytes = self.plan.first;
        }
    }

    /// Says that a commit has to wait for a sync that only larger segments could have spared it: the
    /// next ones will be.
    pub(crate) fn is_too_small(&self) {
        self.segments.lock().too_small = true;
    }

    /// Whether a memtable whose log has so many bytes should be flushed.
    #[inline]
    pub(crate) fn is_too_long(&self, bytes: u64) -> bool {
        bytes > self.plan.memtable_bytes
    }

    /// Says that nothing below `needed` is needed any more: the manifest edit that says so is
    /// durable.
    pub(crate) fn release(&self, needed: Lsn) {
        let mut segments = self.segments.lock();
        while segments.live.len() > 1 && segments.live[0].end() <= needed {
            let Some(segment) = segments.live.pop_front() else {
                break;
            };
            crate::sync::sometimes("log: a segment is no longer needed");
            segments.held.push_back(segment);
        }
        segments.let_go_unheld(self.plan.held_bytes);
        drop(segments);
        self.remove_surplus();
    }

    /// Removes files beyond those worth keeping. One that comes back after a crash is known by its
    /// header, and ignored.
    fn remove_surplus(&self) {
        self.remove_idle(if self.plan.written { self.plan.memtable_bytes } else { 0 });
    }

    /// Removes files that nothing needs but one, as somebody lacks space, and those that only followers of the log do.
    pub(crate) fn remove_all_idle(&self) {
        self.let_go_of_held();
        self.remove_idle(0);
    }

    /// The same, if the disk is full.
    pub(crate) fn make_space_if_full(&self, error: &Error) {
        if matches!(error, Error::NoSpace { .. }) {
            self.remove_all_idle();
        }
    }

    /// Removes files that nothing needs but one, and so many bytes of those that the log can go on in as they are:
    /// where commits wait for the disk they save writing new ones. Returns whether there were any.
    fn remove_idle(&self, kept_bytes: u64) -> bool {
        let mut any = false;
        loop {
            let surplus = {
                let segments = &mut *self.segments.lock();
                // Without two ready ones, an idle file is what the next opening may need.
                if segments.idle.len() <= IDLE_SEGMENTS || segments.ready.len() < READY_SEGMENTS {
                    return any;
                }
                let (wanted, mut bytes) = (segments.next_bytes, 0);
                let mut is_kept = |s: &Arc<Segment>| {
                    bytes += s.header.capacity;
                    s.header.capacity == wanted && bytes <= kept_bytes
                };
                match segments.idle.iter().position(|s| !is_kept(s)) {
                    Some(at) => segments.idle.remove(at),
                    None => return any,
                }
            };
            crate::sync::sometimes("log: removes a surplus segment");
            self.give_up(&surplus);
            any = true;
        }
    }

    /// The segment that holds `lsn`, or would.
    pub(crate) fn salt_at(&self, lsn: Lsn) -> Option<(u64, u64)> {
        let segments = self.segments.lock();
        let holds = |s: &&Arc<Segment>| s.first() <= lsn && lsn < s.end();
        segments.live.iter().find(holds).map(|s| (s.header.salt, s.header.epoch))
    }

    /// Bytes of all segment files.
    pub(crate) fn file_bytes(&self) -> u64 {
        let s = self.segments.lock();
        let all = s.held.iter().chain(&s.live).chain(&s.ready).chain(&s.idle);
        all.map(|s| s.header.capacity + BLOCK_BYTES).sum()
    }

    /// Whether the pages that the log goes on in soon are not present yet. Each would fault when it
    /// is first written.
    #[inline]
    pub(crate) fn wants_pages(&self, end: Lsn) -> bool {
        end.0 + POPULATE_BYTES / 2 > self.populated.load(Relaxed)
    }

    /// Makes the pages ahead of `end` present. Only where commits do not wait for the disk, because the
    /// next sync writes these pages too.
    pub(crate) fn populate(&self, end: Lsn) {
        if !self.wants_pages(end) {
            return;
        }
        let from = Lsn(self.populated.load(Relaxed).max(end.0));
        let to = Lsn(end.0 + POPULATE_BYTES);
        let segments: Vec<_> = {
            let s = self.segments.lock();
            s.live.back().into_iter().chain(s.ready.front()).cloned().collect()
        };
        segments.iter().for_each(|s| s.populate(from, to));
        self.populated.store(to.0, Relaxed);
    }
}
