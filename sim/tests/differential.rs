//! For the failure that makes every campaign worthless at the level where users stand: a database on
//! the simulated machine answers otherwise than the same database on a real disk.
//!
//! Random programs that call the API, bad input included, run on both. Every answer must be the same:
//! values, sequence numbers, scans, errors, and after the last reopening all that every keyspace holds.
#![expect(clippy::unwrap_used, reason = "tests")]

use lightning_db::{
    Database, Durability, Error, Keyspace, LightningDbConfig, Result, Scan, Snapshot, WalSyncMode,
    WriteBatch, env::Env, env::OsEnv,
};
use lightning_sim::{
    Dice,
    simulation::{Plan, run},
};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

const PROGRAMS: u64 = if cfg!(feature = "integration_tests") { 1_000 } else { 40 };
const STEPS: usize = 120;
/// So many programs share a simulated machine.
const BATCH: u64 = 20;
const NAMES: [&str; 4] = ["default", "a", "b", ""];
const SNAPSHOTS: usize = 3;
/// Parts of answers that must occur.
const EXPECTED: [&str; 9] = [
    "get: Some",
    "get at the snapshot: Some",
    "does not exist",
    "inverted range",
    "larger than",
    "is open elsewhere",
    "invalid keyspace name",
    "cannot be dropped",
    "closed",
];

fn config(dice: &mut Dice) -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: dice.pick(&[16 << 10, 64 << 10, 1 << 20]),
        wal_segment_size: dice.pick(&[16 << 10, 64 << 10, 1 << 20]),
        cache_size: dice.pick(&[0, 64 << 10, 1 << 20]),
        max_memory: 64 << 20,
        compression_enabled: dice.chance(0.5),
        max_key_size: 300,
        wal_sync_mode: dice.pick(&[
            WalSyncMode::Sync,
            WalSyncMode::Async,
            WalSyncMode::Periodic { interval: Duration::from_millis(2) },
        ]),
        ..Default::default()
    }
}

/// A program at work. What it does next is drawn from the same numbers on both machines.
struct Program {
    env: Arc<dyn Env>,
    path: PathBuf,
    config: LightningDbConfig,
    dice: Dice,
    /// `None` only between closing and opening.
    db: Option<Arc<Database>>,
    keyspaces: BTreeMap<&'static str, Keyspace>,
    snapshots: Vec<Snapshot>,
    answers: Vec<String>,
}

impl Program {
    fn new(env: Arc<dyn Env>, path: PathBuf, seed: u64) -> Program {
        let mut dice = Dice::new(seed, "differential", 0);
        let config = config(&mut dice);
        let db = Database::create_with_env(Arc::clone(&env), &path, config.clone()).unwrap();
        Program {
            env,
            path,
            config,
            dice,
            db: Some(db),
            keyspaces: BTreeMap::new(),
            snapshots: vec![],
            answers: vec![],
        }
    }

    fn run(mut self) -> Vec<String> {
        for _ in 0..STEPS {
            self.step();
        }
        self.reopen();
        for name in self.db().keyspaces().unwrap() {
            let all = self.db().keyspace(&name).unwrap().iter().unwrap();
            self.tell(&format!("at last, {name}"), entries(all));
        }
        let closed = self.db().close();
        self.tell("close", closed);
        self.answers
    }

    fn tell<T: Debug>(&mut self, what: &str, answer: Result<T>) {
        let answer = match answer {
            Ok(answer) => format!("{answer:?}"),
            // Directories differ.
            Err(error) => error.to_string().replace(&self.path.display().to_string(), "DB"),
        };
        self.answers.push(format!("{what}: {answer}"));
    }

    fn key(&mut self) -> Vec<u8> {
        let dice = &mut self.dice;
        let len = if dice.chance(0.02) { dice.range(250..350) } else { dice.below(4) };
        (0..len).map(|_| dice.pick(&[0, 1, b'a', b'b', 255])).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.dice.below(12) {
            0 => self.dice.range(1000..40_000),
            1..=3 => self.dice.range(100..900),
            _ => self.dice.below(20),
        };
        let mut value = vec![self.dice.u64() as u8; len as usize];
        if self.dice.chance(0.5) {
            self.dice.fill(&mut value);
        }
        value
    }

    fn range(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (start, end) = (self.key(), self.key());
        // Now and then inverted.
        if start > end && !self.dice.chance(0.1) { (end, start) } else { (start, end) }
    }

    /// A handle that was taken earlier, perhaps of a keyspace dropped since.
    fn keyspace(&mut self) -> Keyspace {
        let names = NAMES[..3].iter().copied().filter(|name| self.keyspaces.contains_key(name));
        let names: Vec<_> = names.collect();
        match names.is_empty() {
            true => self.db().keyspace("default").unwrap(),
            false => self.keyspaces[self.dice.pick(&names)].clone(),
        }
    }

    fn step(&mut self) {
        match self.dice.below(40) {
            0..=9 => {
                let (keyspace, key, value) = (self.keyspace(), self.key(), self.value());
                let durability = self.dice.pick(&[Durability::Default, Durability::Sync]);
                self.tell("put", keyspace.put_with(key, value, durability));
            }
            10..=12 => {
                let (keyspace, key) = (self.keyspace(), self.key());
                self.tell("delete", keyspace.delete(key));
            }
            13 => {
                let (keyspace, (start, end)) = (self.keyspace(), self.range());
                self.tell("delete_range", keyspace.delete_range(start..end));
            }
            14..=16 => self.commit(),
            17 => {
                let keyspace = self.keyspace();
                let entries: Vec<_> = (0..3).map(|_| (self.key(), self.value())).collect();
                self.tell("put_batch", keyspace.put_batch(&entries));
            }
            18..=22 => {
                let (keyspace, key) = (self.keyspace(), self.key());
                self.tell("get", keyspace.get(&key));
                self.tell("contains_key", keyspace.contains_key(key));
            }
            23 => {
                let keyspace = self.keyspace();
                let keys: Vec<_> = (0..5).map(|_| self.key()).collect();
                self.tell("get_batch", keyspace.get_batch(&keys));
            }
            24..=26 => self.scan(),
            27 => {
                let keyspace = self.keyspace();
                self.tell("first", keyspace.first());
                self.tell("last", keyspace.last());
            }
            28 | 29 => {
                if self.snapshots.len() == SNAPSHOTS {
                    self.snapshots.remove(0);
                }
                self.snapshots.extend(self.db().snapshot().ok());
            }
            30..=32 => self.read_snapshot(),
            33 | 34 => {
                let name = self.dice.pick(&NAMES);
                let keyspace = self.db().keyspace(name);
                self.tell("keyspace", keyspace.as_ref().map(|_| ()).map_err(Error::clone));
                self.keyspaces.extend(keyspace.ok().map(|keyspace| (name, keyspace)));
            }
            35 => {
                let name = self.dice.pick(&NAMES);
                self.tell("drop_keyspace", self.db().drop_keyspace(name));
            }
            36 | 37 => {
                self.tell("checkpoint", self.db().checkpoint());
                self.tell("keyspaces", self.db().keyspaces());
            }
            38 => self.reopen(),
            _ => {
                let again = self.open();
                self.tell("open twice", again.map(|_| ()));
            }
        }
    }

    fn commit(&mut self) {
        let mut batch = WriteBatch::new();
        for _ in 0..self.dice.below(6) {
            let keyspace = self.keyspace();
            match self.dice.below(4) {
                0 => batch.delete_in(&keyspace, self.key()),
                1 => {
                    let (start, end) = self.range();
                    batch.delete_range_in(&keyspace, start..end)
                }
                _ => batch.put_in(&keyspace, self.key(), self.value()),
            };
        }
        self.tell("commit", self.db().commit(batch, Durability::Default));
    }

    fn scan(&mut self) {
        let (keyspace, (start, end)) = (self.keyspace(), self.range());
        match self.dice.below(4) {
            0 => self.tell("scan", keyspace.scan(Some(&start), Some(&end)).and_then(entries)),
            1 => self
                .tell("scan_reverse", keyspace.scan_reverse(Some(&start), None).and_then(entries)),
            2 => self.tell("scan_prefix", keyspace.scan_prefix(&start).and_then(entries)),
            _ => {
                let (mut keys, mut bytes) = (0, 0);
                let told = keyspace.for_each(start.., |key, value| {
                    keys += 1;
                    bytes += key.len() + value.len();
                });
                self.tell("for_each", told.map(|()| (keys, bytes)));
            }
        }
    }

    fn read_snapshot(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let at = self.dice.below(self.snapshots.len() as u64) as usize;
        let (keyspace, key) = (self.keyspace(), self.key());
        let snapshot = self.snapshots[at].of(&keyspace);
        self.tell("snapshot", Ok(snapshot.seq()));
        self.tell("get at the snapshot", snapshot.get(key));
        self.tell("scan of the snapshot", snapshot.iter().and_then(entries));
    }

    fn reopen(&mut self) {
        (self.keyspaces, self.snapshots) = Default::default();
        let closed = self.db().close();
        self.tell("close", closed);
        let again = self.open();
        self.tell("open while a handle lives", again.map(|_| ()));
        let get = self.db().get("key");
        self.tell("get when closed", get);
        self.db = None;
        self.db = Some(self.open().unwrap());
    }

    fn open(&self) -> Result<Arc<Database>> {
        Database::open_with_env(Arc::clone(&self.env), &self.path, self.config.clone())
    }

    fn db(&self) -> &Database {
        self.db.as_ref().unwrap()
    }
}

type Entry = (Vec<u8>, Vec<u8>);

fn entries(scan: Scan) -> Result<Vec<Entry>> {
    scan.collect()
}

fn on_the_real_disk(seed: u64) -> Vec<String> {
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    Program::new(Arc::new(OsEnv::new()), scratch.path().join("db"), seed).run()
}

/// The answers of programs, all on one machine on which nothing fails.
fn in_the_simulation(seeds: &[u64], maps: bool) -> Vec<Vec<String>> {
    let mut plan = Plan::draw(1);
    plan.faults = lightning_faults::FaultPlan::none();
    plan.faults.map_refused = !maps;
    let heard = Arc::new(Mutex::new(vec![]));
    let (said, seeds) = (Arc::clone(&heard), seeds.to_vec());
    let outcome = run(plan, move |boot| {
        if !boot.last {
            return;
        }
        let env: Arc<dyn Env> = Arc::new(boot.env.clone());
        let program = |seed: &u64| {
            Program::new(Arc::clone(&env), Path::new("/").join(seed.to_string()), *seed).run()
        };
        let all = seeds.iter().map(program).collect();
        *said.lock().unwrap() = all;
    });
    assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    let mut heard = heard.lock().unwrap();
    std::mem::take(&mut *heard)
}

#[test]
fn a_database_answers_the_same_on_a_real_disk_and_on_the_simulated_one() {
    let mut seen: BTreeMap<&str, u64> = EXPECTED.iter().map(|what| (*what, 0)).collect();
    for begin in (0..PROGRAMS).step_by(BATCH as usize) {
        let seeds: Vec<_> = (begin..(begin + BATCH).min(PROGRAMS)).collect();
        let simulated = in_the_simulation(&seeds, (begin / BATCH).is_multiple_of(2));
        assert_eq!(simulated.len(), seeds.len());
        for (seed, simulated) in seeds.iter().zip(simulated) {
            let real = on_the_real_disk(*seed);
            for (n, (real, simulated)) in real.iter().zip(&simulated).enumerate() {
                assert_eq!(real, simulated, "program {seed}, answer {n}");
                let found = seen.iter_mut().filter(|(what, _)| real.contains(**what));
                found.for_each(|(_, times)| *times += 1);
            }
            assert_eq!(real.len(), simulated.len(), "program {seed}");
        }
    }
    println!("{PROGRAMS} programs: the same answers; {seen:?}");
    // Nothing that this test is for was left out.
    assert!(seen.values().all(|times| *times > 0), "{seen:?}");
}
