//! Inserting out of order, and many threads at once.

use super::*;
use crate::sync::{AtomicBool, AtomicU64, Mutex};
use std::thread;

/// A version in the wrong place of its chain is hidden from readers, or hides others: replay and
/// concurrent commits insert versions in any order.
#[test]
fn chains_descend_whatever_the_order_of_insertion() {
    for seed in 0..scaled(2000) as u64 {
        let mut random = Random(seed);
        let memtable = Memtable::new(1 << 16, SeqNo(1)).unwrap();
        let key = key(0, b"hot");
        let versions = random.below(12) + 1;
        let mut waiting: Vec<(u64, Reservation)> = (1..=versions as u64)
            .map(|seq| (seq, reserve_one(&memtable, &key.1, b"12345678")))
            .collect();
        let mut inserted = BTreeSet::new();
        while !waiting.is_empty() {
            let (seq, mut r) = waiting.swap_remove(random.below(waiting.len()));
            insert(&memtable, &mut r, &key, seq, Some(&seq.to_be_bytes()));
            inserted.insert(seq);
            for visible in 0..=versions as u64 + 1 {
                let newest = inserted.range(..=visible).next_back();
                let found = get(&memtable, &key, visible).map(|(seq, _, value)| {
                    assert_eq!(value, seq.0.to_be_bytes());
                    seq.0
                });
                assert_eq!(found.as_ref(), newest);
            }
        }
    }
}

/// A cursor that skips a reserved entry not written yet would miss it for ever: the runs are
/// taken up where the last pass ended.
#[test]
fn an_ordering_pass_stops_at_an_entry_that_is_not_ready() {
    let memtable = Arc::new(Memtable::new(1 << 20, SeqNo(1)).unwrap());
    let (a, b, c) = (key(0, b"a"), key(0, b"b"), key(0, b"c"));
    let keys = |visible: u64| {
        let mut cursor = memtable.cursor(KeyspaceId(0), SeqNo(visible));
        let mut keys = vec![];
        cursor.seek_first().unwrap();
        while let Some(entry) = cursor.entry() {
            keys.extend_from_slice(entry.key);
            cursor.next().unwrap();
        }
        keys
    };
    put(&memtable, &a, 1, b"");
    let mut late = reserve_one(&memtable, &b.1, b"");
    put(&memtable, &c, 3, b"");
    assert_eq!(keys(1), b"a");
    insert(&memtable, &mut late, &b, 2, Some(b""));
    assert_eq!(keys(1), b"a", "what is visible was in order already");
    assert_eq!(keys(3), b"abc");
}

/// A version lost between two threads that insert the same new key at once: each claims a slot
/// for it, or both link their older versions to the same newer one.
#[test]
fn two_threads_may_insert_versions_of_one_key() {
    let keys = scaled(10_000) as u64;
    let memtable = Memtable::new(8 << 20, SeqNo(1)).unwrap();
    let reserved: Vec<Mutex<Reservation>> = (0..4 * keys)
        .map(|_| Mutex::new(reserve_one(&memtable, &[0; 8], b"")))
        .collect();
    let done = [AtomicU64::new(0), AtomicU64::new(0)];
    let insert_all = |me: usize| {
        for i in 0..keys {
            // In step with the other thread, unless that sleeps.
            for _ in 0..300 {
                if done[1 - me].load(Ordering::Relaxed) >= i {
                    break;
                }
                std::hint::spin_loop();
            }
            let key = key(0, &i.to_be_bytes());
            for at in [4 * i + 2 + me as u64, 4 * i + me as u64] {
                let mut r = reserved[at as usize].lock();
                insert(&memtable, &mut r, &key, at + 1, Some(b""));
            }
            done[me].store(i + 1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| insert_all(1));
        insert_all(0);
    });
    for i in 0..keys {
        let key = key(0, &i.to_be_bytes());
        for seq in 4 * i + 1..=4 * i + 4 {
            assert_eq!(get(&memtable, &key, seq).unwrap().0, SeqNo(seq));
        }
    }
    assert_eq!(memtable.updates.0.load(Ordering::Relaxed) as u64, 3 * keys);
}

/// Threads that insert, publish in order, read and order, all at once: a published entry that a
/// get or a cursor misses, a chain that does not descend, bytes seen before they are whole.
#[test]
fn readers_never_miss_what_was_published() {
    const KEYS: usize = 50;
    let commits = scaled(20_000) as u64;
    let memtable = Arc::new(Memtable::new(8 << 20, SeqNo(1)).unwrap());
    // Which key each SeqNo writes; SeqNo 0 writes none.
    let mut random = Random(9);
    let keys: Vec<_> = (0..=2 * commits).map(|_| random.below(KEYS)).collect();
    let key_of = |seq: u64| {
        let i = keys[seq as usize];
        key((i % 2) as u32, format!("key {i}").as_bytes())
    };
    let sequencer = Mutex::new(1u64);
    let finished: Vec<AtomicBool> = (0..=commits).map(|_| AtomicBool::new(false)).collect();
    let visible = AtomicU64::new(0);
    let publish = || {
        let mut now = visible.load(Ordering::Acquire);
        while now < 2 * commits && finished[(now / 2) as usize].load(Ordering::Acquire) {
            match visible.compare_exchange(now, now + 2, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => now += 2,
                Err(other) => now = other,
            }
        }
    };
    let writer = || loop {
        let (seq, mut r) = {
            let mut next = sequencer.lock();
            if *next > 2 * commits {
                return;
            }
            let seq = *next;
            *next += 2;
            let bytes = [seq, seq + 1].map(|s| Memtable::entry_bytes(key_of(s).1.len(), 8));
            (seq, memtable.reserve(2, bytes.iter().sum()).unwrap())
        };
        for seq in [seq, seq + 1] {
            insert(
                &memtable,
                &mut r,
                &key_of(seq),
                seq,
                Some(&seq.to_be_bytes()),
            );
        }
        finished[(seq / 2) as usize].store(true, Ordering::Release);
        publish();
    };
    let check_all = |random: &mut Random| {
        let visible = visible.load(Ordering::Acquire);
        let newest = |i: usize| {
            (0..=visible)
                .rev()
                .find(|s| *s > 0 && keys[*s as usize] == i)
        };
        let i = random.below(KEYS);
        let wanted = key((i % 2) as u32, format!("key {i}").as_bytes());
        let found = get(&memtable, &wanted, visible).map(|(seq, _, value)| {
            assert_eq!(value, seq.0.to_be_bytes());
            seq.0
        });
        assert_eq!(found, newest(i));
        if random.below(20) > 0 {
            return;
        }
        let mut cursor = memtable.cursor(wanted.0, SeqNo(visible));
        cursor.seek_first().unwrap();
        let (mut seen, mut last) = (0, None);
        while let Some(entry) = cursor.entry() {
            let place = (entry.key.to_vec(), std::cmp::Reverse(entry.seq));
            assert_eq!(entry.value, entry.seq.0.to_be_bytes());
            assert!(last.as_ref() < Some(&place));
            seen += usize::from(entry.seq.0 <= visible);
            last = Some(place);
            cursor.next().unwrap();
        }
        let published = (1..=visible).filter(|s| keys[*s as usize] % 2 == i % 2);
        assert_eq!(seen, published.count());
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(writer);
        }
        for seed in 0..2 {
            let (visible, check_all) = (&visible, &check_all);
            scope.spawn(move || {
                let mut random = Random(seed);
                while visible.load(Ordering::Acquire) < 2 * commits {
                    check_all(&mut random);
                }
                (0..20).for_each(|_| check_all(&mut random));
            });
        }
        scope.spawn(|| {
            while visible.load(Ordering::Acquire) < 2 * commits {
                memtable.sort_chunks();
                memtable.populate(1 << 20);
            }
        });
    });
    while memtable.sort_chunks() {}
    check_all(&mut Random(7));
}
