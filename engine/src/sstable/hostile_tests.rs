//! Files that are not what was written: the answer is an error or the right data, never a panic
//! and never wrong data.

use super::{testing::*, *};
use crate::{
    config::Compression,
    error::{Error, Result},
    format::{
        block::Block,
        header::HEADER_BYTES,
        sstable::{FOOTER_BYTES, Footer, TRAILER_BYTES, trailer},
    },
    iter::{Cursor, tombstones::RangeTombstone},
    types::{FileId, KeyspaceId, SeqNo},
};
use std::sync::Arc;

fn tombstones() -> [RangeTombstone; 1] {
    [RangeTombstone { start: vec![b'a'], end: None, seq: SeqNo(1 << 40) }]
}

fn small(random: &mut Random, compression: Compression) -> (Model, Built) {
    let model = random.model(60, 30);
    let options = SstableOptions { block_bytes: 300, ..options(compression) };
    let built = build(&model, &tombstones(), header(), options);
    (model, built)
}

/// Reads everything in every way; `Ok` only if all of it is right.
fn read_all(built: &Built, model: &Model) -> Result<()> {
    let table = built.open_with(Arc::new(SharedBlocks::new(0)))?;
    let check = table.check(&UUID);
    let mut failed = None;
    for (key, (seq, kind, value)) in model {
        match table.get(KEYSPACE.hash(key), key) {
            Err(e) => failed = Some(e),
            Ok(found) => {
                let found = found.map(|f| (f.seq, f.kind, f.value().to_vec()));
                assert_eq!(found, Some((*seq, *kind, value.clone())));
            }
        }
    }
    let mut cursor = table.cursor();
    let mut expected = model.iter().rev();
    cursor.seek_last()?;
    while let Some(found) = cursor.entry() {
        let (key, (_, _, value)) = expected.next().unwrap();
        assert_eq!((found.key, found.value), (&key[..], &value[..]));
        cursor.prev()?;
    }
    assert_eq!(expected.next(), None);
    let newest = table.range_tombstones().newest();
    assert_eq!(newest.collect::<Vec<_>>(), tombstones());
    assert_eq!(check.is_err(), failed.is_some());
    failed.map_or(check, Err)
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut random = Random(1);
    for compression in ALL {
        let (model, built) = small(&mut random, compression);
        read_all(&built, &model).unwrap();
        let len = built.summary.file_bytes as usize;
        for at in 0..len {
            let flip = 1 << random.below(8);
            built.file.bytes.lock()[at] ^= flip;
            let found = read_all(&built, &model);
            assert!(
                matches!(found, Err(Error::Corruption(_) | Error::Unsupported { .. })),
                "{compression:?}, byte {at} of {len}: {found:?}"
            );
            built.file.bytes.lock()[at] ^= flip;
        }
        read_all(&built, &model).unwrap();
    }
}

#[test]
fn every_shorter_or_longer_file_is_noticed() {
    let mut random = Random(2);
    let (model, built) = small(&mut random, Compression::None);
    let whole = built.file.bytes.lock().clone();
    for len in (0..whole.len()).chain([whole.len() + 1]) {
        built.file.bytes.lock().clone_from(&whole);
        built.file.bytes.lock().resize(len, 0);
        let cut = read_all(&built, &model);
        assert!(matches!(cut, Err(Error::Corruption(_))), "{len}: {cut:?}");
        // The same file, shorter data, but as long as it should be.
        built.file.bytes.lock().resize(whole.len(), 0);
        assert_eq!(read_all(&built, &model).is_ok(), *built.file.bytes.lock() == whole);
    }
}

/// Writes that went to the wrong place, or were lost over an older file of the same place.
#[test]
fn misdirected_and_lost_writes_are_noticed() {
    let mut random = Random(3);
    let (model, built) = small(&mut random, Compression::None);
    let older = {
        let mut header = header();
        header.identity ^= 1;
        let options = SstableOptions { block_bytes: 300, ..options(Compression::None) };
        build(&model, &tombstones(), header, options)
    };
    let table = built.open().unwrap();
    let whole = built.file.bytes.lock().clone();
    let places: Vec<_> = (0..table.blocks())
        .map(|i| table.place(i))
        .map(|p| p.start as usize..p.end as usize)
        .collect();
    for (i, a) in places.iter().enumerate() {
        let mut damages = vec![vec![0; a.len()], older.file.bytes.lock()[a.clone()].to_vec()];
        let others = places[i + 1..].iter().filter(|b| b.len() == a.len());
        damages.extend(others.map(|b| whole[b.clone()].to_vec()));
        for damage in damages {
            built.file.bytes.lock()[a.clone()].copy_from_slice(&damage);
            let found = read_all(&built, &model);
            assert!(matches!(found, Err(Error::Corruption(_))), "{found:?}");
        }
        built.file.bytes.lock().clone_from(&whole);
    }
}

#[test]
fn another_file_than_the_manifest_names_is_refused() {
    let mut random = Random(4);
    let (model, built) = small(&mut random, Compression::Zstd);
    let open = |change: &dyn Fn(&mut SstableSummary), uuid: &[u8; 16], keyspace| {
        let mut expected = built.summary.clone();
        change(&mut expected);
        let shared = Arc::new(SharedBlocks::new(0));
        Sstable::open(named(built.file.clone()), &expected, uuid, keyspace, shared)
    };
    assert!(open(&|_| {}, &UUID, KEYSPACE).is_ok());
    let changes: [&dyn Fn(&mut SstableSummary); 6] = [
        &|s| s.file_id = FileId(8),
        &|s| s.identity += 1,
        &|s| s.file_bytes -= 1,
        &|s| s.contents.entries += 1,
        &|s| s.contents.largest_seq.0 += 1,
        &|s| s.contents.bounds = None,
    ];
    for change in changes {
        let refused = open(change, &UUID, KEYSPACE).err();
        assert!(matches!(refused, Some(Error::Corruption(_))), "{refused:?}");
    }
    assert!(open(&|_| {}, &[0; 16], KEYSPACE).is_err());
    assert!(open(&|_| {}, &UUID, KeyspaceId(4)).is_err());
    assert!(!model.is_empty());
}

/// Bytes with a good checksum, written by a newer version or by a broken one.
#[test]
fn blocks_of_nonsense_never_panic() {
    let mut random = Random(5);
    let (_, built) = small(&mut random, Compression::None);
    let table = built.open().unwrap();
    let block = table.block(0).unwrap().to_vec();
    for round in 0..60_000 {
        let mut bad = block.clone();
        for _ in 0..1 + round % 3 {
            let at = random.below(bad.len());
            bad[at] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6)];
        }
        if round % 5 == 0 {
            bad.truncate(random.below(bad.len()));
        }
        let Ok(block) = Block::parse(&bad) else {
            continue;
        };
        let key = random.key();
        let _ = block.find(random.next(), &key);
        let _ = block.find(u64::from(bad[5 % bad.len()]), &key);
        let _ = block.lower_bound(&key);
        for i in 0..block.len().min(100) {
            let _ = (block.entry(i), block.base(i), block.refuse(i));
        }
    }
}

/// A kind or a flag of a newer version must not be taken for rot, nor skipped.
#[test]
fn kinds_and_flags_of_newer_versions_are_unsupported() {
    let mut random = Random(8);
    let (model, built) = small(&mut random, Compression::None);
    let table = built.open().unwrap();
    let whole = built.file.bytes.lock().clone();
    let place = table.place(1);
    let block = table.block(1).unwrap().to_vec();
    let second = Block::parse(&block).unwrap().entry(1).unwrap();
    // Kind and flags of the second entry: nine bytes, three lengths and the key before its value.
    let entry_at = second.value_at - second.suffix.len() - 12;
    for (at, newer) in [(0, 3), (0, 4), (0, 200), (8, 1), (8, 0x80)] {
        let mut bad = block.clone();
        bad[entry_at + at] = newer;
        let seal =
            trailer(&bad, Compression::None, bad.len() as u32, built.summary.identity, place.start);
        bad.extend_from_slice(&seal);
        let mut file = whole.clone();
        file[place.start as usize..place.end as usize].copy_from_slice(&bad);
        built.file.bytes.lock().clone_from(&file);
        let found = built.open().unwrap().check(&UUID);
        assert!(matches!(found, Err(Error::Unsupported { .. })), "{found:?}");
        let found = read_all(&built, &model);
        assert!(matches!(found, Err(Error::Unsupported { .. })), "{found:?}");
    }
}

/// The parts of the footer are checked before anything is allocated for them.
#[test]
fn a_footer_that_lies_is_refused() {
    let mut random = Random(6);
    let (_, built) = small(&mut random, Compression::None);
    let at = built.summary.file_bytes as usize - FOOTER_BYTES;
    let good: [u8; FOOTER_BYTES] = built.file.bytes.lock()[at..].try_into().unwrap();
    assert!(Footer::decode(&good).is_ok());
    for field in 0..8 {
        for lie in [0, 1, HEADER_BYTES as u64, 1 << 40, u64::MAX, u64::MAX - 3] {
            let mut bad = good;
            bad[field * 8..][..8].copy_from_slice(&lie.to_le_bytes());
            let crc = crc32fast::hash(&bad[..FOOTER_BYTES - 4]);
            bad[FOOTER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
            built.file.bytes.lock()[at..].copy_from_slice(&bad);
            assert!(built.open().is_err(), "field {field}: {lie}");
        }
    }
}

/// Index, filter, properties and range tombstones with a good checksum and nonsense within.
#[test]
fn parts_of_nonsense_never_panic() {
    let mut random = Random(7);
    let (model, built) = small(&mut random, Compression::None);
    let whole = built.file.bytes.lock().clone();
    let at = whole.len() - FOOTER_BYTES;
    let footer = Footer::decode(whole[at..].try_into().unwrap()).unwrap();
    let parts = [footer.range_tombstones, footer.filter, footer.index, footer.properties];
    for round in 0..4_000 {
        let part = parts[round % 4];
        let mut bad = whole.clone();
        let sealed = &mut bad[part.offset as usize..][..part.len as usize];
        let (contents, seal) = sealed.split_at_mut(part.len as usize - TRAILER_BYTES);
        let at = random.below(contents.len());
        contents[at] = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6)];
        let len = contents.len() as u32;
        let identity = built.summary.identity;
        let good = trailer(contents, Compression::None, len, identity, part.offset);
        seal.copy_from_slice(&good);
        built.file.bytes.lock().clone_from(&bad);
        let Ok(table) = built.open() else {
            continue;
        };
        let mut cursor = table.cursor();
        let _ = table.check(&UUID);
        for key in model.keys().step_by(7) {
            let _ = table.get(KEYSPACE.hash(key), key);
            let _ = cursor.seek(key);
            let _ = cursor.seek_before(key);
        }
    }
}
