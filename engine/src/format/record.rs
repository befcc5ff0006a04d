//! Records of the write-ahead log. Format: `docs/formats/wal.md`.

use super::bytes::Decoder;
use crate::types::{EditNo, Lsn, SeqNo};

/// A block that holds durable records is never written again, so a group that was made
/// durable is padded to this, and so is everything else that must not share a block.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// Records begin at multiples of this.
pub(crate) const RECORD_ALIGN: u64 = 8;
pub(crate) const RECORD_HEADER_BYTES: usize = 72;
const MAGIC: u32 = 0x7242_444c; // "LDBr"

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// The operations of one commit.
    Commit = 1,
    /// Carries only its durable mark. With `FLAG_CLEAN` the last record before a clean close.
    Mark = 2,
    /// The last record of a segment. The payload names the next one.
    Switch = 3,
}

/// The database was closed after this mark.
pub(crate) const FLAG_CLEAN: u8 = 1;
/// The payload of the commit is compressed: its length (u32), then an LZ4 block.
pub(crate) const FLAG_COMPRESSED: u8 = 2;
// Reserved: 4 first fragment, 8 last fragment.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) flags: u8,
    pub(crate) lsn: Lsn,
    /// Bytes between the end of the record before this one and `lsn`: padding. It chains the
    /// records, so that a lost one cannot be taken for padding.
    pub(crate) gap: u16,
    /// Where the last record ended that was durable when this one was written.
    pub(crate) durable: Lsn,
    /// The newest manifest edit that was durable when the record was written.
    pub(crate) durable_edit: EditNo,
    /// The SeqNo of the first operation; the others follow without holes.
    pub(crate) first_seq: SeqNo,
    /// Wall time in microseconds since 1970.
    pub(crate) wall_micros: u64,
    pub(crate) operations: u32,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
}

/// Bytes of a record with this payload, padded to the alignment of the next.
pub(crate) const fn record_bytes(payload_len: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_len).next_multiple_of(RECORD_ALIGN as usize)
}

/// The next block boundary at or behind `lsn`.
pub(crate) fn block_end(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.next_multiple_of(BLOCK_BYTES))
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial((salt ^ (salt >> 32)) as u32);
    hasher.update(bytes);
    hasher.finalize()
}

impl RecordHeader {
    /// Writes the header in front of a payload that is already in place.
    pub(crate) fn encode(&self, salt: u64, out: &mut [u8; RECORD_HEADER_BYTES]) {
        let mut at = 8;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.lsn.0.to_le_bytes());
        put(&self.durable.0.to_le_bytes());
        put(&self.durable_edit.0.to_le_bytes());
        put(&self.first_seq.0.to_le_bytes());
        put(&self.wall_micros.to_le_bytes());
        put(&0u64.to_le_bytes()); // TxnId: reserved
        put(&self.payload_len.to_le_bytes());
        put(&self.payload_crc.to_le_bytes());
        put(&self.operations.to_le_bytes());
        put(&self.gap.to_le_bytes());
        put(&[self.kind as u8, self.flags]);
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        let crc = checksum(salt, &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header at the beginning of `bytes`, if it is one of a segment with this salt and
    /// claims to stand at `lsn`. `None` for anything else: whether that is a torn end or
    /// corruption is not told by one record alone.
    pub(crate) fn decode(bytes: &[u8], salt: u64, lsn: Lsn) -> Option<RecordHeader> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        let mut d = Decoder::new(bytes);
        if d.u32()? != MAGIC || d.u32()? != checksum(salt, &bytes[8..]) {
            return None;
        }
        let found = Lsn(d.u64()?);
        let (durable, durable_edit) = (Lsn(d.u64()?), EditNo(d.u64()?));
        let (first_seq, wall_micros, _txn) = (SeqNo(d.u64()?), d.u64()?, d.u64()?);
        let (payload_len, payload_crc, operations) = (d.u32()?, d.u32()?, d.u32()?);
        let (gap, kind, flags) = (d.u16()?, d.u8()?, d.u8()?);
        let kind = match kind {
            1 => RecordKind::Commit,
            2 => RecordKind::Mark,
            3 => RecordKind::Switch,
            _ => return None,
        };
        let allowed = match kind {
            RecordKind::Commit => FLAG_CLEAN | FLAG_COMPRESSED,
            RecordKind::Mark | RecordKind::Switch => FLAG_CLEAN,
        };
        (found == lsn && flags & !allowed == 0).then_some(RecordHeader {
            kind,
            flags,
            lsn,
            gap,
            durable,
            durable_edit,
            first_seq,
            wall_micros,
            operations,
            payload_len,
            payload_crc,
        })
    }

    /// Where the record ends.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.lsn.0 + record_bytes(self.payload_len as usize) as u64)
    }
}

/// What a switch record says of the segment that follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Switch {
    pub(crate) first: Lsn,
    pub(crate) salt: u64,
}

pub(crate) const SWITCH_BYTES: usize = 16;

impl Switch {
    pub(crate) fn encode(&self) -> [u8; SWITCH_BYTES] {
        let mut out = [0; SWITCH_BYTES];
        out[..8].copy_from_slice(&self.first.0.to_le_bytes());
        out[8..].copy_from_slice(&self.salt.to_le_bytes());
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Switch> {
        let mut d = Decoder::new(payload);
        let switch = Switch { first: Lsn(d.u64()?), salt: d.u64()? };
        d.is_empty().then_some(switch)
    }
}

/// What stands behind the file header in the first block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    /// Random at every use of the file: what an earlier use left cannot pass for ours.
    pub(crate) salt: u64,
    /// Position of the first byte behind the header block.
    pub(crate) first: Lsn,
    /// Bytes that the segment offers behind the header block.
    pub(crate) capacity: u64,
    /// Counts the recoveries: each one starts a new epoch.
    pub(crate) epoch: u64,
    /// Where the log ends that this epoch continues.
    pub(crate) continues: Lsn,
    /// The SeqNo that followed the newest visible one when the segment was prepared.
    pub(crate) first_seq: SeqNo,
    /// The history that the log belongs to; 0 until a restore to a moment starts another.
    pub(crate) timeline: u64,
}

pub(crate) const SEGMENT_HEADER_BYTES: usize = 60;

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let words = [
            self.salt,
            self.first.0,
            self.capacity,
            self.epoch,
            self.continues.0,
            self.first_seq.0,
            self.timeline,
        ];
        let mut out = [0; SEGMENT_HEADER_BYTES];
        for (place, word) in out.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..56]);
        out[56..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES)?;
        let mut d = Decoder::new(bytes);
        let header = SegmentHeader {
            salt: d.u64()?,
            first: Lsn(d.u64()?),
            capacity: d.u64()?,
            epoch: d.u64()?,
            continues: Lsn(d.u64()?),
            first_seq: SeqNo(d.u64()?),
            timeline: d.u64()?,
        };
        let sane = header.first.0.is_multiple_of(BLOCK_BYTES)
            && header.capacity.is_multiple_of(BLOCK_BYTES)
            && header.first.0.checked_add(header.capacity).is_some();
        (d.u32()? == crc32fast::hash(&bytes[..56]) && sane).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Commit,
            flags: 0,
            lsn: Lsn(8192),
            gap: 16,
            durable: Lsn(4096),
            durable_edit: EditNo(3),
            first_seq: SeqNo(77),
            wall_micros: 5,
            operations: 2,
            payload_len: 13,
            payload_crc: 0xdead_beef,
        }
    }

    #[test]
    fn a_record_is_known_only_by_its_salt_and_its_place() {
        let mut out = [0; RECORD_HEADER_BYTES];
        header().encode(99, &mut out);
        assert_eq!(RecordHeader::decode(&out, 99, Lsn(8192)), Some(header()));
        assert_eq!(RecordHeader::decode(&out, 98, Lsn(8192)), None);
        assert_eq!(RecordHeader::decode(&out, 99, Lsn(8200)), None);
        for bit in 0..RECORD_HEADER_BYTES * 8 {
            let mut bad = out;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&bad, 99, Lsn(8192)), None, "bit {bit}");
        }
        assert_eq!(header().end(), Lsn(8192 + 88));
    }

    #[test]
    fn zeros_are_no_record() {
        assert_eq!(RecordHeader::decode(&[0; 100], 0, Lsn(0)), None);
        assert_eq!(SegmentHeader::decode(&[0; 100]), None);
    }

    #[test]
    fn segment_headers_round_trip() {
        let header = SegmentHeader {
            salt: 1,
            first: Lsn(4096),
            capacity: 8192,
            epoch: 2,
            continues: Lsn(3),
            first_seq: SeqNo(4),
            timeline: 0,
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), None, "bit {bit}");
        }
        let switch = Switch { first: Lsn(1), salt: 2 };
        assert_eq!(Switch::decode(&switch.encode()), Some(switch));
    }
}
