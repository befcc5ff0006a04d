//! For the failure that users meet first: the process is killed at any moment, and afterwards
//! something acknowledged is missing, something else is there, or the database does not open.

use crate::{
    child::{Child, say},
    files::Scratch,
    random::Random,
};
use lightning_db::{Database, Keyspace, LightningDbConfig, Snapshot, WalSyncMode, WriteBatch};
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

const WRITERS: usize = 2;
const ROUNDS: u64 = if cfg!(feature = "integration_tests") { 100 } else { 5 };
/// A child on a slow disk is killed after this, whatever it got to write.
const LONG: Duration = Duration::from_secs(20);
const CREATIONS: u64 = if cfg!(feature = "integration_tests") { 100 } else { 10 };

/// So small that segments, memtables, runs and manifests follow each other quickly.
fn config(mode: WalSyncMode) -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 8 << 10,
        wal_segment_size: 32 << 10,
        cache_size: 64 << 10,
        max_memory: 1 << 20,
        wal_sync_mode: mode,
        ..Default::default()
    }
}

fn mode(name: &str) -> WalSyncMode {
    match name {
        "sync" => WalSyncMode::Sync,
        _ => WalSyncMode::Async,
    }
}

/// Each writer counts: number `i` is a key of its keyspace, and in the same commit it says in
/// the default keyspace how far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Progress {
    /// Numbers below were deleted again.
    first: u64,
    last: u64,
    /// How far the other writer was known to be before this commit began.
    other: u64,
}

impl Progress {
    fn encode(&self) -> Vec<u8> {
        [self.first, self.last, self.other].iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Progress {
        let word = |i: usize| u64::from_be_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap());
        assert_eq!(bytes.len(), 24);
        Progress { first: word(0), last: word(1), other: word(2) }
    }
}

fn value(writer: usize, number: u64) -> Vec<u8> {
    let mut random = Random::new(number << 1 | writer as u64);
    let len = match number % 40 {
        0 => 3000 + random.below(3000),
        _ => random.below(120),
    };
    random.bytes(len as usize)
}

fn writer_name(writer: usize) -> String {
    format!("writer {writer}")
}

/// Counts on from where the database is, and tells what was acknowledged.
pub(crate) fn count(dir: &Path, argument: &str) {
    let mut words = argument.split(' ');
    let config = config(mode(words.next().unwrap()));
    let acknowledged: Vec<u64> = words.map(|w| w.parse().unwrap()).collect();
    say("opening");
    let db = Database::open_or_create(dir, config).unwrap();
    let progress = check(&db, &acknowledged);
    say("open");
    let known: Vec<AtomicU64> = progress.iter().map(|p| AtomicU64::new(p.last)).collect();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let keyspace = db.keyspace(&writer_name(writer)).unwrap();
            let (db, known, mut now) = (&db, &known, progress[writer]);
            scope.spawn(move || {
                loop {
                    now = step(db, &keyspace, writer, now, known[1 - writer].load(SeqCst));
                    known[writer].store(now.last, SeqCst);
                    say(&format!("ack {writer} {}", now.last));
                }
            });
        }
    });
}

/// One commit: a few numbers more, now and then the old ones less.
fn step(db: &Database, mine: &Keyspace, writer: usize, was: Progress, other: u64) -> Progress {
    let mut now = Progress { last: was.last + 1 + was.last % 3, other, ..was };
    let mut batch = WriteBatch::new();
    for number in was.last + 1..=now.last {
        batch.put_in(mine, number.to_be_bytes(), value(writer, number));
    }
    if now.last - now.first > 1000 {
        let middle = now.last - 500;
        match now.last % 2 {
            0 => batch.delete_range_in(mine, ..middle.to_be_bytes()),
            _ => (now.first..middle).fold(&mut batch, |b, n| b.delete_in(mine, n.to_be_bytes())),
        };
        now.first = middle;
    }
    batch.put(writer_name(writer), now.encode());
    db.write(batch).unwrap();
    now
}

/// What is there is what was acknowledged, or more, and a prefix of what was written.
fn check(db: &Database, acknowledged: &[u64]) -> Vec<Progress> {
    let keyspaces: Vec<_> = (0..WRITERS).map(|w| db.keyspace(&writer_name(w)).unwrap()).collect();
    let snapshot = db.snapshot().unwrap();
    let progress: Vec<_> =
        keyspaces.iter().enumerate().map(|(w, mine)| check_writer(mine, &snapshot, w)).collect();
    for (writer, now) in progress.iter().enumerate() {
        let least = acknowledged.get(writer).copied().unwrap_or_default();
        assert!(now.last >= least, "{writer}: {least} was acknowledged, found {now:?}");
        let other = progress[1 - writer];
        assert!(other.last >= now.other, "a hole: {now:?} is there, the other has {other:?}");
    }
    progress
}

fn check_writer(mine: &Keyspace, snapshot: &Snapshot, writer: usize) -> Progress {
    let now = snapshot.get(writer_name(writer)).unwrap();
    let now = now.map_or(Progress::default(), |bytes| Progress::decode(&bytes));
    let mut expected = now.first.max(1)..=now.last;
    snapshot
        .of(mine)
        .for_each(.., |key, found| {
            let number = u64::from_be_bytes(key.try_into().unwrap());
            assert_eq!(Some(number), expected.next(), "{writer}: {now:?}");
            assert_eq!(found, value(writer, number), "{writer}: {number}");
        })
        .unwrap();
    assert_eq!(expected.next(), None, "{writer}: {now:?}");
    now
}

/// How many commits of a child are waited for before it is killed, mostly, and so many that a manifest
/// is full and gives way to the next.
fn commits(mode: WalSyncMode) -> (u64, u64) {
    match mode {
        WalSyncMode::Sync => (60, 600),
        _ => (1000, 10_000),
    }
}

fn manifest_generation(dir: &Path) -> u64 {
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    let numbers = names.filter_map(|n| n.to_str()?.strip_prefix("manifest-")?.parse().ok());
    numbers.max().unwrap_or_default()
}

fn kill_and_go_on(name: &str) {
    let dir = Scratch::new();
    let path = dir.db();
    let mut random = Random::new(name.len() as u64);
    let mut acknowledged = [0u64; WRITERS];
    let (mut while_opening, mut acknowledgements, mut opens) = (0, 0, 0);
    let (few, many) = commits(mode(name));
    let (mut waited_for, mut slow) = (0, 0);
    for round in 0..ROUNDS {
        let argument = format!("{name} {} {}", acknowledged[0], acknowledged[1]);
        let child = Child::start("count", &path, &argument);
        let micros = if round % 10 != 9 && random.below(3) == 0 {
            while_opening += 1;
            assert!(child.wait_for("opening"));
            random.below(8_000)
        } else {
            assert!(child.wait_for("open"), "round {round}: opening failed");
            let commits = match round % 10 {
                9 => many / 2 + random.below(many / 2),
                _ => random.below(few),
            };
            match child.wait_for_lines("ack", commits, Some(LONG)) {
                true => waited_for += commits,
                false => slow += 1,
            }
            assert!(!child.has_ended(), "round {round}: writing failed");
            random.below(5_000)
        };
        std::thread::sleep(Duration::from_micros(micros));
        let said = child.kill();
        assert!(!said.iter().any(|line| line == "done"));
        opens += u64::from(said.iter().any(|line| line == "open"));
        for line in said.iter().filter_map(|line| line.strip_prefix("ack ")) {
            let (writer, number) = line.split_once(' ').unwrap();
            acknowledged[writer.parse::<usize>().unwrap()] = number.parse().unwrap();
            acknowledgements += 1;
        }
        // In the other rounds the next child is the first to see what the kill left.
        if round % 3 == 0 || round + 1 == ROUNDS {
            let db = Database::open_or_create(&path, config(mode(name))).unwrap();
            check(&db, &acknowledged);
            opens += 1;
        }
    }
    println!(
        "{name}: {ROUNDS} kills, {while_opening} of them while opening, {acknowledgements} commits \
         acknowledged, none lost; {opens} openings, manifest generation {}; {slow} children were slow",
        manifest_generation(&path)
    );
    assert!(acknowledgements >= waited_for, "{waited_for} commits were heard of");
}

#[test]
fn a_kill_loses_nothing_acknowledged_in_sync_mode() {
    kill_and_go_on("sync");
}

#[test]
fn a_kill_loses_nothing_acknowledged_in_async_mode() {
    kill_and_go_on("async");
}

/// Creates a database and puts one key.
pub(crate) fn create(dir: &Path) {
    say("opening");
    let db = Database::open_or_create(dir, config(WalSyncMode::Async)).unwrap();
    db.put("key", "value").unwrap();
    say("put");
}

#[test]
fn a_kill_during_creation_leaves_what_opens() {
    let dir = Scratch::new();
    let mut random = Random::new(3);
    let (mut puts, mut nothing) = (0, 0);
    for round in 0..CREATIONS {
        // Parents are created too.
        let path = dir.path().join(format!("{round}/a/db"));
        let mut acknowledged = false;
        // Now and then what was half created is half created again.
        let most = if round % 3 == 0 { 50_000 } else { 5_000 };
        for _ in 0..1 + random.below(2) {
            let child = Child::start("create", &path, "");
            assert!(child.wait_for("opening"));
            std::thread::sleep(Duration::from_micros(random.below(most)));
            acknowledged |= child.kill().iter().any(|line| line == "put");
        }
        nothing += u64::from(!path.exists());
        let db = Database::open_or_create(&path, config(WalSyncMode::Async))
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        let found = db.get("key").unwrap();
        assert!(found.is_none() || found.as_deref() == Some(b"value"));
        assert!(found.is_some() || !acknowledged, "round {round}: the put is gone");
        puts += u64::from(found.is_some());
        db.put("another", "value").unwrap();
        drop(db);
        let db = Database::open(&path, config(WalSyncMode::Async)).unwrap();
        assert_eq!(db.iter().unwrap().count(), 1 + usize::from(found.is_some()));
    }
    println!(
        "{CREATIONS} kills during creation: all opened; {nothing} had no directory yet, {puts} \
         held the key already"
    );
}
