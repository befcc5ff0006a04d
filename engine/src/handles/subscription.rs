//! Following what is committed, and bringing it somewhere else.

use super::{Keyspace, WriteBatch};
use crate::{
    config::Durability,
    db::feed::{CommittedBatch, Feed, Operation},
    error::{Error, Result},
    types::SeqNo,
};
use std::{fmt, ops::Bound, sync::Arc, time::Duration};

/// The commits to one keyspace, in their order, each once, from some SeqNo on: the change feed.
///
/// What it yields is durable and visible: no crash takes it back. With the default
/// [`WalSyncMode::Async`](crate::WalSyncMode) that is some milliseconds after the commit has returned. It can be
/// resumed, in this process or another, with the SeqNo behind what was done ([`position`](Subscription::position)),
/// as long as the log holds what comes from there on. The log holds what is not flushed yet; while the database is open,
/// it also keeps what a subscription has not read, up to [`wal_retention`](crate::LightningDbConfig::wal_retention)
/// bytes, and less on a full disk. Without a subscription, and over a reopening, nothing is kept but what recovery needs.
///
/// What the log does not hold any more is [`Error::Lagged`]: then take a snapshot, subscribe from `snapshot.seq() + 1`, and
/// make a copy of the snapshot, in this order, so that what is committed meanwhile is kept. A snapshot also shows commits
/// that are not durable yet. So before the copy is to outlive a crash of this database, call
/// [`checkpoint`](crate::Database::checkpoint) once: otherwise the copy may hold what the crash took back, and goes on
/// behind it. All this is so too after a [bulk load](Keyspace::bulk_load) of the keyspace, which does not pass through the
/// log; after a crash perhaps once more than needed, as it is not known then which copies have it. And after the keyspace
/// was dropped, and one of the same name created: only who begins with the first SeqNo, and so has no copy yet, may go on
/// as if it had always been the same one.
///
/// Whoever wants to go on behind what the database has ever given a SeqNo is told `Lagged`, too. It counts on commits that
/// are not there: the database has lost its newest ones in a crash, or is an older copy, or another one. That shows only
/// until as many others have been made.
///
/// It keeps the database open while it lives, and memory for the largest commit that it has read, 1 MiB at least. Every
/// subscription reads all of the log, commits to other keyspaces too. When the database is closed, it ends with
/// [`Error::Closed`], and wakes whoever waits for it.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, FeedPosition, LightningDbConfig, SeqNo};
/// let db = Database::create(&path, LightningDbConfig::durable())?;
/// let users = db.keyspace("users")?;
/// users.put("1", "Ada")?;
/// // A copy of the keyspace, here in the same database. It may be another one, elsewhere.
/// let (copy, state) = (db.keyspace("copy")?, db.keyspace("state")?);
/// let position = FeedPosition::new(&state, "users");
/// let from = position.get()?.map_or(SeqNo(1), |done| SeqNo(done.0 + 1));
/// let mut commits = users.subscribe(from)?;
/// while let Some(committed) = commits.try_next()? {
///     position.apply(&committed, &copy)?;
/// }
/// assert_eq!(copy.get("1")?.as_deref(), Some(&b"Ada"[..]));
/// # Ok::<(), lightning_db::Error>(())
/// ```
pub struct Subscription {
    keyspace: Keyspace,
    feed: Feed,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("keyspace", &self.keyspace.name)
            .field("position", &self.feed.position())
            .finish_non_exhaustive()
    }
}

impl Subscription {
    pub(super) fn new(keyspace: &Keyspace, from: SeqNo) -> Result<Subscription> {
        let feed = keyspace.handle.db.subscribe(keyspace.id, &keyspace.name, from)?;
        Ok(Subscription { keyspace: keyspace.clone(), feed })
    }

    /// The next commit; waits until there is one, or until `timeout` has passed: then there is `None`. Without a timeout
    /// there always is one, or an error. What is durable already is read to its end, however long that takes.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, SeqNo};
    /// # use std::time::Duration;
    /// let db = Database::create(&path, LightningDbConfig::default())?;
    /// let mut commits = db.subscribe(&db.keyspace("default")?, SeqNo(1))?;
    /// assert!(commits.next(Some(Duration::from_millis(1)))?.is_none());
    /// db.put("key", "value")?;
    /// assert!(commits.next(None)?.is_some());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Lagged`](Error::Lagged) and [`KeyspaceNotFound`](Error::KeyspaceNotFound), if the keyspace was dropped, are
    /// the end; the latter comes behind all that was committed before. [`Poisoned`](Error::Poisoned) comes in the place of
    /// waiting for more: if something became durable just then, the next call yields it. [`Closed`](Error::Closed) comes
    /// at once. What reading from disk found wrong; the next call reads it again. After a bulk load what
    /// [`Keyspace::put`] may return, as a commit uses up a SeqNo then.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<CommittedBatch>> {
        self.keyspace.handle.db.next_commit(&mut self.feed, timeout)
    }

    /// The next commit, if there is one that is durable.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, SeqNo};
    /// let db = Database::create(&path, LightningDbConfig::default())?;
    /// let mut commits = db.subscribe(&db.keyspace("default")?, SeqNo(1))?;
    /// db.put("key", "value")?;
    /// db.checkpoint()?;
    /// assert!(commits.try_next()?.is_some() && commits.try_next()?.is_none());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`next`](Subscription::next).
    pub fn try_next(&mut self) -> Result<Option<CommittedBatch>> {
        self.next(Some(Duration::ZERO))
    }

    /// Where to subscribe to go on from here: behind all that was yielded, and behind commits to other keyspaces that
    /// were passed over while the keyspace was there and not loaded.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, SeqNo};
    /// let db = Database::create(&path, LightningDbConfig::durable())?;
    /// let mut commits = db.subscribe(&db.keyspace("default")?, SeqNo(1))?;
    /// db.put("key", "value")?;
    /// assert_eq!(commits.position(), SeqNo(1));
    /// commits.next(None)?;
    /// assert_eq!(commits.position(), SeqNo(2));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn position(&self) -> SeqNo {
        self.feed.position()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.keyspace.handle.db.unsubscribe(&self.feed);
    }
}

/// Where somebody who applies commits to a copy keeps how far the copy is: a key of a keyspace of the same database.
///
/// Each commit goes into the copy together with its SeqNo, in one commit, and only if it is newer than what is there:
/// so it does not matter whether a commit is applied again, or where one begins again after a crash. One thread at a
/// time applies to a copy.
///
/// Commits to other keyspaces do not move it. If there are many between two to this one, the log may lose what comes
/// behind the position though nothing was missed: [`set`](FeedPosition::set) it to the SeqNo before
/// [`Subscription::position`] from time to time, but only once everything that was yielded is applied, and not after
/// an error.
///
/// It is the position in a keyspace, not in a name: if the keyspace was dropped and created again, whoever goes on from
/// here is told [`Lagged`](Error::Lagged).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::{Database, FeedPosition, LightningDbConfig, SeqNo};
/// let db = Database::create(dir.path().join("db"), LightningDbConfig::durable())?;
/// let copy = Database::create(dir.path().join("copy"), LightningDbConfig::default())?;
/// let position = FeedPosition::new(&copy.keyspace("positions")?, "default");
/// let target = copy.keyspace("default")?;
/// db.put("key", "value")?;
/// let committed = db.subscribe(&db.keyspace("default")?, SeqNo(1))?.next(None)?.unwrap();
/// assert!(position.apply(&committed, &target)?);
/// assert!(!position.apply(&committed, &target)?, "it is in");
/// assert_eq!(position.get()?, Some(committed.seq()));
/// assert_eq!(copy.get("key")?.as_deref(), Some(&b"value"[..]));
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FeedPosition {
    keyspace: Keyspace,
    key: Vec<u8>,
}

impl FeedPosition {
    /// The position that a key holds, as eight bytes, the highest first.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use lightning_db::{Database, FeedPosition, LightningDbConfig};
    /// let copy = Database::create(dir.path().join("copy"), LightningDbConfig::default())?;
    /// let position = FeedPosition::new(&copy.keyspace("positions")?, "users");
    /// assert_eq!(position.get()?, None);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn new(keyspace: &Keyspace, key: impl AsRef<[u8]>) -> FeedPosition {
        FeedPosition { keyspace: keyspace.clone(), key: key.as_ref().to_vec() }
    }

    /// The SeqNo of the last commit that is in the copy, if there is one. The feed goes on behind it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use lightning_db::{Database, FeedPosition, LightningDbConfig, SeqNo};
    /// # let copy = Database::create(dir.path().join("copy"), LightningDbConfig::default())?;
    /// # let position = FeedPosition::new(&copy.keyspace("positions")?, "users");
    /// let from = position.get()?.map_or(SeqNo(1), |done| SeqNo(done.0 + 1));
    /// # assert_eq!(from, SeqNo(1));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`]; [`InvalidArgument`](Error::InvalidArgument) if the key holds something else.
    pub fn get(&self) -> Result<Option<SeqNo>> {
        let Some(stored) = self.keyspace.get(&self.key)? else {
            return Ok(None);
        };
        match <[u8; 8]>::try_from(stored.as_slice()) {
            Ok(bytes) => Ok(Some(SeqNo(u64::from_be_bytes(bytes)))),
            Err(_) => Err(Error::InvalidArgument {
                what: "position of a feed",
                why: format!("its key holds {} bytes, which is no position", stored.len()),
            }),
        }
    }

    /// Says that the copy is one of a snapshot with this SeqNo.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use lightning_db::{Database, FeedPosition, LightningDbConfig};
    /// # let db = Database::create(dir.path().join("db"), LightningDbConfig::default())?;
    /// # let copy = Database::create(dir.path().join("copy"), LightningDbConfig::default())?;
    /// # let position = FeedPosition::new(&copy.keyspace("positions")?, "users");
    /// let snapshot = db.snapshot()?;
    /// for entry in snapshot.iter()? {
    ///     let (key, value) = entry?;
    ///     copy.put(key, value)?;
    /// }
    /// position.set(snapshot.seq())?;
    /// # assert_eq!(position.get()?, Some(snapshot.seq()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn set(&self, seq: SeqNo) -> Result<()> {
        self.keyspace.put(&self.key, seq.0.to_be_bytes())
    }

    /// Brings what a commit did into `target` and the position behind it, in one commit, unless the position is there
    /// already. Returns whether it did. A key whose value is [gone](Operation::Superseded) is left as it is.
    ///
    /// A commit that is as large as one may be leaves no room for the position, which then follows in another one. A
    /// crash between the two changes nothing: what the commit did is done again.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use lightning_db::{Database, FeedPosition, LightningDbConfig, SeqNo};
    /// # let db = Database::create(dir.path().join("db"), LightningDbConfig::durable())?;
    /// # let copy = Database::create(dir.path().join("copy"), LightningDbConfig::default())?;
    /// # let (target, positions) = (copy.keyspace("users")?, copy.keyspace("positions")?);
    /// let position = FeedPosition::new(&positions, "users");
    /// db.put("1", "Ada")?;
    /// for _ in 0..2 {
    ///     let mut commits = db.subscribe(&db.keyspace("default")?, SeqNo(1))?;
    ///     while let Some(committed) = commits.try_next()? {
    ///         position.apply(&committed, &target)?; // the second time it does nothing
    ///     }
    /// }
    /// assert_eq!(target.get("1")?.as_deref(), Some(&b"Ada"[..]));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_batch`]; [`InvalidArgument`](Error::InvalidArgument) if the target is of another database
    /// than the position. [`CommitTooLarge`](Error::CommitTooLarge) stays so until the copy is opened with a larger
    /// [`max_memory`](crate::LightningDbConfig::max_memory), as large as the source's.
    pub fn apply(&self, committed: &CommittedBatch, target: &Keyspace) -> Result<bool> {
        if !Arc::ptr_eq(&self.keyspace.handle, &target.handle) {
            let why = "it is of another database than the position".into();
            return Err(Error::InvalidArgument { what: "target", why });
        }
        if self.get()?.is_some_and(|done| done >= committed.seq()) {
            return Ok(false);
        }
        let db = &self.keyspace.handle.db;
        let mut batch = batch_of(committed, target);
        // Last: the operations may be on the keyspace of the position.
        batch.put_in(&self.keyspace, &self.key, committed.seq().0.to_be_bytes());
        match db.commit(batch.encoded()?, Durability::Default) {
            Err(Error::CommitTooLarge { .. }) => {
                drop(batch);
                let mut alone = batch_of(committed, target);
                db.commit(alone.encoded()?, Durability::Default)?;
                self.set(committed.seq())?;
            }
            done => drop(done?),
        }
        Ok(true)
    }
}

/// What a commit did, to be done to a copy.
fn batch_of(committed: &CommittedBatch, target: &Keyspace) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for operation in committed.operations() {
        match operation {
            Operation::Put { key, value } => batch.put_in(target, key, value),
            Operation::Delete { key } => batch.delete_in(target, key),
            Operation::DeleteRange { start, end } => {
                let end = end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                batch.delete_range_in(target, (Bound::Included(start), end))
            }
            Operation::Superseded { .. } => &mut batch,
        };
    }
    batch
}
