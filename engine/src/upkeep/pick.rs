//! Decides what to merge; does nothing.

use crate::{
    config::StorageKind,
    iter::tombstones::RangeTombstones,
    sstable::Sstable,
    types::{KeyspaceId, SeqNo},
    version::{KeyspaceVersion, Version},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

/// When more runs than this stand in a keyspace of kind Hybrid, all are merged down into its tree.
pub(crate) const RUNS_MAX: usize = 8;

/// What merging an entry of a run costs, in looks of readers into a run: a leaf of the tree is written for it, more
/// often than not.
pub(crate) const LOOKS_PER_ENTRY: u64 = 16;

/// When the runs of a keyspace hold so many times the size of a memtable in blobs, they are merged however few they
/// are: much of that may be overwritten.
pub(crate) const BLOB_BYTES_PER_MEMTABLE_BYTE: u64 = 16;

/// The keyspace whose runs are to be merged now, if any: one that is being merged, else the one with the
/// most; when settling, or where the kind knows none, however few, and so if readers have looked into them so often
/// that they have paid for the merge, at `looks_per_entry`, or if they hold `blob_bytes` in blobs; none that is being
/// loaded. Those whose merge failed, by the number of the try, come after all others and take turns, so that what is
/// wrong with them holds up no other.
pub(crate) fn crowded<'v>(
    version: &'v Version,
    failed: &BTreeMap<KeyspaceId, u64>,
    settling: bool,
    loading: &BTreeSet<KeyspaceId>,
    (looks_per_entry, blob_bytes): (u64, u64),
) -> Option<&'v Arc<KeyspaceVersion>> {
    let max = |k: &KeyspaceVersion| match k.storage_kind {
        StorageKind::Hybrid if settling || is_paid(k, looks_per_entry) => 0,
        StorageKind::Hybrid if k.runs_blob_bytes() < blob_bytes => RUNS_MAX,
        _ => 0,
    };
    let wanted = |k: &&Arc<KeyspaceVersion>| {
        !loading.contains(&k.id) && (k.merging.is_some() || k.runs.len() > max(k))
    };
    let crowded = version.keyspaces.iter().filter(wanted);
    crowded.min_by_key(|k| {
        let failures = failed.get(&k.id).copied().unwrap_or(0);
        (failures, k.merging.is_none(), Reverse(k.runs.len()))
    })
}

/// Whether readers have looked into runs so often that merging these is worth it.
fn is_paid(keyspace: &KeyspaceVersion, looks_per_entry: u64) -> bool {
    let looks = keyspace.reads.get().saturating_mul(keyspace.runs.len() as u64);
    let entries = keyspace.runs.iter().map(|run| run.summary().contents.entries).sum::<u64>();
    looks > 0 && looks >= entries.saturating_mul(looks_per_entry)
}

/// Runs of a keyspace of which nothing can be seen any more, because a newer range delete in one of the
/// places above covers all that they hold, their own range deletes included. `visible` was read before
/// the Version.
pub(crate) fn covered(
    version: &Version,
    visible: SeqNo,
    loading: &BTreeSet<KeyspaceId>,
) -> Option<(KeyspaceId, Vec<Arc<Sstable>>)> {
    let others = version.keyspaces.iter().filter(|keyspace| !loading.contains(&keyspace.id));
    others.into_iter().find_map(|keyspace| {
        // Those being merged end soon anyway.
        let (_, runs) = keyspace.split_runs();
        let covered = runs.iter().enumerate().filter(|(i, run)| {
            let above = runs[..*i].iter();
            above.clone().any(|newer| covers(newer.range_tombstones(), run, SeqNo::MAX))
                || in_memory(version, keyspace.id, run, visible)
        });
        let covered: Vec<_> = covered.map(|(_, run)| Arc::clone(run)).collect();
        (!covered.is_empty()).then_some((keyspace.id, covered))
    })
}

/// A keyspace of whose tree nothing can be seen any more, because a range delete above covers all keys, and
/// that is none of those `held`. Those that failed come last, as in [`crowded`].
pub(crate) fn covered_tree<'v>(
    version: &'v Version,
    visible: SeqNo,
    failed: &BTreeMap<KeyspaceId, u64>,
    held: &BTreeSet<KeyspaceId>,
) -> Option<&'v Arc<KeyspaceVersion>> {
    let keyspaces = version.keyspaces.iter().filter(|k| !held.contains(&k.id));
    let covered = keyspaces.filter(|keyspace| is_tree_covered(version, keyspace, visible));
    covered.min_by_key(|k| failed.get(&k.id).copied().unwrap_or(0))
}

/// Whether the keyspace has a tree of which nothing can be seen any more. `visible` was read before the
/// Version.
pub(crate) fn is_tree_covered(
    version: &Version,
    keyspace: &KeyspaceVersion,
    visible: SeqNo,
) -> bool {
    let all = |tombstones: &RangeTombstones, visible| {
        tombstones.cover(&[], Bound::Unbounded, SeqNo(0), visible)
    };
    if keyspace.tree.is_none() && keyspace.merging.is_none() {
        return false;
    }
    // Of those being merged, the tree may hold what is newer than their range deletes.
    keyspace.split_runs().1.iter().any(|run| all(run.range_tombstones(), SeqNo::MAX))
        || version.memtables().any(|memtable| {
            memtable.covering(keyspace.id, &[], visible).is_some()
                && all(&memtable.range_tombstones(keyspace.id), visible)
        })
}

/// Whether a memtable covers the run. Making the list of a memtable's range deletes takes longer than
/// looking at the first key, which is seldom covered.
fn in_memory(version: &Version, keyspace: KeyspaceId, run: &Sstable, visible: SeqNo) -> bool {
    let Some(bounds) = &run.summary().contents.bounds else {
        return false;
    };
    version.memtables().any(|memtable| {
        memtable.covering(keyspace, &bounds.smallest, visible).is_some()
            && covers(&memtable.range_tombstones(keyspace), run, visible)
    })
}

fn covers(tombstones: &RangeTombstones, run: &Sstable, visible: SeqNo) -> bool {
    let contents = &run.summary().contents;
    contents.bounds.as_ref().is_some_and(|bounds| {
        let (first, last) = (&bounds.smallest, bounds.largest.as_ref().map(Vec::as_slice));
        tombstones.cover(first, last, contents.largest_seq, visible)
    })
}
