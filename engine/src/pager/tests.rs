//! For the failures that show what is not in the tree: a node that is read from a page that was used again,
//! or is believed without its checksum, in place or through the cache.

use super::*;
use crate::env::{Env, OpenMode, OsEnv};
use std::sync::Arc;

const UUID: [u8; 16] = [7; 16];
const META: TreeFileMeta = TreeFileMeta { file_id: FileId(3), identity: 99, page_bytes: 4096 };

fn open(dir: &tempfile::TempDir, mode: OpenMode) -> NamedFile {
    let path = dir.path().join(tree_file_name(META.file_id));
    NamedFile::open(OsEnv::new().disk(), path, mode).unwrap()
}

/// With frames for so many bytes of the file, and a mapping of no more than so many.
fn shared(frame_bytes: usize, map_bytes_max: u64) -> Shared {
    Shared {
        cache: Arc::new(Cache::new(1 << 20)),
        frame_bytes,
        map_bytes_max,
        hint_bytes_max: 1 << 16,
        _lock: None,
    }
}

/// A leaf with one entry.
fn write(pager: &Pager, generation: u64, value: &[u8]) -> NodePointer {
    let mut new = pager.write(generation);
    let mut node = NodeBuilder::new(0);
    node.add(b"key", value);
    let pointer = new.add(&node).unwrap();
    assert_eq!(new.finish().unwrap().pages.pages(), u64::from(pointer.pages));
    pointer
}

fn value(bytes: &[u8]) -> Vec<u8> {
    Node::of(bytes).and_then(|node| node.entry(0)).expect("an entry").value.to_vec()
}

/// The value by both ways, which must not differ, or the error.
fn read(pager: &Pager, pointer: NodePointer) -> Result<Vec<u8>> {
    let copied = pager.read(pointer, 0).map(|bytes| value(&bytes));
    let in_place = pager.in_place();
    let read = pager.read_in_place(&in_place, pointer, 0);
    let in_place = read.map(|bytes| value(bytes.expect("read in place")));
    assert_eq!(format!("{copied:?}"), format!("{in_place:?}"));
    in_place
}

/// Whether an error tells where the node is.
fn names(error: &Error, node: NodePointer) -> bool {
    let place = format!(".tree at page {} (offset {}): ", node.page, node.page * 4096);
    error.to_string().contains(&place)
}

#[test]
fn whatever_is_wrong_with_a_node_its_page_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let pager = Pager::create(open(&dir, OpenMode::CreateNew), UUID, META, shared(0, 0)).unwrap();
    write(&pager, 1, b"first");
    let node = write(&pager, 2, b"value");
    let told = |pointer: NodePointer, level: u8, what: &str| {
        let error = pager.read(pointer, level).unwrap_err();
        assert!(names(&error, pointer) && error.to_string().contains(what), "{error}");
    };
    told(node, 1, "the node that is pointed to, found NodeHeader");
    told(NodePointer { generation: 1, ..node }, 0, "the node that is pointed to");
    told(NodePointer { page: 900, ..node }, 0, "the pages pointed to, found a file of");
    assert!(names(&pager.used_twice(node), node));
    let file = open(&dir, OpenMode::Write);
    file.write_all_at(b"?", node.page * 4096).unwrap();
    told(node, 0, "a node of the tree, found magic");
    file.set_len(node.page * 4096 + 100).unwrap();
    told(node, 0, "4096 bytes, found the end of the file");
}

#[test]
fn a_page_that_is_used_again_is_another_node() {
    // In frames, in a mapping, and where the frames end in the middle of a node.
    for frame_bytes in [1 << 20, 0, 3 * 4096] {
        let dir = tempfile::tempdir().unwrap();
        let file = open(&dir, OpenMode::CreateNew);
        used_again(Pager::create(file, UUID, META, shared(frame_bytes, u64::MAX)).unwrap());
    }
}

fn used_again(pager: Pager) {
    let first = write(&pager, 1, b"first");
    assert_eq!(read(&pager, first).unwrap(), b"first");
    let large = write(&pager, 2, &[5; 9000]);
    assert_eq!(read(&pager, large).unwrap(), [5; 9000]);
    pager.give_back([PageRun { first: first.page, pages: 1 }]);
    let second = write(&pager, 3, b"second");
    assert_eq!(second.page, first.page);
    assert_eq!(read(&pager, second).unwrap(), b"second");
    let in_place = pager.in_place();
    let stale = pager.read_in_place(&in_place, first, 0).unwrap_err();
    assert!(matches!(stale, Error::Corruption(_)), "{stale}");
    // What is verified at one level is not believed at another.
    assert!(pager.read_in_place(&in_place, second, 1).is_err());
}

#[test]
fn a_mapping_is_verified_anew_when_its_pages_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let pager =
        Pager::create(open(&dir, OpenMode::CreateNew), UUID, META, shared(0, u64::MAX)).unwrap();
    let node = write(&pager, 1, b"value");
    let mapped = pager.in_place();
    assert!(mapped.verified(node, 0).is_none());
    assert!(pager.read_in_place(&mapped, node, 0).unwrap().is_some());
    assert!(mapped.verified(node, 0).is_some());
    mapped.forget(node.page..node.page + 1);
    assert!(mapped.verified(node, 0).is_none());
    let file = open(&dir, OpenMode::Write);
    file.write_all_at(&[1], node.page * 4096 + 4000).unwrap();
    let why = pager.read_in_place(&mapped, node, 0).unwrap_err();
    assert!(why.to_string().contains("checksum") && names(&why, node), "{why}");
    assert!(mapped.verified(node, 0).is_none());
}

#[test]
fn what_is_not_mapped_is_read_through_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(&dir, OpenMode::CreateNew);
    let pager = Pager::create(file, UUID, META, shared(0, 0)).unwrap();
    let node = write(&pager, 1, b"value");
    // Hints lead to what is read in place only.
    assert!(pager.in_place().pages() == 0 && pager.hints(0, ENTRY_BYTES).is_none());
    assert_eq!(value(&pager.read(node, 0).unwrap()), b"value");
    let (end, meta) = (pager.space.lock().end, pager.meta());
    drop(pager);
    let space = || (PageSet::default(), end);
    let reopened =
        |max| Pager::open(open(&dir, OpenMode::Write), UUID, meta, space(), shared(0, max));
    assert!(reopened(100).unwrap().in_place().pages() == 0);
    let pager = reopened(u64::MAX).unwrap();
    assert_eq!(read(&pager, node).unwrap(), b"value");
    let mapped = pager.in_place();
    assert!(pager.hints(0, ENTRY_BYTES).is_some());
    for page in [0, mapped.pages(), u64::MAX >> 16] {
        let pointer = NodePointer { page, ..node };
        assert!(pager.read_in_place(&mapped, pointer, 0).is_ok_and(|bytes| bytes.is_none()));
        assert!(pager.read(pointer, 0).is_err());
    }
}

/// A kind of entry that nobody knows is one of a later version only where the checksum is right.
#[test]
fn a_kind_that_came_after_the_verification_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(&dir, OpenMode::CreateNew);
    let pager = Pager::create(file, UUID, META, shared(0, u64::MAX)).unwrap();
    let node = write(&pager, 1, b"value");
    let unknown = || Refused::Unsupported("an entry of kind 147".into());
    let newer = pager.refuse(node, unknown());
    assert!(matches!(newer, Error::Unsupported { .. }));
    assert!(newer.to_string().ends_with("kind 147, in page 1 (offset 4096)"), "{newer}");
    let mut bytes = pager.read(node, 0).unwrap().to_vec();
    // The byte that holds the kind: with another value there, the entry is of an unknown kind.
    let kind_at = (0..bytes.len()).find(|at| {
        let before = std::mem::replace(&mut bytes[*at], 147);
        let refused = Node::of(&bytes).filter(|node| node.level() == 0).map(|node| node.refuse(0));
        bytes[*at] = before;
        matches!(refused, Some(Refused::Unsupported(what)) if what.contains("147"))
    });
    let at = node.page * 4096 + kind_at.unwrap() as u64;
    open(&dir, OpenMode::Write).write_all_at(&[147], at).unwrap();
    let why = pager.refuse(node, unknown());
    assert!(matches!(why, Error::Corruption(_)) && names(&why, node), "{why}");
}

/// Frames are filled by the first read of a node, which verifies it, and then by merges that write nearby.
#[test]
fn a_node_comes_into_its_frame_when_it_is_written_or_verified() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(&dir, OpenMode::CreateNew);
    let pager = Pager::create(file, UUID, META, shared(1 << 20, 0)).unwrap();
    let node = write(&pager, 1, b"value");
    assert!(pager.in_place().verified(node, 0).is_none());
    assert_eq!(read(&pager, node).unwrap(), b"value");
    let next = write(&pager, 2, b"next");
    assert!(pager.in_place().verified(next, 0).is_some());
    let end = pager.space.lock().end;
    drop(pager);
    let reopened = || {
        let file = open(&dir, OpenMode::Write);
        Pager::open(file, UUID, META, (PageSet::default(), end), shared(1 << 20, 0)).unwrap()
    };
    let pager = reopened();
    assert!(pager.in_place().verified(node, 0).is_none());
    assert_eq!(read(&pager, node).unwrap(), b"value");
    assert!(pager.in_place().verified(node, 0).is_some());
    drop(pager);
    open(&dir, OpenMode::Write).write_all_at(&[1], node.page * 4096 + 4000).unwrap();
    let pager = reopened();
    let why = pager.read_in_place(&pager.in_place(), node, 0).unwrap_err();
    assert!(why.to_string().contains("checksum") && names(&why, node), "{why}");
    assert!(pager.in_place().verified(node, 0).is_none());
}

/// For a small read that brings a large neighbour into memory.
#[test]
fn leaves_are_brought_together_within_the_same_part_of_the_file_only() {
    let leaf = |page: u64, pages: u16| NodePointer { page, pages, generation: 1 };
    // Behind 17 there is a gap, 19 is too long for the part that ends at 32, and 99 is elsewhere.
    let leaves =
        [leaf(15, 1), leaf(16, 1), leaf(17, 1), leaf(19, 9000), leaf(99, 1), leaf(9019, 4)];
    let mut branch = NodeBuilder::new(1);
    for (n, leaf) in leaves.iter().enumerate() {
        branch.add_child(&[b'a' + n as u8], *leaf, &[]);
    }
    let mut bytes = vec![];
    branch.encode(4096, &mut bytes);
    let branch = Node::of(&bytes).expect("a node");
    let near = |index: usize| side_by_side(branch, index, 16);
    assert_eq!(near(0), leaves[..1], "another part");
    assert_eq!(near(1), leaves[1..3]);
    assert_eq!(near(2), leaves[1..3]);
    assert_eq!(near(3), leaves[3..4], "what is asked for is read, however long");
    assert_eq!(near(5), leaves[5..]);
    assert_eq!(near(6), []);

    let mut branch = NodeBuilder::new(1);
    let leaves = [leaf(32, 1), leaf(33, 14), leaf(47, 1), leaf(48, 2), leaf(50, 15)];
    for (n, leaf) in leaves.iter().enumerate() {
        branch.add_child(&[b'a' + n as u8], *leaf, &[]);
    }
    let mut bytes = vec![];
    branch.encode(4096, &mut bytes);
    let branch = Node::of(&bytes).expect("a node");
    assert_eq!(side_by_side(branch, 0, 16), leaves[..3]);
    assert_eq!(side_by_side(branch, 3, 16), leaves[3..4], "the next one reaches into another part");
}
