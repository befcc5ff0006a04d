//! A value that is not copied out.

use crate::{
    btree,
    db::{Db, read::Value},
    error::Result,
    lent::Lent,
    sstable,
    version::Version,
};
use std::{fmt, ops::Deref, sync::Arc};

/// A value where it lies in the database, readable like `&[u8]`. It keeps that place in memory while it
/// lives; let go of it soon.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put("key", "value")?;
/// let value = db.get_ref("key")?.unwrap();
/// assert_eq!(&value[..], b"value");
/// # Ok::<(), lightning_db::Error>(())
/// ```
pub struct ValueRef(Place);

enum Place {
    /// Bytes of a memtable, or of a mapped tree. Both belong to the Version: what is written in a memtable
    /// does not change, nor do the pages of a tree that a Version has.
    Version(Lent<Version>),
    Block(sstable::Found),
    Node(btree::Found<'static>),
    /// A large value, read whole.
    Blob(Vec<u8>),
}

impl ValueRef {
    /// Finds a value in `version` and keeps it.
    pub(super) fn new(
        db: &Db,
        version: Arc<Version>,
        find: impl FnOnce(&Version) -> Result<Option<Value<'_>>>,
    ) -> Result<Option<ValueRef>> {
        let mut lent = Lent::none(version);
        // What is not lent by the Version.
        let other = lent.lend(|version| match find(version).transpose() {
            Some(Ok(Value::Memtable(bytes))) => Ok(bytes),
            Some(Ok(Value::Node(found))) => match found.copied() {
                Ok(found) => Err(Ok(Some(Place::Node(found)))),
                Err(in_place) => Ok(in_place),
            },
            Some(Ok(Value::Block(found))) => Err(Ok(Some(Place::Block(found)))),
            Some(Ok(Value::Blob(pointer))) => {
                Err(db.read_blob(pointer).map(|value| Some(Place::Blob(value))))
            }
            None => Err(Ok(None)),
            Some(Err(error)) => Err(Err(error)),
        });
        match other {
            Ok(()) => Ok(Some(ValueRef(Place::Version(lent)))),
            Err(other) => Ok(other?.map(ValueRef)),
        }
    }
}

impl Deref for ValueRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Version(lent) => lent.bytes(),
            Place::Block(found) => found.value(),
            Place::Node(found) => found.value(),
            Place::Blob(value) => value,
        }
    }
}

impl AsRef<[u8]> for ValueRef {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for ValueRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}
