//! Iterating over a range.

use super::Handle;
use crate::{
    db::{
        read,
        scan::{Bounds, Walk, is_inverted},
        view::View,
    },
    error::{Error, Result},
    iter::Direction,
    types::{KeyspaceId, SeqNo},
    version::Version,
};
use std::{fmt, sync::Arc};

/// Walks the entries of a range in key order, or from the back with [`rev`](Iterator::rev) and
/// [`next_back`](DoubleEndedIterator::next_back). It shows one moment: what is written after it was made,
/// it does not show. It owns what it needs, and keeps that in memory and on disk while it lives.
///
/// After an error it returns that error for ever.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put_batch(&[("a", "1"), ("b", "2"), ("c", "3")])?;
/// let mut scan = db.iter()?;
/// assert_eq!(scan.next().unwrap()?, (b"a".to_vec(), b"1".to_vec()));
/// assert_eq!(scan.next_back().unwrap()?, (b"c".to_vec(), b"3".to_vec()));
/// // Without copying:
/// let (key, value) = scan.next_ref()?.unwrap();
/// assert_eq!((key, value), (&b"b"[..], &b"2"[..]));
/// assert!(scan.next_ref()?.is_none());
/// # Ok::<(), lightning_db::Error>(())
/// ```
pub struct Scan {
    handle: Arc<Handle>,
    walk: Walk,
    /// Forward is towards lower keys.
    reversed: bool,
    /// The snapshot's, if it is of one.
    view: Option<Arc<View>>,
    failed: Option<Error>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("reversed", &self.reversed).finish_non_exhaustive()
    }
}

impl Scan {
    pub(super) fn new(
        handle: Arc<Handle>,
        (version, visible): (Arc<Version>, SeqNo),
        keyspace: KeyspaceId,
        bounds: Bounds,
        reversed: bool,
    ) -> Result<Scan> {
        if is_inverted(&bounds) {
            return Err(Error::InvertedRange);
        }
        read::check_keyspace(&version, keyspace)?;
        Ok(Self::of_any(handle, (version, visible), keyspace, bounds, reversed))
    }

    /// A scan of what may not have been there at that moment: then there is nothing in it.
    pub(super) fn of_any(
        handle: Arc<Handle>,
        (version, visible): (Arc<Version>, SeqNo),
        keyspace: KeyspaceId,
        bounds: Bounds,
        reversed: bool,
    ) -> Scan {
        let walk = Walk::new(version, visible, keyspace, bounds);
        Scan { handle, walk, reversed, view: None, failed: None }
    }

    /// The same, which ends when the moment does.
    pub(super) fn of(self, view: &Arc<View>) -> Scan {
        Scan { view: Some(Arc::clone(view)), ..self }
    }

    /// The next entry, borrowed until the next call: nothing is copied out.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("a", "1")?;
    /// let mut scan = db.iter()?;
    /// while let Some((key, value)) = scan.next_ref()? {
    ///     assert_eq!((key, value), (&b"a"[..], &b"1"[..]));
    /// }
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// What reading from disk found wrong; [`Error::Closed`] once the database is closed.
    pub fn next_ref(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        self.step(false)
    }

    /// The next entry from the other end, borrowed until the next call.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// assert_eq!(db.iter()?.next_back_ref()?.unwrap().0, b"b");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Scan::next_ref`].
    pub fn next_back_ref(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        self.step(true)
    }

    #[inline]
    fn step(&mut self, back: bool) -> Result<Option<(&[u8], &[u8])>> {
        let direction = match back != self.reversed {
            false => Direction::Forward,
            true => Direction::Reverse,
        };
        // A walk that failed stands nowhere.
        if self.walk.step_in_leaf(&self.handle.db, direction) {
            return Ok(self.walk.here(direction));
        }
        self.next(direction)
    }

    #[inline(never)]
    fn next(&mut self, direction: Direction) -> Result<Option<(&[u8], &[u8])>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Some(Err(error)) = self.view.as_ref().map(|view| view.check()) {
            self.walk.end(&self.handle.db);
            self.failed = Some(error.clone());
            return Err(error);
        }
        let found = self.walk.next(&self.handle.db, direction);
        if let Err(error) = &found {
            self.failed = Some(error.clone());
        }
        found
    }
}

type Entry = (Vec<u8>, Vec<u8>);

fn owned(found: Result<Option<(&[u8], &[u8])>>) -> Option<Result<Entry>> {
    found.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).transpose()
}

impl Iterator for Scan {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        owned(self.next_ref())
    }
}

impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        owned(self.next_back_ref())
    }
}
