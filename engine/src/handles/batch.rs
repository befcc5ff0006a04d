//! Several operations as one commit.

use super::{KeyRange, Keyspace, range::owned};
use crate::{
    config::MAX_VALUE_BYTES,
    db::{commit::Encoded, scan},
    error::{Error, Result},
    format::{
        ops::Op,
        record::{RECORD_HEADER_BYTES, record_bytes},
    },
    types::KeyspaceId,
};

/// Operations that are committed together: all of them or none, in this order, across keyspaces.
///
/// A batch belongs to no database until it is written. What is wrong with one of its operations, such as
/// a value that is too large, is reported when it is written.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, LightningDbConfig, WriteBatch};
/// let db = Database::create(&path, LightningDbConfig::default())?;
/// let log = db.keyspace("log")?;
/// let mut batch = WriteBatch::new();
/// batch.put("balance", "90").put_in(&log, "1", "paid 10").delete("reserved");
/// db.write(batch)?;
/// assert_eq!(log.get("1")?.as_deref(), Some(&b"paid 10"[..]));
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WriteBatch {
    /// Room for the header of the log record, then the operations.
    record: Vec<u8>,
    operations: u32,
    /// What is wrong with the first operation that cannot be encoded.
    error: Option<Error>,
}

impl Default for WriteBatch {
    fn default() -> Self {
        WriteBatch::new()
    }
}

impl WriteBatch {
    /// A batch without operations.
    ///
    /// ```
    /// # use lightning_db::WriteBatch;
    /// let mut batch = WriteBatch::new();
    /// assert!(batch.is_empty());
    /// ```
    pub fn new() -> WriteBatch {
        WriteBatch::with_capacity(0)
    }

    /// A batch with room for operations of `bytes` bytes.
    ///
    /// ```
    /// # use lightning_db::WriteBatch;
    /// let mut batch = WriteBatch::with_capacity(1000);
    /// # batch.put("key", "value");
    /// ```
    pub fn with_capacity(bytes: usize) -> WriteBatch {
        let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + bytes + 8);
        record.resize(RECORD_HEADER_BYTES, 0);
        WriteBatch { record, operations: 0, error: None }
    }

    /// How many operations it holds.
    ///
    /// ```
    /// # use lightning_db::WriteBatch;
    /// let mut batch = WriteBatch::new();
    /// batch.put("a", "1").delete("b");
    /// assert_eq!(batch.len(), 2);
    /// ```
    pub fn len(&self) -> usize {
        self.operations as usize
    }

    /// Whether it holds no operation.
    ///
    /// ```
    /// # use lightning_db::WriteBatch;
    /// let mut batch = WriteBatch::new();
    /// assert!(batch.is_empty());
    /// batch.delete("a");
    /// assert!(!batch.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.operations == 0
    }

    /// Sets a key of the default keyspace to a value.
    ///
    /// ```
    /// # use lightning_db::WriteBatch;
    /// let mut batch = WriteBatch::new();
    /// batch.put("a", "1").put("b", "2");
    /// assert_eq!(batch.len(), 2);
    /// ```
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.put_id(KeyspaceId::DEFAULT, key.as_ref(), value.as_ref())
    }

    /// Removes a key of the default keyspace, if it is there.
    ///
    /// ```
    /// # use lightning_db::WriteBatch;
    /// let mut batch = WriteBatch::new();
    /// batch.put("a", "1").delete("a"); // in this order: the key is gone
    /// assert_eq!(batch.len(), 2);
    /// ```
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.delete_id(KeyspaceId::DEFAULT, key.as_ref())
    }

    /// Removes all keys of a range of the default keyspace.
    ///
    /// ```
    /// # use lightning_db::WriteBatch;
    /// let mut batch = WriteBatch::new();
    /// batch.delete_range("a".."c").put("b", "kept"); // in this order: the key stays
    /// assert_eq!(batch.len(), 2);
    /// ```
    pub fn delete_range(&mut self, range: impl KeyRange) -> &mut Self {
        self.delete_range_id(KeyspaceId::DEFAULT, &range)
    }

    /// Sets a key of `keyspace` to a value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, WriteBatch};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// let mut batch = WriteBatch::new();
    /// batch.put("users", "1").put_in(&users, "1", "Ada");
    /// db.write(batch)?;
    /// assert!(users.contains_key("1")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn put_in(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.put_id(keyspace.id, key.as_ref(), value.as_ref())
    }

    /// Removes a key of `keyspace`, if it is there.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, WriteBatch};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// let mut batch = WriteBatch::new();
    /// batch.put_in(&users, "1", "Ada").delete_in(&users, "1");
    /// db.write(batch)?;
    /// assert!(!users.contains_key("1")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn delete_in(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> &mut Self {
        self.delete_id(keyspace.id, key.as_ref())
    }

    /// Removes all keys of a range of `keyspace`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, WriteBatch};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// let mut batch = WriteBatch::new();
    /// batch.delete_range_in(&users, ..).put_in(&users, "1", "Ada");
    /// db.write(batch)?;
    /// assert_eq!(users.iter()?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn delete_range_in(&mut self, keyspace: &Keyspace, range: impl KeyRange) -> &mut Self {
        self.delete_range_id(keyspace.id, &range)
    }

    #[inline]
    pub(crate) fn put_id(&mut self, keyspace: KeyspaceId, key: &[u8], value: &[u8]) -> &mut Self {
        if value.len() as u64 > MAX_VALUE_BYTES {
            let len = value.len() as u64;
            return self.refuse(Error::ValueTooLarge { len, max: MAX_VALUE_BYTES });
        }
        self.push(Op::Put { keyspace, key, value }, key)
    }

    pub(crate) fn delete_id(&mut self, keyspace: KeyspaceId, key: &[u8]) -> &mut Self {
        self.push(Op::Delete { keyspace, key }, key)
    }

    pub(crate) fn delete_range_id(
        &mut self,
        keyspace: KeyspaceId,
        range: &impl KeyRange,
    ) -> &mut Self {
        let bounds = owned(range);
        if scan::is_inverted(&bounds) {
            return self.refuse(Error::InvertedRange);
        }
        let (start, end) = scan::half_open(bounds);
        self.delete_between(keyspace, &start, end.as_deref())
    }

    /// Removes the keys from `start` to before `end`.
    pub(crate) fn delete_between(
        &mut self,
        keyspace: KeyspaceId,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> &mut Self {
        let longest = end.unwrap_or_default().len().max(start.len());
        // A bound made exclusive or inclusive is a byte longer than the key it was made from.
        if longest > usize::from(u16::MAX) {
            return self.refuse(Error::KeyTooLarge);
        }
        self.push(Op::RangeDelete { keyspace, start, end }, start)
    }

    #[inline]
    fn push(&mut self, op: Op<'_>, key: &[u8]) -> &mut Self {
        if key.len() > usize::from(u16::MAX) {
            return self.refuse(Error::KeyTooLarge);
        }
        match self.operations.checked_add(1) {
            Some(operations) => self.operations = operations,
            None => {
                return self.refuse(Error::CommitTooLarge { len: u64::MAX, max: u32::MAX.into() });
            }
        }
        let at = self.record.len();
        self.record.resize(at + op.encoded_len(), 0);
        op.encode(&mut self.record[at..]);
        self
    }

    #[cold]
    fn refuse(&mut self, error: Error) -> &mut Self {
        self.error.get_or_insert(error);
        self
    }

    /// The operations, ready to be committed. Nothing can be added after.
    pub(crate) fn encoded(&mut self) -> Result<Encoded<'_>> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let payload_len = self.record.len() - RECORD_HEADER_BYTES;
        self.record.resize(record_bytes(payload_len), 0);
        Ok(Encoded { record: &mut self.record, payload_len, operations: self.operations })
    }
}
