//! Creating and recovering a database: the only place that replays the log.
//!
//! Recovery looks first and writes second. It reads the manifest, then the log, then what every sstable
//! says of itself, without changing anything: an opening that finds fault leaves all as it was. Then, each step durable before the next:
//!
//! 1. the manifest is rolled into a new file: what was read, perhaps only from the page cache, is
//!    now on disk; from here on what it does not name may be reused
//! 2. a fresh segment of a new epoch takes a copy of every commit above the last durable mark:
//!    they could be read, but whether the disk has them is unknown
//! 3. an edit ends the old log at that mark and adds the new segment
//!
//! Only then readers see anything, so nothing they see can be taken back. Interrupted anywhere, the
//! next recovery finds the same commits.

mod directory;
mod live;

use super::{
    Db, Sequencer, Target,
    background::Background,
    commit::insert,
    feed::{self, Loads},
};
use crate::{
    blob::{Blob, Blobs, blob_id},
    codec::decompress_payload,
    config::{LightningDbConfig, WalSyncMode},
    env::{DirLock, Env, Names, Poison, Signal},
    error::{Error, Result},
    format::{
        blob::POINTER_BYTES,
        manifest::{Change, KeyspaceMeta, LogPiece, State},
        ops::{Op, Ops},
        record::{
            BLOCK_BYTES, FLAG_COMPRESSED, RECORD_HEADER_BYTES, RecordHeader, RecordKind,
            record_bytes,
        },
    },
    memtable::Memtable,
    metrics::Metrics,
    pager::{Pager, tree_file_id},
    sstable::SharedBlocks,
    sync::{AtomicBool, AtomicU64, InOrder, Mutex, Ordering::SeqCst},
    transaction::{Transactions, locks::Locks},
    types::{EditNo, FileId, KeyspaceId, Lsn, SeqNo},
    upkeep::output::sstable_id,
    version::{
        KeyspaceVersion, Sealed, Version,
        cell::VersionCell,
        manifest::{Manifest, generation_of},
    },
    wal::{
        LogStart, Segment, SegmentPlan, Stamp, Tail, Wal,
        replay::{self, FoundFile, FoundSegment},
        segment::segment_name,
    },
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use directory::{Listing, lock_directory};

/// What may happen if there is no database, or if there is one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenAs {
    Existing,
    New,
    Either,
}

pub(crate) const DEFAULT_KEYSPACE: &str = "default";
/// Each opening adds a piece to the log. With more than this, what they hold is flushed.
const LOG_PIECES_MAX: usize = 4;
/// How many times its size, or the first segment's, the log of a memtable may have before it is flushed.
const LOG_OF_MEMTABLE: u64 = 2;
/// The first log segment, unless `wal_segment_size` is smaller.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

impl Db {
    /// Opens or creates the database in `dir`, without its background threads.
    pub(crate) fn open(
        env: Arc<dyn Env>,
        dir: &Path,
        config: LightningDbConfig,
        open_as: OpenAs,
    ) -> Result<Db> {
        config.validate()?;
        let lock: Arc<dyn DirLock> = lock_directory(&env, dir, open_as)?.into();
        let listing = Listing::read(&env, dir)?;
        let (dir, names) = (dir.to_path_buf(), Names::new(&env, dir.to_path_buf()));
        let opening = Opening { env, dir: dir.clone(), names, config, poison: Arc::default() };
        let opened = match (listing.manifest, open_as) {
            (Some(_), OpenAs::New) => Err(Error::AlreadyExists { path: dir }),
            (Some(generation), _) => opening.recover(&listing, generation, lock),
            (None, _) => {
                opening.refuse_unless_empty(&listing, open_as)?;
                opening.create(&listing, lock)
            }
        };
        opened.map_err(Error::unpoisoned)
    }
}

/// What every way of opening needs.
struct Opening {
    env: Arc<dyn Env>,
    dir: PathBuf,
    names: Arc<Names>,
    config: LightningDbConfig,
    poison: Arc<Poison>,
}

/// What is in the log, and in memory after reading it.
struct Recovered {
    memtables: Memtables,
    /// Commits above the durable mark, as they were written.
    suffix: Vec<(RecordHeader, Vec<u8>)>,
    durable: Lsn,
    /// Salts of the segments that were read.
    segments: Vec<u64>,
    /// Positions from here on were never used.
    base: Lsn,
    epoch: u64,
    next_seq: SeqNo,
    commits: u64,
}

impl Recovered {
    /// Seals the active memtable, so that it is flushed soon and its log let go.
    fn seal(&mut self) -> Result<()> {
        let next = Arc::new(Memtable::new(self.memtables.bytes)?);
        let memtable = std::mem::replace(&mut self.memtables.active, next);
        let last_seq = SeqNo(self.next_seq.0 - 1);
        // Everything below the fresh segment was read into it.
        self.memtables.sealed.insert(0, Arc::new(Sealed { memtable, last_seq, end: self.base }));
        Ok(())
    }
}

/// The memtables that replay fills.
struct Memtables {
    active: Arc<Memtable>,
    /// Newest first.
    sealed: Vec<Arc<Sealed>>,
    bytes: usize,
}

impl Memtables {
    fn new(bytes: usize) -> Result<Memtables> {
        Ok(Memtables { active: Arc::new(Memtable::new(bytes)?), sealed: vec![], bytes })
    }

    /// Inserts a commit that the log holds before `end`.
    fn insert(
        &mut self,
        record: &RecordHeader,
        ops: &[Op<'_>],
        blobs: &[Arc<Blob>],
        payload: &[u8],
    ) -> Result<()> {
        let bytes = ops.iter().map(entry_bytes).sum();
        let mut room = self.active.reserve(ops.len(), bytes);
        if room.is_none() {
            crate::sync::sometimes("open: replay fills a memtable");
            let capacity = Memtable::capacity_for(ops.len(), bytes);
            let next = Arc::new(Memtable::new(self.bytes.max(capacity))?);
            let memtable = std::mem::replace(&mut self.active, next);
            let last_seq = SeqNo(record.first_seq.0 - 1);
            self.sealed.insert(0, Arc::new(Sealed { memtable, last_seq, end: record.lsn }));
            room = self.active.reserve(ops.len(), bytes);
        }
        let mut room = room.ok_or_else(|| Error::InvalidArgument {
            what: "memtable_size",
            why: format!("a commit of {bytes} bytes does not fit a memtable of its own"),
        })?;
        if !blobs.is_empty() {
            crate::sync::sometimes("open: a commit in the log names a blob");
            self.active.hold_blobs(blobs);
        }
        insert(&self.active, &mut room, payload, record.first_seq);
        Ok(())
    }
}

fn entry_bytes(op: &Op<'_>) -> usize {
    match op {
        Op::Put { key, value, .. } => Memtable::entry_bytes(key.len(), value.len()),
        Op::Blob { key, .. } => Memtable::entry_bytes(key.len(), POINTER_BYTES),
        Op::Delete { key, .. } => Memtable::entry_bytes(key.len(), 0),
        Op::RangeDelete { start, end, .. } => {
            Memtable::entry_bytes(start.len(), end.unwrap_or_default().len())
        }
    }
}

/// What the manifest names besides the log, open.
struct Data {
    keyspaces: Vec<Arc<KeyspaceVersion>>,
    blocks: Arc<SharedBlocks>,
    pager: Option<Arc<Pager>>,
    blobs: Blobs,
}

impl Opening {
    /// Without a manifest there must be nothing that a database could have lost it from.
    fn refuse_unless_empty(&self, listing: &Listing, open_as: OpenAs) -> Result<()> {
        let lost = |name: &str| {
            Error::corruption(
                self.dir.join(name),
                0,
                "a manifest beside it in the directory",
                "data without one",
            )
        };
        let files = [&listing.tables, &listing.trees, &listing.blobs];
        if let Some(name) = files.into_iter().find_map(|names| names.first()) {
            return Err(lost(name));
        }
        for name in &listing.segments {
            let found = FoundSegment::open(self.env.disk(), &self.dir, name, None)?;
            if let FoundFile::Segment(segment) = found
                && segment.has_records()?
            {
                return Err(lost(name));
            }
        }
        let half_created = !listing.segments.is_empty() || !listing.manifests.is_empty();
        match (listing.others.first(), open_as) {
            (Some(name), _) if !half_created => Err(Error::NotADatabase {
                path: self.dir.clone(),
                why: format!("it has no manifest, and holds other files such as {name:?}"),
            }),
            (_, OpenAs::Existing) => Err(Error::NotFound {
                path: self.dir.clone(),
                why: "the directory has no manifest",
            }),
            _ => Ok(()),
        }
    }

    /// Makes a new database. It exists once its first manifest does.
    fn create(self, listing: &Listing, lock: Arc<dyn DirLock>) -> Result<Db> {
        // What an interrupted creation left behind.
        for name in listing.segments.iter().chain(&listing.manifests) {
            crate::sync::sometimes("open: cleans an interrupted creation up");
            self.remove(name)?;
        }
        let mut uuid = [0; 16];
        let halves = [self.env.random("uuid"), self.env.random("uuid")];
        for (place, half) in uuid.chunks_exact_mut(8).zip(halves) {
            place.copy_from_slice(&half.to_le_bytes());
        }
        let manifest = Manifest::new(&self.env, &self.names, uuid, &self.poison);
        let recovered = Recovered {
            memtables: Memtables::new(self.config.memtable_size)?,
            suffix: vec![],
            durable: Lsn(BLOCK_BYTES),
            segments: vec![],
            base: Lsn(BLOCK_BYTES),
            epoch: 1,
            next_seq: SeqNo(1),
            commits: 0,
        };
        let file_ids = Arc::new(AtomicU64::new(listing.next_file()));
        let published = self.published(0);
        let segments = (vec![], vec![]);
        let wal = self.wal(uuid, &file_ids, &recovered, segments, EditNo(0), &published);
        let mut sequencer = self.sequencer(&recovered);
        let piece = self.begin_log(&wal, &mut sequencer, &recovered, &published)?;
        let mut state = State { log: vec![piece], ..State::default() };
        let keyspace = Change::AddKeyspace(KeyspaceMeta {
            id: KeyspaceId::DEFAULT,
            name: DEFAULT_KEYSPACE.into(),
            compression: None,
            storage_kind: self.config.storage_kind,
            created_micros: self.env.clock().wall().as_micros() as u64,
        });
        let changes = [keyspace, Change::NextFile(FileId(file_ids.load(SeqCst)))];
        for change in &changes {
            state.apply(change).map_err(|why| Error::InvalidArgument { what: "edit", why })?;
        }
        let mut manifest = manifest;
        manifest.roll(state)?;
        let blocks = Arc::new(SharedBlocks::new(self.config.block_bytes()));
        let blobs = Blobs::new(&self.env, &self.dir, uuid, &file_ids);
        let keyspaces = self.open_tables(&manifest, &blocks, None, &blobs)?;
        let data = Data { keyspaces, blocks, pager: None, blobs };
        self.finish(manifest, wal, sequencer, published, recovered, data, file_ids, lock)
    }

    /// Brings back what a database held when it was closed, killed or lost power.
    fn recover(self, listing: &Listing, generation: u64, lock: Arc<dyn DirLock>) -> Result<Db> {
        let mut manifest = Manifest::read(&self.env, &self.names, generation, &self.poison)?;
        let uuid = manifest.uuid();
        let (segments, strays) = self.find_segments(listing, uuid)?;
        let next_file = manifest.state().next_file.0.max(listing.next_file());
        let file_ids = Arc::new(AtomicU64::new(next_file));
        let blobs = Blobs::new(&self.env, &self.dir, uuid, &file_ids);
        let mut recovered = self.replay(&manifest, &segments, &blobs)?;
        let blocks = Arc::new(SharedBlocks::new(self.config.block_bytes()));
        let pager = self.open_trees(&manifest, &blocks, &lock)?;
        let keyspaces = self.open_tables(&manifest, &blocks, pager.as_ref(), &blobs)?;
        let there = listing.blobs.iter().filter_map(|name| blob_id(name)).collect();
        let orphans = blobs.settle_files(&there)?;

        // Looking ends, writing begins.
        let mut state = State { clean: false, ..manifest.state().clone() };
        state.next_file = FileId(next_file);
        state.keyspaces.values_mut().for_each(|k| feed::settle_load(k, recovered.next_seq));
        if recovered.suffix.is_empty() {
            // All that is in the log is durable where it is.
            crate::sync::sometimes("open: nothing to copy");
            state.log = ended_at(&state.log, recovered.durable);
        }
        // The manifest's name may be known to the page cache only. Older ones are still its safety.
        self.names.sync(self.names.before())?;
        manifest.adopt_spare(&listing.manifests)?;
        manifest.roll(state)?;

        let published = self.published(recovered.next_seq.0 - 1);
        let segments = self.split_segments(segments, &manifest, &recovered)?;
        let number = manifest.number();
        let wal = self.wal(uuid, &file_ids, &recovered, segments, number, &published);
        wal.continues_pieces(ended_at(&manifest.state().log, recovered.durable));
        let mut sequencer = self.sequencer(&recovered);
        match self.begin_log(&wal, &mut sequencer, &recovered, &published) {
            Ok(piece) => {
                let mut log = ended_at(&manifest.state().log, recovered.durable);
                log.push(piece);
                manifest
                    .append(&[Change::Log(log), Change::NextFile(FileId(file_ids.load(SeqCst)))])?;
            }
            // On a full disk the log goes on later, if all that it holds is durable where it is.
            Err(Error::NoSpace { .. }) if recovered.suffix.is_empty() => {
                crate::sync::sometimes("open: the log goes on later, on a full disk");
            }
            Err(error) => return Err(error),
        }
        wal.set_durable_edit(manifest.number());
        self.remove_orphans(listing, &strays, &manifest);
        if !orphans.is_empty() {
            crate::sync::sometimes("open: removes a blob that nothing names");
            blobs.bury(orphans);
            blobs.remove_dead(|| true); // what cannot be removed now is later
        }
        if manifest.state().log.len() > LOG_PIECES_MAX {
            crate::sync::sometimes("open: many pieces of log");
            recovered.seal()?;
            let memtable = Arc::clone(&recovered.memtables.active);
            sequencer.set_memtable(memtable);
        }
        let data = Data { keyspaces, blocks, pager, blobs };
        self.finish(manifest, wal, sequencer, published, recovered, data, file_ids, lock)
    }

    /// The log's segments, and the names of files that look like some but are not. A file that cannot be
    /// read may be one that the log needs, even where the manifest names none: the edit that did may be
    /// what was lost.
    fn find_segments(
        &self,
        listing: &Listing,
        uuid: [u8; 16],
    ) -> Result<(Vec<FoundSegment>, Vec<String>)> {
        let (mut found, mut strays, mut astray) = (vec![], vec![], vec![]);
        for name in &listing.segments {
            match FoundSegment::open(self.env.disk(), &self.dir, name, Some(uuid))? {
                FoundFile::Segment(segment) => found.push(segment),
                FoundFile::Astray(id, header) => {
                    astray.push((name, id, (header.epoch, header.first)));
                    strays.push(name.clone());
                }
                FoundFile::Other => strays.push(name.clone()),
            }
        }
        for (name, id, place) in astray {
            let lacks_it = !found.iter().any(|s| s.id == id && s.place() >= place);
            if lacks_it && listing.segments.contains(&segment_name(id)) {
                crate::sync::sometimes("open: the header of a segment went to another file");
                let found = format!("that of {}, which lacks it", segment_name(id));
                return Err(Error::corruption(self.dir.join(name), 0, "its own header", found));
            }
        }
        found.sort_by_key(FoundSegment::place);
        Ok((found, strays))
    }

    /// Reads the log into memtables.
    fn replay(
        &self,
        manifest: &Manifest,
        segments: &[FoundSegment],
        blobs: &Blobs,
    ) -> Result<Recovered> {
        let state = manifest.state();
        let mut recovered = Recovered {
            memtables: Memtables::new(self.config.memtable_size)?,
            suffix: vec![],
            durable: Lsn(0),
            segments: vec![],
            base: Lsn(BLOCK_BYTES),
            epoch: 0,
            next_seq: SeqNo(state.flushed.0 + 1),
            commits: 0,
        };
        let ends = segments.iter().map(FoundSegment::end);
        recovered.base = ends.chain([recovered.base]).max().unwrap_or_default();
        let mut clean = state.log.is_empty();
        for piece in &state.log {
            let replayed = replay::replay(piece, &self.dir, segments, |record, payload, found| {
                self.replay_commit(state, blobs, &mut recovered, record, payload, found)
            })?;
            self.check_edit(manifest, replayed.durable_edit)?;
            // What has ended was made durable before it was ended.
            recovered.durable = piece.end.unwrap_or(replayed.durable);
            recovered.suffix.retain(|(record, _)| record.lsn >= recovered.durable);
            recovered.base = recovered.base.max(replayed.end);
            recovered.segments.extend(replayed.segments);
            clean = replayed.clean;
            recovered.epoch = recovered.epoch.max(piece.epoch);
        }
        // The edit that named the newest piece may be the one that was lost: the records of that piece
        // name it.
        let last = state.log.iter().map(|piece| piece.epoch).max();
        for segment in segments.iter().filter(|s| Some(s.header.epoch) > last) {
            // Perhaps nothing needs it, and an opening that was interrupted left it: if it cannot be read,
            // nothing tells.
            self.check_edit(manifest, segment.edit_above(manifest.number())?.unwrap_or_default())?;
        }
        if state.clean && !clean {
            return Err(Error::corruption(
                self.dir.join("wal-*"),
                0,
                "a log that ends with the mark of a clean close, as the manifest says",
                "one that ends without",
            ));
        }
        if recovered.next_seq <= state.committed {
            crate::sync::sometimes("open: the log lacks a commit that an edit relies on");
            return Err(Error::corruption(
                self.dir.join("wal-*"),
                0,
                format!("a log that goes on to SeqNo {}, as the manifest says", state.committed),
                format!("one that ends before SeqNo {}", recovered.next_seq),
            ));
        }
        let epochs = segments.iter().map(|s| s.header.epoch);
        recovered.epoch = epochs.fold(recovered.epoch, u64::max) + 1;
        Ok(recovered)
    }

    /// Whether the manifest has the edit that a record of the log names as durable.
    fn check_edit(&self, manifest: &Manifest, named: EditNo) -> Result<()> {
        if named <= manifest.number() {
            return Ok(());
        }
        Err(Error::corruption(
            self.dir.join(format!("manifest-{:06}", manifest.generation())),
            0,
            format!("edit {named}, which the log names"),
            format!("edit {} as the last", manifest.number()),
        ))
    }

    fn replay_commit(
        &self,
        state: &State,
        blobs: &Blobs,
        recovered: &mut Recovered,
        record: &RecordHeader,
        payload: &[u8],
        place: &replay::Found<'_>,
    ) -> Result<()> {
        let corrupt = |expected: String, found: String| {
            Err(place.file.corruption(place.offset, expected, found))
        };
        let operations = u64::from(record.operations);
        let last_seq = SeqNo(record.first_seq.0.saturating_add(operations).saturating_sub(1));
        if last_seq <= state.flushed {
            crate::sync::sometimes("open: a commit is in a table already");
            return Ok(()); // in a table already
        }
        if record.first_seq != recovered.next_seq || last_seq > SeqNo::MAX || operations == 0 {
            let expected = format!("the commit of SeqNo {} in the log", recovered.next_seq);
            return corrupt(expected, format!("that of SeqNo {}", record.first_seq));
        }
        let raw = match record.flags & FLAG_COMPRESSED {
            0 => None,
            _ => Some(decompress_payload(payload)),
        };
        let Some(operation_bytes) = raw.as_ref().map_or(Some(payload), Option::as_deref) else {
            return corrupt("a compressed commit in the log".into(), "other bytes".into());
        };
        let ops: Option<Vec<Op<'_>>> = Ops::new(operation_bytes).collect();
        let Some(ops) = ops.filter(|ops| ops.len() as u64 == operations) else {
            return corrupt(format!("{operations} operations in the log"), "other bytes".into());
        };
        if let Some(op) = ops.iter().find(|op| op.keyspace() >= state.next_keyspace) {
            return corrupt("an operation on a known keyspace".into(), format!("{op:?}"));
        }
        let named = ops.iter().filter_map(|op| match op {
            Op::Blob { pointer, .. } => Some(*pointer),
            _ => None,
        });
        // It was durable before the record was written: whoever can read the one can read the other.
        let named = named.map(|pointer| blobs.open(pointer).and_then(|_| blobs.hold(pointer)));
        let named = named.collect::<Result<Vec<_>>>()?;
        recovered.memtables.insert(record, &ops, &named, operation_bytes)?;
        recovered.next_seq = SeqNo(last_seq.0 + 1);
        recovered.commits += 1;
        if record.durable > recovered.durable {
            recovered.durable = record.durable;
            crate::sync::sometimes("open: a later record says that earlier ones are durable");
            recovered.suffix.retain(|(earlier, _)| earlier.lsn >= record.durable);
        }
        if !state.clean {
            crate::sync::sometimes("open: a commit may have to be copied");
            recovered.suffix.push((*record, payload.to_vec()));
        }
        Ok(())
    }

    /// Segments that the log still needs, and those that nothing does.
    fn split_segments(
        &self,
        segments: Vec<FoundSegment>,
        manifest: &Manifest,
        recovered: &Recovered,
    ) -> Result<(Vec<Segment>, Vec<Segment>)> {
        let (mut live, mut idle) = (vec![], vec![]);
        // As the manifest says: what lies above the durable mark is needed until its copy is durable.
        let pieces = &manifest.state().log;
        for segment in segments {
            let needed = recovered.segments.contains(&segment.header.salt)
                && pieces.iter().any(|piece| piece.epoch == segment.header.epoch);
            match needed {
                true => live.push(segment.into_segment()?),
                false => idle.push(segment.into_segment()?),
            }
        }
        Ok((live, idle))
    }

    fn wal(
        &self,
        uuid: [u8; 16],
        file_ids: &Arc<AtomicU64>,
        recovered: &Recovered,
        (live, idle): (Vec<Segment>, Vec<Segment>),
        durable_edit: EditNo,
        tickets: &Arc<InOrder>,
    ) -> Wal {
        let max = self.config.wal_segment_size.next_multiple_of(BLOCK_BYTES);
        // A simulated log is shorter than the first segment usually is.
        let small = self.env.buggify("open: a small first segment");
        let first = if small { BLOCK_BYTES } else { FIRST_SEGMENT_BYTES };
        let plan = SegmentPlan {
            first: max.min(first),
            max,
            memtable_bytes: LOG_OF_MEMTABLE * first.max(self.config.memtable_size as u64),
            written: self.config.wal_sync_mode == WalSyncMode::Sync,
            held_bytes: self.config.wal_retention,
        };
        let start = LogStart {
            epoch: recovered.epoch,
            continues: recovered.durable,
            base: recovered.base,
            live,
            idle,
            durable_edit,
        };
        let (names, poison) = (Arc::clone(&self.names), Arc::clone(&self.poison));
        let (file_ids, tickets) = (Arc::clone(file_ids), Arc::clone(tickets));
        Wal::new(&self.env, names, uuid, poison, file_ids, tickets, plan, start)
    }

    /// Counts the commits from `seq` on. A thousand may be under way at once, which no simulation reaches.
    fn published(&self, seq: u64) -> Arc<InOrder> {
        let few = self.env.buggify("open: few commits at once");
        Arc::new(if few { InOrder::with_room(seq, 3) } else { InOrder::new(seq) })
    }

    fn sequencer(&self, recovered: &Recovered) -> Sequencer {
        Sequencer {
            next_seq: recovered.next_seq,
            tail: Tail::new(recovered.base),
            target: Arc::new(Target {
                segment: None,
                memtable: Arc::clone(&recovered.memtables.active),
            }),
            memtable_from: recovered.base,
            spare_bytes: 0,
            committed_bytes: 0,
            commits: 0,
            window: None,
        }
    }

    /// Begins a fresh segment with the commits above the durable mark, and makes it durable.
    fn begin_log(
        &self,
        wal: &Wal,
        sequencer: &mut Sequencer,
        recovered: &Recovered,
        published: &InOrder,
    ) -> Result<LogPiece> {
        let sizes = recovered.suffix.iter().map(|(_, payload)| record_bytes(payload.len()));
        let mark = record_bytes(0);
        let capacity = Tail::copy_capacity_for(sizes.sum::<usize>());
        let segment = wal.begin(capacity)?;
        let piece = LogPiece {
            salt: segment.header.salt,
            start: segment.first(),
            end: None,
            epoch: segment.header.epoch,
        };
        sequencer.switch(Arc::clone(&segment));
        let tail = &mut sequencer.tail;
        for (record, payload) in &recovered.suffix {
            let mut buf = vec![0; record_bytes(payload.len())];
            buf[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload.len()].copy_from_slice(payload);
            let slot = tail.reserve(buf.len()).ok_or_else(|| Error::InvalidArgument {
                what: "log segment",
                why: "it is smaller than what it was made for".into(),
            })?;
            let stamp = Stamp {
                kind: RecordKind::Commit,
                flags: record.flags,
                first_seq: record.first_seq,
                operations: record.operations,
                payload_len: record.payload_len,
                payload_crc: record.payload_crc,
            };
            wal.write(&segment, &slot, &mut buf, stamp)?;
            published.complete(slot.ticket, recovered.next_seq.0 - 1);
        }
        let padded = tail.pad();
        wal.sync_through(padded.durable, &|| padded)?;
        // Says that the copies are durable: the next opening need not copy them again. Itself durable before
        // anybody writes, because on a full disk there may be no other segment to copy them to.
        if !recovered.suffix.is_empty()
            && let Some(slot) = tail.reserve(mark)
        {
            let stamp = Stamp::mark(recovered.next_seq, 0);
            crate::sync::sometimes("open: copies are said to be durable");
            wal.write(&segment, &slot, &mut vec![0; mark], stamp)?;
            published.complete(slot.ticket, recovered.next_seq.0 - 1);
            let padded = tail.pad();
            wal.sync_through(padded.durable, &|| padded)?;
        }
        Ok(piece)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        self.env.disk().remove(&path).map_err(|e| Error::io("remove", &path, e))
    }

    /// Removes files that nothing names. The manifest that does not name them is durable.
    fn remove_orphans(&self, listing: &Listing, strays: &[String], manifest: &Manifest) {
        let live =
            |id: FileId| manifest.state().keyspaces.values().any(|k| k.tables.contains_key(&id));
        let tables = listing.tables.iter().filter(|n| sstable_id(n).is_some_and(|id| !live(id)));
        let current = manifest.generation();
        // The newest of the old ones became the spare when the manifest was rolled.
        let old = |name: &&String| generation_of(name).is_some_and(|g| g + 1 < current);
        let manifests = listing.manifests.iter().filter(old);
        let file = manifest.state().trees.file.map(|file| file.file_id);
        let trees = listing.trees.iter().filter(|name| tree_file_id(name) != file);
        for name in tables.chain(trees).chain(manifests).chain(strays) {
            crate::sync::sometimes("open: removes a file that nothing names");
            if let Err(error) = self.remove(name) {
                crate::sync::sometimes("open: cannot remove a file");
                tracing::warn!(%error, "cannot remove a file that nothing needs");
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts that make a database")]
    fn finish(
        self,
        manifest: Manifest,
        wal: Wal,
        sequencer: Sequencer,
        published: Arc<InOrder>,
        recovered: Recovered,
        Data { keyspaces, blocks, pager, blobs }: Data,
        file_ids: Arc<AtomicU64>,
        lock: Arc<dyn DirLock>,
    ) -> Result<Db> {
        let version = Version {
            active: Arc::clone(&recovered.memtables.active),
            sealed: recovered.memtables.sealed,
            keyspaces,
        };
        let published_moved = Signal::new(&self.env);
        self.poison.wakes(&published_moved);
        let background = Background::new(&self.env, &self.poison);
        blobs.notify_when_dead(background.collecting());
        let locks = Locks::new(&self.env, &self.poison);
        // So that an id of another database, or of an earlier opening, is not taken for one of this.
        let first_transaction = self.env.random("transaction.ids") >> 44 << 40 | 1;
        let metrics = Metrics::default();
        metrics.recovered_commits.add(recovered.commits);
        Ok(Db {
            uuid: manifest.uuid(),
            poison: self.poison,
            wal,
            sequencer: Mutex::new(sequencer),
            published,
            published_moved,
            versions: VersionCell::new(version),
            loads: Loads::of(manifest.state()),
            manifest: Mutex::new(manifest),
            file_ids,
            blocks,
            blobs,
            merges_tried: AtomicU64::new(0),
            transactions: Transactions::new(first_transaction),
            locks,
            trees: Mutex::new(pager),
            background,
            metrics,
            closing: AtomicBool::new(false),
            env: self.env,
            dir: self.dir,
            names: self.names,
            config: self.config,
            lock,
        })
    }
}

/// The log with its last piece ended at `end`, and without pieces that hold nothing.
fn ended_at(pieces: &[LogPiece], end: Lsn) -> Vec<LogPiece> {
    let ended = pieces.iter().map(|p| LogPiece { end: Some(p.end.unwrap_or(end)), ..*p });
    ended.filter(|p| p.end.is_some_and(|end| p.start < end)).collect()
}

impl Db {
    /// Lets a log go on that could not when the database was opened, because the disk was full.
    pub(super) fn begin_log(&self, capacity: u64) -> Result<()> {
        let mut manifest = self.manifest.lock();
        self.check_open()?;
        if self.sequencer.lock().tail.segment().is_some() {
            crate::sync::sometimes("open: another commit began the log first");
            return Ok(()); // another commit was faster
        }
        let Some(segment) = self.wal.take_ready(capacity) else {
            return Ok(());
        };
        let piece = LogPiece {
            salt: segment.header.salt,
            start: segment.first(),
            end: None,
            epoch: segment.header.epoch,
        };
        let mut log = ended_at(&manifest.state().log, self.wal.continues());
        log.push(piece);
        manifest.append(&[Change::Log(log), self.next_file()])?;
        self.wal.set_durable_edit(manifest.number());
        let mut sequencer = self.sequencer.lock();
        sequencer.switch(segment);
        sequencer.spare_bytes = self.wal.spare_bytes(0);
        Ok(())
    }
}
