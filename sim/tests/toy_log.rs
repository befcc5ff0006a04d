//! The simulator's test of itself: a toy log with group commit, in which bugs are planted.
//!
//! A simulator that finds nothing may be blind. Each bug here is one that real engines had,
//! and each is found only because the disk and the scheduler can do what real ones do. The
//! toy without bugs passes, so that what is found is not the simulator's own mistake.
#![expect(clippy::unwrap_used, reason = "tests")]

use lightning_db::{
    env::{Disk, Env, Event, File, FileExt, OpenMode, PathKind},
    sync::Mutex,
};
use lightning_sim::{
    Dice, FaultPlan, SimEnv,
    simulation::{Boot, Crash, Outcome, Plan, When, run},
    timeline::timeline,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex as StdMutex},
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// A commit is acknowledged once it is written.
    AckBeforeSync,
    /// The entry of a new log is not synced.
    NoDirectorySync,
    /// A failed sync is tried again.
    RetryFailedSync,
    /// A record counts if its length looks right.
    ChecksumIgnored,
    /// A record's place and its bytes are taken in two steps, with no I/O between.
    TwoCriticalSections,
}

const RECORD: usize = 48;
/// A block that is being written may become garbage as a whole: no block is written twice.
const BLOCK: usize = 4096;

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn encode(id: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[40..].copy_from_slice(&id.to_le_bytes());
    for filler in record[8..40].chunks_mut(8) {
        filler.copy_from_slice(&id.wrapping_mul(31).to_le_bytes());
    }
    record[4] = 1;
    let crc = crc(&record);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    record
}

fn crc(record: &[u8]) -> u32 {
    let mix = |sum: u32, b: &u8| sum.rotate_left(5).wrapping_mul(0x9e37_79b1) ^ u32::from(*b);
    record[4..].iter().fold(7, mix)
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// Commits whose place is given, and those that are durable.
    next: u64,
    durable: u64,
    end: u64,
    leading: bool,
    poisoned: bool,
}

struct Log {
    file: Arc<dyn File>,
    recovered: BTreeSet<u64>,
    state: Mutex<State>,
    event: Arc<dyn Event>,
    bug: Bug,
}

fn recover(disk: &dyn Disk, dir: &Path, bug: Bug) -> io::Result<(BTreeSet<u64>, u64)> {
    let (mut found, mut newest) = (BTreeSet::new(), 0);
    for name in disk.list(dir)? {
        newest = newest.max(name.parse().unwrap());
        let file = disk.open(&dir.join(&name), OpenMode::Read)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        for record in bytes.chunks(BLOCK).flat_map(|block| block.chunks_exact(RECORD)) {
            let right = record[..4] == crc(record).to_le_bytes();
            if record[4] == 1 && (right || bug == Bug::ChecksumIgnored) {
                found.insert(u64::from_le_bytes(record[40..].try_into().unwrap()));
            }
        }
    }
    Ok((found, newest))
}

impl Log {
    fn open(env: &SimEnv, dir: &Path, bug: Bug) -> io::Result<Arc<Log>> {
        let disk = env.disk();
        if disk.kind(dir)? == PathKind::Missing {
            disk.create_dir(dir)?;
        }
        disk.sync_dir(dir.parent().unwrap())?;
        let (recovered, newest) = recover(disk, dir, bug)?;
        // What was found may be in the page cache alone: it goes into a log of its own first.
        let path = dir.join(format!("{}", newest + 1));
        let file = disk.open(&path, OpenMode::CreateNew)?;
        let all: Vec<_> = recovered.iter().map(|id| encode(*id)).collect();
        let blocks = all.chunks(BLOCK / RECORD).map(|block| padded(block.concat()));
        let bytes = blocks.collect::<Vec<_>>().concat();
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        if bug != Bug::NoDirectorySync {
            disk.sync_dir(dir)?;
        }
        let end = bytes.len() as u64;
        Ok(Arc::new(Log {
            file,
            recovered,
            state: Mutex::new(State { end, ..State::default() }),
            event: env.event(),
            bug,
        }))
    }

    fn commit(&self, id: u64) -> io::Result<()> {
        let place = {
            let mut state = self.state.lock();
            state.next += 1;
            let place = state.next;
            if self.bug == Bug::TwoCriticalSections {
                drop(state);
                state = self.state.lock();
            }
            state.buffer.extend_from_slice(&encode(id));
            place
        };
        loop {
            let epoch = self.event.epoch();
            let mut state = self.state.lock();
            if state.poisoned {
                return Err(io::Error::other("poisoned"));
            }
            if state.durable >= place {
                return Ok(());
            }
            if state.leading {
                drop(state);
                self.event.wait(epoch, None);
                continue;
            }
            state.leading = true;
            let batch = padded(std::mem::take(&mut state.buffer));
            let (upto, at) = (state.next, state.end);
            state.end += batch.len() as u64;
            drop(state);
            let result = self.write_and_sync(&batch, at);
            let mut state = self.state.lock();
            state.leading = false;
            match result {
                Ok(()) => state.durable = upto,
                Err(_) => state.poisoned = true,
            }
            drop(state);
            self.event.notify_all();
        }
    }

    fn write_and_sync(&self, batch: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(batch, at)?;
        match self.bug {
            Bug::AckBeforeSync => Ok(()),
            Bug::RetryFailedSync => self.file.sync_data().or_else(|_| self.file.sync_data()),
            _ => self.file.sync_data(),
        }
    }
}

#[derive(Default)]
struct Model {
    /// The newest id given out; the first is 1.
    newest: u64,
    acknowledged: BTreeSet<u64>,
    /// Seen once after a boot: must be seen ever after.
    recovered: BTreeSet<u64>,
}

fn program(boot: &Boot, model: &Arc<StdMutex<Model>>, bug: Bug) {
    let world = boot.env.world();
    let dir = PathBuf::from("/log");
    let log = match Log::open(&boot.env, &dir, bug) {
        Ok(log) => log,
        Err(e) if boot.last => return world.violate("I-15", format!("does not open: {e}")),
        Err(_) => return,
    };
    {
        let mut model = model.lock().unwrap();
        if let Some(lost) = model.acknowledged.difference(&log.recovered).next() {
            return world.violate("I-1", format!("acknowledged commit {lost} is lost"));
        }
        if let Some(lost) = model.recovered.difference(&log.recovered).next() {
            return world.violate("I-10", format!("recovered commit {lost} is gone again"));
        }
        if let Some(never) = log.recovered.iter().find(|id| !(1..=model.newest).contains(*id)) {
            return world.violate("I-2", format!("commit {never} was never submitted"));
        }
        model.recovered = log.recovered.clone();
    }
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (log, model, world) = (log.clone(), model.clone(), world.clone());
            let client = move || {
                for _ in 0..25 {
                    let id = {
                        let mut model = model.lock().unwrap();
                        model.newest += 1;
                        model.newest
                    };
                    world.record("does", &[id], || format!("commit {id}"));
                    let result = log.commit(id);
                    world.record("commit", &[id], || format!("{id} -> {result:?}"));
                    if result.is_err() {
                        return;
                    }
                    model.lock().unwrap().acknowledged.insert(id);
                }
            };
            boot.env.spawn("client", Box::new(client)).unwrap()
        })
        .collect();
    clients.into_iter().for_each(|client| client.join());
}

fn run_toy(seed: u64, bug: Bug) -> Outcome {
    let model = Arc::new(StdMutex::new(Model::default()));
    let mut plan = Plan::draw(seed);
    // The toy has one copy of everything, and no way to tell what of it was durable.
    plan.faults = plan.faults.undamaged();
    run(plan, move |boot| program(&boot, &model, bug))
}

#[test]
fn the_toy_without_bugs_keeps_its_promises() {
    for seed in 0..500 {
        let outcome = run_toy(seed, Bug::None);
        assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
    }
}

#[test]
fn every_planted_bug_is_found_within_500_seeds() {
    let bugs = [
        Bug::AckBeforeSync,
        Bug::NoDirectorySync,
        Bug::RetryFailedSync,
        Bug::ChecksumIgnored,
        Bug::TwoCriticalSections,
    ];
    let mut found = BTreeMap::new();
    for bug in bugs {
        let seeds = (0..500).filter(|seed| run_toy(*seed, bug).violation.is_some());
        found.insert(format!("{bug:?}"), seeds.count());
    }
    println!("seeds of 500 that find each bug: {found:?}");
    assert!(found.values().all(|seeds| *seeds > 0), "{found:?}");
}

/// I-11: what differs between two runs of a seed is a bug of the simulator or the engine.
#[test]
fn a_seed_always_runs_the_same_also_beside_others() {
    let hashes = |first: u64| -> Vec<u64> {
        (first..40).map(|seed| run_toy(seed, Bug::None).trace_hash).collect()
    };
    let once = hashes(0);
    let distinct: BTreeSet<_> = once.iter().collect();
    assert_eq!(distinct.len(), once.len(), "two seeds gave the same run");
    let others = std::thread::spawn(move || hashes(20));
    assert_eq!(once, hashes(0));
    assert_eq!(once[20..], others.join().unwrap());
}

/// Pins the form in which a failure is told to people.
#[test]
fn a_failure_is_told_as_a_story() {
    let mut plan = Plan::draw(0);
    plan.faults = FaultPlan::none();
    plan.keep_lines = Some(usize::MAX);
    plan.boots.drain(..plan.boots.len() - 1);
    let told = (10..60).find_map(|io| {
        let mut plan = plan.clone();
        let mut crash = plan.boots[0].clone();
        (crash.crash, crash.calm) = (Some((When::AtIo(io), Crash::PowerLoss)), false);
        plan.boots.insert(0, crash);
        let model = Arc::new(StdMutex::new(Model::default()));
        let outcome = run(plan, move |boot| program(&boot, &model, Bug::AckBeforeSync));
        outcome.violation.is_some().then_some(outcome)
    });
    let outcome = told.expect("a crash that shows the bug");
    assert_eq!(outcome.violation.as_ref().map(|v| v.invariant), Some("I-1"));
    insta::assert_snapshot!(timeline(&outcome, 30));
}

#[test]
fn a_panic_is_a_violation_with_its_place_and_does_not_end_the_process() {
    let mut plan = Plan::draw(3);
    plan.boots.retain(|boot| boot.crash.is_none());
    let outcome = run(plan, |boot| {
        let lock = Arc::new(Mutex::new(()));
        let task = boot.env.spawn(
            "task",
            Box::new(move || {
                let _guard = lock.lock();
                let none: Option<u8> = Dice::new(0, "none", 0).chance(0.0).then_some(1);
                none.expect("planted");
            }),
        );
        task.unwrap().join();
    });
    let violation = outcome.violation.unwrap();
    assert_eq!(violation.invariant, "panic");
    assert!(violation.message.contains("planted"), "{}", violation.message);
    assert!(violation.message.contains("toy_log.rs"), "{}", violation.message);
}
