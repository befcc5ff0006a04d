//! Transactions of the default keyspace, by number and by closure.

use super::Database;
use crate::{
    error::{Error, Result},
    handles::{
        Transaction, TransactionBuilder, TransactionId, TransactionOptions, TransactionScan,
    },
    sync::Mutex,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Numbers of transactions that are remembered although these have ended: because their time was over, or to tell how.
const REMEMBERED: usize = 1024;

/// The transactions that are named by their numbers.
#[derive(Default)]
pub(super) struct ById(Mutex<Numbered>);

#[derive(Default)]
struct Numbered {
    all: BTreeMap<TransactionId, Arc<Transaction>>,
    /// When there are so many, those are looked for that have ended.
    look_at: usize,
    /// How the last ones ended, the newest last.
    ended: VecDeque<(TransactionId, &'static str)>,
}

impl ById {
    fn add(&self, tx: Transaction) -> TransactionId {
        let id = tx.id();
        let mut numbered = self.0.lock();
        // Who gave its numbers away and never asked again is forgotten. Twice as many are looked at only when there are
        // twice as many.
        if numbered.all.len() >= numbered.look_at {
            numbered.all.retain(|_, tx| tx.core().is_open());
            numbered.look_at = REMEMBERED.max(2 * numbered.all.len());
        }
        numbered.all.insert(id, Arc::new(tx));
        id
    }

    fn get(&self, id: TransactionId) -> Result<Arc<Transaction>> {
        let numbered = self.0.lock();
        numbered.all.get(&id).cloned().ok_or_else(|| numbered.missing(id))
    }

    /// Takes out what is about to end.
    fn remove(&self, id: TransactionId, how: &'static str) -> Result<Arc<Transaction>> {
        let mut numbered = self.0.lock();
        let tx = numbered.all.remove(&id).ok_or_else(|| numbered.missing(id))?;
        numbered.ended.push_back((id, how));
        if numbered.ended.len() > REMEMBERED {
            numbered.ended.pop_front();
        }
        Ok(tx)
    }
}

impl ById {
    /// How it ended is known now.
    fn ended(&self, id: TransactionId, how: &'static str) {
        let mut numbered = self.0.lock();
        if let Some(ended) = numbered.ended.iter_mut().rev().find(|(ended, _)| *ended == id) {
            ended.1 = how;
        }
    }
}

impl Numbered {
    fn missing(&self, id: TransactionId) -> Error {
        match self.ended.iter().rev().find(|(ended, _)| *ended == id) {
            Some((_, how)) => Error::TransactionEnded { how },
            None => Error::TransactionNotFound { id: id.0 },
        }
    }
}

impl Database {
    /// Begins a transaction of the default keyspace that is named by a number, to be ended by
    /// [`commit_transaction`](Database::commit_transaction) or
    /// [`abort_transaction`](Database::abort_transaction). One that is forgotten ends by itself when its time is over:
    /// see [`transaction_timeout`](crate::LightningDbConfig::transaction_timeout).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.begin_transaction()?;
    /// db.put_tx(tx, b"key", b"value")?;
    /// assert_eq!(db.get_tx(tx, b"key")?.as_deref(), Some(&b"value"[..]));
    /// db.commit_transaction(tx)?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`TransactionBuilder::begin`].
    pub fn begin_transaction(&self) -> Result<TransactionId> {
        self.begin_transaction_with_options(TransactionOptions::default())
    }

    /// [`begin_transaction`](Database::begin_transaction) of one that only reads, or that reads what is newest.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, TransactionOptions};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.begin_transaction_with_options(TransactionOptions { read_only: true, snapshot: true })?;
    /// assert_eq!(db.get_tx(tx, b"key")?, None);
    /// db.commit_transaction(tx)?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`TransactionBuilder::begin`].
    pub fn begin_transaction_with_options(
        &self,
        options: TransactionOptions,
    ) -> Result<TransactionId> {
        let tx = self.transaction().set(options.settings()).begin()?;
        Ok(self.by_id.add(tx))
    }

    /// Says what a transaction is to be like, and begins it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, IsolationLevel, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().isolation(IsolationLevel::Serializable).begin()?;
    /// tx.put("key", "value")?;
    /// tx.commit()?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder::new(&self.default)
    }

    /// [`Transaction::put`] by number.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.begin_transaction()?;
    /// db.put_tx(tx, b"key", b"value")?;
    /// db.commit_transaction(tx)?;
    /// assert!(db.contains_key("key")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::put`]; [`TransactionNotFound`](crate::Error::TransactionNotFound),
    /// [`TransactionEnded`](crate::Error::TransactionEnded).
    pub fn put_tx(
        &self,
        tx_id: TransactionId,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.by_id.get(tx_id)?.put(key, value)
    }

    /// [`Transaction::get`] by number.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.begin_transaction()?;
    /// assert_eq!(db.get_tx(tx, b"key")?, None);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::get`]; [`TransactionNotFound`](crate::Error::TransactionNotFound),
    /// [`TransactionEnded`](crate::Error::TransactionEnded).
    pub fn get_tx(&self, tx_id: TransactionId, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.by_id.get(tx_id)?.get(key)
    }

    /// [`Transaction::delete`] by number.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// let tx = db.begin_transaction()?;
    /// db.delete_tx(tx, b"key")?;
    /// db.commit_transaction(tx)?;
    /// assert!(!db.contains_key("key")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::delete`]; [`TransactionNotFound`](crate::Error::TransactionNotFound),
    /// [`TransactionEnded`](crate::Error::TransactionEnded).
    pub fn delete_tx(&self, tx_id: TransactionId, key: impl AsRef<[u8]>) -> Result<()> {
        self.by_id.get(tx_id)?.delete(key)
    }

    /// [`Transaction::scan`] by number; from the back with [`rev`](Iterator::rev).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.begin_transaction()?;
    /// db.put_tx(tx, b"a", b"1")?;
    /// db.put_tx(tx, b"b", b"2")?;
    /// assert_eq!(db.scan_tx(tx, Some(b"a"), None)?.rev().next().unwrap()?.0, b"b");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::scan`]; [`TransactionNotFound`](crate::Error::TransactionNotFound),
    /// [`TransactionEnded`](crate::Error::TransactionEnded).
    pub fn scan_tx(
        &self,
        tx_id: TransactionId,
        start: Option<&[u8]>,
        end: Option<&[u8]>,
    ) -> Result<TransactionScan> {
        self.by_id.get(tx_id)?.scan(start, end)
    }

    /// [`Transaction::commit`] by number. Whatever comes of it, the number is of no use afterwards.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Error, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.begin_transaction()?;
    /// db.commit_transaction(tx)?;
    /// assert!(matches!(db.commit_transaction(tx), Err(Error::TransactionEnded { .. })));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::commit`]; [`TransactionNotFound`](crate::Error::TransactionNotFound),
    /// [`TransactionEnded`](crate::Error::TransactionEnded).
    pub fn commit_transaction(&self, tx_id: TransactionId) -> Result<()> {
        let tx = self.by_id.remove(tx_id, "being committed")?;
        let committed = tx.core().commit();
        let how = if committed.is_ok() { "committed" } else { "not committed, as that failed" };
        self.by_id.ended(tx_id, how);
        committed.map(|_| ())
    }

    /// [`Transaction::abort`] by number.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.begin_transaction()?;
    /// db.put_tx(tx, b"key", b"value")?;
    /// db.abort_transaction(tx)?;
    /// assert!(!db.contains_key("key")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TransactionNotFound`](crate::Error::TransactionNotFound),
    /// [`TransactionEnded`](crate::Error::TransactionEnded).
    pub fn abort_transaction(&self, tx_id: TransactionId) -> Result<()> {
        self.by_id.remove(tx_id, "aborted")?.core().abort();
        Ok(())
    }

    /// Runs `work` in a transaction of the default keyspace, commits it, and returns what `work` returned. If other
    /// commits come between, it does so again, up to a hundred times: so `work` should do nothing but use the
    /// transaction. From its second try on it has locks on the keys that it lost before, which others wait for: who
    /// loses again and again gets its turn. Where nobody knows any more what came between, because that was too much, it has
    /// locks on all that it has read and written. Within `work`, do not write such keys past the transaction. A bulk load
    /// waits for no locks: while one of a keyspace goes on that counts, the work is in conflict each time.
    ///
    /// If `work` fails, or panics, nothing is written.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let count = db.execute_transaction(|tx| {
    ///     let old = tx.get("visits")?.map_or(0, |bytes| bytes[0]);
    ///     tx.put("visits", [old + 1])?;
    ///     Ok(old + 1)
    /// })?;
    /// assert_eq!(count, 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `work` fails with; as [`TransactionBuilder::begin`] and [`Transaction::commit`].
    pub fn execute_transaction<T>(&self, work: impl FnMut(&Transaction) -> Result<T>) -> Result<T> {
        self.transaction().run(work)
    }

    /// [`execute_transaction`](Database::execute_transaction) for work that has errors of its own.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Error, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// #[derive(Debug)]
    /// enum Refused { NoMoney, Database(Error) }
    /// impl From<Error> for Refused {
    ///     fn from(error: Error) -> Refused { Refused::Database(error) }
    /// }
    /// let paid = db.update(|tx| {
    ///     tx.put("seen", "yes")?;
    ///     match tx.get("balance")? {
    ///         None => Err(Refused::NoMoney),
    ///         Some(_) => Ok(()),
    ///     }
    /// });
    /// assert!(matches!(paid, Err(Refused::NoMoney)));
    /// assert!(!db.contains_key("seen")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`execute_transaction`](Database::execute_transaction).
    pub fn update<T, E: From<Error>>(
        &self,
        work: impl FnMut(&Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction().run(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::LightningDbConfig, format::manifest::Change, types::SeqNo};

    /// Whoever comes to the end of all sequence numbers is told, and loses nothing.
    #[test]
    fn the_last_sequence_number_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (path, config) = (dir.path().join("db"), LightningDbConfig::default());
        let db = Database::create(&path, config.clone()).unwrap();
        let almost = SeqNo(SeqNo::MAX.0 - 5);
        db.handle().db.manifest.lock().append(&[Change::Flushed(almost)]).unwrap();
        drop(db);
        let db = Database::open(&path, config.clone()).unwrap();
        assert_eq!(db.snapshot().unwrap().seq(), almost);
        let tx = db.transaction().begin().unwrap();
        tx.put("transaction", "1").unwrap();
        (1..=3_u8).for_each(|n| db.put([n], "value").unwrap());
        tx.commit().unwrap();
        for _ in 0..2 {
            let refused = db.put("one more", "");
            assert!(
                matches!(&refused, Err(Error::InvalidArgument { why, .. }) if why.contains("2^56")),
                "{refused:?}"
            );
            let tx = db.transaction().begin().unwrap();
            tx.put("one more", "").unwrap();
            assert!(matches!(tx.commit(), Err(Error::InvalidArgument { .. })));
        }
        assert_eq!(db.iter().unwrap().count(), 4);
        drop(db);
        let db = Database::open(&path, config).unwrap();
        assert_eq!(db.iter().unwrap().count(), 4);
        assert!(db.put("one more", "").is_err());
    }
}
