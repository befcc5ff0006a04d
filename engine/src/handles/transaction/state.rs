//! One transaction: what it reads from, what it has done, how it ends.

use super::{IsolationLevel, Settings, Transaction, TransactionScan};
use crate::{
    db::{
        Db, read,
        scan::Bounds,
        transact::{Terms, range_lock},
    },
    error::{Error, Result},
    handles::{Handle, Scan, WriteBatch},
    sync::{AtomicU32, Mutex, MutexGuard, Ordering::Relaxed},
    transaction::{
        Expires,
        locks::{Owner, Target},
        open::Open,
        reads::Reads,
        window::{Checks, Lost, Point, Span},
        writes::{self, Writes},
    },
    types::{KeyspaceId, SeqNo},
    version::Version,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Deref, DerefMut},
    sync::{Arc, Weak},
    time::Duration,
};

mod tries;
pub(super) use tries::run;

/// An open transaction, shared by its handles in several keyspaces.
pub(crate) struct Core {
    /// Not the handle: whoever ends what is over must not be the last to keep the database open.
    db: Arc<Db>,
    owner: Owner,
    settings: Settings,
    deadline: Option<Duration>,
    /// What was read, if it is looked at again when the transaction commits. Scans share it.
    reads: Option<Arc<Mutex<Reads>>>,
    /// In the list of what is open.
    place: AtomicU32,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// What it reads from: see [`Core::fix_view`]. None once it has ended, and under `ReadCommitted`.
    view: Option<(Arc<Version>, SeqNo)>,
    /// How many bulk loads there had been before.
    loads: u64,
    work: Lazy,
    /// It has, or has had, locks.
    locked: bool,
    /// What ended it: another commit touched this.
    lost: Vec<Lost>,
    /// What was locked before it began: nobody has touched it since.
    held: Option<Arc<[Lost]>>,
    /// Bytes that it is known to hold.
    bytes: usize,
}

/// What a transaction has that does more than read.
struct Work {
    writes: Writes,
    /// Keys that must not change from some SeqNo on; those that are locked cannot.
    for_update: BTreeMap<(KeyspaceId, Box<[u8]>), Kept>,
    /// Bytes of these, about.
    kept_bytes: usize,
    /// Numbers of the savepoints, and where they are among the writes.
    savepoints: Vec<(u64, usize)>,
    next_savepoint: u64,
}

impl Work {
    const NONE: Work = Work {
        writes: Writes::NONE,
        for_update: BTreeMap::new(),
        kept_bytes: 0,
        savepoints: vec![],
        next_savepoint: 0,
    };
}

/// Made when something is to be changed in it: one that reads a key is begun and dropped in the time of two gets.
#[derive(Default)]
struct Lazy(Option<Box<Work>>);

impl Deref for Lazy {
    type Target = Work;

    #[inline]
    fn deref(&self) -> &Work {
        static NONE: Work = Work::NONE;
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Lazy {
    fn deref_mut(&mut self) -> &mut Work {
        self.0.get_or_insert_with(|| Box::new(Work::NONE))
    }
}

/// How a key is kept from changing.
#[derive(Clone, Copy)]
enum Kept {
    /// It is not: the commit fails if it did since.
    Since(SeqNo),
    /// By a lock.
    Locked,
}

/// What a key that is kept costs besides its bytes, about: in the transaction, and in the table of locks.
const KEPT_BYTES: usize = 200;

/// What is to be looked at when there is a lock.
enum Locked {
    /// Nothing: the transaction sees what is newest.
    Now,
    /// What came since the moment that it sees.
    Late(SeqNo),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Committed,
    Aborted,
    TimedOut,
    /// What it saw was needed.
    TooOld,
    /// It lost against others.
    Lost,
}

impl State {
    /// Whether a key cannot change because of a lock that counts from when it was taken.
    fn is_locked(&self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        // The usual transaction has none, and pays nothing.
        !self.work.for_update.is_empty()
            && matches!(self.work.for_update.get(&(keyspace, Box::from(key))), Some(Kept::Locked))
    }
}

/// A try to do the work of a transaction: the first, or one that has the locks for which the last one lost.
pub(crate) struct Attempt {
    owner: Owner,
    locked: bool,
    /// What these locks are on.
    held: Option<Arc<[Lost]>>,
}

impl Attempt {
    pub(crate) fn first(db: &Db) -> Attempt {
        let id = db.transactions.next_id();
        Attempt { owner: Owner::new(id, id), locked: false, held: None }
    }
}

impl Core {
    /// Begins a transaction.
    pub(crate) fn begin(db: &Arc<Db>, settings: Settings, attempt: &Attempt) -> Result<Arc<Core>> {
        db.check_open()?;
        let writes = !settings.read_only;
        if writes {
            db.poison.check()?;
        }
        // Counted before it looks: what is committed behind what it sees is in the window.
        if writes {
            db.transactions.begin_write();
        }
        let begun = Core::begin_counted(db, settings, attempt);
        if begun.is_err() && writes {
            db.transactions.end_write();
        }
        begun
    }

    fn begin_counted(db: &Arc<Db>, settings: Settings, attempt: &Attempt) -> Result<Arc<Core>> {
        let loads = db.transactions.loads.count(); // before the view: a load between is a conflict
        let view = db.begin_view(!settings.read_only)?;
        crate::sync::point("transaction.begin");
        let core = Self::listed(Arc::clone(db), settings, attempt, (loads, view))?;
        if core.deadline.is_some() && !core.db().transactions.is_watched() {
            core.db().background.wake_prepare();
        }
        Ok(core)
    }

    /// A transaction that is counted, in the list of those that are open.
    fn listed(
        db: Arc<Db>,
        settings: Settings,
        attempt: &Attempt,
        (loads, view): (u64, (Arc<Version>, SeqNo)),
    ) -> Result<Arc<Core>> {
        let began = db.env.clock().about_now();
        let timeout = settings.timeout.unwrap_or(db.config.transaction_timeout);
        let timeout = timeout.min(db.config.version_retention);
        let serializable = settings.isolation == IsolationLevel::Serializable;
        let reads = (serializable && !settings.read_only).then(Arc::default);
        // One that waits for locks looks when it has the first.
        let later = settings.isolation == IsolationLevel::ReadCommitted || settings.pessimistic;
        let view = (!later).then_some(view);
        let state = State {
            phase: Phase::Open,
            view,
            loads,
            work: Lazy::default(),
            locked: attempt.locked,
            lost: vec![],
            held: attempt.held.clone(),
            bytes: 0,
        };
        let (owner, deadline) = (attempt.owner, began.checked_add(timeout));
        let place = AtomicU32::new(u32::MAX);
        let core = Arc::new(Core {
            db,
            owner,
            settings,
            deadline,
            reads,
            place,
            state: Mutex::new(state),
        });
        let it: Weak<Core> = Arc::downgrade(&core);
        let open = Open { id: owner.id, began, deadline, it, is_transaction: true };
        let max = core.db().config.max_active_transactions;
        if let Err(refused) = core.db().transactions.open.add(open, max, &core.place) {
            core.state.lock().phase = Phase::Aborted; // there is nothing to give back
            return Err(refused);
        }
        Ok(core)
    }

    fn db(&self) -> &Db {
        &self.db
    }

    pub(crate) fn id(&self) -> u64 {
        self.owner.id
    }

    /// The state of a transaction that is open. Whether its time is over, reads do not ask: the background ends it
    /// soon.
    fn open(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        match state.phase {
            Phase::Open => {
                self.db().check_open()?;
                Ok(state)
            }
            Phase::TimedOut => Err(Error::TransactionTimeout),
            Phase::TooOld => Err(Error::SnapshotTooOld),
            Phase::Committed => Err(Error::TransactionEnded { how: "committed" }),
            Phase::Aborted => Err(Error::TransactionEnded { how: "aborted" }),
            Phase::Lost => Err(Error::TransactionEnded { how: "in conflict with others" }),
        }
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| self.db().env.clock().about_now() >= deadline)
    }

    /// The state of an open transaction that may write.
    fn open_to_write(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.open()?;
        match self.settings.read_only {
            true => Err(Error::ReadOnlyTransaction),
            false => self.in_time(state),
        }
    }

    /// Ends the transaction if its time is over.
    fn in_time<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        match self.is_over() {
            false => Ok(state),
            true => {
                crate::sync::sometimes("transaction: its time is over");
                self.end(&mut state, Phase::TimedOut);
                Err(Error::TransactionTimeout)
            }
        }
    }

    /// What reads go to now.
    fn view(&self, state: &mut State) -> (Arc<Version>, SeqNo) {
        self.fix_view(state);
        state.view.clone().unwrap_or_else(|| self.db().view())
    }

    /// Decides on the moment that all reads show, if there is to be one: for a pessimistic transaction not before it
    /// reads, or has its first lock, so that it sees what it has waited for. Returns whether it was open until now.
    fn fix_view(&self, state: &mut State) -> bool {
        if state.view.is_some() || self.settings.isolation == IsolationLevel::ReadCommitted {
            return false;
        }
        state.loads = self.db().transactions.loads.count(); // before the view: a load between is a conflict
        state.view = Some(self.db().view());
        true
    }

    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut state = self.open()?;
        if let Some(written) = state.work.writes.of(keyspace).and_then(|writes| writes.get(key)) {
            return Ok(written.map(<[u8]>::to_vec));
        }
        self.fix_view(&mut state);
        if let Some(reads) = &self.reads {
            self.reserve(&mut state, key.len())?;
            reads.lock().point(keyspace, key);
            self.resize(&mut state)?;
        }
        match &state.view {
            Some((version, visible)) => {
                if !self.shows(version, keyspace)? {
                    return Ok(None);
                }
                let found = read::find(version, *visible, keyspace, key)?;
                found.map(|value| value.copied(self.db())).transpose()
            }
            None => self.db().get(keyspace, key),
        }
    }

    /// Whether a keyspace was there at the moment that the transaction sees. If it was made since, nothing is in it;
    /// if it was dropped before, that is an error.
    fn shows(&self, version: &Version, keyspace: KeyspaceId) -> Result<bool> {
        if read::check_keyspace(version, keyspace).is_ok() {
            return Ok(true);
        }
        crate::sync::sometimes("transaction: looks into a keyspace that is younger");
        read::check_keyspace(&self.db().pin(), keyspace).map(|()| false)
    }

    pub(crate) fn get_batch<K: AsRef<[u8]>>(
        &self,
        keyspace: KeyspaceId,
        keys: &[K],
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let mut state = self.open()?;
        if let Some(reads) = &self.reads {
            self.reserve(&mut state, keys.iter().map(|key| key.as_ref().len()).sum())?;
            let mut reads = reads.lock();
            let unwritten = keys.iter().map(K::as_ref).filter(|key| {
                state.work.writes.of(keyspace).is_none_or(|writes| writes.get(key).is_none())
            });
            unwritten.for_each(|key| reads.point(keyspace, key));
            drop(reads);
            self.resize(&mut state)?;
        }
        let view = self.view(&mut state);
        let mut values = Vec::with_capacity(keys.len());
        let found = |_, value: Option<&[u8]>| values.push(value.map(<[u8]>::to_vec));
        match self.shows(&view.0, keyspace)? {
            true => self.db().find_each((&*view.0, view.1), keyspace, keys, found)?,
            false => values.resize(keys.len(), None),
        }
        if let Some(writes) = state.work.writes.of(keyspace) {
            for (key, value) in keys.iter().zip(&mut values) {
                if let Some(written) = writes.get(key.as_ref()) {
                    *value = written.map(<[u8]>::to_vec);
                }
            }
        }
        Ok(values)
    }

    pub(crate) fn get_for_update(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let mut state = self.open_to_write()?;
        if self.settings.pessimistic {
            self.lock_key(&mut state, keyspace, key)?;
        } else {
            let (_, seen) = self.view(&mut state);
            // Of several reads the oldest counts.
            self.keep(&mut state, keyspace, key, Kept::Since(seen))?;
        }
        drop(state);
        self.get(keyspace, key)
    }

    /// Waits for the lock of a key. From then on it cannot change, and it must not have changed since the moment
    /// that the transaction sees.
    fn lock_key(&self, state: &mut State, keyspace: KeyspaceId, key: &[u8]) -> Result<()> {
        if state.is_locked(keyspace, key) {
            return Ok(());
        }
        let locked = self.lock(state, Target::Key(keyspace, key))?;
        if let Locked::Late(since) = locked {
            let point = Point { hash: keyspace.hash(key), keyspace, key, since };
            self.check(state, Checks::new(vec![point], vec![]))?;
        }
        self.keep(state, keyspace, key, Kept::Locked)
    }

    /// Notes how a key is kept from changing. A lock counts more than the oldest read.
    fn keep(&self, state: &mut State, keyspace: KeyspaceId, key: &[u8], kept: Kept) -> Result<()> {
        let place = (keyspace, Box::from(key));
        if let Some(known) = state.work.for_update.get_mut(&place) {
            if matches!(kept, Kept::Locked) {
                *known = kept;
            }
            return Ok(());
        }
        let cost = KEPT_BYTES + key.len();
        self.reserve(state, cost)?;
        state.work.kept_bytes += cost;
        state.work.for_update.insert(place, kept);
        Ok(())
    }

    /// Waits for a lock, and until all is visible that was sequenced before it was there. If it is not to be had, the
    /// transaction has ended.
    fn lock(&self, state: &mut State, target: Target<'_>) -> Result<Locked> {
        state.locked = true;
        let locked = self.db().lock_for(self.owner, target, self.deadline);
        if let Err(error) = &locked
            && error.is_conflict()
        {
            crate::sync::sometimes("transaction: does not get a lock");
            // Who has waited until its time was over does not try again.
            let is_late = matches!(error, Error::LockTimeout);
            self.end(state, if is_late { Phase::TimedOut } else { Phase::Lost });
        }
        locked?;
        self.db().wait_for_sequenced()?;
        self.fix_view(state);
        Ok(match &state.view {
            Some((_, seen)) => Locked::Late(*seen),
            None => Locked::Now,
        })
    }

    /// Ends the transaction if something was changed that it counts on.
    fn check(&self, state: &mut State, checks: Checks<'_>) -> Result<()> {
        let checks = checks.without_locked(state.held.as_deref().unwrap_or_default());
        let mut terms = Terms { checks, loads: Some(state.loads), ..Terms::default() };
        let holds = self.db().check_now(&mut terms);
        if let Err(Error::TransactionConflict) = &holds {
            crate::sync::sometimes("transaction: a lock comes too late");
            state.lost = std::mem::take(&mut terms.checks.lost);
            self.end(state, Phase::Lost);
        }
        holds
    }

    pub(crate) fn put(&self, keyspace: KeyspaceId, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let mut state = self.open_to_write()?;
        if key.len() > self.db().config.max_key_size {
            return Err(Error::KeyTooLarge);
        }
        if keyspace != KeyspaceId::DEFAULT {
            read::check_keyspace(&self.db().pin(), keyspace)?;
        }
        if self.settings.pessimistic {
            self.lock_key(&mut state, keyspace, key)?;
        }
        // Before it is done: nothing is half done.
        self.reserve(&mut state, writes::cost(key, value))?;
        state.work.writes.put(keyspace, key, value);
        self.resize(&mut state)
    }

    pub(crate) fn delete_range(
        &self,
        keyspace: KeyspaceId,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<()> {
        let mut state = self.open_to_write()?;
        let longest = end.unwrap_or_default().len().max(start.len()).saturating_sub(1);
        if longest > self.db().config.max_key_size {
            return Err(Error::KeyTooLarge);
        }
        read::check_keyspace(&self.db().pin(), keyspace)?;
        if end.is_some_and(|end| end <= start) {
            return Ok(()); // nothing lies between
        }
        if self.settings.pessimistic
            && let Locked::Late(since) = self.lock(&mut state, range_lock(keyspace, start, end))?
        {
            let span = Span { keyspace, start, end, since };
            self.check(&mut state, Checks::new(vec![], vec![span]))?;
        }
        self.reserve(&mut state, start.len() + end.map_or(0, <[u8]>::len))?;
        state.work.writes.delete_range(keyspace, start, end);
        self.resize(&mut state)
    }

    pub(crate) fn scan(
        &self,
        handle: &Arc<Handle>,
        keyspace: KeyspaceId,
        bounds: Bounds,
        reversed: bool,
    ) -> Result<TransactionScan> {
        let mut state = self.open()?;
        let view = self.view(&mut state);
        self.shows(&view.0, keyspace)?; // in one that it does not, there is nothing to walk over
        self.resize(&mut state)?; // what other scans have noted since
        if self.reads.is_some() {
            self.reserve(&mut state, size_of_val(&bounds))?;
        }
        let base = Scan::of_any(Arc::clone(handle), view, keyspace, bounds.clone(), false);
        let reads = self.reads.clone().map(|reads| (reads, keyspace));
        Ok(TransactionScan::new(base, state.work.writes.of(keyspace), bounds, reversed, reads))
    }

    pub(crate) fn savepoint(&self) -> Result<u64> {
        let mut state = self.open()?;
        let (number, at) = (state.work.next_savepoint, state.work.writes.savepoint());
        state.work.next_savepoint += 1;
        state.work.savepoints.push((number, at));
        Ok(number)
    }

    pub(crate) fn roll_back(&self, savepoint: u64) -> Result<()> {
        let mut state = self.open()?;
        let found = state.work.savepoints.iter().position(|(number, _)| *number == savepoint);
        let Some(at) = found else {
            return Err(Error::InvalidArgument {
                what: "savepoint",
                why: "the transaction went back to one before it".into(),
            });
        };
        state.work.savepoints.truncate(at + 1);
        let undo = state.work.savepoints[at].1;
        state.work.writes.roll_back(undo);
        self.resize(&mut state)
    }

    /// The newest SeqNo that reads see now.
    pub(crate) fn seq(&self) -> Result<SeqNo> {
        Ok(self.view(&mut *self.open()?).1)
    }

    /// Refuses to hold more than there is memory for.
    fn reserve(&self, state: &mut State, more: usize) -> Result<()> {
        let (old, max) = (state.bytes, self.db().config.max_memory / 4);
        self.db().transactions.resize(old, old + more, max)?;
        state.bytes = old + more;
        Ok(())
    }

    /// Counts what the transaction holds.
    fn resize(&self, state: &mut State) -> Result<()> {
        let reads = self.reads.as_ref().map_or(0, |reads| reads.lock().bytes());
        let (old, new) = (state.bytes, state.work.writes.bytes() + state.work.kept_bytes + reads);
        // What is there already is not refused; the next write is.
        self.db().transactions.resize(old, new, usize::MAX)?;
        state.bytes = new;
        Ok(())
    }

    /// Commits. Whatever comes of it, the transaction has ended.
    pub(crate) fn commit(&self) -> Result<SeqNo> {
        self.try_commit().map_err(|(error, _)| error)
    }

    /// The same, with what it lost to another commit.
    fn try_commit(&self) -> Result<SeqNo, (Error, Vec<Lost>)> {
        let state = self.open().and_then(|state| self.in_time(state));
        let mut state = state.map_err(|error| (error, vec![]))?;
        if state.work.writes.is_empty() {
            // What it read was the truth at one moment, whatever came later; but for what was to stay so.
            if !state.work.for_update.is_empty() {
                let (kept, _) = kept_for_update(&state);
                let checks = Checks::new(kept, vec![])
                    .without_locked(state.held.as_deref().unwrap_or_default());
                let loads = Some(state.loads);
                let mut terms = Terms { checks, loads, ..Terms::default() };
                let empty = terms.checks.is_void();
                let holds = if empty { Ok(()) } else { self.db().check_now(&mut terms) };
                if let Err(error) = holds {
                    let lost = std::mem::take(&mut terms.checks.lost);
                    self.end(&mut state, Phase::Lost);
                    return Err((error, lost));
                }
            }
            self.fix_view(&mut state);
            let seen = state.view.as_ref().map_or_else(|| self.db().visible(), |(_, seen)| *seen);
            self.end(&mut state, Phase::Committed);
            return Ok(seen);
        }
        let committed = self.commit_writes(&state);
        let phase = match &committed {
            Ok(_) => Phase::Committed,
            Err((Error::LockTimeout, _)) => Phase::TimedOut,
            Err((error, _)) if error.is_conflict() => Phase::Lost,
            Err(_) => Phase::Aborted,
        };
        self.end(&mut state, phase);
        committed
    }

    fn commit_writes(&self, state: &State) -> Result<SeqNo, (Error, Vec<Lost>)> {
        let mut batch = WriteBatch::with_capacity(state.work.writes.bytes());
        for (keyspace, writes) in state.work.writes.all() {
            // The ranges first: what was written is what stands in them.
            for (start, end) in &writes.deleted {
                batch.delete_between(keyspace, start, end.as_deref());
            }
            for (key, value) in &writes.entries {
                match value {
                    Some(value) => batch.put_id(keyspace, key, value),
                    None => batch.delete_id(keyspace, key),
                };
            }
        }
        let reads = self.reads.as_ref().map(|reads| reads.lock());
        let (points, spans) = counted_on(state, self.settings.pessimistic, reads.as_deref());
        let (points_kept, is_of_one_moment) = (
            !state.work.for_update.is_empty(),
            self.settings.isolation != IsolationLevel::ReadCommitted,
        );
        let mut terms = Terms {
            checks: Checks::new(points, spans)
                .without_locked(state.held.as_deref().unwrap_or_default()),
            loads: (points_kept || is_of_one_moment).then_some(state.loads),
            writes: Some(&state.work.writes),
            owner: Some(self.owner),
            deadline: self.deadline,
        };
        let committed = batch
            .encoded()
            .and_then(|batch| self.db().commit_on(batch, self.settings.durability, &mut terms));
        committed.map_err(|error| (error, terms.checks.lost))
    }

    /// Ends the transaction without a trace.
    pub(crate) fn abort(&self) {
        self.end(&mut self.state.lock(), Phase::Aborted);
    }

    /// Gives back what it holds, once.
    fn end(&self, state: &mut State, phase: Phase) {
        if state.phase != Phase::Open {
            return;
        }
        state.phase = phase;
        let transactions = &self.db().transactions;
        match phase {
            Phase::Committed => transactions.committed.add(1),
            _ => transactions.aborted.add(1),
        }
        if state.locked || self.db().locks.in_use() {
            self.db().locks.unlock_all(self.owner.id);
        }
        if !self.settings.read_only {
            transactions.end_write();
        }
        transactions.open.remove(self.place.load(Relaxed), self.owner.id);
        state.view = None;
        state.work = Lazy::default();
        // Getting smaller is never refused.
        let _ = transactions.resize(state.bytes, 0, usize::MAX);
        state.bytes = 0;
    }
}

/// The keys that were read for update and are not locked.
fn kept_for_update(state: &State) -> (Vec<Point<'_>>, Vec<Span<'_>>) {
    let kept = state.work.for_update.iter().filter_map(|((keyspace, key), kept)| match kept {
        Kept::Locked => None,
        Kept::Since(since) => {
            Some(Point { hash: keyspace.hash(key), keyspace: *keyspace, key, since: *since })
        }
    });
    (kept.collect(), vec![])
}

/// What must not have been touched when the transaction commits.
fn counted_on<'a>(
    state: &'a State,
    pessimistic: bool,
    reads: Option<&'a Reads>,
) -> (Vec<Point<'a>>, Vec<Span<'a>>) {
    let (mut points, mut spans) = kept_for_update(state);
    let Some(since) = state.view.as_ref().map(|(_, seen)| *seen) else {
        return (points, spans);
    };
    match reads {
        Some(reads) => {
            points.extend(reads.points(since));
            spans.extend(reads.spans(since));
        }
        // All that it writes is locked.
        None if pessimistic => {}
        None => {
            for (keyspace, writes) in state.work.writes.all() {
                let deleted = writes.deleted.iter();
                spans.extend(deleted.map(|(start, end)| Span {
                    keyspace,
                    start,
                    end: end.as_deref(),
                    since,
                }));
                points.extend(writes.entries.keys().map(|key| Point {
                    hash: keyspace.hash(key),
                    keyspace,
                    key,
                    since,
                }));
            }
        }
    }
    (points, spans)
}

impl Expires for Core {
    fn expire(&self) {
        // One that is in the middle of something is looked at later.
        if let Some(mut state) = self.state.try_lock() {
            crate::sync::sometimes("transaction: ended because its time is over");
            self.end(&mut state, Phase::TimedOut);
        }
    }

    fn give_up(&self) -> bool {
        let Some(mut state) = self.state.try_lock() else { return false };
        let is_old = |(version, _): &(Arc<Version>, SeqNo)| !self.db().versions.is_current(version);
        let frees = state.phase == Phase::Open && state.view.as_ref().is_some_and(is_old);
        if frees {
            crate::sync::sometimes("transaction: ended because of what it holds in memory");
            self.end(&mut state, Phase::TooOld);
        }
        frees
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Nobody else has it any more; but what it holds, others wait for.
        if self.state.get_mut().phase == Phase::Open && !self.db.env.is_dying() {
            self.abort();
        }
    }
}

impl Core {
    fn take_lost(&self) -> BTreeSet<Lost> {
        std::mem::take(&mut self.state.lock().lost).into_iter().collect()
    }

    fn has_lost(&self) -> bool {
        self.state.lock().phase == Phase::Lost
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }
}
