//! What a transaction is begun with.

use super::{Attempt, Core, Transaction};
use crate::{
    config::Durability,
    error::{Error, Result},
    handles::{Handle, Keyspace},
    types::KeyspaceId,
};
use std::{fmt, sync::Arc, time::Duration};

/// What a transaction may see of what others do at the same time.
///
/// | | reads | its commit fails if |
/// | --- | --- | --- |
/// | `ReadCommitted` | what is committed at each read | a key that it read [for update](Transaction::get_for_update) was changed |
/// | `Snapshot` | one moment | besides, a key that it writes was changed since that moment |
/// | `Serializable` | one moment | anything that it read was changed since, or added to a range that it read |
///
/// So under `Snapshot` two transactions may each read what the other writes, and both commit ("write skew");
/// under `Serializable` they may not: what all such transactions do together is what they would have done one after
/// the other, in the order of their commits. In plain words with examples: `docs/isolation.md`.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, Error, IsolationLevel, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put_batch(&[("on call", "Ada, Bob")])?;
/// let tx = db.transaction().isolation(IsolationLevel::Serializable).begin()?;
/// let others = tx.get("on call")?;
/// tx.put("asleep", "Ada")?;
/// db.put("on call", "Ada")?;
/// assert!(matches!(tx.commit(), Err(Error::TransactionConflict)));
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IsolationLevel {
    /// Each read sees what is committed when it is made; a scan sees one moment.
    ReadCommitted,
    /// All reads see the moment at which the transaction began, and of two that write the same key the first one
    /// to commit wins.
    #[default]
    Snapshot,
    /// As if transactions were run one after the other.
    Serializable,
}

/// Options of [`Database::begin_transaction_with_options`](crate::Database::begin_transaction_with_options). All
/// else is said to a [`TransactionBuilder`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, Error, LightningDbConfig, TransactionOptions};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// let options = TransactionOptions { read_only: true, snapshot: true };
/// let tx = db.begin_transaction_with_options(options)?;
/// assert!(matches!(db.put_tx(tx, b"a", b"1"), Err(Error::ReadOnlyTransaction)));
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionOptions {
    /// It only reads. It then costs what a snapshot costs, and its commit is never in conflict. Default: `false`.
    pub read_only: bool,
    /// `true`: [`IsolationLevel::Snapshot`]; `false`: [`IsolationLevel::ReadCommitted`]. Default: `true`.
    pub snapshot: bool,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        TransactionOptions { read_only: false, snapshot: true }
    }
}

impl TransactionOptions {
    pub(crate) fn settings(self) -> Settings {
        let isolation = match self.snapshot {
            true => IsolationLevel::Snapshot,
            false => IsolationLevel::ReadCommitted,
        };
        Settings { isolation, read_only: self.read_only, ..Settings::default() }
    }
}

/// What a transaction is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) isolation: IsolationLevel,
    pub(crate) read_only: bool,
    pub(crate) pessimistic: bool,
    pub(crate) durability: Durability,
    /// As the configuration says, if it does not.
    pub(crate) timeout: Option<Duration>,
}

/// Says what a transaction is to be like, then begins it: see [`Database::transaction`](crate::Database::transaction).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, Durability, IsolationLevel, LightningDbConfig};
/// use std::time::Duration;
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// let tx = db
///     .transaction()
///     .isolation(IsolationLevel::Serializable)
///     .durability(Durability::Sync)
///     .timeout(Duration::from_secs(1))
///     .begin()?;
/// tx.put("key", "value")?;
/// tx.commit()?; // durable
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "it is begun by `begin`"]
pub struct TransactionBuilder {
    handle: Arc<Handle>,
    keyspace: KeyspaceId,
    settings: Settings,
}

impl fmt::Debug for TransactionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("TransactionBuilder");
        f.field("keyspace", &self.keyspace)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl TransactionBuilder {
    pub(crate) fn new(keyspace: &Keyspace) -> TransactionBuilder {
        let (handle, settings) = (Arc::clone(&keyspace.handle), Settings::default());
        TransactionBuilder { handle, keyspace: keyspace.id, settings }
    }

    pub(crate) fn set(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How it stands to what others do. Default: [`IsolationLevel::Snapshot`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, IsolationLevel, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().isolation(IsolationLevel::ReadCommitted).begin()?;
    /// db.put("key", "new")?;
    /// assert!(tx.contains_key("key")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn isolation(mut self, isolation: IsolationLevel) -> Self {
        self.settings.isolation = isolation;
        self
    }

    /// It only reads: writes are refused, and it costs what a snapshot costs.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().read_only().begin()?;
    /// assert!(tx.put("key", "value").is_err());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn read_only(mut self) -> Self {
        self.settings.read_only = true;
        self
    }

    /// It locks the keys that it writes or reads [for update](Transaction::get_for_update) until it ends, and all
    /// others that write them wait: plain puts, too. The moment that it reads is that of its first read or lock. Who waits in a circle is told at once:
    /// [`Deadlock`](crate::Error::Deadlock). Without this, transactions wait for nobody, and find out at their
    /// commit whether they were disturbed.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().pessimistic().begin()?;
    /// tx.put("key", "value")?; // from here on others wait
    /// tx.commit()?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn pessimistic(mut self) -> Self {
        self.settings.pessimistic = true;
        self
    }

    /// How its commit becomes durable. Default: as the configuration says.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Durability, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().durability(Durability::Sync).begin()?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// How long it may be open, and wait for locks. Default:
    /// [`transaction_timeout`](crate::LightningDbConfig::transaction_timeout).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Error, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// use std::time::Duration;
    /// let tx = db.transaction().timeout(Duration::ZERO).begin()?;
    /// assert!(matches!(tx.put("a", "1"), Err(Error::TransactionTimeout)));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Begins it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TooManyTransactions`](crate::Error::TooManyTransactions), [`Closed`](crate::Error::Closed),
    /// [`Poisoned`](crate::Error::Poisoned).
    pub fn begin(self) -> Result<Transaction> {
        let attempt = Attempt::first(&self.handle.db);
        let core = Core::begin(&self.handle.db, self.settings, &attempt)?;
        Ok(Transaction::new(self.handle, core, self.keyspace))
    }

    /// Runs `work` in a transaction of this kind and commits it, again and again while others come between: see
    /// [`Database::execute_transaction`](crate::Database::execute_transaction).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, IsolationLevel, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let serializable = db.transaction().isolation(IsolationLevel::Serializable);
    /// let sum = serializable.run(|tx| {
    ///     let count = tx.iter()?.count();
    ///     tx.put("count", count.to_string())?;
    ///     Ok::<_, lightning_db::Error>(count)
    /// })?;
    /// assert_eq!(sum, 0);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Database::execute_transaction`](crate::Database::execute_transaction).
    pub fn run<T, E: From<Error>>(
        self,
        work: impl FnMut(&Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        super::state::run(&self.handle, self.keyspace, self.settings, work)
    }
}
