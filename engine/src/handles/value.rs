//! A value that is not copied out.

use crate::{btree, db::read::Value, sstable, version::Version};
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
    /// Bytes of a memtable that the Version holds.
    Memtable {
        bytes: *const [u8],
        _version: Arc<Version>,
    },
    Block(sstable::Found),
    Node(btree::Found),
}

impl ValueRef {
    /// Finds a value in `version` and keeps it.
    pub(super) fn new<E>(
        version: Arc<Version>,
        find: impl FnOnce(&Version) -> Result<Option<Value<'_>>, E>,
    ) -> Result<Option<ValueRef>, E> {
        let place = match find(&version)? {
            None => return Ok(None),
            Some(Value::Block(found)) => Place::Block(found),
            Some(Value::Node(found)) => Place::Node(found),
            Some(Value::Memtable(bytes)) => {
                let bytes = std::ptr::from_ref(bytes);
                Place::Memtable { bytes, _version: version }
            }
        };
        Ok(Some(ValueRef(place)))
    }
}

#[expect(unsafe_code, reason = "the pointer is to memory that the Version beside it keeps")]
// SAFETY: the bytes belong to a memtable of the Version, which is Send and Sync, and are never
// written again.
unsafe impl Send for ValueRef {}
#[expect(unsafe_code, reason = "the pointer is to memory that the Version beside it keeps")]
// SAFETY: as for Send.
unsafe impl Sync for ValueRef {}

impl Deref for ValueRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            #[expect(
                unsafe_code,
                reason = "the lifetime is the Version's, held beside the pointer"
            )]
            // SAFETY: `find` borrowed the bytes from `version`, whose memtables are immutable
            // where something was written and live as long as it does; it is held here.
            Place::Memtable { bytes, .. } => unsafe { &**bytes },
            Place::Block(found) => found.value(),
            Place::Node(found) => found.value(),
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
