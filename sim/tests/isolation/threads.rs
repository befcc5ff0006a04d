//! Real threads on a real disk, many transactions on few keys: what each saw is judged. `ISOLATION_SECONDS` lets it
//! go on for longer, and print the table of `docs/isolation.md`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lightning_db::{
    Database, Durability, Error, IsolationLevel, LightningDbConfig, Transaction, WriteBatch,
};
use lightning_faults::Dice;
use lightning_sim::isolation::{
    self, Anomaly, Contents, History, KeyRange, Level, Operation, Report, Status, check,
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

const THREADS: u64 = 8;
const KEYS: u64 = 12;

/// What all threads of a history share.
struct Round {
    db: std::sync::Arc<Database>,
    /// All transactions have this level; `None`: each another.
    level: Option<Level>,
    ids: AtomicU64,
    versions: AtomicU64,
    clock: AtomicU64,
}

fn key(number: u64) -> Vec<u8> {
    format!("k{number:02}").into_bytes()
}

/// The write that a value is from.
fn version(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().unwrap())
}

impl Round {
    fn new(dir: &std::path::Path, level: Option<Level>) -> Round {
        // Memtables are flushed and merged all the time.
        let config = LightningDbConfig {
            memtable_size: 64 << 10,
            wal_segment_size: 256 << 10,
            ..Default::default()
        };
        let db = Database::create(dir.join("db"), config).unwrap();
        let number = || AtomicU64::new(1);
        Round { db, level, ids: number(), versions: number(), clock: number() }
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }

    fn value(&self, dice: &mut Dice) -> (u64, Vec<u8>) {
        let version = self.versions.fetch_add(1, SeqCst);
        let mut bytes = version.to_le_bytes().to_vec();
        bytes.resize(8 + dice.below(200) as usize, 7);
        (version, bytes)
    }

    /// One transaction, told as the checker wants it.
    fn transaction(&self, session: u64, dice: &mut Dice) -> isolation::Transaction {
        let level = self.level.unwrap_or_else(|| {
            dice.pick(&[Level::ReadCommitted, Level::Snapshot, Level::Serializable])
        });
        let (id, began) = (self.ids.fetch_add(1, SeqCst), self.now());
        let mut told = isolation::Transaction {
            id,
            session,
            level,
            status: Status::Aborted,
            began,
            ended: None,
            operations: vec![],
        };
        let done = match dice.below(20) {
            0 => self.plain(&mut told, dice),
            _ => self.run(&mut told, dice),
        };
        match done {
            Ok(Some(order)) => {
                told.ended = Some(self.now());
                told.status = Status::Committed { order };
            }
            Ok(None) => {}
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
        told
    }

    /// A batch, past all transactions.
    fn plain(
        &self,
        told: &mut isolation::Transaction,
        dice: &mut Dice,
    ) -> Result<Option<u64>, Error> {
        let mut batch = WriteBatch::new();
        for _ in 0..1 + dice.below(2) {
            let (key, (version, value)) = (key(dice.below(KEYS)), self.value(dice));
            batch.put(&key, &value);
            told.operations.push(Operation::Write { keyspace: 0, key, version, delete: false });
        }
        Ok(Some(self.db.commit(batch, Durability::Default)?.0))
    }

    fn run(
        &self,
        told: &mut isolation::Transaction,
        dice: &mut Dice,
    ) -> Result<Option<u64>, Error> {
        let isolation = match told.level {
            Level::ReadCommitted => IsolationLevel::ReadCommitted,
            Level::Snapshot => IsolationLevel::Snapshot,
            Level::Serializable => IsolationLevel::Serializable,
        };
        let mut builder = self.db.transaction().isolation(isolation);
        let read_only = dice.chance(0.1);
        if read_only {
            builder = builder.read_only();
        } else if dice.chance(0.2) {
            builder = builder.pessimistic();
        }
        let tx = builder.begin()?;
        let steps = if read_only { 8 } else { 1 + dice.below(6) };
        for _ in 0..steps {
            match dice.below(if read_only { 10 } else { 20 }) {
                0..=5 => self.read(&tx, told, &key(dice.below(KEYS)))?,
                6..=9 => self.scan(&tx, told, dice)?,
                10 => self.delete(&tx, told, dice)?,
                11..=13 => {
                    // Reads what it writes: a list that grows, a counter, a balance.
                    let key = key(dice.below(KEYS));
                    self.read(&tx, told, &key)?;
                    self.write(&tx, told, key, dice)?;
                }
                14..=15 => {
                    // A trap for write skew: looks at two keys and writes one.
                    let (a, b) = (key(dice.below(KEYS)), key(dice.below(KEYS)));
                    self.read(&tx, told, &a)?;
                    self.read(&tx, told, &b)?;
                    self.write(&tx, told, a, dice)?;
                }
                _ => self.write(&tx, told, key(dice.below(KEYS)), dice)?,
            }
            if dice.chance(0.05) {
                thread::yield_now();
            }
        }
        if dice.chance(0.05) {
            tx.abort();
            return Ok(None);
        }
        Ok(Some(tx.commit()?.0))
    }

    fn read(
        &self,
        tx: &Transaction,
        told: &mut isolation::Transaction,
        key: &[u8],
    ) -> Result<(), Error> {
        let seen = tx.get(key)?.map(|value| version(&value));
        told.operations.push(Operation::Read { keyspace: 0, key: key.to_vec(), seen });
        Ok(())
    }

    fn write(
        &self,
        tx: &Transaction,
        told: &mut isolation::Transaction,
        key: Vec<u8>,
        dice: &mut Dice,
    ) -> Result<(), Error> {
        let (version, value) = self.value(dice);
        tx.put(&key, value)?;
        told.operations.push(Operation::Write { keyspace: 0, key, version, delete: false });
        Ok(())
    }

    fn delete(
        &self,
        tx: &Transaction,
        told: &mut isolation::Transaction,
        dice: &mut Dice,
    ) -> Result<(), Error> {
        let version = self.versions.fetch_add(1, SeqCst);
        let (from, many) = (dice.below(KEYS), dice.chance(0.3));
        if many {
            let range = KeyRange::new(key(from), key(from + 1 + dice.below(4)));
            tx.delete_range(range.start.clone()..range.end.clone().unwrap())?;
            told.operations.push(Operation::DeleteRange { keyspace: 0, range, version });
            return Ok(());
        }
        tx.delete(key(from))?;
        told.operations.push(Operation::Write {
            keyspace: 0,
            key: key(from),
            version,
            delete: true,
        });
        Ok(())
    }

    fn scan(
        &self,
        tx: &Transaction,
        told: &mut isolation::Transaction,
        dice: &mut Dice,
    ) -> Result<(), Error> {
        let (from, to) = (dice.below(KEYS), dice.below(KEYS + 1));
        let range = KeyRange::new(key(from.min(to)), key(from.max(to)));
        let (back, most) = (dice.chance(0.5), 1 + dice.below(2 * KEYS));
        let bounds = (Some(&range.start[..]), range.end.as_deref());
        let scan = match back {
            false => tx.scan(bounds.0, bounds.1)?,
            true => tx.scan_reverse(bounds.0, bounds.1)?,
        };
        let mut seen = vec![];
        for entry in scan.take(most as usize) {
            let (key, value) = entry?;
            seen.push((key, version(&value)));
        }
        // One that was ended early has read as far as it came.
        let mut reached = None;
        if seen.len() as u64 == most
            && let Some((last, _)) = seen.last()
        {
            let mut covered = range.clone();
            match back {
                true => covered.start.clone_from(last),
                false => covered.end = Some([&last[..], &[0]].concat()),
            }
            reached = Some(covered);
        }
        told.operations.push(Operation::Scan { keyspace: 0, range, reached, seen });
        Ok(())
    }

    /// What is there in the end.
    fn contents(&self) -> Contents {
        let entries = self.db.iter().unwrap().map(|entry| entry.unwrap());
        let keys = entries.map(|(key, value)| (key, version(&value))).collect();
        BTreeMap::from([(0, keys)])
    }
}

/// One history of so many transactions, judged. Returns how many of them committed, too.
fn judged(seed: u64, level: Option<Level>, transactions: u64) -> (Report, u64) {
    let dir = tempfile::tempdir().unwrap();
    let round = Round::new(dir.path(), level);
    let mut all = vec![];
    thread::scope(|scope| {
        let round = &round;
        let threads: Vec<_> = (0..THREADS)
            .map(|session| {
                scope.spawn(move || {
                    let mut dice = Dice::new(seed, "thread", session);
                    let all = 0..transactions / THREADS;
                    all.map(|_| round.transaction(session, &mut dice)).collect::<Vec<_>>()
                })
            })
            .collect();
        all.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
    });
    let committed = |told: &&isolation::Transaction| told.ended.is_some();
    let count = all.iter().filter(committed).count() as u64;
    let report = check(&History { transactions: all, final_state: Some(round.contents()) });
    assert!(report.is_complete());
    assert!(report.forbidden().is_empty(), "seed {seed}, {level:?}:\n{report}");
    (report, count)
}

#[test]
fn threads_see_what_their_levels_promise_and_nothing_worse() {
    let seconds = std::env::var("ISOLATION_SECONDS").ok().map(|text| text.parse().unwrap());
    let usual = if cfg!(feature = "integration_tests") { 8 } else { 1 };
    let ends = Instant::now() + Duration::from_secs(seconds.unwrap_or(usual));
    let levels =
        [Some(Level::ReadCommitted), Some(Level::Snapshot), Some(Level::Serializable), None];
    let mut found: BTreeMap<(usize, Anomaly), u64> = BTreeMap::new();
    let (mut histories, mut committed) = ([0_u64; 4], [0_u64; 4]);
    for seed in 0.. {
        let at = seed as usize % levels.len();
        let (report, count) = judged(seed, levels[at], 4000);
        histories[at] += 1;
        committed[at] += count;
        for (anomaly, found_here) in report.found {
            *found.entry((at, anomaly)).or_default() += found_here.count;
        }
        if Instant::now() > ends && seed >= 7 {
            break;
        }
    }
    if seconds.is_some() {
        for (at, level) in levels.iter().enumerate() {
            println!("{level:?}: {} histories, {} committed", histories[at], committed[at]);
            for ((_, anomaly), count) in found.iter().filter(|((of, _), _)| *of == at) {
                println!("    {}: {count}", anomaly.name());
            }
        }
    }
    let of = |at, anomaly| found.get(&(at, anomaly)).copied().unwrap_or(0);
    assert!(of(1, Anomaly::WriteSkew) > 0, "snapshots admit write skew");
    assert_eq!(of(2, Anomaly::WriteSkew) + of(2, Anomaly::Phantom), 0);
    assert!(of(0, Anomaly::LostUpdate) > 0, "Read Committed admits lost updates");
    assert_eq!(of(1, Anomaly::LostUpdate), 0);
}
