//! What a serializable transaction has read: nothing of it may have changed when it commits.

use super::window::{Point, Span};
use crate::types::{KeyspaceId, SeqNo};
use std::{collections::BTreeSet, mem::size_of};

/// Keys and ranges that were read, by value: scans go on adding while they move.
#[derive(Default)]
pub(crate) struct Reads {
    /// With their hashes, and in the order of these.
    points: BTreeSet<(u64, KeyspaceId, Box<[u8]>)>,
    spans: Vec<Range>,
    bytes: usize,
}

/// A half-open range that was read.
pub(crate) struct Range {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
}

impl Reads {
    /// A key was read, whether it was there or not.
    pub(crate) fn point(&mut self, keyspace: KeyspaceId, key: &[u8]) {
        if self.points.insert((keyspace.hash(key), keyspace, Box::from(key))) {
            self.bytes += key.len() + size_of::<(u64, KeyspaceId, Box<[u8]>)>();
        }
    }

    /// A range was read. Returns its place, for [`Reads::replace`].
    pub(crate) fn span(&mut self, range: Range) -> usize {
        self.bytes += size_of::<Range>() + range.start.len();
        self.spans.push(range);
        self.spans.len() - 1
    }

    /// Puts a range in the place of one: more of it was read.
    pub(crate) fn replace(&mut self, at: usize, range: Range) {
        if let Some(place) = self.spans.get_mut(at) {
            *place = range;
        }
    }

    /// Bytes of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn points(&self, since: SeqNo) -> impl Iterator<Item = Point<'_>> {
        let points = self.points.iter();
        points.map(move |(hash, keyspace, key)| Point {
            hash: *hash,
            keyspace: *keyspace,
            key,
            since,
        })
    }

    pub(crate) fn spans(&self, since: SeqNo) -> impl Iterator<Item = Span<'_>> {
        let read = |range: &&Range| range.end.as_deref().is_none_or(|end| *range.start < *end);
        self.spans.iter().filter(read).map(move |range| Span {
            keyspace: range.keyspace,
            start: &range.start,
            end: range.end.as_deref(),
            since,
        })
    }
}
