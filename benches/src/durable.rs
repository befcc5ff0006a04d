//! Durable commits against a plain loop of pwrite and fdatasync on a file written before.

use crate::{
    Bench,
    memory::{config, key, value},
    report::Report,
};
use lightning_db::{Database, Durability, LightningDbConfig, WalSyncMode};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

const COMMITS: u64 = 4000;
const BLOCK: usize = 4096;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let config = LightningDbConfig { wal_sync_mode: WalSyncMode::Sync, ..config(64 << 20) };
    for _ in 0..bench.rounds {
        let dir = tempfile::tempdir_in(&bench.dir).unwrap();
        let file = prewritten(&dir.path().join("plain"));
        report.time("pwrite + fdatasync, 4 KiB, prewritten file", COMMITS, || {
            let block = [7; BLOCK];
            for i in 0..COMMITS {
                file.write_all_at(&block, i * BLOCK as u64).unwrap();
                file.sync_data().unwrap();
            }
        });
        let db = Database::create(dir.path().join("db"), config.clone()).unwrap();
        report.time("put, Sync, one thread", COMMITS, || {
            for i in 0..COMMITS {
                db.put(key(i), value(i)).unwrap();
            }
        });
        report.time("put, Sync, eight threads", COMMITS * 2, || {
            std::thread::scope(|scope| {
                for t in 1..=8 {
                    let db = &db;
                    scope.spawn(move || {
                        for i in 0..COMMITS / 4 {
                            db.put(key(t << 32 | i), value(i)).unwrap();
                        }
                    });
                }
            });
        });
        sync_beside_async(&db, report);
    }
}

/// One thread commits durably while another commits without waiting for the disk, but behind it.
fn sync_beside_async(db: &Arc<Database>, report: &mut Report) {
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut i = 0;
            while !stop.load(Ordering::Relaxed) {
                db.put_with(key(9 << 32 | i), value(i), Durability::Async).unwrap();
                i += 1;
            }
            done.store(i, Ordering::Relaxed);
        });
        for i in 0..COMMITS / 4 {
            db.put(key(10 << 32 | i), value(i)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let took = start.elapsed();
    report.add("put, Sync, beside an Async writer", COMMITS / 4, took);
    report.add("put, Async, beside a Sync writer", done.load(Ordering::Relaxed), took);
}

fn prewritten(path: &Path) -> File {
    let file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
    let zeros = vec![0; 1 << 20];
    for i in 0..COMMITS * BLOCK as u64 / zeros.len() as u64 + 1 {
        file.write_all_at(&zeros, i << 20).unwrap();
    }
    file.sync_all().unwrap();
    file
}
