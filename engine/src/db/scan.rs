//! Range reads: the same places as a point read, merged.

use super::Db;
use crate::{
    btree::TreeCursor,
    error::Result,
    iter::{
        clipped::Clipped,
        merge::{Direction, Merge, Source, successor},
    },
    sstable::Sstable,
    types::{KeyspaceId, SeqNo},
    version::{KeyspaceVersion, Tree, Version},
};
use std::{ops::Bound, sync::Arc};

/// The keys of a range.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Walks a range at one moment from both ends; the two walks end where they meet.
pub(crate) struct Walk {
    version: Arc<Version>,
    visible: SeqNo,
    keyspace: KeyspaceId,
    bounds: Bounds,
    /// Made when first asked for: most walks go one way.
    front: Option<Merge>,
    back: Option<Merge>,
}

impl Walk {
    pub(crate) fn new(
        version: Arc<Version>,
        visible: SeqNo,
        keyspace: KeyspaceId,
        bounds: Bounds,
    ) -> Walk {
        Walk { version, visible, keyspace, bounds, front: None, back: None }
    }

    /// The next entry from the lower end.
    pub(crate) fn next(&mut self, db: &Db) -> Result<Option<(&[u8], &[u8])>> {
        db.check_open()?;
        let Walk { version, visible, keyspace, bounds, front, .. } = self;
        let merge = front.get_or_insert_with(|| {
            Merge::new(
                sources(version, *visible, *keyspace),
                *visible,
                Direction::Forward,
                bounds.clone(),
            )
        });
        let found = merge.next_live()?;
        if let Some((key, _)) = found {
            // The other walk must not come past what is given out here.
            set_excluded(&mut self.bounds.0, key);
            if let Some(back) = &mut self.back {
                back.narrow(&self.bounds);
            }
        }
        Ok(found)
    }

    /// The next entry from the upper end.
    pub(crate) fn next_back(&mut self, db: &Db) -> Result<Option<(&[u8], &[u8])>> {
        db.check_open()?;
        let Walk { version, visible, keyspace, bounds, back, .. } = self;
        let merge = back.get_or_insert_with(|| {
            Merge::new(
                sources(version, *visible, *keyspace),
                *visible,
                Direction::Reverse,
                bounds.clone(),
            )
        });
        let found = merge.next_live()?;
        if let Some((key, _)) = found {
            set_excluded(&mut self.bounds.1, key);
            if let Some(front) = &mut self.front {
                front.narrow(&self.bounds);
            }
        }
        Ok(found)
    }
}

/// Sets a bound to "beyond `key`", in the memory that it has.
fn set_excluded(bound: &mut Bound<Vec<u8>>, key: &[u8]) {
    match bound {
        Bound::Excluded(old) => {
            old.clear();
            old.extend_from_slice(key);
        }
        other => *other = Bound::Excluded(key.to_vec()),
    }
}

/// The places where entries of a keyspace may be, newest first.
fn sources(version: &Version, visible: SeqNo, keyspace: KeyspaceId) -> Vec<Source> {
    let memtables = version.memtables().map(|memtable| Source {
        cursor: Box::new(memtable.cursor(keyspace, visible)),
        tombstones: memtable.range_tombstones(keyspace),
    });
    let live = version.keyspace(keyspace);
    let runs = live.into_iter().flat_map(|keyspace| run_sources(keyspace));
    let tree = live.and_then(|keyspace| keyspace.tree.as_ref()).map(tree_source);
    memtables.chain(runs).chain(tree).collect()
}

fn tree_source(tree: &Arc<Tree>) -> Source {
    let nodes = Arc::clone(tree);
    Source { cursor: Box::new(TreeCursor::new(nodes, Some(tree.root))), tombstones: Arc::default() }
}

/// The runs of a keyspace, newest first, each as far as it counts.
pub(crate) fn run_sources(keyspace: &KeyspaceVersion) -> impl Iterator<Item = Source> + '_ {
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
