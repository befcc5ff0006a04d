//! Writing a blob: streamed, chunk by chunk, and synced.

use super::{Blob, Blobs, Dead, Known, blob_name};
use crate::{
    codec::Compressor,
    config::{Compression, MAX_VALUE_BYTES},
    env::{NamedFile, OpenMode},
    error::{Error, Result},
    format::{
        blob::{
            BLOB_HEAD_BYTES, BlobPointer, CHUNK_BYTES, Stored, chunk_checksum, encode_head,
            encode_table,
        },
        header::{FileHeader, FileKind},
    },
    sync::Ordering::SeqCst,
    types::FileId,
};
use std::{
    io::{self, Read},
    sync::{Arc, Weak},
};

/// So many chunks are stored as they are behind one that compressing did not make smaller.
const UNTRIED: u32 = 16;

/// A file that is being written. Unless it is finished, it is removed.
struct Unfinished<'a> {
    id: FileId,
    dead: &'a Dead,
    finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.dead.push(self.id);
        }
    }
}

impl Blobs {
    /// Writes all that `source` yields into a new blob, and syncs it; the directory is the caller's to sync,
    /// before anything names the blob. After an error the file waits to be removed.
    /// `may_go_on` is asked before each chunk. With the compression there is a level, of Zstd.
    pub(crate) fn write(
        &self,
        source: &mut dyn Read,
        compression: (Compression, i32),
        may_go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Arc<Blob>> {
        let id = FileId(self.file_ids.fetch_add(1, SeqCst));
        let identity = self.env.random("blob.identity");
        // Known from here on: a check finds no file that it does not expect.
        self.known.lock().insert(id, Known { identity, len: 0, blob: Weak::new() });
        let mut unfinished = Unfinished { id, dead: &self.dead, finished: false };
        let path = self.dir.join(blob_name(id));
        let file = NamedFile::open(self.env.disk(), path, OpenMode::CreateNew)?;
        let header = FileHeader { kind: FileKind::Blob, uuid: self.uuid, file_id: id, identity };
        // A simulated value is shorter than a chunk usually is.
        let small = self.env.buggify("blob: small chunks");
        let chunk_bytes = if small { 64 } else { CHUNK_BYTES };
        let (compression, level) = compression;
        let mut compressor = Compressor::new(compression, level).ok_or_else(|| {
            let why = format!("no memory to compress with {compression:?}");
            Error::InvalidArgument { what: "compression", why }
        })?;
        let len = write_value(&file, &header, chunk_bytes, &mut compressor, source, may_go_on)?;
        file.sync_all()?;
        let pointer = BlobPointer { file_id: id, identity, len };
        let blob = Arc::new(Blob { pointer, dead: Arc::clone(&self.dead) });
        self.known.lock().insert(id, Known { identity, len, blob: Arc::downgrade(&blob) });
        unfinished.finished = true;
        Ok(blob)
    }
}

/// Writes head, chunks and the table of these. Returns the length of the value.
fn write_value(
    file: &NamedFile,
    header: &FileHeader,
    chunk_bytes: u32,
    compressor: &mut Compressor,
    source: &mut dyn Read,
    may_go_on: &dyn Fn() -> Result<()>,
) -> Result<u32> {
    file.write_all_at(&encode_head(header, chunk_bytes), 0)?;
    let (mut at, mut len) = (BLOB_HEAD_BYTES as u64, 0u64);
    let (mut chunk, mut out, mut table) = (vec![0; chunk_bytes as usize], vec![], vec![]);
    // Most values compress everywhere or nowhere.
    let mut untried = 0;
    for index in 0.. {
        may_go_on()?;
        let filled = fill(source, &mut chunk)?;
        if filled == 0 {
            break;
        }
        len += filled as u64;
        if len > MAX_VALUE_BYTES {
            return Err(Error::ValueTooLarge { len, max: MAX_VALUE_BYTES });
        }
        let (compression, stored) = match untried {
            0 => compressor.compress(&chunk[..filled]),
            _ => (Compression::None, &chunk[..filled]),
        };
        untried = match (untried, compression) {
            (0, Compression::None) => UNTRIED,
            (untried, _) => untried.saturating_sub(1),
        };
        out.clear();
        out.extend_from_slice(&chunk_checksum(header.identity, index, stored).to_le_bytes());
        out.extend_from_slice(stored);
        file.write_all_at(&out, at)?;
        at += out.len() as u64;
        table.push(Stored { len: stored.len() as u32, compression });
        if filled < chunk_bytes as usize {
            break;
        }
    }
    file.write_all_at(&encode_table(header.identity, &table), at)?;
    u32::try_from(len).map_err(|_| Error::ValueTooLarge { len, max: MAX_VALUE_BYTES })
}

/// Reads until the buffer is full or the source ends. Returns how much there was.
pub(crate) fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) if read <= buffer.len() - filled => filled += read,
            Ok(_) => {
                let why = "it says that it has read more than it was asked for";
                let source = Arc::new(io::Error::new(io::ErrorKind::InvalidData, why));
                return Err(Error::Reader { source });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                crate::sync::sometimes("blob: the reader of a value fails");
                return Err(Error::Reader { source: Arc::new(error) });
            }
        }
    }
    Ok(filled)
}
