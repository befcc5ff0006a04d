//! For the failures that answer a get with what is not in its tree: hints to nodes that were let go, or
//! written anew.

use super::*;
use crate::{
    cache::{
        Cache,
        hints::{BUCKET_BYTES, Spot},
    },
    env::{Env, NamedFile, OpenMode, OsEnv},
    format::{
        node::NodeBuilder,
        pages::{PageRun, TreeFileMeta},
    },
    pager::{ENTRY_BYTES, Shared},
};

const META: TreeFileMeta = TreeFileMeta { file_id: FileId(3), identity: 99, page_bytes: 4096 };
const HASH: u64 = 0x1234_5678_9abc_def0;

/// With frames for so many bytes of the file.
fn pager(dir: &tempfile::TempDir, hint_bytes_max: usize, frame_bytes: usize) -> Arc<Pager> {
    let path = dir.path().join("trees");
    let file = NamedFile::open(OsEnv::new().disk(), path, OpenMode::CreateNew).unwrap();
    let cache = Arc::new(Cache::new(1 << 20));
    let shared =
        Shared { cache, frame_bytes, map_bytes_max: u64::MAX, hint_bytes_max, _lock: None };
    Arc::new(Pager::create(file, [7; 16], META, shared).unwrap())
}

/// A leaf of these entries.
fn leaf(pager: &Pager, generation: u64, entries: &[(&[u8], &[u8])]) -> Root {
    let mut node = NodeBuilder::new(0);
    entries.iter().for_each(|(key, value)| node.add(key, value));
    let mut new = pager.write(generation);
    let pointer = new.add(&node).unwrap();
    new.finish().unwrap();
    Root { pointer, level: 0 }
}

fn get(tree: &Tree, key: &[u8]) -> Option<Vec<u8>> {
    tree.get(HASH, key).unwrap().map(|found| found.value().to_vec())
}

fn hints(tree: &Tree) -> &Hinted {
    tree.hinted.as_ref().expect("hints")
}

fn is_hinted(tree: &Tree, key: &[u8]) -> bool {
    let hinted = hints(tree);
    match hinted.find(HASH) {
        Clue::At(place) => hinted.get(&tree.in_place, place, key).is_some(),
        _ => false,
    }
}

#[test]
fn a_hint_to_what_a_merge_let_go_is_no_answer() {
    for frame_bytes in [0, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let_go_and_used_again(pager(&dir, BUCKET_BYTES, frame_bytes)); // hints that never grow
    }
}

fn let_go_and_used_again(pager: Arc<Pager>) {
    // The mapping is to have all pages from the beginning.
    let room = leaf(&pager, 1, &[(b"room", &[0; 40_000])]).pointer;
    pager.give_back([PageRun { first: room.page, pages: room.pages.into() }]);
    let old = leaf(&pager, 2, &[(b"a", b"1"), (b"key", b"old")]);
    let first = Tree::new(old, &pager, Arc::default(), None);
    assert!(!is_hinted(&first, b"key"));
    assert_eq!(get(&first, b"key"), Some(b"old".to_vec()));
    assert!(is_hinted(&first, b"key") && !is_hinted(&first, b"a"), "the same hash, another key");
    let to_old = hints(&first).hints.find(HASH).unwrap();

    let new = leaf(&pager, 3, &[(b"key", b"new")]);
    let second = first.merged(new, &[old.pointer], Arc::default(), None);
    assert!(Arc::ptr_eq(&first.in_place, &second.in_place));
    assert!(!is_hinted(&second, b"key"), "a superseded page");
    assert_eq!(get(&second, b"a"), None);
    assert_eq!(get(&second, b"key"), Some(b"new".to_vec()));
    assert!(is_hinted(&second, b"key") && !is_hinted(&first, b"key"), "of the newer tree only");
    assert_eq!(get(&first, b"key"), Some(b"old".to_vec()), "the older tree stays as it was");

    // The old page is another tree's now, at the same place with the same key.
    drop(first);
    pager.give_back([PageRun { first: old.pointer.page, pages: 1 }]);
    let other = leaf(&pager, 4, &[(b"a", b"1"), (b"key", b"other")]);
    assert_eq!(other.pointer.page, old.pointer.page);
    let third = Tree::new(other, &pager, Arc::default(), None);
    assert_eq!(get(&third, b"key"), Some(b"other".to_vec()));
    hints(&second).hints.put(HASH, to_old);
    assert!(is_hinted(&third, b"key") && !is_hinted(&second, b"key"), "used again by another");
    assert_eq!(get(&second, b"key"), Some(b"new".to_vec()));
}

#[test]
fn a_hint_that_is_wrong_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let pager = pager(&dir, BUCKET_BYTES, 0); // hints that never grow
    let large = [7; 9000];
    let tree =
        Tree::new(leaf(&pager, 1, &[(b"a", b"1"), (b"b", &large)]), &pager, Arc::default(), None);
    assert_eq!(get(&tree, b"b"), Some(large.to_vec()));
    assert!(is_hinted(&tree, b"b"), "in a leaf of several pages too");
    let right = hints(&tree).hints.find(HASH).unwrap();
    for (page, index) in [(right.page, 0), (right.page, 2), (right.page + 1, 1), (1 << 27, 1)] {
        hints(&tree).hints.put(HASH, Spot { page, index, line: 63 });
        assert!(!is_hinted(&tree, b"b"));
        assert_eq!(get(&tree, b"b"), Some(large.to_vec()));
        assert!(is_hinted(&tree, b"b"));
    }
}

#[test]
fn without_memory_for_hints_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let pager = pager(&dir, 0, 1 << 20);
    let tree = Tree::new(leaf(&pager, 1, &[(b"a", b"1")]), &pager, Arc::default(), None);
    assert!(tree.hinted.is_none());
    assert_eq!(get(&tree, b"a"), Some(b"1".to_vec()));
}

/// The first page of a leaf may have a frame that another leaf was read from before, when the rest of the leaf
/// has none: then it is read in the mapping.
#[test]
fn a_leaf_that_reaches_behind_the_frames_is_not_read_where_another_was() {
    let dir = tempfile::tempdir().unwrap();
    let pager = pager(&dir, BUCKET_BYTES, 2 * 4096); // the first page of the file, and one
    let large = [7; 9000];
    let room = leaf(&pager, 1, &[(b"room", &large)]).pointer;
    pager.give_back([PageRun { first: room.page, pages: room.pages.into() }]);
    let old = leaf(&pager, 2, &[(b"key", b"old")]);
    let first = Tree::new(old, &pager, Arc::default(), None);
    assert_eq!(get(&first, b"key"), Some(b"old".to_vec()));
    drop(first);
    pager.give_back([PageRun { first: old.pointer.page, pages: 1 }]);
    let new = leaf(&pager, 3, &[(b"key", &large)]);
    assert_eq!(new.pointer.page, old.pointer.page);
    let second = Tree::new(new, &pager, Arc::default(), None);
    for _ in 0..2 {
        assert_eq!(get(&second, b"key"), Some(large.to_vec()));
    }
    assert!(is_hinted(&second, b"key"));
}

/// For an entry that counts as missing because no hint leads to it, and nobody ever left one.
#[test]
fn without_a_hint_a_key_is_missing_only_where_all_entries_have_one() {
    let dir = tempfile::tempdir().unwrap();
    let pager = pager(&dir, 1 << 20, 1 << 20);
    let put = |table: &Hints, leaf: Root| {
        table.put(HASH, Spot { page: leaf.pointer.page, index: 0, line: 0 });
    };
    let other = HASH ^ 1 << 63;
    let is_missing = |tree: &Tree| matches!(hints(tree).find(other), Clue::Missing);
    let one = leaf(&pager, 1, &[(b"key", b"value")]);
    assert!(!is_missing(&Tree::new(one, &pager, Arc::default(), None)), "an opened tree");

    let table = pager.hints(0, ENTRY_BYTES).unwrap();
    put(&table, one);
    let whole = Tree::new(one, &pager, Arc::default(), Some(&table));
    assert!(is_missing(&whole) && whole.get(other, b"none").unwrap().is_none());
    assert!(!matches!(hints(&whole).find(HASH), Clue::Missing));
    assert_eq!(get(&whole, b"key"), Some(b"value".to_vec()));
    let two = leaf(&pager, 2, &[(b"key", b"new")]);
    let merged = |tree: &Tree, table: Option<&Arc<Hints>>| {
        tree.merged(two, &[one.pointer], Arc::default(), table)
    };
    assert!(!is_missing(&merged(&whole, None)), "an entry was left out");

    // The table that a merge began with is not the newest any more when it ends: its hints may be missing there.
    let larger = pager.hints(1 << 20, ENTRY_BYTES).unwrap();
    assert!(larger.bytes() > table.bytes());
    assert!(!is_missing(&merged(&whole, Some(&table))));
    put(&larger, two);
    let next = merged(&whole, Some(&larger));
    assert!(is_missing(&next));
    assert!(is_missing(&merged(&next, Some(&larger))));
    let unknown = Tree::new(one, &pager, Arc::default(), None);
    assert!(!is_missing(&merged(&unknown, Some(&larger))), "what was taken over has no hints");
}

/// For a read that fails, or believes damage, because of a leaf that it did not ask for.
#[test]
fn a_read_brings_the_leaves_beside_it_near_unless_they_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let pager = pager(&dir, BUCKET_BYTES, 1 << 20);
    let mut new = pager.write(1);
    let key = |n: usize| [b'a' + n as u8];
    let leaves: Vec<NodePointer> = (0..6)
        .map(|n| {
            let mut node = NodeBuilder::new(0);
            // One of several pages among them.
            node.add(&key(n), &vec![n as u8; if n == 3 { 9000 } else { 10 }]);
            new.add(&node).unwrap()
        })
        .collect();
    let mut branch = NodeBuilder::new(1);
    for (n, leaf) in leaves.iter().enumerate() {
        branch.add_child(&key(n), *leaf, &[]);
    }
    let root = Root { pointer: new.add(&branch).unwrap(), level: 1 };
    new.finish().unwrap();
    let file = NamedFile::open(OsEnv::new().disk(), dir.path().join("trees"), OpenMode::Write);
    file.unwrap().write_all_at(&[1], leaves[4].page * 4096 + 4000).unwrap();

    let tree = Tree::new(root, &pager, Arc::default(), None);
    assert!(leaves.iter().all(|leaf| tree.in_place.lacks(*leaf)));
    assert_eq!(get(&tree, &key(2)), Some(vec![2; 10]));
    let near = leaves.iter().map(|leaf| !tree.in_place.lacks(*leaf));
    assert_eq!(near.collect::<Vec<_>>(), [true, true, true, true, false, true]);
    assert_eq!(get(&tree, &key(3)), Some(vec![3; 9000]));
    assert_eq!(get(&tree, &key(5)), Some(vec![5; 10]));
    assert!(tree.get(HASH, &key(4)).unwrap_err().is_corruption());
}
