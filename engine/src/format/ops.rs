//! The operations of a commit: the payload of its log record. Format: `docs/formats/wal.md`.

use super::{
    blob::{BlobPointer, POINTER_BYTES},
    bytes::{Decoder, varint_len, write_varint},
};
use crate::types::{KeyspaceId, Kind};

/// The end of a range delete is absent: it has no upper end.
const FLAG_NO_END: u8 = 4;
// Reserved: 1 has expiry, 2 has user timestamp.

/// One operation, borrowed from the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op<'a> {
    Put {
        keyspace: KeyspaceId,
        key: &'a [u8],
        value: &'a [u8],
    },
    /// A put of a large value: what stands here is a pointer to its blob.
    Blob {
        keyspace: KeyspaceId,
        key: &'a [u8],
        pointer: BlobPointer,
    },
    Delete {
        keyspace: KeyspaceId,
        key: &'a [u8],
    },
    RangeDelete {
        keyspace: KeyspaceId,
        start: &'a [u8],
        end: Option<&'a [u8]>,
    },
}

impl<'a> Op<'a> {
    /// Kind, flags, keyspace, key, and what follows the key, if anything does.
    #[inline]
    fn parts(&self) -> (Kind, u8, KeyspaceId, &'a [u8], Option<&'a [u8]>) {
        match *self {
            Op::Put { keyspace, key, value } => (Kind::Put, 0, keyspace, key, Some(value)),
            // The pointer is written apart.
            Op::Blob { keyspace, key, .. } => (Kind::Blob, 0, keyspace, key, None),
            Op::Delete { keyspace, key } => (Kind::Delete, 0, keyspace, key, None),
            Op::RangeDelete { keyspace, start, end } => {
                let flags = if end.is_none() { FLAG_NO_END } else { 0 };
                (Kind::RangeDelete, flags, keyspace, start, end)
            }
        }
    }

    /// How long the encoded operation is.
    #[inline]
    pub(crate) fn encoded_len(&self) -> usize {
        let (_, _, keyspace, key, tail) = self.parts();
        let bytes = |b: &[u8]| varint_len(b.len() as u32) + b.len();
        let pointer = if matches!(self, Op::Blob { .. }) { 1 + POINTER_BYTES } else { 0 };
        2 + varint_len(keyspace.0) + bytes(key) + tail.map_or(0, bytes) + pointer
    }

    /// Writes the operation into `out`, which is [`encoded_len`](Op::encoded_len) long. The caller has
    /// checked that lengths fit 32 bits.
    #[inline]
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let (kind, flags, keyspace, key, tail) = self.parts();
        out[0] = kind as u8;
        out[1] = flags;
        let mut at = 2 + write_varint(&mut out[2..], keyspace.0);
        let pointer = match self {
            Op::Blob { pointer, .. } => Some(pointer.encode()),
            _ => None,
        };
        let pointer = pointer.as_ref().map(|pointer| &pointer[..]);
        for bytes in [Some(key), tail, pointer].into_iter().flatten() {
            at += write_varint(&mut out[at..], bytes.len() as u32);
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        }
        debug_assert_eq!(at, out.len());
    }

    #[inline]
    fn decode(d: &mut Decoder<'a>) -> Option<Op<'a>> {
        let (kind, flags) = (Kind::from_byte(d.u8()?)?, d.u8()?);
        let (keyspace, key) = (KeyspaceId(d.varint()?), d.bytes()?);
        match (kind, flags) {
            (Kind::Put, 0) => Some(Op::Put { keyspace, key, value: d.bytes()? }),
            (Kind::Blob, 0) => {
                Some(Op::Blob { keyspace, key, pointer: BlobPointer::decode(d.bytes()?)? })
            }
            (Kind::Delete, 0) => Some(Op::Delete { keyspace, key }),
            (Kind::RangeDelete, 0) => {
                Some(Op::RangeDelete { keyspace, start: key, end: Some(d.bytes()?) })
            }
            (Kind::RangeDelete, FLAG_NO_END) => {
                Some(Op::RangeDelete { keyspace, start: key, end: None })
            }
            _ => None,
        }
    }

    pub(crate) fn keyspace(&self) -> KeyspaceId {
        match *self {
            Op::Put { keyspace, .. }
            | Op::Blob { keyspace, .. }
            | Op::Delete { keyspace, .. }
            | Op::RangeDelete { keyspace, .. } => keyspace,
        }
    }
}

/// The operations of a payload in order. An item is `None`, and the last, where the bytes are
/// no operation.
#[derive(Clone)]
pub(crate) struct Ops<'a> {
    decoder: Decoder<'a>,
    broken: bool,
}

impl<'a> Ops<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Ops<'a> {
        Ops { decoder: Decoder::new(payload), broken: false }
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Option<Op<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Option<Op<'a>>> {
        if self.broken || self.decoder.is_empty() {
            return None;
        }
        let op = Op::decode(&mut self.decoder);
        self.broken = op.is_none();
        Some(op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FileId;

    #[test]
    fn operations_round_trip_and_truncated_ones_are_noticed() {
        let (a, b) = (KeyspaceId(0), KeyspaceId(300));
        let ops = [
            Op::Put { keyspace: a, key: b"", value: b"" },
            Op::Put { keyspace: b, key: b"key", value: &[7; 300] },
            Op::Blob {
                keyspace: b,
                key: b"key",
                pointer: BlobPointer { file_id: FileId(3), identity: 4, len: 5 },
            },
            Op::Delete { keyspace: b, key: b"key" },
            Op::RangeDelete { keyspace: a, start: b"a", end: Some(b"b") },
            Op::RangeDelete { keyspace: a, start: b"", end: None },
        ];
        let mut payload = vec![];
        let mut ends = vec![0];
        for op in &ops {
            let at = payload.len();
            payload.resize(at + op.encoded_len(), 0);
            op.encode(&mut payload[at..]);
            ends.push(payload.len());
        }
        let decoded: Vec<_> = Ops::new(&payload).collect();
        assert_eq!(decoded, ops.map(Some));
        for cut in 0..payload.len() {
            let broken = Ops::new(&payload[..cut]).any(|op| op.is_none());
            assert_eq!(broken, !ends.contains(&cut), "cut at {cut}");
        }
        assert_eq!(Ops::new(&[9, 0, 0, 0]).collect::<Vec<_>>(), [None]);
        assert_eq!(Ops::new(&[1, 1, 0, 0, 0]).collect::<Vec<_>>(), [None]);
    }
}
