//! For the failure that makes every campaign worthless: the simulated disk answers otherwise than a
//! real one, so that the engine is proved right on a machine that does not exist.
//!
//! Random sequences of operations run on the operating system's disk and on the simulated one
//! without faults, each in a directory of its own. Every answer must be the same: values, bytes read,
//! kinds of errors, and at the end what every name holds. A sequence that shows a difference is made
//! small and printed.
//!
//! Left out is what the traits of the engine's `env` do not promise, and what the engine does not do:
//! renaming directories, opening them as files, syncing or locking a file as if it were one, cutting a
//! mapped file, mapping room that was not written.
#![expect(clippy::unwrap_used, reason = "tests")]

use lightning_db::env::{DirLock, Disk, Env, File, FileExt, FileMap, OpenMode, OsEnv, PathKind};
use lightning_sim::{
    Dice,
    simulation::{Plan, run},
};
use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

const HEAVY: bool = cfg!(feature = "integration_tests");
/// Sequences in memory, where syncing costs nothing, and on the disk of the temporary directory,
/// where files may be mapped.
const IN_MEMORY: u64 = if HEAVY { 99_000 } else { 2_000 };
const ON_DISK: u64 = if HEAVY { 1_000 } else { 50 };
const STEPS: usize = 40;
/// So many sequences share a simulated machine.
const BATCH: u64 = 50;

/// One operation. Files and locks are held in numbered places, so that a step means the same when
/// others are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Open {
        slot: usize,
        path: &'static str,
        mode: OpenMode,
    },
    Close {
        slot: usize,
    },
    Write {
        slot: usize,
        at: u64,
        len: u64,
        fill: u64,
    },
    Read {
        slot: usize,
        at: u64,
        len: u64,
    },
    Len {
        slot: usize,
    },
    SetLen {
        slot: usize,
        len: u64,
    },
    Allocate {
        slot: usize,
        len: u64,
    },
    SyncData {
        slot: usize,
    },
    SyncAll {
        slot: usize,
    },
    /// Allocates and writes the room first, as mapping asks.
    Map {
        slot: usize,
        len: u64,
    },
    MapBeyondTheEnd {
        slot: usize,
        by: u64,
    },
    MapWrite {
        at: u64,
        len: u64,
        fill: u64,
    },
    Populate {
        at: u64,
        len: u64,
    },
    Release {
        at: u64,
        len: u64,
    },
    Unmap,
    Rename {
        from: &'static str,
        to: &'static str,
    },
    Remove {
        path: &'static str,
    },
    List {
        dir: &'static str,
    },
    Kind {
        path: &'static str,
    },
    CreateDir {
        path: &'static str,
    },
    SyncDir {
        dir: &'static str,
    },
    Lock {
        slot: usize,
        dir: &'static str,
    },
    Unlock {
        slot: usize,
    },
}

const FILES: usize = 3;
const LOCKS: usize = 2;
/// `a` is mostly a file, so that `a/x` asks a file for what is in it. `""` is the root itself.
const PATHS: [&str; 6] = ["a", "b", "sub", "sub/a", "sub/b", "a/x"];
const DIRECTORIES: [&str; 5] = ["", "", "sub", "a", "missing"];

/// Lengths and places, often at the edges of blocks.
fn size(dice: &mut Dice) -> u64 {
    match dice.below(4) {
        0 => dice.pick(&[0, 0, 1, 511, 512, 513, 4095, 4096, 4097, 8192]),
        1 => dice.below(16),
        _ => dice.below(9000),
    }
}

fn draw_step(dice: &mut Dice) -> Step {
    let slot = dice.below(FILES as u64) as usize;
    let (at, len, fill) = (size(dice), size(dice), dice.u64());
    let (path, to, dir) = (dice.pick(&PATHS), dice.pick(&PATHS), dice.pick(&DIRECTORIES));
    match dice.below(30) {
        0..=4 => {
            let modes = [OpenMode::CreateNew, OpenMode::CreateNew, OpenMode::Write, OpenMode::Read];
            Step::Open { slot, path, mode: dice.pick(&modes) }
        }
        5..=8 => Step::Write { slot, at, len, fill },
        9..=11 => Step::Read { slot, at, len },
        12 => Step::Len { slot },
        13 => Step::SetLen { slot, len },
        14 => Step::Allocate { slot, len },
        15 => dice.pick(&[Step::SyncData { slot }, Step::SyncAll { slot }]),
        16 => Step::Close { slot },
        17 | 18 => Step::Rename { from: path, to },
        19 => Step::Remove { path },
        20 => Step::List { dir },
        21 => Step::Kind { path },
        22 => Step::CreateDir { path: dice.pick(&["sub", "sub", "sub", path]) },
        23 => Step::SyncDir { dir },
        24 => Step::Lock { slot: slot % LOCKS, dir },
        25 => dice.pick(&[Step::Lock { slot: slot % LOCKS, dir }, Step::Unlock { slot: 0 }]),
        26 => Step::Map { slot, len },
        27 => Step::MapWrite { at, len, fill },
        28 => dice.pick(&[Step::MapWrite { at, len, fill }, Step::Populate { at, len }]),
        _ => dice.pick(&[
            Step::Release { at, len },
            Step::Unmap,
            Step::MapBeyondTheEnd { slot, by: at },
        ]),
    }
}

fn draw(seed: u64) -> Vec<Step> {
    let dice = &mut Dice::new(seed, "conformance", 0);
    (0..STEPS).map(|_| draw_step(dice)).collect()
}

/// What a step answered.
#[derive(Clone, PartialEq)]
enum Answer {
    Did(String),
    Read(Vec<u8>),
    Failed(io::ErrorKind),
    /// There is no file, lock or mapping to do it with, or nothing is promised.
    Left,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Did(what) => f.write_str(what),
            Answer::Read(bytes) => {
                let zeros = bytes.iter().filter(|b| **b == 0).count();
                let first = &bytes[..bytes.len().min(8)];
                write!(f, "{} bytes, {zeros} of them zero, beginning {first:?}", bytes.len())
            }
            Answer::Failed(kind) => write!(f, "{kind:?}"),
            Answer::Left => f.write_str("left out"),
        }
    }
}

fn did<T>(result: io::Result<T>, what: impl FnOnce(T) -> String) -> Answer {
    match result {
        Ok(value) => Answer::Did(what(value)),
        Err(error) => Answer::Failed(error.kind()),
    }
}

fn done(result: io::Result<()>) -> Answer {
    did(result, |()| "done".into())
}

fn bytes(fill: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    Dice::new(fill, "bytes", 0).fill(&mut bytes);
    bytes
}

struct Mapping {
    /// `None` where the system gives none: then `file` is written, as the engine does.
    map: Option<Box<dyn FileMap>>,
    file: Arc<dyn File>,
    len: u64,
}

impl Mapping {
    /// The part of a range that lies in the mapping.
    fn clip(&self, at: u64, len: u64) -> Range<u64> {
        let start = at.min(self.len);
        start..start + len.min(self.len - start)
    }

    fn write(&self, at: u64, len: u64, fill: u64) -> Answer {
        let range = self.clip(at, len);
        let bytes = bytes(fill, range.end - range.start);
        match &self.map {
            #[expect(unsafe_code, reason = "as the log does")]
            // SAFETY: the range lies in the mapping, and only this thread writes.
            Some(map) => unsafe { map.write(&bytes, range.start) },
            None => self.file.write_all_at(&bytes, range.start).unwrap(),
        }
        Answer::Did(format!("wrote {range:?}"))
    }

    fn advise(&self, at: u64, len: u64, populate: bool) -> Answer {
        let range = self.clip(at, len);
        match (&self.map, populate) {
            (None, _) => {}
            (Some(map), true) => map.populate(range.start, range.end - range.start),
            (Some(map), false) => map.release(range.start, range.end - range.start),
        }
        Answer::Did(format!("advised {range:?}"))
    }
}

/// A program that holds files open.
struct Program<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    files: [Option<(Arc<dyn File>, OpenMode)>; FILES],
    locks: [Option<Box<dyn DirLock>>; LOCKS],
    mapping: Option<Mapping>,
}

/// All answers of a sequence, and at last what every name holds.
fn answers(disk: &dyn Disk, root: &Path, steps: &[Step]) -> Vec<Answer> {
    let (files, locks) = (Default::default(), Default::default());
    let mut program = Program { disk, root, files, locks, mapping: None };
    let mut answers: Vec<_> = steps.iter().map(|step| program.step(step)).collect();
    answers.extend(DIRECTORIES.iter().map(|dir| program.list(dir)));
    answers.extend(PATHS.iter().map(|path| program.contents(path)));
    answers
}

impl Program<'_> {
    fn path(&self, name: &str) -> PathBuf {
        // Joining "" would add a slash.
        if name.is_empty() { self.root.into() } else { self.root.join(name) }
    }

    fn is(&self, name: &str, kind: PathKind) -> bool {
        self.disk.kind(&self.path(name)).is_ok_and(|found| found == kind)
    }

    fn step(&mut self, step: &Step) -> Answer {
        match *step {
            Step::Open { slot, path, mode } => self.open(slot, path, mode),
            Step::Close { slot } => {
                self.files[slot] = None;
                Answer::Left
            }
            Step::MapWrite { at, len, fill } => {
                self.mapping.as_ref().map_or(Answer::Left, |mapping| mapping.write(at, len, fill))
            }
            Step::Populate { at, len } => {
                self.mapping.as_ref().map_or(Answer::Left, |mapping| mapping.advise(at, len, true))
            }
            Step::Release { at, len } => {
                self.mapping.as_ref().map_or(Answer::Left, |mapping| mapping.advise(at, len, false))
            }
            Step::Unmap => {
                self.mapping = None;
                Answer::Left
            }
            Step::Unlock { slot } => {
                self.locks[slot] = None;
                Answer::Left
            }
            Step::Write { slot, .. }
            | Step::Read { slot, .. }
            | Step::Len { slot }
            | Step::SetLen { slot, .. }
            | Step::Allocate { slot, .. }
            | Step::SyncData { slot }
            | Step::SyncAll { slot }
            | Step::Map { slot, .. }
            | Step::MapBeyondTheEnd { slot, .. } => match self.files[slot].clone() {
                Some((file, mode)) => self.on_file(step, &file, mode),
                None => Answer::Left,
            },
            _ => self.on_names(step),
        }
    }

    fn open(&mut self, slot: usize, path: &str, mode: OpenMode) -> Answer {
        if mode == OpenMode::Read && self.is(path, PathKind::Directory) {
            return Answer::Left; // Linux opens it, but nothing can be read
        }
        did(self.disk.open(&self.path(path), mode), |file| {
            self.files[slot] = Some((file, mode));
            "opened".into()
        })
    }

    fn on_file(&mut self, step: &Step, file: &Arc<dyn File>, mode: OpenMode) -> Answer {
        match *step {
            Step::Write { at, len, fill, .. } => {
                did(file.write_at(&bytes(fill, len), at), |n| format!("wrote {n}"))
            }
            Step::Read { at, len, .. } => read(&**file, at, len),
            Step::Len { .. } => did(file.len(), |len| format!("{len} bytes")),
            // Cutting a file under its mapping is a signal for whoever touches it.
            Step::SetLen { .. } if self.mapping.is_some() => Answer::Left,
            Step::SetLen { len, .. } => done(file.set_len(len)),
            Step::Allocate { len, .. } => done(file.allocate(0, len)),
            Step::SyncData { .. } => done(file.sync_data()),
            Step::SyncAll { .. } => done(file.sync_all()),
            Step::Map { len, .. } => {
                if mode != OpenMode::Read && len > 0 {
                    prepare(&**file, len);
                }
                self.map(file, mode, len)
            }
            Step::MapBeyondTheEnd { by, .. } => self.map(file, mode, file.len().unwrap() + 1 + by),
            _ => unreachable!("not on a file: {step:?}"),
        }
    }

    fn map(&mut self, file: &Arc<dyn File>, mode: OpenMode, len: u64) -> Answer {
        let long_enough = file.len().unwrap() >= len;
        did(file.map(len), |map| {
            let mapped = map.is_some();
            self.mapping = (long_enough && mode != OpenMode::Read).then(|| Mapping {
                map,
                file: file.clone(),
                len,
            });
            format!("mapped: {mapped}")
        })
    }

    fn on_names(&mut self, step: &Step) -> Answer {
        match *step {
            Step::Rename { from, .. } if self.is(from, PathKind::Directory) => Answer::Left,
            Step::Rename { from, to } => done(self.disk.rename(&self.path(from), &self.path(to))),
            Step::Remove { path } => done(self.disk.remove(&self.path(path))),
            Step::List { dir } => self.list(dir),
            Step::Kind { path } => {
                did(self.disk.kind(&self.path(path)), |kind| format!("{kind:?}"))
            }
            Step::CreateDir { path } => done(self.disk.create_dir(&self.path(path))),
            Step::SyncDir { dir } | Step::Lock { dir, .. } if self.is(dir, PathKind::File) => {
                Answer::Left
            }
            Step::SyncDir { dir } => done(self.disk.sync_dir(&self.path(dir))),
            Step::Lock { slot, dir } => did(self.disk.lock_dir(&self.path(dir)), |lock| {
                let locked = lock.is_some();
                if locked {
                    self.locks[slot] = lock;
                }
                format!("locked: {locked}")
            }),
            _ => unreachable!("not on names: {step:?}"),
        }
    }

    fn list(&self, dir: &str) -> Answer {
        did(self.disk.list(&self.path(dir)), |mut names| {
            names.sort();
            names.join(" ")
        })
    }

    fn contents(&self, path: &str) -> Answer {
        match self.disk.kind(&self.path(path)) {
            Ok(PathKind::File) => {
                let file = self.disk.open(&self.path(path), OpenMode::Read).unwrap();
                read(&*file, 0, file.len().unwrap())
            }
            kind => did(kind, |kind| format!("{kind:?}")),
        }
    }
}

/// What mapping asks for: allocated and written, with what was there.
fn prepare(file: &dyn File, len: u64) {
    file.allocate(0, len).unwrap();
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
}

fn read(file: &dyn File, at: u64, len: u64) -> Answer {
    let mut bytes = vec![0; len as usize];
    match file.read_at(&mut bytes, at) {
        Ok(n) => {
            bytes.truncate(n);
            Answer::Read(bytes)
        }
        Err(error) => Answer::Failed(error.kind()),
    }
}

/// The operating system's disk, at a directory.
struct Real {
    scratch: tempfile::TempDir,
    /// Whether its file system gives mappings; the simulated one then does the same.
    maps: bool,
}

impl Real {
    fn in_memory() -> Real {
        Real::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn on_disk() -> Real {
        Real::at(tempfile::tempdir().unwrap())
    }

    fn at(scratch: tempfile::TempDir) -> Real {
        let env = OsEnv::new();
        let probe = scratch.path().join("probe");
        let file = env.disk().open(&probe, OpenMode::CreateNew).unwrap();
        prepare(&*file, 4096);
        let maps = file.map(4096).unwrap().is_some();
        env.disk().remove(&probe).unwrap();
        Real { scratch, maps }
    }

    fn answers(&self, steps: &[Step]) -> Vec<Answer> {
        let root = tempfile::tempdir_in(self.scratch.path()).unwrap();
        answers(OsEnv::new().disk(), root.path(), steps)
    }
}

/// The simulated disk's answers to sequences, all on one machine on which nothing fails.
fn simulated(sequences: Vec<Vec<Step>>, maps: bool) -> Vec<Vec<Answer>> {
    let mut plan = Plan::draw(1);
    plan.faults = lightning_faults::FaultPlan::none();
    plan.faults.map_refused = !maps;
    let heard = Arc::new(Mutex::new(vec![]));
    let said = heard.clone();
    let outcome = run(plan, move |boot| {
        if !boot.last {
            return;
        }
        let disk = boot.env.disk();
        let all = sequences.iter().enumerate().map(|(n, steps)| {
            let root = PathBuf::from(format!("/{n}"));
            disk.create_dir(&root).unwrap();
            answers(disk, &root, steps)
        });
        *said.lock().unwrap() = all.collect();
    });
    assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    let mut heard = heard.lock().unwrap();
    std::mem::take(&mut *heard)
}

/// Leaves steps out as long as `differs` holds: halves first, single ones at last.
fn minimised(mut steps: Vec<Step>, differs: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        let before = steps.len();
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + piece).min(steps.len()));
            match differs(&fewer) {
                true => steps = fewer,
                false => at += piece,
            }
        }
        if piece > 1 || steps.len() == before {
            piece /= 2;
        }
    }
    steps
}

/// The answers side by side, those that differ marked.
fn told(steps: &[Step], real: &[Answer], simulated: &[Answer]) -> String {
    let names = DIRECTORIES.iter().map(|dir| format!("at last, list {dir:?}"));
    let names = names.chain(PATHS.iter().map(|path| format!("at last, {path:?}")));
    let steps = steps.iter().map(|step| format!("{step:?}")).chain(names);
    let lines = steps.zip(real.iter().zip(simulated)).map(|(step, (real, simulated))| {
        match real == simulated {
            true => format!("    {step} -> {real:?}\n"),
            false => format!("!!  {step} -> real: {real:?}; simulated: {simulated:?}\n"),
        }
    });
    lines.collect()
}

fn compare(real: &Real, seeds: Range<u64>) {
    let sequences: Vec<_> = seeds.clone().map(draw).collect();
    let simulations = simulated(sequences.clone(), real.maps);
    assert_eq!(simulations.len(), sequences.len());
    for ((seed, steps), simulation) in seeds.zip(sequences).zip(simulations) {
        if real.answers(&steps) == simulation {
            continue;
        }
        let alone = |steps: &[Step]| simulated(vec![steps.to_vec()], real.maps).remove(0);
        let steps = minimised(steps, |steps| real.answers(steps) != alone(steps));
        let told = told(&steps, &real.answers(&steps), &alone(&steps));
        panic!("seed {seed}: the simulated disk is not as the real one\n{told}");
    }
}

/// Several threads, each with machines and directories of its own.
fn compare_all(what: &str, seeds: Range<u64>, real: impl Fn() -> Real + Sync) {
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (seeds, real) = (seeds.clone(), &real);
            scope.spawn(move || {
                let real = real();
                let begins = (seeds.start..seeds.end).step_by(BATCH as usize);
                for begin in begins.skip(thread as usize).step_by(threads as usize) {
                    compare(&real, begin..(begin + BATCH).min(seeds.end));
                }
            });
        }
    });
    let n = seeds.end - seeds.start;
    println!("{n} sequences of {STEPS} operations {what}: the same answers, {:?}", start.elapsed());
}

#[test]
fn the_simulated_disk_answers_as_one_in_memory_does() {
    compare_all("in memory", 0..IN_MEMORY, Real::in_memory);
}

#[test]
fn the_simulated_disk_answers_as_one_with_mappings_does() {
    let what = if Real::on_disk().maps { "on disk, mapped" } else { "on disk, not mapped" };
    compare_all(what, IN_MEMORY..IN_MEMORY + ON_DISK, Real::on_disk);
}

/// Every operation is done in earnest: it succeeds in some sequence, and where it can fail it fails.
#[test]
fn the_sequences_reach_what_they_are_for() {
    let real = Real::in_memory();
    let mut seen = std::collections::BTreeSet::new();
    for steps in (0..300).map(draw) {
        for (step, answer) in steps.iter().zip(real.answers(&steps)) {
            let name = format!("{step:?}");
            let name = name.split(' ').next().unwrap().to_string();
            let how = match answer {
                Answer::Failed(kind) => format!("{kind:?}"),
                Answer::Left => "left out".into(),
                Answer::Did(_) | Answer::Read(_) => "done".into(),
            };
            seen.insert(format!("{name}: {how}"));
        }
    }
    for expected in [
        "Open: done",
        "Open: NotFound",
        "Open: AlreadyExists",
        "Open: NotADirectory",
        "Open: IsADirectory",
        "Write: done",
        "Read: done",
        "SetLen: done",
        "SetLen: InvalidInput",
        "Allocate: done",
        "Allocate: InvalidInput",
        "SyncData: done",
        "SyncAll: done",
        "Map: done",
        "MapWrite: done",
        "Populate: done",
        "Release: done",
        "MapBeyondTheEnd: done",
        "Rename: done",
        "Rename: NotFound",
        "Rename: IsADirectory",
        "Rename: NotADirectory",
        "Remove: done",
        "Remove: IsADirectory",
        "List: done",
        "List: NotADirectory",
        "Kind: done",
        "Kind: NotADirectory",
        "CreateDir: done",
        "CreateDir: AlreadyExists",
        "SyncDir: done",
        "Lock: done",
        "Lock: NotFound",
    ] {
        assert!(seen.contains(expected), "{expected} never happens; seen: {seen:#?}");
    }
}

#[test]
fn a_difference_is_found_and_made_small() {
    let real = Real::in_memory();
    // Cuts a file that was written to, and answers as if that had failed.
    let planted = |steps: &[Step]| {
        let mut answers = real.answers(steps);
        let written = steps.iter().position(|step| matches!(step, Step::Write { .. }));
        for (n, step) in steps.iter().enumerate().skip(written.unwrap_or(steps.len())) {
            if matches!(step, Step::SetLen { .. }) {
                answers[n] = Answer::Failed(io::ErrorKind::Other);
            }
        }
        answers
    };
    let differs = |steps: &[Step]| real.answers(steps) != planted(steps);
    let seed = (0..100).find(|seed| differs(&draw(*seed))).unwrap();
    let small = minimised(draw(seed), differs);
    assert!(matches!(small[..], [Step::Write { .. }, Step::SetLen { .. }]), "{small:?}");
    let told = told(&small, &real.answers(&small), &planted(&small));
    assert_eq!(told.lines().filter(|line| line.starts_with("!!")).count(), 1, "{told}");
}
