//! Every order of the steps of a few inserting and reading threads.

use super::*;
use crate::{iter::Cursor, sync::model::explore};
use shuttle::thread;

const KEYSPACE: KeyspaceId = KeyspaceId(1);
const LEN: usize = 8;

fn reserve(memtable: &Memtable) -> Reservation {
    memtable.reserve(1, Memtable::entry_bytes(1, LEN)).unwrap()
}

fn insert(memtable: &Memtable, mut room: Reservation, key: &[u8], seq: u64) {
    let hash = Memtable::hash(KEYSPACE, key);
    let value = seq.to_be_bytes();
    memtable.insert(&mut room, KEYSPACE, hash, key, SeqNo(seq), Kind::Put, &value);
}

/// The newest version up to `visible`. What is found must be whole.
fn get(memtable: &Memtable, key: &[u8], visible: u64) -> Option<u64> {
    let hash = Memtable::hash(KEYSPACE, key);
    let (seq, kind, value) = memtable.get(KEYSPACE, hash, key, SeqNo(visible))?;
    assert_eq!(kind, Kind::Put);
    assert_eq!(value, seq.0.to_be_bytes());
    assert!(seq.0 <= visible);
    Some(seq.0)
}

fn new() -> Arc<Memtable> {
    Arc::new(Memtable::new(1 << 10).unwrap())
}

#[test]
fn shuttle_versions_of_a_key_are_found_whatever_their_order() {
    explore(|| {
        let memtable = new();
        let rooms: Vec<_> = (1..=3).map(|seq| (seq, reserve(&memtable))).collect();
        let threads: Vec<_> = rooms
            .into_iter()
            .map(|(seq, room)| {
                let memtable = memtable.clone();
                thread::spawn(move || {
                    insert(&memtable, room, b"k", seq);
                    // One's own is found, whatever the others do: newer ones do not hide it.
                    assert_eq!(get(&memtable, b"k", seq), Some(seq));
                })
            })
            .collect();
        let early = get(&memtable, b"k", 3);
        assert!(get(&memtable, b"k", 3) >= early);
        threads.into_iter().for_each(|t| t.join().unwrap());
        for seq in 1..=3 {
            assert_eq!(get(&memtable, b"k", seq), Some(seq));
        }
        assert_eq!(get(&memtable, b"k", 0), None);
        assert_eq!(memtable.updates.0.load(Ordering::Relaxed), 2, "one slot for one key");
    });
}

#[test]
fn shuttle_keys_that_want_the_same_slot_are_all_found() {
    explore(|| {
        // Eight slots: most of four keys meet.
        let memtable = Arc::new(Memtable::new(8 * 64).unwrap());
        let threads: Vec<_> = [b"a", b"b", b"c", b"d"]
            .into_iter()
            .zip(1..)
            .map(|(key, seq)| {
                let (memtable, room) = (memtable.clone(), reserve(&memtable));
                thread::spawn(move || {
                    insert(&memtable, room, key, seq);
                    assert_eq!(get(&memtable, key, 9), Some(seq));
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        for (key, seq) in [b"a", b"b", b"c", b"d"].into_iter().zip(1..) {
            assert_eq!(get(&memtable, key, 9), Some(seq));
        }
    });
}

#[test]
fn shuttle_a_cursor_sees_all_up_to_its_seqno_in_order() {
    explore(|| {
        let memtable = new();
        insert(&memtable, reserve(&memtable), b"b", 1);
        let rooms = [(b"c", 2), (b"a", 3)].map(|(key, seq)| (key, seq, reserve(&memtable)));
        let threads = rooms.map(|(key, seq, room)| {
            let memtable = memtable.clone();
            thread::spawn(move || insert(&memtable, room, key, seq))
        });
        let keys = |visible: u64| {
            let mut cursor = memtable.cursor(KEYSPACE, SeqNo(visible));
            let mut keys = vec![];
            cursor.seek_first().unwrap();
            while let Some(entry) = cursor.entry() {
                keys.extend_from_slice(entry.key);
                cursor.next().unwrap();
            }
            keys
        };
        let seen = keys(1);
        assert!(seen.contains(&b'b') && seen.is_sorted());
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(keys(3), b"abc");
    });
}
