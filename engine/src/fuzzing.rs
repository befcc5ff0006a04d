//! What the fuzzers call: every decoder, with any bytes. Behind the feature `fuzzing`; no part of the API.
//!
//! A checksum would stop a fuzzer at the door, so each function first puts the right one where the format has
//! one. Then a decoder must refuse, or give what encodes to bytes that decode to the same.

use crate::{
    codec::Decompressors,
    config::Compression,
    format::{
        blob::{
            BLOB_HEAD_BYTES, BlobPointer, Chunks, POINTER_BYTES, decode_chunk_bytes, decode_table,
            encode_head, encode_table,
        },
        block::Block,
        header::{FileHeader, FileKind, HEADER_BYTES},
        manifest::{EDIT_HEADER_BYTES, FoundEdit, State, encode_edit},
        node::{NODE_HEADER_BYTES, Node, NodeHeader, NodePointer, PAGE_BYTES_MIN},
        ops::Ops,
        record::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, Switch},
        sstable::{
            FOOTER_BYTES, Footer, Properties, decode_fragments, decode_index, put_fragment,
            put_index_entry,
        },
    },
    sstable::reencoded_filter,
    types::Lsn,
};

/// A fuzzer, by the name of its target and of its folder in `corpus/fuzz`.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("wal_record", wal_record),
    ("wal_payload", wal_payload),
    ("file_headers", file_headers),
    ("manifest_edit", manifest_edit),
    ("sstable_block", sstable_block),
    ("sstable_meta", sstable_meta),
    ("sstable_footer", sstable_footer),
    ("compressed_block", compressed_block),
    ("tree_node", tree_node),
    ("blob", blob),
];

/// `bytes`, cut or padded to `N`.
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let len = bytes.len().min(N);
    out[..len].copy_from_slice(&bytes[..len]);
    out
}

/// The header of a log record, and a switch as its payload.
pub fn wal_record(bytes: &[u8]) {
    const SALT: u64 = 0x1234_5678_9abc_def0;
    if let Some(switch) = Switch::decode(bytes) {
        assert_eq!(Switch::decode(&switch.encode()), Some(switch));
    }
    // As it comes, it must not get past the checksum, but for those 72 bytes that we made.
    let lsn = Lsn(4096);
    let _ = RecordHeader::decode(bytes, SALT, lsn);
    let mut header = padded::<RECORD_HEADER_BYTES>(bytes);
    header[..4].copy_from_slice(b"LDBr");
    header[8..16].copy_from_slice(&lsn.0.to_le_bytes());
    let mut crc = crc32fast::Hasher::new_with_initial((SALT ^ (SALT >> 32)) as u32);
    crc.update(&header[8..]);
    header[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    if let Some(record) = RecordHeader::decode(&header, SALT, lsn) {
        let mut again = [0; RECORD_HEADER_BYTES];
        record.encode(SALT, &mut again);
        assert_eq!(RecordHeader::decode(&again, SALT, lsn), Some(record));
        assert_eq!(RecordHeader::decode(&again, SALT ^ 1, lsn), None, "another segment's");
        assert_eq!(RecordHeader::decode(&again, SALT, Lsn(lsn.0 + 8)), None, "another place's");
    }
}

/// The operations of a commit.
pub fn wal_payload(bytes: &[u8]) {
    let mut encoded = vec![];
    for op in Ops::new(bytes) {
        let Some(op) = op else { return };
        let at = encoded.len();
        encoded.resize(at + op.encoded_len(), 0);
        op.encode(&mut encoded[at..]);
    }
    assert_eq!(encoded, bytes, "operations have one encoding");
}

/// The headers of files and of log segments.
pub fn file_headers(bytes: &[u8]) {
    for kind in
        [FileKind::Wal, FileKind::Sstable, FileKind::Manifest, FileKind::Tree, FileKind::Blob]
    {
        let _ = FileHeader::decode(bytes, kind);
        let mut header = padded::<HEADER_BYTES>(bytes);
        header[..8].copy_from_slice(match kind {
            FileKind::Wal => b"LDBwal\r\n",
            FileKind::Sstable => b"LDBsst\r\n",
            FileKind::Manifest => b"LDBman\r\n",
            FileKind::Tree => b"LDBtre\r\n",
            FileKind::Blob => b"LDBblo\r\n",
        });
        let end = HEADER_BYTES - 4;
        let crc = crc32fast::hash(&header[..end]);
        header[end..].copy_from_slice(&crc.to_le_bytes());
        if let Ok(found) = FileHeader::decode(&header, kind) {
            assert_eq!(FileHeader::decode(&found.encode(), kind), Ok(found));
        }
    }
    let mut header = padded::<SEGMENT_HEADER_BYTES>(bytes);
    let end = SEGMENT_HEADER_BYTES - 4;
    let crc = crc32fast::hash(&header[..end]);
    header[end..].copy_from_slice(&crc.to_le_bytes());
    if let Some(segment) = SegmentHeader::decode(&header) {
        assert_eq!(segment.encode(), header, "a segment header has one encoding");
    }
}

/// The changes of a manifest edit, and the state that they make.
pub fn manifest_edit(bytes: &[u8]) {
    const IDENTITY: u64 = 77;
    let _ = FoundEdit::decode(bytes, IDENTITY);
    let mut edit = vec![0; EDIT_HEADER_BYTES];
    edit[..4].copy_from_slice(b"LDBe");
    edit[8..16].copy_from_slice(&5u64.to_le_bytes());
    edit[16..20].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    edit.extend_from_slice(bytes);
    let mut crc = crc32fast::Hasher::new_with_initial((IDENTITY ^ (IDENTITY >> 32)) as u32);
    crc.update(&edit[8..]);
    edit[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    let found = FoundEdit::decode(&edit, IDENTITY);
    #[expect(clippy::expect_used, reason = "a fuzzer says what broke by panicking")]
    let Some(changes) = found.expect("the checksum is right").changes() else { return };
    let number = crate::types::EditNo(5);
    let Some(again) = encode_edit(number, &changes, IDENTITY) else { return };
    let again = FoundEdit::decode(&again, IDENTITY).and_then(|edit| edit.changes());
    assert_eq!(again.as_deref(), Some(&changes[..]));
    let mut state = State::default();
    if changes.iter().all(|change| state.apply(change).is_ok()) {
        let mut same = State::default();
        let snapshot = state.snapshot();
        assert!(snapshot.iter().all(|change| same.apply(change).is_ok()), "{snapshot:?}");
        assert_eq!(same, state);
    }
}

/// A block of entries: its first 8 bytes are what is looked for.
pub fn sstable_block(bytes: &[u8]) {
    let (wanted, contents) = bytes.split_at(bytes.len().min(8));
    let Ok(block) = Block::parse(contents) else { return };
    for index in 0..block.len().min(1000) {
        if let Some(base) = block.base(index) {
            assert!(base.len() <= contents.len());
        }
        match block.entry(index) {
            Some(entry) => assert!(entry.suffix.len() + entry.value.len() <= contents.len()),
            None => drop(block.refuse(index)),
        }
    }
    let hash = u64::from_le_bytes(padded(wanted));
    let _ = (block.find(hash, wanted), block.find_by_search(wanted));
    if let Some(at) = block.lower_bound(wanted) {
        assert!(at <= block.len());
    }
}

/// The blocks of an sstable besides those of entries: index, range tombstones, properties, filter. The first
/// byte chooses.
pub fn sstable_meta(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 4 {
        0 => {
            let (mut again, mut previous) = (vec![], vec![]);
            let decoded = decode_index(bytes, |separator, len| {
                put_index_entry(&mut again, &previous, separator, len);
                previous = separator.to_vec();
            });
            let (mut separators, mut same) = (vec![], vec![]);
            let _ =
                decode_index(bytes, |separator, len| separators.push((separator.to_vec(), len)));
            assert!(separators.is_sorted_by(|a, b| a.0 < b.0));
            if decoded.is_ok() {
                assert!(decode_index(&again, |s, len| same.push((s.to_vec(), len))).is_ok());
                assert_eq!(same, separators);
            }
        }
        1 => {
            if let Ok(fragments) = decode_fragments(bytes) {
                let mut again = vec![];
                fragments.iter().for_each(|fragment| put_fragment(&mut again, *fragment));
                assert_eq!(again, bytes, "range tombstones have one encoding");
            }
        }
        2 => {
            if let Ok(properties) = Properties::decode(bytes) {
                assert_eq!(Properties::decode(&properties.encode()).ok(), Some(properties));
            }
        }
        _ => {
            if let Some(again) = reencoded_filter(bytes) {
                assert_eq!(again, bytes, "filters have one encoding");
            }
        }
    }
}

/// The footer of an sstable.
pub fn sstable_footer(bytes: &[u8]) {
    let mut footer = padded::<FOOTER_BYTES>(bytes);
    let _ = Footer::decode(&footer);
    let end = FOOTER_BYTES - 4;
    footer[end - 8..end].copy_from_slice(crate::format::sstable::FOOTER_MAGIC);
    let crc = crc32fast::hash(&footer[..end]);
    footer[end..].copy_from_slice(&crc.to_le_bytes());
    if let Ok(found) = Footer::decode(&footer) {
        assert_eq!(found.encode(), footer, "a footer has one encoding");
    }
}

/// A compressed block. The first two bytes choose the compression and how long the block says it is.
pub fn compressed_block(bytes: &[u8]) {
    let [which, len, bytes @ ..] = bytes else { return };
    let all = [Compression::None, Compression::Zstd, Compression::Lz4, Compression::Snappy];
    let compression = all[usize::from(which % 4)];
    let fill = |with: u8| {
        let mut out = vec![with; usize::from(*len) * 16];
        let done = Decompressors::default().decompress(compression, bytes, &mut out);
        done.map(|()| out)
    };
    assert_eq!(fill(0), fill(0xff), "every byte is filled, and every time the same");
}

/// A node of a tree: its level, 8 bytes to look for, and what stands behind its header.
pub fn tree_node(bytes: &[u8]) {
    const IDENTITY: u64 = 7;
    let Some((level, bytes)) = bytes.split_first() else { return };
    let (wanted, body) = bytes.split_at(bytes.len().min(8));
    let body = &body[..body.len().min(16 * PAGE_BYTES_MIN)];
    let mut node = [&[0; NODE_HEADER_BYTES], body].concat();
    node.resize(node.len().next_multiple_of(PAGE_BYTES_MIN), 0);
    let pages = (node.len() / PAGE_BYTES_MIN) as u16;
    let (pointer, level) = (NodePointer { page: 9, pages, generation: 5 }, level % 4);
    NodeHeader { pointer, level }.seal(&mut node, IDENTITY);
    let other = NodePointer { generation: 6, ..pointer };
    assert!(Node::verify(&node, other, level, IDENTITY).is_err());
    let Ok(found) = Node::verify(&node, pointer, level, IDENTITY) else { return };
    if let Some((at, _)) = found.search(wanted) {
        assert!(at <= found.len());
    }
    let sound = found.check().is_ok();
    for index in 0..found.len().min(1000) {
        let (mut key, entry) = (vec![], (level == 0).then(|| found.entry(index)).flatten());
        let key = found.append_key(index, &mut key).map(|()| key);
        assert!(key.as_ref().is_none_or(|key| key.len() <= node.len()));
        assert!(entry.is_none_or(|entry| entry.value_at + entry.value.len() <= node.len()));
        drop((found.child(index), found.refuse(index)));
        if let (true, 0, Some(key)) = (sound, level, key) {
            assert_eq!(found.search(&key), Some((index, true)));
            assert!(entry.is_some());
        }
    }
}

/// A pointer to a blob, the head of its file, and where its chunks are.
pub fn blob(bytes: &[u8]) {
    if let Some(pointer) = BlobPointer::decode(bytes) {
        assert_eq!(pointer.encode(), bytes);
    }
    let Some(pointer) = BlobPointer::decode(&padded::<POINTER_BYTES>(bytes)) else { return };
    let BlobPointer { file_id, identity, len } = pointer;
    let rest = padded::<8>(bytes.get(POINTER_BYTES..).unwrap_or_default());
    let _ = decode_chunk_bytes(identity, &rest);
    let [a, b, c, d, ..] = rest;
    let chunk_bytes = u32::from_le_bytes([a, b, c, d]);
    let header = FileHeader { kind: FileKind::Blob, uuid: [0; 16], file_id, identity };
    let head: [u8; BLOB_HEAD_BYTES] = encode_head(&header, chunk_bytes);
    let Some(found) = decode_chunk_bytes(identity, &head[HEADER_BYTES..]) else {
        return; // no length of a chunk
    };
    assert_eq!(found, chunk_bytes);
    // The chunks hold the value.
    let chunks = Chunks { chunk_bytes, len: len.into() };
    let count = chunks.count();
    let ends = (0..count.min(100)).chain(count.saturating_sub(3).max(100)..count);
    assert!(
        ends.map(|index| chunks.len_of(index)).all(|len| (1..=chunk_bytes as usize).contains(&len))
    );
    let full = count.saturating_sub(1) * u64::from(chunk_bytes);
    assert_eq!(full + chunks.len_of(count.saturating_sub(1)) as u64, u64::from(len));
    // The table has one encoding.
    let mut table = bytes.get(POINTER_BYTES..).unwrap_or_default().to_vec();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&identity.to_le_bytes());
    crc.update(&table);
    table.extend_from_slice(&crc.finalize().to_le_bytes());
    if let Some(stored) = decode_table(identity, &table) {
        assert_eq!(encode_table(identity, &stored), table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    /// What fuzzing has found worth keeping: inputs that reach every branch of the decoders, and those that
    /// once broke one.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test reads its corpus")]
    fn the_corpus_breaks_nothing() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/fuzz");
        for (name, run) in TARGETS {
            let folder = corpus.join(name);
            let mut inputs = 0;
            for input in fs::read_dir(&folder).unwrap() {
                let bytes = fs::read(input.unwrap().path()).unwrap();
                run(&bytes);
                inputs += 1;
            }
            assert!(inputs > 0, "{} is empty", folder.display());
        }
    }
}
