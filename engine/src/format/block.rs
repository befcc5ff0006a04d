//! A data block of an sstable: sorted entries, prefix-compressed. Format:
//! `docs/formats/sstable.md`.
//!
//! Every key is compressed against the first key of its group of [`GROUP`] entries, not against
//! its predecessor, so that any entry can be compared or rebuilt from two places in the block:
//! a point get that knows its entry, a binary search and a step backwards walk over nothing.

use super::blob::POINTER_BYTES;
use crate::types::{Kind, SeqKind, SeqNo};
use std::{cmp::Ordering, ops::Range};

/// How many entries share the key that they are compressed against.
const GROUP: usize = 16;
/// A block with more entries than this has no tags: scanning them would cost more than a
/// binary search.
const TAGGED_ENTRIES_MAX: usize = 512;
const COUNT_BYTES: usize = 4;
/// Kind and SeqNo, flags.
const FIXED_BYTES: usize = 9;
/// The fixed part and three varints of one byte.
const ENTRY_BYTES_MIN: usize = FIXED_BYTES + 3;

/// Why bytes were refused. Whoever read them adds file and offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// Not what we wrote: expected, found.
    Corrupt(&'static str, String),
    /// Written by a newer version.
    Unsupported(String),
}

/// An entry as it lies in its block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawEntry<'a> {
    /// How many bytes of the key are those of its group's first key.
    pub(crate) shared: usize,
    /// The rest of the key.
    pub(crate) suffix: &'a [u8],
    pub(crate) seq: SeqNo,
    pub(crate) kind: Kind,
    pub(crate) value: &'a [u8],
    /// Where in the block the value begins.
    pub(crate) value_at: usize,
}

/// Where the parts of a block lie: the count, tags, offsets, entries. What a get reads first
/// stands together at the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    count: usize,
    /// End of the tags, begin of the offsets.
    tags_end: usize,
    /// End of the offsets, begin of the entries.
    offsets_end: usize,
}

impl Layout {
    /// `None` if the parts do not fit into `contents`.
    #[inline]
    pub(crate) fn of(contents: &[u8]) -> Option<Layout> {
        let count = u32::from_le_bytes(*contents.first_chunk::<COUNT_BYTES>()?) as usize;
        let tags_end = COUNT_BYTES + tags_of(count);
        let offsets = count.checked_mul(offset_bytes(contents.len()))?;
        let offsets_end = tags_end.checked_add(offsets)?;
        let entries = contents.len().checked_sub(offsets_end)?;
        let enough = count > 0 && count.checked_mul(ENTRY_BYTES_MIN)? <= entries;
        enough.then_some(Layout { count, tags_end, offsets_end })
    }

    /// How many entries there are. At least one.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

/// How many tags a block of so many entries has.
#[inline]
fn tags_of(count: usize) -> usize {
    if count <= TAGGED_ENTRIES_MAX { count } else { 0 }
}

/// Width of an entry's offset in a block of this length.
#[inline]
fn offset_bytes(contents_len: usize) -> usize {
    if contents_len <= u16::MAX.into() { 2 } else { 4 }
}

/// The byte of a key's hash that stands in the block.
#[inline]
fn tag(hash: u64) -> u8 {
    hash as u8
}

/// A block to search. Methods return `None` where the bytes make no sense; [`Block::refuse`]
/// then says why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    contents: &'a [u8],
    layout: Layout,
}

impl<'a> Block<'a> {
    /// `layout` is that of `contents`. Another's gives nonsense, but no panic.
    #[inline]
    pub(crate) fn new(contents: &'a [u8], layout: Layout) -> Block<'a> {
        Block { contents, layout }
    }

    pub(crate) fn parse(contents: &'a [u8]) -> Result<Block<'a>, Refused> {
        let Some(layout) = Layout::of(contents) else {
            let found = format!("{} bytes that do not add up", contents.len());
            return Err(Refused::Corrupt("a block of entries", found));
        };
        Ok(Block { contents, layout })
    }

    /// How many entries it has. At least one.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.layout.len()
    }

    #[inline]
    fn offset(&self, index: usize) -> Option<usize> {
        let offsets = self.contents.get(self.layout.tags_end..self.layout.offsets_end)?;
        if offset_bytes(self.contents.len()) == 2 {
            let (bytes, _) = offsets.get(index * 2..)?.split_first_chunk()?;
            Some(usize::from(u16::from_le_bytes(*bytes)))
        } else {
            let (bytes, _) = offsets.get(index * 4..)?.split_first_chunk()?;
            Some(u32::from_le_bytes(*bytes) as usize)
        }
    }

    /// The entry at `index`.
    #[inline]
    pub(crate) fn entry(&self, index: usize) -> Option<RawEntry<'a>> {
        let at = self.offset(index)?;
        let bytes = self.contents.get(at..)?;
        let (fixed, _) = bytes.split_first_chunk::<ENTRY_BYTES_MIN>()?;
        let (head, lengths) = fixed.split_first_chunk::<FIXED_BYTES>()?;
        let (seq_kind, flags) = head.split_first_chunk::<8>()?;
        if flags != [0] {
            return None;
        }
        let seq_kind = SeqKind(u64::from_le_bytes(*seq_kind));
        let kind = seq_kind.kind().filter(|k| *k != Kind::RangeDelete)?;
        let (shared, unshared, value_len, used) =
            if lengths.iter().fold(0, |all, byte| all | byte) < 0x80 {
                (lengths[0].into(), lengths[1].into(), lengths[2].into(), ENTRY_BYTES_MIN)
            } else {
                let mut d = Varints { bytes, at: FIXED_BYTES };
                (d.next()?, d.next()?, d.next()?, d.at)
            };
        let (suffix, rest) = bytes.get(used..)?.split_at_checked(unshared)?;
        let value = rest.get(..value_len)?;
        if kind == Kind::Blob && value.len() != POINTER_BYTES {
            return None;
        }
        Some(RawEntry {
            shared,
            suffix,
            seq: seq_kind.seq(),
            kind,
            value,
            value_at: at + used + unshared,
        })
    }

    /// Whether others are compressed against the entry at `index`.
    #[inline]
    pub(crate) fn starts_group(index: usize) -> bool {
        index.is_multiple_of(GROUP)
    }

    /// The key that the entry at `index` is compressed against.
    #[inline]
    pub(crate) fn base(&self, index: usize) -> Option<&'a [u8]> {
        let first = self.entry(index - index % GROUP)?;
        (first.shared == 0).then_some(first.suffix)
    }

    /// The entry with this key and hash.
    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<Option<RawEntry<'a>>> {
        let tags = self.contents.get(COUNT_BYTES..self.layout.tags_end)?;
        if tags.is_empty() {
            return self.find_by_search(key);
        }
        let wanted = tag(hash);
        let (eights, rest) = tags.as_chunks::<8>();
        for (i, eight) in eights.iter().enumerate() {
            let mut equal = equal_bytes(u64::from_le_bytes(*eight), wanted);
            while equal != 0 {
                let index = i * 8 + equal.trailing_zeros() as usize / 8;
                if let Some(found) = self.entry_if(index, key)? {
                    return Some(Some(found));
                }
                equal &= equal - 1;
            }
        }
        for (i, found) in rest.iter().enumerate() {
            if *found == wanted
                && let Some(found) = self.entry_if(eights.len() * 8 + i, key)?
            {
                return Some(Some(found));
            }
        }
        Some(None)
    }

    /// As [`Block::find`], without tags.
    pub(crate) fn find_by_search(&self, key: &[u8]) -> Option<Option<RawEntry<'a>>> {
        match self.lower_bound(key)? {
            index if index < self.len() => self.entry_if(index, key),
            _ => Some(None),
        }
    }

    /// The entry at `index` if it has this key.
    #[inline]
    fn entry_if(&self, index: usize, key: &[u8]) -> Option<Option<RawEntry<'a>>> {
        let entry = self.entry(index)?;
        let same_suffix = key.get(entry.shared..) == Some(entry.suffix);
        let same = same_suffix
            && (entry.shared == 0
                || self.base(index)?.get(..entry.shared)? == &key[..entry.shared]);
        Some(same.then_some(entry))
    }

    /// The first entry whose key is `key` or greater; the number of entries if none is.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> Option<usize> {
        let groups = self.len().div_ceil(GROUP);
        let groups_before = partition(0..groups, |group| {
            Some(self.base(group * GROUP)?.cmp(key) == Ordering::Less)
        })?;
        let Some(group) = groups_before.checked_sub(1) else {
            return Some(0);
        };
        // The group's first key is less than `key`. Where an entry shares more of that key than
        // `key` does, it is less for the same reason; else only its suffix decides.
        let first = group * GROUP;
        let common = common_prefix(self.base(first)?, key);
        partition(first + 1..self.len().min(first + GROUP), |index| {
            let entry = self.entry(index)?;
            Some(entry.shared > common || entry.suffix < &key[entry.shared..])
        })
    }

    /// Why a method returned `None`: the first entry from `index` on that makes no sense.
    #[cold]
    pub(crate) fn refuse(&self, index: usize) -> Refused {
        let corrupt = |found: &str| Refused::Corrupt("entries within their block", found.into());
        let bad = (index..self.len()).find(|i| self.entry(*i).is_none());
        let Some(offset) = bad.map(|i| self.offset(i)) else {
            return corrupt("a key that shares more than there is");
        };
        let bytes = offset.and_then(|at| self.contents.get(at..));
        match bytes.and_then(<[u8]>::first_chunk::<FIXED_BYTES>) {
            None => corrupt("an impossible offset"),
            Some([kind @ (3 | 4 | 6..), ..]) => {
                Refused::Unsupported(format!("an entry of kind {kind}"))
            }
            Some([1 | 2 | 5, .., flags]) if *flags != 0 => {
                Refused::Unsupported(format!("an entry with flags {flags:#x}"))
            }
            Some(_) => corrupt("impossible lengths"),
        }
    }
}

struct Varints<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Varints<'_> {
    #[inline]
    fn next(&mut self) -> Option<usize> {
        let byte = *self.bytes.get(self.at)?;
        if byte < 0x80 {
            self.at += 1;
            return Some(byte.into());
        }
        let mut d = super::bytes::Decoder::new(self.bytes.get(self.at..)?);
        let value = d.varint()?;
        self.at += d.at();
        Some(value as usize)
    }
}

/// The first of `range` for which `before` is false, given that it is true up to there.
#[inline]
fn partition(range: Range<usize>, before: impl Fn(usize) -> Option<bool>) -> Option<usize> {
    let Range { mut start, mut end } = range;
    while start < end {
        let middle = start.midpoint(end);
        match before(middle)? {
            true => start = middle + 1,
            false => end = middle,
        }
    }
    Some(start)
}

/// The high bit of every byte of `word` that equals `byte`, and now and then of one behind it.
#[inline]
fn equal_bytes(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & (ONES << 7)
}

/// How many leading bytes the two have in common.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (a8, b8) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let eights = a8.iter().zip(b8).take_while(|(a, b)| a == b).count();
    let at = eights * 8;
    let rest = a[at..].iter().zip(&b[at..]);
    at + rest.take_while(|(a, b)| a == b).count()
}

/// Collects the entries of one block.
#[derive(Default)]
pub(crate) struct BlockBuilder {
    entries: Vec<u8>,
    /// Where in `entries` each begins.
    offsets: Vec<u32>,
    tags: Vec<u8>,
    /// Where in `entries` the first key of the present group is.
    base: Range<usize>,
    contents: Vec<u8>,
}

impl BlockBuilder {
    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Length of the block as it stands.
    pub(crate) fn len(&self) -> usize {
        COUNT_BYTES + self.offsets.len() * 3 + self.entries.len()
    }

    /// What one more entry may add to the length.
    pub(crate) fn entry_len_max(key: &[u8], value: &[u8]) -> usize {
        FIXED_BYTES + 3 * 5 + key.len() + value.len() + 3
    }

    /// Appends an entry. Its key is greater than the last; key and value together are far
    /// below 4 GiB.
    pub(crate) fn add(&mut self, hash: u64, key: &[u8], seq: SeqNo, kind: Kind, value: &[u8]) {
        let starts_group = Block::starts_group(self.offsets.len());
        let shared =
            if starts_group { 0 } else { common_prefix(&self.entries[self.base.clone()], key) };
        self.offsets.push(self.entries.len() as u32);
        self.tags.push(tag(hash));
        let out = &mut self.entries;
        out.extend_from_slice(&SeqKind::new(seq, kind).0.to_le_bytes());
        out.push(0); // flags
        super::bytes::put_varint(out, shared as u32);
        super::bytes::put_varint(out, (key.len() - shared) as u32);
        super::bytes::put_varint(out, value.len() as u32);
        if starts_group {
            self.base = out.len()..out.len() + key.len();
        }
        out.extend_from_slice(&key[shared..]);
        out.extend_from_slice(value);
    }

    /// The whole block. [`BlockBuilder::clear`] starts the next one.
    pub(crate) fn finish(&mut self) -> &[u8] {
        let count = self.offsets.len();
        let tags = tags_of(count);
        let len_but_offsets = COUNT_BYTES + tags + self.entries.len();
        let width = offset_bytes(len_but_offsets + count * 2);
        let entries_at = (COUNT_BYTES + tags + count * width) as u32;
        self.contents.clear();
        self.contents.reserve(len_but_offsets + count * width);
        self.contents.extend_from_slice(&(count as u32).to_le_bytes());
        self.contents.extend_from_slice(&self.tags[..tags]);
        for offset in &self.offsets {
            let bytes = (entries_at + offset).to_le_bytes();
            self.contents.extend_from_slice(&bytes[..width]);
        }
        self.contents.extend_from_slice(&self.entries);
        &self.contents
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.offsets.clear();
        self.tags.clear();
        self.base = 0..0;
    }
}
