//! For the failures that lose data for good: an entry that a merge forgets or brings back, a key that no
//! search finds, a page that is freed while something points to it.

use super::*;
use crate::{
    format::node::{NodeHeader, PAGE_BYTES_MIN},
    iter::Cursor,
    sync::Mutex,
    types::KeyspaceId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

const IDENTITY: u64 = 3;
const KEYSPACE: KeyspaceId = KeyspaceId(5);

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Nodes in memory, each where no other is.
#[derive(Default)]
struct Memory {
    nodes: Mutex<BTreeMap<u64, Arc<[u8]>>>,
    leaves_read: AtomicU64,
}

impl Nodes for Memory {
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Bytes<'_>> {
        self.leaves_read.fetch_add(u64::from(level == 0), Relaxed);
        let bytes = self.nodes.lock().get(&pointer.page).cloned().expect("a node");
        Node::verify(&bytes, pointer, level, IDENTITY).map_err(|why| self.refuse(pointer, why))?;
        Ok(Bytes::Copied(bytes))
    }

    fn refuse(&self, pointer: NodePointer, why: Refused) -> Error {
        Error::InvalidArgument { what: "node", why: format!("{pointer:?}: {why:?}") }
    }
}

struct Writer<'a> {
    memory: &'a Memory,
    generation: u64,
    page_bytes: usize,
    next_page: u64,
    live: BTreeSet<u64>,
}

impl NewNodes for Writer<'_> {
    fn write(&mut self, node: &NodeBuilder) -> Result<NodePointer> {
        let page_bytes = self.page_bytes;
        let pages = node.encoded_len().div_ceil(page_bytes);
        let pointer =
            NodePointer { page: self.next_page, pages: pages as u16, generation: self.generation };
        let mut bytes = vec![];
        node.encode(pages * page_bytes, &mut bytes);
        NodeHeader { pointer, level: node.level() }.seal(&mut bytes, IDENTITY);
        self.memory.nodes.lock().insert(pointer.page, bytes.into());
        self.live.insert(pointer.page);
        self.next_page += pages as u64;
        Ok(pointer)
    }
}

type Change = (Vec<u8>, Option<Vec<u8>>);

struct List {
    changes: Vec<Change>,
    at: usize,
}

impl Changes for List {
    fn here(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.changes.get(self.at).map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    fn advance(&mut self) -> Result<()> {
        self.at += 1;
        Ok(())
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % end
    }
}

/// What a check came to.
#[derive(Debug, Default)]
struct Watched {
    reached: BTreeSet<u64>,
    /// The page and level of each node that was refused, and why.
    refused: Vec<(u64, u8, String)>,
}

impl Watch for Watched {
    fn node(&mut self, pointer: NodePointer) -> Result<()> {
        match self.reached.insert(pointer.page) {
            true => Ok(()),
            false => Err(Error::InvalidArgument { what: "node", why: "used twice".into() }),
        }
    }

    fn blob(&mut self, _key: &[u8], _pointer: &[u8]) {}

    fn refused(&mut self, node: Root, why: Error) -> Result<()> {
        self.refused.push((node.pointer.page, node.level, why.to_string()));
        Ok(())
    }
}

/// A tree, what it must hold, and which nodes it has.
struct Tree<'a> {
    memory: &'a Arc<Memory>,
    writer: Writer<'a>,
    root: Option<Root>,
    map: Map,
}

impl<'a> Tree<'a> {
    fn new(memory: &'a Arc<Memory>) -> Tree<'a> {
        Tree::of_pages(memory, PAGE_BYTES_MIN)
    }

    fn of_pages(memory: &'a Arc<Memory>, page_bytes: usize) -> Tree<'a> {
        let live = BTreeSet::new();
        let writer = Writer { memory, generation: 0, page_bytes, next_page: 0, live };
        Tree { memory, writer, root: None, map: Map::new() }
    }

    fn merge(&mut self, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>, cuts: &[Cut]) -> Merged {
        let holds = |cut: &Cut, key: &[u8]| {
            cut.start.as_slice() <= key && cut.end.as_deref().is_none_or(|end| key < end)
        };
        self.map.retain(|key, _| !cuts.iter().any(|cut| holds(cut, key)));
        for (key, value) in &changes {
            match value {
                Some(value) => self.map.insert(key.clone(), value.clone()),
                None => self.map.remove(key),
            };
        }
        self.run(changes.into_iter().collect(), cuts, u64::MAX)
    }

    /// One merge, which may leave changes.
    fn run(&mut self, changes: Vec<Change>, cuts: &[Cut], pages_max: u64) -> Merged {
        self.writer.generation += 1;
        let mut list = List { changes, at: 0 };
        let (memory, root, page_bytes) = (&**self.memory, self.root, self.writer.page_bytes);
        let merged = TreeMerge::run(
            memory,
            &mut self.writer,
            (KEYSPACE, root),
            &mut list,
            cuts,
            page_bytes,
            pages_max,
        );
        let merged = merged.unwrap();
        self.root = merged.root;
        for freed in &merged.freed {
            assert!(self.writer.live.remove(&freed.page), "freed twice: {freed:?}");
            self.memory.nodes.lock().remove(&freed.page);
        }
        merged
    }

    /// Every node is reached once or was freed; entries are those of the map; every way of reading.
    fn check(&self) -> Checked {
        let (checked, watched) = self.watch();
        assert!(watched.refused.is_empty(), "{watched:?}");
        assert_eq!(watched.reached, self.writer.live);
        assert_eq!(checked.entries, self.map.len() as u64);
        checked
    }

    fn watch(&self) -> (Checked, Watched) {
        let mut watched = Watched::default();
        let checked = check(&**self.memory, (KEYSPACE, self.root), &mut watched);
        (checked.unwrap(), watched)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let found =
            self.root.map(|root| get(&**self.memory, root, KEYSPACE.hash(key), key).unwrap())??;
        Some(found.value().to_vec())
    }

    fn cursor(&self) -> TreeCursor {
        TreeCursor::new(Arc::clone(self.memory) as Arc<dyn Nodes + Send + Sync>, self.root)
    }

    fn read_all(&self, random: &mut Random) {
        let mut cursor = self.cursor();
        let mut found = Map::new();
        cursor.seek_first().unwrap();
        while let Some(entry) = cursor.entry() {
            found.insert(entry.key.to_vec(), entry.value.to_vec());
            cursor.next().unwrap();
        }
        assert!(found == self.map, "{} entries of {}", found.len(), self.map.len());
        cursor.seek_last().unwrap();
        for (key, value) in self.map.iter().rev() {
            let entry = cursor.entry().expect("an entry");
            assert_eq!((entry.key, entry.value), (key.as_slice(), value.as_slice()));
            cursor.prev().unwrap();
        }
        assert!(cursor.entry().is_none());
        for _ in 0..50 {
            let key = key(random);
            assert_eq!(self.get(&key).as_ref(), self.map.get(&key), "{key:?}");
            cursor.seek(&key).unwrap();
            let next = self.map.range(key.clone()..).next().map(|e| e.0.as_slice());
            assert_eq!(cursor.entry().map(|e| e.key), next, "from {key:?}");
            cursor.seek_before(&key).unwrap();
            let before = self.map.range(..key.clone()).next_back().map(|e| e.0.as_slice());
            assert_eq!(cursor.entry().map(|e| e.key), before, "before {key:?}");
            if before.is_some() {
                cursor.next().unwrap();
                assert_eq!(cursor.entry().map(|e| e.key), next, "behind {before:?}");
            }
        }
    }
}

fn key(random: &mut Random) -> Vec<u8> {
    match random.below(10) {
        0 => vec![b'x'; random.below(3000) as usize],
        1..=4 => (random.below(3000) as u32).to_be_bytes().to_vec(),
        _ => (0..random.below(7)).map(|_| b"ab\0\xff"[random.below(4) as usize]).collect(),
    }
}

fn value(random: &mut Random) -> Vec<u8> {
    let len = match random.below(30) {
        0 => random.below(60_000),
        1..=4 => random.below(4_000),
        _ => random.below(200),
    };
    vec![random.below(256) as u8; len as usize]
}

fn cuts(random: &mut Random) -> Vec<Cut> {
    let mut ends: BTreeSet<Vec<u8>> = (0..random.below(5) * 2).map(|_| key(random)).collect();
    let mut cuts = vec![];
    while let (Some(start), end) = (ends.pop_first(), ends.pop_first()) {
        cuts.push(Cut { start, end });
    }
    cuts
}

#[test]
fn a_tree_holds_what_was_merged_into_it() {
    for seed in 0..60 {
        let random = &mut Random(seed);
        let memory = Arc::new(Memory::default());
        let mut tree = Tree::new(&memory);
        for _ in 0..12 {
            let many = match random.below(4) {
                0 => 2000,
                1 => 1,
                _ => 60,
            };
            let deletes = random.below(100);
            let changes = (0..random.below(many) + 1).map(|_| {
                let deleted = random.below(100) < deletes;
                let value = (!deleted).then(|| value(random));
                (key(random), value)
            });
            let changes = changes.collect();
            let cuts = if random.below(3) == 0 { cuts(random) } else { vec![] };
            tree.merge(changes, &cuts);
            tree.check();
            tree.read_all(random);
        }
        tree.merge(BTreeMap::new(), &[Cut { start: vec![], end: None }]);
        assert_eq!((tree.root, tree.check()), (None, Checked::default()));
    }
}

/// Leaves of large values beside those of many small ones, in pages of every size: parts of the filter of all widths
/// stand in one branch.
#[test]
fn leaves_of_any_size_come_together_in_pages_of_any_size() {
    for (seed, page_bytes) in [4 << 10, 16 << 10, 64 << 10].into_iter().enumerate() {
        let random = &mut Random(seed as u64 + 9);
        let memory = Arc::new(Memory::default());
        let mut tree = Tree::of_pages(&memory, page_bytes);
        for round in 0..6 {
            // Large values first, then ever more small entries behind them and between them.
            let (from, many) = (random.below(200_000), [300, 3000][usize::from(round % 2 > 0)]);
            let changes = (0..many).map(|n| {
                let key = format!("k{:010}", from + n * 8).into_bytes();
                let len = if round % 2 == 0 { page_bytes as u64 / 9 } else { random.below(9) };
                (key, Some(vec![round; len as usize]))
            });
            tree.merge(changes.collect(), &[]);
            tree.check();
        }
        for (key, value) in &tree.map {
            assert_eq!(tree.get(key).as_ref(), Some(value), "{page_bytes}");
        }
    }
}

#[test]
fn a_merge_in_slices_comes_to_the_same() {
    for seed in 0..20 {
        let random = &mut Random(seed);
        let (memory, in_slices) = (Arc::new(Memory::default()), Arc::new(Memory::default()));
        let (mut whole, mut sliced) = (Tree::new(&memory), Tree::new(&in_slices));
        for _ in 0..4 {
            let change = |random: &mut Random| {
                let value = (random.below(4) > 0).then(|| value(random));
                (key(random), value)
            };
            let changes: BTreeMap<_, _> = (0..1500).map(|_| change(random)).collect();
            let cuts = cuts(random);
            whole.merge(changes.clone(), &cuts);
            let mut left: Vec<Change> = changes.into_iter().collect();
            let mut slices = 0;
            let (mut cuts, all_cuts) = (cuts.clone(), cuts);
            let before = std::mem::take(&mut sliced.map);
            loop {
                slices += 1;
                let merged = sliced.run(left.clone(), &cuts, 40);
                let Some(from) = merged.stopped_at else { break };
                for (key, value) in before.range(from.clone()..).take(50) {
                    let starts = |cut: &Cut| cut.start <= *key;
                    let is_cut = |cut: &Cut| cut.end.as_ref().is_none_or(|end| key < end);
                    if !all_cuts.iter().any(|cut| starts(cut) && is_cut(cut)) {
                        assert_eq!(sliced.get(key).as_ref(), Some(value), "is as it was");
                    }
                }
                left.retain(|(key, _)| *key >= from);
                cuts = Cut::all_from(&cuts, &from);
                assert!(!left.is_empty() || !cuts.is_empty());
            }
            assert!(slices > 2, "{slices}");
            sliced.map.clone_from(&whole.map);
            sliced.check();
            sliced.read_all(random);
        }
    }
}

/// A leaf of more pages than a slice may have.
#[test]
fn every_slice_gets_on() {
    let memory = Arc::new(Memory::default());
    let mut tree = Tree::new(&memory);
    let entry = |n: u8| (vec![n], Some(vec![n; 15_000]));
    tree.merge((0..20).map(|n| entry(n * 10)).collect(), &[]);
    let mut left: Vec<Change> = (0..10).map(|n| entry(n * 20 + 15)).collect();
    let expected: Vec<_> = left.iter().map(|(key, _)| key.clone()).collect();
    while let Some(from) = tree.run(left.clone(), &[], 1).stopped_at {
        let before = left.len();
        left.retain(|(key, _)| *key >= from);
        assert!(left.len() < before);
    }
    assert!(expected.iter().all(|key| tree.get(key).is_some()));
}

fn numbered(numbers: impl Iterator<Item = u64>) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let key = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
    let entry = |n| ([key(n), key(n + 1), key(n + 2)].concat(), Some(vec![7; 150]));
    numbers.map(entry).collect()
}

#[test]
fn leaves_are_packed_full_and_stay_so() {
    let memory = Arc::new(Memory::default());
    let mut tree = Tree::new(&memory);
    tree.merge(numbered(0..50_000), &[]);
    let loaded = tree.check();
    let fill = |c: Checked| c.raw_bytes as f64 / (c.pages * PAGE_BYTES_MIN as u64) as f64;
    assert!(fill(loaded) > 0.92, "{loaded:?}");
    // A tenth more, everywhere: every leaf is touched.
    tree.merge(numbered(50_000..55_000), &[]);
    let grown = tree.check();
    assert!(fill(grown) > 0.85, "{}: {grown:?}", fill(grown));
}

#[test]
fn what_nothing_changes_is_not_written_again() {
    let memory = Arc::new(Memory::default());
    let mut tree = Tree::new(&memory);
    tree.merge(numbered(0..50_000), &[]);
    let whole = tree.check();
    let merged = tree.merge(numbered(70_000..70_001), &[]);
    // A leaf that becomes two, and one branch a level.
    assert!(merged.written_pages <= 5, "{merged:?}");
    assert_eq!(merged.written_pages + whole.leaves + whole.branches, {
        let now = tree.check();
        now.leaves + now.branches + merged.freed.len() as u64
    });
    let root = tree.root;
    let merged = tree.merge(BTreeMap::new(), &[]);
    assert_eq!((merged.written_pages, merged.root), (0, root));
}

#[test]
fn deleting_leaves_no_small_nodes_behind() {
    let memory = Arc::new(Memory::default());
    let mut tree = Tree::new(&memory);
    tree.merge(numbered(0..50_000), &[]);
    let before = tree.check();
    // Nine of ten, in three merges.
    for part in 0..3 {
        let deleted = numbered((0..50_000).filter(|n| n % 10 != 0 && n % 3 == part));
        tree.merge(deleted.into_keys().map(|key| (key, None)).collect(), &[]);
        tree.check();
    }
    let after = tree.check();
    assert_eq!(after.entries, 5_000);
    assert!(after.leaves * 8 < before.leaves, "{} of {}", after.leaves, before.leaves);
}

#[test]
fn a_cut_reads_no_leaf_that_it_need_not_and_frees_all() {
    let memory = Arc::new(Memory::default());
    let mut tree = Tree::new(&memory);
    tree.merge(numbered(0..20_000), &[]);
    let before = tree.check();
    let keys: Vec<_> = tree.map.keys().cloned().collect();
    let cut = Cut { start: keys[100].clone(), end: Some(keys[19_900].clone()) };
    memory.leaves_read.store(0, Relaxed);
    let merged = tree.merge(BTreeMap::new(), &[cut]);
    // One at each end, and their neighbours, to be joined.
    assert!(memory.leaves_read.load(Relaxed) <= 4);
    let after = tree.check();
    assert_eq!(after.entries, 200);
    let all = before.leaves + before.branches + merged.written_pages;
    assert_eq!(merged.freed.len() as u64 + after.leaves + after.branches, all);
    let bounds = (Bound::Included(keys[100].clone()), Bound::Excluded(keys[19_900].clone()));
    assert_eq!(tree.map.range(bounds).count(), 0);
}

/// For a merge whose range deletes alone rewrite all of a tree, which takes as much free space.
#[test]
fn a_slice_does_so_many_cuts_as_it_may_write_pages_for() {
    let memory = Arc::new(Memory::default());
    let mut tree = Tree::new(&memory);
    tree.merge(numbered(0..20_000), &[]);
    let leaves = tree.check().leaves;
    let keys: Vec<_> = tree.map.keys().cloned().collect();
    let ends = (0..20_000).step_by(20);
    let ranges = ends.map(|n| Cut { start: keys[n].clone(), end: Some(keys[n + 3].clone()) });
    let mut cuts: Vec<Cut> = ranges.collect();
    let mut changes = vec![(keys[5].clone(), None), (keys[19_999].clone(), None)];
    let within = |tree: &Tree<'_>, cuts: &[Cut], most| {
        pages_within(&*memory, tree.root.unwrap(), cuts, most).unwrap()
    };
    assert_eq!(within(&tree, &cuts, u64::MAX), 0, "each is less than a leaf");
    let all = Cut { start: vec![], end: None };
    assert_eq!(within(&tree, std::slice::from_ref(&all), u64::MAX), leaves);
    let some = within(&tree, &[all], 10);
    assert!((10..leaves / 2).contains(&some), "{some}");
    let half = Cut { start: keys[4].clone(), end: Some(keys[10_000].clone()) };
    let half = within(&tree, &[half], u64::MAX);
    assert!((leaves / 2 - 2..=leaves / 2).contains(&half), "{half} of {leaves}");
    let (mut slices, mut last) = (0, vec![]);
    loop {
        slices += 1;
        let merged = tree.run(changes.clone(), &cuts, 10);
        assert!(merged.written_pages <= 20, "{}", merged.written_pages);
        let done = merged.cuts_done(&cuts);
        let Some(from) = merged.stopped_at else { break };
        assert!(last < from && done.len() < cuts.len());
        let is_cut = |key: &[u8]| keys[..].binary_search(&key.to_vec()).is_ok_and(|n| n % 20 < 3);
        for key in &keys {
            let gone = *key < from && (is_cut(key) || *key == keys[5]);
            assert_eq!(tree.get(key).is_none(), gone, "what is behind the slice is as it was");
        }
        changes.retain(|(key, _)| *key >= from);
        (cuts, last) = (Cut::all_from(&cuts, &from), from);
    }
    assert!(slices > leaves / 40, "{slices} slices of {leaves} leaves");
    tree.map = keys
        .iter()
        .enumerate()
        .filter(|(n, _)| n % 20 >= 3 && *n != 5 && *n != 19_999)
        .map(|(_, key)| (key.clone(), tree.map[key].clone()))
        .collect();
    tree.check();
}

/// The same nodes, read where they lie.
struct InPlace(BTreeMap<u64, Arc<[u8]>>);

impl InPlace {
    fn of(memory: &Memory) -> Arc<dyn Nodes + Send + Sync> {
        Arc::new(InPlace(memory.nodes.lock().clone()))
    }
}

impl Nodes for InPlace {
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Bytes<'_>> {
        let bytes = self.in_place(pointer).expect("a node");
        Node::verify(bytes, pointer, level, IDENTITY).map_err(|why| self.refuse(pointer, why))?;
        Ok(Bytes::InPlace(bytes))
    }

    fn in_place(&self, pointer: NodePointer) -> Option<&[u8]> {
        self.0.get(&pointer.page).map(|bytes| &**bytes)
    }

    fn refuse(&self, pointer: NodePointer, why: Refused) -> Error {
        Error::InvalidArgument { what: "node", why: format!("{pointer:?}: {why:?}") }
    }
}

/// A tree of several levels whose leaves have prefixes of their own, and some more than one page.
fn mixed(random: &mut Random, tree: &mut Tree<'_>) {
    for _ in 0..3 {
        let change = |random: &mut Random| (key(random), Some(value(random)));
        tree.merge((0..1200).map(|_| change(random)).collect(), &[]);
    }
    let prefixed = |n: u64| ([&b"long prefix "[..], &n.to_be_bytes()].concat(), Some(vec![1; 90]));
    tree.merge((0..1500).map(|n| prefixed(n * n)).collect(), &[]);
}

/// Nodes that note what a walk asks for ahead: ten pages.
struct Asked {
    memory: Arc<Memory>,
    for_pages: Mutex<Vec<Range<u64>>>,
}

impl Nodes for Asked {
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Bytes<'_>> {
        let asked = self.for_pages.lock();
        let is_first = asked.is_empty(); // to which it was led, and the one behind
        let known = is_first || asked.iter().any(|pages| pages.contains(&pointer.page));
        assert!(level > 0 || known, "{pointer:?} was not asked for");
        drop(asked);
        self.memory.read(pointer, level)
    }

    fn walk_into(&self, branch: Node<'_>, index: usize, leaf: NodePointer) -> Range<u64> {
        assert_eq!(branch.child(index), Some(leaf));
        let pages = leaf.page.saturating_sub(9)..leaf.page + 10;
        self.for_pages.lock().push(pages.clone());
        pages
    }

    fn refuse(&self, pointer: NodePointer, why: Refused) -> Error {
        self.memory.refuse(pointer, why)
    }
}

/// For a scan of what is not in memory, which waits for each leaf.
#[test]
fn a_walk_asks_for_leaves_before_it_comes_to_them_and_not_for_each() {
    let memory = Arc::new(Memory::default());
    let mut tree = Tree::new(&memory);
    tree.merge(numbered(0..5_000), &[]);
    let leaves = tree.check().leaves;
    for back in [false, true] {
        let nodes = Arc::new(Asked { memory: memory.clone(), for_pages: Mutex::default() });
        let mut cursor = TreeCursor::new(nodes.clone(), tree.root);
        let mut entries = 0;
        if back {
            cursor.seek_last().unwrap()
        } else {
            cursor.seek_first().unwrap()
        }
        while cursor.entry().is_some() {
            entries += 1;
            if back { cursor.prev().unwrap() } else { cursor.next().unwrap() }
        }
        assert_eq!(entries, 5_000);
        let asked = nodes.for_pages.lock().len() as u64;
        assert!((leaves / 20..leaves / 5).contains(&asked), "{asked} times for {leaves} leaves");
    }
}

#[test]
fn a_cursor_is_where_it_was_led() {
    for seed in 0..10 {
        let random = &mut Random(seed);
        let memory = Arc::new(Memory::default());
        let mut tree = Tree::new(&memory);
        mixed(random, &mut tree);
        let in_place = TreeCursor::new(InPlace::of(&memory), tree.root);
        for mut cursor in [tree.cursor(), in_place] {
            let mut at: Option<Vec<u8>> = None;
            for _ in 0..1500 {
                let all = &tree.map;
                let sought = key(random);
                let steps = random.below(30);
                at = match (random.below(10), at) {
                    (0, _) => {
                        cursor.seek_first().unwrap();
                        all.keys().next().cloned()
                    }
                    (1, _) => {
                        cursor.seek_last().unwrap();
                        all.keys().next_back().cloned()
                    }
                    (2, _) => {
                        cursor.seek(&sought).unwrap();
                        all.range(sought..).next().map(|(key, _)| key.clone())
                    }
                    (3, _) => {
                        cursor.seek_before(&sought).unwrap();
                        all.range(..sought).next_back().map(|(key, _)| key.clone())
                    }
                    (_, None) => None,
                    (4..=6, Some(from)) => {
                        let mut behind = all.range(from..);
                        for _ in (0..steps).take_while(|_| behind.next().is_some()) {
                            cursor.next().unwrap();
                        }
                        behind.next().map(|(key, _)| key.clone())
                    }
                    (_, Some(from)) => {
                        let mut before = all.range(..=from);
                        for _ in (0..steps).take_while(|_| before.next_back().is_some()) {
                            cursor.prev().unwrap();
                        }
                        before.next_back().map(|(key, _)| key.clone())
                    }
                };
                let expected = at.as_ref().map(|key| (key.as_slice(), all[key].as_slice()));
                assert_eq!(cursor.entry().map(|e| (e.key, e.value)), expected);
            }
        }
    }
}

/// A tree of two levels, the lower bounds of its leaves given with their keys.
fn by_hand<'a>(memory: &'a Arc<Memory>, leaves: &[(&str, &[&str])]) -> Tree<'a> {
    let mut tree = Tree::new(memory);
    let mut root = NodeBuilder::new(1);
    for (lower, keys) in leaves {
        let mut leaf = NodeBuilder::new(0);
        keys.iter().for_each(|key| leaf.add(key.as_bytes(), b"value"));
        let pointer = tree.writer.write(&leaf).unwrap();
        root.add_child(lower.as_bytes(), pointer, &[]);
    }
    let pointer = tree.writer.write(&root).unwrap();
    tree.root = Some(Root { pointer, level: 1 });
    tree
}

#[test]
fn a_check_goes_on_behind_each_node_that_it_refuses() {
    let memory = Arc::new(Memory::default());
    let leaves: [(&str, &[&str]); 6] = [
        ("", &["a", "b"]),
        ("c", &[]),
        ("d", &["d", "e"]),
        ("f", &["a"]),
        ("g", &["g", "x"]),
        ("h", &["h", "i"]),
    ];
    let tree = by_hand(&memory, &leaves);
    let (checked, watched) = tree.watch();
    let pages: Vec<_> = watched.refused.iter().map(|(page, level, _)| (*page, *level)).collect();
    assert_eq!(pages, [(1, 0), (3, 0), (4, 0)]);
    for ((_, _, why), told) in watched.refused.iter().zip(["\"none\"", "key 0 out", "key 1 out"]) {
        assert!(why.contains(told), "{why}");
    }
    assert_eq!((checked.leaves, checked.branches, checked.entries), (3, 1, 6));
    assert_eq!((checked.raw_bytes, checked.pages), (6 * 6, 4));
}

#[test]
fn a_check_never_goes_below_what_it_refused() {
    let memory = Arc::new(Memory::default());
    let mut tree = by_hand(&memory, &[("", &["a"]), ("c", &["c"])]);
    let below = tree.root.unwrap().pointer;
    let mut leaf = NodeBuilder::new(0);
    leaf.add(b"x", b"value");
    let leaf = tree.writer.write(&leaf).unwrap();
    let mut branch = |children: &[(&str, NodePointer)]| {
        let mut node = NodeBuilder::new(2);
        children.iter().for_each(|(lower, child)| node.add_child(lower.as_bytes(), *child, &[]));
        tree.writer.write(&node).unwrap()
    };
    // The second is one of another level, the third the first again, and no branch is empty.
    let twice = branch(&[("", below), ("x", leaf), ("y", below)]);
    let empty = branch(&[]);
    tree.root = Some(Root { pointer: twice, level: 2 });
    let (checked, watched) = tree.watch();
    let pages: Vec<_> = watched.refused.iter().map(|(page, level, _)| (*page, *level)).collect();
    assert_eq!(pages, [(leaf.page, 1), (below.page, 1)]);
    assert_eq!((checked.leaves, checked.branches), (2, 2));
    tree.root = Some(Root { pointer: empty, level: 2 });
    let (checked, watched) = tree.watch();
    assert!(watched.refused[0].2.contains("a node with an entry or child"), "{watched:?}");
    assert_eq!((checked, watched.refused.len()), (Checked::default(), 1));
}

/// A leaf that is damaged ends the walk to it, from either side; elsewhere the cursor still goes.
#[test]
fn a_damaged_leaf_is_an_error_each_time_a_cursor_comes_to_it() {
    let memory = Arc::new(Memory::default());
    let mut tree = Tree::new(&memory);
    tree.merge(numbered(0..500), &[]);
    let (middle, _) = tree.map.iter().nth(250).unwrap();
    let held = |level| Held::read(&*memory, tree.root.unwrap().pointer, level).unwrap();
    assert_eq!(tree.root.unwrap().level, 1);
    let root = held(1);
    let root = root.node(&*memory).unwrap();
    let damaged = root.child(root.search_child(middle).unwrap()).unwrap();
    let mut bytes = memory.nodes.lock()[&damaged.page].to_vec();
    bytes[3000] ^= 1;
    memory.nodes.lock().insert(damaged.page, bytes.into());
    let in_place = TreeCursor::new(InPlace::of(&memory), tree.root);
    for mut cursor in [tree.cursor(), in_place] {
        for _ in 0..2 {
            let (mut front, mut back) = (0, 0);
            cursor.seek_first().unwrap();
            let failed = loop {
                front += 1;
                if let Err(error) = cursor.next() {
                    break error;
                }
            };
            assert!(failed.to_string().contains(&format!("page: {},", damaged.page)), "{failed}");
            assert_eq!(cursor.entry(), None);
            cursor.seek_last().unwrap();
            while cursor.prev().is_ok() {
                back += 1;
            }
            assert_eq!(cursor.entry(), None);
            assert!(front > 0 && back > 0 && front + back < 499, "{front} {back}");
            assert!(cursor.seek(middle).is_err() && cursor.seek_before(middle).is_err());
        }
    }
}
