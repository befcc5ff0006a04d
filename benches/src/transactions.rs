//! What open transactions cost, and whether a hot key starves anybody.
//!
//! Rows of other databases for transactions are in `benches/compare`.

use crate::{
    Bench,
    memory::{config, key, value},
    report::Report,
};
use lightning_db::{Database, LightningDbConfig};
use std::{
    fs,
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

const OPEN: usize = 10_000;
const PUTS: u64 = 200_000;
const READS: u64 = 300_000;
const THREADS: usize = 8;
const HOT_FOR: Duration = Duration::from_secs(5);

fn create(dir: &Path) -> Arc<Database> {
    let config = LightningDbConfig {
        max_active_transactions: 2 * OPEN,
        transaction_timeout: Duration::MAX,
        ..config(256 << 20)
    };
    Database::create(dir.join("db"), config).unwrap()
}

/// Bytes of memory of this process.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    for round in 0..bench.rounds {
        let dir = tempfile::tempdir_in(&bench.dir).unwrap();
        let db = create(dir.path());
        reads(&db, report);
        drop(db);
        open(bench, round, report);
        let dir = tempfile::tempdir_in(&bench.dir).unwrap();
        hot(&create(dir.path()), round);
    }
}

/// A get, a transaction of one get, and one of a hundred.
fn reads(db: &Database, report: &mut Report) {
    (0..READS).for_each(|i| db.put(key(i), value(i)).unwrap());
    db.compact().unwrap();
    (0..READS).for_each(|i| _ = black_box(db.get(key(i)).unwrap()));
    let keys: Vec<_> = (0..READS).map(|i| key(i * 7919 % READS)).collect();
    report.time("get", READS, || {
        keys.iter().for_each(|key| _ = black_box(db.get(key).unwrap().unwrap()));
    });
    report.time("get in a read-only transaction of its own", READS, || {
        for key in &keys {
            let tx = db.transaction().read_only().begin().unwrap();
            black_box(tx.get(key).unwrap().unwrap());
            tx.commit().unwrap();
        }
    });
    report.time("get in read-only transactions of a hundred", READS, || {
        for keys in keys.chunks(100) {
            let tx = db.transaction().read_only().begin().unwrap();
            keys.iter().for_each(|key| _ = black_box(tx.get(key).unwrap().unwrap()));
            tx.commit().unwrap();
        }
    });
}

/// Puts with no transaction open, with one, and with ten thousand that have read and written a key: each into a
/// database of its own.
fn open(bench: &Bench, round: usize, report: &mut Report) {
    let mut all = [0, 1, OPEN as u64];
    all.rotate_left(round % 3);
    for count in all {
        let dir = tempfile::tempdir_in(&bench.dir).unwrap();
        let db = create(dir.path());
        (0..PUTS).for_each(|i| db.put(key(i), value(i)).unwrap());
        let before = resident();
        let open: Vec<_> = (0..count)
            .map(|i| {
                let tx = db.transaction().begin().unwrap();
                black_box(tx.get(key(i)).unwrap());
                tx.put(key(i), value(i)).unwrap();
                tx
            })
            .collect();
        if count > 1 {
            let each = resident().saturating_sub(before) / count;
            println!("round {round}: {each} bytes for each of {count} open transactions");
        }
        let entries: Vec<_> = (PUTS..2 * PUTS).map(|i| (key(i), value(i))).collect();
        report.time(&format!("put, {count} transactions open"), PUTS, || {
            entries.iter().for_each(|(key, value)| db.put(key, value).unwrap());
        });
        drop(open);
    }
}

/// Threads that all count the same counter up.
fn hot(db: &Database, round: usize) {
    let stop = AtomicBool::new(false);
    let counts: Vec<u64> = thread::scope(|scope| {
        let count = || {
            let mut done = 0;
            while !stop.load(Relaxed) {
                db.execute_transaction(|tx| {
                    let old = tx
                        .get("hot")?
                        .map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
                    tx.put("hot", (old + 1).to_le_bytes())
                })
                .unwrap();
                done += 1;
            }
            done
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
        thread::sleep(HOT_FOR);
        stop.store(true, Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let counted = db.get("hot").unwrap().unwrap();
    assert_eq!(u64::from_le_bytes(counted.try_into().unwrap()), counts.iter().sum::<u64>());
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    println!(
        "round {round}: {} counted by {THREADS} threads in {HOT_FOR:?}, by the slowest {least}, by the fastest {most}: {:.2}",
        counts.iter().sum::<u64>(),
        *least as f64 / *most as f64,
    );
}
