//! For the failure that shows only when everything happens at once: readers, writers, range
//! deletes, flushes, merges, keyspaces that come and go, on real threads. What is checked holds
//! at every moment, whatever the order.

use crate::{files::Scratch, random::Random};
use lightning_db::{Database, Durability, Error, LightningDbConfig, Snapshot, WriteBatch};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// How long one opening of the database is worked on, and how often it is opened.
const WORK: Duration =
    Duration::from_millis(if cfg!(feature = "integration_tests") { 5000 } else { 700 });
const OPENINGS: usize = if cfg!(feature = "integration_tests") { 4 } else { 2 };

const ACCOUNTS: u64 = 40;
const BALANCE: i64 = 1000;
const COUNTERS: u64 = 2;

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 64 << 10,
        wal_segment_size: 64 << 10,
        cache_size: 128 << 10,
        max_memory: 8 << 20,
        wal_sync_interval: Duration::from_millis(2),
        ..Default::default()
    }
}

fn account(i: u64) -> String {
    format!("account/{i:03}")
}

fn number(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes.try_into().unwrap())
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// All that the threads share.
struct World {
    db: Arc<Database>,
    stop: AtomicBool,
    /// How far each counter was acknowledged.
    counted: [AtomicU64; COUNTERS as usize],
    done: [AtomicU64; 7],
}

impl World {
    fn go_on(&self) -> bool {
        !self.stop.load(SeqCst)
    }

    fn count(&self, what: usize) {
        self.done[what].fetch_add(1, SeqCst);
    }

    /// The only writer of accounts: in each commit what one loses another gains.
    fn transfer(&self, random: &mut Random) {
        let mut balances: Vec<_> =
            (0..ACCOUNTS).map(|i| number(&self.db.get(account(i)).unwrap().unwrap())).collect();
        while self.go_on() {
            let (from, to) = (random.below(ACCOUNTS) as usize, random.below(ACCOUNTS) as usize);
            let amount = random.below(100) as i64;
            balances[from] -= amount;
            balances[to] += amount;
            let mut batch = WriteBatch::new();
            for i in [from, to] {
                // Now and then through a range delete in the same commit.
                if random.below(20) == 0 {
                    batch.delete_range(account(i as u64)..=account(i as u64));
                }
                batch.put(account(i as u64), balances[i].to_le_bytes());
            }
            let durability = match random.below(50) {
                0 => Durability::Sync,
                _ => Durability::Async,
            };
            self.db.write_with(batch, durability).unwrap();
            self.count(0);
        }
    }

    /// Counts in a keyspace of its own, all numbers there, old ones deleted by range.
    fn counter(&self, me: u64, random: &mut Random) {
        let keyspace = self.db.keyspace(&format!("counter {me}")).unwrap();
        let last = keyspace.last().unwrap();
        let mut next = last.map_or(1, |(key, _)| u64::from_be_bytes(key.try_into().unwrap()) + 1);
        while self.go_on() {
            let len = random.below(300) as usize;
            let value = random.bytes(len);
            keyspace.put(next.to_be_bytes(), value).unwrap();
            self.counted[me as usize].store(next, SeqCst);
            if next.is_multiple_of(500) {
                keyspace.delete_range(..(next - 250).to_be_bytes()).unwrap();
            }
            next += 1;
            self.count(1);
        }
    }

    /// Every snapshot adds up, and stays what it is.
    fn audit(&self, random: &mut Random) {
        let mut kept: Vec<(Snapshot, Entries)> = vec![];
        while self.go_on() {
            let snapshot = self.db.snapshot().unwrap();
            let entries: Entries =
                snapshot.scan_prefix("account/").unwrap().map(Result::unwrap).collect();
            assert_eq!(entries.len() as u64, ACCOUNTS);
            let sum: i64 = entries.iter().map(|(_, value)| number(value)).sum();
            assert_eq!(sum, BALANCE * ACCOUNTS as i64);
            let keys: Vec<_> = (0..ACCOUNTS).map(account).collect();
            let values = snapshot.get_batch(&keys).unwrap();
            for ((key, value), found) in entries.iter().zip(values) {
                assert_eq!(Some(value), found.as_ref(), "{key:?}");
            }
            let reversed = snapshot.scan_reverse(Some(b"account/"), Some(b"account0")).unwrap();
            assert!(reversed.map(Result::unwrap).eq(entries.iter().rev().cloned()));
            let of_batch = self.db.get_batch(&keys).unwrap();
            let sum: i64 = of_batch.into_iter().map(|value| number(&value.unwrap())).sum();
            assert_eq!(sum, BALANCE * ACCOUNTS as i64, "get_batch is of one moment");
            kept.push((snapshot, entries));
            if kept.len() > 4 {
                let (snapshot, entries) = kept.swap_remove(random.below(4) as usize);
                let again = snapshot.scan_prefix("account/").unwrap().map(Result::unwrap);
                assert!(again.eq(entries), "a snapshot changed");
            }
            self.count(2);
        }
    }

    /// What was acknowledged is there, without holes, and never goes back.
    fn watch_counters(&self) {
        let keyspaces: Vec<_> =
            (0..COUNTERS).map(|i| self.db.keyspace(&format!("counter {i}")).unwrap()).collect();
        let mut seen = [0; COUNTERS as usize];
        while self.go_on() {
            for (i, keyspace) in keyspaces.iter().enumerate() {
                let acknowledged = self.counted[i].load(SeqCst);
                let mut numbers = vec![];
                let start = acknowledged.saturating_sub(100).to_be_bytes();
                let scan = keyspace.range(start..).unwrap();
                for entry in scan {
                    numbers.push(u64::from_be_bytes(entry.unwrap().0.try_into().unwrap()));
                }
                let last = numbers.last().copied().unwrap_or_default();
                assert!(last >= acknowledged && last >= seen[i], "{last} {acknowledged} {seen:?}");
                assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "a hole in {numbers:?}");
                seen[i] = last;
            }
            self.count(3);
        }
    }

    /// A keyspace that comes, is used across with another, and goes.
    fn come_and_go(&self, random: &mut Random) {
        while self.go_on() {
            let name = format!("guest {}", random.below(3));
            let guest = self.db.keyspace(&name).unwrap();
            assert!(guest.first().unwrap().is_none(), "{name} is another one, and empty");
            let count = random.below(200);
            for i in 0..count {
                let mut batch = WriteBatch::new();
                batch.put_in(&guest, i.to_be_bytes(), vec![7; 50]).put("guests", name.as_bytes());
                self.db.write(batch).unwrap();
            }
            let snapshot = guest.snapshot().unwrap();
            assert_eq!(guest.iter().unwrap().count() as u64, count);
            self.db.drop_keyspace(&name).unwrap();
            let refused = guest.put("key", "value").unwrap_err();
            assert!(matches!(refused, Error::KeyspaceNotFound { .. }), "{refused}");
            assert_eq!(snapshot.iter().unwrap().count() as u64, count, "a snapshot still reads it");
            self.count(4);
        }
    }

    /// Whole stretches come and go: all of a stretch is there, or nothing.
    fn stretches(&self, random: &mut Random) {
        let keyspace = self.db.keyspace("stretches").unwrap();
        while self.go_on() {
            let stretch = random.below(20);
            let key = |i: u64| format!("{stretch:02}/{i:02}");
            match random.below(2) {
                0 => keyspace.delete_range(key(0)..=key(99)).unwrap(),
                _ => {
                    let value = random.bytes(20);
                    let entries: Vec<_> = (0..30).map(|i| (key(i), value.clone())).collect();
                    keyspace.put_batch(&entries).unwrap();
                }
            }
            self.count(5);
        }
    }

    fn watch_stretches(&self) {
        let keyspace = self.db.keyspace("stretches").unwrap();
        while self.go_on() {
            check_stretches(&keyspace.snapshot().unwrap());
            self.count(6);
        }
    }
}

fn check_stretches(snapshot: &Snapshot) {
    for stretch in 0..20 {
        let entries: Vec<_> =
            snapshot.scan_prefix(format!("{stretch:02}/")).unwrap().map(Result::unwrap).collect();
        assert!(entries.is_empty() || entries.len() == 30, "{} of 30", entries.len());
        assert!(entries.windows(2).all(|w| w[0].1 == w[1].1), "of two commits");
    }
}

fn work(path: &Path, opening: u64, counted: &mut [u64; COUNTERS as usize]) -> Vec<u64> {
    let db = Database::open_or_create(path, config()).unwrap();
    if opening == 0 {
        let entries: Vec<_> = (0..ACCOUNTS).map(|i| (account(i), BALANCE.to_le_bytes())).collect();
        db.put_batch(&entries).unwrap();
    }
    // What the last opening left.
    for (i, last) in counted.iter().enumerate() {
        let found = db.keyspace(&format!("counter {i}")).unwrap().last().unwrap();
        let found = found.map_or(0, |(key, _)| u64::from_be_bytes(key.try_into().unwrap()));
        assert_eq!(found, *last);
    }
    check_stretches(&db.keyspace("stretches").unwrap().snapshot().unwrap());
    for name in db.keyspaces().unwrap().iter().filter(|name| name.starts_with("guest")) {
        db.drop_keyspace(name).unwrap();
    }
    let world = World {
        db,
        stop: AtomicBool::new(false),
        counted: counted.map(AtomicU64::new),
        done: Default::default(),
    };
    let random = |i: u64| Random::new(opening * 100 + i);
    std::thread::scope(|scope| {
        let world = &world;
        let threads = [
            scope.spawn(move || world.transfer(&mut random(0))),
            scope.spawn(move || world.counter(0, &mut random(1))),
            scope.spawn(move || world.counter(1, &mut random(2))),
            scope.spawn(move || world.audit(&mut random(3))),
            scope.spawn(move || world.audit(&mut random(4))),
            scope.spawn(move || world.watch_counters()),
            scope.spawn(move || world.come_and_go(&mut random(5))),
            scope.spawn(move || world.stretches(&mut random(6))),
            scope.spawn(move || world.watch_stretches()),
        ];
        let start = Instant::now();
        while start.elapsed() < WORK && !threads.iter().any(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // A thread that failed ends the others; its panic is told when the scope ends.
        world.stop.store(true, SeqCst);
    });
    *counted = [0, 1].map(|i| world.counted[i].load(SeqCst));
    let stats = world.db.stats().unwrap();
    println!(
        "opening {opening}: {} flushes, {} merges, {} stalls, {} recovered commits",
        stats.flushes, stats.compactions, stats.stalls, stats.recovered_commits
    );
    world.db.close().unwrap();
    world.done.map(|n| n.load(SeqCst)).to_vec()
}

#[test]
fn everything_at_once_adds_up() {
    let scratch = Scratch::new();
    let mut counted = [0; COUNTERS as usize];
    let mut total = vec![0; 7];
    for opening in 0..OPENINGS as u64 {
        let done = work(&scratch.db(), opening, &mut counted);
        total.iter_mut().zip(done).for_each(|(total, done)| *total += done);
    }
    println!(
        "{} transfers, {} counted, {} audits, {} looks at counters, {} guests, {} stretches, {} \
         looks at stretches",
        total[0], total[1], total[2], total[3], total[4], total[5], total[6]
    );
    assert!(total.iter().all(|n| *n > 0), "somebody never got to work: {total:?}");
}
