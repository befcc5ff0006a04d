//! Sorted sequences of entries: what every place that holds data offers ([`Cursor`]), the range
//! tombstones it carries ([`RangeTombstones`]), and the merge of many places into one view.

pub(crate) mod clipped;
pub(crate) mod lone;
pub(crate) mod merge;
pub(crate) mod tombstones;

use crate::{
    error::Result,
    types::{Kind, SeqNo},
};
use std::{cmp::Ordering, ops::Bound};

/// The keys of a range.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// One entry of one place, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// The user's key, without keyspace.
    pub(crate) key: &'a [u8],
    pub(crate) seq: SeqNo,
    /// `Put` or `Delete`; range deletes stand apart, in [`tombstones::RangeTombstones`].
    pub(crate) kind: Kind,
    pub(crate) value: &'a [u8],
}

/// A position in the entries of one keyspace in one place, ordered by key ascending, then by
/// SeqNo descending. A new cursor is unpositioned; one that ran off either end is too, and can
/// be positioned again.
///
/// After an error the cursor is unpositioned.
pub(crate) trait Cursor {
    /// To the first entry.
    fn seek_first(&mut self) -> Result<()>;
    /// To the last entry.
    fn seek_last(&mut self) -> Result<()>;
    /// To the first entry whose key is `key` or greater.
    fn seek(&mut self, key: &[u8]) -> Result<()>;
    /// To the last entry whose key is less than `key`.
    fn seek_before(&mut self, key: &[u8]) -> Result<()>;
    /// To the following entry. The cursor must be positioned.
    fn next(&mut self) -> Result<()>;
    /// To the preceding entry. The cursor must be positioned.
    fn prev(&mut self) -> Result<()>;
    /// The entry here, or `None` if unpositioned.
    fn entry(&self) -> Option<Entry<'_>>;
}

/// Which way a walk through a range goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Forward,
    Reverse,
}

impl Direction {
    pub(crate) fn reverse(self) -> Direction {
        match self {
            Direction::Forward => Direction::Reverse,
            Direction::Reverse => Direction::Forward,
        }
    }

    /// Moves a cursor to where the walk begins.
    pub(crate) fn seek<C: Cursor + ?Sized>(self, cursor: &mut C, bounds: &Bounds) -> Result<()> {
        match (self, &bounds.0, &bounds.1) {
            (Direction::Forward, Bound::Unbounded, _) => cursor.seek_first(),
            (Direction::Forward, Bound::Included(key), _) => cursor.seek(key),
            (Direction::Forward, Bound::Excluded(key), _) => cursor.seek(&successor(key)),
            (Direction::Reverse, _, Bound::Unbounded) => cursor.seek_last(),
            (Direction::Reverse, _, Bound::Included(key)) => cursor.seek_before(&successor(key)),
            (Direction::Reverse, _, Bound::Excluded(key)) => cursor.seek_before(key),
        }
    }

    /// Whether a key is still within the bound that the walk goes towards.
    #[inline(always)]
    pub(crate) fn is_before_end(self, bounds: &Bounds, key: &[u8]) -> bool {
        let (end, before) = match self {
            Direction::Forward => (&bounds.1, Ordering::Less),
            Direction::Reverse => (&bounds.0, Ordering::Greater),
        };
        match end {
            Bound::Unbounded => true,
            Bound::Included(end) => key.cmp(end) != before.reverse(),
            Bound::Excluded(end) => key.cmp(end) == before,
        }
    }

    /// Narrows bounds to the keys behind `key`, in the memory that they have.
    pub(crate) fn pass(self, bounds: &mut Bounds, key: &[u8]) {
        let bound = match self {
            Direction::Forward => &mut bounds.0,
            Direction::Reverse => &mut bounds.1,
        };
        match bound {
            Bound::Excluded(old) => {
                old.clear();
                old.extend_from_slice(key);
            }
            other => *other = Bound::Excluded(key.to_vec()),
        }
    }
}

/// The key right behind `key`.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}
