//! What was built is what is read, by every way of reading.

use super::{testing::*, *};
use crate::{
    config::Compression,
    error::Error,
    format::{
        block::{Block, BlockBuilder},
        sstable::separator,
    },
    iter::{
        Cursor, Entry,
        tombstones::{RangeTombstone, RangeTombstones},
    },
    types::{Kind, SeqNo},
};
use std::{
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

fn entry<'a>((key, (seq, kind, value)): (&'a Vec<u8>, &'a (SeqNo, Kind, Vec<u8>))) -> Entry<'a> {
    Entry { key, seq: *seq, kind: *kind, value }
}

/// Every key of the model and its neighbours.
fn probes(model: &Model) -> Vec<Vec<u8>> {
    let mut probes = vec![vec![], vec![0xff; 9]];
    for key in model.keys() {
        probes.push(key.clone());
        probes.push([key, &[0][..]].concat());
        if let Some((last, rest)) = key.split_last() {
            probes.push(rest.to_vec());
            probes.push([rest, &[last.wrapping_sub(1)]].concat());
            probes.push([rest, &[last.wrapping_sub(1), 0xff]].concat());
        }
    }
    probes
}

fn assert_reads_as(table: &Arc<Sstable>, model: &Model) {
    table.check(&UUID).unwrap();
    let mut forward = vec![];
    let mut cursor = table.cursor();
    assert_eq!(cursor.entry(), None);
    cursor.seek_first().unwrap();
    while let Some(found) = cursor.entry() {
        forward.push((found.key.to_vec(), (found.seq, found.kind, found.value.to_vec())));
        cursor.next().unwrap();
    }
    assert!(forward.iter().map(|(k, v)| (k, v)).eq(model.iter()));
    let mut backward = model.iter().rev();
    cursor.seek_last().unwrap();
    while let Some(found) = cursor.entry() {
        assert_eq!(Some(found), backward.next().map(entry));
        cursor.prev().unwrap();
    }
    assert_eq!(backward.next(), None);
    for key in probes(model) {
        let found = table.get(KEYSPACE.hash(&key), &key).unwrap();
        let found = found.map(|f| (f.seq, f.kind, f.value().to_vec()));
        assert_eq!(found.as_ref(), model.get(&key), "{key:x?}");
        cursor.seek(&key).unwrap();
        let from = model.range(key.clone()..).next();
        assert_eq!(cursor.entry(), from.map(entry), "seek {key:x?}");
        cursor.seek_before(&key).unwrap();
        let before = model.range(..key.clone()).next_back();
        assert_eq!(cursor.entry(), before.map(entry), "seek before {key:x?}");
    }
}

/// A cursor moved about at random must stand where the model does.
fn assert_walks_as(table: &Arc<Sstable>, model: &Model, random: &mut Random) {
    let mut cursor = table.cursor();
    let mut here: Option<Vec<u8>> = None;
    for _ in 0..400 {
        let key = random.key();
        let expected = match (random.below(12), &here) {
            (0, _) => {
                cursor.seek_first().unwrap();
                model.iter().next()
            }
            (1, _) => {
                cursor.seek_last().unwrap();
                model.iter().next_back()
            }
            (2, _) => {
                cursor.seek(&key).unwrap();
                model.range(key..).next()
            }
            (3, _) => {
                cursor.seek_before(&key).unwrap();
                model.range(..key).next_back()
            }
            (4..8, Some(at)) => {
                cursor.next().unwrap();
                model.range((Excluded(at.clone()), Unbounded)).next()
            }
            (_, Some(at)) => {
                cursor.prev().unwrap();
                model.range(..at.clone()).next_back()
            }
            (_, None) => continue,
        };
        assert_eq!(cursor.entry(), expected.map(entry));
        here = expected.map(|(key, _)| key.clone());
    }
}

#[test]
fn random_files_read_back_by_every_move() {
    let mut random = Random(11);
    for round in 0..24 {
        let entries = [1, 2, 15, 16, 17, 33, 300, 900][round % 8];
        let model = random.model(entries, [0, 40, 300][round % 3]);
        for compression in ALL {
            let block_bytes = [1, 200, 1024, 70_000][random.below(4)];
            let options = SstableOptions {
                block_bytes,
                filter_bits_per_key: [0, 10][random.below(2)],
                ..options(compression)
            };
            let built = build(&model, &[], header(), options);
            // A cache that holds everything, little, or nothing.
            let cache_bytes = [1 << 20, 5_000, 0][random.below(3)];
            let table = built.open_with(Arc::new(SharedBlocks::new(cache_bytes))).unwrap();
            assert_reads_as(&table, &model);
            assert_walks_as(&table, &model, &mut random);
        }
    }
}

#[test]
fn long_keys_and_large_values_read_back() {
    let put = |seq, value: Vec<u8>| (SeqNo(seq), Kind::Put, value);
    let noise = |len| {
        let mut random = Random(5);
        (0..len).map(|_| random.next() as u8).collect::<Vec<u8>>()
    };
    let mut model = Model::new();
    model.insert(vec![], put(1, b"the empty key".to_vec()));
    model.insert(vec![0], put(2, vec![]));
    model.insert(vec![b'a'; 65_535], put(SeqNo::MAX.0, vec![1]));
    model.insert([vec![b'a'; 65_534], vec![b'b']].concat(), put(4, vec![2]));
    model.insert(b"large".to_vec(), put(5, noise(1 << 20)));
    model.insert(b"larger".to_vec(), put(6, vec![0; 3 << 20]));
    model.insert(b"small".to_vec(), put(7, vec![9; 50]));
    model.insert(vec![0xff; 65_535], put(8, vec![3]));
    for compression in ALL {
        let built = build(&model, &[], header(), options(compression));
        assert_eq!(
            built.summary.contents.bounds,
            Some(KeyBounds { smallest: vec![], largest: Included(vec![0xff; 65_535]) })
        );
        assert_reads_as(&built.open().unwrap(), &model);
    }
}

/// Blocks on both sides of the limits of tags (512 entries) and short offsets (64 KiB).
#[test]
fn a_get_by_tag_agrees_with_a_binary_search() {
    for (entries, value_len) in [(1, 0), (7, 9), (16, 3), (340, 2), (512, 120), (513, 1), (900, 90)]
    {
        let keys: Vec<Vec<u8>> =
            (0..entries * 2).map(|i: u32| format!("key{i:06}").into_bytes()).collect();
        let mut builder = BlockBuilder::default();
        for key in keys.iter().step_by(2) {
            let hash = KEYSPACE.hash(key);
            builder.add(hash, key, SeqNo(5), Kind::Put, &vec![key[8]; value_len]);
        }
        let contents = builder.finish();
        let block = Block::parse(contents).unwrap();
        assert_eq!(block.len(), entries as usize);
        for (i, key) in keys.iter().enumerate() {
            let found = block.find(KEYSPACE.hash(key), key).unwrap();
            let searched = block.find_by_search(key).unwrap();
            assert_eq!(found.is_some(), i % 2 == 0, "{i} of {entries}");
            assert_eq!(
                found.map(|f| (f.value_at, f.value)),
                searched.map(|f| (f.value_at, f.value))
            );
            assert_eq!(block.lower_bound(key), Some(i.div_ceil(2)));
        }
    }
}

#[test]
fn separators_lie_between_and_are_short() {
    let mut random = Random(2);
    let mut scratch = vec![];
    for _ in 0..20_000 {
        let (a, b) = (random.key(), random.key());
        let (last, next) = if a < b { (a, b) } else { (b, a) };
        if last == next {
            continue;
        }
        let found = separator(&last, &next, &mut scratch);
        assert!(*last <= *found && *found < *next, "{last:x?} {found:x?} {next:x?}");
        assert!(found.len() <= last.len().max(next.len()));
    }
    assert_eq!(separator(b"abcdefgh", b"abq1234", &mut vec![]), b"abq");
    assert_eq!(separator(b"abcdefgh", b"abq", &mut vec![]), b"abd");
    assert_eq!(separator(b"ab", b"abq", &mut vec![]), b"ab");
    assert_eq!(separator(b"abcd", b"abd", &mut vec![]), b"abce");
}

fn tombstone(start: &[u8], end: Option<&[u8]>, seq: u64) -> RangeTombstone {
    RangeTombstone { start: start.to_vec(), end: end.map(<[u8]>::to_vec), seq: SeqNo(seq) }
}

#[test]
fn range_tombstones_widen_the_bounds() {
    let put = (SeqNo(50), Kind::Put, b"v".to_vec());
    let keys = |keys: &[&str]| -> Model {
        keys.iter().map(|k| (k.as_bytes().to_vec(), put.clone())).collect()
    };
    let bounds =
        |smallest: &[u8], largest| Some(KeyBounds { smallest: smallest.to_vec(), largest });
    let cases = [
        (keys(&[]), vec![], None, (0, 0)),
        (
            keys(&["b", "d"]),
            vec![tombstone(b"c", Some(b"d"), 60)],
            bounds(b"b", Included(b"d".to_vec())),
            (50, 60),
        ),
        (
            keys(&["b", "d"]),
            vec![tombstone(b"a", Some(b"e"), 40), tombstone(b"c", Some(b"d"), 45)],
            bounds(b"a", Excluded(b"e".to_vec())),
            (40, 50),
        ),
        (
            keys(&[]),
            vec![tombstone(b"", Some(b"k"), 9), tombstone(b"x", None, 3)],
            bounds(b"", Unbounded),
            (3, 9),
        ),
    ];
    for (model, tombstones, bounds, (smallest_seq, largest_seq)) in cases {
        let built = build(&model, &tombstones, header(), options(Compression::Lz4));
        let contents = &built.summary.contents;
        assert_eq!(contents.bounds, bounds);
        assert_eq!(contents.smallest_seq, SeqNo(smallest_seq));
        assert_eq!(contents.largest_seq, SeqNo(largest_seq));
        let table = built.open().unwrap();
        assert_reads_as(&table, &model);
        let all = RangeTombstones::new(&tombstones);
        assert_eq!(table.range_tombstones().is_empty(), tombstones.is_empty());
        for key in ["", "a", "b", "c", "cc", "d", "k", "x", "z"] {
            let found = table.range_tombstones().covering(key.as_bytes(), SeqNo::MAX);
            assert_eq!(found, all.covering(key.as_bytes(), SeqNo::MAX), "{key}");
            if let Some(bounds) = &contents.bounds {
                let known = found.is_some() || model.contains_key(key.as_bytes());
                assert!(bounds.contains(key.as_bytes()) || !known);
            }
        }
    }
}

#[test]
fn the_builder_refuses_what_a_file_must_not_hold() {
    let mut builder =
        SstableBuilder::new(named(Arc::default()), header(), KEYSPACE, SstableOptions::default())
            .unwrap();
    let mut add =
        |key: &[u8], kind, value: &[u8]| builder.add(Entry { key, seq: SeqNo(1), kind, value });
    assert!(add(b"m", Kind::Put, b"").is_ok());
    for key in [&b"m"[..], b"l", b""] {
        let refused = add(key, Kind::Put, b"");
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{key:x?}");
    }
    assert!(add(b"n", Kind::RangeDelete, b"z").is_err());
    assert!(matches!(add(&[b'z'; 65_536], Kind::Put, b""), Err(Error::KeyTooLarge)));
    let large = vec![0; (16 << 20) + 1];
    assert!(matches!(add(b"n", Kind::Put, &large), Err(Error::ValueTooLarge { .. })));
    assert!(add(b"n", Kind::Put, &large[1..]).is_ok());
}

/// A scan must not push out what gets use, and must read many blocks at a time.
#[test]
fn a_scan_reads_ahead_and_leaves_the_cache_alone() {
    let mut model = Model::new();
    for i in 0..5_000u32 {
        let value = i.to_be_bytes().repeat(20);
        model.insert(i.to_be_bytes().to_vec(), (SeqNo(1), Kind::Put, value));
    }
    let built = build(&model, &[], header(), options(Compression::None));
    let shared = Arc::new(SharedBlocks::new(1 << 20));
    let table = built.open_with(shared.clone()).unwrap();
    let key = 77u32.to_be_bytes();
    assert!(table.get(KEYSPACE.hash(&key), &key).unwrap().is_some());
    let before = (shared.cache.stats().inserted, built.reads());
    for backward in [false, true] {
        let mut cursor = table.cursor();
        match backward {
            true => cursor.seek_last().unwrap(),
            false => cursor.seek_first().unwrap(),
        }
        while cursor.entry().is_some() {
            match backward {
                true => cursor.prev().unwrap(),
                false => cursor.next().unwrap(),
            }
        }
    }
    assert_eq!(shared.cache.stats().inserted, before.0);
    let reads = built.reads() - before.1;
    assert!(reads < 20, "{reads} reads for two scans of {} bytes", built.summary.file_bytes);
}

/// What was just written is read soon, and its blocks are at hand.
#[test]
fn what_was_written_is_in_the_cache_where_there_is_room() {
    let values = |i: u32| i.to_be_bytes().repeat(20);
    for compression in [Compression::None, Compression::Lz4] {
        for cache_bytes in [1 << 20, 20 << 10] {
            let shared = Arc::new(SharedBlocks::new(cache_bytes));
            let file = Arc::new(MemFile::default());
            let builder =
                SstableBuilder::new(named(file.clone()), header(), KEYSPACE, options(compression));
            let mut builder = builder.unwrap().caching(&shared);
            for i in 0..1000_u32 {
                let (key, value) = (i.to_be_bytes(), values(i));
                let kind = Kind::Put;
                builder.add(Entry { key: &key, seq: SeqNo(1), kind, value: &value }).unwrap();
            }
            let built = Built { summary: builder.finish().unwrap(), file };
            let table = built.open_with(Arc::clone(&shared)).unwrap();
            let before = (built.reads(), shared.cache.stats());
            assert!(
                before.1.evicted == 0 && before.1.bytes <= cache_bytes && before.1.inserted > 4
            );
            for i in 0..1000_u32 {
                let key = i.to_be_bytes();
                let found = table.get(KEYSPACE.hash(&key), &key).unwrap().unwrap();
                assert_eq!(found.value(), values(i));
            }
            assert_eq!(built.reads() == before.0, cache_bytes == 1 << 20);
        }
    }
}
