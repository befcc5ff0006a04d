//! A blob file, which holds one large value, and the pointer to it. Format: `docs/formats/blob.md`.

use super::{
    bytes::Decoder,
    header::{FileHeader, HEADER_BYTES},
};
use crate::{config::Compression, types::FileId};

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
const TABLE_ENTRY_BYTES: usize = 4;

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

/// Of a chunk as it is stored, of its place in the value, and of the file that it belongs to.
pub(crate) fn chunk_checksum(identity: u64, index: u64, stored: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&identity.to_le_bytes());
    crc.update(&index.to_le_bytes());
    crc.update(stored);
    crc.finalize()
}

/// How a value is cut into chunks.
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

    /// How much of the value is in a chunk.
    pub(crate) fn len_of(&self, index: u64) -> usize {
        let chunk_bytes = u64::from(self.chunk_bytes);
        self.len.saturating_sub(index * chunk_bytes).min(chunk_bytes) as usize
    }

    /// Bytes of the table behind the chunks.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.count() * TABLE_ENTRY_BYTES as u64 + 4
    }
}

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Of what is stored, without its checksum.
    pub(crate) len: u32,
    pub(crate) compression: Compression,
}

/// The table behind the chunks.
pub(crate) fn encode_table(identity: u64, chunks: &[Stored]) -> Vec<u8> {
    let entry = |stored: &Stored| stored.len | (u32::from(stored.compression)) << 24;
    let mut out: Vec<u8> = chunks.iter().flat_map(|stored| entry(stored).to_le_bytes()).collect();
    let crc = table_checksum(identity, &out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// `None`: other bytes.
pub(crate) fn decode_table(identity: u64, bytes: &[u8]) -> Option<Vec<Stored>> {
    let (entries, crc) = bytes.split_last_chunk::<4>()?;
    if u32::from_le_bytes(*crc) != table_checksum(identity, entries) {
        return None;
    }
    let (entries, rest) = entries.as_chunks::<TABLE_ENTRY_BYTES>();
    let decoded = entries.iter().map(|entry| {
        let entry = u32::from_le_bytes(*entry);
        let compression = Compression::from_u32(entry >> 24)?;
        Some(Stored { len: entry & 0x00FF_FFFF, compression })
    });
    decoded.collect::<Option<_>>().filter(|_| rest.is_empty())
}

fn table_checksum(identity: u64, entries: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&identity.to_le_bytes());
    crc.update(entries);
    crc.finalize()
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
    fn chunks_hold_the_value() {
        for (len, chunk_bytes) in [(0, 16), (1, 16), (16, 16), (17, 16), (1 << 20, 1 << 16)] {
            let chunks = Chunks { chunk_bytes, len };
            let lens = (0..chunks.count()).map(|index| chunks.len_of(index));
            assert!(lens.clone().all(|len| len > 0 && len <= chunk_bytes as usize));
            assert_eq!(lens.sum::<usize>() as u64, len, "{chunks:?}");
        }
    }

    #[test]
    fn a_table_round_trips_and_one_with_a_flipped_bit_is_refused() {
        let stored = |len, compression| Stored { len, compression };
        let chunks = [
            stored(0, Compression::Lz4),
            stored((1 << 24) - 1, Compression::None),
            stored(9, Compression::Zstd),
        ];
        for chunks in [&chunks[..], &[]] {
            let table = encode_table(7, chunks);
            assert_eq!(decode_table(7, &table).as_deref(), Some(chunks));
            assert_eq!(decode_table(8, &table), None);
            for bit in 0..table.len() * 8 {
                let mut bad = table.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode_table(7, &bad), None, "bit {bit}");
            }
            assert_eq!(decode_table(7, &table[1..]), None);
        }
        let unknown = (9u32 << 24).to_le_bytes();
        let crc = table_checksum(7, &unknown).to_le_bytes();
        assert_eq!(decode_table(7, &[unknown, crc].concat()), None);
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
