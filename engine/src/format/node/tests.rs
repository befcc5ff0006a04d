use super::*;
use std::collections::BTreeMap;

const IDENTITY: u64 = 77;

fn pointer() -> NodePointer {
    NodePointer { page: 5, pages: 1, generation: 9 }
}

fn leaf(entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut builder = NodeBuilder::new(0);
    for (key, value) in entries {
        let with = builder.encoded_len_with(key, value.len());
        builder.add(key, value);
        assert_eq!(with, builder.encoded_len());
    }
    let pages = builder.encoded_len().div_ceil(PAGE_BYTES_MIN);
    let mut node = vec![];
    builder.encode(pages * PAGE_BYTES_MIN, &mut node);
    NodeHeader { pointer: NodePointer { pages: pages as u16, ..pointer() }, level: 0 }
        .seal(&mut node, IDENTITY);
    node
}

fn verified(bytes: &[u8]) -> Node<'_> {
    let pages = (bytes.len() / PAGE_BYTES_MIN) as u16;
    Node::verify(bytes, NodePointer { pages, ..pointer() }, 0, IDENTITY).unwrap()
}

/// Keys that differ early, late, in length only, and around the head.
fn sets() -> Vec<BTreeMap<Vec<u8>, Vec<u8>>> {
    let texts: [&[&str]; 5] = [
        &[""],
        &["", "\0", "\0\0", "\0\0\0\0", "\0\0\0\0\0", "a", "b"],
        &["pre", "prefix", "prefix1", "prefix12", "prefix123", "prefix1234", "prefix12345"],
        &["same head 1", "same head 2", "same head 20", "same other"],
        &["aaaa", "aaaab", "aaab", "ab", "b"],
    ];
    let mut sets: Vec<BTreeMap<_, _>> = texts
        .iter()
        .map(|keys| keys.iter().map(|k| (k.as_bytes().to_vec(), k.repeat(3).into())).collect())
        .collect();
    let mut x = 1u64;
    let mut number = move |below: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % below
    };
    for (entries, key_max, value_max) in [(20, 30, 150), (300, 6, 10), (9, 2000, 90_000)] {
        let entry = |_| {
            let key: Vec<u8> =
                (0..number(key_max)).map(|_| [0, 1, b'a', 255][number(4) as usize]).collect();
            (key, vec![number(256) as u8; number(value_max) as usize])
        };
        sets.push((0..entries).map(entry).collect());
    }
    sets
}

#[test]
fn what_was_put_in_is_found_and_nothing_else() {
    for entries in sets() {
        let bytes = leaf(&entries);
        let node = verified(&bytes);
        node.check().unwrap();
        assert_eq!(node.len(), entries.len());
        let sorted: Vec<_> = entries.iter().collect();
        for (index, (key, value)) in sorted.iter().enumerate() {
            assert_eq!(node.search(key), Some((index, true)), "{key:?}");
            let entry = node.entry(index).unwrap();
            assert_eq!(entry.value, *value);
            assert_eq!(&bytes[entry.value_at..][..value.len()], *value);
            let mut found = vec![];
            node.append_key(index, &mut found).unwrap();
            assert_eq!(found, **key);
            // Its neighbours in the order of all keys.
            for other in [[key, &[0][..]].concat(), key[..key.len().saturating_sub(1)].to_vec()] {
                let less = entries.range(..other.clone()).count();
                let equal = entries.contains_key(&other);
                assert_eq!(node.search(&other), Some((less, equal)), "{other:?}");
            }
        }
        assert!(node.entry(entries.len()).is_none());
    }
}

#[test]
fn the_length_is_known_before_and_exact_where_no_key_ends_in_its_head() {
    let mut builder = NodeBuilder::new(0);
    for n in 1..200u64 {
        builder.add(format!("key {:020}", n << 40).as_bytes(), &[7; 100]);
    }
    let mut out = vec![];
    builder.encode(builder.encoded_len(), &mut out);
    assert_eq!(out.len(), builder.encoded_len());
    assert_ne!(out.last(), Some(&0), "room is left");
}

#[test]
fn a_branch_finds_the_child_that_holds_a_key() {
    let child = |n: u64| NodePointer { page: n << 30, pages: n as u16 + 1, generation: n * 3 };
    let lowers = ["", "b", "ba", "bcdefgh", "bcdefghi", "d"];
    let mut builder = NodeBuilder::new(2);
    for (n, lower) in lowers.iter().enumerate() {
        builder.add_child(lower.as_bytes(), child(n as u64), &[]);
    }
    assert!(builder.encoded_len() <= PAGE_BYTES_MIN);
    let mut bytes = vec![];
    builder.encode(PAGE_BYTES_MIN, &mut bytes);
    NodeHeader { pointer: pointer(), level: 2 }.seal(&mut bytes, IDENTITY);
    let node = Node::verify(&bytes, pointer(), 2, IDENTITY).unwrap();
    node.check().unwrap();
    assert_eq!((node.len(), node.level()), (lowers.len(), 2));
    for key in ["", "a", "b", "b\0", "ba", "bb", "bcdefgh", "bcdefgha", "bcdefghi", "c", "d", "z"] {
        let holds = lowers.iter().rposition(|lower| *lower <= key).unwrap();
        assert_eq!(node.search_child(key.as_bytes()), Some(holds), "{key:?}");
        assert_eq!(node.child(holds), Some(child(holds as u64)));
    }
    assert_eq!(node.child(lowers.len()), None);
}

/// Of children that come with parts of several widths each is found with its own, after being moved to another
/// builder too; and the length is what was said.
#[test]
fn a_lowest_branch_knows_what_keys_its_leaves_have() {
    let hash =
        |leaf: usize, n: usize| ((leaf * 1000 + n) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let sizes = [3, 0, 40, 9, 700, 1];
    let mut builder = NodeBuilder::new(1);
    for (leaf, n) in sizes.iter().enumerate() {
        let part = filter::build((0..*n).map(|n| hash(leaf, n)));
        let part = if *n == 0 { &[][..] } else { &part };
        let (lower, child) = ([leaf as u8], NodePointer { page: leaf as u64 + 1, ..pointer() });
        let with = builder.encoded_len_with(&lower, part.len());
        builder.add_child(&lower, child, part);
        assert_eq!(with, builder.encoded_len());
    }
    let behind = builder.split_off(4);
    let mut all = NodeBuilder::new(1);
    all.append(&builder);
    for (builder, leaves) in [(&builder, 0..4), (&behind, 4..6), (&all, 0..4)] {
        let mut bytes = vec![];
        let pages = builder.encoded_len().div_ceil(PAGE_BYTES_MIN);
        builder.encode(pages * PAGE_BYTES_MIN, &mut bytes);
        let pointer = NodePointer { pages: pages as u16, ..pointer() };
        NodeHeader { pointer, level: 1 }.seal(&mut bytes, IDENTITY);
        let node = Node::verify(&bytes, pointer, 1, IDENTITY).unwrap();
        node.check().unwrap();
        for (index, leaf) in leaves.enumerate() {
            assert_eq!(node.child(index).map(|child| child.page), Some(leaf as u64 + 1));
            let part = node.filter(index);
            assert!((0..sizes[leaf]).all(|n| filter::admits(part, hash(leaf, n))), "{leaf}");
            let others = (0..1000).filter(|n| filter::admits(part, hash(9, *n))).count();
            let most = match sizes[leaf] {
                0 => 1000, // of which nothing is known
                700 => 250,
                _ => 50,
            };
            assert!(others <= most, "{leaf}: {others}");
        }
        assert!(node.filter(node.len()).is_empty());
    }
}

/// A branch that is longer than 64 KiB only with its filter has longer offsets too: counted without them, its last
/// cells were cut off, and with them all that they lead to.
#[test]
fn a_branch_that_its_filter_makes_long_is_whole() {
    let mut lengths = vec![];
    let around = (115..130).map(|narrow| (narrow, 1));
    for (narrow, wide) in [(300, 6), (140, 100), (900, 3)].into_iter().chain(around) {
        let mut builder = NodeBuilder::new(1);
        for n in 0..narrow + wide {
            let keys = if n < narrow { 8_u32 } else { 512 };
            let part = filter::build((0..keys).map(|i| u64::from(i) * 77));
            let lower = format!("k{:010}", 20_001 + n * 80_000);
            let child = NodePointer { page: n + 1, ..pointer() };
            let with = builder.encoded_len_with(lower.as_bytes(), part.len());
            builder.add_child(lower.as_bytes(), child, &part);
            assert_eq!(with, builder.encoded_len());
        }
        let len = builder.encoded_len();
        lengths.push(len);
        let mut bytes = vec![];
        builder.encode(len, &mut bytes);
        assert_ne!(bytes.last(), Some(&0), "room is left");
        let end = bytes.len().next_multiple_of(PAGE_BYTES_MIN);
        bytes.resize(end, 0);
        let pointer = NodePointer { pages: (end / PAGE_BYTES_MIN) as u16, ..pointer() };
        NodeHeader { pointer, level: 1 }.seal(&mut bytes, IDENTITY);
        Node::verify(&bytes, pointer, 1, IDENTITY).unwrap().check().unwrap();
    }
    let short = lengths.iter().filter(|len| **len <= 1 << 16).count();
    assert!(short > 3 && short + 3 < lengths.len(), "{lengths:?}");
}

#[test]
fn every_flipped_bit_and_every_other_place_is_noticed() {
    let bytes = leaf(&sets()[2]);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Node::verify(&bad, pointer(), 0, IDENTITY).is_err(), "bit {bit}");
    }
    let other = |page, generation| NodePointer { page, pages: 1, generation };
    for (pointer, level, identity) in [
        (other(6, 9), 0, IDENTITY),
        (other(5, 8), 0, IDENTITY),
        (pointer(), 1, IDENTITY),
        (pointer(), 0, 78),
    ] {
        assert!(Node::verify(&bytes, pointer, level, identity).is_err());
    }
    assert!(Node::verify(&bytes[..10], pointer(), 0, IDENTITY).is_err());
}

#[test]
fn nonsense_under_a_good_checksum_is_refused_without_a_panic() {
    let mut x = 7u64;
    for set in sets() {
        let good = leaf(&set);
        for _ in 0..2_000 {
            let mut bytes = good.clone();
            for _ in 0..3 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                let at = NODE_HEADER_BYTES + (x >> 33) as usize % (bytes.len() - NODE_HEADER_BYTES);
                bytes[at] = (x >> 20) as u8;
            }
            let pages = (bytes.len() / PAGE_BYTES_MIN) as u16;
            let pointer = NodePointer { pages, ..pointer() };
            NodeHeader { pointer, level: 0 }.seal(&mut bytes, IDENTITY);
            let Ok(node) = Node::verify(&bytes, pointer, 0, IDENTITY) else {
                continue;
            };
            let whole = node.check().is_ok();
            for key in set.keys() {
                let found = node.search(key);
                assert!(!whole || found.is_some());
            }
        }
    }
}

#[test]
fn a_builder_splits_in_the_middle() {
    let mut builder = NodeBuilder::new(0);
    for n in 0..100u32 {
        builder.add(&n.to_be_bytes(), &[1; 50]);
    }
    let middle = builder.middle();
    assert!((45..55).contains(&middle), "{middle}");
    let behind = builder.split_off(middle);
    assert_eq!((builder.len(), behind.len()), (middle, 100 - middle));
    assert_eq!(behind.first_key(), (middle as u32).to_be_bytes());
    assert_eq!((builder.level(), behind.is_empty()), (0, false));
}

/// A key that is in the node and that no search finds is as bad as one that is lost.
#[test]
fn a_key_that_no_search_finds_is_refused() {
    let entries = ["ab", "ac"].map(|key| (key.as_bytes().to_vec(), b"value".to_vec()));
    let mut node = leaf(&entries.into());
    assert!(verified(&node).check().is_ok());
    // Behind the prefix `a` the first head has one byte of a key; what follows is to be 0.
    node[FIXED_BYTES] = 1;
    let found = Node::of(&node).expect("a node");
    let mut key = vec![];
    assert_eq!((found.append_key(0, &mut key), key.as_slice()), (Some(()), &b"ab"[..]));
    assert!(matches!(found.check(), Err(Refused::Corrupt("keys that a search finds", _))));
}

#[test]
fn an_entry_is_that_of_its_key_and_of_no_other() {
    for entries in sets() {
        let bytes = leaf(&entries);
        let node = verified(&bytes);
        for (index, (key, value)) in entries.iter().enumerate() {
            let found = node.entry_of(index, key).expect("the entry of its key");
            assert_eq!(found.value, value);
            assert_eq!(found.value_at, node.entry(index).unwrap().value_at);
            for other in 0..node.len() + 1 {
                assert_eq!(node.entry_of(other, key).is_some(), other == index);
            }
            for wrong in [&key[..key.len() / 2], &[key, &b"\0"[..]].concat(), b"none"] {
                assert_eq!(node.entry_of(index, wrong).is_some(), wrong == key, "{wrong:?}");
            }
        }
    }
}

#[test]
fn heads_are_counted_as_a_search_by_halves_finds_them() {
    let mut x = 1_u64;
    let mut number = move |below: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % below
    };
    for len in (0..140).chain([500, 4097]) {
        for distinct in [2, 9, 1 << 20, 1 << 31] {
            let mut heads: Vec<u32> = (0..len).map(|_| (number(distinct) * 2) as u32).collect();
            heads.sort_unstable();
            let stored: Vec<[u8; HEAD_BYTES]> = heads.iter().map(|h| h.to_le_bytes()).collect();
            let around = heads.iter().flat_map(|h| [h.wrapping_sub(1), *h, h.wrapping_add(1)]);
            for head in around.chain([0, 1 << 31, u32::MAX]) {
                let start = heads.partition_point(|h| *h < head);
                let end = heads.partition_point(|h| *h <= head);
                assert_eq!(same_heads(&stored, head), Some((start, end)), "{head} in {heads:?}");
            }
        }
    }
}

/// The rows of 16 bytes that are not all zero, with their offsets.
fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (number, row) in bytes.chunks(16).enumerate().filter(|(_, row)| row.iter().any(|b| *b != 0))
    {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let printable = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
        let text: String = row.iter().map(printable).collect();
        out += &format!("{:04x}  {}  {text}\n", number * 16, hex.join(" "));
    }
    out
}

/// For a change of the format that nobody meant. docs/formats/tree.md says what the bytes are.
#[test]
fn the_bytes_of_a_leaf_are_pinned() {
    let entries =
        [("fruit/apple", "red"), ("fruit/apricot", ""), ("fruit/fig", "green"), ("fruit/", "all")];
    let entries = entries.map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
    insta::assert_snapshot!(dump(&leaf(&entries.into())));
}

#[test]
fn the_bytes_of_a_branch_are_pinned() {
    let mut builder = NodeBuilder::new(1);
    for (n, lower) in ["", "bark", "barley", "corn"].iter().enumerate() {
        let child =
            NodePointer { page: 7 + 2 * n as u64, pages: 1 + n as u16, generation: 300 + n as u64 };
        // Of the second nothing is known.
        let part =
            filter::build((0..n * 8).map(|i| (i as u64).wrapping_mul(0x0123_4567_89ab_cdef)));
        builder.add_child(lower.as_bytes(), child, if n == 1 { &[] } else { &part });
    }
    let mut bytes = vec![];
    builder.encode(PAGE_BYTES_MIN, &mut bytes);
    NodeHeader { pointer: pointer(), level: 1 }.seal(&mut bytes, IDENTITY);
    insta::assert_snapshot!(dump(&bytes));
}
