//! Range reads: the same places as a point read, merged.

pub(crate) use crate::iter::Bounds;

use super::{Db, read::pointer_of};
use crate::{
    btree::TreeCursor,
    error::Result,
    iter::{
        Direction,
        clipped::Clipped,
        lone::Lone,
        merge::{Merge, Source},
        successor,
    },
    memtable::Memtable,
    sstable::Sstable,
    types::{KeyspaceId, Kind, SeqNo},
    version::{KeyspaceVersion, Version},
};
use std::{ops::Bound, sync::Arc};

/// Walks a range at one moment from both ends; the two walks end where they meet.
pub(crate) struct Walk {
    version: Arc<Version>,
    visible: SeqNo,
    keyspace: KeyspaceId,
    /// What is left, as far as the walk from the other end has to know.
    bounds: Bounds,
    /// Made when first asked for: most walks go one way.
    front: Option<Way>,
    back: Option<Way>,
    /// From one of the ends there was nothing left.
    over: bool,
    /// The large value that was given out last.
    blob: Vec<u8>,
    /// Large values are not read: what is given out is a pointer.
    pub(super) keys_only: bool,
}

/// A walk from one end.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and saves an allocation"
)]
enum Way {
    /// There is nothing but the tree: what it holds is what there is.
    Tree(Lone<TreeCursor>),
    Merged(Box<Merge>),
}

impl Walk {
    pub(crate) fn new(
        version: Arc<Version>,
        visible: SeqNo,
        keyspace: KeyspaceId,
        bounds: Bounds,
    ) -> Walk {
        let (front, back, over, blob, keys_only) = (None, None, false, vec![], false);
        Walk { version, visible, keyspace, bounds, front, back, over, blob, keys_only }
    }

    /// Lets go of everything that it looks at.
    pub(crate) fn end(&mut self, db: &Db) {
        (self.front, self.back, self.over) = (None, None, true);
        self.version = db.versions.load();
    }

    /// Moves to the next entry where that is one step within a leaf and nothing else: the usual case.
    /// `false`: [`Walk::next`] is to be asked.
    #[inline(always)]
    pub(crate) fn step_in_leaf(&mut self, db: &Db, direction: Direction) -> bool {
        let (this, other) = match direction {
            Direction::Forward => (&mut self.front, &self.back),
            Direction::Reverse => (&mut self.back, &self.front),
        };
        let (Some(Way::Tree(tree)), None) = (this, other) else {
            return false;
        };
        if self.over || db.check_open().is_err() || !tree.cursor().step_in_leaf(direction) {
            return false;
        }
        let here = tree.here();
        self.over = here.is_none_or(|(key, _)| !direction.is_before_end(&self.bounds, key));
        !self.over
    }

    /// The entry that [`Walk::step_in_leaf`] moved to.
    #[inline(always)]
    pub(crate) fn here(&self, direction: Direction) -> Option<(&[u8], &[u8])> {
        match (direction, &self.front, &self.back) {
            (Direction::Forward, Some(Way::Tree(tree)), _) => tree.here(),
            (Direction::Reverse, _, Some(Way::Tree(tree))) => tree.here(),
            _ => None,
        }
    }

    /// The next entry from the end that `direction` begins at.
    pub(crate) fn next(&mut self, db: &Db, direction: Direction) -> Result<Option<(&[u8], &[u8])>> {
        db.check_open()?;
        if self.over {
            return Ok(None);
        }
        let Walk { version, visible, keyspace, bounds, front, back, over, blob, keys_only } = self;
        let (this, other) = match direction {
            Direction::Forward => (front, back),
            Direction::Reverse => (back, front),
        };
        let this = match this {
            Some(this) => this,
            None => {
                let sought = (&**version, *visible, *keyspace);
                this.insert(Way::beside(other.as_ref(), sought, direction, bounds))
            }
        };
        let found = match this {
            Way::Tree(tree) => tree.next(bounds)?,
            Way::Merged(merge) => merge.next_live()?,
        };
        match (found, other) {
            (None, _) => *over = true,
            // The other walk must not come past what is given out here.
            (Some(entry), Some(other)) => other.narrow(bounds, direction, entry.key),
            (Some(_), None) => {}
        }
        match found {
            Some(entry) if entry.kind == Kind::Blob && !*keys_only => {
                let read = pointer_of(entry.value).and_then(|p| db.blobs.read_whole(p, blob));
                // The cursor stands: nothing else would end the walk.
                *over = read.is_err();
                read.map(|()| Some((entry.key, &blob[..])))
            }
            found => Ok(found.map(|entry| (entry.key, entry.value))),
        }
    }
}

impl Way {
    /// The walk in one direction, which ends where the one in the other has come to.
    #[inline(never)] // once a walk; the step stays small
    fn beside(
        other: Option<&Way>,
        (version, visible, keyspace): (&Version, SeqNo, KeyspaceId),
        direction: Direction,
        bounds: &mut Bounds,
    ) -> Way {
        if let Some(key) = other.and_then(Way::key) {
            direction.reverse().pass(bounds, key);
        }
        let mut sources = sources_above_tree(version, visible, keyspace);
        let tree = version.keyspace(keyspace).and_then(|keyspace| keyspace.tree.as_ref());
        let tree = tree.map(|tree| TreeCursor::new(Arc::clone(tree) as _, Some(tree.root)));
        match tree {
            Some(tree) if sources.is_empty() => Way::Tree(Lone::new(tree, direction)),
            tree => {
                sources.extend(
                    tree.map(|tree| Source { cursor: Box::new(tree), tombstones: Arc::default() }),
                );
                let merge = Merge::new(sources, visible, direction, bounds.clone());
                Way::Merged(Box::new(merge))
            }
        }
    }

    /// Ends the walk in front of `key`, to which the one in the other `direction` has come.
    #[cold]
    fn narrow(&mut self, bounds: &mut Bounds, direction: Direction, key: &[u8]) {
        direction.pass(bounds, key);
        if let Way::Merged(merge) = self {
            merge.narrow(bounds);
        }
    }

    /// The key that was given out last.
    fn key(&self) -> Option<&[u8]> {
        match self {
            Way::Tree(tree) => tree.here().map(|(key, _)| key),
            Way::Merged(merge) => merge.key(),
        }
    }
}

/// The places but for the tree where entries of a keyspace may be, newest first.
fn sources_above_tree(version: &Version, visible: SeqNo, keyspace: KeyspaceId) -> Vec<Source> {
    let memtables =
        version.memtables().filter_map(|memtable| memtable_source(memtable, visible, keyspace));
    let live = version.keyspace(keyspace);
    let runs = live.into_iter().flat_map(|keyspace| run_sources(keyspace));
    memtables.chain(runs).collect()
}

/// A memtable, unless it has nothing of the keyspace that is visible.
fn memtable_source(
    memtable: &Arc<Memtable>,
    visible: SeqNo,
    keyspace: KeyspaceId,
) -> Option<Source> {
    if memtable.is_empty() {
        return None;
    }
    let cursor = memtable.cursor(keyspace, visible);
    let tombstones = memtable.range_tombstones(keyspace);
    if cursor.is_empty() && tombstones.is_empty() {
        return None;
    }
    Some(Source { cursor: Box::new(cursor), tombstones })
}

/// The runs of a keyspace, newest first, each as far as it counts.
pub(crate) fn run_sources(keyspace: &KeyspaceVersion) -> impl Iterator<Item = Source> + '_ {
    if !keyspace.runs.is_empty() {
        keyspace.reads.count_scan();
    }
    let (merging, above) = keyspace.split_runs();
    let from = keyspace.merging.as_ref().map(|merging| &merging.from);
    let clipped = merging.iter().zip(from.into_iter().cycle()).map(|(run, from)| Source {
        cursor: Box::new(Clipped::new(run.cursor(), Arc::clone(from))),
        tombstones: match run.range_tombstones() {
            none if none.is_empty() => Arc::clone(none),
            some => Arc::new(some.clipped(from)),
        },
    });
    above.iter().map(run_source).chain(clipped)
}

pub(crate) fn run_source(run: &Arc<Sstable>) -> Source {
    Source { cursor: Box::new(run.cursor()), tombstones: Arc::clone(run.range_tombstones()) }
}

/// The bounds of all keys that begin with `prefix`.
pub(crate) fn prefix_bounds(prefix: &[u8]) -> Bounds {
    let mut end = prefix.to_vec();
    // The first key behind: the prefix with its last byte that can grow one larger.
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (Bound::Included(prefix.to_vec()), Bound::Excluded(end));
        }
    }
    (Bound::Included(prefix.to_vec()), Bound::Unbounded)
}

/// Whether the start of a range lies behind its end.
pub(crate) fn is_inverted(bounds: &Bounds) -> bool {
    let (Bound::Included(start) | Bound::Excluded(start)) = &bounds.0 else {
        return false;
    };
    let (Bound::Included(end) | Bound::Excluded(end)) = &bounds.1 else {
        return false;
    };
    start > end
}

/// A range as a half-open one: start, and end if there is one.
pub(crate) fn half_open(bounds: Bounds) -> (Vec<u8>, Option<Vec<u8>>) {
    let start = match bounds.0 {
        Bound::Unbounded => vec![],
        Bound::Included(key) => key,
        Bound::Excluded(key) => successor(&key),
    };
    let end = match bounds.1 {
        Bound::Unbounded => None,
        Bound::Excluded(key) => Some(key),
        Bound::Included(key) => Some(successor(&key)),
    };
    (start, end)
}
