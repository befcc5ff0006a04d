//! For the failure that makes an accident worse: a file that is newer, foreign, cut or gone is
//! taken for ours, or a database that lost its root is created over.

use crate::files::{Scratch, contents_of_files};
use lightning_db::{Database, Error, LightningDbConfig};
use std::{collections::BTreeMap, fs, path::Path};

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 8 << 10,
        wal_segment_size: 16 << 10,
        cache_size: 64 << 10,
        max_memory: 1 << 20,
        ..Default::default()
    }
}

const KEYS: usize = 200;

fn key(i: usize) -> String {
    format!("key {i:04}")
}

/// A closed database with sstables and a log.
fn make(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let db = Database::create(path, config()).unwrap();
    for i in 0..KEYS {
        db.put(key(i), vec![i as u8; 100]).unwrap();
    }
    while db.stats().unwrap().flushes == 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    drop(db);
    contents_of_files(path)
}

fn check(path: &Path) {
    let db = Database::open(path, config()).unwrap();
    for i in 0..KEYS {
        assert_eq!(db.get(key(i)).unwrap().unwrap(), vec![i as u8; 100]);
    }
    assert_eq!(db.iter().unwrap().count(), KEYS);
}

fn lay_out(path: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let _absent = fs::remove_dir_all(path);
    fs::create_dir_all(path).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(path.join(name), bytes).unwrap());
}

/// Why it does not open in any of the ways that could.
fn refusals(path: &Path) -> [Error; 3] {
    [
        Database::open(path, config()),
        Database::open_or_create(path, config()),
        Database::create(path, config()),
    ]
    .map(Result::unwrap_err)
}

pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ 0xedb8_8320 & (crc & 1).wrapping_neg()
        })
    })
}

fn first(files: &BTreeMap<String, Vec<u8>>, kind: &str) -> String {
    let current = |name: &&String| name.contains(kind) && !name.contains("spare");
    files
        .keys()
        .rfind(current)
        .unwrap_or_else(|| panic!("no {kind} among {:?}", files.keys()))
        .clone()
}

#[test]
fn newer_formats_are_unsupported_not_corrupt() {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let files = make(&path);
    // Offset and value of a byte of the file header: see docs/formats/file-header.md.
    let changes = [
        ("format version", 8, 0),
        ("format version", 8, 2),
        ("format version", 11, 1),
        ("features", 64, 4),
        ("features", 72, 1),
        ("features", 79, 128),
        ("checksum type", 12, 2),
        ("compression", 13, 1),
        ("key", 20, 1),
    ];
    for kind in ["manifest-", "wal-", ".sst"] {
        let name = first(&files, kind);
        for (what, at, value) in changes {
            let mut changed = files.clone();
            let header = changed.get_mut(&name).unwrap();
            header[at] = value;
            let crc = crc32(&header[..84]);
            header[84..88].copy_from_slice(&crc.to_le_bytes());
            lay_out(&path, &changed);
            let [open, either, _] = refusals(&path);
            for error in [open, either] {
                let text = error.to_string();
                assert!(matches!(error, Error::Unsupported { .. }), "{name}: {what}: {error:?}");
                assert!(text.contains(&name) && text.contains(what), "{name}: {what}: {text}");
            }
            // The older program did no harm: the newer one finds what it left.
            fs::write(path.join(&name), &files[&name]).unwrap();
            check(&path);
        }
        // A feature that an older program may ignore, it ignores.
        let mut changed = files.clone();
        let header = changed.get_mut(&name).unwrap();
        header[56] = 1;
        let crc = crc32(&header[..84]);
        header[84..88].copy_from_slice(&crc.to_le_bytes());
        lay_out(&path, &changed);
        check(&path);
    }
}

#[test]
fn without_its_manifest_a_database_is_never_created_over() {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let files = make(&path);
    let without = |gone: &dyn Fn(&str) -> bool| {
        let mut left = files.clone();
        left.retain(|name, _| !gone(name));
        left
    };
    for left in [
        without(&|name| name.starts_with("manifest-0")),
        without(&|name| name.starts_with("manifest")),
        without(&|name| name.starts_with("manifest") || name.starts_with("wal")),
        without(&|name| name.starts_with("manifest") || name.ends_with(".sst")),
    ] {
        lay_out(&path, &left);
        for error in refusals(&path) {
            assert!(error.is_corruption(), "{:?}: {error:?}", left.keys());
        }
        assert!(contents_of_files(&path) == left, "something was touched");
    }
}

#[test]
fn another_file_in_the_place_of_ours_is_noticed() {
    let scratch = Scratch::in_memory();
    let (path, other) = (scratch.db(), scratch.path().join("other"));
    let files = make(&path);
    let foreign = make(&other);
    let text = b"Dear database,\nthis is not for you.\n".repeat(200);
    for name in files.keys().filter(|name| !name.contains("spare")) {
        let len = files[name].len();
        let mut replacements =
            vec![text.clone(), vec![], vec![0; len], files[name][..len - 1].into()];
        replacements.extend(foreign.get(name).cloned());
        replacements.push(files[&first(&files, "manifest-")].clone());
        replacements.push(files[&first(&files, ".sst")].clone());
        for replacement in replacements.into_iter().filter(|bytes| *bytes != files[name]) {
            let mut changed = files.clone();
            changed.insert(name.clone(), replacement);
            lay_out(&path, &changed);
            match Database::open(&path, config()) {
                Err(error) => assert!(error.is_corruption(), "{name}: {error:?}"),
                // No loss: a segment that nothing needs, a zero less behind the last edit.
                Ok(db) => {
                    drop(db);
                    check(&path);
                }
            }
        }
    }
}

#[test]
fn what_is_half_created_is_created_over() {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    drop(Database::create(&path, config()).unwrap());
    let files = contents_of_files(&path);
    // A creation writes the log first and gives the manifest its name last.
    let manifest = first(&files, "manifest-");
    let mut half = files.clone();
    half.remove(&manifest);
    let mut spare_torn = half.clone();
    spare_torn.insert("manifest-spare".into(), files[&manifest][..5000].to_vec());
    let mut segment_torn = BTreeMap::new();
    segment_torn.insert("wal-000001".to_string(), vec![0; 10]);
    let none = BTreeMap::new();
    for left in [half, spare_torn, segment_torn, none] {
        // The clean mark of the close is a record: creation was not that far.
        let left: BTreeMap<_, _> = left
            .into_iter()
            .map(|(name, mut bytes)| {
                if name.starts_with("wal-") && bytes.len() > 4096 {
                    bytes[4096..].fill(0);
                }
                (name, bytes)
            })
            .collect();
        lay_out(&path, &left);
        let refused = Database::open(&path, config()).unwrap_err();
        assert!(matches!(refused, Error::NotFound { .. }), "{:?}: {refused:?}", left.keys());
        assert!(contents_of_files(&path) == left, "opening touched something");
        for create in [Database::create, Database::open_or_create] {
            lay_out(&path, &left);
            let db = create(&path, config()).unwrap();
            assert_eq!(db.iter().unwrap().count(), 0);
            db.put("key", "value").unwrap();
            drop(db);
            let db = Database::open(&path, config()).unwrap();
            assert_eq!(db.get("key").unwrap().unwrap(), b"value");
        }
    }
}

#[test]
fn a_manifest_beyond_what_was_written_is_no_manifest() {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let files = make(&path);
    let current = first(&files, "manifest-");
    // A name of a higher generation on a copy, or on nothing.
    for bytes in [files[&current].clone(), vec![], vec![0; 262_144]] {
        let mut changed = files.clone();
        changed.insert("manifest-000999".into(), bytes);
        lay_out(&path, &changed);
        let error = Database::open(&path, config()).unwrap_err();
        assert!(error.is_corruption(), "{error:?}");
        fs::remove_file(path.join("manifest-000999")).unwrap();
        check(&path);
    }
}

#[test]
fn names_that_no_database_comes_to_do_not_count() {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let files = make(&path);
    let names = [
        "wal-18446744073709551615",
        "18446744073709551615.sst",
        "manifest-18446744073709551615",
        "manifest-7",
        "+00999.sst",
        "manifest-+00999",
    ];
    for name in names {
        let mut changed = files.clone();
        changed.insert(name.into(), vec![]);
        lay_out(&path, &changed);
        // Often enough that segments and tables need new numbers.
        for i in 0..6 {
            let db = Database::open(&path, config()).expect(name);
            for n in 0..200 {
                db.put(format!("more {n}"), vec![i; 100]).expect(name);
            }
        }
        assert!(path.join(name).exists(), "{name} was removed, and it is not ours");
        let db = Database::open(&path, config()).unwrap();
        db.delete_range("more"..).unwrap();
        drop(db);
        check(&path);
    }
}
