//! The one way to write.

use super::{Db, Sequencer, read};
use crate::{
    config::{Durability, MAX_VALUE_BYTES},
    error::{Error, Result},
    format::{
        ops::{Op, Ops},
        record::{RECORD_HEADER_BYTES, RecordKind, record_bytes},
    },
    iter::tombstones::RangeTombstone,
    memtable::{Memtable, Reservation},
    sync::point,
    types::{Kind, SeqNo},
    version::Sealed,
    wal::{LogSlot, Stamp, Tail},
};
use std::sync::Arc;

/// The operations of one commit, encoded behind room for the header of their log record.
pub(crate) struct Encoded<'a> {
    pub(crate) record: &'a mut Vec<u8>,
    pub(crate) operations: u32,
}

/// What a commit was given under the sequencer lock.
struct Place {
    log: LogSlot,
    memtable: Arc<Memtable>,
    entries: Reservation,
    first_seq: SeqNo,
    last_seq: SeqNo,
}

/// Why a commit could not be sequenced yet.
enum Wanted {
    /// Earlier commits must be published first.
    Publication,
    /// Log space for this many bytes.
    Log(usize),
    /// Memtable space for this many arena bytes, which this one does not have.
    Memtable(usize, Arc<Memtable>),
}

/// What a commit needs of the memtable.
struct Need {
    entries: usize,
    arena_bytes: usize,
}

impl Db {
    /// Commits all operations or none, and returns the SeqNo of the last one.
    ///
    /// Between getting a SeqNo and being published nothing can fail but I/O, and that poisons.
    pub(crate) fn commit(&self, batch: Encoded<'_>, durability: Durability) -> Result<SeqNo> {
        self.check_open()?;
        if batch.operations == 0 {
            return Ok(self.visible());
        }
        let payload_len = batch.record.len() - RECORD_HEADER_BYTES;
        let need = self.check(&batch.record[RECORD_HEADER_BYTES..])?;
        let payload_crc = crc32fast::hash(&batch.record[RECORD_HEADER_BYTES..]);
        batch.record.resize(record_bytes(payload_len), 0);

        let mut place = self.sequence(batch.record.len(), u64::from(batch.operations), &need)?;
        let stamp = Stamp {
            kind: RecordKind::Commit,
            flags: 0,
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
        if !sync {
            self.wal.populate(&place.log);
        }
        self.wal.write(&place.log, batch.record, stamp)?;
        let payload = &batch.record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload_len];
        insert(&place.memtable, &mut place.entries, payload, place.first_seq);
        if sync {
            self.sync_through(place.log.end)?;
        }
        self.publish(place.log.ticket, place.last_seq)?;
        self.background.after_commit(&place.memtable, sync);
        Ok(place.last_seq)
    }

    /// Checks every operation before anything is reserved, and adds up what they need.
    fn check(&self, payload: &[u8]) -> Result<Need> {
        let max = (self.config.max_memory / 4) as u64;
        if payload.len() as u64 > max {
            return Err(Error::CommitTooLarge { len: payload.len() as u64, max });
        }
        let mut need = Need { entries: 0, arena_bytes: 0 };
        let version = self.pin();
        for op in Ops::new(payload) {
            let op = op.ok_or_else(|| Error::InvalidArgument {
                what: "batch",
                why: "its operations cannot be decoded".into(),
            })?;
            read::check_keyspace(&version, op.keyspace())?;
            let (key, value_len) = match op {
                Op::Put { key, value, .. } => (key, value.len()),
                Op::Delete { key, .. } => (key, 0),
                Op::RangeDelete { start, end, .. } => {
                    if end.is_some_and(|end| end.len() > self.config.max_key_size) {
                        return Err(Error::KeyTooLarge);
                    }
                    (start, end.unwrap_or_default().len())
                }
            };
            if key.len() > self.config.max_key_size {
                return Err(Error::KeyTooLarge);
            }
            if value_len as u64 > MAX_VALUE_BYTES {
                return Err(Error::ValueTooLarge { len: value_len as u64, max: MAX_VALUE_BYTES });
            }
            need.entries += 1;
            need.arena_bytes += Memtable::entry_bytes(key.len(), value_len);
        }
        Ok(need)
    }

    /// Gives the commit its SeqNos and its places in log and memtable.
    fn sequence(&self, log_bytes: usize, operations: u64, need: &Need) -> Result<Place> {
        loop {
            let wanted = {
                let mut sequencer = self.sequencer.lock();
                // Under the lock: after a failure, or once closing has begun, nothing more is
                // sequenced.
                self.poison.check()?;
                self.check_open()?;
                match self.try_sequence(&mut sequencer, log_bytes, operations, need)? {
                    Ok(place) => return Ok(place),
                    Err(wanted) => wanted,
                }
            };
            match wanted {
                Wanted::Publication => self.wait_for_publication()?,
                Wanted::Log(bytes) => self.extend_log(bytes)?,
                Wanted::Memtable(bytes, full) => self.seal_memtable(bytes, &full)?,
            }
        }
    }

    fn try_sequence(
        &self,
        sequencer: &mut Sequencer,
        log_bytes: usize,
        operations: u64,
        need: &Need,
    ) -> Result<Result<Place, Wanted>> {
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
        if !self.published.has_room(ticket + 1) || !self.wal.has_room(ticket + 1) {
            return Ok(Err(Wanted::Publication));
        }
        if !sequencer.has_spare || !sequencer.tail.has_room(log_bytes) {
            return Ok(Err(Wanted::Log(log_bytes)));
        }
        let Some(entries) = sequencer.memtable.reserve(need.entries, need.arena_bytes) else {
            let full = Arc::clone(&sequencer.memtable);
            return Ok(Err(Wanted::Memtable(need.arena_bytes, full)));
        };
        let Some(log) = sequencer.tail.reserve(log_bytes) else {
            return Ok(Err(Wanted::Log(log_bytes))); // checked above
        };
        sequencer.next_seq = SeqNo(last_seq.0 + 1);
        let memtable = Arc::clone(&sequencer.memtable);
        Ok(Ok(Place { log, memtable, entries, first_seq, last_seq }))
    }

    fn wait_for_publication(&self) -> Result<()> {
        self.published_moved.wait(|| {
            if let Err(poisoned) = self.poison.check() {
                return Some(Err(poisoned));
            }
            let ticket = self.sequencer.lock().tail.next_ticket();
            let room = self.published.has_room(ticket + 1) && self.wal.has_room(ticket + 1);
            room.then_some(Ok(()))
        })
    }

    /// Lets the log go on in the next segment, so that a record of `bytes` finds room.
    fn extend_log(&self, bytes: usize) -> Result<()> {
        let capacity = Tail::capacity_for(bytes);
        if !self.wal.is_prepared_for(capacity) {
            self.wal.prepare(capacity)?;
        }
        if self.sequencer.lock().tail.segment().is_none() {
            return self.begin_log(capacity);
        }
        let (slot, next, seq) = {
            let mut sequencer = self.sequencer.lock();
            self.poison.check()?;
            sequencer.has_spare = true;
            if sequencer.tail.has_room(bytes) {
                return Ok(()); // another commit was faster
            }
            let ticket = sequencer.tail.next_ticket();
            if !self.published.has_room(ticket) || !self.wal.has_room(ticket) {
                return Ok(()); // the caller tries again, and waits
            }
            let Some(next) = self.wal.take_ready(capacity) else { return Ok(()) };
            let seq = SeqNo(sequencer.next_seq.0 - 1);
            (sequencer.tail.switch(Arc::clone(&next)), next, seq)
        };
        self.background.wake_prepare();
        if let Some(slot) = slot {
            self.wal.write_switch(&slot, &next, SeqNo(seq.0 + 1))?;
            self.published.complete(slot.ticket, seq.0);
            self.published_moved.notify();
        }
        Ok(())
    }

    /// Puts a memtable with room for `bytes` in place of the one that is full.
    fn seal_memtable(&self, bytes: usize, full: &Arc<Memtable>) -> Result<()> {
        self.background.wait_for_flush(self)?;
        let next = self.background.new_memtable(&self.config, bytes)?;
        let mut sequencer = self.sequencer.lock();
        self.poison.check()?;
        if !Arc::ptr_eq(&sequencer.memtable, full) {
            return Ok(()); // another commit was faster
        }
        let sealed = Arc::new(Sealed {
            memtable: Arc::clone(&sequencer.memtable),
            last_seq: SeqNo(sequencer.next_seq.0 - 1),
            end: sequencer.tail.next(),
        });
        // Under the lock: the Version names the memtable before its first SeqNo is given.
        self.versions.install(|version| version.with_active(Arc::clone(&next), sealed));
        sequencer.memtable = next;
        drop(sequencer);
        self.background.wake_flush();
        Ok(())
    }

    /// Makes the commit visible, after all before it.
    fn publish(&self, ticket: u64, last_seq: SeqNo) -> Result<()> {
        point("commit.publish");
        self.poison.check()?;
        self.published.complete(ticket, last_seq.0);
        self.published_moved.notify();
        if self.published.is_complete_below(ticket + 1) {
            return Ok(());
        }
        self.published_moved.wait(|| {
            if self.published.is_complete_below(ticket + 1) {
                return Some(Ok(()));
            }
            self.poison.check().err().map(Err)
        })
    }
}

/// Inserts all operations of a payload that was checked before.
pub(crate) fn insert(memtable: &Memtable, room: &mut Reservation, payload: &[u8], first_seq: SeqNo) {
    for (op, seq) in Ops::new(payload).flatten().zip(first_seq.0..) {
        let seq = SeqNo(seq);
        match op {
            Op::Put { keyspace, key, value } => {
                let hash = Memtable::hash(keyspace, key);
                memtable.insert(room, keyspace, hash, key, seq, Kind::Put, value);
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
