//! For the failure that a checksum is for: bytes on disk are not what was written, and the
//! database returns them, panics, hangs, or silently goes back to older data.
//!
//! A small database with every kind of file is damaged in one place at a time, opened, and read
//! whole. What is allowed:
//! - an error that says so: corruption, or a format that is not supported;
//! - exactly the right data;
//! - if a segment of the log of a killed database was damaged: the state before some commit, but
//!   never one that an undamaged record of the log says was durable. Nothing vouches for what
//!   came after the last such mark, so its loss cannot be told from a torn end. The same holds
//!   for a last segment put back whole to what it was at an earlier moment: its records went, and
//!   with them everything that vouched for them.
//!
//! After a clean close nothing is allowed but an error or the right data: log and manifest say
//! that it was closed.

use crate::{
    files::{Scratch, contents_of_files},
    random::Random,
};
use lightning_db::{
    Compression, Database, Durability, Error, KeyspaceOptions, LightningDbConfig, WriteBatch,
};
use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

type Files = BTreeMap<String, Vec<u8>>;
type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// Everything that the database holds, by keyspace.
type State = BTreeMap<String, Map>;

const HEAVY: bool = cfg!(feature = "integration_tests");
/// Every so-manieth byte is damaged.
const STRIDE: usize = if HEAVY { 3 } else { 150 };
const BLOCK: usize = 4096;
const WORKERS: usize = 2;
/// Opening and reading takes milliseconds; whatever takes so long hangs.
const HANG: Duration = Duration::from_secs(60);

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 8 << 10,
        wal_segment_size: 16 << 10,
        cache_size: 64 << 10,
        max_memory: 1 << 20,
        // Synced when the test says so, and before a flush.
        wal_sync_interval: Duration::from_secs(3600),
        ..Default::default()
    }
}

const KEYSPACES: [(&str, Option<Compression>); 4] = [
    ("default", None),
    ("stored", Some(Compression::None)),
    ("lz4", Some(Compression::Lz4)),
    ("snappy", Some(Compression::Snappy)),
];
const COUNT: &[u8] = b"count";

/// A database at one moment, and what it went through.
struct Moment {
    name: &'static str,
    clean: bool,
    files: Files,
    /// The same files at earlier moments, after so many commits.
    earlier: Vec<(Files, usize)>,
    /// Those of another database that did the same.
    foreign: Files,
    /// The state after each commit; at 0 the empty database.
    history: Vec<State>,
    records: Vec<Record>,
}

/// A record of the log, as it stands in a file.
struct Record {
    file: String,
    bytes: Range<usize>,
    lsn: u64,
    /// Everything below was durable when it was written.
    durable: u64,
    last_seq: u64,
    is_commit: bool,
}

struct Writer {
    db: Arc<Database>,
    history: Vec<State>,
    /// The last SeqNo of each commit.
    seqs: Vec<u64>,
    random: Random,
}

impl Writer {
    fn new(path: &Path) -> Writer {
        let db = Database::create(path, config()).unwrap();
        let mut empty = State::new();
        for (name, compression) in KEYSPACES {
            db.keyspace_with(name, KeyspaceOptions { compression, ..Default::default() }).unwrap();
            empty.insert(name.into(), Map::new());
        }
        Writer { db, history: vec![empty], seqs: vec![0], random: Random::new(7) }
    }

    fn commits(&self) -> usize {
        self.history.len() - 1
    }

    /// Counts, and puts, deletes or deletes a range in one of the keyspaces.
    fn commit(&mut self) {
        let number = self.history.len();
        let mut state = self.history.last().unwrap().clone();
        let mut batch = WriteBatch::new();
        let count = (number as u64).to_be_bytes();
        batch.put(COUNT, count);
        state.get_mut("default").unwrap().insert(COUNT.into(), count.into());
        let (name, _) = KEYSPACES[number % KEYSPACES.len()];
        let (keyspace, map) = (self.db.keyspace(name).unwrap(), state.get_mut(name).unwrap());
        let key = |n: u64| format!("key {n:03}").into_bytes();
        let at = self.random.below(60);
        match number % 11 {
            9 => {
                batch.delete_in(&keyspace, key(at));
                map.remove(&key(at));
            }
            10 => {
                batch.delete_range_in(&keyspace, key(at)..key(at + 5));
                map.retain(|k, _| *k < key(at) || *k >= key(at + 5));
            }
            _ => {
                // Half of it compresses.
                let len = 20 + self.random.below(60) as usize;
                let value = [self.random.bytes(len), vec![b'x'; len]].concat();
                batch.put_in(&keyspace, key(at), &value);
                map.insert(key(at), value);
            }
        }
        self.seqs.push(self.db.commit(batch, Durability::Default).unwrap().0);
        self.history.push(state);
    }

    /// Waits until nothing happens any more in the background.
    fn settle(&self, path: &Path) -> Files {
        let mut before = (None, Files::new());
        loop {
            let now = (self.db.stats().unwrap(), contents_of_files(path));
            let flushed = now.0.sealed_memtables == 0;
            let now = (Some(now.0), now.1);
            if flushed && before == now {
                return now.1;
            }
            before = now;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The same program as often as it is run; only ids and salts differ.
fn build(scratch: &Scratch, name: &str) -> (Writer, Vec<(Files, usize)>, Files, Files) {
    let path = scratch.path().join(name);
    let mut writer = Writer::new(&path);
    (0..170).for_each(|_| writer.commit());
    let mut earlier = vec![(writer.settle(&path), writer.commits())];
    (0..120).for_each(|_| writer.commit());
    writer.settle(&path);
    // Groups that were synced, one after the other, then some commits that were not.
    for _ in 0..3 {
        writer.commit();
        writer.commit();
        writer.db.checkpoint().unwrap();
        earlier.push((writer.settle(&path), writer.commits()));
    }
    (0..6).for_each(|_| writer.commit());
    let killed = writer.settle(&path);
    writer.db.close().unwrap();
    let closed = contents_of_files(&path);
    (writer, earlier, killed, closed)
}

fn moments() -> [Moment; 2] {
    let scratch = Scratch::in_memory();
    let (writer, earlier, killed, closed) = build(&scratch, "db");
    let (_, _, foreign_killed, foreign_closed) = build(&scratch, "other");
    let kinds = |files: &Files| {
        let count = |kind| files.keys().filter(|name| kind_of(name) == kind).count();
        (count("manifest"), count("segment"), count("sstable"))
    };
    println!(
        "{} commits; manifests, segments, sstables: {:?} killed, {:?} closed",
        writer.commits(),
        kinds(&killed),
        kinds(&closed)
    );
    let (manifests, segments, sstables) = kinds(&killed);
    assert!(
        manifests == 1 && segments >= 3 && sstables >= 4,
        "a database too simple to be damaged"
    );
    [("killed", killed, foreign_killed), ("closed", closed, foreign_closed)].map(
        |(name, files, foreign)| Moment {
            name,
            clean: name == "closed",
            records: records(&files, &writer.seqs),
            files,
            earlier: earlier.clone(),
            foreign,
            history: writer.history.clone(),
        },
    )
}

fn kind_of(name: &str) -> &'static str {
    match name {
        "manifest-spare" => "spare",
        _ if name.starts_with("manifest-") => "manifest",
        _ if name.starts_with("wal-") => "segment",
        _ if name.ends_with(".sst") => "sstable",
        other => panic!("what is {other:?}?"),
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The records of all segments: see `docs/formats/wal.md`.
fn records(files: &Files, seqs: &[u64]) -> Vec<Record> {
    let mut records = vec![];
    for (file, bytes) in files.iter().filter(|(name, _)| kind_of(name) == "segment") {
        let first = word(bytes, 96);
        for at in (BLOCK..bytes.len() - 71).step_by(8) {
            let lsn = word(bytes, at + 8);
            if bytes[at..at + 4] != *b"LDBr" || lsn != first + (at - BLOCK) as u64 {
                continue;
            }
            let u32_at = |at: usize| (word(bytes, at) & 0xffff_ffff) as usize;
            let (payload, operations) = (u32_at(at + 56), u32_at(at + 64));
            records.push(Record {
                file: file.clone(),
                bytes: at..at + 72 + payload,
                lsn,
                durable: word(bytes, at + 16),
                last_seq: word(bytes, at + 32) + operations as u64 - 1,
                is_commit: bytes[at + 70] == 1,
            });
        }
    }
    let last = records.iter().filter(|r| r.is_commit).map(|r| r.last_seq).max();
    assert_eq!(last, seqs.last().copied(), "the log's format changed: mend this reader");
    records
}

impl Moment {
    fn last(&self) -> usize {
        self.history.len() - 1
    }

    /// The least number of commits that may be there after the damage.
    fn least(&self, mutation: &Mutation, changed: &[(String, Option<Vec<u8>>)]) -> usize {
        // ENGINE: fails where a segment of a closed database comes back from an earlier moment,
        // because recovery does not look at the manifest's clean mark; and, in runs where the
        // last segment is nearly full at the close, because then no mark is written at all.
        if self.clean || kind_of(&mutation.file) != "segment" {
            return self.last();
        }
        let whole = |record: &&Record| {
            let now = changed.iter().find(|(name, _)| *name == record.file);
            now.is_none_or(|(_, bytes)| {
                let bytes = bytes.as_ref().and_then(|b| b.get(record.bytes.clone()));
                bytes == Some(&self.files[&record.file][record.bytes.clone()])
            })
        };
        let vouched = self.records.iter().filter(whole).map(|r| r.durable).max().unwrap_or(0);
        let lost = self.records.iter().filter(|r| r.is_commit && r.lsn >= vouched).count();
        let least = self.last() - lost;
        match mutation.damage {
            Damage::Earlier(i) => least.min(self.earlier[i].1),
            _ => least,
        }
    }
}

#[derive(Clone, Debug)]
enum Damage {
    Flip { at: usize, bit: u8 },
    Set { at: usize, to: u8 },
    Zero(Range<usize>),
    Cut(usize),
    Extend { by: usize, with: u8 },
    SwapWith(String),
    SwapBlocks { a: usize, b: usize, len: usize },
    CopyBlock { from: usize, to: usize, len: usize },
    Remove,
    Foreign,
    Earlier(usize),
}

#[derive(Clone, Debug)]
struct Mutation {
    file: String,
    damage: Damage,
}

impl Mutation {
    /// Files that become others, or go.
    fn apply(&self, moment: &Moment) -> Vec<(String, Option<Vec<u8>>)> {
        let old = &moment.files[&self.file];
        let mut new = old.clone();
        match &self.damage {
            Damage::Flip { at, bit } => new[*at] ^= 1 << bit,
            Damage::Set { at, to } => new[*at] = *to,
            Damage::Zero(range) => new[range.clone()].fill(0),
            Damage::Cut(len) => new.truncate(*len),
            Damage::Extend { by, with } => new.resize(old.len() + by, *with),
            Damage::SwapBlocks { a, b, len } => {
                new[*a..a + len].copy_from_slice(&old[*b..b + len]);
                new[*b..b + len].copy_from_slice(&old[*a..a + len]);
            }
            Damage::CopyBlock { from, to, len } => new.copy_within(*from..from + len, *to),
            Damage::Remove => return vec![(self.file.clone(), None)],
            Damage::Foreign => new.clone_from(&moment.foreign[&self.file]),
            Damage::Earlier(i) => new.clone_from(&moment.earlier[*i].0[&self.file]),
            Damage::SwapWith(other) => {
                let theirs = moment.files[other].clone();
                return vec![(self.file.clone(), Some(theirs)), (other.clone(), Some(new))];
            }
        }
        vec![(self.file.clone(), Some(new))]
    }

    fn kind(&self) -> String {
        let damage = format!("{:?}", self.damage);
        let end = damage.find(|c: char| !c.is_alphanumeric()).unwrap_or(damage.len());
        format!("{} {}", kind_of(&self.file), &damage[..end])
    }
}

/// All damage to a moment's files.
fn mutations(moment: &Moment) -> Vec<Mutation> {
    let mut all = vec![];
    let mut random = Random::new(11);
    for (file, bytes) in &moment.files {
        let mut add = |damage| all.push(Mutation { file: file.clone(), damage });
        let spare = kind_of(file) == "spare"; // nothing reads it
        let dense = |n: usize| if HEAVY && !spare { 1 } else { n };
        let zeros = |range: Range<usize>| bytes[range].iter().all(|b| *b == 0);

        // Every byte that says something, and some of the padding.
        let stride = if spare { 500 } else { STRIDE };
        let mut at = 0;
        while at < bytes.len() {
            let silent = zeros(at.saturating_sub(32)..(at + 32).min(bytes.len()));
            match random.below(8) {
                0 if bytes[at] != 0 => add(Damage::Set { at, to: 0 }),
                1 if bytes[at] != 0xff => add(Damage::Set { at, to: 0xff }),
                _ => add(Damage::Flip { at, bit: random.below(8) as u8 }),
            }
            at += match silent {
                true => 509 * dense(9),
                false => stride,
            };
        }
        for len in [512, BLOCK] {
            let starts = (0..bytes.len()).step_by(len);
            let blocks: Vec<_> = starts.filter(|at| at + len <= bytes.len()).collect();
            let used: Vec<_> = blocks.iter().copied().filter(|at| !zeros(*at..at + len)).collect();
            // A tail that fills no block counts too.
            let ends = used.iter().map(|at| at + len);
            let tail = bytes.len() / len * len..bytes.len();
            let mut ranges: Vec<_> = used.iter().copied().zip(ends).map(|(a, b)| a..b).collect();
            ranges.extend((!tail.is_empty()).then_some(tail));
            ranges.into_iter().step_by(dense(3)).for_each(|range| add(Damage::Zero(range)));

            // Blocks in each other's place, with one that holds nothing among them.
            let empty = blocks.iter().copied().find(|at| zeros(*at..at + len));
            let places: Vec<_> = used.iter().copied().chain(empty).collect();
            let reach = if len == BLOCK { places.len() } else { 2 };
            let mut pairs = vec![];
            for (i, a) in places.iter().enumerate() {
                let near = places.iter().skip(i + 1).take(reach);
                pairs.extend(near.map(|b| (*a, *b)));
            }
            for (a, b) in pairs.into_iter().step_by(dense(9)) {
                add(Damage::SwapBlocks { a, b, len });
                add(Damage::CopyBlock { from: a, to: b, len });
                add(Damage::CopyBlock { from: b, to: a, len });
            }
        }
        let mut cuts = vec![0, 1, 8, 87, 88, 148, bytes.len() / 2, bytes.len() - 1];
        cuts.extend((0..bytes.len()).step_by(512 * dense(9)).flat_map(|at| [at, at + 1]));
        cuts.retain(|len| *len < bytes.len());
        cuts.into_iter().for_each(|len| add(Damage::Cut(len)));
        for by in [1, 8, BLOCK] {
            [0, 0xff].into_iter().for_each(|with| add(Damage::Extend { by, with }));
        }
        let others = moment.files.keys().filter(|other| *other > file);
        let is_manifest = |name: &str| kind_of(name) == "manifest" || kind_of(name) == "spare";
        for other in others {
            let alike = kind_of(other) == kind_of(file) || is_manifest(file) && is_manifest(other);
            if alike {
                add(Damage::SwapWith(other.clone()));
            }
        }
        add(Damage::Remove);
        if moment.foreign.contains_key(file) {
            add(Damage::Foreign);
        }
        for (i, (earlier, _)) in moment.earlier.iter().enumerate() {
            if earlier.get(file).is_some_and(|earlier| earlier != bytes) {
                add(Damage::Earlier(i));
            }
        }
    }
    all
}

#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Detected,
    Harmless,
    /// A state before the last, where that is allowed.
    Older,
}

fn is_detection(error: &Error) -> bool {
    error.is_corruption() || matches!(error, Error::Unsupported { .. })
}

/// Opens the database and reads everything in every way. `Err`: what it said, if that is allowed.
fn read(dir: &Path, expected: &State) -> Result<Result<State, Error>, String> {
    let refused = |error: Error| match is_detection(&error) {
        true => Ok(Err(error)),
        // ENGINE: fails where an sstable is missing, which is reported as an I/O error.
        false => Err(format!("neither corruption nor unsupported: {error} ({error:?})")),
    };
    let db = match Database::open(dir, config()) {
        Ok(db) => db,
        Err(error) => return refused(error),
    };
    let names = db.keyspaces().map_err(|e| e.to_string())?;
    let mut state = State::new();
    let mut failure = None;
    for name in names {
        let keyspace = db.keyspace(&name).map_err(|e| e.to_string())?;
        let snapshot = keyspace.snapshot().map_err(|e| e.to_string())?;
        let forward: Result<Map, Error> = snapshot.iter().and_then(Iterator::collect);
        let backward: Result<Map, Error> =
            snapshot.iter().and_then(|scan| scan.rev().collect::<Result<Map, Error>>());
        let keys: Vec<_> = expected.get(&name).into_iter().flatten().collect();
        match (forward, backward) {
            (Ok(forward), Ok(backward)) => {
                if forward != backward {
                    return Err(format!("{name}: another scan backwards than forwards"));
                }
                for (key, value) in &forward {
                    if snapshot.get(key).ok().flatten().as_ref() != Some(value) {
                        return Err(format!("{name}: get and scan disagree on {key:?}"));
                    }
                }
                state.insert(name, forward);
            }
            // What cannot be read whole is read piece by piece: right, or an error.
            (Err(error), _) | (_, Err(error)) => {
                for entry in snapshot.iter().map_err(|e| e.to_string())?.map_while(Result::ok) {
                    if expected.get(&name).and_then(|map| map.get(&entry.0)) != Some(&entry.1) {
                        return Err(format!("{name}: wrong entry for {:?}", entry.0));
                    }
                }
                for (key, value) in keys {
                    match snapshot.get(key) {
                        Ok(found) if found.as_ref() == Some(value) => {}
                        Ok(found) => return Err(format!("{name}: {key:?} is {found:?}")),
                        Err(error) if is_detection(&error) => {}
                        Err(error) => return Err(format!("{name}: {error}")),
                    }
                }
                failure = Some(error);
            }
        }
    }
    drop(db);
    match failure {
        Some(error) => refused(error),
        None => Ok(Ok(state)),
    }
}

fn lay_out(dir: &Path, files: &Files, changed: &[(String, Option<Vec<u8>>)]) {
    let _absent = fs::remove_dir_all(dir);
    fs::create_dir(dir).unwrap();
    for (name, bytes) in files.iter().filter(|(n, _)| !changed.iter().any(|(c, _)| c == *n)) {
        fs::write(dir.join(name), bytes).unwrap();
    }
    for (name, bytes) in changed {
        if let Some(bytes) = bytes {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}

fn commits_of(state: &State) -> usize {
    let count = state.get("default").and_then(|map| map.get(COUNT));
    count.map_or(0, |c| u64::from_be_bytes(c.as_slice().try_into().unwrap()) as usize)
}

/// Damages, opens, reads, judges.
fn try_one(
    dir: &Path,
    moment: &Moment,
    mutation: &Mutation,
    twice: bool,
) -> Result<Verdict, String> {
    let changed = mutation.apply(moment);
    lay_out(dir, &moment.files, &changed);
    let last = &moment.history[moment.last()];
    let state = match read(dir, last)? {
        Err(_) if twice => {
            // A refusal has broken nothing: with the damage mended, all is there.
            for (name, _) in &changed {
                fs::write(dir.join(name), &moment.files[name]).unwrap();
            }
            return match read(dir, last)? {
                Ok(state) if state == *last => Ok(Verdict::Detected),
                Ok(state) => Err(format!("refused, then mended: {} commits", commits_of(&state))),
                Err(error) => Err(format!("refused, then mended, but still: {error}")),
            };
        }
        Err(_) => return Ok(Verdict::Detected),
        Ok(state) => state,
    };
    let commits = commits_of(&state);
    if moment.history.get(commits) != Some(&state) {
        return Err(format!("a state that never was, with count {commits}"));
    }
    let least = moment.least(mutation, &changed);
    if commits < least {
        return Err(format!("back to {commits} commits, {least} of {} stand", moment.last()));
    }
    if twice {
        match read(dir, &state)? {
            Ok(again) if again == state => {}
            other => return Err(format!("opened again: {:?}", other.map(|s| commits_of(&s)))),
        }
    }
    Ok(match commits == moment.last() {
        true => Verdict::Harmless,
        false => Verdict::Older,
    })
}

#[derive(Default)]
struct Tally {
    tried: usize,
    detected: usize,
    harmless: usize,
    older: BTreeMap<String, usize>,
    wrong: BTreeMap<String, Vec<String>>,
}

fn sweep(moment: Moment) {
    // Undamaged, it is what was written.
    let scratch = Scratch::in_memory();
    lay_out(&scratch.db(), &moment.files, &[]);
    let last = &moment.history[moment.last()];
    assert!(read(&scratch.db(), last).unwrap().unwrap() == *last);

    let name = moment.name;
    let mutations = mutations(&moment);
    let work = Arc::new((moment, mutations, AtomicUsize::new(0)));
    let doing: Arc<Vec<_>> = Arc::new((0..WORKERS).map(|_| Mutex::new(String::new())).collect());
    let (results, judged) = mpsc::channel();
    for worker in 0..WORKERS {
        let (work, doing, results) = (Arc::clone(&work), Arc::clone(&doing), results.clone());
        std::thread::spawn(move || {
            let scratch = Scratch::in_memory();
            loop {
                let (moment, mutations, next) = &*work;
                let number = next.fetch_add(1, SeqCst);
                let Some(mutation) = mutations.get(number) else {
                    return;
                };
                *doing[worker].lock().unwrap() = format!("{mutation:?}");
                let twice = number % 8 == 0;
                let judge = || try_one(&scratch.db(), moment, mutation, twice);
                let verdict =
                    catch_unwind(AssertUnwindSafe(judge)).unwrap_or_else(|_| Err("a panic".into()));
                if results.send((mutation.clone(), verdict)).is_err() {
                    return;
                }
            }
        });
    }
    drop(results);
    let mut tally = Tally::default();
    loop {
        match judged.recv_timeout(HANG) {
            Ok((mutation, verdict)) => tally.count(mutation, verdict),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("{name}: a hang in one of {doing:?}");
            }
        }
    }
    tally.report(name);
}

impl Tally {
    fn count(&mut self, mutation: Mutation, verdict: Result<Verdict, String>) {
        self.tried += 1;
        match verdict {
            Ok(Verdict::Detected) => self.detected += 1,
            Ok(Verdict::Harmless) => self.harmless += 1,
            Ok(Verdict::Older) => *self.older.entry(mutation.kind()).or_default() += 1,
            Err(why) => {
                let text = format!("{mutation:?}: {why}");
                self.wrong.entry(mutation.kind()).or_default().push(text);
            }
        }
    }

    fn report(&self, name: &str) {
        let older: usize = self.older.values().sum();
        let wrong: usize = self.wrong.values().map(Vec::len).sum();
        println!(
            "{name}: {} mutations, {} detected, {} harmless, {older} back to an earlier state \
             where that is allowed {:?}, {wrong} wrong",
            self.tried, self.detected, self.harmless, self.older
        );
        let mut text = String::new();
        for (kind, all) in &self.wrong {
            text += &format!("{kind}: {}\n", all.len());
            all.iter().take(5).for_each(|one| text += &format!("    {one}\n"));
        }
        assert!(self.wrong.is_empty(), "{name}: {wrong} wrong\n{text}");
    }
}

#[test]
fn no_damage_to_a_killed_database_passes_for_data() {
    let [killed, _] = moments();
    sweep(killed);
}

#[test]
fn no_damage_to_a_closed_database_passes_for_data() {
    let [_, closed] = moments();
    sweep(closed);
}
