//! An open sstable: what of it stays in memory, and how a block of it is read.

use super::{SharedBlocks, cursor::SstableCursor, filter::Filter, index::Index};
use crate::{
    blob::{Blob, Blobs},
    cache::Hint,
    env::NamedFile,
    error::{Error, Result},
    format::{
        blob::BlobPointer,
        block::{Block, Refused},
        header::{FileHeader, FileKind, HEADER_BYTES, HeaderError},
        sstable::{
            FOOTER_BYTES, Footer, Handle, Properties, SstableSummary, TRAILER_BYTES, Verified,
            decode_fragments, verify_block,
        },
    },
    iter::tombstones::{RangeTombstone, RangeTombstones},
    types::{FileId, KeyspaceId, Kind, SeqNo},
};
use std::{ops::Range, sync::Arc};

/// A file of sorted entries, open for reading. All methods may be called from many threads.
pub(crate) struct Sstable {
    file: NamedFile,
    summary: SstableSummary,
    properties: Properties,
    index: Index,
    /// One for each block.
    hints: Vec<Hint>,
    filter: Filter,
    range_tombstones: Arc<RangeTombstones>,
    shared: Arc<SharedBlocks>,
    /// Those that entries point to, once they are held.
    blobs: Vec<Arc<Blob>>,
}

/// An entry that was asked for by its key.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) seq: SeqNo,
    pub(crate) kind: Kind,
    block: Arc<[u8]>,
    value: Range<usize>,
}

impl Found {
    /// The value, in the block that holds it.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        &self.block[self.value.clone()]
    }
}

impl Sstable {
    /// Opens the file that the manifest describes as `expected`, and verifies that it is this
    /// file, whole, of this database and keyspace. Blocks of entries are verified when read.
    pub(crate) fn open(
        file: NamedFile,
        expected: &SstableSummary,
        uuid: &[u8; 16],
        keyspace: KeyspaceId,
        shared: Arc<SharedBlocks>,
    ) -> Result<Sstable> {
        let len = file.len()?;
        if len != expected.file_bytes {
            let wanted = format!("a file of {} bytes", expected.file_bytes);
            return Err(file.corruption(len.min(expected.file_bytes), wanted, len.to_string()));
        }
        check_header(&file, expected, uuid)?;
        let footer = read_footer(&file, expected)?;

        let read = |handle: Handle| read_raw_block(&file, handle, expected.identity);
        let refused = |handle: Handle| move |why| (handle.offset, why);
        let refuse = |(offset, why)| refuse(&file, offset, why);

        let properties = Properties::decode(&read(footer.properties)?)
            .map_err(refused(footer.properties))
            .map_err(refuse)?;
        if properties.keyspace != keyspace || properties.contents != expected.contents {
            let wanted = format!("keyspace {keyspace}, {:?}", expected.contents);
            let found = format!("keyspace {}, {:?}", properties.keyspace, properties.contents);
            return Err(file.corruption(footer.properties.offset, wanted, found));
        }
        let index =
            Index::decode(&read(footer.index)?).map_err(refused(footer.index)).map_err(refuse)?;
        if index.end() != footer.range_tombstones.offset {
            let wanted = format!("blocks up to {}", footer.range_tombstones.offset);
            let found = format!("an end at {}", index.end());
            return Err(file.corruption(footer.index.offset, wanted, found));
        }
        let filter = Filter::decode(&read(footer.filter)?)
            .map_err(refused(footer.filter))
            .map_err(refuse)?;
        let tombstones = read(footer.range_tombstones)?;
        let range_tombstones = decode_fragments(&tombstones)
            .map_err(refused(footer.range_tombstones))
            .map_err(refuse)?
            .into_iter()
            .map(|(start, end, seq)| RangeTombstone {
                start: start.to_vec(),
                end: end.map(<[u8]>::to_vec),
                seq,
            })
            .collect::<Vec<_>>();
        Ok(Sstable {
            range_tombstones: Arc::new(RangeTombstones::new(&range_tombstones)),
            summary: expected.clone(),
            file,
            properties,
            hints: (0..index.len()).map(|_| Hint::default()).collect(),
            index,
            filter,
            shared,
            blobs: vec![],
        })
    }

    /// Holds the blobs that entries point to, for as long as it lives.
    pub(crate) fn holding(mut self, blobs: &Blobs) -> Result<Sstable> {
        let held = self.properties.blobs.iter().map(|pointer| blobs.hold(*pointer));
        self.blobs = held.collect::<Result<_>>()?;
        Ok(self)
    }

    /// Bytes of the large values that entries point to.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| u64::from(blob.pointer.len)).sum()
    }

    /// The blobs that entries point to.
    pub(crate) fn blobs(&self) -> &[Arc<Blob>] {
        &self.blobs
    }

    pub(crate) fn file_id(&self) -> FileId {
        self.summary.file_id
    }

    pub(crate) fn summary(&self) -> &SstableSummary {
        &self.summary
    }

    pub(crate) fn properties(&self) -> &Properties {
        &self.properties
    }

    pub(crate) fn range_tombstones(&self) -> &Arc<RangeTombstones> {
        &self.range_tombstones
    }

    /// Bytes of memory that the open file occupies beside blocks in the cache.
    pub(crate) fn memory_bytes(&self) -> usize {
        let hints = self.hints.len() * size_of::<Hint>();
        self.index.memory_bytes() + hints + self.filter.memory_bytes()
    }

    /// Brings near what [`Sstable::may_contain`] reads.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.filter.prefetch(hash);
    }

    /// Whether a key with this [`KeyspaceId::hash`] may be here. Touches one cache line.
    #[inline]
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        self.filter.may_contain(hash)
    }

    /// The entry of `key`, whose [`KeyspaceId::hash`] is `hash`. Asks the filter first.
    pub(crate) fn get(&self, hash: u64, key: &[u8]) -> Result<Option<Found>> {
        if !self.may_contain(hash) {
            return Ok(None);
        }
        let block_no = self.index.find(key);
        if block_no == self.index.len() {
            return Ok(None);
        }
        let block = self.block(block_no)?;
        let found = Block::parse(&block).map(|b| b.find(hash, key).ok_or_else(|| b.refuse(0)));
        let found = match found {
            Ok(Ok(None)) => return Ok(None),
            Ok(Ok(Some(found))) => found,
            Ok(Err(why)) | Err(why) => return Err(self.refuse_block(block_no, why)),
        };
        let (seq, kind) = (found.seq, found.kind);
        let value = found.value_at..found.value_at + found.value.len();
        Ok(Some(Found { seq, kind, block, value }))
    }

    /// A position in the entries; sequential reads through it leave the cache as it is.
    pub(crate) fn cursor(self: &Arc<Self>) -> SstableCursor {
        SstableCursor::new(self.clone())
    }

    /// Reads the whole file, whatever of it is in memory, and compares it with what it says of itself.
    pub(crate) fn check(&self, uuid: &[u8; 16]) -> Result<()> {
        let (file, keyspace) = (self.file.clone(), self.properties.keyspace);
        let nothing_cached = Arc::new(SharedBlocks::new(0));
        let anew = Sstable::open(file, &self.summary, uuid, keyspace, nothing_cached)?;
        Arc::new(anew).check_entries()
    }

    fn check_entries(self: &Arc<Self>) -> Result<()> {
        let mut cursor = self.cursor();
        use crate::iter::Cursor;
        let (mut entries, mut deletes, mut blobs) = (0, 0, vec![]);
        let mut last: Option<Vec<u8>> = None;
        cursor.seek_first()?;
        while let Some(entry) = cursor.entry() {
            let hash = self.properties.keyspace.hash(entry.key);
            let contents = &self.summary.contents;
            let fits = last.as_deref().is_none_or(|last| last < entry.key)
                && contents.bounds.as_ref().is_some_and(|b| b.contains(entry.key))
                && (contents.smallest_seq..=contents.largest_seq).contains(&entry.seq)
                && self.index.find(entry.key) == cursor.block_no()
                && self.may_contain(hash)
                && cursor.is_found(hash, entry.key);
            if !fits {
                let at = self.index.place(cursor.block_no()).start;
                let found = format!("key {:02x?} out of place", entry.key);
                return Err(self.file.corruption(at, "entries as the file says", found));
            }
            entries += 1;
            deletes += u64::from(entry.kind == Kind::Delete);
            if entry.kind == Kind::Blob {
                blobs.extend(BlobPointer::decode(entry.value));
            }
            last = Some(entry.key.to_vec());
            cursor.next()?;
        }
        let contents = &self.summary.contents;
        if (entries, deletes) != (contents.entries, contents.deletes) {
            let wanted = format!("{} entries, {} deletes", contents.entries, contents.deletes);
            let found = format!("{entries}, {deletes}");
            return Err(self.file.corruption(HEADER_BYTES as u64, wanted, found));
        }
        if blobs != self.properties.blobs {
            let wanted = format!("{} blobs, as the file says", self.properties.blobs.len());
            let found = format!("{} others", blobs.len());
            return Err(self.file.corruption(HEADER_BYTES as u64, wanted, found));
        }
        Ok(())
    }

    // For cursors.

    pub(super) fn blocks(&self) -> usize {
        self.index.len()
    }

    /// The block in which a search for `key` begins.
    pub(super) fn block_of(&self, key: &[u8]) -> usize {
        self.index.find(key)
    }

    /// Where in the file a block and its trailer lie.
    pub(super) fn place(&self, block_no: usize) -> Range<u64> {
        self.index.place(block_no)
    }

    /// A block out of the cache.
    pub(super) fn cached_block(&self, block_no: usize) -> Option<Arc<[u8]>> {
        let offset = self.index.place(block_no).start;
        let cache = &self.shared.cache;
        cache.get(self.summary.file_id, offset, &self.hints[block_no])
    }

    /// A block out of the cache, or read, verified and cached.
    #[inline]
    pub(super) fn block(&self, block_no: usize) -> Result<Arc<[u8]>> {
        match self.cached_block(block_no) {
            Some(block) => Ok(block),
            None => self.load_block(block_no),
        }
    }

    #[cold]
    fn load_block(&self, block_no: usize) -> Result<Arc<[u8]>> {
        let place = self.index.place(block_no);
        let mut stored = vec![0; (place.end - place.start) as usize];
        self.file.read_exact_at(&mut stored, place.start)?;
        let verified = self.verify(block_no, &stored)?;
        let mut block: Arc<[u8]> = std::iter::repeat_n(0, verified.len).collect();
        if let Some(block) = Arc::get_mut(&mut block) {
            self.decompress(block_no, &verified, block)?;
        }
        let file_id = self.summary.file_id;
        let cache = &self.shared.cache;
        cache.insert(file_id, place.start, block.clone(), block.len());
        Ok(block)
    }

    /// Reads stored blocks, to be verified one by one.
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Verifies a block as it was read.
    pub(super) fn verify<'a>(&self, block_no: usize, bytes: &'a [u8]) -> Result<Verified<'a>> {
        let offset = self.index.place(block_no).start;
        verify_block(bytes, self.summary.identity, offset)
            .map_err(|why| self.refuse_at(offset, why))
    }

    /// Fills `out`, of the length that the block states.
    pub(super) fn decompress(
        &self,
        block_no: usize,
        block: &Verified<'_>,
        out: &mut [u8],
    ) -> Result<()> {
        let decompressors = &self.shared.decompressors;
        let done = decompressors.decompress(block.compression, block.stored, out);
        done.ok_or_else(|| {
            let wanted = "a block to decompress";
            let found = format!("{} bytes that are none", block.stored.len());
            self.refuse_block(block_no, Refused::Corrupt(wanted, found))
        })
    }

    #[cold]
    pub(super) fn refuse_block(&self, block_no: usize, why: Refused) -> Error {
        self.refuse_at(self.index.place(block_no).start, why)
    }

    #[cold]
    fn refuse_at(&self, offset: u64, why: Refused) -> Error {
        refuse(&self.file, offset, why)
    }
}

#[cold]
fn refuse(file: &NamedFile, offset: u64, why: Refused) -> Error {
    match why {
        Refused::Corrupt(expected, found) => file.corruption(offset, expected, found),
        Refused::Unsupported(what) => Error::Unsupported { file: file.path.to_path_buf(), what },
    }
}

fn check_header(file: &NamedFile, expected: &SstableSummary, uuid: &[u8; 16]) -> Result<()> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0)?;
    let wanted = FileHeader {
        kind: FileKind::Sstable,
        uuid: *uuid,
        file_id: expected.file_id,
        identity: expected.identity,
    };
    match FileHeader::decode(&bytes, FileKind::Sstable) {
        Ok(found) if found == wanted => Ok(()),
        Ok(found) => Err(file.corruption(0, format!("{wanted:?}"), format!("{found:?}"))),
        Err(HeaderError::Corrupt(wanted, found)) => Err(file.corruption(0, wanted, found)),
        Err(HeaderError::Unsupported(what)) => Err(refuse(file, 0, Refused::Unsupported(what))),
    }
}

fn read_footer(file: &NamedFile, expected: &SstableSummary) -> Result<Footer> {
    let least = (HEADER_BYTES + FOOTER_BYTES) as u64;
    if expected.file_bytes < least {
        let found = format!("{} bytes", expected.file_bytes);
        return Err(file.corruption(0, "a header and a footer", found));
    }
    let offset = expected.file_bytes - FOOTER_BYTES as u64;
    let mut bytes = [0; FOOTER_BYTES];
    file.read_exact_at(&mut bytes, offset)?;
    let footer = Footer::decode(&bytes).map_err(|why| refuse(file, offset, why))?;
    let wanted = (expected.file_id, expected.identity, expected.file_bytes);
    let found = (footer.file_id, footer.identity, footer.file_bytes);
    match wanted == found {
        true => Ok(footer),
        false => Err(file.corruption(offset, format!("{wanted:?}"), format!("{found:?}"))),
    }
}

/// Reads a block that is not one of entries. The footer's checks keep it within the file.
fn read_raw_block(file: &NamedFile, handle: Handle, identity: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; handle.len as usize];
    file.read_exact_at(&mut bytes, handle.offset)?;
    let verified = verify_block(&bytes, identity, handle.offset)
        .map_err(|why| refuse(file, handle.offset, why))?;
    if verified.stored.len() != verified.len {
        let why = Refused::Unsupported(format!("compression {:?} here", verified.compression));
        return Err(refuse(file, handle.offset, why));
    }
    bytes.truncate(handle.len as usize - TRAILER_BYTES);
    Ok(bytes)
}
