//! A blob file, which holds one large value, and the pointer to it. Format: `docs/formats/blob.md`.

use super::{
    bytes::Decoder,
    header::{FileHeader, HEADER_BYTES},
};
use crate::types::FileId;

pub(crate) const POINTER_BYTES: usize = 20;
/// The header of all files, the length of chunks, and a checksum of that.
pub(crate) const BLOB_HEAD_BYTES: usize = HEADER_BYTES + 8;
/// In front of each chunk.
pub(crate) const CHUNK_CHECKSUM_BYTES: usize = 4;
/// What new files have.
pub(crate) const CHUNK_BYTES: u32 = 64 << 10;
/// What a reader accepts, and so has to hold in memory at most.
const CHUNK_BYTES_MAX: u32 = 1 << 20;
const CHUNK_BYTES_MIN: u32 = 16;

/// What stands in the place of a large value: which file holds it, and how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlobPointer {
    pub(crate) file_id: FileId,
    /// As in the file's header: another file with the same id is not the one meant.
    pub(crate) identity: u64,
    /// Of the value.
    pub(crate) len: u32,
}

impl BlobPointer {
    pub(crate) fn encode(&self) -> [u8; POINTER_BYTES] {
        let mut out = [0; POINTER_BYTES];
        out[..8].copy_from_slice(&self.file_id.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.identity.to_le_bytes());
        out[16..].copy_from_slice(&self.len.to_le_bytes());
        out
    }

    /// `None`: bytes of another length.
    pub(crate) fn decode(bytes: &[u8]) -> Option<BlobPointer> {
        let mut d = Decoder::new(bytes);
        let pointer = BlobPointer { file_id: FileId(d.u64()?), identity: d.u64()?, len: d.u32()? };
        d.is_empty().then_some(pointer)
    }
}

/// The first bytes of a blob file.
pub(crate) fn encode_head(header: &FileHeader, chunk_bytes: u32) -> [u8; BLOB_HEAD_BYTES] {
    let mut out = [0; BLOB_HEAD_BYTES];
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    out[HEADER_BYTES..][..4].copy_from_slice(&chunk_bytes.to_le_bytes());
    let crc = head_checksum(header.identity, chunk_bytes);
    out[HEADER_BYTES + 4..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The length of chunks, from what follows the header of all files. `None`: other bytes.
pub(crate) fn decode_chunk_bytes(identity: u64, bytes: &[u8]) -> Option<u32> {
    let mut d = Decoder::new(bytes);
    let (chunk_bytes, crc) = (d.u32()?, d.u32()?);
    let is_size =
        chunk_bytes.is_power_of_two() && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes);
    (is_size && crc == head_checksum(identity, chunk_bytes)).then_some(chunk_bytes)
}

fn head_checksum(identity: u64, chunk_bytes: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&identity.to_le_bytes());
    crc.update(&chunk_bytes.to_le_bytes());
    crc.finalize()
}

/// Of a chunk, of its place in the value, and of the file that it belongs to.
pub(crate) fn chunk_checksum(identity: u64, index: u64, chunk: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&identity.to_le_bytes());
    crc.update(&index.to_le_bytes());
    crc.update(chunk);
    crc.finalize()
}

/// Where the chunks of a value lie in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    pub(crate) chunk_bytes: u32,
    /// Of the value.
    pub(crate) len: u64,
}

impl Chunks {
    pub(crate) fn count(&self) -> u64 {
        self.len.div_ceil(self.chunk_bytes.into())
    }

    /// Where the checksum of a chunk is, with the chunk behind it, and how long the chunk is.
    pub(crate) fn place(&self, index: u64) -> (u64, usize) {
        let chunk_bytes = u64::from(self.chunk_bytes);
        let whole = chunk_bytes + CHUNK_CHECKSUM_BYTES as u64;
        let len = self.len.saturating_sub(index * chunk_bytes).min(chunk_bytes);
        (BLOB_HEAD_BYTES as u64 + index * whole, len as usize)
    }

    /// Length of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        BLOB_HEAD_BYTES as u64 + self.len + self.count() * CHUNK_CHECKSUM_BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::FileKind;

    #[test]
    fn pointers_round_trip_and_other_lengths_are_none() {
        let pointer = BlobPointer { file_id: FileId(9), identity: u64::MAX - 1, len: u32::MAX };
        let bytes = pointer.encode();
        assert_eq!(BlobPointer::decode(&bytes), Some(pointer));
        assert_eq!(BlobPointer::decode(&bytes[1..]), None);
        assert_eq!(BlobPointer::decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn chunks_fill_the_file_without_a_gap() {
        for (len, chunk_bytes) in [(0, 16), (1, 16), (16, 16), (17, 16), (u32::MAX.into(), 1 << 16)]
        {
            let chunks = Chunks { chunk_bytes, len };
            let mut end = BLOB_HEAD_BYTES as u64;
            let last = chunks.count().saturating_sub(3);
            for index in (0..chunks.count()).filter(|index| *index < 3 || *index >= last) {
                let (at, len) = chunks.place(index);
                assert!(at == end || index == last, "{chunks:?}");
                assert!(len > 0);
                end = at + (CHUNK_CHECKSUM_BYTES + len) as u64;
            }
            assert_eq!(end, chunks.file_bytes(), "{chunks:?}");
        }
    }

    #[test]
    fn a_head_with_a_flipped_bit_is_refused() {
        let (uuid, file_id, identity) = ([1; 16], FileId(7), 77);
        let header = FileHeader { kind: FileKind::Blob, uuid, file_id, identity };
        let head = encode_head(&header, CHUNK_BYTES);
        let rest = &head[HEADER_BYTES..];
        assert_eq!(decode_chunk_bytes(identity, rest), Some(CHUNK_BYTES));
        assert_eq!(decode_chunk_bytes(identity + 1, rest), None);
        for bit in 0..rest.len() * 8 {
            let mut bad = rest.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_chunk_bytes(identity, &bad), None, "bit {bit}");
        }
    }

    #[test]
    fn a_checksum_tells_chunks_of_other_places_and_files_apart() {
        let crc = chunk_checksum(1, 2, b"chunk");
        for other in [chunk_checksum(2, 2, b"chunk"), chunk_checksum(1, 3, b"chunk")] {
            assert_ne!(crc, other);
        }
        assert_ne!(crc, chunk_checksum(1, 2, b"chunk\0"));
    }
}
