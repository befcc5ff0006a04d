//! Iterating over what a transaction sees: what is committed, under its own writes.

use crate::{
    db::scan::{self, Bounds},
    error::{Error, Result},
    handles::Scan,
    iter::successor,
    sync::Mutex,
    transaction::{
        reads::{Range, Reads},
        writes::{Deleted, InKeyspace, Written, is_deleted},
    },
    types::KeyspaceId,
};
use std::{cmp::Ordering, collections::VecDeque, fmt, ops::Bound, sync::Arc};

type Entry = (Vec<u8>, Vec<u8>);

/// Walks the entries of a range as a transaction sees them, in key order or from the back, as
/// [`Scan`](crate::Scan) does. After an error it returns that error for ever.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put_batch(&[("a", "1"), ("b", "2"), ("c", "3")])?;
/// let tx = db.transaction().begin()?;
/// tx.put("b", "own")?;
/// let mut scan = tx.iter()?;
/// assert_eq!(scan.next_back().unwrap()?.0, b"c");
/// assert_eq!(scan.next_back().unwrap()?, (b"b".to_vec(), b"own".to_vec()));
/// assert_eq!(scan.next().unwrap()?.0, b"a");
/// assert!(scan.next().is_none());
/// # Ok::<(), lightning_db::Error>(())
/// ```
pub struct TransactionScan {
    base: Scan,
    /// The next committed entries from both ends, fetched and not given out.
    front: Option<Entry>,
    back: Option<Entry>,
    /// The transaction's own entries that were not given out, within the bounds.
    own: VecDeque<(Box<[u8]>, Written)>,
    deleted: Deleted,
    /// The first step goes towards lower keys.
    reversed: bool,
    noted: Option<Noted>,
    failed: Option<Error>,
}

/// Where a serializable transaction notes what a scan has read.
struct Noted {
    reads: Arc<Mutex<Reads>>,
    keyspace: KeyspaceId,
    /// The range as a whole.
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    /// The parts of it that were read from both ends.
    front: Option<usize>,
    back: Option<usize>,
}

impl fmt::Debug for TransactionScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionScan").field("reversed", &self.reversed).finish_non_exhaustive()
    }
}

impl TransactionScan {
    pub(super) fn new(
        base: Scan,
        writes: Option<&InKeyspace>,
        bounds: Bounds,
        reversed: bool,
        reads: Option<(Arc<Mutex<Reads>>, KeyspaceId)>,
    ) -> TransactionScan {
        let own = writes.map(|writes| own_entries(writes, &bounds)).unwrap_or_default();
        let deleted = writes.map(|writes| writes.deleted.clone()).unwrap_or_default();
        let noted = reads.map(|(reads, keyspace)| {
            let (start, end) = scan::half_open(bounds);
            Noted { reads, keyspace, start, end, front: None, back: None }
        });
        let (front, back, failed) = (None, None, None);
        TransactionScan { base, front, back, own, deleted, reversed, noted, failed }
    }

    fn step(&mut self, back: bool) -> Result<Option<Entry>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let back = back != self.reversed;
        let found = self.find(back);
        match &found {
            Err(error) => self.failed = Some(error.clone()),
            Ok(entry) => {
                if let Some(noted) = &mut self.noted {
                    noted.note(back, entry.as_ref().map(|(key, _)| &key[..]));
                }
            }
        }
        found
    }

    /// The next entry from the low end, or from the high one if `back`.
    fn find(&mut self, back: bool) -> Result<Option<Entry>> {
        loop {
            self.fetch(back)?;
            let fetched = if back { &self.back } else { &self.front };
            let own = if back { self.own.back() } else { self.own.front() };
            let order = match (own, fetched) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((own, _)), Some((key, _))) => match back {
                    false => own[..].cmp(key),
                    true => key[..].cmp(own),
                },
            };
            let mut found = None;
            if order != Ordering::Less {
                found = if back { self.back.take() } else { self.front.take() };
                found = found.filter(|(key, _)| !is_deleted(&self.deleted, key));
            }
            // Its own entry, of two of a key, is the newer one.
            if order != Ordering::Greater {
                let own = if back { self.own.pop_back() } else { self.own.pop_front() };
                found = own.and_then(|(key, value)| Some((key.into(), value?.into())));
            }
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Has the next committed entry ready: the last one may be the one that is ready at the other end.
    fn fetch(&mut self, back: bool) -> Result<()> {
        let TransactionScan { base, front, back: rear, .. } = self;
        let (here, there) = if back { (rear, front) } else { (front, rear) };
        if here.is_none() {
            let next = if back { base.next_back() } else { base.next() };
            *here = next.transpose()?.or_else(|| there.take());
        }
        Ok(())
    }
}

/// The entries within bounds.
fn own_entries(writes: &InKeyspace, bounds: &Bounds) -> VecDeque<(Box<[u8]>, Written)> {
    // Between a key and itself there is nothing, and a map would not have it asked.
    if let (Bound::Excluded(start), Bound::Excluded(end)) = bounds
        && start == end
    {
        return VecDeque::new();
    }
    let bounds = (bounds.0.as_ref().map(|key| &key[..]), bounds.1.as_ref().map(|key| &key[..]));
    let entries = writes.entries.range::<[u8], _>(bounds);
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Noted {
    /// A step came to a key, or to the end of the range.
    fn note(&mut self, back: bool, key: Option<&[u8]>) {
        let (start, end) = match (key, back) {
            (None, _) => (self.start.clone(), self.end.clone()),
            (Some(key), false) => (self.start.clone(), Some(successor(key))),
            (Some(key), true) => (key.to_vec(), self.end.clone()),
        };
        let range = Range { keyspace: self.keyspace, start, end };
        let place = if back { &mut self.back } else { &mut self.front };
        let mut reads = self.reads.lock();
        match place {
            Some(at) => reads.replace(*at, range),
            None => *place = Some(reads.span(range)),
        }
    }
}

impl Iterator for TransactionScan {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(false).transpose()
    }
}

impl DoubleEndedIterator for TransactionScan {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true).transpose()
    }
}
