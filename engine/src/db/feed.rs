//! The change feed: what was committed to a keyspace, in the order of the commits, read from the log.
//!
//! A commit is in the feed once it is durable and visible, and never before another that came earlier. What the log
//! does not hold any more cannot be yielded, and a bulk load never was in it: whoever wants either has to begin anew,
//! from a snapshot, and is told so ([`Error::Lagged`]).
//!
//! Loads have no SeqNo, so copies of a keyspace from before one and from behind it may name the same. Nobody goes on
//! at the SeqNo that follows the newest one of then, and if it comes to that, an empty commit uses it up: the next
//! snapshot is of a later one. The same holds for dropping a keyspace and creating one of the same name, but for those
//! who begin with the first SeqNo: they have nothing yet.

use super::{Db, transact::Terms};
use crate::{
    codec::decompress_payload,
    config::Durability,
    error::{Error, Result},
    format::{
        blob::BlobPointer,
        manifest::{Change, KeyspaceState, State},
        ops::{Op, Ops},
        record::{FLAG_COMPRESSED, RecordHeader},
    },
    sync::{Mutex, Ordering::SeqCst, point},
    types::{KeyspaceId, Lsn, SeqNo},
    wal::follow::{Follower, Found, Next},
};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

/// What one commit did to a keyspace, as a [`Subscription`](crate::Subscription) yields it.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, LightningDbConfig, Operation, SeqNo, WriteBatch};
/// let db = Database::create(&path, LightningDbConfig::durable())?;
/// let users = db.keyspace("users")?;
/// let mut batch = WriteBatch::new();
/// batch.put("count", "1").put_in(&users, "1", "Ada");
/// db.write(batch)?;
/// let committed = users.subscribe(SeqNo(1))?.try_next()?.expect("it is durable");
/// assert_eq!(committed.seq(), SeqNo(2));
/// let put = Operation::Put { key: b"1".to_vec(), value: b"Ada".to_vec() };
/// assert_eq!(committed.operations(), [put]); // that of the other keyspace is left out
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedBatch {
    seq: SeqNo,
    wall_time: Duration,
    operations: Vec<Operation>,
}

/// One operation of a [`CommittedBatch`].
///
/// ```
/// use lightning_db::Operation;
/// fn key_of(operation: &Operation) -> Option<&[u8]> {
///     match operation {
///         Operation::Put { key, .. } | Operation::Delete { key } | Operation::Superseded { key } => Some(key),
///         _ => None,
///     }
/// }
/// assert_eq!(key_of(&Operation::Delete { key: b"1".to_vec() }), Some(&b"1"[..]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// The key was set to the value.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value, a large one too.
        value: Vec<u8>,
    },
    /// The key was removed, if it was there.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// All keys of a range were removed.
    DeleteRange {
        /// The first key of the range.
        start: Vec<u8>,
        /// The first key behind it, unless it has no end.
        end: Option<Vec<u8>>,
    },
    /// The key was set to a value that had a file of its own, and the file is gone: a later operation, of this commit or
    /// of another one that is durable and will be yielded, overwrote or deleted it, or the keyspace was dropped or loaded,
    /// which ends the subscription. Who leaves the key as it is until then misses one of its values, and never has one
    /// that it did not have.
    Superseded {
        /// The key.
        key: Vec<u8>,
    },
}

impl CommittedBatch {
    /// The SeqNo of the commit's last operation, in whichever keyspace. A subscription goes on behind it from
    /// `seq() + 1`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use lightning_db::{Database, LightningDbConfig, SeqNo};
    /// # let db = Database::create(dir.path().join("db"), LightningDbConfig::durable())?;
    /// db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// let committed = db.subscribe(&db.keyspace("default")?, SeqNo(1))?.try_next()?;
    /// assert_eq!(committed.unwrap().seq(), SeqNo(2));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn seq(&self) -> SeqNo {
        self.seq
    }

    /// When it was written to the log, as time since 1970-01-01 UTC by the clock of the machine, which may jump. Of
    /// commits that an opening had to copy, because they were not known to be durable, when that was.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use lightning_db::{Database, LightningDbConfig, SeqNo};
    /// # let db = Database::create(dir.path().join("db"), LightningDbConfig::durable())?;
    /// db.put("a", "1")?;
    /// let committed = db.subscribe(&db.keyspace("default")?, SeqNo(1))?.try_next()?;
    /// assert!(std::time::UNIX_EPOCH + committed.unwrap().wall_time() <= std::time::SystemTime::now());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn wall_time(&self) -> Duration {
        self.wall_time
    }

    /// What it did to the keyspace, in order. At least one operation; deletes of ranges in which no key can be are left
    /// out.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use lightning_db::{Database, LightningDbConfig, Operation, SeqNo};
    /// # let db = Database::create(dir.path().join("db"), LightningDbConfig::durable())?;
    /// db.delete_range("a"..)?;
    /// let committed = db.subscribe(&db.keyspace("default")?, SeqNo(1))?.try_next()?.unwrap();
    /// assert_eq!(committed.operations(), [Operation::DeleteRange { start: b"a".to_vec(), end: None }]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The same, owned.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use lightning_db::{Database, LightningDbConfig, SeqNo};
    /// # let db = Database::create(dir.path().join("db"), LightningDbConfig::durable())?;
    /// db.delete("a")?;
    /// let committed = db.subscribe(&db.keyspace("default")?, SeqNo(1))?.try_next()?.unwrap();
    /// assert_eq!(committed.into_operations().len(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn into_operations(self) -> Vec<Operation> {
        self.operations
    }
}

/// What happened to keyspaces past the log: bulk loads, and that they were created.
pub(crate) struct Loads(Mutex<BTreeMap<KeyspaceId, Load>>);

/// The newest load of a keyspace.
#[derive(Clone, Copy, Default)]
struct Load {
    /// How many there were since opening.
    count: u64,
    /// Copies up to this SeqNo may lack it.
    seq: Option<SeqNo>,
    /// Copies up to this SeqNo may be of an earlier keyspace with this one's name.
    created: Option<SeqNo>,
}

impl Load {
    /// Up to which SeqNo copies are not of what the keyspace is now, if one is that goes on at `from`.
    fn outdates(&self, from: SeqNo) -> Option<SeqNo> {
        // Who begins with the first SeqNo has no copy yet.
        let created = self.created.filter(|_| from > SeqNo(1));
        self.seq.max(created).filter(|seq| from.0 <= seq.0.saturating_add(1))
    }
}

impl Loads {
    pub(super) fn of(state: &State) -> Loads {
        let load = |k: &KeyspaceState| Load { count: 0, seq: k.loaded, created: k.created };
        let loads = state.keyspaces.iter().map(|(id, keyspace)| (*id, load(keyspace)));
        Loads(Mutex::new(loads.collect()))
    }

    /// A keyspace is created, and commits to it come behind this SeqNo. Called before it is there.
    pub(super) fn created(&self, keyspace: KeyspaceId, seq: SeqNo) {
        self.0.lock().entry(keyspace).or_default().created = Some(seq);
    }

    fn newest(&self, keyspace: KeyspaceId) -> Load {
        self.0.lock().get(&keyspace).copied().unwrap_or_default()
    }

    /// Says of the loads since opening which SeqNo they have, for the manifest.
    pub(super) fn settled(&self, state: &State) -> Vec<Change> {
        let loads = self.0.lock();
        let open =
            loads.iter().filter(|(id, load)| load.count > 0 && state.keyspaces.contains_key(id));
        open.filter_map(|(id, load)| load.seq.map(|seq| Change::Loaded(*id, seq))).collect()
    }
}

/// What is known of a load that was made before an opening, and that no edit has told since: copies up to all that was
/// found may lack it. And a keyspace may have been created behind commits that were lost: their SeqNos are given again.
pub(super) fn settle_load(keyspace: &mut KeyspaceState, next_seq: SeqNo) {
    let newest = SeqNo(next_seq.0.saturating_sub(1));
    if keyspace.loaded == Some(SeqNo::MAX) {
        crate::sync::sometimes("open: a load whose SeqNo was not told");
    }
    keyspace.loaded = keyspace.loaded.map(|seq| seq.min(newest));
    keyspace.created = keyspace.created.map(|seq| seq.min(newest));
}

/// A subscription, as the database knows it.
pub(crate) struct Feed {
    keyspace: KeyspaceId,
    name: Arc<str>,
    /// Commits that end below were yielded, or are not wanted.
    from: SeqNo,
    /// Where another feed goes on. Less than `from` once the keyspace was loaded or dropped: what was passed over since
    /// does not count, so that nobody goes on there without the load, or with a new keyspace of the name.
    position: SeqNo,
    follower: Follower,
    /// How many loads the keyspace had.
    loads: u64,
    /// Why there is nothing more.
    ended: Option<Error>,
}

impl Feed {
    pub(crate) fn position(&self) -> SeqNo {
        self.position
    }
}

/// How far the feed has come.
enum Advance {
    Committed(CommittedBatch),
    /// All that is durable was read.
    Durable,
    /// A commit that is durable, up to this SeqNo, is not visible yet.
    Visible(SeqNo),
}

impl Db {
    /// Begins to yield the commits to a keyspace that end at or behind `from`.
    pub(crate) fn subscribe(
        &self,
        keyspace: KeyspaceId,
        name: &Arc<str>,
        from: SeqNo,
    ) -> Result<Feed> {
        self.check_open()?;
        let from = from.max(SeqNo(1));
        let load = self.loads.newest(keyspace); // before the log: what is loaded later ends the feed
        if !self.has_keyspace(keyspace) {
            return Err(Error::KeyspaceNotFound { name: name.to_string() });
        }
        if let Some(outdated) = load.outdates(from) {
            return Err(self.outdated(keyspace, outdated, from));
        }
        let follower = self.follower_from(from)?;
        let (name, loads) = (Arc::clone(name), load.count);
        Ok(Feed { keyspace, name, from, position: from, follower, loads, ended: None })
    }

    /// Somebody who follows the log from this SeqNo on.
    fn follower_from(&self, from: SeqNo) -> Result<Follower> {
        let next_seq = {
            let sequencer = self.sequencer.lock();
            let next_seq = sequencer.next_seq;
            if from > next_seq {
                // It counts on commits that are not there: this is another database, or has lost them.
                crate::sync::sometimes("feed: somebody is ahead of the database");
                return Err(Error::Lagged { wanted: from, oldest: next_seq });
            }
            if from == next_seq {
                return Ok(self.wal.follow(sequencer.tail.last_end()));
            }
            next_seq
        };
        match self.wal.follow_from(from, next_seq)? {
            Found::Here(follower) => Ok(follower),
            Found::Oldest(oldest) => Err(Error::Lagged { wanted: from, oldest }),
        }
    }

    pub(crate) fn unsubscribe(&self, feed: &Feed) {
        self.wal.end_follow(&feed.follower);
    }

    /// The next commit to the keyspace, waited for. `None`: `patience` has passed.
    pub(crate) fn next_commit(
        &self,
        feed: &mut Feed,
        patience: Option<Duration>,
    ) -> Result<Option<CommittedBatch>> {
        if let Some(ended) = &feed.ended {
            return Err(ended.clone());
        }
        let clock = self.env.clock();
        let deadline = patience.map(|patience| clock.now().saturating_add(patience));
        loop {
            self.check_open()?;
            // Before the log is read: what was committed before is in it.
            let is_gone = !self.has_keyspace(feed.keyspace);
            // All of it is to be yielded, and nobody else may make it durable any more.
            let synced = if is_gone { self.sync() } else { Ok(()) };
            let poisoned = self.poison.check().and(synced);
            let until = self.wal.durable();
            point("feed.read");
            let advanced = self.advance(feed, until);
            // Behind it: a load that comes later knows of a SeqNo that is not below what is yielded now, so that
            // nobody goes on from there without the load.
            point("feed.loads");
            let load = self.loads.newest(feed.keyspace);
            if load.count != feed.loads {
                let outdated = load.seq.unwrap_or_default();
                let error = self.outdated(feed.keyspace, outdated, feed.position);
                return Err(self.end_feed(feed, error));
            }
            // Behind it, too: a keyspace of the same name that comes later knows of such a SeqNo.
            let of_keyspace = matches!(&advanced, Ok(Advance::Committed(_)));
            if of_keyspace || self.has_keyspace(feed.keyspace) {
                feed.position = feed.from;
            }
            let advance = advanced.map_err(|error| self.end_feed(feed, error))?;
            if let Advance::Committed(batch) = advance {
                return Ok(Some(batch));
            }
            poisoned?;
            if is_gone && matches!(advance, Advance::Durable) {
                let error = Error::KeyspaceNotFound { name: feed.name.to_string() };
                return Err(self.end_feed(feed, error));
            }
            let left = deadline.map(|deadline| deadline.saturating_sub(clock.now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.wait_for_more(feed, &advance, is_gone, left.unwrap_or(Duration::from_secs(3600)));
        }
    }

    /// Remembers an error behind which nothing can come. Then nothing is kept for the feed either.
    fn end_feed(&self, feed: &mut Feed, error: Error) -> Error {
        let error = match error {
            Error::Lagged { oldest, .. } => Error::Lagged { wanted: feed.position, oldest },
            other => other,
        };
        if matches!(error, Error::Lagged { .. } | Error::KeyspaceNotFound { .. }) {
            self.wal.end_follow(&feed.follower);
            feed.ended = Some(error.clone());
        }
        error
    }

    /// Reads the log up to `until`, unless a commit to the keyspace comes first.
    fn advance(&self, feed: &mut Feed, until: Lsn) -> Result<Advance> {
        while feed.follower.at() < until {
            self.check_open()?;
            let record = match feed.follower.next(&self.wal, until)? {
                Next::Commit(record) => record,
                Next::Nothing => return Ok(Advance::Durable),
                Next::Gone => {
                    // It may have read all that mattered there.
                    let follower = self.follower_from(feed.from)?;
                    crate::sync::sometimes("feed: goes on behind a segment that is gone");
                    self.wal.end_follow(&std::mem::replace(&mut feed.follower, follower));
                    continue;
                }
            };
            let next = SeqNo(record.first_seq.0 + u64::from(record.operations));
            if next.0 > self.visible().0 + 1 {
                crate::sync::sometimes("feed: a commit is durable and not yet visible");
                return Ok(Advance::Visible(SeqNo(next.0 - 1)));
            }
            if record.first_seq > feed.from {
                crate::sync::sometimes("feed: the log begins behind where it was to");
                return Err(Error::Lagged { wanted: feed.from, oldest: record.first_seq });
            }
            let operations = match next > feed.from {
                true => self.operations(feed, &record)?,
                false => vec![],
            };
            feed.follower.pass(&record);
            feed.from = feed.from.max(next);
            if !operations.is_empty() {
                let wall_time = Duration::from_micros(record.wall_micros);
                let seq = SeqNo(next.0 - 1);
                return Ok(Advance::Committed(CommittedBatch { seq, wall_time, operations }));
            }
        }
        Ok(Advance::Durable)
    }

    /// What a commit did to the keyspace.
    fn operations(&self, feed: &mut Feed, record: &RecordHeader) -> Result<Vec<Operation>> {
        let keyspace = feed.keyspace;
        let payload = feed.follower.payload(record)?;
        let payload = match record.flags & FLAG_COMPRESSED {
            0 => Some(Cow::Borrowed(payload)),
            _ => decompress_payload(payload).map(Cow::Owned),
        };
        let ops: Option<Vec<Op<'_>>> =
            payload.as_deref().and_then(|payload| Ops::new(payload).collect());
        let Some(ops) = ops.filter(|ops| ops.len() as u64 == u64::from(record.operations)) else {
            let wanted = format!("{} operations in the log", record.operations);
            return Err(feed.follower.corrupt(record, wanted, "other bytes".into()));
        };
        let ours = ops.into_iter().filter(|op| op.keyspace() == keyspace && !is_of_no_key(op));
        ours.map(|op| self.operation(op)).collect()
    }

    fn operation(&self, op: Op<'_>) -> Result<Operation> {
        Ok(match op {
            Op::Put { key, value, .. } => Operation::Put { key: key.into(), value: value.into() },
            Op::Delete { key, .. } => Operation::Delete { key: key.into() },
            Op::RangeDelete { start, end, .. } => {
                Operation::DeleteRange { start: start.into(), end: end.map(<[u8]>::to_vec) }
            }
            Op::Blob { key, pointer, .. } => self.large_put(key, pointer)?,
        })
    }

    /// The commit is durable and visible. So if nothing names the blob, what took its place is durable, too: who let go
    /// of the blob had a durable edit, of what was visible, behind a synced log.
    fn large_put(&self, key: &[u8], pointer: BlobPointer) -> Result<Operation> {
        let key = key.to_vec();
        let Some(held) = self.blobs.held(pointer) else {
            crate::sync::sometimes("feed: a large value is gone");
            return Ok(Operation::Superseded { key });
        };
        let value = self.read_blob(pointer);
        drop(held);
        Ok(Operation::Put { key, value: value? })
    }

    fn wait_for_more(&self, feed: &Feed, advance: &Advance, is_gone: bool, patience: Duration) {
        let is_over = || {
            self.closing.load(SeqCst)
                || self.poison.check().is_err()
                || !is_gone && !self.has_keyspace(feed.keyspace)
                || self.loads.newest(feed.keyspace).count != feed.loads
        };
        match advance {
            Advance::Visible(seq) => {
                let moved = || (self.visible() >= *seq || is_over()).then_some(());
                self.published_moved.wait_for(patience, moved);
            }
            _ => self.wal.wait_behind(feed.follower.at(), patience, is_over),
        }
    }

    fn has_keyspace(&self, keyspace: KeyspaceId) -> bool {
        self.pin().keyspace(keyspace).is_some()
    }

    /// A bulk load of a keyspace is visible.
    pub(super) fn is_loaded(&self, keyspace: KeyspaceId) {
        let mut loads = self.loads.0.lock();
        let load = loads.entry(keyspace).or_default();
        load.count += 1;
        // Snapshots up to here may be of a Version without it.
        load.seq = Some(self.visible());
        drop(loads);
        self.wal.wake_followers();
    }

    /// That a subscription cannot go on because copies up to a SeqNo are not of what the keyspace is now. Sees to it
    /// that one can from a new snapshot on.
    #[cold]
    fn outdated(&self, keyspace: KeyspaceId, outdated: SeqNo, wanted: SeqNo) -> Error {
        if self.visible() <= outdated {
            crate::sync::sometimes("feed: uses up the SeqNo behind a load");
            if let Err(error) = self.commit_nothing(keyspace) {
                return error;
            }
        }
        Error::Lagged { wanted, oldest: SeqNo(outdated.0 + 2) }
    }

    /// A commit that changes nothing: it deletes a range that holds no key.
    fn commit_nothing(&self, keyspace: KeyspaceId) -> Result<()> {
        let op = Op::RangeDelete { keyspace, start: b"", end: Some(b"") };
        let terms = &mut Terms::default();
        self.commit_ops(&[op], &[], Durability::Default, terms).map(|_| ())
    }
}

/// Whether it deletes a range that holds no key.
fn is_of_no_key(op: &Op<'_>) -> bool {
    matches!(op, Op::RangeDelete { start, end: Some(end), .. } if start >= end)
}
