//! Which block of a file a key belongs to: the file's index, in memory, in a form to search.
//!
//! What all separators begin with is kept once. Of the rest, the first eight bytes stand in an
//! array of their own, which decides nearly every search without touching a key.

use crate::format::{
    block::{Refused, common_prefix},
    header::HEADER_BYTES,
    sstable::decode_index,
};
use std::{cmp::Ordering, ops::Range};

pub(super) struct Index {
    /// What every separator begins with.
    prefix: Vec<u8>,
    /// The next eight bytes of each, big-endian, padded with zeros.
    heads: Vec<u64>,
    /// Each without the prefix, one behind the other.
    keys: Vec<u8>,
    /// Where in `keys` each ends.
    key_ends: Vec<usize>,
    /// Where in the file each block begins, and the last one ends.
    offsets: Vec<u64>,
}

impl Index {
    pub(super) fn decode(contents: &[u8]) -> Result<Index, Refused> {
        let mut keys: Vec<u8> = vec![];
        let mut key_ends = vec![];
        let mut at = HEADER_BYTES as u64;
        let mut offsets = vec![at];
        decode_index(contents, |separator, block_len| {
            keys.extend_from_slice(separator);
            key_ends.push(keys.len());
            at += u64::from(block_len);
            offsets.push(at);
        })?;
        let mut index = Index { prefix: vec![], heads: vec![], keys, key_ends, offsets };
        index.take_prefix();
        index.heads = (0..index.len()).map(|i| head(index.key(i))).collect();
        Ok(index)
    }

    /// Separators ascend, so what the first and the last begin with, all begin with.
    fn take_prefix(&mut self) {
        let Some(last) = self.len().checked_sub(1) else {
            return;
        };
        let common = common_prefix(self.key(0), self.key(last));
        self.prefix = self.key(0)[..common].to_vec();
        let mut keys = Vec::with_capacity(self.keys.len() - common * self.len());
        let mut ends = Vec::with_capacity(self.len());
        for i in 0..self.len() {
            keys.extend_from_slice(&self.key(i)[common..]);
            ends.push(keys.len());
        }
        self.keys = keys;
        self.key_ends = ends;
    }

    /// How many blocks there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.key_ends.len()
    }

    /// Where in the file a block and its trailer lie.
    #[inline]
    pub(super) fn place(&self, block: usize) -> Range<u64> {
        self.offsets[block]..self.offsets[block + 1]
    }

    /// Where the last block ends.
    pub(super) fn end(&self) -> u64 {
        self.offsets[self.len()]
    }

    /// A separator without the prefix.
    fn key(&self, i: usize) -> &[u8] {
        let start = i.checked_sub(1).map_or(0, |before| self.key_ends[before]);
        &self.keys[start..self.key_ends[i]]
    }

    /// The block in which `key` is, if it is anywhere, and in which the first key greater than it
    /// is, unless that one is the first of the next block. [`Index::len`] if all keys are less.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> usize {
        let rest = match key.strip_prefix(self.prefix.as_slice()) {
            Some(rest) => rest,
            None => match key.cmp(&self.prefix) {
                Ordering::Less => return 0,
                _ => return self.len(),
            },
        };
        let wanted = head(rest);
        let mut start = self.heads.partition_point(|head| *head < wanted);
        if self.heads.get(start) != Some(&wanted) {
            return start;
        }
        // Among equal heads, rarely more than one, the whole keys decide.
        let equal = self.heads[start..].partition_point(|head| *head == wanted);
        let mut end = start + equal;
        while start < end {
            let middle = start.midpoint(end);
            match self.key(middle) < rest {
                true => start = middle + 1,
                false => end = middle,
            }
        }
        start
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.prefix.len() + self.keys.len() + 24 * self.len()
    }
}

#[inline]
fn head(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(head)
        }
    }
}
