//! What the tests of sstables share: files in memory, and files built from a map.

use super::*;
use crate::{
    config::Compression,
    env::{File, FileMap, NamedFile},
    error::Result,
    format::header::{FileHeader, FileKind},
    iter::{
        Entry,
        tombstones::{RangeTombstone, RangeTombstones},
    },
    sync::Mutex,
    types::{FileId, KeyspaceId, Kind, SeqNo},
};
use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

pub(super) const KEYSPACE: KeyspaceId = KeyspaceId(3);
pub(super) const UUID: [u8; 16] = *b"0123456789abcdef";
pub(super) const ALL: [Compression; 4] =
    [Compression::None, Compression::Zstd, Compression::Lz4, Compression::Snappy];

pub(super) type Model = BTreeMap<Vec<u8>, (SeqNo, Kind, Vec<u8>)>;

/// A file in memory, which does what a file does and no more.
#[derive(Default)]
pub(super) struct MemFile {
    pub(super) bytes: Mutex<Vec<u8>>,
    pub(super) reads: crate::sync::AtomicU64,
}

impl File for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.fetch_add(1, crate::sync::Ordering::Relaxed);
        let bytes = self.bytes.lock();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.bytes.lock();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(buf.len())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().resize(len as usize, 0);
        Ok(())
    }
    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn map(&self, _len: u64) -> io::Result<Option<Box<dyn FileMap>>> {
        Ok(None)
    }
}

pub(super) fn named(file: Arc<MemFile>) -> NamedFile {
    NamedFile { path: Arc::new(PathBuf::from("memory.sst")), file }
}

pub(super) fn header() -> FileHeader {
    FileHeader {
        kind: FileKind::Sstable,
        uuid: UUID,
        file_id: FileId(7),
        identity: 0x1122_3344_5566_7788,
    }
}

pub(super) fn options(compression: Compression) -> SstableOptions {
    SstableOptions { block_bytes: 1024, compression, ..Default::default() }
}

/// A file and what its builder said of it.
pub(super) struct Built {
    pub(super) file: Arc<MemFile>,
    pub(super) summary: SstableSummary,
}

pub(super) fn build(
    model: &Model,
    tombstones: &[RangeTombstone],
    header: FileHeader,
    options: SstableOptions,
) -> Built {
    let file = Arc::new(MemFile::default());
    let mut builder = SstableBuilder::new(named(file.clone()), header, KEYSPACE, options).unwrap();
    for (key, (seq, kind, value)) in model {
        builder.add(Entry { key, seq: *seq, kind: *kind, value }).unwrap();
    }
    builder.add_range_tombstones(&RangeTombstones::new(tombstones));
    let summary = builder.finish().unwrap();
    assert_eq!(summary.file_bytes, file.len().unwrap());
    Built { file, summary }
}

impl Built {
    pub(super) fn open_with(&self, shared: Arc<SharedBlocks>) -> Result<Arc<Sstable>> {
        let file = named(self.file.clone());
        Sstable::open(file, &self.summary, &UUID, KEYSPACE, shared).map(Arc::new)
    }

    pub(super) fn reads(&self) -> u64 {
        self.file.reads.load(crate::sync::Ordering::Relaxed)
    }

    pub(super) fn open(&self) -> Result<Arc<Sstable>> {
        self.open_with(Arc::new(SharedBlocks::new(1 << 20)))
    }
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    /// Short keys over few bytes, so that many begin alike, with both extremes among them.
    pub(super) fn key(&mut self) -> Vec<u8> {
        let len = self.below(7);
        (0..len).map(|_| [0x00, 0x01, b'a', b'b', 0xfe, 0xff][self.below(6)]).collect()
    }

    pub(super) fn model(&mut self, entries: usize, value_len_max: usize) -> Model {
        (0..entries)
            .map(|_| {
                let deletes = self.below(5) == 0;
                let len = if deletes { 0 } else { self.below(value_len_max + 1) };
                let value = (0..len).map(|_| self.next() as u8 % 4).collect();
                let kind = if deletes { Kind::Delete } else { Kind::Put };
                (self.key(), (SeqNo(self.next()), kind, value))
            })
            .collect()
    }
}
