//! For the failure of a large value: it comes back other than it was written, or its file outlives it, or
//! does not.

use crate::{
    files::{Scratch, contents_of_files},
    outside::Outside,
};
use lightning_db::{
    Compression, Database, Error, KeyspaceOptions, LightningDbConfig, Result, StorageKind,
    WriteBatch, env::OsEnv,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::{Duration, Instant},
};

const THRESHOLD: usize = 1000;
/// Bytes of a chunk of a file, of which a value of many has more than one.
const CHUNK: usize = 64 << 10;
/// Long enough for any machine.
const NEVER: Duration = Duration::from_secs(60);

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 64 << 10,
        wal_segment_size: 1 << 20,
        blob_threshold: THRESHOLD,
        compression_enabled: false,
        ..Default::default()
    }
}

/// A value that tells which it is and no part of which repeats.
fn value(number: u32, len: usize) -> Vec<u8> {
    let words = (number..).map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes());
    words.flatten().take(len).collect()
}

fn blob_files(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".blob")).collect();
    names.sort();
    names
}

/// Waits until there are so many blob files.
fn wait_for_files(path: &Path, count: usize) {
    let began = Instant::now();
    while blob_files(path).len() != count {
        assert!(began.elapsed() < NEVER, "{:?}, not {count}", blob_files(path));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read_all(mut reader: impl Read) -> Vec<u8> {
    let mut all = vec![];
    reader.read_to_end(&mut all).unwrap();
    all
}

/// Every way of reading finds these values, and no others, and a check finds no fault.
fn check(db: &Database, name: &str, expected: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let keyspace = db.keyspace(name)?;
    let snapshot = db.snapshot()?.of(&keyspace);
    for (key, value) in expected {
        assert!(keyspace.get(key)?.as_ref() == Some(value), "{key}");
        assert!(*keyspace.get_ref(key)?.unwrap() == **value, "{key}");
        assert!(snapshot.get(key)?.as_ref() == Some(value), "{key}");
        assert!(keyspace.contains_key(key)?, "{key}");
        let mut reader = keyspace.get_reader(key)?.unwrap();
        assert_eq!(reader.len(), value.len() as u64);
        for at in [0, value.len() / 2, value.len().saturating_sub(1), value.len(), value.len() + 9]
        {
            reader.seek(SeekFrom::Start(at as u64)).unwrap();
            assert!(
                read_all(&mut reader) == value.get(at..).unwrap_or_default(),
                "{key} from {at}"
            );
        }
    }
    let keys: Vec<_> = expected.keys().collect();
    let values: Vec<_> = expected.values().cloned().map(Some).collect();
    assert!(keyspace.get_batch(&keys)? == values);
    let expected = || expected.iter().map(|(k, v)| (k.clone().into_bytes(), v.clone()));
    let entries: Vec<_> = keyspace.iter()?.collect::<Result<_>>()?;
    assert!(entries.into_iter().eq(expected()));
    let entries: Vec<_> = keyspace.iter()?.rev().collect::<Result<_>>()?;
    assert!(entries.into_iter().rev().eq(expected()));
    let report = db.check_integrity()?;
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    Ok(())
}

#[test]
fn large_values_are_read_as_they_were_written_by_every_verb() -> Result<()> {
    for kind in [StorageKind::Hybrid, StorageKind::BTree] {
        let scratch = Scratch::in_memory();
        let db = Database::create(scratch.db(), config())?;
        let options = KeyspaceOptions { storage_kind: Some(kind), ..Default::default() };
        let keyspace = db.keyspace_with("large", options)?;
        let mut expected = BTreeMap::new();
        // On both sides of the threshold, and of the end of a chunk.
        let lengths = [0, THRESHOLD, THRESHOLD + 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK / 2];
        let loaded = lengths.iter().enumerate().map(|(n, len)| (n as u32, *len));
        let loaded = loaded.map(|(n, len)| (format!("loaded {n}"), value(n, len)));
        keyspace.bulk_load(loaded.clone())?;
        expected.extend(loaded);
        let mut batch = WriteBatch::new();
        for (n, len) in lengths.into_iter().enumerate() {
            let (n, names) =
                (n as u32, [format!("put {n}"), format!("read {n}"), format!("batch {n}")]);
            keyspace.put(&names[0], value(n + 10, len))?;
            keyspace.put_reader(&names[1], &value(n + 20, len)[..])?;
            batch.put_in(&keyspace, &names[2], value(n + 30, len));
            expected.extend(names.into_iter().zip((1..).map(|i| value(n + 10 * i, len))));
        }
        batch.put_in(&keyspace, "put 6", "now small").delete_in(&keyspace, "read 6");
        db.write(batch)?;
        expected.insert("put 6".into(), "now small".into());
        expected.remove("read 6");
        check(&db, "large", &expected)?;
        drop(keyspace);
        drop(db);
        // From the log, then from the tree.
        let db = Database::open(scratch.db(), config())?;
        check(&db, "large", &expected)?;
        db.checkpoint()?;
        check(&db, "large", &expected)?;
        db.compact()?;
        check(&db, "large", &expected)?;
        let large = expected.values().filter(|value| value.len() > THRESHOLD);
        wait_for_files(&scratch.db(), large.clone().count());
        let stats = db.stats()?;
        assert_eq!(stats.blobs, large.clone().count() as u64);
        assert_eq!(stats.blob_bytes, large.map(|value| value.len() as u64).sum::<u64>());
        drop(db);
        // Where a value is does not depend on what the threshold is now.
        let db =
            Database::open(scratch.db(), LightningDbConfig { blob_threshold: 64, ..config() })?;
        check(&db, "large", &expected)?;
        db.keyspace("large")?.put("loaded 1", "another")?;
        drop(db);
        let higher = LightningDbConfig { blob_threshold: 1 << 20, ..config() };
        let db = Database::open(scratch.db(), higher)?;
        expected.insert("loaded 1".into(), "another".into());
        db.compact()?;
        check(&db, "large", &expected)?;
    }
    Ok(())
}

#[test]
fn large_values_are_compressed_where_that_saves_something() -> Result<()> {
    let text: Vec<u8> = (0..40_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    // Not, then well, then not.
    let mixed = [value(1, 5 * CHUNK), text.clone(), value(2, 5 * CHUNK)].concat();
    for compression_type in 1..=3 {
        let scratch = Scratch::in_memory();
        let path = scratch.db();
        let config = LightningDbConfig { compression_enabled: true, compression_type, ..config() };
        let db = Database::create(&path, config)?;
        let len = |name: &str| fs::metadata(path.join(name)).unwrap().len() as usize;
        db.put("text", &text)?;
        let files = blob_files(&path);
        assert!(len(&files[0]) < text.len() * 2 / 3, "{} of {}", len(&files[0]), text.len());
        db.put("noise", value(7, 10 * CHUNK))?;
        db.put_reader("mixed", &mixed[..])?;
        let none = KeyspaceOptions { compression: Some(Compression::None), ..Default::default() };
        db.keyspace_with("stored", none)?.put("text", &text)?;
        let stored = blob_files(&path).last().unwrap().clone();
        assert!(len(&stored) > text.len());
        let expected =
            [("text", text.clone()), ("noise", value(7, 10 * CHUNK)), ("mixed", mixed.clone())];
        let expected = expected.map(|(key, value)| (key.into(), value));
        check(&db, "default", &BTreeMap::from(expected))?;
        check(&db, "stored", &BTreeMap::from([("text".into(), text.clone())]))?;
        // A chunk with a right checksum is all that is believed.
        let name = &blob_files(&path)[0];
        let mut bytes = fs::read(path.join(name)).unwrap();
        bytes[200] ^= 1;
        fs::write(path.join(name), bytes).unwrap();
        assert!(db.get("text").unwrap_err().is_corruption());
    }
    Ok(())
}

#[test]
fn files_go_with_what_names_them_and_not_before() -> Result<()> {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let db = Database::create(&path, config())?;
    let large = |n| value(n, 3 * THRESHOLD);
    for n in 0..6 {
        db.put(format!("key {n}"), large(n))?;
    }
    let other = db.keyspace("dropped")?;
    other.put("key", large(9))?;
    db.compact()?;
    wait_for_files(&path, 7);
    let snapshot = db.snapshot()?;
    let mut reader = db.get_reader("key 5")?.unwrap();
    db.put("key 0", large(10))?; // overwritten
    db.delete("key 1")?;
    db.delete_range("key 2".."key 4")?;
    db.put("key 4", "small")?;
    db.delete("key 5")?;
    db.drop_keyspace("dropped")?;
    db.compact()?;
    // The snapshot and the reader hold what they show.
    for n in 0..6 {
        assert!(snapshot.get(format!("key {n}"))?.unwrap() == large(n), "{n}");
    }
    drop(snapshot);
    reader.seek(SeekFrom::Start(1)).unwrap();
    assert!(read_all(&mut reader) == large(5)[1..]);
    drop(reader);
    wait_for_files(&path, 1);
    drop(other);
    drop(db);
    let db = Database::open(&path, config())?;
    assert!(db.get("key 0")?.unwrap() == large(10));
    assert!(db.get("key 1")?.is_none() && db.get("key 5")?.is_none());
    assert_eq!(blob_files(&path).len(), 1);
    Ok(())
}

#[test]
fn what_is_overwritten_gives_its_space_back_without_being_asked() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config())?;
    // Pointers alone would not fill a memtable for long.
    for n in 0..400 {
        db.put("key", value(n, 64 << 10))?;
    }
    let began = Instant::now();
    while db.stats()?.blob_file_bytes > 8 << 20 {
        assert!(began.elapsed() < NEVER, "{:?}", db.stats()?);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(db.get("key")?.unwrap() == value(399, 64 << 10));
    Ok(())
}

/// Fails behind its bytes.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(io::Error::other("the tape is torn")),
            read => Ok(read),
        }
    }
}

#[test]
fn of_what_fails_nothing_is_left() -> Result<()> {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let db = Database::create(&path, config())?;
    db.put("key", "before")?;
    for len in [0, THRESHOLD, THRESHOLD + 1, 3 * CHUNK] {
        let error = db.put_reader("key", Failing(&value(1, len))).unwrap_err();
        assert!(matches!(&error, Error::Reader { .. }), "{error:?}");
        assert!(error.to_string().contains("the tape is torn"), "{error}");
    }
    let long = vec![7; 1025];
    assert!(matches!(db.put_reader(&long, &value(1, CHUNK)[..]), Err(Error::KeyTooLarge)));
    let mut batch = WriteBatch::new();
    batch.put("key", value(1, CHUNK)).put(&long, "2");
    assert!(matches!(db.write(batch), Err(Error::KeyTooLarge)));
    let bad = [("a", value(1, CHUNK)), ("c", value(2, CHUNK)), ("b", value(3, CHUNK))];
    db.keyspace("loaded")?.bulk_load(bad).unwrap_err();
    let dropped = db.keyspace("dropped")?;
    db.drop_keyspace("dropped")?;
    let error = dropped.put_reader("key", &value(1, CHUNK)[..]).unwrap_err();
    assert!(matches!(error, Error::KeyspaceNotFound { .. }), "{error:?}");
    wait_for_files(&path, 0);
    assert_eq!(db.get("key")?.unwrap(), b"before");
    assert!(db.check_integrity()?.faults.is_empty());
    db.close()?;
    assert!(matches!(db.put_reader("key", &value(1, CHUNK)[..]), Err(Error::Closed)));
    assert!(matches!(db.get_reader("key"), Err(Error::Closed)));
    assert_eq!(blob_files(&path).len(), 0);
    Ok(())
}

/// Says that it has read more than it was asked for.
struct Lying;

impl Read for Lying {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(out.len() + 1)
    }
}

#[test]
fn a_reader_that_lies_or_panics_does_no_harm() -> Result<()> {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let db = Database::create(&path, config())?;
    let lies =
        [db.put_reader("key", Lying), db.put_reader("key", io::repeat(1).take(2000).chain(Lying))];
    for error in lies.map(Result::unwrap_err) {
        assert!(error.to_string().contains("more than it was asked for"), "{error}");
    }
    struct Panicking;
    impl Read for Panicking {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("this reader is to panic")
        }
    }
    let reader = io::repeat(1).take(CHUNK as u64 * 3).chain(Panicking);
    let put = std::panic::AssertUnwindSafe(|| db.put_reader("key", reader));
    std::panic::catch_unwind(put).unwrap_err();
    // Without another call of the database.
    wait_for_files(&path, 0);
    assert!(db.get("key")?.is_none());
    db.put("key", value(1, CHUNK))
}

#[test]
fn closing_ends_a_put_that_goes_on() -> Result<()> {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let db = Database::create(&path, config())?;
    struct Closing<'a>(&'a Database, u64);
    impl Read for Closing<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 == 20 {
                self.0.close().unwrap();
            }
            assert!(self.1 < 40, "it goes on");
            let len = out.len().min(10_000);
            out[..len].fill(1);
            Ok(len)
        }
    }
    assert!(matches!(db.put_reader("key", Closing(&db, 0)), Err(Error::Closed)));
    wait_for_files(&path, 0);
    drop(db);
    assert!(Database::open(&path, config())?.get("key")?.is_none());
    Ok(())
}

#[test]
fn what_is_deleted_gives_its_space_back_when_nothing_is_written() -> Result<()> {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    // Half a minute passes in a third of a second.
    let env = Outside::with_speed(OsEnv::new(), 100);
    let config = LightningDbConfig { memtable_size: 4 << 20, ..config() };
    let db = Database::create_with_env(env, &path, config)?;
    db.put_batch(&[("deleted", value(1, CHUNK)), ("overwritten", value(2, CHUNK))])?;
    db.put("stays", value(3, CHUNK))?;
    db.compact()?;
    assert_eq!(blob_files(&path).len(), 3);
    db.delete("deleted")?;
    db.put("overwritten", "small")?;
    wait_for_files(&path, 1);
    assert!(db.get("stays")?.unwrap() == value(3, CHUNK));
    Ok(())
}

/// A closed database with one large value, and the name of its file.
fn make(path: &Path, settled: bool) -> String {
    let db = Database::create(path, config()).unwrap();
    db.put("large", value(1, 3 * CHUNK)).unwrap();
    db.put("small", "good").unwrap();
    if settled {
        db.compact().unwrap();
    }
    drop(db);
    blob_files(path).remove(0)
}

#[test]
fn damage_is_told_with_its_place_and_nothing_else_is_lost() -> Result<()> {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let (chunk, first) = (CHUNK + 4, 96);
    let len = first + 3 * chunk + 3 * 4 + 4;
    let table = first + 3 * chunk;
    // In front of, at and behind the bounds of chunks; each in a chunk that is known to begin there.
    for (at, begins) in [
        (first, first),
        (first + 4, first),
        (first + chunk, first + chunk),
        (table - 1, table - chunk),
        (table, table),
        (len - 1, table),
    ] {
        let name = make(&path, true);
        let mut bad = fs::read(path.join(&name)).unwrap();
        assert_eq!(bad.len(), len);
        bad[at] ^= 4;
        fs::write(path.join(&name), bad).unwrap();
        let db = Database::open(&path, config())?;
        assert_eq!(db.get("small")?.unwrap(), b"good");
        let error = db.get("large").unwrap_err();
        let Error::Corruption(corruption) = &error else { panic!("{error:?}") };
        assert!(corruption.file.ends_with(&name), "{error}");
        assert_eq!(corruption.offset, begins as u64, "{at}: {error}");
        let error_text = error.to_string();
        let report = db.check_integrity()?;
        let faults: Vec<_> = report.faults.iter().map(|f| (&f.file, f.offset, &f.found)).collect();
        assert_eq!(faults, [(&corruption.file, Some(corruption.offset), &corruption.found)]);
        // Chunks in front of it are read, and it is never given out.
        let mut read = vec![];
        match db.get_reader("large") {
            Ok(reader) => {
                let error = reader.unwrap().read_to_end(&mut read).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            }
            Err(error) => assert!(begins == table && error.is_corruption(), "{error}"),
        }
        let chunks_read = if begins == table { 0 } else { (begins - first) / chunk };
        assert!(read == value(1, 3 * CHUNK)[..chunks_read * CHUNK], "{at}");
        for reverse in [false, true] {
            let mut scan = if reverse { db.scan_reverse(None, None)? } else { db.iter()? };
            if reverse {
                assert_eq!(scan.next_ref()?.unwrap().0, b"small");
            }
            // It says so for ever, from both ends.
            for _ in 0..3 {
                assert_eq!(scan.next_ref().unwrap_err().to_string(), error_text);
                assert_eq!(scan.next_back_ref().unwrap_err().to_string(), error_text);
            }
        }
        // It can be written anew.
        db.put("large", "small now")?;
        db.compact()?;
        assert!(db.check_integrity()?.faults.is_empty());
        drop(db);
        fs::remove_dir_all(&path).unwrap();
    }
    Ok(())
}

#[test]
fn a_file_that_is_gone_cut_or_another_is_refused() {
    for settled in [false, true] {
        let scratch = Scratch::in_memory();
        let path = scratch.db();
        let name = make(&path, settled);
        let file = path.join(&name);
        let whole = fs::read(&file).unwrap();
        let elsewhere = scratch.path().join("other");
        let another = fs::read(elsewhere.join(make(&elsewhere, settled))).unwrap();
        let mut header = whole.clone();
        header[30] ^= 1;
        let mut size = whole.clone();
        size[89] ^= 1; // of its chunks
        let longer = [&whole[..], b"x"].concat();
        let wrong = [
            ("gone", None),
            ("cut", Some(whole[..whole.len() - 1].to_vec())),
            ("empty", Some(vec![])),
            ("longer", Some(longer)),
            ("of another database", Some(another)),
            ("with a damaged header", Some(header)),
            ("with another size of chunks", Some(size)),
        ];
        for (what, bytes) in wrong {
            match bytes {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let before = contents_of_files(&path);
            // What the log needs is looked at when it is read; what is settled, when it is read or checked.
            let error = match Database::open(&path, config()) {
                Err(error) => {
                    assert!(contents_of_files(&path) == before, "{what}: it did no harm");
                    error
                }
                Ok(db) => {
                    assert!(settled && what != "gone", "{what}");
                    assert_eq!(db.get("small").unwrap().unwrap(), b"good");
                    assert_eq!(db.check_integrity().unwrap().faults.len(), 1, "{what}");
                    db.get("large").unwrap_err()
                }
            };
            assert!(error.is_corruption() && error.to_string().contains(&name), "{what}: {error}");
            fs::write(&file, &whole).unwrap();
        }
        let db = Database::open(&path, config()).unwrap();
        assert!(db.get("large").unwrap().unwrap() == value(1, 3 * CHUNK));
    }
}

#[test]
fn files_that_nothing_names_are_removed_and_their_ids_not_used_again() {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let name = make(&path, true);
    fs::copy(path.join(&name), path.join("000900.blob")).unwrap();
    fs::write(path.join("000901.blob"), "cut off").unwrap();
    fs::write(path.join("00902.blob"), "not ours").unwrap();
    let db = Database::open(&path, config()).unwrap();
    assert_eq!(blob_files(&path), [&name, "00902.blob"]);
    db.put("another", value(2, CHUNK)).unwrap();
    assert!(
        blob_files(&path).iter().any(|name| name[..] > *"000901.blob"),
        "{:?}",
        blob_files(&path)
    );
}

/// The largest value there may be, by pieces: its last bytes are the last.
#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: writes 4 GiB")]
fn a_value_of_four_gibibytes_less_a_byte_comes_back() -> Result<()> {
    const LEN: u64 = u32::MAX as u64;
    let scratch = Scratch::new();
    let path = scratch.db();
    let db = Database::create(&path, config())?;
    let end = b"the end";
    let body = io::repeat(7).take(LEN - end.len() as u64);
    db.put_reader("key", body.chain(&end[..]))?;
    db.compact()?;
    drop(db);
    let db = Database::open(&path, config())?;
    let mut reader = db.get_reader("key")?.expect("a value");
    assert_eq!(reader.seek(SeekFrom::End(0)).unwrap(), LEN);
    for back in [1, 3 << 30, 1 << 31, 100 << 10, 16] {
        let mut read = vec![];
        reader.seek(SeekFrom::End(-back)).unwrap();
        (&mut reader).take(16).read_to_end(&mut read).unwrap();
        let from = (LEN - back as u64) as usize;
        let byte = |at: usize| match at.checked_sub(LEN as usize - end.len()) {
            Some(at) => end[at],
            None => 7,
        };
        let expected: Vec<u8> = (from..LEN as usize).take(16).map(byte).collect();
        assert_eq!(read, expected, "{back} from the end");
    }
    Ok(())
}

/// Four gibibytes are too many; they are written until that is known.
#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: writes 4 GiB")]
fn a_value_that_is_too_large_is_refused_and_leaves_no_file() -> Result<()> {
    let scratch = Scratch::new();
    let path = scratch.db();
    let db = Database::create(&path, config())?;
    let error = db.put_reader("key", io::repeat(1).take(1 << 32)).unwrap_err();
    assert!(matches!(error, Error::ValueTooLarge { .. }), "{error:?}");
    assert!(error.to_string().contains("4294967295"), "{error}");
    wait_for_files(&path, 0);
    assert!(db.get("key")?.is_none());
    Ok(())
}
