//! A sorted place that is alone, and of which every entry counts.

use super::{Bounds, Cursor, Direction, Entry};
use crate::error::Result;

/// Walks the keys within bounds, in one direction, and lends each entry from where it lies.
pub(crate) struct Lone<C> {
    cursor: C,
    direction: Direction,
    started: bool,
}

impl<C: Cursor> Lone<C> {
    pub(crate) fn new(cursor: C, direction: Direction) -> Lone<C> {
        Lone { cursor, direction, started: false }
    }

    /// The next entry. `bounds` may have become narrower at the end that the walk goes towards; once there
    /// is no entry, the walk is over.
    #[inline]
    pub(crate) fn next(&mut self, bounds: &Bounds) -> Result<Option<Entry<'_>>> {
        match (self.started, self.direction) {
            (true, Direction::Forward) => self.cursor.next()?,
            (true, Direction::Reverse) => self.cursor.prev()?,
            (false, direction) => {
                direction.seek(&mut self.cursor, bounds)?;
                self.started = true;
            }
        }
        let entry = self.cursor.entry();
        Ok(entry.filter(|entry| self.direction.is_before_end(bounds, entry.key)))
    }

    /// The entry that was lent last.
    #[inline]
    pub(crate) fn here(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.entry().map(|entry| (entry.key, entry.value))
    }

    /// What it walks with.
    #[inline]
    pub(crate) fn cursor(&mut self) -> &mut C {
        &mut self.cursor
    }
}
