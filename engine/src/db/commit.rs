//! The one way to write.

use super::{
    Db, Sequencer, Target, read,
    transact::{Terms, WriteLocks},
};
use crate::{
    blob::Blob,
    codec::compress_payload,
    config::Durability,
    error::{Error, Result},
    format::{
        blob::POINTER_BYTES,
        ops::{Op, Ops},
        record::{FLAG_COMPRESSED, RECORD_HEADER_BYTES, RecordKind, record_bytes},
    },
    iter::tombstones::RangeTombstone,
    memtable::{Memtable, Reservation},
    sync::point_at,
    transaction::window::{Footprint, Verdict, Window},
    types::{Kind, Lsn, SeqNo},
    version::Sealed,
    wal::{LogSlot, Segment, Stamp, Tail},
};
use std::sync::Arc;

/// The operations of one commit as a log record: room for its header, the encoded operations, and
/// padding to the record's alignment.
pub(crate) struct Encoded<'a> {
    pub(crate) record: &'a mut [u8],
    pub(crate) payload_len: usize,
    pub(crate) operations: u32,
}

impl Encoded<'_> {
    #[inline]
    pub(super) fn payload(&self) -> &[u8] {
        &self.record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + self.payload_len]
    }
}

/// What a commit was given under the sequencer lock.
struct Place<'a> {
    target: Arc<Target>,
    log: LogSlot,
    entries: Reservation,
    first_seq: SeqNo,
    last_seq: SeqNo,
    /// The log should be synced soon, or commits will have to wait for it.
    sync_soon: bool,
    /// To be dropped without the lock.
    _given_up: Option<Window>,
    /// Given back when the commit is published.
    _locks: Option<WriteLocks<'a>>,
}

/// Why a commit could not be sequenced yet.
enum Wanted {
    /// Earlier commits must be published first.
    Publication,
    /// Log space for this many bytes.
    Log(usize),
    /// The log so far must be durable first.
    Durable(Lsn),
    /// Memtable space, which this one does not have.
    Memtable(Arc<Memtable>),
    /// The keys of the commit: there is a conflict window.
    Footprint,
    /// Locks on the keys of the commit: there are transactions that have some.
    Locks,
    /// A look at more commits than is good under the lock.
    CatchUp,
}

/// What a commit asks of the sequencer.
struct Request<'a> {
    log_bytes: usize,
    operations: u64,
    need: &'a Need,
    payload: &'a [u8],
    footprint: Option<Footprint>,
    has_locks: bool,
    /// It may have the log space that is kept for deletes.
    use_kept: bool,
}

/// Bytes of operations in one commit, at most: lengths in a record have 32 bits.
const COMMIT_BYTES_MAX: u64 = 1 << 30;

/// Shorter payloads are not compressed in the log.
const COMPRESSED_FROM: usize = 4 << 10;

/// What a commit needs of the memtable.
pub(super) struct Need {
    entries: usize,
    arena_bytes: usize,
    /// Nothing is written but deletes. They may have what is kept for them on a full disk.
    deletes_only: bool,
    range_deletes: bool,
    /// There are puts of values that go to files of their own.
    large: bool,
}

impl Db {
    /// Commits all operations or none, and returns the SeqNo of the last one.
    ///
    /// Between getting a SeqNo and being published nothing can fail but I/O, and that poisons.
    #[inline]
    pub(crate) fn commit(&self, batch: Encoded<'_>, durability: Durability) -> Result<SeqNo> {
        self.commit_on(batch, durability, &mut Terms::default())
    }

    /// [`Db::commit`], if what a transaction is bound to still holds.
    pub(crate) fn commit_on(
        &self,
        batch: Encoded<'_>,
        durability: Durability,
        terms: &mut Terms<'_>,
    ) -> Result<SeqNo> {
        self.check_open()?;
        if batch.operations == 0 {
            return Ok(self.visible());
        }
        debug_assert_eq!(batch.record.len(), record_bytes(batch.payload_len));
        let need = self.check(batch.payload())?;
        match need.large {
            false => self.commit_checked(batch, &need, &[], durability, terms),
            true => self.commit_large(&batch, durability, terms),
        }
    }

    /// Commits operations that were checked, none of them a put of a large value. They name `blobs`.
    pub(super) fn commit_checked(
        &self,
        batch: Encoded<'_>,
        need: &Need,
        blobs: &[Arc<Blob>],
        durability: Durability,
        terms: &mut Terms<'_>,
    ) -> Result<SeqNo> {
        let mut compressed = self.compressed(&batch);
        let (payload_len, flags) = match &compressed {
            Some((_, payload_len)) => (*payload_len, FLAG_COMPRESSED),
            None => (batch.payload_len, 0),
        };
        let record = compressed.as_ref().map_or(&*batch.record, |(record, _)| record);
        let payload_crc = crc32fast::hash(&record[RECORD_HEADER_BYTES..][..payload_len]);

        let payload = batch.payload();
        let request = Request {
            log_bytes: record.len(),
            operations: u64::from(batch.operations),
            need,
            payload,
            footprint: self.transactions.is_recording().then(|| Footprint::of(payload)),
            has_locks: false,
            use_kept: false,
        };
        let mut place = self.sequence(request, terms)?;
        let record =
            compressed.as_mut().map_or(&mut *batch.record, |(record, _)| record.as_mut_slice());
        let unfinished = self.unless_finished("commit to");
        let stamp = Stamp {
            kind: RecordKind::Commit,
            flags,
            first_seq: place.first_seq,
            operations: batch.operations,
            payload_len: payload_len as u32,
            payload_crc,
        };
        let sync = match durability {
            Durability::Default => self.syncs_by_default(),
            Durability::Sync => true,
            Durability::Async => false,
        };
        let Target { segment: Some(segment), memtable } = &*place.target else {
            return Err(Error::Closed); // the log had room, so it has a segment
        };
        self.wal.write(segment, &place.log, record, stamp)?;
        if !blobs.is_empty() {
            memtable.hold_blobs(blobs);
        }
        insert(memtable, &mut place.entries, batch.payload(), place.first_seq);
        self.publish(&place, sync)?;
        unfinished.finish();
        if need.range_deletes {
            crate::sync::sometimes("commit: deletes a range");
            self.background.wake_compact(); // it may cover whole runs
        }
        if !sync {
            self.background.after_commit(self, memtable, place.log.end, place.sync_soon);
        }
        Ok(place.last_seq)
    }

    /// The record as it goes into the log if it is to be compressed there, and how long its payload is.
    #[inline]
    fn compressed(&self, batch: &Encoded<'_>) -> Option<(Vec<u8>, usize)> {
        if !self.config.wal_compression {
            return None;
        }
        let short = self.env.buggify("commit: compresses short payloads");
        if batch.payload_len < if short { 64 } else { COMPRESSED_FROM } {
            return None;
        }
        let mut record = compress_payload(RECORD_HEADER_BYTES, batch.payload())?;
        let payload_len = record.len() - RECORD_HEADER_BYTES;
        record.resize(record_bytes(payload_len), 0);
        crate::sync::sometimes("commit: compressed in the log");
        self.metrics.log_saved_bytes.add((batch.payload_len - payload_len) as u64);
        Some((record, payload_len))
    }

    /// Checks every operation before anything is reserved, and adds up what they need.
    pub(super) fn check(&self, payload: &[u8]) -> Result<Need> {
        let mut need = Need {
            entries: 0,
            arena_bytes: 0,
            deletes_only: true,
            range_deletes: false,
            large: false,
        };
        let mut len = payload.len() as u64;
        let version = self.pin();
        for op in Ops::new(payload) {
            let op = op.ok_or_else(|| Error::InvalidArgument {
                what: "batch",
                why: "its operations cannot be decoded".into(),
            })?;
            read::check_keyspace(&version, op.keyspace())?;
            let (key, value_len) = match op {
                Op::Put { key, value, .. } if value.len() > self.config.blob_threshold => {
                    need.large = true;
                    len -= value.len() as u64; // it does not go along
                    (key, POINTER_BYTES)
                }
                Op::Put { key, value, .. } => (key, value.len()),
                Op::Blob { key, .. } => (key, POINTER_BYTES),
                Op::Delete { key, .. } => (key, 0),
                Op::RangeDelete { start, end, .. } => (start, end.unwrap_or_default().len()),
            };
            let longest = match op {
                // A bound behind a key is a byte longer than the key.
                Op::RangeDelete { .. } => key.len().max(value_len).saturating_sub(1),
                Op::Put { .. } | Op::Blob { .. } | Op::Delete { .. } => key.len(),
            };
            if longest > self.config.max_key_size {
                return Err(Error::KeyTooLarge);
            }
            // On their way while the log is written. Usually it is this memtable.
            let hash = Memtable::hash(op.keyspace(), key);
            version.active.prefetch(hash);
            self.transactions.prefetch(hash);
            need.deletes_only &= !matches!(op, Op::Put { .. } | Op::Blob { .. });
            need.range_deletes |= matches!(op, Op::RangeDelete { .. });
            need.entries += 1;
            need.arena_bytes += Memtable::entry_bytes(key.len(), value_len);
        }
        let max = (self.config.max_memory as u64 / 4).min(COMMIT_BYTES_MAX);
        match len > max {
            true => Err(Error::CommitTooLarge { len, max }),
            false => Ok(need),
        }
    }

    /// Gives the commit its SeqNos and its places in log and memtable.
    fn sequence(&self, mut request: Request<'_>, terms: &mut Terms<'_>) -> Result<Place<'_>> {
        let need = request.need;
        let mut locks = None;
        loop {
            let wanted = {
                let mut sequencer = self.sequencer.lock();
                // Under the lock: after a failure, or once closing has begun, nothing more is
                // sequenced.
                self.poison.check()?;
                self.check_open()?;
                match self.try_sequence(&mut sequencer, &mut request, terms)? {
                    Ok(place) => return Ok(Place { _locks: locks, ..place }),
                    Err(wanted) => wanted,
                }
            };
            match wanted {
                Wanted::Publication => self.wait_for_publication()?,
                Wanted::Log(bytes) => match self.extend_log(bytes) {
                    // A delete may be what makes space.
                    Err(Error::NoSpace { .. }) if need.deletes_only && !request.use_kept => {
                        request.use_kept = true;
                    }
                    other => other?,
                },
                Wanted::Durable(end) => {
                    self.wal.is_too_small();
                    self.sync_through(end)?;
                }
                Wanted::Memtable(full) => {
                    let capacity = Memtable::capacity_for(need.entries, need.arena_bytes);
                    self.seal(&full, capacity, need.deletes_only)?;
                }
                Wanted::Footprint => request.footprint = Some(Footprint::of(request.payload)),
                Wanted::Locks => {
                    locks = Some(self.lock_written(request.payload, terms)?);
                    request.has_locks = true;
                }
                Wanted::CatchUp => self.catch_up(&mut terms.checks)?,
            }
        }
    }

    fn try_sequence<'a>(
        &'a self,
        sequencer: &mut Sequencer,
        request: &mut Request<'_>,
        terms: &mut Terms<'_>,
    ) -> Result<Result<Place<'a>, Wanted>> {
        let Request { log_bytes, operations, need, .. } = *request;
        // Whoever took a lock has held the sequencer lock since, and so knows of all that came before.
        if !request.has_locks && self.locks.in_use() {
            return Ok(Err(Wanted::Locks));
        }
        if sequencer.window.is_some() && request.footprint.is_none() {
            return Ok(Err(Wanted::Footprint));
        }
        if self.judge(sequencer, terms)? == Verdict::Behind {
            return Ok(Err(Wanted::CatchUp));
        }
        let first_seq = sequencer.next_seq;
        let last_seq = SeqNo(first_seq.0 + operations - 1);
        if last_seq >= SeqNo::MAX {
            return Err(Error::InvalidArgument {
                what: "commit",
                why: "all 2^56 sequence numbers of this database are used up".into(),
            });
        }
        let ticket = sequencer.tail.next_ticket();
        // One ticket more is left for the record that ends a segment.
        if !self.published.has_room(ticket + 1) {
            crate::sync::sometimes("commit: waits for earlier commits to be published");
            return Ok(Err(Wanted::Publication));
        }
        let (tail, spare_bytes) = (&sequencer.tail, sequencer.spare_bytes);
        let kept = if request.use_kept { 0 } else { tail.kept_bytes() };
        if log_bytes as u64 > spare_bytes || !tail.has_room(log_bytes + kept) {
            crate::sync::sometimes("commit: the segment is full");
            return Ok(Err(Wanted::Log(log_bytes)));
        }
        let unsynced = self.unsynced(tail) + log_bytes as u64;
        if unsynced > spare_bytes {
            crate::sync::sometimes("commit: more is unsynced than an opening could copy");
            return Ok(Err(Wanted::Durable(tail.last_end())));
        }
        let memtable = &sequencer.target.memtable;
        let Some(entries) = memtable.reserve(need.entries, need.arena_bytes) else {
            let full = Arc::clone(memtable);
            crate::sync::sometimes("commit: the memtable is full");
            return Ok(Err(Wanted::Memtable(full)));
        };
        let Some(log) = sequencer.tail.reserve(log_bytes) else {
            return Ok(Err(Wanted::Log(log_bytes))); // checked above
        };
        sequencer.next_seq = SeqNo(last_seq.0 + 1);
        sequencer.committed_bytes += log_bytes as u64;
        sequencer.commits += 1;
        let target = Arc::clone(&sequencer.target);
        let sync_soon = unsynced > spare_bytes / 2;
        let (_given_up, _locks) =
            (self.record(sequencer, last_seq, request.footprint.take()), None);
        Ok(Ok(Place { target, log, entries, first_seq, last_seq, sync_soon, _given_up, _locks }))
    }

    fn wait_for_publication(&self) -> Result<()> {
        self.published_moved.wait(|| {
            if let Err(poisoned) = self.poison.check() {
                return Some(Err(poisoned));
            }
            let ticket = self.sequencer.lock().tail.next_ticket();
            self.published.has_room(ticket + 1).then_some(Ok(()))
        })
    }

    /// Whether the log should be synced without waiting for the interval.
    pub(crate) fn wants_sync(&self) -> bool {
        let sequencer = self.sequencer.lock();
        self.unsynced(&sequencer.tail) > sequencer.spare_bytes / 2
    }

    /// Bytes of log that the next opening would have to copy. Padding behind what is durable is not.
    #[inline]
    pub(super) fn unsynced(&self, tail: &Tail) -> u64 {
        tail.last_end().0.saturating_sub(self.wal.durable().0)
    }

    /// Lets the log go on in the next segment, so that a record of `bytes` finds room.
    fn extend_log(&self, bytes: usize) -> Result<()> {
        let capacity = Tail::commit_capacity_for(bytes);
        if !self.wal.is_prepared_for(capacity) {
            self.wal.prepare(capacity)?;
        }
        if self.sequencer.lock().tail.segment().is_none() {
            crate::sync::sometimes("commit: the log begins late, after a full disk");
            return self.begin_log(capacity);
        }
        let (slot, next, seq) = {
            let mut sequencer = self.sequencer.lock();
            self.poison.check()?;
            self.check_open()?; // the mark of a clean end is the last record
            let tail = &sequencer.tail;
            if tail.has_room(bytes + tail.kept_bytes()) {
                crate::sync::sometimes("commit: another one went on in the next segment first");
                sequencer.spare_bytes = self.wal.spare_bytes(0);
                return Ok(()); // another commit was faster
            }
            // What is left besides the next segment must hold what is not synced yet.
            let (end, spare_bytes) = (tail.last_end(), self.wal.spare_bytes(1));
            if self.unsynced(tail) > spare_bytes {
                crate::sync::sometimes("commit: syncs before the next segment");
                drop(sequencer);
                return self.sync_through(end);
            }
            let ticket = sequencer.tail.next_ticket();
            if !self.published.has_room(ticket) {
                crate::sync::sometimes("commit: no ticket for the end of the segment");
                return Ok(()); // the caller tries again, and waits
            }
            let Some(next) = self.wal.take_ready(capacity) else {
                return Ok(());
            };
            let seq = SeqNo(sequencer.next_seq.0 - 1);
            sequencer.spare_bytes = spare_bytes;
            (sequencer.switch(Arc::clone(&next)), next, seq)
        };
        self.end_segment(slot, &next, seq)
    }

    /// Writes the record that leads from the segment before it to the next one, if there is one before it.
    pub(super) fn end_segment(
        &self,
        ended: Option<(Arc<Segment>, LogSlot)>,
        next: &Segment,
        seq: SeqNo,
    ) -> Result<()> {
        let unfinished = self.unless_finished("go on in the next segment of the log in");
        self.background.wake_prepare();
        if self.is_log_too_long() {
            self.background.wake_flush();
        }
        if let Some(ended) = ended {
            crate::sync::sometimes("commit: ends a segment");
            self.wal.write_switch(&ended, next, SeqNo(seq.0 + 1))?;
            self.published.complete(ended.1.ticket, seq.0);
            self.published_moved.notify();
        }
        unfinished.finish();
        Ok(())
    }

    /// Whether the active memtable needs so much log that it should be flushed, full or not: padding, which commits
    /// that wait for the disk have much of, fills the log and no memtable.
    pub(super) fn is_log_too_long(&self) -> bool {
        self.wal.is_too_long(self.sequencer.lock().memtable_log_bytes())
    }

    /// Puts a memtable of at least `capacity` bytes in the place of `full`, unless another one is there.
    pub(super) fn seal(
        &self,
        full: &Arc<Memtable>,
        capacity: usize,
        deletes_only: bool,
    ) -> Result<()> {
        self.background.wait_for_flush(self, deletes_only)?;
        self.seal_at_once(full, capacity)
    }

    /// The same without waiting, though there may be one memtable too many then.
    pub(super) fn seal_at_once(&self, full: &Arc<Memtable>, capacity: usize) -> Result<()> {
        if !Arc::ptr_eq(&self.sequencer.lock().target.memtable, full) {
            return Ok(()); // another commit was faster
        }
        let next = self.background.new_memtable(&self.config, capacity)?;
        let mut sequencer = self.sequencer.lock();
        self.poison.check()?;
        self.check_open()?;
        if !Arc::ptr_eq(&sequencer.target.memtable, full) {
            return Ok(()); // another commit was faster
        }
        let sealed = Arc::new(Sealed {
            memtable: Arc::clone(&sequencer.target.memtable),
            last_seq: SeqNo(sequencer.next_seq.0 - 1),
            end: sequencer.tail.last_end(),
        });
        crate::sync::sometimes("commit: seals the memtable");
        // Under the lock: the Version names the memtable before its first SeqNo is given.
        self.versions.install(|version| version.with_active(Arc::clone(&next), sealed));
        sequencer.set_memtable(next);
        drop(sequencer);
        self.background.wake_flush();
        Ok(())
    }

    /// Makes the commit visible, after all before it, and if `sync` not before it is durable: then
    /// whoever leads the sync publishes it, so that the commit's thread wakes once.
    fn publish(&self, place: &Place<'_>, sync: bool) -> Result<()> {
        point_at("commit.publish", place.last_seq.0);
        self.poison.check()?;
        let ticket = place.log.ticket;
        let level = if sync { place.log.end.0 } else { 0 };
        self.published.complete_at(ticket, place.last_seq.0, level);
        if sync
            && let Err(poisoned) = self.sync_through(place.log.end)
            && self.published.cancel(ticket)
        {
            crate::sync::sometimes("commit: fails with the sync that it led or waited for");
            return Err(poisoned); // what cannot be cancelled was made durable: it has not failed
        }
        self.published_moved.notify();
        if self.published.is_complete_below(ticket + 1) {
            return Ok(());
        }
        crate::sync::sometimes("commit: waits to be published");
        let mut cancelled = false;
        self.published_moved.wait(|| {
            if self.published.is_complete_below(ticket + 1) {
                return Some(Ok(()));
            }
            // What fails is not published later; what is on its way to be has not failed.
            let poisoned = self.poison.check().err()?;
            cancelled = cancelled || self.published.cancel(ticket);
            cancelled.then_some(Err(poisoned))
        })
    }
}

/// Inserts all operations of a payload that was checked before.
pub(crate) fn insert(
    memtable: &Memtable,
    room: &mut Reservation,
    payload: &[u8],
    first_seq: SeqNo,
) {
    for (op, seq) in Ops::new(payload).flatten().zip(first_seq.0..) {
        let seq = SeqNo(seq);
        match op {
            Op::Put { keyspace, key, value } => {
                let hash = Memtable::hash(keyspace, key);
                memtable.insert(room, keyspace, hash, key, seq, Kind::Put, value);
            }
            Op::Blob { keyspace, key, pointer } => {
                let hash = Memtable::hash(keyspace, key);
                memtable.insert(room, keyspace, hash, key, seq, Kind::Blob, &pointer.encode());
            }
            Op::Delete { keyspace, key } => {
                let hash = Memtable::hash(keyspace, key);
                memtable.insert(room, keyspace, hash, key, seq, Kind::Delete, b"");
            }
            Op::RangeDelete { keyspace, start, end } => {
                let (start, end) = (start.to_vec(), end.map(<[u8]>::to_vec));
                let tombstone = RangeTombstone { start, end, seq };
                memtable.insert_range_delete(room, keyspace, tombstone);
            }
        }
    }
}
