//! For the failures that only a real disk that fails shows: the operating system answers a call with
//! an error, late or in part, and the database loses what it acknowledged, shows half a commit, gives
//! an error nobody understands, panics, hangs or never writes again.
//!
//! The faults are those of the simulator (`lightning_faults`), over a real disk: each class by itself
//! and all together, drawn from seeds; and one fault at a time, at every place it can strike.

use crate::{files::Scratch, random::Random};
use lightning_db::{
    Database, Durability, Error, LightningDbConfig, WriteBatch,
    env::{Env, OsEnv},
};
use lightning_faults::{
    ClockFaults, Damage, FaultPlan, FaultyEnv, Full, Latency, Operation, Planned, Rule, Verdict,
    site,
};
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

const HEAVY: bool = cfg!(feature = "integration_tests");
const SEEDS: u64 = if HEAVY { 40 } else { 4 };
/// Seeds at a time: most of their time is spent waiting.
const WORKERS: u64 = 4;
/// Every so-manieth pass of a site is failed.
const STRIDE: usize = if HEAVY { 1 } else { 9 };
const WRITERS: usize = 2;
/// Long enough for any machine; passing it means that something hangs.
const NEVER: Duration = Duration::from_secs(120);

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 8 << 10,
        wal_segment_size: 32 << 10,
        cache_size: 64 << 10,
        max_memory: 1 << 20,
        wal_sync_interval: Duration::from_millis(5),
        ..Default::default()
    }
}

/// Which errors the faults of a class may lead to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shows {
    Nothing,
    /// The disk is full, and the database goes on when it no longer is.
    NoSpace,
    /// Anything that names the file and the failure.
    Errors,
}

struct Class {
    name: &'static str,
    /// Where its faults strike.
    sites: &'static [&'static str],
    plan: fn(u64) -> FaultPlan,
    shows: Shows,
}

/// Stalls of a few milliseconds: a real disk has other latencies of its own.
fn none() -> FaultPlan {
    let micros = Duration::from_micros;
    let latency = Latency { cached: micros(1), device: micros(5), stall: 0.0 };
    FaultPlan { latency, ..FaultPlan::none() }
}

fn full(seed: u64) -> Option<Full> {
    let mut random = Random::new(seed);
    Some(Full {
        begins: Duration::from_millis(random.below(60)),
        lasts: Duration::from_millis(1 + random.below(100)),
        left_bytes: [0, 5000, 50_000][random.below(3) as usize],
    })
}

static CLASSES: [Class; 11] = [
    Class {
        name: "read errors",
        sites: &[site::READ_ERROR],
        plan: |_| FaultPlan { read_error: 0.01, ..none() },
        shows: Shows::Errors,
    },
    Class {
        name: "write errors",
        sites: &[site::WRITE_ERROR],
        plan: |_| FaultPlan { write_error: 0.003, ..none() },
        shows: Shows::Errors,
    },
    Class {
        name: "sync errors",
        sites: &[site::SYNC_ERROR],
        plan: |_| FaultPlan { sync_error: 0.01, ..none() },
        shows: Shows::Errors,
    },
    Class {
        name: "no space at random",
        sites: &[site::NO_SPACE, site::NO_SPACE_ON_SYNC],
        plan: |_| FaultPlan { no_space: 0.05, ..none() },
        shows: Shows::Errors,
    },
    Class {
        name: "full disk",
        sites: &[site::FULL],
        plan: |seed| FaultPlan { full: full(seed), ..none() },
        shows: Shows::NoSpace,
    },
    Class {
        name: "short reads",
        sites: &[site::SHORT_READ],
        plan: |_| FaultPlan { short_read: 0.3, ..none() },
        shows: Shows::Nothing,
    },
    Class {
        name: "short writes",
        sites: &[site::SHORT_WRITE],
        plan: |_| FaultPlan { short_write: 0.3, ..none() },
        shows: Shows::Nothing,
    },
    Class {
        name: "interruptions",
        sites: &[site::INTERRUPTED],
        plan: |_| FaultPlan { interrupted: 0.3, ..none() },
        shows: Shows::Nothing,
    },
    Class {
        name: "stalls",
        sites: &[site::STALL],
        plan: |_| FaultPlan { latency: Latency { stall: 0.02, ..none().latency }, ..none() },
        shows: Shows::Nothing,
    },
    Class {
        name: "clocks",
        sites: &[site::WALL_JUMP, site::CLOCK_JUMP],
        plan: |_| FaultPlan { clock: ClockFaults { wall_jump: 0.05, clock_jump: 0.05 }, ..none() },
        shows: Shows::Nothing,
    },
    Class {
        name: "everything",
        sites: &[site::SYNC_ERROR, site::SHORT_WRITE, site::INTERRUPTED],
        plan: |seed| {
            let stall = FaultPlan::draw(seed).latency.stall;
            let latency = Latency { stall, ..none().latency };
            FaultPlan { latency, full: full(seed), ..FaultPlan::draw(seed).undamaged() }
        },
        shows: Shows::Errors,
    },
];

/// Names the failure, what was tried and where.
fn check_error(error: &Error, dir: &Path, shows: Shows) {
    let text = error.to_string();
    match error {
        Error::NoSpace { op, path } => {
            assert_ne!(shows, Shows::Nothing, "{text}");
            assert!(!op.is_empty() && near(path, dir), "{text}");
            assert!(error.is_retryable() && text.contains("no space left"), "{text}");
        }
        Error::Io { op, path, source } => {
            assert_eq!(shows, Shows::Errors, "{text}");
            assert!(!op.is_empty() && near(path, dir), "{text}");
            assert!(
                text.contains(&source.to_string()) && source.raw_os_error() == Some(5),
                "{text}"
            );
        }
        Error::Poisoned { cause } => {
            assert_eq!(shows, Shows::Errors, "{text}");
            assert!(text.contains("until the database is reopened"), "{text}");
            check_error(cause, dir, shows);
        }
        other => panic!("not what a failing disk leads to: {other} ({other:?})"),
    }
}

/// The directory, what is in it, or one that holds it: creation syncs them all.
fn near(path: &Path, dir: &Path) -> bool {
    path.starts_with(dir) || dir.starts_with(path)
}

/// What is known of a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    There,
    Gone,
    /// It was refused because of poison: whole there or not at all.
    Unknown,
}

/// Writes commits of its own, and knows what must have become of each.
struct Writer {
    number: usize,
    fates: Vec<Fate>,
    random: Random,
    acknowledged: u64,
    refused: u64,
}

impl Writer {
    fn new(number: usize, seed: u64) -> Writer {
        let random = Random::new(seed << 8 | number as u64);
        Writer { number, fates: vec![], random, acknowledged: 0, refused: 0 }
    }

    fn key(&self, commit: usize, part: u8) -> Vec<u8> {
        format!("{}/{commit:06}/{part}", self.number).into_bytes()
    }

    fn value(&self, commit: usize, part: u8) -> Vec<u8> {
        let mut random = Random::new((commit as u64) << 16 | u64::from(part) << 8 | 1);
        let len = if commit % 40 == 7 { 3000 } else { random.below(150) };
        random.bytes(len as usize)
    }

    /// One commit: something new, or now and then something old gone.
    fn step(&mut self, db: &Database, dir: &Path, shows: Shows) {
        let durability = match self.random.below(4) {
            0 => Durability::Sync,
            _ => Durability::Async,
        };
        let old = self.random.below(self.fates.len() as u64 + 1) as usize;
        let mut batch = WriteBatch::new();
        if self.random.below(5) == 0 && old < self.fates.len() {
            (0..3).fold(&mut batch, |b, part| b.delete(self.key(old, part)));
            let result = db.write_with(batch, durability);
            let now = match &result {
                Ok(()) => Fate::Gone,
                Err(Error::Poisoned { .. }) if self.fates[old] == Fate::There => Fate::Unknown,
                Err(_) => self.fates[old],
            };
            self.fates[old] = now;
            self.heard(result, dir, shows);
        } else {
            let new = self.fates.len();
            for part in 0..3 {
                batch.put(self.key(new, part), self.value(new, part));
            }
            let result = db.write_with(batch, durability);
            self.fates.push(match &result {
                Ok(()) => Fate::There,
                Err(Error::Poisoned { .. }) => Fate::Unknown,
                Err(_) => Fate::Gone,
            });
            self.heard(result, dir, shows);
        }
        if old < self.fates.len() && self.random.below(3) == 0 {
            self.read(db, old, dir, shows);
        }
    }

    fn heard(&mut self, result: Result<(), Error>, dir: &Path, shows: Shows) {
        match result {
            Ok(()) => self.acknowledged += 1,
            Err(error) => {
                check_error(&error, dir, shows);
                self.refused += 1;
            }
        }
    }

    /// The right value or an error.
    fn read(&self, db: &Database, commit: usize, dir: &Path, shows: Shows) {
        match db.get(self.key(commit, 1)) {
            Err(error) => check_error(&error, dir, shows),
            Ok(found) => {
                let right = match self.fates[commit] {
                    Fate::There => found == Some(self.value(commit, 1)),
                    Fate::Gone => found.is_none(),
                    Fate::Unknown => found.is_none_or(|found| found == self.value(commit, 1)),
                };
                assert!(right, "{} read {commit}, {:?}", self.number, self.fates[commit]);
            }
        }
    }

    /// What a database without faults holds of this writer is what was acknowledged, and of each
    /// commit all or nothing. What was unknown is known then.
    fn settle(&mut self, contents: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        for commit in 0..self.fates.len() {
            let there: Vec<bool> = (0..3)
                .map(|part| match contents.remove(&self.key(commit, part)) {
                    None => false,
                    Some(found) => {
                        assert!(found == self.value(commit, part), "{} {commit}", self.number);
                        true
                    }
                })
                .collect();
            let now = if there[0] { Fate::There } else { Fate::Gone };
            assert!(there.iter().all(|part| *part == there[0]), "half of {commit}: {there:?}");
            let fate = &mut self.fates[commit];
            assert!(*fate == now || *fate == Fate::Unknown, "{commit} is {fate:?}, found {now:?}");
            *fate = now;
        }
    }
}

/// Opens without faults and compares all that is there; twice, since what was recovered stays.
fn check(dir: &Path, writers: &mut [Writer]) {
    for _ in 0..2 {
        let db = Database::open_or_create(dir, config()).unwrap();
        let mut contents = BTreeMap::new();
        db.for_each(.., |key, value| {
            contents.insert(key.to_vec(), value.to_vec());
        })
        .unwrap();
        writers.iter_mut().for_each(|writer| writer.settle(&mut contents));
        assert!(contents.is_empty(), "nobody wrote {:?}", contents.keys().next());
        if let Some(writer) = writers.first_mut() {
            writer.step(&db, dir, Shows::Nothing);
        }
        db.close().unwrap();
    }
}

/// Opens under faults, a few times if need be.
fn open(env: &Arc<impl Env>, dir: &Path, shows: Shows) -> Option<Arc<Database>> {
    for _ in 0..5 {
        match Database::open_or_create_with_env(env.clone(), dir, config()) {
            Ok(db) => return Some(db),
            Err(error) => check_error(&error, dir, shows),
        }
    }
    None
}

/// A few lives of a database under faults. Returns what struck, and how many commits were
/// acknowledged and refused.
fn live(class: &Class, seed: u64) -> (Vec<(&'static str, u64)>, u64, u64) {
    let scratch = if seed.is_multiple_of(4) { Scratch::new() } else { Scratch::in_memory() };
    let dir = &scratch.db();
    let mut writers: Vec<_> = (0..WRITERS).map(|number| Writer::new(number, seed)).collect();
    let mut struck = vec![];
    for life in 0..3 {
        let rule = Arc::new(Planned::new((class.plan)(seed * 10 + life), seed * 10 + life));
        let env = FaultyEnv::shared(OsEnv::new(), rule.clone());
        if let Some(db) = open(&env, dir, class.shows) {
            std::thread::scope(|scope| {
                for writer in &mut writers {
                    let db = &db;
                    scope.spawn(move || {
                        (0..150).for_each(|_| writer.step(db, dir, class.shows));
                    });
                }
            });
            rule.end();
            if class.shows != Shows::Errors {
                goes_on(&db, &mut writers[0], dir, class.shows);
            }
            let closed = if life == 1 { Ok(()) } else { db.close() };
            closed.unwrap_or_else(|error| check_error(&error, dir, class.shows));
        }
        struck.extend(rule.struck());
        if life != 0 {
            check(dir, &mut writers);
        }
    }
    let acknowledged = writers.iter().map(|writer| writer.acknowledged).sum();
    let refused = writers.iter().map(|writer| writer.refused).sum();
    (struck, acknowledged, refused)
}

/// With nothing wrong any more, writes succeed in the same process.
fn goes_on(db: &Database, writer: &mut Writer, dir: &Path, shows: Shows) {
    let start = Instant::now();
    loop {
        let before = writer.refused;
        writer.step(db, dir, shows);
        if writer.refused == before {
            return;
        }
        assert!(start.elapsed() < NEVER, "the disk has space, but no write succeeds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fails the test if `body` does not end.
fn soon<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::Builder::new().name(what.into()).spawn(move || done.send(body())).unwrap();
    match wait.recv_timeout(NEVER) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("panicked, see above: {what}"),
    }
}

/// What came of some seeds of a class.
#[derive(Default)]
struct Tally {
    struck: BTreeMap<&'static str, u64>,
    acknowledged: u64,
    refused: u64,
}

fn run(class: &'static Class, tally: &Mutex<Tally>) {
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                for seed in (worker..SEEDS).step_by(WORKERS as usize) {
                    let what = format!("{}, seed {seed}", class.name);
                    let (struck, acknowledged, refused) = soon(&what, move || live(class, seed));
                    let tally = &mut *tally.lock().unwrap();
                    for (site, _) in struck {
                        *tally.struck.entry(site).or_default() += 1;
                    }
                    tally.acknowledged += acknowledged;
                    tally.refused += refused;
                }
            });
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_under_any_class_of_faults() {
    for class in &CLASSES {
        let tally = Mutex::new(Tally::default());
        run(class, &tally);
        let Tally { struck, acknowledged, refused } = tally.into_inner().unwrap();
        println!(
            "{}: {SEEDS} seeds, {acknowledged} commits acknowledged, none lost; {refused} refused; \
             struck: {struck:?}",
            class.name
        );
        for site in class.sites {
            assert!(struck.contains_key(site), "{}: {site} never struck: {struck:?}", class.name);
        }
        assert!(acknowledged > 0 && (class.shows != Shows::Nothing || refused == 0));
    }
}

/// From creation to the next opening, with one fault in all. Returns whether it struck.
fn fail_once(site: &'static str, pass: u64) -> bool {
    let scratch = Scratch::in_memory();
    let dir = &scratch.db();
    let rule = Arc::new(Planned::at([(site, pass)]));
    let env = FaultyEnv::shared(OsEnv::new(), rule.clone());
    let mut writers = [Writer::new(0, pass)];
    for _ in 0..2 {
        if let Some(db) = open(&env, dir, Shows::Errors) {
            (0..60).for_each(|_| writers[0].step(&db, dir, Shows::Errors));
            db.checkpoint().unwrap_or_else(|error| check_error(&error, dir, Shows::Errors));
            db.close().unwrap_or_else(|error| check_error(&error, dir, Shows::Errors));
        }
    }
    check(dir, &mut writers);
    !rule.struck().is_empty()
}

/// One fault at each pass of a site, until there are no more. Returns how many there were.
fn fail_everywhere(site: &'static str) -> usize {
    let (mut places, mut missed) = (0, 0);
    // Where threads meet differs from run to run: the end is where several passes are missed.
    for pass in (0..).step_by(STRIDE) {
        match soon(&format!("{site} at {pass}"), move || fail_once(site, pass)) {
            true => places += 1,
            false => missed += 1,
        }
        if missed > 3 {
            break;
        }
    }
    println!("{site}: one fault at each of {places} places, nothing lost");
    places
}

#[test]
fn one_fault_anywhere_loses_nothing_acknowledged() {
    let errors = [site::READ_ERROR, site::WRITE_ERROR, site::SYNC_ERROR];
    let sites = errors.into_iter().chain([site::NO_SPACE, site::NO_SPACE_ON_SYNC]);
    std::thread::scope(|scope| {
        let sweeps: Vec<_> = sites.map(|site| scope.spawn(move || fail_everywhere(site))).collect();
        for sweep in sweeps {
            assert!(sweep.join().unwrap() * STRIDE > 10, "a fault that hardly struck");
        }
    });
}

/// A plan for sstables only: of a damaged log the end may be gone, as from one that is torn.
struct OnTables(Arc<Planned>);

impl Rule for OnTables {
    fn decide(&self, operation: &Operation<'_>) -> Verdict {
        Verdict::Done(operation.bytes)
    }
    fn read(&self, path: &Path, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match path.extension().is_some_and(|extension| extension == "sst") {
            true => self.0.read(path, offset, bytes),
            false => Ok(()),
        }
    }
}

/// What damage to its tables leaves of a database: every answer is right, or an error that names the file.
fn read_damaged(damage: Damage, seed: u64) -> (usize, usize, Vec<(&'static str, u64)>) {
    let scratch = Scratch::in_memory();
    let dir = &scratch.db();
    let mut writers = [Writer::new(0, seed)];
    let db = Database::open_or_create(dir, config()).unwrap();
    (0..400).for_each(|_| writers[0].step(&db, dir, Shows::Nothing));
    db.close().unwrap();
    drop(db);

    let rule = Arc::new(Planned::new(FaultPlan { damage, ..none() }, seed));
    let env = FaultyEnv::new(OsEnv::new(), OnTables(rule.clone()));
    let (mut right, mut refused) = (0, 0);
    let mut hear = |error: &Error| {
        let (file, says) = match error {
            Error::Corruption(corruption) => (&corruption.file, true),
            Error::Io { path, source, .. } => (path, source.raw_os_error() == Some(5)),
            other => panic!("not what damage leads to: {other}"),
        };
        assert!(says && file.extension().is_some_and(|e| e == "sst"), "{error}");
        refused += 1;
    };
    match Database::open_with_env(env, dir, LightningDbConfig { cache_size: 0, ..config() }) {
        Err(error) => hear(&error),
        Ok(db) => {
            let there = |writer: &Writer, commit: usize| {
                let there = writer.fates[commit] == Fate::There;
                there.then(|| writer.value(commit, 1))
            };
            for commit in 0..writers[0].fates.len() {
                match db.get(writers[0].key(commit, 1)) {
                    Err(error) => hear(&error),
                    Ok(found) => {
                        assert!(found == there(&writers[0], commit), "commit {commit}");
                        right += 1;
                    }
                }
            }
            let mut expected = vec![];
            for commit in 0..writers[0].fates.len() {
                if writers[0].fates[commit] == Fate::There {
                    expected.extend((0..3).map(|part| writers[0].key(commit, part)));
                }
            }
            let mut found = vec![];
            let scanned = db.for_each(.., |key, _| found.push(key.to_vec()));
            scanned.unwrap_or_else(|error| hear(&error));
            assert!(found.len() <= expected.len() && found == expected[..found.len()]);
            rule.end();
            // Merges may have met damage, too.
            let closed = db.close();
            closed.unwrap_or_else(|error| hear(&error));
        }
    }
    check(dir, &mut writers);
    (right, refused, rule.struck())
}

#[test]
fn of_damaged_tables_only_what_is_right_is_read() {
    let none = FaultPlan::none().damage;
    for (damage, site) in [
        (Damage { bit_rot: 0.02, ..none.clone() }, site::BIT_ROT),
        (Damage { latent_error: 0.01, ..none.clone() }, site::LATENT_ERROR),
    ] {
        let (mut right, mut refused, mut struck) = (0, 0, 0);
        for seed in 0..SEEDS {
            let damage = damage.clone();
            let (r, e, s) =
                soon(&format!("{site}, seed {seed}"), move || read_damaged(damage, seed));
            (right, refused, struck) = (right + r, refused + e, struck + s.len());
        }
        println!(
            "{site}: {SEEDS} seeds, {struck} strikes, {right} answers right, {refused} refused"
        );
        assert!(struck > 0 && right > 0 && refused > 0, "{site}: {struck} {right} {refused}");
    }
}
