//! One process: opening, checking what recovery brought back, a crowd of clients, closing.

use super::{
    client::Client,
    model::{Broken, Contents, Least, Model, Space, SpaceId},
    operation::{Operation, Place, Read},
    verbs::{Readable, Seen, perform, scanned},
    vouched::vouched_for,
    workload::{self, Turn, Workload},
};
use crate::{
    simulation::Boot,
    world::{BAD_PLACE, EIO, NO_SPACE, World},
};
use lightning_db::{Database, Error, Keyspace, Result, Snapshot, StorageKind, env::Env};
use lightning_faults::Dice;
use parking_lot::Mutex;
use std::{collections::BTreeMap, ops::Bound, path::Path, sync::Arc, time::Duration};

/// Where the database lies. Its parent does not exist at first either.
pub(super) const DIR: &str = "/data/db";

/// Virtual time after which a disk that has space again must be used again.
pub(super) const RESUMES_WITHIN: Duration = Duration::from_secs(5);

/// The marks of the engine where it ends a snapshot.
const TOO_OLD: [&str; 2] = [
    "snapshot: ended because its time is over",
    "snapshot: ended because of what it holds in memory",
];

/// A simulated process that uses the database.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) boot: Boot,
    /// The machine, as the engine sees it.
    pub(super) env: Arc<dyn Env>,
    pub(super) workload: Arc<Workload>,
    pub(super) model: Arc<Mutex<Model>>,
    /// When the opening began that the open database came from, or the one under way.
    since: Duration,
    /// Of the open database.
    closing: Arc<Mutex<Closing>>,
}

/// How far clients are with closing a database that others still use.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Closing {
    /// From now on anything may be refused.
    pub(super) begun: bool,
    /// From now on everything is.
    pub(super) done: bool,
    /// The mark of a clean end may be missing.
    pub(super) failed: bool,
}

/// An open keyspace and which life of it this is.
pub(super) type OpenSpace = (Keyspace, SpaceId);

/// An open database and its shared keyspaces.
pub(super) struct Session {
    pub(super) process: Process,
    pub(super) db: Arc<Database>,
    /// Which one of its process.
    pub(super) number: u64,
    /// The default keyspace and the shared ones.
    pub(super) shared: Vec<(Place, OpenSpace)>,
    /// What it must show at least.
    least: Least,
}

/// Nothing more to do here: the reason was reported, or allowed.
pub(super) struct Over;

impl Process {
    pub(super) fn new(
        boot: Boot,
        env: Arc<dyn Env>,
        workload: Arc<Workload>,
        model: Arc<Mutex<Model>>,
    ) -> Process {
        let since = boot.began;
        Process { boot, env, workload, model, since, closing: Arc::default() }
    }

    pub(super) fn world(&self) -> &Arc<World> {
        self.boot.env.world()
    }

    pub(super) fn closing(&self) -> parking_lot::MutexGuard<'_, Closing> {
        self.closing.lock()
    }

    /// The stream of the next event at a site of the workload.
    pub(super) fn dice(&self, site: &str) -> Dice {
        self.world().dice(site)
    }

    /// Everything that happens between a boot and the next crash.
    pub(super) fn run(&self) {
        for number in 0.. {
            let Some((plan, clients)) = self.workload.session(&self.boot, number) else {
                return;
            };
            if self.session(number, plan, &clients).is_err() {
                return;
            }
        }
    }

    fn session(&self, number: u64, plan: workload::Session, clients: &[u64]) -> Result<(), Over> {
        let (process, db, least) = self.open(plan.strict)?;
        self.world().count("sessions");
        let mut session = Session { process, db, number, shared: vec![], least };
        session.check_left_files()?;
        session.check_recovered()?;
        session.open_shared()?;
        if plan.settle {
            session.check_files()?;
        }
        session.run_clients(clients)?;
        if session.process.closing().begun {
            return session.end(true);
        }
        session.check_all()?;
        if plan.settle {
            session.check_files()?;
        }
        if plan.empties {
            session.empty()?;
        }
        session.end(plan.close)
    }

    /// What a client does next.
    pub(super) fn next_operation(&self, turn: Turn) -> Option<Operation> {
        self.workload.operation(&self.boot, turn)
    }

    /// Whether a commit that does not say it is durable once acknowledged.
    pub(super) fn syncs_by_default(&self) -> bool {
        self.workload.settings.syncs_by_default()
    }

    /// Opens the database; tells what it must show at least.
    fn open(&self, strict: bool) -> Result<(Process, Arc<Database>, Least), Over> {
        for attempt in 0..10 {
            let vouched = self.vouched();
            let (since, closing) = (self.world().now(), Arc::default());
            let process = Process { since, closing, ..self.clone() };
            match process.try_open(strict, attempt == 0) {
                Ok(db) => {
                    self.model.lock().created = true;
                    let least = process.least(vouched);
                    return Ok((process, db, least));
                }
                Err(error) => {
                    self.world().record("open failed", &[], || error.to_string());
                    process.check_error("I-15", "opening", &error)?;
                    if matches!(error, Error::NoSpace { .. }) {
                        process.check_needs_no_space("opening", &error)?;
                    }
                    if self.is_damage(&error) {
                        self.world().count("openings refused for damage");
                        return Err(Over); // nothing mends it
                    }
                    self.world().count("openings that failed by a fault");
                    self.boot.env.clock().sleep(Duration::from_millis(20));
                }
            }
        }
        Err(Over)
    }

    fn try_open(&self, strict: bool, first: bool) -> Result<Arc<Database>> {
        let env = self.env.clone();
        let config = self.workload.settings.config();
        let created = self.model.lock().created;
        match strict {
            true if created => Database::open_with_env(env, DIR, config),
            true if self.boot.number == 0 && first => Database::create_with_env(env, DIR, config),
            _ => Database::open_or_create_with_env(env, DIR, config),
        }
    }

    /// Up to which SeqNo the log says itself what was durable, if it was damaged.
    fn vouched(&self) -> Option<u64> {
        let disk = self.boot.env.sim_disk();
        let struck = disk.struck();
        let damaged = struck.log + struck.manifests > 0;
        damaged.then(|| vouched_for(&disk.log_image(Path::new(DIR))))
    }

    /// What a database must show at least that was opened just now; `vouched` is what was asked before.
    fn least(&self, vouched: Option<u64>) -> Least {
        let struck = self.boot.env.sim_disk().struck();
        let closed_at = self.model.lock().closed_at.take();
        let faults = struck.log + struck.manifests;
        if faults == 0 {
            return Least::Promised; // what is in sstables is right or known to be wrong
        }
        // What the reads of the opening itself damaged vouches for nothing.
        let then = struck.logs.iter().map(vouched_for);
        let vouched = then.chain(vouched).min().unwrap_or(0);
        // After a close, log and manifest both say where the log ends: one fault cannot hide it.
        match closed_at {
            Some(seq) if faults == 1 => Least::Vouched(seq.max(vouched)),
            _ => Least::Vouched(vouched),
        }
    }

    /// Whether an error says that bytes are not what was written, or cannot be read any more, which they
    /// are not or cannot.
    pub(super) fn is_damage(&self, error: &Error) -> bool {
        let world = self.world();
        match error {
            Error::Corruption(_) => world.is_damaged(),
            Error::Io { .. } => world.counted(BAD_PLACE) > 0,
            Error::Poisoned { cause } => self.is_damage(cause),
            _ => false,
        }
    }

    /// Reports an error that nothing explains. `Ok`: an injected fault does.
    pub(super) fn check_error(
        &self,
        invariant: &'static str,
        during: &str,
        error: &Error,
    ) -> Result<(), Over> {
        let world = self.world();
        let explained = match error {
            // Only what may be written in part ends all writing. That needs no space: what a full
            // disk refuses comes before it.
            Error::Poisoned { cause } => match &**cause {
                Error::Io { .. } => self.had(&EIO[1..]),
                Error::NoSpace { .. } => self.had(&["ENOSPC on sync"]),
                cause => self.is_damage(cause),
            },
            Error::Io { .. } => self.had(&EIO),
            Error::NoSpace { .. } => self.had(&NO_SPACE),
            // It names file and place, and nothing wrong was returned.
            Error::Corruption(_) => world.is_damaged(),
            Error::Closed => self.closing().begun,
            Error::SnapshotTooOld => TOO_OLD.iter().any(|mark| world.marked(mark) > 0),
            // Of a plain write: a transaction kept what it writes locked for too long.
            Error::LockTimeout => world.marked("commit: takes locks") > 0,
            _ => false,
        };
        if !explained {
            let invariant = match error {
                Error::Poisoned { cause } if matches!(**cause, Error::NoSpace { .. }) => "I-9",
                _ => invariant,
            };
            world.violate(invariant, format!("{during} failed without a reason: {error}"));
            return Err(Over);
        }
        let no_space_at = NO_SPACE.iter().filter_map(|kind| world.last_fault(kind)).max();
        let waited = world.now().saturating_sub(no_space_at.unwrap_or_default());
        if matches!(error, Error::NoSpace { .. }) && waited > RESUMES_WITHIN {
            world.violate("I-9", format!("{during}: {waited:?} after the disk was full: {error}"));
            return Err(Over);
        }
        Ok(())
    }

    /// Reports that something failed for want of space that needs none but what is prepared. Another
    /// fault may have cost what was prepared, and a disk that was full already may have had no room for
    /// it.
    pub(super) fn check_needs_no_space(&self, during: &str, error: &Error) -> Result<(), Over> {
        if self.model.lock().created && self.is_undisturbed() {
            let message = format!("{during} needs no space but failed for want of it: {error}");
            self.world().violate("I-9", message);
            return Err(Over);
        }
        Ok(())
    }

    /// Whether nothing failed but for want of space, and what is prepared for that is not used up.
    pub(super) fn is_undisturbed(&self) -> bool {
        let others = EIO.iter().chain(&NO_SPACE[..2]);
        others.map(|kind| self.world().counted(kind)).sum::<u64>() == 0
            && !self.world().is_damaged()
            && self.world().marked("manifest: no spare is left") == 0
    }

    /// Whether the manifest was damaged: if nothing was written to the log after its last edit, then
    /// nothing tells that the edit was ever there, and a keyspace may be as it was before.
    fn manifest_is_damaged(&self) -> bool {
        self.boot.env.sim_disk().struck().manifests > 0
    }

    /// Whether one of these faults struck since the database was opened.
    fn had(&self, kinds: &[&'static str]) -> bool {
        let struck = kinds.iter().filter_map(|kind| self.world().last_fault(kind));
        struck.max().is_some_and(|at| at >= self.since)
    }

    pub(super) fn check(&self, result: Result<(), Broken>) -> Result<(), Over> {
        result.map_err(|broken| {
            self.world().violate(broken.invariant, broken.message);
            Over
        })
    }

    /// Reads. Of what is damaged, what can be read; nothing if that is nothing.
    pub(super) fn perform(
        &self,
        during: &str,
        read: &Read,
        on: &dyn Readable,
    ) -> Result<Option<Seen>, Over> {
        let closed = self.closing().done;
        let (seen, error) = match perform(read, on) {
            Ok(mut seen) => match seen.failed.take() {
                None => {
                    self.check_was_open(closed, during)?;
                    return Ok(Some(seen));
                }
                Some(error) => (Some(seen), error),
            },
            Err(error) => (None, error),
        };
        if matches!(error, Error::SnapshotTooOld) {
            self.check_error("read", during, &error)?;
            self.world().count("reads of snapshots that are too old");
            return Ok(seen);
        }
        if !self.is_damage(&error) || matches!(error, Error::Poisoned { .. }) {
            self.checked_read(during, Err(error))?;
        }
        self.world().count("reads refused for damage");
        Ok(seen)
    }

    /// The result of a read: it fails only by an injected fault.
    pub(super) fn checked_read<T>(&self, during: &str, result: Result<T>) -> Result<T, Over> {
        result.or_else(|error| {
            let poisoned = matches!(error, Error::Poisoned { .. });
            if poisoned {
                let message = format!("{during} failed because writes are refused: {error}");
                self.world().violate("I-8", message);
            } else {
                self.check_error("read", during, &error)?;
                self.world().count("reads that failed by a fault");
            }
            Err(Over)
        })
    }
}

/// What a scan of a keyspace came to.
enum Scanned {
    Whole(BTreeMap<Vec<u8>, Vec<u8>>),
    /// An error ended it.
    Part(Seen),
}

impl Session {
    fn model(&self) -> parking_lot::MutexGuard<'_, Model> {
        self.process.model.lock()
    }

    /// What recovery brought back is a prefix of the history, with all that was promised.
    fn check_recovered(&mut self) -> Result<(), Over> {
        let names = self.process.checked_read("listing the keyspaces", self.db.keyspaces())?;
        let mut spaces = BTreeMap::new();
        for name in &names {
            spaces.insert(name.clone(), self.recovered_space(name)?);
        }
        self.check_missing(&spaces)?;
        let snapshot = self.process.checked_read("a snapshot", self.db.snapshot())?;
        let mut contents = Contents::new();
        let mut unreadable = false;
        for (name, id) in &spaces {
            let keyspace = self.process.checked_read("a keyspace", self.db.keyspace(name))?;
            self.check_kind(&keyspace, *id)?;
            match self.scan_space(&snapshot.of(&keyspace))? {
                Scanned::Whole(entries) => _ = contents.insert(*id, entries),
                Scanned::Part(seen) => {
                    unreadable = true;
                    let seq = snapshot.seq().0;
                    let result = self.model().recovered_in_part(*id, &seen, seq);
                    self.process.check(result)?;
                }
            }
        }
        let world = self.process.world();
        let entries: usize = contents.values().map(BTreeMap::len).sum();
        let seq = snapshot.seq().0;
        world.record("recovered", &[seq, entries as u64], || {
            format!("SeqNo {seq}, {entries} entries in {} keyspaces", contents.len())
        });
        // What a failed sync lost may have gone with the page cache, as in a loss of power.
        let took_back = self.process.boot.env.sim_disk().took_back();
        self.model().crashed(took_back);
        self.model().dropped_but(spaces.values().copied().collect());
        if unreadable {
            world.count("databases opened and not readable whole");
            let result = self.model().check_least(seq, self.least);
            self.process.check(result)?;
            return Err(Over); // nothing can be said of what is built upon it
        }
        let result = self.model().recovered(seq, contents, self.least);
        std::mem::take(&mut self.model().admitted).into_iter().for_each(|what| world.count(what));
        self.process.check(result)?;
        let settle = |(name, id)| (name, Space { now: Some(id), ..Space::default() });
        let found: BTreeMap<_, _> = spaces.into_iter().map(settle).collect();
        let model = &mut *self.model();
        let gone = std::mem::take(&mut model.spaces).into_iter().map(|(name, space)| {
            let last = space.now.or(space.maybe.flatten()).or(space.last);
            (name, Space { last, ..Space::default() })
        });
        model.spaces = gone.chain(found).collect();
        Ok(())
    }

    /// A change of its kind that was answered is there.
    fn check_kind(&self, keyspace: &Keyspace, id: SpaceId) -> Result<(), Over> {
        let kind = self.process.checked_read("the kind of a keyspace", keyspace.storage_kind())?;
        let (created, kind) = (self.process.workload.settings.btree, kind == StorageKind::BTree);
        let may_be = self.model().kinds.found(id, created, kind);
        if may_be || self.process.manifest_is_damaged() {
            return Ok(());
        }
        let message =
            format!("{keyspace:?} has a kind that it was not given, or lost the one it was");
        self.process.world().violate("I-1", message);
        Err(Over)
    }

    /// Keyspaces that were created are there.
    fn check_missing(&self, spaces: &BTreeMap<String, SpaceId>) -> Result<(), Over> {
        let missing = {
            let model = self.model();
            let gone =
                |(_, space): &(&String, &Space)| space.now.is_some() && space.maybe != Some(None);
            let known = model.spaces.iter().filter(gone).map(|(name, _)| name.clone());
            known.filter(|name| !spaces.contains_key(name)).collect::<Vec<_>>()
        };
        let Some(name) = missing.first() else {
            return Ok(());
        };
        if self.process.manifest_is_damaged() {
            self.process.world().count("keyspaces whose creation was lost");
            return Ok(());
        }
        let message = format!("keyspace {name:?} is gone, though it was created");
        self.process.world().violate("I-1", message);
        Err(Over)
    }

    /// Which life of a keyspace is found under this name.
    fn recovered_space(&self, name: &str) -> Result<SpaceId, Over> {
        let space = self.model().spaces.get(name).copied().unwrap_or_default();
        // Where the manifest has lost what came last, an earlier life is there again.
        if self.process.manifest_is_damaged() {
            let keyspace = self.process.checked_read("a keyspace", self.db.keyspace(name))?;
            let first = self.process.checked_read("the first entry", keyspace.first())?;
            let life = first.and_then(|(_, value)| self.model().life_that_wrote(name, &value));
            let known = |id: &SpaceId| [space.now, space.maybe.flatten()].contains(&Some(*id));
            if let Some(id) = life.filter(|id| !known(id)) {
                self.process.world().count("keyspaces whose removal was lost");
                return Ok(id);
            }
        }
        match space {
            Space { maybe: Some(Some(id)), .. } | Space { now: Some(id), .. } => Ok(id),
            Space { last: Some(id), .. } if self.process.manifest_is_damaged() => Ok(id),
            _ => {
                let message =
                    format!("keyspace {name:?} is there, though it was dropped or never created");
                self.process.world().violate("I-2", message);
                Err(Over)
            }
        }
    }

    /// All entries of some keyspaces, read forwards or backwards or both ways at once. `None`: the snapshot was ended.
    pub(super) fn read_spaces(
        &self,
        snapshot: &Snapshot,
        spaces: &[(Place, OpenSpace)],
    ) -> Result<Option<Contents>, Over> {
        let mut contents = Contents::new();
        for (_, (keyspace, id)) in spaces {
            match self.scan_space(&snapshot.of(keyspace))? {
                Scanned::Whole(entries) => _ = contents.insert(*id, entries),
                Scanned::Part(seen) if seen.failed.is_some() => return Ok(None),
                Scanned::Part(_) => return Err(Over),
            }
        }
        Ok(Some(contents))
    }

    /// The same; of what is damaged, as much as can be read.
    fn scan_space(&self, snapshot: &Snapshot) -> Result<Scanned, Over> {
        let process = &self.process;
        let dice = &mut process.dice("scan");
        let mut scan = process.checked_read("a scan", snapshot.iter())?;
        let (mut front, mut back) = (vec![], vec![]);
        let ways = dice.below(3);
        loop {
            let forwards = match ways {
                0 => true,
                1 => false,
                _ => dice.chance(0.5),
            };
            let next = if forwards { scan.next() } else { scan.next_back() };
            let Some(entry) = next else { break };
            match entry {
                Err(error) if process.is_damage(&error) => {
                    process.world().count("reads refused for damage");
                    let all = (Bound::Unbounded, Bound::Unbounded);
                    return Ok(Scanned::Part(scanned(front, back, all, false)));
                }
                Err(error @ Error::SnapshotTooOld) => {
                    process.check_error("read", "a scan", &error)?;
                    process.world().count("scans of snapshots that are too old");
                    return Ok(Scanned::Part(Seen { failed: Some(error), ..Seen::default() }));
                }
                entry => {
                    let entry = process.checked_read("a scan", entry)?;
                    if forwards { front.push(entry) } else { back.push(entry) }
                }
            }
        }
        front.extend(back.into_iter().rev());
        if let Some(pair) = front.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            let message = format!("a scan returned key {:?} before {:?}", pair[0].0, pair[1].0);
            process.world().violate("I-12", message);
            return Err(Over);
        }
        Ok(Scanned::Whole(front.into_iter().collect()))
    }

    fn open_shared(&mut self) -> Result<(), Over> {
        let all = [Place::Default, Place::Shared1, Place::Shared2];
        let wanted = self.process.workload.settings.shared_keyspaces;
        for place in all.into_iter().take(1 + wanted) {
            let name = place.name();
            // Another thread asks for it at the same time.
            let (db, known) = (self.db.clone(), self.model().spaces.contains_key(name));
            let body = Box::new(move || drop(db.keyspace(name)));
            let other = (!known).then(|| self.process.boot.env.spawn("opener", body));
            let created = self.create_keyspace(name);
            if let Some(Ok(other)) = other {
                other.join();
            }
            match created {
                Ok(space) => self.shared.push((place, space)),
                // The default one is always there.
                Err(error) => self.process.check_error("I-9", "creating a keyspace", &error)?,
            }
        }
        match self.shared.is_empty() {
            true => Err(Over),
            false => Ok(()),
        }
    }

    /// Creates a keyspace, or opens it if it is there.
    pub(super) fn create_keyspace(&self, name: &str) -> Result<OpenSpace> {
        let before = self.model().spaces.get(name).copied().unwrap_or_default();
        let id = match before.now {
            Some(id) => id,
            None => {
                let id = self.model().new_space(name);
                let space = Space { now: None, maybe: Some(Some(id)), last: before.last };
                self.model().spaces.insert(name.into(), space);
                id
            }
        };
        let keyspace = self.db.keyspace(name)?;
        let space = Space { now: Some(id), ..Space::default() };
        self.model().spaces.insert(name.into(), space);
        Ok((keyspace, id))
    }

    pub(super) fn drop_keyspace(&self, name: &str, id: SpaceId) -> Result<()> {
        let space = Space { now: Some(id), maybe: Some(None), last: None };
        let before = {
            let mut model = self.model();
            model.spaces.insert(name.into(), space);
            model.begin_drop(id)
        };
        self.db.drop_keyspace(name)?;
        self.model().durable(before);
        let space = Space { last: Some(id), ..Space::default() };
        self.model().spaces.insert(name.into(), space);
        Ok(())
    }

    /// The same session, as clients use it.
    pub(super) fn for_clients(&self) -> Arc<Session> {
        Arc::new(Session {
            process: self.process.clone(),
            db: self.db.clone(),
            number: self.number,
            shared: self.shared.clone(),
            least: self.least,
        })
    }

    fn run_clients(&mut self, numbers: &[u64]) -> Result<(), Over> {
        let session = self.for_clients();
        let mut clients = vec![];
        for number in numbers {
            let mut client = Client::new(session.clone(), *number);
            let body = Box::new(move || client.run());
            match self.process.boot.env.spawn(&format!("client {number}"), body) {
                Ok(task) => clients.push(task),
                Err(_) => return Err(Over),
            }
        }
        clients.into_iter().for_each(|client| client.join());
        match self.process.world().violation() {
            Some(_) => Err(Over),
            None => Ok(()),
        }
    }

    /// What readers see now agrees with the history.
    fn check_all(&self) -> Result<(), Over> {
        loop {
            let began = self.model().begin_read();
            let snapshot = self.process.checked_read("a snapshot", self.db.snapshot())?;
            // If it was ended, the next one is younger.
            if let Some(contents) = self.read_spaces(&snapshot, &self.shared)? {
                let result = self.model().read_at(snapshot.seq().0, &began, &contents);
                return self.process.check(result);
            }
        }
    }

    /// Closes the database, or lets it go.
    fn end(self, close: bool) -> Result<(), Over> {
        let Session { process, db, shared, .. } = self;
        let Closing { begun: closed, failed, .. } = *process.closing();
        let held = match close && !closed && process.dice("snapshot behind a close").chance(0.3) {
            true => Some(process.checked_read("a snapshot", db.snapshot())?),
            false => None,
        };
        let acknowledged = process.model.lock().acknowledged_seq();
        process.world().count_by("commits acknowledged", process.model.lock().acknowledged());
        if close {
            match db.close() {
                Ok(()) => {
                    let model = &mut *process.model.lock();
                    model.durable(acknowledged);
                    model.closed_at = (!failed).then_some(acknowledged);
                }
                Err(error) => process.check_error("I-9", "closing", &error)?,
            }
            process.check_closed(&db, held.as_ref())?;
        }
        process.check_locked()?;
        drop(shared);
        drop(db); // closes it if that was not done, but cannot tell whether that went well
        process.remember_files(held.is_some() || closed);
        drop(held);
        process.model.lock().crashed(false);
        Ok(())
    }
}
