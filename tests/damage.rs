//! For damage that comes behind the first read: what was found good once is not asked again, unless that is wished.

use crate::{
    errors::crc32,
    files::{Scratch, contents_of_files},
};
use lightning_db::{Database, DatabaseStats, Error, Fault, LightningDbConfig, env::OsEnv};
use lightning_faults::{Call, FaultyEnv};
use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 64 << 10,
        wal_segment_size: 64 << 10,
        cache_size: 64 << 10,
        max_memory: 4 << 20,
        ..Default::default()
    }
}

#[test]
fn with_paranoia_damage_is_found_behind_the_first_read_too() {
    for enable_paranoia_checks in [false, true] {
        let scratch = Scratch::in_memory();
        let config =
            LightningDbConfig { enable_paranoia_checks, compression_enabled: false, ..config() };
        let db = Database::create(scratch.db(), config).unwrap();
        let values = [*b"found by its bytes, in a tree", *b"found by its bytes, in a file"];
        db.put("a", values[0]).unwrap();
        db.compact().unwrap();
        db.put("b", values[1]).unwrap();
        let sstables = |db: &Database| db.stats().unwrap().keyspaces[0].tables;
        while sstables(&db) == 0 {
            // Until the memtable is flushed.
            db.put("c", vec![7; 1000]).unwrap();
        }
        let read = |key| db.get(key).map(Option::unwrap);
        assert_eq!([read("a").unwrap(), read("b").unwrap()], values.map(|value| value.to_vec()));
        let files = contents_of_files(&scratch.db());
        for ((ending, key), value) in [(".tree", "a"), (".sst", "b")].into_iter().zip(values) {
            let at = |bytes: &[u8]| bytes.windows(value.len()).position(|w| w == value);
            let found = files.iter().filter(|(name, _)| name.ends_with(ending));
            let (name, at) = found.filter_map(|(n, bytes)| Some((n, at(bytes)?))).next().unwrap();
            let file = fs::OpenOptions::new().write(true).open(scratch.db().join(name)).unwrap();
            file.write_all_at(b"X", at as u64).unwrap();
            match (enable_paranoia_checks, read(key)) {
                (true, Err(Error::Corruption(told))) => assert!(told.file.ends_with(name)),
                (false, Ok(kept)) => assert_eq!(kept, value),
                (_, other) => panic!("{ending} {enable_paranoia_checks}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_merge_gives_damage_no_checksum_of_its_own() {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config()).unwrap();
    let value = *b"a value that is found by its bytes";
    db.put("a", value).unwrap();
    db.put("b", "1").unwrap();
    db.compact().unwrap();
    assert_eq!(db.get("a").unwrap().unwrap(), value); // verified, where it is mapped
    let files = contents_of_files(&scratch.db());
    let (name, bytes) = files.iter().find(|(name, _)| name.ends_with(".tree")).unwrap();
    let at = bytes.windows(value.len()).position(|window| window == value).unwrap();
    let file = fs::OpenOptions::new().write(true).open(scratch.db().join(name)).unwrap();
    file.write_all_at(b"X", at as u64).unwrap();
    db.put("b", "2").unwrap();
    let told = db.compact().unwrap_err();
    assert!(matches!(&told, Error::Corruption(_)) && told.to_string().contains(name), "{told}");
    db.close().unwrap();
    drop(db);
    let db = Database::open(scratch.db(), config()).unwrap();
    assert!(matches!(db.get("a"), Err(Error::Corruption(_))));
    assert_eq!(db.check_integrity().unwrap().faults.len(), 1);
}

const PAGE: usize = 4096;

/// The file of the trees, which has one tree that was written at once, and its pages where a node of each level
/// begins, from the leaves up.
fn nodes(dir: &Path) -> (String, Vec<Vec<u64>>) {
    let mut files = contents_of_files(dir).into_iter();
    let (name, bytes) = files.find(|(name, _)| name.ends_with(".tree")).unwrap();
    let mut levels: Vec<Vec<u64>> = vec![vec![]; 4];
    for (page, bytes) in (0..).zip(bytes.chunks(PAGE)).skip(1) {
        if bytes.starts_with(b"Ln") {
            levels[usize::from(bytes[2])].push(page);
        }
    }
    (name, levels)
}

fn damage(file: &Path, page: u64) {
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(b"damage", page * PAGE as u64 + 1000).unwrap();
}

/// A database whose default keyspace is a tree of three levels.
fn of_three_levels(scratch: &Scratch) -> Arc<Database> {
    let db = Database::create(scratch.db(), config()).unwrap();
    db.bulk_load((0..20_000u32).map(|n| (n.to_be_bytes(), [7; 100]))).unwrap();
    db
}

#[test]
fn each_damaged_node_is_listed_and_nothing_below_it() {
    let scratch = Scratch::in_memory();
    let db = of_three_levels(&scratch);
    let good = db.check_integrity().unwrap();
    assert_eq!((good.faults.len(), good.trees[0].depth), (0, 3));
    let (name, levels) = nodes(&scratch.db());
    let (leaves, branches) = (&levels[0], &levels[1]);
    let counted = (leaves.len() as u64, branches.len() as u64 + 1);
    assert_eq!(counted, (good.trees[0].leaves, good.trees[0].branches));
    let file = scratch.db().join(&name);
    let places = |faults: &[Fault]| -> Vec<_> {
        faults.iter().map(|fault| (fault.page.unwrap(), fault.offset.unwrap())).collect()
    };
    let expected = |pages: &[u64]| -> Vec<_> {
        pages.iter().map(|page| (*page, page * PAGE as u64)).collect()
    };
    // In the middle of one branch, and at the end of the last.
    let hit = [leaves[20], leaves[leaves.len() - 1]];
    hit.iter().for_each(|page| damage(&file, *page));
    let report = db.check_integrity().unwrap();
    assert_eq!(places(&report.faults), expected(&hit));
    for (fault, page) in report.faults.iter().zip(hit) {
        let place = format!("{name} at page {page} (offset {}): ", page * PAGE as u64);
        assert!(fault.to_string().contains(&place), "{fault}");
        assert!(fault.expected.contains("checksum"), "{fault}");
    }
    assert_eq!((report.tree_nodes, report.trees.len()), (good.tree_nodes - 2, 0));
    // What is below the branch is not looked at, and does not pass for leaked.
    damage(&file, branches[0]);
    let report = db.check_integrity().unwrap();
    assert_eq!(places(&report.faults), expected(&[branches[0], hit[1]]));
    damage(&file, levels[2][0]);
    let report = db.check_integrity().unwrap();
    assert_eq!((places(&report.faults), report.tree_nodes), (expected(&levels[2]), 0));
}

/// A tree, an sstable and a large value, of which the files that end as is said cannot be read any more.
fn unreadable(scratch: &Scratch) -> (Arc<Database>, Arc<Mutex<Vec<&'static str>>>) {
    let db = of_three_levels(scratch);
    db.close().unwrap();
    drop(db);
    let endings: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let failing = Arc::clone(&endings);
    let rule = move |call: Call, path: &Path| {
        let fails = |ending: &&str| path.to_string_lossy().ends_with(ending);
        match call == Call::Read && failing.lock().unwrap().iter().any(fails) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    };
    let env = FaultyEnv::new(OsEnv::new(), rule);
    let config = LightningDbConfig { blob_threshold: 10_000, ..config() };
    let db = Database::open_with_env(env, scratch.db(), config).unwrap();
    db.put("large", vec![7; 20_000]).unwrap(); // not so large that its run is merged at once
    for _ in 0..100 {
        db.put("flushed", vec![7; 1000]).unwrap();
    }
    let is_flushed =
        |stats: DatabaseStats| stats.sealed_memtables == 0 && stats.keyspaces[0].tables > 0;
    while !is_flushed(db.stats().unwrap()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    (db, endings)
}

#[test]
fn what_cannot_be_read_is_listed_and_the_rest_is_checked() {
    let scratch = Scratch::in_memory();
    let (db, unreadable) = unreadable(&scratch);
    let good = db.check_integrity().unwrap();
    assert_eq!((good.faults.len(), good.blobs, good.trees.len()), (0, 1, 1));
    assert!(good.tables > 0);
    let root = nodes(&scratch.db()).1[2][0];
    for ending in [".sst", ".tree", ".blob"] {
        *unreadable.lock().unwrap() = vec![ending];
        let report = db.check_integrity().unwrap();
        let faults = &report.faults;
        assert!(!faults.is_empty() && faults.len() as u64 <= good.tables, "{faults:?}");
        for fault in faults {
            assert!(fault.file.to_string_lossy().ends_with(ending), "{fault}");
            assert!(fault.to_string().contains("to be able to read it, found Input/output"));
            let page = (ending == ".tree").then_some(root);
            assert_eq!((fault.page, fault.offset), (page, page.map(|page| page * PAGE as u64)));
        }
        let tables = if ending == ".sst" { 0 } else { good.tables };
        let blobs = u64::from(ending != ".blob");
        let nodes = if ending == ".tree" { 0 } else { good.tree_nodes };
        assert_eq!((report.tables, report.blobs, report.tree_nodes), (tables, blobs, nodes));
    }
    // Damage behind it, and in another structure, is told as well.
    *unreadable.lock().unwrap() = vec![".sst"];
    let (name, levels) = nodes(&scratch.db());
    damage(&scratch.db().join(name), levels[0][5]);
    let faults = db.check_integrity().unwrap().faults;
    let files: Vec<_> = faults.iter().map(|fault| fault.file.extension().unwrap()).collect();
    assert_eq!(
        (files.first().unwrap(), files.last().unwrap()),
        (&"sst".as_ref(), &"tree".as_ref())
    );
    assert_eq!(faults.last().unwrap().page, Some(levels[0][5]));
    unreadable.lock().unwrap().clear();
    assert_eq!(db.check_integrity().unwrap().faults.len(), 1);
    db.close().unwrap();
    assert!(matches!(db.check_integrity(), Err(Error::Closed)));
}

/// A version that is not known is no reason to say nothing of the rest.
#[test]
fn what_a_newer_version_wrote_is_listed_too() {
    let scratch = Scratch::in_memory();
    let (db, _) = unreadable(&scratch);
    let newer = contents_of_files(&scratch.db()).into_keys().find(|name| name.ends_with(".blob"));
    let newer = scratch.db().join(newer.unwrap());
    let mut bytes = fs::read(&newer).unwrap();
    bytes[8] += 1; // the version, of which the checksum of the header says that it is meant
    let checksum = crc32(&bytes[..84]);
    bytes[84..88].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&newer, bytes).unwrap();
    let (name, levels) = nodes(&scratch.db());
    damage(&scratch.db().join(name), levels[0][5]);
    let faults = db.check_integrity().unwrap().faults;
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert_eq!((&faults[1].file, faults[1].offset), (&newer, None));
    assert!(faults[1].expected.contains("this version knows"), "{}", faults[1]);
}
