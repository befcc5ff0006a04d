//! For the failure that most engines handle worst: the disk is full, or cannot be written, and
//! the database loses what it acknowledged, cannot be opened, or never writes again.
//!
//! On real file systems, an ext4 of 64 MiB and an xfs of 320 MiB, that only root can mount: elsewhere
//! these tests do nothing, and say so.

use crate::{
    child::{Child, say},
    files::{Scratch, contents_of_files},
    random::Random,
};
use lightning_db::{Database, Error, LightningDbConfig, WalSyncMode};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// What the database may use of a disk before it is full.
const LEFT_BYTES: u64 = 26 << 20;
/// Long enough for any machine; passing it means that something hangs.
const NEVER: Duration = Duration::from_secs(60);

/// The file system of a small disk, and the size of its image: no smaller xfs is made.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Kind::Ext4 => "mkfs.ext4",
            Kind::Xfs => "mkfs.xfs",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Kind::Ext4 => 64 << 20,
            Kind::Xfs => 320 << 20,
        }
    }
}

/// A small disk of a test's own.
struct SmallDisk {
    scratch: Scratch,
    mount: PathBuf,
}

fn run(program: &str, arguments: &[&str], path: &[&Path]) -> bool {
    let done = Command::new(program).args(arguments).args(path).output();
    match done {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("{program}: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(error) => {
            eprintln!("{program}: {error}");
            false
        }
    }
}

impl SmallDisk {
    fn new(kind: Kind) -> Option<SmallDisk> {
        let scratch = Scratch::new();
        let (image, mount) = (scratch.path().join("image"), scratch.path().join("mount"));
        fs::File::create(&image).unwrap().set_len(kind.bytes()).unwrap();
        fs::create_dir(&mount).unwrap();
        let mounted = cfg!(target_os = "linux")
            && run(kind.program(), &["-q"], &[&image])
            && run("mount", &["-o", "loop"], &[&image, &mount]);
        if !mounted {
            let program = kind.program();
            eprintln!(
                "skipped: no small disk can be mounted here (it takes Linux, root, {program})"
            );
            return None;
        }
        Some(SmallDisk { scratch, mount })
    }

    fn db(&self) -> PathBuf {
        self.mount.join("db")
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Takes up `bytes`, or all that is left.
    fn load(&self, bytes: u64) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        let mut left = bytes;
        // Smaller and smaller pieces, until not one byte goes in.
        for piece in [1 << 20, 4096, 1] {
            let piece = vec![7; piece as usize];
            while left >= piece.len() as u64 && file.write_all(&piece).is_ok() {
                left -= piece.len() as u64;
            }
        }
        let _full = file.sync_all();
    }

    /// Takes up all but [`LEFT_BYTES`].
    fn load_most(&self) {
        self.load(free_bytes(&self.mount).checked_sub(LEFT_BYTES).unwrap());
    }

    fn unload(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn remount(&self, how: &str) {
        assert!(run("mount", &["-o", &format!("remount,{how}")], &[&self.mount]));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let here = self.scratch.path();
        if !run("umount", &[], &[&self.mount]) && !run("umount", &["-l"], &[&self.mount]) {
            eprintln!("still mounted: {}", here.display());
        }
    }
}

fn config(name: &str) -> LightningDbConfig {
    let small = LightningDbConfig {
        memtable_size: 256 << 10,
        wal_segment_size: 256 << 10,
        cache_size: 1 << 20,
        max_memory: 16 << 20,
        ..Default::default()
    };
    match name {
        "small" => small,
        "small, sync" => LightningDbConfig { wal_sync_mode: WalSyncMode::Sync, ..small },
        "default" => LightningDbConfig::default(),
        other => panic!("no such configuration: {other}"),
    }
}

fn value(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let len = 1 + random.below(2000);
    random.bytes(len as usize)
}

/// Writes the next number, or tells why not.
fn put(db: &Database, number: u64) -> Result<(), Error> {
    db.put(number.to_be_bytes(), value(number))
}

/// Writes numbers until the disk is full; returns the first that could not be written.
fn put_until_full(db: &Database, dir: &Path, mut number: u64) -> u64 {
    loop {
        match put(db, number) {
            Ok(()) => number += 1,
            Err(error) => {
                check_no_space(&error, dir);
                return number;
            }
        }
        assert!(number < LEFT_BYTES / 100, "the disk never becomes full");
    }
}

/// The error says what is wrong, what was tried, and where.
fn check_no_space(error: &Error, dir: &Path) {
    let Error::NoSpace { op, path } = error else { panic!("not NoSpace: {error} ({error:?})") };
    assert!(!op.is_empty() && path.starts_with(dir), "{error}");
    assert!(error.is_retryable() && error.to_string().contains("no space left"), "{error}");
}

/// All numbers below `end` are there, and nothing else.
fn check(db: &Database, end: u64) {
    let mut number = 0u64;
    db.for_each(.., |key, found| {
        assert_eq!(key, number.to_be_bytes());
        assert_eq!(found, value(number), "{number}");
        number += 1;
    })
    .unwrap();
    assert_eq!(number, end);
    for number in (0..end).step_by(97) {
        assert_eq!(db.get(number.to_be_bytes()).unwrap().unwrap(), value(number), "{number}");
    }
}

/// After space came back, writes succeed again in the same process.
fn put_until_it_works(db: &Database, dir: &Path, number: u64) {
    let start = Instant::now();
    while let Err(error) = put(db, number) {
        check_no_space(&error, dir);
        assert!(start.elapsed() < NEVER, "there is space, but no write succeeds: {error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fill_the_disk(kind: Kind, name: &str) {
    let Some(disk) = SmallDisk::new(kind) else { return };
    let dir = disk.db();
    let db = Database::create(&dir, config(name)).unwrap();
    disk.load_most();

    // Filled by the database itself, then to the brim.
    let mut end = put_until_full(&db, &dir, 0);
    println!("{kind:?}, {name}: full after {end} puts, {} bytes free", free_bytes(&disk.mount));
    check(&db, end);
    disk.load(u64::MAX);
    end = put_until_full(&db, &dir, end);
    check(&db, end);
    let keyspace = db.keyspace("made on a full disk");
    if let Err(error) = &keyspace {
        check_no_space(error, &dir);
    }
    assert!(matches!(db.checkpoint(), Ok(()) | Err(Error::NoSpace { .. })));

    // It opens while the disk is full: after a close, and after each of two kills.
    drop(keyspace);
    if let Err(error) = db.close() {
        check_no_space(&error, &dir);
    }
    drop(db);
    let db = Database::open(&dir, config(name)).expect("open on a full disk");
    check(&db, end);
    end = put_until_full(&db, &dir, end);
    drop(db);
    for _ in 0..2 {
        let child = Child::start("fill", &dir, name);
        assert!(child.wait_for("full"), "the child could not open the database on a full disk");
        let said = child.kill();
        let acknowledged = said.iter().rev().find_map(|line| line.strip_prefix("ack "));
        end = acknowledged.map_or(end, |number| number.parse::<u64>().unwrap() + 1);
    }
    let db = Database::open(&dir, config(name)).expect("open on a full disk after two kills");
    check(&db, end);
    end = put_until_full(&db, &dir, end);

    // With space again, this process writes again. As much space as the database takes: merging
    // its runs needs that.
    disk.unload();
    for _ in 0..2000 {
        put_until_it_works(&db, &dir, end);
        end += 1;
    }
    check(&db, end);
    db.close().unwrap();
    drop(db);
    let db = Database::open(&dir, config(name)).unwrap();
    check(&db, end);
    put(&db, end).unwrap();
}

/// A disk that the database filled by itself, and that it empties by itself.
fn delete_from_a_full_disk(kind: Kind, name: &str) {
    let Some(disk) = SmallDisk::new(kind) else { return };
    let dir = disk.db();
    let db = Database::create(&dir, config(name)).unwrap();
    disk.load_most();
    for round in 0..3 {
        let end = put_until_full(&db, &dir, 0);
        println!("{kind:?}, {name}: round {round}: full after {end} puts");
        check(&db, end);
        db.delete_range(..).unwrap();
        check(&db, 0);
        put_until_it_works(&db, &dir, 0);
    }
    db.close().unwrap();
    drop(db);
    check(&Database::open(&dir, config(name)).unwrap(), 1);
}

fn free_bytes(mount: &Path) -> u64 {
    let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(mount).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product()
}

/// Writes until the disk is full, and goes on trying until killed.
pub(crate) fn fill(dir: &Path, name: &str) {
    let db = Database::open(dir, config(name)).unwrap();
    let mut number =
        db.last().unwrap().map_or(0, |(key, _)| u64::from_be_bytes(key.try_into().unwrap()) + 1);
    let mut full = 0;
    loop {
        match put(&db, number) {
            Ok(()) => {
                say(&format!("ack {number}"));
                number += 1;
            }
            Err(error) => {
                check_no_space(&error, dir);
                full += 1;
                if full == 20 {
                    say("full");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: mounts a disk")]
fn a_full_disk_loses_nothing_with_small_files() {
    fill_the_disk(Kind::Ext4, "small");
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: mounts a disk")]
fn a_full_disk_loses_nothing_in_sync_mode() {
    fill_the_disk(Kind::Ext4, "small, sync");
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: mounts a disk")]
fn a_full_disk_loses_nothing_with_default_settings() {
    fill_the_disk(Kind::Ext4, "default");
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: mounts a disk")]
fn a_full_disk_is_left_by_deleting() {
    delete_from_a_full_disk(Kind::Ext4, "small");
    delete_from_a_full_disk(Kind::Ext4, "small, sync");
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: mounts a disk")]
fn a_full_xfs_loses_nothing() {
    fill_the_disk(Kind::Xfs, "small");
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: mounts a disk")]
fn a_full_xfs_is_left_by_deleting() {
    delete_from_a_full_disk(Kind::Xfs, "small");
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: mounts a disk")]
fn creation_on_a_full_disk_fails_whole() {
    let Some(disk) = SmallDisk::new(Kind::Ext4) else { return };
    let dir = disk.db();
    let reserve = disk.mount.join("reserve");
    let mut created = 0;
    // From no space at all to more than enough.
    for kib in [0, 4, 8, 16, 64, 256, 512, 768, 1024, 1536, 2048, 4096] {
        fs::write(&reserve, vec![1; kib << 10]).unwrap();
        disk.load(u64::MAX);
        fs::remove_file(&reserve).unwrap();
        match Database::create(&dir, config("small")) {
            Ok(db) => {
                created += 1;
                match put(&db, 0) {
                    Ok(()) => check(&db, 1),
                    Err(error) => check_no_space(&error, &dir),
                }
            }
            Err(error) => check_no_space(&error, &dir),
        }
        disk.unload();
        // Half created or not: it opens.
        let db = Database::open_or_create(&dir, config("small")).unwrap();
        put_until_it_works(&db, &dir, 0);
        check(&db, 1);
        drop(db);
        fs::remove_dir_all(&dir).unwrap();
    }
    println!("{created} of 12 creations had space enough");
    assert!((1..12).contains(&created));
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: mounts a disk")]
fn a_disk_that_cannot_be_written_is_left_as_it_is() {
    let Some(disk) = SmallDisk::new(Kind::Ext4) else { return };
    let dir = disk.db();
    let db = Database::create(&dir, config("small")).unwrap();
    (0..500).for_each(|number| put(&db, number).unwrap());
    drop(db);
    let before = contents_of_files(&dir);
    disk.remount("ro");
    let tries = [
        Database::open(&dir, config("small")),
        Database::open_or_create(&dir, config("small")),
        Database::open_or_create(disk.mount.join("new"), config("small")),
        Database::create(disk.mount.join("new"), config("small")),
    ];
    for error in tries.map(Result::unwrap_err) {
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("Read-only") && text.contains("mount"), "{text}");
    }
    assert!(contents_of_files(&dir) == before, "something was written");
    disk.remount("rw");
    let db = Database::open(&dir, config("small")).unwrap();
    check(&db, 500);
    put(&db, 500).unwrap();
}

/// Writes until something fails or enough is written.
pub(crate) fn write_with_few_files(dir: &Path) {
    let db = match Database::open_or_create(dir, config("small")) {
        Ok(db) => db,
        Err(error) => return say(&format!("refused {error}")),
    };
    let first = db.iter().unwrap().count() as u64;
    for number in first..first + 1500 {
        if let Err(error) = put(&db, number) {
            say(&format!("refused {error}"));
            break;
        }
        say(&format!("ack {number}"));
    }
    if let Err(error) = db.close() {
        say(&format!("refused {error}"));
    }
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy: many processes")]
fn too_few_open_files_lose_nothing() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let scratch = Scratch::new();
    let dir = scratch.db();
    let (mut end, mut refused, mut passed) = (0, 0, 0);
    // Tables that cannot be merged for want of files stay: only the last has enough.
    for files in (6..30).chain([100]) {
        let child = Child::start_with_few_files(files, "few files", &dir);
        let (status, said) = child.end();
        assert!(status.success(), "with {files} files: {status}, {said:?}");
        for line in &said {
            if let Some(number) = line.strip_prefix("ack ") {
                end = number.parse::<u64>().unwrap() + 1;
            }
            if let Some(error) = line.strip_prefix("refused ") {
                assert!(error.contains("Too many open files"), "with {files} files: {error}");
                refused += 1;
            }
        }
        passed += u64::from(!said.iter().any(|line| line.starts_with("refused")));
        let db = Database::open_or_create(&dir, config("small")).unwrap();
        check(&db, end);
    }
    println!("{refused} refusals for want of files, {passed} runs without, {end} puts, none lost");
    assert!(refused > 0 && passed > 0);
}
