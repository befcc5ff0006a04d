//! For the failure that comes with a new release: it cannot read what an old one wrote.
//!
//! `corpus/formats/vN/` holds databases that were written when N was the format version. Files
//! are kept without their stretches of zeros: see the README there.

use crate::files::{Scratch, contents_of_files};
use lightning_db::{Compression, Database, KeyspaceOptions, LightningDbConfig, WriteBatch};
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

type Files = BTreeMap<String, Vec<u8>>;
type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

const INDEX: &str = "index.txt";
/// Larger values have files of their own.
const BLOB_THRESHOLD: usize = 10_000;
/// Shorter stretches of zeros are kept.
const ZEROS: usize = 64;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/formats")
}

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 16 << 10,
        wal_segment_size: 16 << 10,
        cache_size: 64 << 10,
        max_memory: 1 << 20,
        blob_threshold: BLOB_THRESHOLD,
        wal_sync_interval: Duration::from_secs(3600),
        wal_compression: true,
        ..Default::default()
    }
}

/// The fixed program that wrote the databases: what it writes must never change.
fn write(db: &Database, contents: &mut Contents) {
    grow_trees(db, contents);
    put_blobs(db, contents, 0..2);
    db.compact().unwrap();
    put_blobs(db, contents, 2..4);
    let keyspaces = [
        ("default", None),
        ("stored", Some(Compression::None)),
        ("zstd", Some(Compression::Zstd)),
        ("lz4", Some(Compression::Lz4)),
        ("snappy", Some(Compression::Snappy)),
    ];
    for (name, compression) in keyspaces {
        let keyspace =
            db.keyspace_with(name, KeyspaceOptions { compression, ..Default::default() }).unwrap();
        let map = contents.entry(name.into()).or_default();
        for i in 0..100u32 {
            let mut batch = WriteBatch::new();
            let (key, value) = (format!("{name}/{:02}", i % 70), format!("{i} ").repeat(20));
            batch.put_in(&keyspace, &key, &value);
            map.insert(key.into(), value.into());
            if i % 10 == 3 {
                let key = format!("{name}/{:02}", i / 2);
                batch.delete_in(&keyspace, &key);
                map.remove(key.as_bytes());
            }
            if i % 40 == 20 {
                let (start, end) = (format!("{name}/10"), format!("{name}/15"));
                batch.delete_range_in(&keyspace, &start..&end);
                map.retain(|k, _| {
                    *k < start.clone().into_bytes() || *k >= end.clone().into_bytes()
                });
            }
            db.write(batch).unwrap();
        }
        keyspace.put("", "").unwrap();
        map.insert(vec![], vec![]);
    }
    let dropped = db.keyspace("dropped").unwrap();
    dropped.put("gone", "with its keyspace").unwrap();
    db.drop_keyspace("dropped").unwrap();
    let loaded = (0..300_u32).map(|i| (i.to_be_bytes(), format!("loaded {i}")));
    db.keyspace("loaded").unwrap().bulk_load(loaded.clone()).unwrap();
    let loaded = loaded.map(|(key, value)| (key.to_vec(), value.into_bytes()));
    contents.insert("loaded".into(), loaded.collect());
    db.checkpoint().unwrap();
    put_blobs(db, contents, 4..6);
    // Synced, then not.
    let map = contents.get_mut("default").unwrap();
    for i in 0..20u8 {
        db.put([i], vec![i; 30]).unwrap();
        map.insert(vec![i], vec![i; 30]);
    }
    // Compressed in the log.
    db.put("long", vec![7; 6000]).unwrap();
    map.insert(b"long".to_vec(), vec![7; 6000]);
}

/// Trees of one node and of several, nodes of several pages, pages that were used and are free.
fn grow_trees(db: &Database, contents: &mut Contents) {
    let keyspace = db.keyspace("tree").unwrap();
    let map = contents.entry("tree".into()).or_default();
    for i in 0..400u32 {
        let value = match i % 50 {
            7 => vec![i as u8; 9000],
            _ => format!("{i} ").repeat(10).into_bytes(),
        };
        keyspace.put(i.to_be_bytes(), &value).unwrap();
        map.insert(i.to_be_bytes().into(), value);
    }
    db.compact().unwrap();
    let (start, end) = (100u32.to_be_bytes(), 250u32.to_be_bytes());
    keyspace.delete_range(start..end).unwrap();
    map.retain(|key, _| key[..] < start[..] || key[..] >= end[..]);
    db.compact().unwrap();
    // Newer than the tree: in a run, and in the log.
    for i in 300..400u32 {
        let value = format!("new {i} ").repeat(25).into_bytes();
        keyspace.put(i.to_be_bytes(), &value).unwrap();
        map.insert(i.to_be_bytes().into(), value);
    }
}

/// Large values, of which the second half is zeros: files are kept without those.
fn put_blobs(db: &Database, contents: &mut Contents, numbers: std::ops::Range<u8>) {
    let keyspace = db.keyspace("blobs").unwrap();
    let map = contents.entry("blobs".into()).or_default();
    for i in numbers {
        let value = [vec![i + 1; 200], vec![0; BLOB_THRESHOLD + usize::from(i) * 30_000]].concat();
        keyspace.put([i], &value).unwrap();
        map.insert(vec![i], value);
    }
}

/// What the program leaves behind.
fn expected() -> Contents {
    let scratch = Scratch::in_memory();
    let mut contents = Contents::new();
    let db = Database::create(scratch.db(), config()).unwrap();
    write(&db, &mut contents);
    contents
}

fn read(path: &Path) -> Contents {
    let db = Database::open(path, config()).unwrap();
    let names = db.keyspaces().unwrap();
    let all =
        |name: &String| db.keyspace(name).unwrap().iter().unwrap().map(Result::unwrap).collect();
    names.iter().map(|name| (name.clone(), all(name))).collect()
}

/// Stretches of a file that are not zeros.
fn stretches(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = vec![];
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match found.last_mut() {
            Some((_, end)) if at - *end < ZEROS => *end = at + 1,
            _ => found.push((at, at + 1)),
        }
    }
    found
}

fn pack(files: &Files, to: &Path) {
    let _absent = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    let mut index = String::new();
    for (name, bytes) in files {
        writeln!(index, "{name} {}", bytes.len()).unwrap();
        let mut kept = vec![];
        for (start, end) in stretches(bytes) {
            writeln!(index, "  {start} {}", end - start).unwrap();
            kept.extend(&bytes[start..end]);
        }
        fs::write(to.join(format!("{name}.bin")), kept).unwrap();
    }
    fs::write(to.join(INDEX), index).unwrap();
}

fn unpack(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let index = fs::read_to_string(from.join(INDEX)).unwrap();
    let mut files: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![];
    for line in index.lines() {
        let (left, right) = line.trim().split_once(' ').unwrap();
        let number: usize = right.parse().unwrap();
        if !line.starts_with(' ') {
            let kept = fs::read(from.join(format!("{left}.bin"))).unwrap();
            files.push((left, vec![0; number], kept));
            continue;
        }
        let (start, (_, bytes, kept)) = (left.parse::<usize>().unwrap(), files.last_mut().unwrap());
        let rest = kept.split_off(number);
        bytes[start..start + number].copy_from_slice(kept);
        *kept = rest;
    }
    for (name, bytes, left_over) in files {
        assert!(left_over.is_empty(), "{name}");
        fs::write(to.join(name), bytes).unwrap();
    }
}

#[test]
fn databases_of_earlier_formats_open() {
    let mut opened = 0;
    let entries = fs::read_dir(corpus()).unwrap().map(Result::unwrap);
    for version in entries.filter(|entry| entry.path().is_dir()) {
        for moment in ["closed", "killed"] {
            let scratch = Scratch::in_memory();
            unpack(&version.path().join(moment), &scratch.db());
            let found = read(&scratch.db());
            assert!(found == expected(), "{:?} {moment}", version.path());
            let kinds = [".sst", ".tree", ".blob", "wal-", "manifest-"];
            let names: Vec<String> = contents_of_files(&scratch.db()).into_keys().collect();
            let has = |kind: &&str| names.iter().any(|name| name.contains(*kind));
            assert!(kinds.iter().all(has), "{names:?}");
            // Once opened by this version, it is this version's, and opens again.
            assert!(read(&scratch.db()) == found, "{:?} {moment}, again", version.path());
            opened += 1;
        }
    }
    assert!(opened > 0);
}

#[test]
fn packing_keeps_every_byte() {
    let scratch = Scratch::in_memory();
    let mut files = Files::new();
    files.insert("empty".into(), vec![]);
    files.insert("zeros".into(), vec![0; 1000]);
    let mut gaps = vec![1; 500];
    gaps[100..163].fill(0);
    gaps[200..264].fill(0);
    gaps[400..].fill(0);
    files.insert("gaps".into(), gaps);
    pack(&files, &scratch.path().join("packed"));
    unpack(&scratch.path().join("packed"), &scratch.path().join("again"));
    assert!(contents_of_files(&scratch.path().join("again")) == files);
}

/// Where the golden files of a version are written when it is new, and never again.
const NEW: &str = "v1";

/// Writes the golden files of a new format.
#[test]
#[ignore = "writes the golden files of a new format version"]
fn write_those_of_a_new_version() {
    assert!(!corpus().join(NEW).exists(), "golden files are written once");
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let mut contents = Contents::new();
    let db = Database::create(&path, config()).unwrap();
    write(&db, &mut contents);
    let settled = || {
        let stats = db.stats().unwrap();
        (stats.sealed_memtables == 0).then(|| (stats, contents_of_files(&path)))
    };
    let killed = loop {
        let before = settled();
        std::thread::sleep(Duration::from_millis(100));
        if let Some((_, files)) = before.clone().filter(|_| before == settled()) {
            break files;
        }
    };
    db.close().unwrap();
    drop(db);
    pack(&killed, &corpus().join(NEW).join("killed"));
    pack(&contents_of_files(&path), &corpus().join(NEW).join("closed"));
}
