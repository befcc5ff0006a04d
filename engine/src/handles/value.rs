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
    /// Bytes of a memtable, or of a mapped tree, that the Version holds.
    Version {
        bytes: *const [u8],
        _version: Arc<Version>,
    },
    Block(sstable::Found),
    Node(btree::Found<'static>),
}

impl ValueRef {
    /// Finds a value in `version` and keeps it.
    pub(super) fn new<E>(
        version: Arc<Version>,
        find: impl FnOnce(&Version) -> Result<Option<Value<'_>>, E>,
    ) -> Result<Option<ValueRef>, E> {
        let bytes = match find(&version)? {
            None => return Ok(None),
            Some(Value::Block(found)) => return Ok(Some(ValueRef(Place::Block(found)))),
            Some(Value::Node(found)) => match found.copied() {
                Ok(found) => return Ok(Some(ValueRef(Place::Node(found)))),
                Err(in_place) => std::ptr::from_ref(in_place),
            },
            Some(Value::Memtable(bytes)) => std::ptr::from_ref(bytes),
        };
        Ok(Some(ValueRef(Place::Version { bytes, _version: version })))
    }
}

#[expect(unsafe_code, reason = "the pointer is to memory that the Version beside it keeps")]
// SAFETY: the bytes belong to a memtable of the Version, or to a node of one of its trees, and are not
// written while it is held. The Version is Send and Sync.
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
            // where something was written and live as long as it does, as do the mappings of its trees, whose
            // pages are not written before it is gone; it is held here.
            Place::Version { bytes, .. } => unsafe { &**bytes },
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
