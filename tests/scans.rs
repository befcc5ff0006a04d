//! For a scan that shows what is not there, or leaves out what is: from both ends, over what is settled
//! and what is not.

use crate::{files::Scratch, random::Random};
use lightning_db::{Database, LightningDbConfig, Scan};
use std::{collections::BTreeMap, ops::Bound};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(random: &mut Random) -> Vec<u8> {
    match random.below(8) {
        0 => vec![b'k'; random.below(300) as usize],
        1 => random.below(500).to_le_bytes()[..2].to_vec(),
        _ => [&b"common "[..], &random.below(3000).to_be_bytes()[4..]].concat(),
    }
}

fn value(random: &mut Random) -> Vec<u8> {
    let len = if random.below(40) == 0 { random.below(9000) } else { random.below(120) };
    random.bytes(len as usize)
}

fn bound(random: &mut Random) -> Bound<Vec<u8>> {
    match random.below(4) {
        0 => Bound::Unbounded,
        1 => Bound::Excluded(key(random)),
        _ => Bound::Included(key(random)),
    }
}

/// The map's entries within the bounds; `None` if they are inverted.
fn within(map: &Map, (start, end): &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> Option<Map> {
    if let (
        Bound::Included(start) | Bound::Excluded(start),
        Bound::Included(end) | Bound::Excluded(end),
    ) = (start, end)
        && start > end
    {
        return None;
    }
    let behind_start = |key: &Vec<u8>| match start {
        Bound::Unbounded => true,
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
    };
    let before_end = |key: &Vec<u8>| match end {
        Bound::Unbounded => true,
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
    };
    let inside = map.iter().filter(|(key, _)| behind_start(key) && before_end(key));
    Some(inside.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Takes entries from the ends in turns of random lengths, borrowed and owned, until there are none.
fn compare(random: &mut Random, mut scan: Scan, mut expected: Map) {
    let mut front = random.below(2) == 0;
    loop {
        let turn = if random.below(3) == 0 { 500 } else { random.below(40) };
        for _ in 0..turn {
            let wanted = if front { expected.pop_first() } else { expected.pop_last() };
            let found = match (front, random.below(2)) {
                (true, 0) => scan.next().transpose().unwrap(),
                (false, 0) => scan.next_back().transpose().unwrap(),
                (true, _) => scan.next_ref().unwrap().map(|(k, v)| (k.to_vec(), v.to_vec())),
                (false, _) => scan.next_back_ref().unwrap().map(|(k, v)| (k.to_vec(), v.to_vec())),
            };
            assert_eq!(found, wanted);
            if wanted.is_none() {
                assert!(scan.next_ref().unwrap().is_none());
                assert!(scan.next_back_ref().unwrap().is_none());
                return;
            }
        }
        front = !front;
    }
}

fn compare_all(random: &mut Random, db: &Database, map: &Map) {
    for _ in 0..40 {
        let bounds = (bound(random), bound(random));
        match within(map, &bounds) {
            None => assert!(db.range(bounds).is_err()),
            Some(expected) => compare(random, db.range(bounds).unwrap(), expected),
        }
    }
    compare(random, db.iter().unwrap(), map.clone());
    assert_eq!(db.first().unwrap(), map.first_key_value().map(|(k, v)| (k.clone(), v.clone())));
    assert_eq!(db.last().unwrap(), map.last_key_value().map(|(k, v)| (k.clone(), v.clone())));
    let mut keys: Vec<Vec<u8>> = (0..200).map(|_| key(random)).collect();
    keys.extend(map.keys().step_by(17).cloned());
    let expected: Vec<_> = keys.iter().map(|key| map.get(key).cloned()).collect();
    assert_eq!(db.get_batch(&keys).unwrap(), expected);
    let tx = db.transaction().read_only().begin().unwrap();
    for (key, expected) in keys.iter().zip(expected) {
        assert_eq!(db.get(key).unwrap(), expected);
        assert_eq!(tx.get(key).unwrap(), expected);
    }
}

#[test]
fn scans_from_both_ends_agree_with_a_map() {
    // In memory; in the mapping, in which is all, some or none of it; checked each time.
    let mib = 1 << 20;
    let places = [
        (mib * 64, None, false),
        (0, None, false),
        (0, Some(mib / 8), false),
        (mib / 16, Some(0), false),
        (0, None, true),
        (mib / 16, Some(mib / 4), true),
    ];
    for (seed, (cache_size, mmap_size, enable_paranoia_checks)) in (1..).zip(places) {
        let random = &mut Random::new(seed);
        let scratch = Scratch::new();
        let config = LightningDbConfig {
            cache_size,
            mmap_size,
            enable_paranoia_checks,
            ..Default::default()
        };
        let db = Database::create(scratch.db(), config).unwrap();
        let mut map = Map::new();
        compare_all(random, &db, &map);
        for _ in 0..3 {
            for _ in 0..1500 {
                let (key, value) = (key(random), value(random));
                db.put(&key, &value).unwrap();
                map.insert(key, value);
            }
            compare_all(random, &db, &map);
            db.compact().unwrap();
            // The tree is all there is.
            compare_all(random, &db, &map);
            // Something is newer, but of another keyspace.
            let other = db.keyspace("other").unwrap();
            other.put("common 1", "elsewhere").unwrap();
            compare_all(random, &db, &map);
            // What hides entries of the tree, and what comes between and behind them.
            let moment = (db.snapshot().unwrap(), map.clone());
            let (start, end) = (key(random), key(random));
            if start <= end {
                db.delete_range(start.clone()..end.clone()).unwrap();
                map.retain(|key, _| *key < start || *key >= end);
            }
            compare_all(random, &db, &map);
            let deleted: Vec<_> = map.keys().step_by(7).cloned().collect();
            for key in deleted {
                db.delete(&key).unwrap();
                map.remove(&key);
            }
            for key in [&b"~"[..], b"", b"common \0\0\x05\0\0"] {
                db.put(key, "new").unwrap();
                map.insert(key.to_vec(), b"new".to_vec());
            }
            compare_all(random, &db, &map);
            compare(random, moment.0.iter().unwrap(), moment.1);
        }
    }
}
