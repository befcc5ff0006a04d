//! Writes one sstable from front to back.

use super::{SharedBlocks, filter::Filter};
use crate::{
    codec::Compressor,
    config::{Compression, INLINE_BYTES_MAX},
    env::NamedFile,
    error::{Error, Result},
    format::{
        blob::BlobPointer,
        block::BlockBuilder,
        header::{FileHeader, FileKind, HEADER_BYTES},
        sstable::{
            BLOCK_BYTES_MAX, Contents, FOOTER_BYTES, Footer, Handle, KEY_BYTES_MAX, KeyBounds,
            Properties, SstableSummary, TRAILER_BYTES, put_fragment, put_index_entry, separator,
            trailer,
        },
    },
    iter::{
        Entry,
        tombstones::{RangeTombstone, RangeTombstones},
    },
    types::{KeyspaceId, Kind, SeqNo},
};
use std::{ops::Bound, sync::Arc};

/// Bytes collected before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// How an sstable is built.
#[derive(Clone, Debug)]
pub(crate) struct SstableOptions {
    /// Bytes of a block before compression, unless one entry alone has more.
    pub(crate) block_bytes: usize,
    pub(crate) compression: Compression,
    /// Of Zstd.
    pub(crate) compression_level: i32,
    /// 0: no filter.
    pub(crate) filter_bits_per_key: u32,
}

impl Default for SstableOptions {
    fn default() -> Self {
        SstableOptions {
            block_bytes: 4096,
            compression: Compression::Zstd,
            compression_level: 3,
            filter_bits_per_key: 10,
        }
    }
}

/// Takes entries in key order, one per key. Nothing is durable, and the file is of no use,
/// before [`SstableBuilder::finish`].
pub(crate) struct SstableBuilder {
    out: Output,
    /// Where blocks are left for readers, if there is room.
    shared: Option<Arc<SharedBlocks>>,
    keyspace: KeyspaceId,
    options: SstableOptions,
    block: BlockBuilder,
    compressor: Compressor,
    hashes: Vec<u64>,
    last_key: Vec<u8>,
    tombstones: Vec<RangeTombstone>,
    /// Of what was added so far, but for bounds and tombstones.
    contents: Contents,
    first_key: Vec<u8>,
    raw_key_bytes: u64,
    raw_value_bytes: u64,
    index: IndexBuilder,
    /// Those that entries point to.
    blobs: Vec<BlobPointer>,
}

#[derive(Default)]
struct IndexBuilder {
    contents: Vec<u8>,
    last_separator: Vec<u8>,
    scratch: Vec<u8>,
    /// Length of the last written block, which has no separator before the next key is known.
    pending: Option<u32>,
}

impl SstableBuilder {
    /// Writes `file` from offset 0. What it held before is overwritten; a longer file is refused
    /// when it is opened.
    pub(crate) fn new(
        file: NamedFile,
        header: FileHeader,
        keyspace: KeyspaceId,
        options: SstableOptions,
    ) -> Result<SstableBuilder> {
        let invalid = |why: String| Error::InvalidArgument { what: "sstable options", why };
        if header.kind != FileKind::Sstable {
            return Err(invalid(format!("the header of a {:?} file", header.kind)));
        }
        if !(1..=1 << 20).contains(&options.block_bytes) || options.filter_bits_per_key > 64 {
            return Err(invalid(format!("{options:?}")));
        }
        let compressor = Compressor::new(options.compression, options.compression_level)
            .ok_or_else(|| invalid(format!("level {}", options.compression_level)))?;
        Ok(SstableBuilder {
            out: Output::new(file, header),
            shared: None,
            keyspace,
            options,
            block: BlockBuilder::default(),
            compressor,
            hashes: vec![],
            last_key: vec![],
            tombstones: vec![],
            contents: Contents::default(),
            first_key: vec![],
            raw_key_bytes: 0,
            raw_value_bytes: 0,
            index: IndexBuilder::default(),
            blobs: vec![],
        })
    }

    /// Leaves the blocks in the cache, where nothing has to go for them: what was just written is likely to be read.
    pub(crate) fn caching(self, shared: &Arc<SharedBlocks>) -> SstableBuilder {
        SstableBuilder { shared: Some(Arc::clone(shared)), ..self }
    }

    /// Appends a put or a delete. Keys must ascend strictly.
    pub(crate) fn add(&mut self, entry: Entry<'_>) -> Result<()> {
        self.check(&entry)?;
        if entry.kind == Kind::Blob {
            let pointer = BlobPointer::decode(entry.value);
            self.blobs.push(pointer.ok_or_else(|| Error::InvalidArgument {
                what: "sstable entry",
                why: "a pointer to a blob of another length".into(),
            })?);
        }
        let entry_len = BlockBuilder::entry_len_max(entry.key, entry.value);
        if !self.block.is_empty() && self.block.len() + entry_len > self.options.block_bytes {
            self.finish_block()?;
        }
        self.index.separate(&self.last_key, entry.key);
        let hash = self.keyspace.hash(entry.key);
        self.block.add(hash, entry.key, entry.seq, entry.kind, entry.value);
        self.hashes.push(hash);
        self.count(&entry);
        self.last_key.clear();
        self.last_key.extend_from_slice(entry.key);
        Ok(())
    }

    fn check(&self, entry: &Entry<'_>) -> Result<()> {
        if entry.key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyTooLarge);
        }
        if entry.value.len() as u64 > INLINE_BYTES_MAX {
            return Err(Error::ValueTooLarge {
                len: entry.value.len() as u64,
                max: INLINE_BYTES_MAX,
            });
        }
        let invalid =
            |why: &str| Err(Error::InvalidArgument { what: "sstable entry", why: why.into() });
        if entry.kind == Kind::RangeDelete || entry.seq > SeqNo::MAX {
            return invalid("neither put nor delete, or a SeqNo of more than 56 bits");
        }
        if self.contents.entries > 0 && entry.key <= self.last_key.as_slice() {
            return invalid("its key is not greater than the last");
        }
        Ok(())
    }

    fn count(&mut self, entry: &Entry<'_>) {
        if self.contents.entries == 0 {
            self.first_key.extend_from_slice(entry.key);
        }
        self.contents.entries += 1;
        self.contents.deletes += u64::from(entry.kind == Kind::Delete);
        self.raw_key_bytes += entry.key.len() as u64;
        self.raw_value_bytes += entry.value.len() as u64;
        self.widen_seqs(entry.seq);
    }

    fn widen_seqs(&mut self, seq: SeqNo) {
        let contents = &mut self.contents;
        contents.smallest_seq = match contents.entries + contents.range_tombstones {
            1 => seq,
            _ => contents.smallest_seq.min(seq),
        };
        contents.largest_seq = contents.largest_seq.max(seq);
    }

    /// Adds range deletes, of which the newest over each key counts.
    pub(crate) fn add_range_tombstones(&mut self, tombstones: &RangeTombstones) {
        self.tombstones.extend(tombstones.newest());
    }

    /// Writes what is left and makes the file durable; its directory entry is the caller's to
    /// sync. After an error nothing is known of the file.
    pub(crate) fn finish(mut self) -> Result<SstableSummary> {
        if !self.block.is_empty() {
            self.finish_block()?;
        }
        self.index.separate(&self.last_key, &[]);
        let tombstones = self.encode_tombstones();
        self.contents.bounds = self.bounds();
        let range_tombstones = self.out.put_raw_block(&tombstones)?;
        let filter = Filter::build(&self.hashes, self.options.filter_bits_per_key);
        let filter = self.out.put_raw_block(&filter.encode())?;
        let index = self.out.put_raw_block(&self.index.contents)?;
        let properties = Properties {
            keyspace: self.keyspace,
            contents: self.contents.clone(),
            raw_key_bytes: self.raw_key_bytes,
            raw_value_bytes: self.raw_value_bytes,
            compression: self.options.compression,
            blobs: self.blobs,
        };
        let properties = self.out.put_raw_block(&properties.encode())?;
        let header = self.out.header;
        let file_bytes = self.out.at + FOOTER_BYTES as u64;
        let footer = Footer {
            range_tombstones,
            filter,
            index,
            properties,
            file_id: header.file_id,
            identity: header.identity,
            file_bytes,
        };
        self.out.put(&footer.encode())?;
        self.out.flush()?;
        self.out.file.sync_all()?;
        Ok(SstableSummary {
            file_id: header.file_id,
            identity: header.identity,
            file_bytes,
            contents: self.contents,
        })
    }

    fn finish_block(&mut self) -> Result<()> {
        let contents = self.block.finish();
        debug_assert!(contents.len() <= BLOCK_BYTES_MAX);
        let (compression, stored) = self.compressor.compress(contents);
        let handle = self.out.put_block(stored, compression, contents.len() as u32)?;
        if let Some(shared) = &self.shared {
            let file_id = self.out.header.file_id;
            let block = || Arc::from(contents);
            shared.cache.insert_if_room(file_id, handle.offset, block, contents.len());
        }
        self.block.clear();
        self.index.pending = Some(handle.len as u32);
        Ok(())
    }

    /// Encodes the fragments of all range tombstones and counts them.
    fn encode_tombstones(&mut self) -> Vec<u8> {
        // Fragments of several lists may overlap: cut them together.
        let fragments = RangeTombstones::new(&std::mem::take(&mut self.tombstones));
        let mut out = vec![];
        for t in fragments.newest() {
            put_fragment(&mut out, (&t.start, t.end.as_deref(), t.seq));
            self.contents.range_tombstones += 1;
            self.widen_seqs(t.seq);
            self.tombstones.push(t);
        }
        out
    }

    fn bounds(&mut self) -> Option<KeyBounds> {
        let of_entries = (self.contents.entries > 0).then(|| KeyBounds {
            smallest: std::mem::take(&mut self.first_key),
            largest: Bound::Included(std::mem::take(&mut self.last_key)),
        });
        let of_tombstones = match self.tombstones.as_slice() {
            [] => None,
            [first, ..] => Some(KeyBounds {
                smallest: first.start.clone(),
                largest: match self.tombstones.pop().and_then(|last| last.end) {
                    Some(end) => Bound::Excluded(end),
                    None => Bound::Unbounded,
                },
            }),
        };
        match (of_entries, of_tombstones) {
            (Some(a), Some(b)) => Some(a.union(b)),
            (a, b) => a.or(b),
        }
    }
}

impl IndexBuilder {
    /// Appends the entry of the block that ends with `last_key`, if one waits for it. `next_key`
    /// is the first of the next block; empty if there is none.
    fn separate(&mut self, last_key: &[u8], next_key: &[u8]) {
        let Some(block_len) = self.pending.take() else {
            return;
        };
        let separator = match next_key {
            [] => last_key,
            _ => separator(last_key, next_key, &mut self.scratch),
        };
        put_index_entry(&mut self.contents, &self.last_separator, separator, block_len);
        self.last_separator.clear();
        self.last_separator.extend_from_slice(separator);
    }
}

/// Collects bytes and writes them in large pieces.
struct Output {
    file: NamedFile,
    header: FileHeader,
    buffer: Vec<u8>,
    /// Length of the file once the buffer is written.
    at: u64,
}

impl Output {
    fn new(file: NamedFile, header: FileHeader) -> Output {
        let mut buffer = Vec::with_capacity(WRITE_BYTES + (64 << 10));
        buffer.extend_from_slice(&header.encode());
        Output { file, header, buffer, at: HEADER_BYTES as u64 }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.at += bytes.len() as u64;
        match self.buffer.len() >= WRITE_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        let start = self.at - self.buffer.len() as u64;
        self.file.write_all_at(&self.buffer, start)?;
        self.file.file.begin_writeback(start, self.buffer.len() as u64);
        self.buffer.clear();
        Ok(())
    }

    fn put_block(&mut self, stored: &[u8], compression: Compression, len: u32) -> Result<Handle> {
        let offset = self.at;
        let trailer = trailer(stored, compression, len, self.header.identity, offset);
        self.put(stored)?;
        self.put(&trailer)?;
        let len = (stored.len() + TRAILER_BYTES) as u64;
        Ok(Handle { offset, len })
    }

    /// A block that is not one of entries: as it is.
    fn put_raw_block(&mut self, contents: &[u8]) -> Result<Handle> {
        let len = u32::try_from(contents.len()).map_err(|_| Error::InvalidArgument {
            what: "sstable",
            why: "its index, filter or range tombstones have more than 4 GiB".into(),
        })?;
        self.put_block(contents, Compression::None, len)
    }
}
