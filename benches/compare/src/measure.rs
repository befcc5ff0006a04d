//! The measurements of one engine, in the process that is its own.

use crate::{
    options::Plan,
    rows::{self, Rows},
    store::{BATCH, Commits, Direction, Lookup, Ordered, Reader, Store, Transactions},
    workload::{self, Entry, Key, Random},
};
use std::{
    fs, hint,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Gets of a row.
const GETS: u64 = 500_000;
/// Puts that do not wait for the disk are as many as there are entries, or fewer if they take longer.
const PUTS_TAKE: Duration = Duration::from_secs(15);
/// Puts that wait for the disk.
const DURABLE_PUTS: u64 = 2_000;
/// Threads that put and wait for the disk at once.
const THREADS: u64 = 8;
/// Batches that wait for the disk.
const DURABLE_BATCHES: u64 = 200;
/// How long gets are measured beside writes, and how often a batch is written then: memtables fill up meanwhile, are
/// flushed and merged.
const WRITING: Duration = Duration::from_secs(6);
const WRITES_EVERY: Duration = Duration::from_millis(20);
/// Keys of a batch of gets.
const KEYS: usize = 100;
/// Entries that a row of short scans reads.
const SCANNED: u64 = 1_000_000;
/// Transactions of a thread.
const UPDATES: u64 = 300_000;
/// Operations of the mix.
const MIXED: u64 = 200_000;

/// The rows on the settled database that was filled in random order.
const SETTLED_ROWS: &[&str] = &[
    rows::RANDOM_LOAD,
    rows::RANDOM_SETTLED,
    rows::RANDOM_SIZE,
    rows::GET,
    rows::GET_CHAINED,
    rows::GET_TWO,
    rows::GET_ZIPF,
    rows::GET_MISSING,
    rows::GET_BATCH,
    rows::GET_BATCH_LENT,
    rows::GET_SNAPSHOT,
    rows::SCAN_10,
    rows::SCAN_100,
    rows::SCAN_FORWARD,
    rows::SCAN_OWNED,
    rows::SCAN_REVERSE,
    rows::MIX,
    rows::GET_WRITING,
    rows::READ_ONE,
    rows::READ_MANY,
];
/// The rows that get values.
const LOOKUP_ROWS: &[&str] = &[
    rows::GET,
    rows::GET_CHAINED,
    rows::GET_TWO,
    rows::GET_ZIPF,
    rows::GET_MISSING,
    rows::GET_BATCH,
    rows::GET_BATCH_LENT,
    rows::GET_SNAPSHOT,
    rows::READ_ONE,
    rows::READ_MANY,
];
/// The rows that read entries in order.
const SCAN_ROWS: &[&str] =
    &[rows::SCAN_10, rows::SCAN_100, rows::SCAN_FORWARD, rows::SCAN_OWNED, rows::SCAN_REVERSE];
/// The rows on the database that was filled in the order of the keys.
const SORTED_ROWS: &[&str] = &[rows::SORTED_LOAD, rows::SORTED_SETTLED, rows::SORTED_SIZE];

/// Every row of an engine.
pub(crate) fn store<S: Store>(plan: &Plan, rows: &Rows) {
    if rows.want(SETTLED_ROWS) {
        with_store(plan, Commits::Fast, |store: &mut S, dir| {
            random_load(store, dir, plan, rows);
            lookups(store, plan, rows);
            scans(store, plan, rows);
            rows.time(rows::MIX, MIXED, || in_two_threads(|t| mix(store, plan, t)));
            if rows.want(&[rows::GET_WRITING]) {
                get_while_writing(store, plan, rows);
            }
        });
    }
    if rows.want(SORTED_ROWS) {
        with_store(plan, Commits::Fast, |store: &mut S, dir| sorted_load(store, dir, plan, rows));
    }
    puts::<S>(plan, rows);
    updates::<S::Transactions>(plan, rows);
}

/// The rows of transactions that write, on a database as it is just after it was filled.
fn updates<T: Transactions>(plan: &Plan, rows: &Rows) {
    if !rows.want(&[rows::UPDATE, rows::UPDATE_TWO]) {
        return;
    }
    let dir = tempfile::tempdir_in(&plan.dir).unwrap();
    let store = T::create(dir.path());
    in_chunks(plan.entries, Duration::MAX, |entries| store.fill(entries));
    let each = |keys: &[Key]| {
        let ends = Instant::now() + PUTS_TAKE;
        let mut keys = keys.iter().enumerate();
        let late = keys.find(|(n, key)| {
            store.update(key, |value| value[0] = value[0].wrapping_add(1));
            n % 128 == 127 && Instant::now() > ends
        });
        late.map_or(UPDATES, |(n, _)| n as u64 + 1)
    };
    let keys = workload::uniform(plan.entries, 2 * UPDATES);
    let (first, second) = keys.split_at(UPDATES as usize);
    let (start, done) = (Instant::now(), each(first));
    rows.rate(rows::UPDATE, done, start.elapsed());
    let done = AtomicU64::new(0);
    let start = Instant::now();
    in_two_threads(|t| {
        done.fetch_add(each([first, second][t as usize]), Ordering::Relaxed);
    });
    rows.rate(rows::UPDATE_TWO, done.into_inner(), start.elapsed());
}

/// The rows that write into an empty database, an entry or a batch at a time.
fn puts<S: Store>(plan: &Plan, rows: &Rows) {
    for (row, count, commits) in [
        (rows::PUT, plan.entries, Commits::Fast),
        (rows::PUT_DURABLE, DURABLE_PUTS, Commits::Durable),
    ] {
        if rows.want(&[row]) {
            with_store(plan, commits, |store: &mut S, _| {
                let each = |entries: &[Entry]| entries.iter().for_each(|entry| store.put(entry));
                let (done, took) = in_chunks(count, PUTS_TAKE, each);
                rows.rate(row, done, took);
            });
        }
    }
    if rows.want(&[rows::PUT_EIGHT]) {
        with_store(plan, Commits::Durable, |store: &mut S, _| {
            let of_one = DURABLE_PUTS / 2;
            let entries: Vec<Entry> = (0..THREADS * of_one).map(workload::entry).collect();
            rows.time(rows::PUT_EIGHT, THREADS * of_one, || {
                std::thread::scope(|scope| {
                    for part in entries.chunks(of_one as usize) {
                        let store = &*store;
                        scope.spawn(move || part.iter().for_each(|entry| store.put(entry)));
                    }
                });
            });
        });
    }
    if rows.want(&[rows::WRITE_DURABLE]) {
        with_store(plan, Commits::Durable, |store: &mut S, _| {
            let count = DURABLE_BATCHES * BATCH as u64;
            let (done, took) = in_chunks(count, PUTS_TAKE, |entries| store.write(entries));
            rows.rate(rows::WRITE_DURABLE, done, took);
        });
    }
}

/// Runs `with` on an empty database.
fn with_store<S: Store>(plan: &Plan, commits: Commits, with: impl FnOnce(&mut S, &Path)) {
    let dir = tempfile::tempdir_in(&plan.dir).unwrap();
    with(&mut S::create(dir.path(), commits), dir.path());
}

/// Hands `count` entries, a thousand at a time, to `with`, or fewer if that takes longer than `max`. Tells
/// how many and how long that took, without the making of the entries.
fn in_chunks(count: u64, max: Duration, mut with: impl FnMut(&[Entry])) -> (u64, Duration) {
    let (mut done, mut took) = (0, Duration::ZERO);
    while done < count && took < max {
        let end = count.min(done + BATCH as u64);
        let entries: Vec<Entry> = (done..end).map(workload::entry).collect();
        let start = Instant::now();
        with(&entries);
        took += start.elapsed();
        done = end;
    }
    (done, took)
}

fn random_load(store: &mut impl Store, dir: &Path, plan: &Plan, rows: &Rows) {
    let (_, load) = in_chunks(plan.entries, Duration::MAX, |entries| store.write(entries));
    let settled = load + settling(store);
    rows.rate(rows::RANDOM_LOAD, plan.entries, load);
    rows.rate(rows::RANDOM_SETTLED, plan.entries, settled);
    rows.size(rows::RANDOM_SIZE, allocated(dir));
}

/// The making of the entries is timed too: an engine takes them one by one.
fn sorted_load(store: &mut impl Store, dir: &Path, plan: &Plan, rows: &Rows) {
    let order = workload::sorted(plan.entries);
    let start = Instant::now();
    store.load_sorted(order.into_iter().map(workload::entry));
    let load = start.elapsed();
    let settled = load + settling(store);
    rows.rate(rows::SORTED_LOAD, plan.entries, load);
    rows.rate(rows::SORTED_SETTLED, plan.entries, settled);
    rows.size(rows::SORTED_SIZE, allocated(dir));
}

fn settling(store: &mut impl Store) -> Duration {
    let start = Instant::now();
    store.settle();
    start.elapsed()
}

/// Bytes of the blocks that the files under `dir` have.
fn allocated(dir: &Path) -> u64 {
    let bytes = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => allocated(&entry.path()),
        meta => meta.blocks() * 512,
    };
    fs::read_dir(dir).unwrap().map(|entry| bytes(entry.unwrap())).sum()
}

/// The rows that get values. What they get is checked, and brought into memory, before.
pub(crate) fn lookups(store: &impl Lookup, plan: &Plan, rows: &Rows) {
    if !rows.want(LOOKUP_ROWS) {
        return;
    }
    let keys = workload::uniform(plan.entries, GETS);
    check(store, plan);
    get_all(store, &keys);
    rows.time(rows::GET, GETS, || get_all(store, &keys));
    rows.time(rows::GET_CHAINED, GETS, || get_chained(store, plan));
    rows.time(rows::GET_TWO, GETS, || {
        let (first, second) = keys.split_at(keys.len() / 2);
        in_two_threads(|t| get_all(store, [first, second][t as usize]));
    });
    rows.time(rows::GET_BATCH, GETS, || {
        let mut reader = store.reader();
        for keys in keys.chunks(KEYS) {
            reader.get_batch(keys, |value| {
                hint::black_box(workload::sum(value));
            });
        }
    });
    if rows.want(&[rows::GET_BATCH_LENT]) {
        let mut reader = store.reader();
        let start = Instant::now();
        let mut batches = keys.chunks(KEYS);
        let all = batches.all(|keys| {
            reader.get_batch_lent(keys, |value| {
                hint::black_box(workload::sum(value));
            })
        });
        if all {
            rows.rate(rows::GET_BATCH_LENT, GETS, start.elapsed());
        }
    }
    if let Some(mut snapshot) = store.snapshot() {
        rows.time(rows::GET_SNAPSHOT, GETS, || {
            for key in &keys {
                hint::black_box(get(&mut snapshot, key));
            }
        });
    }
    for (row, together) in [(rows::READ_ONE, 1), (rows::READ_MANY, KEYS)] {
        rows.time(row, GETS, || {
            for keys in keys.chunks(together) {
                store.read_together(keys, |value| {
                    hint::black_box(workload::sum(value));
                });
            }
        });
    }
    let keys = workload::zipf(plan.entries, GETS);
    rows.time(rows::GET_ZIPF, GETS, || get_all(store, &keys));
    let keys = workload::missing(plan.entries, GETS);
    rows.time(rows::GET_MISSING, GETS, || {
        let mut reader = store.reader();
        keys.iter().for_each(|key| assert!(reader.get(key).is_none()));
    });
}

/// Ends the process if a value is not what was put. One in a hundred is compared.
fn check(store: &impl Lookup, plan: &Plan) {
    let mut reader = store.reader();
    for entry in (0..plan.entries).step_by(100).map(workload::entry) {
        let value = reader.get(&entry.key).expect("a key that is there");
        assert_eq!(value.as_ref(), entry.value);
    }
}

fn get_all(store: &impl Lookup, keys: &[Key]) {
    let mut reader = store.reader();
    for key in keys {
        hint::black_box(get(&mut reader, key));
    }
}

/// Gets a value that is there and reads it.
fn get(reader: &mut impl Reader, key: &Key) -> u64 {
    workload::sum(reader.get(key).expect("a key that is there").as_ref())
}

/// No get can begin before the one before has ended: its value and the step decide on the next key.
/// Without the step the keys would soon come in a circle.
fn get_chained(store: &impl Lookup, plan: &Plan) {
    let mut reader = store.reader();
    let mut index = 0;
    for step in 0..GETS {
        let sum = get(&mut reader, &workload::key(index));
        index = Random(sum.wrapping_add(step)).below(plan.entries);
    }
    hint::black_box(index);
}

/// The rows that read entries in order, after one scan that brings them into memory.
pub(crate) fn scans<S: Ordered>(store: &S, plan: &Plan, rows: &Rows) {
    if !rows.want(SCAN_ROWS) {
        return;
    }
    scan_all(store, Direction::Forward, plan);
    for (row, count) in [(rows::SCAN_10, 10), (rows::SCAN_100, 100)] {
        let starts = workload::uniform(plan.entries, SCANNED / count);
        rows.time(row, SCANNED, || {
            let mut reader = store.reader();
            for from in &starts {
                S::scan(&mut reader, from, count as usize, |value| {
                    hint::black_box(workload::sum(value));
                });
            }
        });
    }
    rows.time(rows::SCAN_FORWARD, plan.entries, || scan_all(store, Direction::Forward, plan));
    rows.time(rows::SCAN_OWNED, plan.entries, || {
        S::scan_copied(&mut store.reader(), |key, value| {
            hint::black_box((key, workload::sum(&value)));
        });
    });
    rows.time(rows::SCAN_REVERSE, plan.entries, || scan_all(store, Direction::Reverse, plan));
}

fn scan_all<S: Ordered>(store: &S, direction: Direction, plan: &Plan) {
    let (mut count, mut sum) = (0, 0_u64);
    S::scan_all(&mut store.reader(), direction, |value| {
        count += 1;
        sum = sum.wrapping_add(workload::sum(value));
    });
    assert_eq!(count, plan.entries);
    hint::black_box(sum);
}

/// One thread's half of the mix: every fifth operation puts an entry again, and every get sees what
/// is newest, which takes a read transaction of its own where there are such.
fn mix(store: &impl Store, plan: &Plan, thread: u64) {
    let mut random = Random(3 + thread);
    for i in 0..MIXED / 2 {
        let index = random.below(plan.entries);
        match i % 5 {
            0 => store.put(&workload::entry(index)),
            _ => {
                hint::black_box(get(&mut store.reader(), &workload::key(index)));
            }
        }
    }
}

/// Gets in one thread while another writes new entries, a batch at a time.
fn get_while_writing(store: &impl Store, plan: &Plan, rows: &Rows) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut next, mut due) = (plan.entries, Instant::now());
            while !ended.load(Ordering::Relaxed) {
                let batch: Vec<Entry> = (next..next + BATCH as u64).map(workload::entry).collect();
                store.write(&batch);
                next += BATCH as u64;
                due += WRITES_EVERY;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        let (mut random, mut gets, start) = (Random(5), 0, Instant::now());
        while start.elapsed() < WRITING {
            let mut reader = store.reader();
            for _ in 0..KEYS {
                let key = workload::key(random.below(plan.entries));
                hint::black_box(get(&mut reader, &key));
            }
            gets += KEYS as u64;
        }
        rows.rate(rows::GET_WRITING, gets, start.elapsed());
        ended.store(true, Ordering::Relaxed);
    });
}

fn in_two_threads(run: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let run = &run;
            scope.spawn(move || run(thread));
        }
    });
}
