//! For the failure that matters most: the database says something else than what was written.
//! Random operations against a map, through flushes, merges of runs and reopening.

use lightning_db::{Database, Keyspace, LightningDbConfig, Snapshot, WalSyncMode, WriteBatch};
use proptest::prelude::*;
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Put(usize, Vec<u8>, Vec<u8>),
    Delete(usize, Vec<u8>),
    DeleteRange(usize, Vec<u8>, Vec<u8>),
    Batch(Vec<(usize, Vec<u8>, Option<Vec<u8>>)>),
    Snapshot,
    CheckSnapshots,
    Scan(usize, Vec<u8>, Vec<u8>, bool),
    BothEnds(usize, Vec<bool>),
    Checkpoint,
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', b'b', 255]), 0..4),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..20),
        2 => (any::<u8>(), 100..900usize).prop_map(|(b, n)| vec![b; n]),
        1 => (any::<u8>(), 3000..9000usize).prop_map(|(b, n)| vec![b; n]),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let ks = 0..2usize;
    prop_oneof![
        12 => (ks.clone(), key(), value()).prop_map(|(k, a, b)| Op::Put(k, a, b)),
        3 => (ks.clone(), key()).prop_map(|(k, a)| Op::Delete(k, a)),
        2 => (ks.clone(), key(), key()).prop_map(|(k, a, b)| Op::DeleteRange(k, a.clone().min(b.clone()), a.max(b))),
        2 => prop::collection::vec((ks.clone(), key(), prop::option::of(value())), 0..8).prop_map(Op::Batch),
        1 => Just(Op::Snapshot),
        1 => Just(Op::CheckSnapshots),
        2 => (ks.clone(), key(), key(), any::<bool>()).prop_map(|(k, a, b, r)| Op::Scan(k, a.clone().min(b.clone()), a.max(b), r)),
        1 => (ks, prop::collection::vec(any::<bool>(), 0..20)).prop_map(|(k, v)| Op::BothEnds(k, v)),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Reopen),
    ]
}

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 16 << 10,
        wal_segment_size: 64 << 10,
        cache_size: 64 << 10,
        max_memory: 1 << 20,
        wal_sync_mode: WalSyncMode::Async,
        ..Default::default()
    }
}

struct Run {
    path: std::path::PathBuf,
    db: Option<Arc<Database>>,
    spaces: Vec<Keyspace>,
    maps: [Map; 2],
    snapshots: Vec<(Snapshot, [Map; 2])>,
}

impl Run {
    fn open(&mut self) {
        let db = Database::open_or_create(&self.path, config()).unwrap();
        self.spaces = vec![db.keyspace("default").unwrap(), db.keyspace("other").unwrap()];
        self.db = Some(db);
    }

    fn db(&self) -> &Database {
        self.db.as_ref().unwrap()
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Put(k, key, value) => {
                self.spaces[k].put(&key, &value).unwrap();
                self.maps[k].insert(key, value);
            }
            Op::Delete(k, key) => {
                self.spaces[k].delete(&key).unwrap();
                self.maps[k].remove(&key);
            }
            Op::DeleteRange(k, start, end) => {
                self.spaces[k].delete_range(&start..&end).unwrap();
                self.maps[k].retain(|key, _| *key < start || *key >= end);
            }
            Op::Batch(ops) => {
                let mut batch = WriteBatch::new();
                for (k, key, value) in &ops {
                    match value {
                        Some(value) => batch.put_in(&self.spaces[*k], key, value),
                        None => batch.delete_in(&self.spaces[*k], key),
                    };
                }
                self.db().write(batch).unwrap();
                for (k, key, value) in ops {
                    match value {
                        Some(value) => self.maps[k].insert(key, value),
                        None => self.maps[k].remove(&key),
                    };
                }
            }
            Op::Snapshot => {
                let snapshot = self.db().snapshot().unwrap();
                self.snapshots.push((snapshot, self.maps.clone()));
            }
            Op::CheckSnapshots => {
                for (snapshot, maps) in &self.snapshots {
                    for (space, map) in self.spaces.iter().zip(maps) {
                        check_snapshot(&snapshot.of(space), map);
                    }
                }
            }
            Op::Scan(k, start, end, reverse) => {
                let bounds = (Bound::Included(start.clone()), Bound::Excluded(end.clone()));
                let mut expected: Vec<_> =
                    self.maps[k].range(bounds).map(|(k, v)| (k.clone(), v.clone())).collect();
                let scan = match reverse {
                    false => self.spaces[k].scan(Some(&start), Some(&end)),
                    true => self.spaces[k].scan_reverse(Some(&start), Some(&end)),
                };
                let found: Vec<_> = scan.unwrap().map(Result::unwrap).collect();
                if reverse {
                    expected.reverse();
                }
                assert_eq!(found, expected);
            }
            Op::BothEnds(k, ends) => {
                let mut scan = self.spaces[k].iter().unwrap();
                let mut expected = self.maps[k].iter();
                for back in ends {
                    let (found, expected) = match back {
                        true => (scan.next_back(), expected.next_back()),
                        false => (scan.next(), expected.next()),
                    };
                    let found = found.map(Result::unwrap);
                    assert_eq!(found, expected.map(|(k, v)| (k.clone(), v.clone())));
                }
            }
            Op::Checkpoint => self.db().checkpoint().unwrap(),
            Op::Reopen => {
                self.snapshots.clear();
                self.spaces.clear();
                self.db.take().unwrap().close().unwrap();
                self.open();
            }
        }
    }

    fn check(&self) {
        for (space, map) in self.spaces.iter().zip(&self.maps) {
            check_snapshot(&space.snapshot().unwrap(), map);
            for (key, value) in map {
                assert_eq!(space.get(key).unwrap().as_ref(), Some(value), "{key:?}");
                assert_eq!(&space.get_ref(key).unwrap().unwrap()[..], value);
            }
            assert_eq!(space.first().unwrap().map(|e| e.0).as_ref(), map.keys().next());
            assert_eq!(space.last().unwrap().map(|e| e.0).as_ref(), map.keys().next_back());
        }
    }
}

fn check_snapshot(snapshot: &Snapshot, map: &Map) {
    let found: Vec<_> = snapshot.iter().unwrap().map(Result::unwrap).collect();
    let expected: Vec<_> = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(found, expected);
    let reversed: Vec<_> = snapshot.iter().unwrap().rev().map(Result::unwrap).collect();
    assert_eq!(reversed, expected.into_iter().rev().collect::<Vec<_>>());
}

fn run(ops: Vec<Op>) {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run {
        path: dir.path().join("db"),
        db: None,
        spaces: vec![],
        maps: Default::default(),
        snapshots: vec![],
    };
    run.open();
    ops.into_iter().for_each(|op| run.apply(op));
    run.apply(Op::CheckSnapshots);
    run.check();
    run.apply(Op::Reopen);
    run.check();
}

const CASES: u32 = if cfg!(feature = "integration_tests") { 200 } else { 12 };

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, max_shrink_iters: 200, ..Default::default() })]

    #[test]
    fn the_database_agrees_with_a_map(ops in prop::collection::vec(op(), 1..250)) {
        run(ops);
    }
}
