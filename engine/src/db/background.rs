//! What happens by itself: syncing, preparing segments and memtables, flushing, merging runs.
//!
//! Four threads, each a loop of "wait until there is something to do, do it". A failure leaves
//! everything as it was; it is kept for writers that wait, and tried again after a while.

use super::{Db, hand_down::HandedDown};
use crate::{
    config::{LightningDbConfig, WalSyncMode},
    env::{Env, Poison, Signal, Task},
    error::{Error, Result},
    format::{
        manifest::{Change, LogPiece},
        pages::PageSet,
    },
    iter::{
        Direction,
        merge::{Merge, Source},
        tombstones::RangeTombstones,
    },
    memtable::Memtable,
    pager::Pager,
    sstable::{Sstable, SstableOptions},
    sync::{AtomicBool, Mutex, Ordering::SeqCst},
    transaction::loads::Running,
    types::{KeyspaceId, Lsn, SeqNo},
    upkeep::{output::Outputs, pick},
    version::{KeyspaceVersion, Sealed, Tree},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    ops::Bound,
    sync::{Arc, Weak},
    time::Duration,
};

pub(crate) struct Background {
    stop: AtomicBool,
    sync_wanted: Arc<Signal>,
    /// Moved when the log should be synced before its interval is over.
    sync_soon: Arc<Signal>,
    prepare_wanted: Arc<Signal>,
    flush_wanted: Arc<Signal>,
    pub(super) compact_wanted: Arc<Signal>,
    /// Moved by every flush and merge, successful or not.
    pub(super) done: Arc<Signal>,
    /// Moved by `stop`: what a thread that only lets time pass waits for.
    pub(super) ended: Arc<Signal>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Ready to take the place of the next full memtable.
    memtable: Option<Arc<Memtable>>,
    /// How many flushes failed, and how the last one did.
    failures: u64,
    failure: Option<Error>,
    /// Keyspaces whose last merge failed, and the number of that failure: how many runs they have does not
    /// hold up flushes.
    unmerged: BTreeMap<KeyspaceId, u64>,
    failed_merges: u64,
    /// What a flush waits for.
    pub(super) handed_down: Option<HandedDown>,
    /// Keyspaces that are being loaded.
    pub(super) loading: BTreeSet<KeyspaceId>,
    /// The keyspace whose runs or tree are being merged or dropped. Never one that is being loaded.
    merging: Option<KeyspaceId>,
    /// How many wait until all runs are merged: however few there are.
    settling: u64,
    /// A put of a large value found the disk full: as while something settles, until nothing is left to merge.
    reclaiming: bool,
    /// How often it was asked for unused space of the trees to be given back, and how many of these
    /// requests are met.
    space_wanted: u64,
    space_given: u64,
    /// How the last try to give space back failed, if it did, and how many did. Nothing but whoever asked
    /// for it fails with it.
    space_failure: Option<Error>,
    space_failures: u64,
    /// Dropped by a durable edit; to be removed once no Version names them.
    pub(super) obsolete: Vec<Arc<Sstable>>,
    /// What merges have replaced, oldest first.
    pub(super) retired: VecDeque<Retired>,
}

/// A tree that a merge has replaced.
pub(super) struct Retired {
    /// Held by Versions alone: what it has in memory goes with the last of them, though an older one may still hold
    /// back its pages.
    pub(super) tree: Weak<Tree>,
    pub(super) pager: Arc<Pager>,
    /// Those that the next one does not have.
    pub(super) pages: PageSet,
}

/// Time between a failure and the next try, and between looks at what readers still hold.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// A log that nothing was written to for so long gives large spare segments back.
const LOG_IDLE: Duration = Duration::from_secs(10);
/// Time between looks for transactions whose time is over, while there are any.
const WATCH: Duration = Duration::from_secs(1);
/// Flushing waits while this many runs stand in a keyspace.
const RUNS_STALL: usize = pick::RUNS_MAX * 3;
/// How much of a memtable is made present ahead of its use.
const POPULATE_BYTES: usize = 8 << 20;
const BLOCK_BYTES: usize = 4096;
const FILTER_BITS_PER_KEY: u32 = 10;

impl Background {
    pub(crate) fn new(env: &Arc<dyn Env>, poison: &Poison) -> Background {
        let background = Background {
            stop: AtomicBool::new(false),
            sync_wanted: Signal::new(env),
            sync_soon: Signal::new(env),
            prepare_wanted: Signal::new(env),
            flush_wanted: Signal::new(env),
            compact_wanted: Signal::new(env),
            done: Signal::new(env),
            ended: Signal::new(env),
            state: Mutex::new(State::default()),
        };
        poison.wakes(&background.done);
        background
    }

    /// Starts the threads. If one cannot start, those that did are ended by the caller's `stop`.
    pub(crate) fn start(db: &Arc<Db>, tasks: &mut Vec<Box<dyn Task>>) -> io::Result<()> {
        type Loop = fn(&Db);
        let loops: [(&str, Loop); 4] = [
            ("lightning-sync", Db::run_sync),
            ("lightning-prepare", Db::run_prepare),
            ("lightning-flush", Db::run_flush),
            ("lightning-compact", Db::run_compact),
        ];
        for (name, run) in loops {
            let (db, env) = (Arc::clone(db), Arc::clone(&db.env));
            let body = move || {
                // Writers wait for each of these threads at some time.
                let unfinished = db.unless_finished("do the background work of");
                run(&db);
                unfinished.finish();
            };
            tasks.push(env.spawn(name, Box::new(body))?);
        }
        Ok(())
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
        let all = [&self.sync_wanted, &self.prepare_wanted, &self.flush_wanted];
        let rest = [&self.sync_soon, &self.compact_wanted, &self.done, &self.ended];
        let all = all.into_iter().chain(rest);
        all.for_each(|signal| signal.notify());
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(SeqCst)
    }

    /// Tells the threads what a commit that did not wait for the disk has left to do.
    #[inline]
    pub(crate) fn after_commit(&self, db: &Db, memtable: &Memtable, end: Lsn, sync_soon: bool) {
        self.sync_wanted.notify();
        if sync_soon {
            self.sync_soon.notify();
        }
        if db.wal.wants_pages(end) || wants_work(memtable) {
            self.prepare_wanted.notify();
        }
    }

    pub(crate) fn wake_prepare(&self) {
        self.prepare_wanted.notify();
    }

    pub(crate) fn wake_flush(&self) {
        self.flush_wanted.notify();
    }

    pub(crate) fn wake_compact(&self) {
        self.compact_wanted.notify();
    }

    /// After a change of what is live that may let any of the threads, or a writer, go on.
    pub(crate) fn wake_all(&self) {
        let all = [&self.prepare_wanted, &self.flush_wanted, &self.compact_wanted, &self.done];
        all.into_iter().for_each(|signal| signal.notify());
    }

    /// A memtable of at least `capacity` bytes: the one prepared, if it is large enough.
    pub(crate) fn new_memtable(
        &self,
        config: &LightningDbConfig,
        capacity: usize,
    ) -> Result<Arc<Memtable>> {
        let prepared = self.state.lock().memtable.take();
        match prepared {
            Some(memtable) if capacity <= config.memtable_size => Ok(memtable),
            _ => Ok(Arc::new(Memtable::new(config.memtable_size.max(capacity))?)),
        }
    }

    /// Waits while too many memtables are sealed. Fails if a flush fails meanwhile; for want of space,
    /// deletes may have one memtable more.
    pub(crate) fn wait_for_flush(&self, db: &Db, deletes_only: bool) -> Result<()> {
        let max = (db.config.max_memory / 4 / db.config.memtable_size).clamp(1, 4);
        let failures = self.failures();
        let room = || db.versions.load().sealed.len() < max;
        if room() {
            return Ok(());
        }
        crate::sync::sometimes("background: commits wait for a flush");
        db.metrics.stalls.add(1);
        self.done.wait(|| {
            if room() {
                return Some(Ok(()));
            }
            if let Err(refused) = db.poison.check().and_then(|()| db.check_open()) {
                return Some(Err(refused));
            }
            let failure = self.failure_since(failures)?;
            let full = matches!(failure, Error::NoSpace { .. });
            if full && deletes_only && db.versions.load().sealed.len() == max {
                crate::sync::sometimes("background: deletes go on while a flush has no space");
                return Some(Ok(()));
            }
            Some(Err(failure))
        })
    }

    /// How much background work has failed since opening.
    pub(super) fn failures(&self) -> u64 {
        self.state.lock().failures
    }

    /// How the last of it failed, if any has since there were so many failures.
    pub(super) fn failure_since(&self, failures: u64) -> Option<Error> {
        let state = self.state.lock();
        let failed = state.failures != failures;
        failed.then(|| state.failure.clone().unwrap_or(Error::Closed))
    }

    /// Begins to merge all runs, however few, or lets one of those go who asked for it.
    pub(super) fn settle(&self, begins: bool) {
        let mut state = self.state.lock();
        state.settling = if begins { state.settling + 1 } else { state.settling - 1 };
        drop(state);
        self.compact_wanted.notify();
    }

    pub(super) fn is_settling(&self) -> bool {
        let state = self.state.lock();
        state.settling > 0 || state.reclaiming
    }

    /// Has all runs merged, however few, until there are none.
    pub(super) fn reclaim(&self) {
        self.state.lock().reclaiming = true;
        self.compact_wanted.notify();
    }

    /// There has been nothing to merge for a while.
    pub(super) fn has_reclaimed(&self) {
        self.state.lock().reclaiming = false;
    }

    /// What has the thread removes files that collects garbage.
    pub(super) fn collecting(&self) -> &Arc<Signal> {
        &self.prepare_wanted
    }

    /// Asks for the unused space of the trees to be given back. Returns the number of the request.
    pub(super) fn ask_for_space(&self) -> u64 {
        let mut state = self.state.lock();
        state.space_wanted += 1;
        let number = state.space_wanted;
        drop(state);
        self.compact_wanted.notify();
        number
    }

    /// The number of the last request that is not met, and whether the last try failed.
    pub(super) fn space_wanted(&self) -> Option<(u64, bool)> {
        let state = self.state.lock();
        let wanted = (state.space_wanted, state.space_failure.is_some());
        (state.space_given < state.space_wanted).then_some(wanted)
    }

    /// Lets nobody else change runs and tree of a keyspace until what is returned is dropped, but flushes,
    /// which keep its deletes.
    pub(super) fn begin_loading<'a>(&'a self, db: &Db, id: KeyspaceId) -> Result<Loading<'a>> {
        if !self.state.lock().loading.insert(id) {
            crate::sync::sometimes("bulk: a keyspace is being loaded already");
            let why = "another one of the same keyspace is under way".into();
            return Err(Error::InvalidArgument { what: "bulk load", why });
        }
        let loading = Loading { background: self, id, _running: db.transactions.loads.begin(id) };
        // It waits for this keyspace's runs no more, and the load may wait for it.
        self.flush_wanted.notify();
        self.done.wait(|| {
            if let Err(refused) = db.check_open().and_then(|()| db.poison.check()) {
                return Some(Err(refused));
            }
            (self.state.lock().merging != Some(id)).then_some(Ok(()))
        })?;
        Ok(loading)
    }

    /// The keyspaces that are being loaded.
    pub(super) fn loading(&self) -> BTreeSet<KeyspaceId> {
        self.state.lock().loading.clone()
    }

    /// Says that runs or the tree of a keyspace are about to be changed. `false`: it is being loaded.
    pub(super) fn begin_merging(&self, id: KeyspaceId) -> bool {
        let mut state = self.state.lock();
        let free = !state.loading.contains(&id);
        state.merging = free.then_some(id);
        free
    }

    pub(super) fn end_merging(&self) {
        self.state.lock().merging = None;
        self.done.notify();
    }

    /// Whether the request of this number is met.
    pub(super) fn is_space_given(&self, request: u64) -> bool {
        self.state.lock().space_given >= request
    }

    /// Space was given back that was unused when the request of this number was the last.
    pub(super) fn space_given(&self, request: u64) {
        let mut state = self.state.lock();
        (state.space_given, state.space_failure) = (request, None);
        drop(state);
        self.done.notify();
    }

    /// Space could not be given back; it will be tried again.
    pub(super) fn space_refused(&self, error: Error) {
        tracing::warn!(%error, "cannot give space back that nothing uses");
        let mut state = self.state.lock();
        state.space_failures += 1;
        state.space_failure = Some(error);
        drop(state);
        self.done.notify();
    }

    /// How often giving space back has failed since opening.
    pub(super) fn space_failures(&self) -> u64 {
        self.state.lock().space_failures
    }

    /// How that failed last, if it has since it had so often.
    pub(super) fn space_failure_since(&self, failures: u64) -> Option<Error> {
        let state = self.state.lock();
        state.space_failure.clone().filter(|_| state.space_failures != failures)
    }

    pub(super) fn failed(&self, what: &'static str, error: Error) {
        if self.stopped() && matches!(error, Error::Closed) {
            crate::sync::sometimes("background: closing gives work up");
            return; // given up
        }
        crate::sync::sometimes("background: work fails and is tried again");
        tracing::warn!(%error, what, "background work failed; it will be tried again");
        let mut state = self.state.lock();
        if matches!(error, Error::NoSpace { .. }) {
            // Pages that were freed have their space until it is given back.
            state.space_wanted = state.space_wanted.max(state.space_given + 1);
        }
        state.failures += 1;
        state.failure = Some(error);
        drop(state);
        self.done.notify();
        self.compact_wanted.notify();
    }

    /// Says whether the runs of a keyspace could be merged. While they cannot, for want of space say,
    /// flushing goes on however many stand: what is flushed may be the delete that makes space.
    pub(super) fn merged(&self, keyspace: KeyspaceId, done: bool) {
        let mut state = self.state.lock();
        state.failed_merges += u64::from(!done);
        let number = state.failed_merges;
        match done {
            true => state.unmerged.remove(&keyspace),
            false => state.unmerged.insert(keyspace, number),
        };
        drop(state);
        self.flush_wanted.notify();
    }

    /// Keyspaces whose last merge failed, and the number of that failure.
    pub(super) fn unmerged(&self) -> BTreeMap<KeyspaceId, u64> {
        self.state.lock().unmerged.clone()
    }

    pub(crate) fn add_obsolete(&self, runs: impl IntoIterator<Item = Arc<Sstable>>) {
        self.state.lock().obsolete.extend(runs);
    }

    /// The pages may be used again once no Version names this tree or an older one: those of the older
    /// ones may be among them.
    pub(crate) fn add_retired(&self, tree: &Arc<Tree>, pages: PageSet) {
        let (tree, pager) = (Arc::downgrade(tree), Arc::clone(&tree.pager));
        self.state.lock().retired.push_back(Retired { tree, pager, pages });
    }
}

/// A keyspace that is being loaded, until it is dropped.
pub(super) struct Loading<'a> {
    background: &'a Background,
    id: KeyspaceId,
    /// Who counts on it being empty is told.
    _running: Running,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.background.state.lock().loading.remove(&self.id);
        self.background.wake_all();
    }
}

impl Db {
    /// Syncs the log at intervals, while there is something to sync.
    fn run_sync(&self) {
        let interval = match self.config.wal_sync_mode {
            WalSyncMode::Periodic { interval } => interval,
            WalSyncMode::Async | WalSyncMode::Sync => self.config.wal_sync_interval,
        };
        let background = &self.background;
        let has_work = || {
            let unsynced = || self.sequencer.lock().tail.last_end() > self.wal.durable();
            let wanted = self.config.wal_enabled || self.wants_sync();
            wanted && self.poison.check().is_ok() && unsynced()
        };
        let clock = self.env.clock();
        let mut began = clock.now();
        loop {
            // What just missed the last sync counts from its beginning.
            let missed = has_work();
            background.sync_wanted.wait(|| (background.stopped() || has_work()).then_some(()));
            let now = clock.now();
            let from = if missed { began } else { now };
            let soon = || (background.stopped() || self.wants_sync()).then_some(());
            background.sync_soon.wait_for(from.saturating_add(interval).saturating_sub(now), soon);
            if background.stopped() {
                return;
            }
            began = clock.now();
            // A failure poisons; whoever commits next is told.
            let _poisoned = self.sync();
        }
    }

    /// Keeps segments and a memtable prepared, sorts chunks, and frees what nobody looks at.
    fn run_prepare(&self) {
        let background = &self.background;
        let (mut left, mut sorted) = (0, Sorted::default());
        let now = || (self.sequencer.lock().tail.last_end(), self.env.clock().now());
        // Where the log ended when it was last seen to move, and when that was.
        let mut moved = now();
        let mut begun = 0;
        loop {
            let expires = self.transactions.open.expire(self.env.clock().now()).is_some();
            let before = std::mem::replace(&mut begun, self.transactions.open.begun());
            let watched = expires || before != begun;
            self.transactions.set_watched(watched);
            let wanted = || {
                let unwatched = !watched && self.transactions.open.begun() != begun;
                let active = &self.versions.load().active;
                let writes = self.poison.check().is_ok();
                let work = writes
                    && (!self.wal.is_prepared_for(0)
                        || background.state.lock().memtable.is_none()
                        || !active.is_populated(POPULATE_BYTES / 2)
                        || self.wants_pages());
                let garbage = left == 0 && self.has_garbage();
                let sort = sorted.wants_more(active);
                (background.stopped() || work || sort || garbage || unwatched).then_some(())
            };
            match left {
                0 if watched => {
                    background.prepare_wanted.wait_for(WATCH, wanted).unwrap_or(());
                }
                0 if self.may_shrink_log() => {
                    background.prepare_wanted.wait_for(LOG_IDLE, wanted).unwrap_or(());
                }
                0 => background.prepare_wanted.wait(wanted),
                _ => background.prepare_wanted.wait_for(RETRY, wanted).unwrap_or(()),
            }
            if background.stopped() {
                return;
            }
            let (end, at) = now();
            if end != moved.0 {
                moved = (end, at);
            } else if at.saturating_sub(moved.1) >= LOG_IDLE && self.may_shrink_log() {
                self.shrink_log();
                moved.1 = at;
            }
            let prepared = self.prepare(&mut sorted);
            self.bound_pinned();
            left = self.collect();
            if let Err(error) = prepared {
                crate::sync::sometimes("background: cannot prepare");
                tracing::warn!(%error, "cannot prepare a log segment or memtable");
                let stopped = || background.stopped().then_some(());
                background.ended.wait_for(RETRY, stopped);
            }
        }
    }

    fn prepare(&self, sorted: &mut Sorted) -> Result<()> {
        let active = Arc::clone(&self.versions.load().active);
        // What commits are about to need comes before what readers like.
        loop {
            active.populate(POPULATE_BYTES);
            if self.wants_pages() {
                let end = self.sequencer.lock().tail.next(); // the lock ends here
                self.wal.populate(end);
            }
            if self.poison.check().is_ok() {
                self.wal.prepare(0)?;
            }
            if !active.sort_chunks() {
                break;
            }
        }
        *sorted = Sorted::now(&active);
        drop(active);
        if self.background.state.lock().memtable.is_none() {
            let memtable = Arc::new(Memtable::new(self.config.memtable_size)?);
            memtable.populate(POPULATE_BYTES);
            self.background.state.lock().memtable = Some(memtable);
        }
        Ok(())
    }

    /// Whether the log is about to run into pages that are not present. Where commits wait for the
    /// disk they do not mind, and the disk would mind the extra pages.
    fn wants_pages(&self) -> bool {
        !self.syncs_by_default() && self.wal.wants_pages(self.sequencer.lock().tail.next())
    }

    /// Writes a run, unless the database is closed meanwhile.
    pub(super) fn write_output(
        &self,
        keyspace: &KeyspaceVersion,
        merge: Merge,
        tombstones: &RangeTombstones,
        bottom: bool,
    ) -> Result<Option<Arc<Sstable>>> {
        let outputs = Outputs {
            env: &*self.env,
            dir: &self.dir,
            uuid: self.uuid,
            file_ids: &self.file_ids,
            blocks: &self.blocks,
            blobs: &self.blobs,
            given_up: &|| self.background.stopped(),
        };
        outputs.write(keyspace.id, self.options(keyspace), merge, tombstones, bottom)
    }

    fn options(&self, keyspace: &KeyspaceVersion) -> SstableOptions {
        SstableOptions {
            block_bytes: BLOCK_BYTES,
            compression: keyspace.compression.unwrap_or_else(|| self.config.compression()),
            compression_level: self.config.compression_level,
            filter_bits_per_key: FILTER_BITS_PER_KEY,
        }
    }

    /// Flushes sealed memtables, oldest first, and has the active one sealed if its log gets too long.
    fn run_flush(&self) {
        let background = &self.background;
        loop {
            let work = background.flush_wanted.wait(|| {
                if background.stopped() {
                    return Some(None);
                }
                let version = self.versions.load();
                let (unmerged, loading) = (background.unmerged(), background.loading());
                let crowded = |k: &Arc<KeyspaceVersion>| {
                    let merges = !unmerged.contains_key(&k.id) && !loading.contains(&k.id);
                    k.runs.len() >= RUNS_STALL && merges
                };
                let waits = version.keyspaces.iter().any(crowded);
                if waits || self.poison.check().is_err() {
                    return None;
                }
                let oldest = version.sealed.last().cloned();
                let is_long = || !version.active.is_empty() && self.is_log_too_long();
                oldest.map(Flush::Oldest).or_else(|| is_long().then_some(Flush::Active)).map(Some)
            });
            let done = match work {
                None => return,
                Some(Flush::Oldest(sealed)) => self.flush(&sealed),
                Some(Flush::Active) => {
                    crate::sync::sometimes("flush: the log of the memtable is too long");
                    self.seal_active().map(|_| ())
                }
            };
            if let Err(error) = done {
                self.wal.make_space_if_full(&error);
                background.failed("flush", error);
                let stopped = || background.stopped().then_some(());
                background.ended.wait_for(RETRY, stopped);
            }
        }
    }

    /// Brings a memtable, the oldest that is sealed, into a run for each keyspace or into its tree, and lets
    /// go of its log.
    fn flush(&self, sealed: &Arc<Sealed>) -> Result<()> {
        // Nothing unpublished reaches a file, and nothing that a power loss could still take.
        self.published_moved.wait(|| {
            let published = self.visible() >= sealed.last_seq;
            (published || self.poison.check().is_err() || self.background.stopped()).then_some(())
        });
        if self.visible() < sealed.last_seq {
            crate::sync::sometimes("flush: ends because of poison or closing");
            return self.poison.check().and(Err(Error::Closed));
        }
        self.sync_through(sealed.end)?;
        let (mut runs, before) = (vec![], self.names.before());
        let flushed = self.merge_handed_down(sealed, |merged| {
            self.write_runs(&sealed.memtable, merged, &mut runs)?;
            self.names.sync(before)?;
            self.install_flush(sealed, &mut runs)
        });
        if let Err(error) = flushed {
            crate::sync::sometimes("flush: fails behind what it wrote");
            // What was written is nobody's; the next try writes it anew.
            self.background.add_obsolete(runs.into_iter().map(|(_, run)| run));
            return Err(error);
        }
        self.metrics.flushes.add(1);
        self.background.done.notify();
        self.background.wake_compact();
        self.background.wake_prepare();
        Ok(())
    }

    /// Writes a run for each keyspace of the memtable but those that are `merged`.
    fn write_runs(
        &self,
        memtable: &Arc<Memtable>,
        merged: &BTreeSet<KeyspaceId>,
        runs: &mut Vec<(KeyspaceId, Arc<Sstable>)>,
    ) -> Result<()> {
        // Before the Version: what is loaded later is the tree of none that is older than its load.
        let loading = self.background.loading();
        let version = self.versions.load();
        for id in memtable.keyspaces().into_iter().filter(|id| !merged.contains(id)) {
            let Some(keyspace) = version.keyspace(id) else {
                crate::sync::sometimes("flush: a keyspace was dropped before");
                continue;
            }; // dropped meanwhile
            // With nothing below there is nothing that a tombstone could hide. Older memtables were
            // flushed before.
            let bottom = keyspace.runs.is_empty() && keyspace.tree.is_none();
            let bottom = bottom && !loading.contains(&id);
            if let Some(run) = self.write_run(keyspace, memtable, bottom)? {
                self.metrics.flushed_bytes.add(run.summary().file_bytes);
                runs.push((id, run));
            }
        }
        Ok(())
    }

    fn write_run(
        &self,
        keyspace: &KeyspaceVersion,
        memtable: &Arc<Memtable>,
        bottom: bool,
    ) -> Result<Option<Arc<Sstable>>> {
        let tombstones = memtable.range_tombstones(keyspace.id);
        let source = Source {
            cursor: Box::new(memtable.cursor(keyspace.id, SeqNo::MAX)),
            tombstones: Arc::clone(&tombstones),
        };
        let merge = whole(vec![source]);
        self.write_output(keyspace, merge, &tombstones, bottom)
    }

    /// Makes the edit durable that names the runs and lets go of the log, then shows it to readers.
    fn install_flush(
        &self,
        sealed: &Arc<Sealed>,
        runs: &mut Vec<(KeyspaceId, Arc<Sstable>)>,
    ) -> Result<()> {
        let mut manifest = self.manifest.lock();
        // A keyspace dropped since: its run is nobody's.
        let dropped = |(id, _): &mut (KeyspaceId, _)| !manifest.state().keyspaces.contains_key(id);
        let orphans: Vec<_> = runs.extract_if(.., dropped).map(|(_, run)| run).collect();
        self.background.add_obsolete(orphans);
        let mut changes: Vec<Change> =
            runs.iter().map(|(id, run)| Change::AddTable(*id, run.summary().clone())).collect();
        changes.push(Change::Flushed(sealed.last_seq));
        changes.push(Change::Log(self.log_from(&manifest.state().log, sealed.end)));
        changes.push(self.next_file());
        manifest.append(&changes)?;
        self.wal.set_durable_edit(manifest.number());
        self.versions.install(|version| version.flushed(sealed, runs));
        drop(manifest);
        self.wal.release(sealed.end);
        Ok(())
    }

    /// The log without what lies below `needed`.
    pub(super) fn log_from(&self, pieces: &[LogPiece], needed: Lsn) -> Vec<LogPiece> {
        let still = pieces.iter().filter(|p| p.end.is_none_or(|end| end > needed));
        still
            .map(|piece| match self.wal.salt_at(needed) {
                Some((salt, epoch)) if piece.start < needed && epoch == piece.epoch => {
                    LogPiece { salt, start: needed, ..*piece }
                }
                _ => *piece,
            })
            .collect()
    }

    pub(crate) fn next_file(&self) -> Change {
        Change::NextFile(crate::types::FileId(self.file_ids.load(SeqCst)))
    }
}

/// What the thread that flushes does next.
enum Flush {
    Oldest(Arc<Sealed>),
    /// Seal the memtable that commits go to.
    Active,
}

/// How far a memtable could be sorted: up to the first entry that is reserved and not yet written. There
/// is no use in trying again before there are more.
#[derive(Default)]
struct Sorted {
    memtable: Weak<Memtable>,
    bytes: usize,
}

impl Sorted {
    fn now(memtable: &Arc<Memtable>) -> Sorted {
        Sorted { memtable: Arc::downgrade(memtable), bytes: memtable.reserved_bytes() }
    }

    fn wants_more(&self, memtable: &Arc<Memtable>) -> bool {
        let tried = std::ptr::eq(self.memtable.as_ptr(), Arc::as_ptr(memtable))
            && self.bytes == memtable.reserved_bytes();
        !tried && memtable.has_full_unsorted_chunk()
    }
}

/// Whether the memtable has something for the background to do.
#[inline]
fn wants_work(memtable: &Memtable) -> bool {
    memtable.has_full_unsorted_chunk() || !memtable.is_populated(POPULATE_BYTES / 2)
}

/// A merge over everything that the sources hold.
pub(super) fn whole(sources: Vec<Source>) -> Merge {
    let bounds = (Bound::Unbounded, Bound::Unbounded);
    Merge::new(sources, SeqNo::MAX, Direction::Forward, bounds)
}
