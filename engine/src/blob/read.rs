//! Reading a blob: by chunks, each verified.

use super::Blobs;
use crate::{
    codec::Decompressor,
    config::Compression,
    env::{NamedFile, OpenMode},
    error::{Error, Result},
    format::{
        blob::{
            BLOB_HEAD_BYTES, BlobPointer, CHUNK_CHECKSUM_BYTES, Chunks, Stored, chunk_checksum,
            decode_chunk_bytes, decode_table,
        },
        header::{FileHeader, FileKind, HEADER_BYTES, HeaderError},
    },
};
use std::{io::ErrorKind, path::Path, sync::Arc};

/// An open blob. Whoever reads sees to it that something holds the blob meanwhile.
pub(crate) struct BlobReader {
    file: NamedFile,
    identity: u64,
    chunks: Chunks,
    places: Vec<(u64, Stored)>,
    /// A chunk as it is stored, behind its checksum.
    buffer: Vec<u8>,
    /// The chunk read last, and which one it is.
    chunk: Vec<u8>,
    here: Option<u64>,
    decompressor: Decompressor,
}

impl Blobs {
    /// Opens the file that a pointer names, and verifies that it is this one and as long as it must be.
    pub(crate) fn open(&self, pointer: BlobPointer) -> Result<BlobReader> {
        let path = self.path(pointer.file_id);
        let file = match NamedFile::open(self.env.disk(), path.clone(), OpenMode::Read) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(Error::corruption(path, 0, "a large value", "no such file"));
            }
            other => other?,
        };
        let mut head = [0; BLOB_HEAD_BYTES];
        file.read_exact_at(&mut head, 0)?;
        let header = match FileHeader::decode(&head, FileKind::Blob) {
            Ok(header) => header,
            Err(HeaderError::Corrupt(expected, found)) => {
                return Err(file.corruption(0, expected, found));
            }
            Err(HeaderError::Unsupported(what)) => {
                return Err(Error::Unsupported { file: path, what });
            }
        };
        let BlobPointer { file_id, identity, len } = pointer;
        let wanted = FileHeader { kind: FileKind::Blob, uuid: self.uuid, file_id, identity };
        if header != wanted {
            return Err(file.corruption(0, format!("{wanted:?}"), format!("{header:?}")));
        }
        let Some(chunk_bytes) = decode_chunk_bytes(identity, &head[HEADER_BYTES..]) else {
            return Err(file.corruption(
                HEADER_BYTES as u64,
                "the length of chunks",
                "other bytes",
            ));
        };
        let chunks = Chunks { chunk_bytes, len: len.into() };
        let places = places(&file, identity, chunks)?;
        let (buffer, chunk, decompressor) = (vec![], vec![], Decompressor::default());
        Ok(BlobReader { file, identity, chunks, places, buffer, chunk, here: None, decompressor })
    }

    /// The whole value.
    pub(crate) fn read_whole(&self, pointer: BlobPointer, out: &mut Vec<u8>) -> Result<()> {
        let mut reader = self.open(pointer)?;
        out.clear();
        // As much at once as the file turned out to have.
        let room = out.try_reserve_exact(pointer.len as usize);
        room.map_err(|_| no_memory(&self.path(pointer.file_id)))?;
        for index in 0..reader.chunks.count() {
            out.extend_from_slice(reader.chunk(index)?);
        }
        Ok(())
    }
}

impl BlobReader {
    /// Length of the value.
    pub(crate) fn len(&self) -> u64 {
        self.chunks.len
    }

    /// Copies what the value has at `at` into `out`, up to the end of a chunk. Returns how much: nothing at
    /// the end.
    pub(crate) fn read_at(&mut self, out: &mut [u8], at: u64) -> Result<usize> {
        if at >= self.chunks.len || out.is_empty() {
            return Ok(0);
        }
        let chunk_bytes = u64::from(self.chunks.chunk_bytes);
        let chunk = self.chunk(at / chunk_bytes)?;
        let rest = chunk.get((at % chunk_bytes) as usize..).unwrap_or_default();
        let read = rest.len().min(out.len());
        out[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    /// Reads every chunk.
    pub(crate) fn check(&mut self) -> Result<()> {
        (0..self.chunks.count()).try_for_each(|index| self.chunk(index).map(|_| ()))
    }

    fn chunk(&mut self, index: u64) -> Result<&[u8]> {
        if self.here != Some(index) {
            self.here = None;
            let Some((at, Stored { len, compression })) = self.places.get(index as usize).copied()
            else {
                return Ok(&[]); // nobody asks for it: the value ends before
            };
            self.buffer.resize(CHUNK_CHECKSUM_BYTES + len as usize, 0);
            self.file.read_exact_at(&mut self.buffer, at)?;
            let (crc, stored) = self.buffer.split_at(CHUNK_CHECKSUM_BYTES);
            let actual = chunk_checksum(self.identity, index, stored).to_le_bytes();
            if crc != actual {
                let wanted = format!("chunk {index} with the checksum {crc:02x?}");
                return Err(self.file.corruption(at, wanted, format!("{actual:02x?}")));
            }
            let len = self.chunks.len_of(index);
            self.chunk.resize(len, 0);
            let whole = self.decompressor.decompress(compression, stored, &mut self.chunk);
            whole.ok_or_else(|| {
                let wanted =
                    format!("chunk {index} of {len} bytes, compressed with {compression:?}");
                self.file.corruption(at, wanted, "something else")
            })?;
            self.here = Some(index);
        }
        Ok(&self.chunk)
    }
}

#[cold]
fn no_memory(path: &Path) -> Error {
    let source = Arc::new(ErrorKind::OutOfMemory.into());
    Error::Io { op: "hold a large value of", path: path.to_path_buf(), source }
}

/// Where the chunks of a value begin in its file, and how they are stored.
fn places(file: &NamedFile, identity: u64, chunks: Chunks) -> Result<Vec<(u64, Stored)>> {
    let (there, table_bytes) = (file.len()?, chunks.table_bytes());
    let least = BLOB_HEAD_BYTES as u64 + chunks.count() * CHUNK_CHECKSUM_BYTES as u64 + table_bytes;
    if there < least {
        let wanted = format!("a file of at least {least} bytes");
        return Err(file.corruption(there, wanted, there.to_string()));
    }
    let table_at = there - table_bytes;
    let mut table = vec![0; table_bytes as usize];
    file.read_exact_at(&mut table, table_at)?;
    let refuse = || file.corruption(table_at, "the table of chunks", "other bytes");
    let table = decode_table(identity, &table).ok_or_else(refuse)?;
    let mut at = BLOB_HEAD_BYTES as u64;
    let mut places = vec![];
    places.try_reserve_exact(table.len()).map_err(|_| no_memory(&file.path))?;
    for (index, stored) in (0..).zip(table) {
        let (len, wanted) = (stored.len as usize, chunks.len_of(index));
        if len > wanted || stored.compression == Compression::None && len != wanted {
            let wanted = format!("chunk {index} of {wanted} bytes");
            return Err(file.corruption(table_at, wanted, format!("{stored:?}")));
        }
        places.push((at, stored));
        at += CHUNK_CHECKSUM_BYTES as u64 + u64::from(stored.len);
    }
    match at == table_at {
        true => Ok(places),
        false => Err(file.corruption(table_at, format!("a table at {at}"), "one here")),
    }
}
