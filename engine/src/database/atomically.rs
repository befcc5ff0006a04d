//! Changes of one key that depend on its value: transactions without a begin.

use super::Database;
use crate::{
    error::Result,
    handles::{IsolationLevel, Keyspace, Transaction, TransactionBuilder},
    sync::point_at,
};

type Entry = (Vec<u8>, Vec<u8>);

impl Keyspace {
    /// Begins transactions of this keyspace: see [`Database::transaction`](crate::Database::transaction).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let users = db.keyspace("users")?;
    /// users.transaction().run(|tx| tx.put("1", "Ada"))?;
    /// assert!(users.contains_key("1")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder::new(self)
    }

    /// Sets a key to `new`, or deletes it, if its value is `old`, or it has none. Otherwise nothing changes, and what
    /// there is comes back.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let locks = db.keyspace("locks")?;
    /// assert_eq!(locks.compare_and_swap("job", None, Some(b"me"))?, Ok(()));
    /// assert_eq!(locks.compare_and_swap("job", None, Some(b"you"))?, Err(Some(b"me".to_vec())));
    /// assert_eq!(locks.compare_and_swap("job", Some(b"me"), None)?, Ok(()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Database::execute_transaction`](crate::Database::execute_transaction).
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<std::result::Result<(), Option<Vec<u8>>>> {
        let key = key.as_ref();
        self.transaction().run(|tx| {
            let found = tx.get(key)?;
            if found.as_deref() != old {
                return Ok(Err(found));
            }
            set(tx, key, new).map(Ok)
        })
    }

    /// Sets a key to what `change` makes of its value, or deletes it where that is nothing. Returns the value before.
    /// `change` is called again if another commit comes between.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let hits = db.keyspace("hits")?;
    /// let add = |old: Option<&[u8]>| Some(vec![old.map_or(0, |old| old[0]) + 1]);
    /// assert_eq!(hits.fetch_and_update("page", add)?, None);
    /// assert_eq!(hits.fetch_and_update("page", add)?, Some(vec![1]));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Database::execute_transaction`](crate::Database::execute_transaction).
    pub fn fetch_and_update(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        let key = key.as_ref();
        self.transaction().run(|tx| {
            let found = tx.get(key)?;
            set(tx, key, change(found.as_deref()).as_deref())?;
            Ok(found)
        })
    }

    /// Takes out the entry with the lowest key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let jobs = db.keyspace("jobs")?;
    /// jobs.put_batch(&[("1", "first"), ("2", "second")])?;
    /// assert_eq!(jobs.pop_first()?, Some((b"1".to_vec(), b"first".to_vec())));
    /// assert_eq!(jobs.iter()?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Database::execute_transaction`](crate::Database::execute_transaction).
    pub fn pop_first(&self) -> Result<Option<Entry>> {
        self.pop(|tx| tx.iter()?.next().transpose())
    }

    /// Takes out the entry with the highest key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let jobs = db.keyspace("jobs")?;
    /// jobs.put_batch(&[("1", "first"), ("2", "second")])?;
    /// assert_eq!(jobs.pop_last()?, Some((b"2".to_vec(), b"second".to_vec())));
    /// assert_eq!(jobs.iter()?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Database::execute_transaction`](crate::Database::execute_transaction).
    pub fn pop_last(&self) -> Result<Option<Entry>> {
        self.pop(|tx| tx.iter()?.next_back().transpose())
    }

    /// Serializable, so that no entry comes before the one taken out that was there earlier.
    fn pop(
        &self,
        mut find: impl FnMut(&Transaction) -> Result<Option<Entry>>,
    ) -> Result<Option<Entry>> {
        self.transaction().isolation(IsolationLevel::Serializable).run(|tx| {
            let found = find(tx)?;
            if let Some((key, _)) = &found {
                // Whose answer is lost is known by its key all the same, to the simulator.
                point_at("pop.found", u64::from(crc32fast::hash(key)) + 1);
                tx.delete(key)?;
            }
            Ok(found)
        })
    }
}

fn set(tx: &Transaction, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    match value {
        Some(value) => tx.put(key, value),
        None => tx.delete(key),
    }
}

impl Database {
    /// [`Keyspace::compare_and_swap`] in the default keyspace.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// assert_eq!(db.compare_and_swap("leader", None, Some(b"me"))?, Ok(()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::compare_and_swap`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<std::result::Result<(), Option<Vec<u8>>>> {
        self.default.compare_and_swap(key, old, new)
    }

    /// [`Keyspace::fetch_and_update`] in the default keyspace.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("name", "Ada")?;
    /// let loud = |old: Option<&[u8]>| old.map(|name| name.to_ascii_uppercase());
    /// assert_eq!(db.fetch_and_update("name", loud)?, Some(b"Ada".to_vec()));
    /// assert_eq!(db.get("name")?, Some(b"ADA".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::fetch_and_update`].
    pub fn fetch_and_update(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>> {
        self.default.fetch_and_update(key, change)
    }

    /// [`Keyspace::pop_first`] in the default keyspace.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// assert_eq!(db.pop_first()?, None);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::pop_first`].
    pub fn pop_first(&self) -> Result<Option<Entry>> {
        self.default.pop_first()
    }

    /// [`Keyspace::pop_last`] in the default keyspace.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("z", "last")?;
    /// assert_eq!(db.pop_last()?, Some((b"z".to_vec(), b"last".to_vec())));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::pop_last`].
    pub fn pop_last(&self) -> Result<Option<Entry>> {
        self.default.pop_last()
    }
}
