//! Edits of the manifest and the state that they add up to. Format: `docs/formats/manifest.md`.

use super::{
    blob::{BlobPointer, POINTER_BYTES},
    bytes::{Decoder, put_bytes, put_varint},
    node::{NodePointer, Root},
    pages::{PageRun, PageSet, TreeFileMeta, decode_runs, put_runs},
    record::BLOCK_BYTES,
    sstable::{Contents, KeyBounds, SstableSummary},
};
use crate::{
    config::{Compression, StorageKind},
    types::{EditNo, FileId, KeyspaceId, Lsn, SeqNo},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

/// A stretch of the log between two recoveries. All but the last have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPiece {
    /// Salt of the segment that holds `start`.
    pub(crate) salt: u64,
    /// Records below are no longer needed.
    pub(crate) start: Lsn,
    /// What lies behind is void: a later piece holds what of it was valid.
    pub(crate) end: Option<Lsn>,
    pub(crate) epoch: u64,
}

/// What a keyspace was created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyspaceMeta {
    pub(crate) id: KeyspaceId,
    pub(crate) name: String,
    /// `None`: as the database's configuration says.
    pub(crate) compression: Option<Compression>,
    pub(crate) storage_kind: StorageKind,
    /// Wall time in microseconds since 1970.
    pub(crate) created_micros: u64,
}

/// One change of the state. An edit is a list of them and happens whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    AddKeyspace(KeyspaceMeta),
    DropKeyspace(KeyspaceId),
    StorageKind(KeyspaceId, StorageKind),
    AddTable(KeyspaceId, SstableSummary),
    DropTable(KeyspaceId, FileId),
    /// The whole log, replacing what was said before.
    Log(Vec<LogPiece>),
    /// Every operation up to here is in tables. Never falls.
    Flushed(SeqNo),
    /// File ids from here on were never used. Never falls.
    NextFile(FileId),
    /// Keyspace ids from here on were never used. Never falls.
    NextKeyspace(KeyspaceId),
    /// The database was closed.
    Clean(bool),
    /// The file of the trees. Said once.
    TreeFile(TreeFileMeta),
    /// The keyspace's tree is this one now.
    Tree(KeyspaceId, Option<Root>),
    Pages(PageChange),
    MergedDown(KeyspaceId, MergedDown),
    /// Commits up to here are durable: what of them is not in tables, the log must hold. Never falls. An
    /// edit says it that lets go of what such a commit deleted.
    Committed(SeqNo),
    TreeBlobs(KeyspaceId, BlobChange),
    /// The pages of the trees' file from here on, all of them free, count as never used: it becomes shorter.
    TreeEnd(u64),
    /// The keyspace was bulk-loaded, past the log. A copy of it that was made at a SeqNo up to this one may lack
    /// that; `SeqNo::MAX`: whichever was made before the next opening.
    Loaded(KeyspaceId, SeqNo),
    /// A copy that was made at a SeqNo up to this one may be of an earlier keyspace with this one's name.
    Created(KeyspaceId, SeqNo),
}

/// Which entries of a keyspace's tree point to blobs, and which do not any more.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct BlobChange {
    /// Keys.
    pub(crate) gone: Vec<Vec<u8>>,
    pub(crate) come: Vec<(Vec<u8>, BlobPointer)>,
}

/// How far a merge into the tree has come that is made in slices. It ends with the last of its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MergedDown {
    /// Of the tables only the keys from here on count; what they held below is in the tree.
    pub(crate) from: Vec<u8>,
    pub(crate) tables: BTreeSet<FileId>,
}

/// Which pages of the trees' file are used, and which not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageChange {
    /// Pages from here on were never used. Not below what it was.
    pub(crate) end: u64,
    /// Of the newest nodes. Never falls.
    pub(crate) generation: u64,
    pub(crate) taken: PageSet,
    pub(crate) freed: PageSet,
}

/// Tags from here on may be skipped by a version that does not know them.
const FIRST_OPTIONAL_TAG: u8 = 128;

/// No tree that fits a file is as high.
const LEVEL_MAX: u8 = 64;

impl Change {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut body = vec![];
        let tag = match self {
            Change::AddKeyspace(meta) => {
                body.extend_from_slice(&meta.id.0.to_le_bytes());
                put_bytes(&mut body, meta.name.as_bytes());
                body.push(meta.compression.map_or(u8::MAX, |c| u32::from(c) as u8));
                body.extend_from_slice(&meta.created_micros.to_le_bytes());
                put_bytes(&mut body, b""); // merge operator: none
                body.push(meta.storage_kind.number());
                1
            }
            Change::StorageKind(id, kind) => {
                body.extend_from_slice(&id.0.to_le_bytes());
                body.push(kind.number());
                15
            }
            Change::DropKeyspace(id) => {
                body.extend_from_slice(&id.0.to_le_bytes());
                2
            }
            Change::AddTable(keyspace, meta) => {
                body.extend_from_slice(&keyspace.0.to_le_bytes());
                encode_table(meta, &mut body);
                3
            }
            Change::DropTable(keyspace, file) => {
                body.extend_from_slice(&keyspace.0.to_le_bytes());
                body.extend_from_slice(&file.0.to_le_bytes());
                4
            }
            Change::Log(pieces) => {
                for piece in pieces {
                    let end = piece.end.map_or(u64::MAX, |end| end.0);
                    for word in [piece.salt, piece.start.0, end, piece.epoch] {
                        body.extend_from_slice(&word.to_le_bytes());
                    }
                }
                5
            }
            Change::Flushed(seq) => {
                body.extend_from_slice(&seq.0.to_le_bytes());
                6
            }
            Change::Committed(seq) => {
                body.extend_from_slice(&seq.0.to_le_bytes());
                14
            }
            Change::TreeEnd(end) => {
                body.extend_from_slice(&end.to_le_bytes());
                17
            }
            Change::Loaded(id, seq) => {
                body.extend_from_slice(&id.0.to_le_bytes());
                body.extend_from_slice(&seq.0.to_le_bytes());
                18
            }
            Change::Created(id, seq) => {
                body.extend_from_slice(&id.0.to_le_bytes());
                body.extend_from_slice(&seq.0.to_le_bytes());
                128
            }
            Change::NextFile(file) => {
                body.extend_from_slice(&file.0.to_le_bytes());
                7
            }
            Change::Clean(clean) => {
                body.push(u8::from(*clean));
                8
            }
            Change::NextKeyspace(id) => {
                body.extend_from_slice(&id.0.to_le_bytes());
                9
            }
            Change::TreeFile(meta) => {
                body.extend_from_slice(&meta.file_id.0.to_le_bytes());
                body.extend_from_slice(&meta.identity.to_le_bytes());
                body.extend_from_slice(&meta.page_bytes.to_le_bytes());
                10
            }
            Change::Tree(keyspace, root) => {
                body.extend_from_slice(&keyspace.0.to_le_bytes());
                if let Some(Root { pointer, level }) = root {
                    body.push(*level);
                    body.extend_from_slice(&pointer.encode());
                }
                11
            }
            Change::TreeBlobs(keyspace, BlobChange { gone, come }) => {
                body.extend_from_slice(&keyspace.0.to_le_bytes());
                put_varint(&mut body, gone.len() as u32);
                gone.iter().for_each(|key| put_bytes(&mut body, key));
                for (key, pointer) in come {
                    put_bytes(&mut body, key);
                    body.extend_from_slice(&pointer.encode());
                }
                16
            }
            Change::MergedDown(keyspace, MergedDown { from, tables }) => {
                body.extend_from_slice(&keyspace.0.to_le_bytes());
                put_bytes(&mut body, from);
                tables.iter().for_each(|file| body.extend_from_slice(&file.0.to_le_bytes()));
                13
            }
            Change::Pages(PageChange { end, generation, taken, freed }) => {
                body.extend_from_slice(&end.to_le_bytes());
                body.extend_from_slice(&generation.to_le_bytes());
                put_runs(&mut body, taken);
                put_runs(&mut body, freed);
                12
            }
        };
        out.push(tag);
        put_bytes(out, &body);
    }

    /// `None`: impossible bytes. `Some(None)`: an optional change that this version skips.
    fn decode(d: &mut Decoder<'_>) -> Option<Option<Change>> {
        let (tag, body) = (d.u8()?, d.bytes()?);
        let mut d = Decoder::new(body);
        let change = match tag {
            1 => {
                let id = KeyspaceId(d.u32()?);
                let name = String::from_utf8(d.bytes()?.to_vec()).ok()?;
                let compression = match d.u8()? {
                    u8::MAX => None,
                    number => Some(Compression::from_u32(u32::from(number))?),
                };
                let created_micros = d.u64()?;
                if !d.bytes()?.is_empty() {
                    return None; // a merge operator: no version that reads this has one
                }
                let storage_kind = StorageKind::from_number(d.u8()?)?;
                let meta = KeyspaceMeta { id, name, compression, storage_kind, created_micros };
                Change::AddKeyspace(meta)
            }
            15 => Change::StorageKind(KeyspaceId(d.u32()?), StorageKind::from_number(d.u8()?)?),
            2 => Change::DropKeyspace(KeyspaceId(d.u32()?)),
            3 => Change::AddTable(KeyspaceId(d.u32()?), decode_table(&mut d)?),
            4 => Change::DropTable(KeyspaceId(d.u32()?), FileId(d.u64()?)),
            5 => {
                let mut pieces = vec![];
                while !d.is_empty() {
                    let (salt, start, end, epoch) = (d.u64()?, d.u64()?, d.u64()?, d.u64()?);
                    let end = (end != u64::MAX).then_some(Lsn(end));
                    pieces.push(LogPiece { salt, start: Lsn(start), end, epoch });
                }
                Change::Log(pieces)
            }
            6 => Change::Flushed(SeqNo(d.u64()?)),
            7 => Change::NextFile(FileId(d.u64()?)),
            8 => Change::Clean(d.u8()? != 0),
            9 => Change::NextKeyspace(KeyspaceId(d.u32()?)),
            10 => {
                let (file_id, identity) = (FileId(d.u64()?), d.u64()?);
                let page_bytes = d.u32()?;
                let is_size =
                    page_bytes.is_power_of_two() && (4 << 10..=64 << 10).contains(&page_bytes);
                is_size.then_some(())?;
                Change::TreeFile(TreeFileMeta { file_id, identity, page_bytes })
            }
            11 => {
                let keyspace = KeyspaceId(d.u32()?);
                let root = match d.is_empty() {
                    true => None,
                    false => {
                        let (level, pointer) = (d.u8()?, NodePointer::decode(&d.array()?)?);
                        (level <= LEVEL_MAX).then_some(())?;
                        Some(Root { pointer, level })
                    }
                };
                Change::Tree(keyspace, root)
            }
            13 => {
                let (keyspace, from) = (KeyspaceId(d.u32()?), d.bytes()?.to_vec());
                let mut tables = BTreeSet::new();
                while !d.is_empty() {
                    tables.insert(FileId(d.u64()?)).then_some(())?;
                }
                Change::MergedDown(keyspace, MergedDown { from, tables })
            }
            12 => Change::Pages(PageChange {
                end: d.u64()?,
                generation: d.u64()?,
                taken: decode_runs(&mut d)?,
                freed: decode_runs(&mut d)?,
            }),
            14 => Change::Committed(SeqNo(d.u64()?)),
            17 => Change::TreeEnd(d.u64()?),
            18 => Change::Loaded(KeyspaceId(d.u32()?), SeqNo(d.u64()?)),
            128 => Change::Created(KeyspaceId(d.u32()?), SeqNo(d.u64()?)),
            16 => {
                let (keyspace, count) = (KeyspaceId(d.u32()?), d.varint()?);
                let mut change = BlobChange::default();
                for _ in 0..count {
                    change.gone.push(d.bytes()?.to_vec());
                }
                while !d.is_empty() {
                    let key = d.bytes()?.to_vec();
                    change.come.push((key, BlobPointer::decode(d.take(POINTER_BYTES)?)?));
                }
                Change::TreeBlobs(keyspace, change)
            }
            _ if tag >= FIRST_OPTIONAL_TAG => return Some(None),
            _ => return None,
        };
        d.is_empty().then_some(Some(change))
    }
}

fn encode_table(summary: &SstableSummary, out: &mut Vec<u8>) {
    let contents = &summary.contents;
    let words = [
        summary.file_id.0,
        summary.identity,
        summary.file_bytes,
        contents.entries,
        contents.deletes,
        contents.range_tombstones,
        contents.smallest_seq.0,
        contents.largest_seq.0,
    ];
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let Some(bounds) = &contents.bounds else {
        return out.push(0);
    };
    let (kind, largest): (u8, &[u8]) = match &bounds.largest {
        Bound::Included(key) => (1, key),
        Bound::Excluded(key) => (2, key),
        Bound::Unbounded => (3, b""),
    };
    out.push(kind);
    put_bytes(out, &bounds.smallest);
    put_bytes(out, largest);
}

fn decode_table(d: &mut Decoder<'_>) -> Option<SstableSummary> {
    let (file_id, identity, file_bytes) = (FileId(d.u64()?), d.u64()?, d.u64()?);
    let mut contents = Contents {
        entries: d.u64()?,
        deletes: d.u64()?,
        range_tombstones: d.u64()?,
        smallest_seq: SeqNo(d.u64()?),
        largest_seq: SeqNo(d.u64()?),
        bounds: None,
    };
    let kind = d.u8()?;
    if kind != 0 {
        let (smallest, largest) = (d.bytes()?.to_vec(), d.bytes()?.to_vec());
        let largest = match kind {
            1 => Bound::Included(largest),
            2 => Bound::Excluded(largest),
            3 if largest.is_empty() => Bound::Unbounded,
            _ => return None,
        };
        contents.bounds = Some(KeyBounds { smallest, largest });
    }
    Some(SstableSummary { file_id, identity, file_bytes, contents })
}

/// What all edits add up to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) keyspaces: BTreeMap<KeyspaceId, KeyspaceState>,
    /// Ids from here on were never used.
    pub(crate) next_keyspace: KeyspaceId,
    pub(crate) next_file: FileId,
    pub(crate) flushed: SeqNo,
    /// What recovery must find at least.
    pub(crate) committed: SeqNo,
    pub(crate) log: Vec<LogPiece>,
    pub(crate) clean: bool,
    pub(crate) trees: TreesState,
}

/// What is known of the trees' file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct TreesState {
    pub(crate) file: Option<TreeFileMeta>,
    /// Pages from here on were never used.
    pub(crate) end: u64,
    pub(crate) generation: u64,
    pub(crate) free: PageSet,
}

impl TreesState {
    fn apply(&mut self, change: &PageChange) -> Result<(), String> {
        let PageChange { end, generation, taken, freed } = change;
        if self.file.is_none() {
            return Err("pages of no file".into());
        }
        if *end < self.end || *generation < self.generation {
            return Err(format!("the end of all pages falls from {} to {end}", self.end));
        }
        // The first page holds the file's header.
        let first = self.end.max(1);
        let new = PageRun { first, pages: end.saturating_sub(first) };
        let fits = self.free.insert(new)
            && taken.runs().all(|run| self.free.remove(run))
            && freed.runs().all(|run| run.first > 0 && run.end() <= *end && self.free.insert(run));
        (self.end, self.generation) = (*end, *generation);
        fits.then_some(()).ok_or_else(|| format!("taken {taken:?}, freed {freed:?}"))
    }

    fn cut(&mut self, end: u64) -> Result<(), String> {
        let pages = self.end.checked_sub(end).filter(|_| end > 0);
        let gone = pages.map(|pages| PageRun { first: end, pages });
        match gone.is_some_and(|gone| self.free.remove(gone)) {
            true => {
                self.end = end;
                Ok(())
            }
            false => Err(format!("an end at page {end} of {}, before used ones", self.end)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyspaceState {
    pub(crate) meta: KeyspaceMeta,
    pub(crate) tables: BTreeMap<FileId, SstableSummary>,
    pub(crate) root: Option<Root>,
    pub(crate) merged_down: Option<MergedDown>,
    /// Those that entries of the tree point to, by the entries' keys. Shared: states are copied.
    pub(crate) blobs: Arc<BTreeMap<Vec<u8>, BlobPointer>>,
    /// See [`Change::Loaded`].
    pub(crate) loaded: Option<SeqNo>,
    /// See [`Change::Created`].
    pub(crate) created: Option<SeqNo>,
}

/// More bytes of keys and pointers of blobs than this are refused: a whole state must fit an edit.
const BLOB_LIST_BYTES_MAX: usize = 1 << 30;

impl KeyspaceState {
    fn change_blobs(&mut self, BlobChange { gone, come }: &BlobChange) -> Result<(), String> {
        let blobs = Arc::make_mut(&mut self.blobs);
        for key in gone {
            let known = blobs.remove(key);
            known.ok_or_else(|| format!("no blob of key {key:02x?} to let go"))?;
        }
        if !come.is_empty() && self.root.is_none() {
            return Err("blobs of a keyspace without a tree".into());
        }
        for (key, pointer) in come {
            if blobs.insert(key.clone(), *pointer).is_some() {
                return Err(format!("a second blob of key {key:02x?}"));
            }
        }
        Ok(())
    }

    fn blob_list_bytes(&self) -> usize {
        self.blobs.keys().map(|key| key.len() + POINTER_BYTES + 5).sum()
    }
}

impl State {
    /// Applies one change; says what is wrong with one that cannot follow from this state.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::AddKeyspace(meta) => {
                if self.keyspaces.values().any(|k| k.meta.name == meta.name) {
                    return Err(format!("keyspace {:?} added twice", meta.name));
                }
                let (tables, root, merged_down) = (BTreeMap::new(), None, None);
                let (meta, blobs) = (meta.clone(), Arc::default());
                let (loaded, created) = (None, None);
                let state =
                    KeyspaceState { meta, tables, root, merged_down, blobs, loaded, created };
                let id = state.meta.id;
                if self.keyspaces.insert(id, state).is_some() {
                    return Err(format!("keyspace {id} added twice"));
                }
                let next = id.0.checked_add(1).ok_or("keyspace id too large")?;
                self.next_keyspace = self.next_keyspace.max(KeyspaceId(next));
            }
            Change::DropKeyspace(id) => {
                self.keyspaces
                    .remove(id)
                    .ok_or_else(|| format!("unknown keyspace {id} dropped"))?;
            }
            Change::StorageKind(id, kind) => self.keyspace(*id)?.meta.storage_kind = *kind,
            Change::AddTable(keyspace, meta) => {
                let tables = &mut self.keyspace(*keyspace)?.tables;
                if tables.insert(meta.file_id, meta.clone()).is_some() {
                    return Err(format!("table {} added twice", meta.file_id));
                }
            }
            Change::DropTable(keyspace, file) => {
                let state = self.keyspace(*keyspace)?;
                state.tables.remove(file).ok_or_else(|| format!("unknown table {file} dropped"))?;
                if let Some(merge) = &mut state.merged_down {
                    merge.tables.remove(file);
                }
                state.merged_down.take_if(|merge| merge.tables.is_empty());
            }
            Change::Log(pieces) => self.log.clone_from(pieces),
            Change::Flushed(seq) if *seq < self.flushed => {
                return Err(format!("flushed SeqNo falls from {} to {seq}", self.flushed));
            }
            Change::Flushed(seq) => {
                self.flushed = *seq;
                self.committed = self.committed.max(*seq);
            }
            Change::Committed(seq) => self.committed = self.committed.max(*seq),
            Change::TreeEnd(end) => self.trees.cut(*end)?,
            Change::Loaded(keyspace, seq) => self.keyspace(*keyspace)?.loaded = Some(*seq),
            Change::Created(keyspace, seq) => self.keyspace(*keyspace)?.created = Some(*seq),
            Change::NextFile(file) => self.next_file = self.next_file.max(*file),
            Change::NextKeyspace(id) => self.next_keyspace = self.next_keyspace.max(*id),
            Change::Clean(clean) => self.clean = *clean,
            Change::TreeFile(meta) => {
                if self.trees.file.replace(*meta).is_some() {
                    return Err("a second file of trees".into());
                }
            }
            Change::Tree(_, Some(_)) if self.trees.file.is_none() => {
                return Err("a tree in no file".into());
            }
            Change::Tree(keyspace, root) => self.keyspace(*keyspace)?.root = *root,
            Change::Pages(change) => self.trees.apply(change)?,
            Change::TreeBlobs(keyspace, change) => {
                self.keyspace(*keyspace)?.change_blobs(change)?;
                let all =
                    self.keyspaces.values().map(KeyspaceState::blob_list_bytes).sum::<usize>();
                if all > BLOB_LIST_BYTES_MAX {
                    return Err(format!("{all} bytes of keys with large values"));
                }
            }
            Change::MergedDown(keyspace, merge) => {
                let state = self.keyspace(*keyspace)?;
                let tables = merge.tables.iter().all(|file| state.tables.contains_key(file));
                let goes_on = state
                    .merged_down
                    .as_ref()
                    .is_none_or(|old| old.tables == merge.tables && old.from < merge.from);
                if !tables || !goes_on || merge.tables.is_empty() {
                    return Err(format!("{merge:?} cannot follow {:?}", state.merged_down));
                }
                state.merged_down = Some(merge.clone());
            }
        }
        Ok(())
    }

    fn keyspace(&mut self, id: KeyspaceId) -> Result<&mut KeyspaceState, String> {
        self.keyspaces.get_mut(&id).ok_or_else(|| format!("unknown keyspace {id}"))
    }

    /// The changes that make this state out of nothing.
    pub(crate) fn snapshot(&self) -> Vec<Change> {
        let mut changes: Vec<_> = self.trees.file.map(Change::TreeFile).into_iter().collect();
        for (id, keyspace) in &self.keyspaces {
            changes.push(Change::AddKeyspace(keyspace.meta.clone()));
            changes.extend(keyspace.tables.values().map(|t| Change::AddTable(*id, t.clone())));
            if keyspace.root.is_some() {
                changes.push(Change::Tree(*id, keyspace.root));
            }
            if !keyspace.blobs.is_empty() {
                let come = keyspace.blobs.iter().map(|(key, blob)| (key.clone(), *blob)).collect();
                changes.push(Change::TreeBlobs(*id, BlobChange { gone: vec![], come }));
            }
            changes.extend(keyspace.loaded.map(|seq| Change::Loaded(*id, seq)));
            changes.extend(keyspace.created.map(|seq| Change::Created(*id, seq)));
            if let Some(merge) = &keyspace.merged_down {
                changes.push(Change::MergedDown(*id, merge.clone()));
            }
        }
        if self.trees.file.is_some() {
            let TreesState { end, generation, free, .. } = &self.trees;
            // Those that are not free are taken: new pages count as free at first.
            let mut taken = PageSet::default();
            let mut at = 1;
            for run in free.runs() {
                taken.insert(PageRun { first: at, pages: run.first - at });
                at = run.end();
            }
            taken.insert(PageRun { first: at, pages: end.saturating_sub(at) });
            let (end, generation) = (*end, *generation);
            changes.push(Change::Pages(PageChange {
                end,
                generation,
                taken,
                freed: PageSet::default(),
            }));
        }
        changes.extend([
            Change::Log(self.log.clone()),
            Change::Flushed(self.flushed),
            Change::Committed(self.committed),
            Change::NextFile(self.next_file),
            Change::NextKeyspace(self.next_keyspace),
            Change::Clean(self.clean),
        ]);
        changes
    }
}

const EDIT_MAGIC: u32 = 0x6542_444c; // "LDBe"
pub(crate) const EDIT_HEADER_BYTES: usize = 20;

/// Encodes one edit, padded to whole blocks: a block that holds a durable edit is never
/// written again.
///
/// `None`: they are longer than an edit can be.
pub(crate) fn encode_edit(number: EditNo, changes: &[Change], identity: u64) -> Option<Vec<u8>> {
    let mut out = vec![0; EDIT_HEADER_BYTES];
    for change in changes {
        change.encode(&mut out);
    }
    let len = u32::try_from(out.len() - EDIT_HEADER_BYTES).ok()?;
    out[..4].copy_from_slice(&EDIT_MAGIC.to_le_bytes());
    out[8..16].copy_from_slice(&number.0.to_le_bytes());
    out[16..20].copy_from_slice(&len.to_le_bytes());
    let crc = edit_checksum(identity, &out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out.resize(out.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    Some(out)
}

fn edit_checksum(identity: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial((identity ^ (identity >> 32)) as u32);
    hasher.update(bytes);
    hasher.finalize()
}

/// An edit that was found whole. Its changes may still be ones that this version cannot read.
pub(crate) struct FoundEdit<'a> {
    pub(crate) number: EditNo,
    /// With padding.
    pub(crate) bytes: usize,
    body: &'a [u8],
}

impl<'a> FoundEdit<'a> {
    /// The edit at the beginning of `bytes`, if it is one of a manifest with this identity.
    pub(crate) fn decode(bytes: &'a [u8], identity: u64) -> Option<FoundEdit<'a>> {
        let mut d = Decoder::new(bytes);
        let (magic, crc, number, len) = (d.u32()?, d.u32()?, EditNo(d.u64()?), d.u32()?);
        let body = d.take(len as usize)?;
        let whole = magic == EDIT_MAGIC && crc == edit_checksum(identity, &bytes[8..d.at()]);
        let bytes = d.at().next_multiple_of(BLOCK_BYTES as usize);
        whole.then_some(FoundEdit { number, bytes, body })
    }

    /// `None`: the checksum is right but a change is not one this version knows.
    pub(crate) fn changes(&self) -> Option<Vec<Change>> {
        let mut d = Decoder::new(self.body);
        let mut changes = vec![];
        while !d.is_empty() {
            changes.extend(Change::decode(&mut d)?);
        }
        Some(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Vec<Change> {
        let meta = |id, name: &str| KeyspaceMeta {
            id: KeyspaceId(id),
            name: name.into(),
            compression: Some(Compression::Lz4),
            storage_kind: StorageKind::Hybrid,
            created_micros: 5,
        };
        let table = |file, largest| SstableSummary {
            file_id: FileId(file),
            identity: 77,
            file_bytes: 4096,
            contents: Contents {
                entries: 3,
                deletes: 1,
                range_tombstones: 2,
                bounds: Some(KeyBounds { smallest: b"a".to_vec(), largest }),
                smallest_seq: SeqNo(1),
                largest_seq: SeqNo(9),
            },
        };
        let pointer = NodePointer { page: 15, pages: 1, generation: 2 };
        let root = Root { pointer, level: 1 };
        let piece = LogPiece { salt: 1, start: Lsn(4096), end: None, epoch: 2 };
        vec![
            Change::AddKeyspace(meta(0, "default")),
            Change::AddKeyspace(meta(5, "other")),
            Change::AddTable(KeyspaceId(5), table(1, Bound::Unbounded)),
            Change::AddTable(KeyspaceId(5), table(2, Bound::Included(b"z".to_vec()))),
            Change::AddTable(KeyspaceId(0), table(3, Bound::Excluded(b"z".to_vec()))),
            Change::DropTable(KeyspaceId(5), FileId(1)),
            Change::TreeFile(TreeFileMeta { file_id: FileId(8), identity: 5, page_bytes: 4096 }),
            Change::Tree(KeyspaceId(0), Some(root)),
            Change::Pages(pages(9, 1, &[(1, 8)], &[])),
            Change::Pages(pages(20, 2, &[(9, 2), (15, 1)], &[(2, 3)])),
            Change::Tree(KeyspaceId(5), None),
            blobs(&[], &["a", "b"]),
            blobs(&["a"], &["c"]),
            Change::Loaded(KeyspaceId(0), SeqNo(7)),
            Change::Created(KeyspaceId(0), SeqNo(6)),
            Change::Log(vec![LogPiece { end: Some(Lsn(8)), ..piece }, piece]),
            Change::Flushed(SeqNo(9)),
            Change::Committed(SeqNo(12)),
            Change::NextFile(FileId(10)),
            Change::DropKeyspace(KeyspaceId(5)),
            Change::StorageKind(KeyspaceId(0), StorageKind::BTree),
            Change::Clean(true),
        ]
    }

    fn blobs(gone: &[&str], come: &[&str]) -> Change {
        let pointer = BlobPointer { file_id: FileId(11), identity: 12, len: 13 };
        let gone = gone.iter().map(|key| key.as_bytes().to_vec()).collect();
        let come = come.iter().map(|key| (key.as_bytes().to_vec(), pointer)).collect();
        Change::TreeBlobs(KeyspaceId(0), BlobChange { gone, come })
    }

    fn pages(end: u64, generation: u64, taken: &[(u64, u64)], freed: &[(u64, u64)]) -> PageChange {
        let set = |runs: &[(u64, u64)]| {
            runs.iter().map(|(first, pages)| PageRun { first: *first, pages: *pages }).collect()
        };
        PageChange { end, generation, taken: set(taken), freed: set(freed) }
    }

    fn state_of(changes: &[Change]) -> State {
        let mut state = State::default();
        changes.iter().for_each(|c| state.apply(c).unwrap());
        state
    }

    #[test]
    fn edits_round_trip_and_every_flipped_bit_is_noticed() {
        let bytes = encode_edit(EditNo(4), &changes(), 11).unwrap();
        assert_eq!(bytes.len() % 4096, 0);
        let found = FoundEdit::decode(&bytes, 11).unwrap();
        assert_eq!((found.number, found.bytes), (EditNo(4), bytes.len()));
        assert_eq!(found.changes().unwrap(), changes());
        assert!(FoundEdit::decode(&bytes, 12).is_none());
        let used = EDIT_HEADER_BYTES + found.body.len();
        for bit in 0..used * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FoundEdit::decode(&bad, 11).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_snapshot_makes_the_same_state_and_never_reuses_ids() {
        let state = state_of(&changes());
        assert_eq!(state.next_keyspace, KeyspaceId(6));
        assert_eq!(state_of(&state.snapshot()), state);
    }

    #[test]
    fn changes_that_cannot_follow_are_refused() {
        let good = state_of(&changes());
        for bad in [
            Change::DropKeyspace(KeyspaceId(5)),
            Change::DropTable(KeyspaceId(0), FileId(9)),
            Change::StorageKind(KeyspaceId(5), StorageKind::BTree),
            Change::Flushed(SeqNo(8)),
            // A blob that is not there, one that is.
            blobs(&["a"], &[]),
            blobs(&[], &["b"]),
            changes()[0].clone(),
            Change::TreeFile(TreeFileMeta { file_id: FileId(9), identity: 5, page_bytes: 4096 }),
            // A page that is not free is taken, one that is free is freed, the end falls.
            Change::Pages(pages(20, 3, &[(1, 1)], &[])),
            Change::Pages(pages(20, 3, &[], &[(2, 1)])),
            Change::Pages(pages(19, 3, &[], &[])),
            Change::Pages(pages(20, 3, &[], &[(20, 1)])),
            Change::Pages(pages(20, 1, &[], &[])),
        ] {
            assert!(good.clone().apply(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn optional_changes_are_skipped_and_required_ones_refused() {
        for (tag, expected) in [(200, Some(vec![])), (50, None)] {
            let mut body = vec![tag];
            put_bytes(&mut body, b"future");
            let found = FoundEdit { number: EditNo(1), bytes: 0, body: &body };
            assert_eq!(found.changes(), expected);
        }
    }
}
