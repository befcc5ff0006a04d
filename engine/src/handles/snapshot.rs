//! A view of one moment.

use super::{Handle, KeyRange, Keyspace, Scan, ValueReader, ValueRef, range::owned};
use crate::{
    db::{read, scan, view::View},
    error::Result,
    types::{KeyspaceId, SeqNo},
};
use std::{fmt, ops::Bound, sync::Arc};

/// A view of the database at one moment: it always reads the same data, whatever is written after.
///
/// It keeps that data in memory and on disk while it lives; a snapshot held for long costs space. If it is older than
/// [`version_retention`](crate::LightningDbConfig::version_retention), or if what old snapshots hold in memory is more than
/// a quarter of [`max_memory`](crate::LightningDbConfig::max_memory) and it is the oldest of several, it ends: all its verbs, and
/// scans of it, fail with [`SnapshotTooOld`](crate::Error::SnapshotTooOld). One made
/// by [`Database::snapshot`](crate::Database::snapshot) reads the default keyspace; [`Snapshot::of`] reads
/// another at the same moment.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put("key", "old")?;
/// let snapshot = db.snapshot()?;
/// db.put("key", "new")?;
/// assert_eq!(snapshot.get("key")?.as_deref(), Some(&b"old"[..]));
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
    /// Dropped behind the view.
    handle: Arc<Handle>,
    keyspace: KeyspaceId,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("seq", &self.view.seq())
            .field("keyspace", &self.keyspace)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(crate) fn new(handle: &Arc<Handle>, keyspace: KeyspaceId) -> Result<Snapshot> {
        let view = View::begin(&handle.db)?;
        Ok(Snapshot { handle: Arc::clone(handle), view, keyspace })
    }

    /// The same moment in another keyspace.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// let moment = db.snapshot()?;
    /// users.delete("1")?;
    /// assert!(moment.of(&users).contains_key("1")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn of(&self, keyspace: &Keyspace) -> Snapshot {
        Snapshot { keyspace: keyspace.id, ..self.clone() }
    }

    /// The SeqNo of the newest operation that it shows.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// db.put("c", "3")?;
    /// assert!(db.snapshot()?.seq() > snapshot.seq());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn seq(&self) -> SeqNo {
        self.view.seq()
    }

    /// Hands what is found of a key to `with`.
    #[inline]
    fn find<R>(
        &self,
        key: &[u8],
        with: impl FnOnce(Option<read::Value<'_>>) -> Result<R>,
    ) -> Result<R> {
        let version = self.view.pin()?;
        with(read::find(&version, self.view.seq(), self.keyspace, key)?)
    }

    /// The value of a key, copied out.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// db.put("a", "new")?;
    /// assert_eq!(snapshot.get("a")?, Some(b"1".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// What reading from disk found wrong; [`Error::Closed`](crate::Error::Closed).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let db = &self.handle.db;
        self.find(key.as_ref(), |found| found.map(|value| value.copied(db)).transpose())
    }

    /// The value of a key, where it lies.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// assert_eq!(snapshot.get_ref("a")?.as_deref(), Some(&b"1"[..]));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_ref(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueRef>> {
        ValueRef::new(&self.handle.db, self.view.version()?, |version| {
            read::find(version, self.view.seq(), self.keyspace, key.as_ref())
        })
    }

    /// The value of a key, to be read piece by piece. See [`Keyspace::get_reader`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// db.delete("a")?;
    /// let mut value = String::new();
    /// std::io::Read::read_to_string(&mut snapshot.get_reader("a")?.unwrap(), &mut value).unwrap();
    /// assert_eq!(value, "1");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_reader(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueReader>> {
        let view = (self.view.version()?, self.view.seq());
        ValueReader::find(&self.handle, view, self.keyspace, key.as_ref())
    }

    /// Whether a key has a value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// assert!(snapshot.contains_key("a")? && !snapshot.contains_key("z")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.find(key.as_ref(), |found| Ok(found.is_some()))
    }

    /// Hands the value of each key to `with`, with the key's place in `keys`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// let mut found = vec![];
    /// snapshot.get_batch_with(&["a", "z"], |i, value| if value.is_some() { found.push(i) })?;
    /// assert_eq!(found, [0]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`]; `with` was called for the keys before.
    pub fn get_batch_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        with: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        let version = self.view.pin()?;
        read::check_keyspace(&version, self.keyspace)?; // without keys too
        self.handle.db.find_each((&version, self.view.seq()), self.keyspace, keys, with)
    }

    /// The values of several keys, in the order of `keys`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// assert_eq!(snapshot.get_batch(&["z", "b"])?, [None, Some(b"2".to_vec())]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_batch<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        self.get_batch_with(keys, |_, value| values.push(value.map(<[u8]>::to_vec)))?;
        Ok(values)
    }

    fn walk(&self, bounds: scan::Bounds, reversed: bool) -> Result<Scan> {
        let moment = (self.view.version()?, self.view.seq());
        let scan = Scan::new(Arc::clone(&self.handle), moment, self.keyspace, bounds, reversed)?;
        Ok(scan.of(&self.view))
    }

    /// The entries of a range in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// db.put("c", "3")?;
    /// assert_eq!(snapshot.range("b"..)?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvertedRange`](crate::Error::InvertedRange), [`Error::Closed`](crate::Error::Closed).
    pub fn range(&self, range: impl KeyRange) -> Result<Scan> {
        self.walk(owned(&range), false)
    }

    /// All entries in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// db.delete_range(..)?;
    /// assert_eq!(snapshot.iter()?.count(), 2);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn iter(&self) -> Result<Scan> {
        self.range(..)
    }

    /// The entries of `start <= key < end` in key order; `None` leaves an end open.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// assert_eq!(snapshot.scan(None, Some(b"b"))?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::range`].
    pub fn scan(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<Scan> {
        self.walk(half_open(start, end), false)
    }

    /// The entries of `start <= key < end`, highest key first.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// assert_eq!(snapshot.scan_reverse(None, None)?.next().unwrap()?.0, b"b");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::range`].
    pub fn scan_reverse(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<Scan> {
        self.walk(half_open(start, end), true)
    }

    /// The entries whose keys begin with `prefix`, in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// assert_eq!(snapshot.scan_prefix("a")?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::iter`].
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Scan> {
        self.walk(scan::prefix_bounds(prefix.as_ref()), false)
    }

    /// Hands every entry of a range to `with`, in key order, without copying.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// let mut keys = vec![];
    /// snapshot.for_each(.., |key, _| keys.extend_from_slice(key))?;
    /// assert_eq!(keys, b"ab");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::range`] and [`Scan::next_ref`].
    pub fn for_each(&self, range: impl KeyRange, mut with: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut scan = self.range(range)?;
        while let Some((key, value)) = scan.next_ref()? {
            with(key, value);
        }
        Ok(())
    }

    /// The entry with the lowest key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// assert_eq!(snapshot.first()?, Some((b"a".to_vec(), b"1".to_vec())));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn first(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.iter()?.next().transpose()
    }

    /// The entry with the highest key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// # let snapshot = db.snapshot()?;
    /// assert_eq!(snapshot.last()?, Some((b"b".to_vec(), b"2".to_vec())));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn last(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.iter()?.next_back().transpose()
    }
}

pub(super) fn half_open(start: Option<&[u8]>, end: Option<&[u8]>) -> scan::Bounds {
    let start = start.map_or(Bound::Unbounded, |key| Bound::Included(key.to_vec()));
    let end = end.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
    (start, end)
}
