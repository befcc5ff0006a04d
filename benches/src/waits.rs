//! How long an Async put waits at a known rate of writes, and what went on in the background meanwhile.

use crate::{
    Bench,
    memory::{key, value},
    report::Report,
};
use lightning_db::{Database, LightningDbConfig, WriteBatch};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread::sleep,
    time::{Duration, Instant},
};

const PER_SECOND: u64 = 50_000;
const TAKES: Duration = Duration::from_secs(40);
/// A wait that is worth a line.
const LONG: Duration = Duration::from_millis(2);
/// How often it is looked what the background has done, and whether the machine gave the thread its turn.
const LOOK: Duration = Duration::from_millis(1);

/// Memtables small enough for a merge every few seconds.
fn config() -> LightningDbConfig {
    LightningDbConfig { memtable_size: 8 << 20, cache_size: 512 << 20, ..Default::default() }
}

/// What was seen of the background at one time.
struct Look {
    at: Duration,
    flushes: u64,
    merges: u64,
    slice_bytes: u64,
    stalls: u64,
    /// How much later than asked for it was.
    late: Duration,
}

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    for round in 0..bench.rounds {
        let dir = tempfile::tempdir_in(&bench.dir).unwrap();
        measure(&dir.path().join("db"), bench.entries, round, report);
    }
}

fn measure(path: &Path, entries: u64, round: usize, report: &mut Report) {
    let db = Database::create(path, config()).unwrap();
    for first in (0..entries).step_by(1000) {
        let mut batch = WriteBatch::new();
        for i in first..first + 1000 {
            batch.put(key(i), value(i));
        }
        db.write(batch).unwrap();
    }
    db.compact().unwrap();
    let (start, end) = (Instant::now(), AtomicBool::new(false));
    let mut waits = Vec::with_capacity((PER_SECOND * TAKES.as_secs()) as usize);
    let looks = std::thread::scope(|scope| {
        let looking = scope.spawn(|| look(&db, start, &end));
        for i in 0..PER_SECOND * TAKES.as_secs() {
            let due = Duration::from_micros(i * 1_000_000 / PER_SECOND);
            while start.elapsed() < due {
                sleep(Duration::from_micros(100));
            }
            // Every second one overwrites.
            let number = if i % 2 == 0 { entries + i } else { i.wrapping_mul(7919) % entries };
            let began = start.elapsed();
            db.put(key(number), value(i)).unwrap();
            waits.push((start.elapsed() - began, began));
        }
        end.store(true, Relaxed);
        looking.join().unwrap()
    });
    tell(round, waits, &looks, report);
}

fn look(db: &Database, start: Instant, end: &AtomicBool) -> Vec<Look> {
    let mut looks = vec![];
    while !end.load(Relaxed) {
        let asked = start.elapsed();
        sleep(LOOK);
        let late = start.elapsed().saturating_sub(asked + LOOK);
        let stats = db.stats().unwrap();
        looks.push(Look {
            at: start.elapsed(),
            flushes: stats.flushes,
            merges: stats.compactions,
            slice_bytes: stats.compacted_bytes,
            stalls: stats.stalls,
            late,
        });
    }
    looks
}

fn tell(round: usize, mut waits: Vec<(Duration, Duration)>, looks: &[Look], report: &mut Report) {
    let (first, last) = (&looks[0], looks.last().unwrap());
    println!(
        "round {round}: {} puts, {} flushes, {} merges, {} MiB of nodes, {} waits for a flush; a thread \
         that slept woke {:?} late at most",
        waits.len(),
        last.flushes - first.flushes,
        last.merges - first.merges,
        (last.slice_bytes - first.slice_bytes) >> 20,
        last.stalls - first.stalls,
        looks.iter().map(|look| look.late).max().unwrap(),
    );
    waits.sort_unstable();
    let (longest, of) = (waits[waits.len() - 1].0, waits.len());
    report.add("put, Async, 50,000/s beside merges: longest", 1, longest);
    for (name, part) in [("99.99 %", 9_999), ("99.9 %", 9_990), ("50 %", 5_000)] {
        let name = format!("put, Async, 50,000/s beside merges: {name}");
        report.add(&name, 1, waits[of / 10_000 * part].0);
    }
    for (wait, began) in waits.iter().rev().take(10).take_while(|(wait, _)| *wait >= LONG) {
        let before = looks.iter().rev().find(|look| look.at <= *began).unwrap_or(first);
        let after = looks.iter().find(|look| look.at >= *began + *wait).unwrap_or(last);
        let near = looks.iter().filter(|look| look.at >= *began && look.at <= after.at);
        println!(
            "  {wait:?} from {began:?} on: {} flushes and {} merges ended, {} KiB of nodes, {} waits for a \
             flush; the other thread woke {:?} late",
            after.flushes - before.flushes,
            after.merges - before.merges,
            (after.slice_bytes - before.slice_bytes) >> 10,
            after.stalls - before.stalls,
            near.map(|look| look.late).max().unwrap_or_default(),
        );
    }
}
