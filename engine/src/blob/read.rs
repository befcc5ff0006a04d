//! Reading a blob: by chunks, each verified.

use super::Blobs;
use crate::{
    env::{NamedFile, OpenMode},
    error::{Error, Result},
    format::{
        blob::{
            BLOB_HEAD_BYTES, BlobPointer, CHUNK_CHECKSUM_BYTES, Chunks, chunk_checksum,
            decode_chunk_bytes,
        },
        header::{FileHeader, FileKind, HEADER_BYTES, HeaderError},
    },
};
use std::{io::ErrorKind, sync::Arc};

/// An open blob. Whoever reads sees to it that something holds the blob meanwhile.
pub(crate) struct BlobReader {
    file: NamedFile,
    identity: u64,
    chunks: Chunks,
    /// The chunk read last, behind its checksum, and which one it is.
    buffer: Vec<u8>,
    here: Option<u64>,
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
        let (wanted, there) = (chunks.file_bytes(), file.len()?);
        if there != wanted {
            let wanted_len = format!("a file of {wanted} bytes");
            return Err(file.corruption(there.min(wanted), wanted_len, there.to_string()));
        }
        Ok(BlobReader { file, identity, chunks, buffer: vec![], here: None })
    }

    /// The whole value.
    pub(crate) fn read_whole(&self, pointer: BlobPointer, out: &mut Vec<u8>) -> Result<()> {
        let mut reader = self.open(pointer)?;
        out.clear();
        // As much at once as the file turned out to have.
        out.try_reserve_exact(pointer.len as usize).map_err(|_| {
            let source = Arc::new(ErrorKind::OutOfMemory.into());
            Error::Io { op: "hold a large value of", path: self.path(pointer.file_id), source }
        })?;
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
            let (at, len) = self.chunks.place(index);
            self.buffer.resize(CHUNK_CHECKSUM_BYTES + len, 0);
            self.file.read_exact_at(&mut self.buffer, at)?;
            let (crc, chunk) = self.buffer.split_at(CHUNK_CHECKSUM_BYTES);
            let actual = chunk_checksum(self.identity, index, chunk).to_le_bytes();
            if crc != actual {
                let wanted = format!("chunk {index} with the checksum {crc:02x?}");
                return Err(self.file.corruption(at, wanted, format!("{actual:02x?}")));
            }
            self.here = Some(index);
        }
        Ok(&self.buffer[CHUNK_CHECKSUM_BYTES..])
    }
}
