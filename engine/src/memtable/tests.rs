mod concurrent;
mod measure;

use super::*;
use crate::iter::{Cursor, Entry};
use std::collections::{BTreeMap, BTreeSet};

/// Interpreted runs are thousands of times slower.
const fn scaled(n: usize) -> usize {
    if cfg!(miri) { n / 40 } else { n }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn key(keyspace: u32, key: &[u8]) -> (KeyspaceId, Vec<u8>) {
    (KeyspaceId(keyspace), key.to_vec())
}

fn reserve_one(memtable: &Memtable, key: &[u8], value: &[u8]) -> Reservation {
    let bytes = Memtable::entry_bytes(key.len(), value.len());
    memtable.reserve(1, bytes).unwrap()
}

fn insert(
    memtable: &Memtable,
    reservation: &mut Reservation,
    (keyspace, key): &(KeyspaceId, Vec<u8>),
    seq: u64,
    value: Option<&[u8]>,
) {
    let hash = Memtable::hash(*keyspace, key);
    let kind = value.map_or(Kind::Delete, |_| Kind::Put);
    let value = value.unwrap_or_default();
    memtable.insert(reservation, *keyspace, hash, key, SeqNo(seq), kind, value);
}

fn put(memtable: &Memtable, key: &(KeyspaceId, Vec<u8>), seq: u64, value: &[u8]) {
    let mut reservation = reserve_one(memtable, &key.1, value);
    insert(memtable, &mut reservation, key, seq, Some(value));
}

fn get<'a>(
    memtable: &'a Memtable,
    (keyspace, key): &(KeyspaceId, Vec<u8>),
    visible: u64,
) -> Option<(SeqNo, Kind, &'a [u8])> {
    let hash = Memtable::hash(*keyspace, key);
    memtable.get(*keyspace, hash, key, SeqNo(visible))
}

type Owned = (Vec<u8>, SeqNo, Kind, Vec<u8>);

fn owned(entry: Option<Entry<'_>>) -> Option<Owned> {
    entry.map(|e| (e.key.to_vec(), e.seq, e.kind, e.value.to_vec()))
}

/// Keys that are easy to confuse: empty, prefixes of each other, zeros at the end, equal in
/// what a run's items hold of them.
fn confusing_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = vec![
        b"".into(),
        b"\0".into(),
        b"\0\0".into(),
        b"\xff".into(),
        b"\xff\xff".into(),
        b"\xff\0".into(),
        vec![0; 12],
        vec![0; 13],
        vec![0xff; 11],
        vec![0xff; 12],
        vec![0xff; 30],
    ];
    for end in 0..=16 {
        keys.push(b"abcdefghijklmnop"[..end].to_vec());
        keys.push([b"abcdefghijkl", &b"mnopq\0"[..end % 7]].concat());
        keys.push([b"abcdefghijkl\0".as_slice(), &[end as u8]].concat());
    }
    keys.sort();
    keys.dedup();
    keys
}

/// What a memtable should hold, in the order of its cursors.
#[derive(Default)]
struct Model {
    entries: BTreeMap<(KeyspaceId, Vec<u8>), Versions>,
}

type Versions = BTreeMap<u64, Option<Vec<u8>>>;

impl Model {
    fn insert(&mut self, key: &(KeyspaceId, Vec<u8>), seq: u64, value: Option<&[u8]>) {
        let versions = self.entries.entry(key.clone()).or_default();
        versions.insert(seq, value.map(<[u8]>::to_vec));
    }

    fn get(&self, key: &(KeyspaceId, Vec<u8>), visible: u64) -> Option<Owned> {
        let (seq, value) = self.entries.get(key)?.range(..=visible).next_back()?;
        Some(Model::owned(&key.1, *seq, value))
    }

    fn owned(key: &[u8], seq: u64, value: &Option<Vec<u8>>) -> Owned {
        let kind = value.as_ref().map_or(Kind::Delete, |_| Kind::Put);
        let value = value.clone().unwrap_or_default();
        (key.to_vec(), SeqNo(seq), kind, value)
    }

    fn sorted(&self, keyspace: KeyspaceId) -> Vec<Owned> {
        (self.entries.iter())
            .filter(|((of, _), _)| *of == keyspace)
            .flat_map(|((_, key), versions)| {
                (versions.iter().rev()).map(move |(seq, v)| Model::owned(key, *seq, v))
            })
            .collect()
    }
}

/// Every move of a cursor, from every position that random moves reach, against the sorted list.
fn check_cursor(memtable: &Arc<Memtable>, keyspace: KeyspaceId, expected: &[Owned], seed: u64) {
    let mut random = Random(seed);
    let mut cursor = memtable.cursor(keyspace, SeqNo(u64::MAX >> 8));
    assert!(cursor.entry().is_none());
    let keys = confusing_keys();
    let mut at: Option<usize> = None;
    for _ in 0..scaled(2000) {
        let target = &keys[random.below(keys.len())];
        let before = expected.partition_point(|e| e.0 < *target);
        match random.below(if at.is_some() { 14 } else { 4 }) {
            0 => {
                cursor.seek_first().unwrap();
                at = Some(0);
            }
            1 => {
                cursor.seek_last().unwrap();
                at = expected.len().checked_sub(1);
            }
            2 => {
                cursor.seek(target).unwrap();
                at = Some(before);
            }
            3 => {
                cursor.seek_before(target).unwrap();
                at = before.checked_sub(1);
            }
            4..=8 => {
                cursor.next().unwrap();
                at = at.map(|at| at + 1);
            }
            _ => {
                cursor.prev().unwrap();
                at = at.and_then(|at| at.checked_sub(1));
            }
        }
        at = at.filter(|at| *at < expected.len());
        assert_eq!(owned(cursor.entry()), at.map(|at| expected[at].clone()));
    }
    let mut all = vec![];
    cursor.seek_first().unwrap();
    while let Some(entry) = owned(cursor.entry()) {
        all.push(entry);
        cursor.next().unwrap();
    }
    assert_eq!(all, expected);
}

/// A version lost, returned to the wrong reader, or out of order: random writes over few keys in
/// several keyspaces, in batches, with ordering passes between them.
#[test]
fn holds_what_was_inserted_in_every_order_of_work() {
    for seed in 0..scaled(200).min(12) as u64 {
        let mut random = Random(seed);
        let memtable = Arc::new(Memtable::new(4 << 20, SeqNo(1)).unwrap());
        let mut model = Model::default();
        let keys = confusing_keys();
        let mut seq = 0;
        let rounds = random.below(scaled(6000)) + 1;
        while seq < rounds as u64 {
            let batch: Vec<_> = (0..=random.below(5))
                .map(|_| {
                    let key = key(random.below(3) as u32, &keys[random.below(keys.len())]);
                    let value = (random.below(4) > 0).then(|| vec![b'v'; random.below(40)]);
                    (key, value)
                })
                .collect();
            let bytes = (batch.iter())
                .map(|(key, v)| Memtable::entry_bytes(key.1.len(), v.as_ref().map_or(0, Vec::len)));
            let mut r = memtable.reserve(batch.len(), bytes.sum()).unwrap();
            for (key, value) in &batch {
                seq += 1;
                insert(&memtable, &mut r, key, seq, value.as_deref());
                model.insert(key, seq, value.as_deref());
            }
            if random.below(50) == 0 {
                drop(memtable.cursor(KeyspaceId(1), SeqNo(seq)));
            }
            if random.below(500) == 0 {
                memtable.sort_chunks();
            }
        }
        for keyspace in 0..4 {
            for bytes in &keys {
                let key = key(keyspace, bytes);
                for _ in 0..4 {
                    let visible = random.below(seq as usize + 2) as u64;
                    let found = get(&memtable, &key, visible)
                        .map(|(seq, kind, value)| (key.1.clone(), seq, kind, value.to_vec()));
                    assert_eq!(found, model.get(&key, visible), "{key:?} at {visible}");
                }
            }
            let expected = model.sorted(KeyspaceId(keyspace));
            check_cursor(&memtable, KeyspaceId(keyspace), &expected, seed);
        }
        while memtable.sort_chunks() {}
        let of_two = model.sorted(KeyspaceId(2));
        check_cursor(&memtable, KeyspaceId(2), &of_two, seed + 1);
        let keyspaces: BTreeSet<KeyspaceId> = model.entries.keys().map(|(of, _)| *of).collect();
        assert_eq!(memtable.keyspaces(), Vec::from_iter(keyspaces));
    }
}

/// Heads of runs made with different prefixes cut off, compared with each other: keys that share
/// long prefixes come first, then ones that share less and less.
#[test]
fn keeps_order_while_the_common_prefix_shrinks() {
    let memtable = Arc::new(Memtable::new(4 << 20, SeqNo(1)).unwrap());
    let mut model = Model::default();
    let mut seq = 0;
    for shared in (0..40).rev() {
        for i in 0..scaled(2000).min(50) as u8 {
            seq += 1;
            let key = key(7, &[&vec![b'p'; shared], &[i, 0, i][..]].concat());
            put(&memtable, &key, seq, b"v");
            model.insert(&key, seq, Some(b"v"));
        }
        drop(memtable.cursor(KeyspaceId(7), SeqNo(seq)));
    }
    check_cursor(&memtable, KeyspaceId(7), &model.sorted(KeyspaceId(7)), 5);
}

/// Background merges that lose, double or misplace entries of a large memtable.
#[test]
fn chunks_are_sorted_and_merged_by_doubling() {
    let memtable = Arc::new(Memtable::new(16 << 20, SeqNo(1)).unwrap());
    let mut random = Random(3);
    let mut expected = BTreeSet::new();
    let entries = 11 * order::CHUNK as u64 + 5;
    for seq in 1..=entries {
        let key = key(0, &random.next().to_le_bytes());
        put(&memtable, &key, seq, b"");
        expected.insert(key.1);
    }
    assert!(memtable.has_full_unsorted_chunk());
    let mut steps = 0;
    while memtable.sort_chunks() {
        steps += 1;
    }
    assert!(!memtable.has_full_unsorted_chunk());
    assert_eq!(steps, 11 + 8);
    let sorted = (memtable.order).sorted(&memtable.arena, KeyspaceId(0), SeqNo(entries));
    let lens: Vec<usize> = sorted
        .runs
        .iter()
        .map(|run| run.len() / order::CHUNK)
        .collect();
    assert_eq!(lens, [8, 2, 1, 0]);
    let mut cursor = memtable.cursor(KeyspaceId(0), SeqNo(entries));
    cursor.seek_last().unwrap();
    for key in expected.iter().rev() {
        assert_eq!(cursor.entry().unwrap().key, key);
        cursor.prev().unwrap();
    }
    assert!(cursor.entry().is_none());
}

/// An old snapshot that walks a hundred thousand versions of a counter, or does not find its own.
#[test]
fn finds_an_old_version_behind_many_newer_ones() {
    let memtable = Memtable::new(1 << 20, SeqNo(1)).unwrap();
    let (hot, other) = (key(0, b"hot"), key(0, b"other"));
    put(&memtable, &other, 1, b"");
    for seq in 2..=scaled(10_000) as u64 {
        put(&memtable, &hot, seq, &seq.to_be_bytes());
    }
    assert!(get(&memtable, &hot, 1).is_none());
    for visible in 2..=scaled(10_000) as u64 {
        let (seq, _, value) = get(&memtable, &hot, visible).unwrap();
        assert_eq!((seq.0, value), (visible, &visible.to_be_bytes()[..]));
    }
}

/// A full memtable that reserves a part of what was asked, or forgets what it holds; one that
/// counts updates of a key against the number of keys.
#[test]
fn a_full_memtable_reserves_nothing_and_keeps_everything() {
    let capacity = 100 * Memtable::entry_bytes(3, 100);
    let memtable = Memtable::new(capacity, SeqNo(1)).unwrap();
    for seq in 1..=100 {
        put(&memtable, &key(0, &[1, 2, (seq % 5) as u8]), seq, &[9; 100]);
    }
    for (entries, bytes) in [
        (1, Memtable::entry_bytes(0, 0)),
        (7, 8),
        (1, usize::MAX - 7),
    ] {
        assert!(memtable.reserve(entries, bytes).is_none());
    }
    let (seq, _, value) = get(&memtable, &key(0, &[1, 2, 0]), 100).unwrap();
    assert_eq!((seq, value), (SeqNo(100), &[9; 100][..]));
    assert_eq!(memtable.keyspaces(), [KeyspaceId(0)]);

    let few_keys = Memtable::new(1 << 16, SeqNo(1)).unwrap();
    let updates = few_keys.index.keys_max() as u64 + 100;
    for seq in 1..=updates {
        put(&few_keys, &key(0, &[(seq % 5) as u8]), seq, b"");
    }

    let tiny_entries = Memtable::new(1 << 16, SeqNo(1)).unwrap();
    let keys_max = tiny_entries.index.keys_max() as u64;
    for seq in 1..=keys_max {
        put(&tiny_entries, &key(0, &seq.to_be_bytes()), seq, b"");
    }
    assert!(tiny_entries.reserve(1, 32).is_none());
    for seq in 1..=keys_max {
        assert!(get(&tiny_entries, &key(0, &seq.to_be_bytes()), keys_max).is_some());
    }
    assert!(get(&tiny_entries, &key(0, b"none"), keys_max).is_none());
}

/// A commit that even a memtable made for it has no room for.
#[test]
fn a_memtable_made_for_a_commit_has_room_for_it() {
    for entries in [1, 2, 3, 4, 1000, 33_333] {
        for entry_bytes in [24, 32, 88, 200] {
            let capacity = Memtable::capacity_for(entries, entries * entry_bytes);
            let memtable = Memtable::new(capacity, SeqNo(1)).unwrap();
            assert!(memtable.reserve(entries, entries * entry_bytes).is_some());
        }
    }
    let too_large = Memtable::new(40 << 30, SeqNo(1));
    assert!(matches!(
        too_large,
        Err(crate::Error::InvalidArgument { .. })
    ));
}

/// Keys with the same hash taken for each other, or lost where the probing wraps around.
#[test]
fn keys_with_equal_hashes_stay_apart() {
    let memtable = Memtable::new(1 << 14, SeqNo(1)).unwrap();
    // The index is asked directly: real hashes do not collide on demand.
    let hashes = [0, u64::MAX, 0xffff_ffff];
    let mut seq = 0;
    for (n, hash) in hashes.into_iter().enumerate() {
        for i in 0..60u8 {
            let key = [i, n as u8];
            seq += 1;
            let mut r = reserve_one(&memtable, &key, b"");
            let kind = SeqKind::new(SeqNo(seq), Kind::Put);
            let place = (memtable.arena).write(&mut r, KeyspaceId(i.into()), &key, kind, b"");
            assert_eq!(memtable.arena.reserved().entries() as u64, seq);
            let keyspace = KeyspaceId(i.into());
            assert!((memtable.index).insert(&memtable.arena, hash, keyspace, &key, place));
        }
    }
    for (n, hash) in hashes.into_iter().enumerate() {
        for i in 0..60u8 {
            let look = |keyspace: u8, key: &[u8]| {
                let keyspace = KeyspaceId(keyspace.into());
                match (memtable.index).get(&memtable.arena, hash, keyspace, key, SeqNo::MAX) {
                    Found::Version(entry) => Some(entry.key().to_vec()),
                    Found::Nothing => None,
                    Found::TooFar => unreachable!(),
                }
            };
            let key = [i, n as u8];
            assert_eq!(look(i, &key), Some(key.to_vec()));
            assert_eq!(look(i + 1, &key), None);
            assert_eq!(look(i, &[i]), None);
        }
    }
}

/// A range delete seen too early, too late, in another keyspace, or by cursors as an entry.
#[test]
fn range_deletes_cover_exactly_what_they_should() {
    let memtable = Arc::new(Memtable::new(1 << 20, SeqNo(1)).unwrap());
    let mut random = Random(1);
    let mut all: Vec<(KeyspaceId, RangeTombstone)> = vec![];
    put(&memtable, &key(0, b"x"), 1, b"1");
    for seq in 2..scaled(6000).min(150) as u64 {
        let keyspace = KeyspaceId(random.below(2) as u32);
        let tombstone = RangeTombstone {
            start: vec![random.below(30) as u8],
            end: (random.below(5) > 0).then(|| vec![random.below(30) as u8]),
            seq: SeqNo(seq),
        };
        let end = tombstone.end.as_deref().unwrap_or_default();
        let mut r = reserve_one(&memtable, &tombstone.start, end);
        memtable.insert_range_delete(&mut r, keyspace, tombstone.clone());
        all.push((keyspace, tombstone));
        for visible in [0, 1, seq / 2, seq - 1, seq, seq + 1].map(SeqNo) {
            for keyspace in [0, 1, 2].map(KeyspaceId) {
                let key = [random.below(30) as u8];
                let expected = (all.iter())
                    .filter(|(of, t)| *of == keyspace && t.seq <= visible)
                    .filter(|(_, t)| t.start.as_slice() <= &key)
                    .filter(|(_, t)| t.end.as_deref().is_none_or(|end| key.as_slice() < end))
                    .map(|(_, t)| t.seq)
                    .max();
                assert_eq!(memtable.covering(keyspace, &key, visible), expected);
                let list = memtable.range_tombstones(keyspace);
                assert_eq!(list.covering(&key, visible), expected);
            }
        }
    }
    assert_eq!(memtable.keyspaces(), [KeyspaceId(0), KeyspaceId(1)]);
    let of_x: Model = {
        let mut model = Model::default();
        model.insert(&key(0, b"x"), 1, Some(b"1"));
        model
    };
    check_cursor(&memtable, KeyspaceId(0), &of_x.sorted(KeyspaceId(0)), 1);
    check_cursor(&memtable, KeyspaceId(1), &[], 1);
}

/// Lookups that slow down without bound: so many range deletes fill a memtable.
#[test]
fn many_range_deletes_fill_a_memtable() {
    let memtable = Memtable::new(1 << 20, SeqNo(1)).unwrap();
    let mut seq = 0;
    while let Some(mut r) = memtable.reserve(1, Memtable::entry_bytes(1, 0)) {
        seq += 1;
        let tombstone = RangeTombstone {
            start: vec![seq as u8],
            end: None,
            seq: SeqNo(seq),
        };
        memtable.insert_range_delete(&mut r, KeyspaceId(0), tombstone);
    }
    assert_eq!(seq, 1024);
    assert_eq!(
        memtable.covering(KeyspaceId(0), &[255], SeqNo::MAX),
        Some(SeqNo(seq))
    );
}

/// Memory present too late, or counted beyond the arena's end.
#[test]
fn is_populated_up_to_what_was_asked() {
    let memtable = Memtable::new(5 << 20, SeqNo(1)).unwrap();
    assert!(!memtable.is_populated(1));
    memtable.populate(1);
    assert!(memtable.is_populated(1 << 20) && !memtable.is_populated(3 << 20));
    memtable.populate(usize::MAX);
    assert!(memtable.is_populated(usize::MAX));
    assert!(memtable.is_empty() && memtable.memory_bytes() >= 5 << 20);
}
