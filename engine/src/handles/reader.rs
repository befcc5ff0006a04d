//! A value that is read piece by piece.

use super::{Handle, ValueRef};
use crate::{
    blob::BlobReader,
    db::read::{self, Value},
    error::{Error, Result},
    types::{KeyspaceId, SeqNo},
    version::Version,
};
use std::{
    fmt,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

/// A value, to be read piece by piece. See [`Keyspace::get_reader`](crate::Keyspace::get_reader).
///
/// It owns what it needs, and always reads the value that it was made for, whatever is written after. Like a
/// snapshot it keeps the files of its moment while it lives. What it returns was verified before; damage,
/// and a database that was closed, are errors whose inner error is an [`Error`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put("report", vec![b'x'; 3 << 20])?;
/// let mut report = db.get_reader("report")?.expect("it was put");
/// db.delete("report")?;
/// let copied = std::io::copy(&mut report, &mut std::io::sink()).unwrap();
/// assert_eq!(copied, 3 << 20);
/// # Ok::<(), lightning_db::Error>(())
/// ```
pub struct ValueReader {
    handle: Arc<Handle>,
    source: Source,
    at: u64,
}

enum Source {
    Value(ValueRef),
    Blob {
        reader: BlobReader,
        /// It holds the blob.
        _version: Arc<Version>,
    },
}

impl ValueReader {
    pub(super) fn find(
        handle: &Arc<Handle>,
        (version, visible): (Arc<Version>, SeqNo),
        keyspace: KeyspaceId,
        key: &[u8],
    ) -> Result<Option<ValueReader>> {
        let db = &handle.db;
        let found = read::find(&version, visible, keyspace, key)?;
        let source = if let Some(Value::Blob(pointer)) = found {
            let reader = db.blobs.open(pointer)?;
            Some(Source::Blob { reader, _version: version })
        } else {
            drop(found);
            let found = ValueRef::new(db, version, |v| read::find(v, visible, keyspace, key))?;
            found.map(Source::Value)
        };
        Ok(source.map(|source| ValueReader { handle: Arc::clone(handle), source, at: 0 }))
    }

    /// Length of the value in bytes.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// assert_eq!(db.get_reader("key")?.unwrap().len(), 5);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Value(value) => value.len() as u64,
            Source::Blob { reader, .. } => reader.len(),
        }
    }

    /// Whether the value has no bytes.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "")?;
    /// assert!(db.get_reader("key")?.unwrap().is_empty());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read_here(&mut self, out: &mut [u8]) -> Result<usize> {
        self.handle.db.check_open()?;
        match &mut self.source {
            Source::Blob { reader, .. } => reader.read_at(out, self.at),
            Source::Value(value) => {
                let from = usize::try_from(self.at).unwrap_or(usize::MAX);
                let rest = value.get(from..).unwrap_or_default();
                let read = rest.len().min(out.len());
                out[..read].copy_from_slice(&rest[..read]);
                Ok(read)
            }
        }
    }
}

impl Read for ValueReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.read_here(out).map_err(|error| match error {
            Error::Corruption(_) => io::Error::new(io::ErrorKind::InvalidData, error),
            other => io::Error::other(other),
        })?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for ValueReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl fmt::Debug for ValueReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ValueReader");
        out.field("at", &self.at).field("len", &self.len()).finish_non_exhaustive()
    }
}
