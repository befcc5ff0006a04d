//! Sorted sequences of entries: what every place that holds data offers ([`Cursor`]), the range
//! tombstones it carries ([`RangeTombstones`]), and the merge of many places into one view.

pub(crate) mod clipped;
pub(crate) mod merge;
pub(crate) mod tombstones;

use crate::{
    error::Result,
    types::{Kind, SeqNo},
};

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
