//! What an sstable says of its contents. Format: `docs/formats/sstable.md`.

use crate::{
    config::Compression,
    format::{
        blob::{BlobPointer, POINTER_BYTES},
        block::Refused,
        bytes::{Decoder, put_bytes},
    },
    types::{KeyspaceId, SeqNo},
};
use std::ops::Bound;

const FILTER_HASH: &[u8] = b"xxh3-64";
const COMPARATOR_BYTEWISE: u8 = 0;

/// What an sstable holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Contents {
    /// Puts and deletes.
    pub(crate) entries: u64,
    /// Of the entries, those that delete.
    pub(crate) deletes: u64,
    /// Fragments of range deletes.
    pub(crate) range_tombstones: u64,
    /// Of entries and range tombstones. `None` if there are neither.
    pub(crate) bounds: Option<KeyBounds>,
    /// Of entries and range tombstones; 0 if there are neither.
    pub(crate) smallest_seq: SeqNo,
    /// Of entries and range tombstones; 0 if there are neither.
    pub(crate) largest_seq: SeqNo,
}

/// The keys that a file says something about lie within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyBounds {
    pub(crate) smallest: Vec<u8>,
    /// Included if it is an entry's key, excluded if it is a range tombstone's end.
    pub(crate) largest: Bound<Vec<u8>>,
}

impl KeyBounds {
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.smallest.as_slice() <= key
            && match &self.largest {
                Bound::Included(largest) => key <= largest.as_slice(),
                Bound::Excluded(end) => key < end.as_slice(),
                Bound::Unbounded => true,
            }
    }

    /// The least bounds that contain both.
    pub(crate) fn union(self, other: KeyBounds) -> KeyBounds {
        let smallest = self.smallest.min(other.smallest);
        let largest = match (self.largest, other.largest) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => Bound::Unbounded,
            (Bound::Included(a), Bound::Included(b)) => Bound::Included(a.max(b)),
            (Bound::Excluded(a), Bound::Excluded(b)) => Bound::Excluded(a.max(b)),
            (Bound::Included(key), Bound::Excluded(end))
            | (Bound::Excluded(end), Bound::Included(key)) => match key < end {
                true => Bound::Excluded(end),
                false => Bound::Included(key),
            },
        };
        KeyBounds { smallest, largest }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) contents: Contents,
    pub(crate) raw_key_bytes: u64,
    pub(crate) raw_value_bytes: u64,
    /// What the builder was told to use; each block says what it uses.
    pub(crate) compression: Compression,
    /// Those that entries point to, in the order of their keys.
    pub(crate) blobs: Vec<BlobPointer>,
}

/// Readers skip a tag that they do not know only if this bit is set.
const OPTIONAL: u8 = 0x80;
const KEYSPACE: u8 = 1;
const COMPARATOR: u8 = 2;
const HASH: u8 = 3;
const ENTRIES: u8 = 4;
const DELETES: u8 = 5;
const RANGE_TOMBSTONES: u8 = 6;
const SMALLEST_SEQ: u8 = 7;
const LARGEST_SEQ: u8 = 8;
const SMALLEST_KEY: u8 = 9;
const LARGEST_INCLUDED: u8 = 10;
const LARGEST_EXCLUDED: u8 = 11;
const BLOBS: u8 = 13;
const RAW_KEY_BYTES: u8 = OPTIONAL | 1;
const RAW_VALUE_BYTES: u8 = OPTIONAL | 2;
const COMPRESSION: u8 = OPTIONAL | 3;

impl Properties {
    /// Bytes of all keys and values, before compression.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.raw_key_bytes.saturating_add(self.raw_value_bytes)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![];
        let mut put = |tag: u8, value: &[u8]| {
            out.push(tag);
            put_bytes(&mut out, value);
        };
        let contents = &self.contents;
        put(KEYSPACE, &self.keyspace.0.to_le_bytes());
        put(COMPARATOR, &[COMPARATOR_BYTEWISE]);
        put(HASH, FILTER_HASH);
        put(ENTRIES, &contents.entries.to_le_bytes());
        put(DELETES, &contents.deletes.to_le_bytes());
        put(RANGE_TOMBSTONES, &contents.range_tombstones.to_le_bytes());
        put(SMALLEST_SEQ, &contents.smallest_seq.0.to_le_bytes());
        put(LARGEST_SEQ, &contents.largest_seq.0.to_le_bytes());
        if let Some(bounds) = &contents.bounds {
            put(SMALLEST_KEY, &bounds.smallest);
            match &bounds.largest {
                Bound::Included(key) => put(LARGEST_INCLUDED, key),
                Bound::Excluded(key) => put(LARGEST_EXCLUDED, key),
                Bound::Unbounded => {}
            }
        }
        if !self.blobs.is_empty() {
            let pointers = self.blobs.iter().flat_map(|blob| blob.encode());
            put(BLOBS, &pointers.collect::<Vec<u8>>());
        }
        put(RAW_KEY_BYTES, &self.raw_key_bytes.to_le_bytes());
        put(RAW_VALUE_BYTES, &self.raw_value_bytes.to_le_bytes());
        put(COMPRESSION, &[u32::from(self.compression) as u8]);
        out
    }

    pub(crate) fn decode(contents: &[u8]) -> Result<Properties, Refused> {
        let corrupt = |found: String| Refused::Corrupt("a property", found);
        let mut found = FoundProperties::default();
        let mut d = Decoder::new(contents);
        let mut last = 0;
        while !d.is_empty() {
            let at = d.at();
            let (tag, value) = (|| Some((d.u8()?, d.bytes()?)))()
                .ok_or_else(|| corrupt(format!("other bytes at {at}")))?;
            if tag <= last {
                return Err(corrupt(format!("property {tag} behind {last}")));
            }
            last = tag;
            found.take(tag, value)?;
        }
        found.whole().ok_or_else(|| corrupt("the end of the block".into()))
    }
}

#[derive(Default)]
struct FoundProperties<'a> {
    keyspace: Option<KeyspaceId>,
    comparator: Option<()>,
    hash: Option<()>,
    numbers: [Option<u64>; 5],
    smallest: Option<&'a [u8]>,
    largest: Option<Bound<&'a [u8]>>,
    raw: [u64; 2],
    compression: Option<Compression>,
    blobs: Vec<BlobPointer>,
}

impl<'a> FoundProperties<'a> {
    fn take(&mut self, tag: u8, value: &'a [u8]) -> Result<(), Refused> {
        let wrong_length = || {
            let found = format!("property {tag} of {} bytes", value.len());
            Refused::Corrupt("a property of another length", found)
        };
        let number = || {
            let bytes = value.try_into().map_err(|_| wrong_length())?;
            Ok(u64::from_le_bytes(bytes))
        };
        let unsupported = |what: &str| Refused::Unsupported(format!("{what} {value:02x?}"));
        match tag {
            KEYSPACE => {
                let bytes = value.try_into().map_err(|_| wrong_length())?;
                self.keyspace = Some(KeyspaceId(u32::from_le_bytes(bytes)));
            }
            COMPARATOR if value == [COMPARATOR_BYTEWISE] => self.comparator = Some(()),
            COMPARATOR => return Err(unsupported("comparator")),
            HASH if value == FILTER_HASH => self.hash = Some(()),
            HASH => return Err(unsupported("hash")),
            ENTRIES..=LARGEST_SEQ => self.numbers[usize::from(tag - ENTRIES)] = Some(number()?),
            SMALLEST_KEY => self.smallest = Some(value),
            LARGEST_INCLUDED if self.largest.is_none() => {
                self.largest = Some(Bound::Included(value));
            }
            LARGEST_EXCLUDED if self.largest.is_none() => {
                self.largest = Some(Bound::Excluded(value));
            }
            BLOBS => {
                let pointers = value.chunks(POINTER_BYTES).map(BlobPointer::decode);
                self.blobs = pointers.collect::<Option<_>>().ok_or_else(wrong_length)?;
            }
            RAW_KEY_BYTES => self.raw[0] = number()?,
            RAW_VALUE_BYTES => self.raw[1] = number()?,
            COMPRESSION => {
                let byte = value.first().copied().ok_or_else(wrong_length)?;
                self.compression = Compression::from_u32(byte.into());
            }
            _ if tag & OPTIONAL != 0 => {}
            _ => return Err(Refused::Unsupported(format!("property {tag}"))),
        }
        Ok(())
    }

    fn whole(self) -> Option<Properties> {
        let [entries, deletes, range_tombstones, smallest_seq, largest_seq] = self.numbers;
        self.comparator.and(self.hash)?;
        let bounds = self.smallest.map(|smallest| KeyBounds {
            smallest: smallest.to_vec(),
            largest: self.largest.unwrap_or(Bound::Unbounded).map(<[u8]>::to_vec),
        });
        Some(Properties {
            keyspace: self.keyspace?,
            contents: Contents {
                entries: entries?,
                deletes: deletes?,
                range_tombstones: range_tombstones?,
                bounds,
                smallest_seq: SeqNo(smallest_seq?),
                largest_seq: SeqNo(largest_seq?),
            },
            raw_key_bytes: self.raw[0],
            raw_value_bytes: self.raw[1],
            compression: self.compression.unwrap_or(Compression::None),
            blobs: self.blobs,
        })
    }
}
