//! A place of which only the keys from some key on count.

use super::{Cursor, Entry};
use crate::error::Result;
use std::sync::Arc;

/// A [`Cursor`] that does not see keys below `from`.
pub(crate) struct Clipped<C> {
    cursor: C,
    from: Arc<[u8]>,
}

impl<C: Cursor> Clipped<C> {
    pub(crate) fn new(cursor: C, from: Arc<[u8]>) -> Clipped<C> {
        Clipped { cursor, from }
    }
}

impl<C: Cursor> Cursor for Clipped<C> {
    fn seek_first(&mut self) -> Result<()> {
        self.cursor.seek(&self.from)
    }

    fn seek_last(&mut self) -> Result<()> {
        self.cursor.seek_last()
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.cursor.seek(key.max(&self.from))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.cursor.seek_before(key)
    }

    fn next(&mut self) -> Result<()> {
        self.cursor.next()
    }

    fn prev(&mut self) -> Result<()> {
        self.cursor.prev()
    }

    fn entry(&self) -> Option<Entry<'_>> {
        // Going back, the cursor may stand below: then it ran off the end.
        self.cursor.entry().filter(|entry| entry.key >= &*self.from)
    }
}
