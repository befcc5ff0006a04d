//! What is live: the memtables and sstables that hold the data at one moment, as an immutable list.
//!
//! A change of what is live makes a new [`Version`]; whoever reads keeps the one it began with, and with it
//! everything that it names.

pub(crate) mod cell;
pub(crate) mod manifest;

use crate::{
    blob::Blob,
    btree::{self, Bytes, Clue, Hinted, Leaves, Nodes, Root},
    cache::hints::Hints,
    config::{Compression, StorageKind},
    error::{Error, Result},
    format::{
        block::Refused,
        node::{Node, NodePointer},
    },
    memtable::Memtable,
    metrics::Counter,
    pager::{ENTRY_BYTES, InPlace, Pager},
    sstable::Sstable,
    types::{FileId, KeyspaceId, Lsn, SeqNo},
};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// Everything that is live, newest first.
#[derive(Clone)]
pub(crate) struct Version {
    /// Takes the writes.
    pub(crate) active: Arc<Memtable>,
    /// Full and waiting to be flushed, newest first.
    pub(crate) sealed: Vec<Arc<Sealed>>,
    /// By id.
    pub(crate) keyspaces: Vec<Arc<KeyspaceVersion>>,
}

/// A memtable that takes no more writes.
pub(crate) struct Sealed {
    pub(crate) memtable: Arc<Memtable>,
    /// Its last SeqNo.
    pub(crate) last_seq: SeqNo,
    /// The log below is in this memtable or in older ones.
    pub(crate) end: Lsn,
}

/// What is live of one keyspace.
#[derive(Clone)]
pub(crate) struct KeyspaceVersion {
    pub(crate) id: KeyspaceId,
    pub(crate) name: Arc<str>,
    /// `None`: as the database's configuration says.
    pub(crate) compression: Option<Compression>,
    pub(crate) storage_kind: StorageKind,
    /// The runs, newest first: each holds only newer operations than those behind it.
    pub(crate) runs: Vec<Arc<Sstable>>,
    /// Older than all runs.
    pub(crate) tree: Option<Arc<Tree>>,
    /// A merge of runs into the tree that is made in slices.
    pub(crate) merging: Option<Merging>,
    /// Of all its Versions since runs were last merged.
    pub(crate) reads: Arc<RunReads>,
}

/// How often readers looked into runs, about.
#[derive(Debug, Default)]
pub(crate) struct RunReads(Counter);

impl RunReads {
    /// Of so many point reads one is counted, so that readers do not meet at the counter.
    const OF: u64 = 64;

    /// A point read of a key with this hash.
    #[inline]
    pub(crate) fn count_get(&self, hash: u64) {
        if hash.is_multiple_of(RunReads::OF) {
            self.0.add(RunReads::OF);
        }
    }

    /// A scan, which looks for its beginning in each run.
    pub(crate) fn count_scan(&self) {
        self.0.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

/// How far a merge of runs into the tree has come.
#[derive(Clone)]
pub(crate) struct Merging {
    /// How many of the oldest runs are merged.
    pub(crate) runs: usize,
    /// Of these runs only the keys from here on count; what they held below is in the tree.
    pub(crate) from: Arc<[u8]>,
}

/// A tree, as it is until the next merge into it. Its pages stay as they are while anybody holds it.
pub(crate) struct Tree {
    pub(crate) root: Root,
    pub(crate) pager: Arc<Pager>,
    /// Where its nodes are read in place, as it was when the tree was made: it has all pages of the tree that
    /// can be read so.
    in_place: Arc<InPlace>,
    hinted: Option<Hinted>,
    /// Those that entries point to, by the entries' keys.
    pub(crate) blobs: Arc<TreeBlobs>,
}

/// The blobs of a tree.
pub(crate) type TreeBlobs = BTreeMap<Vec<u8>, Arc<Blob>>;

impl Tree {
    /// A tree, of which nothing was read yet. `hinted` is a table that has a hint to each of its entries, if one has.
    pub(crate) fn new(
        root: Root,
        pager: &Arc<Pager>,
        blobs: Arc<TreeBlobs>,
        hinted: Option<&Arc<Hints>>,
    ) -> Tree {
        Tree::with(root, pager, blobs, hinted, |in_place| Leaves::new(in_place.pages()))
    }

    /// What a merge made of this tree that let go of the nodes `freed`. `hinted` is a table that has a hint to each
    /// entry of the leaves that it wrote, if one has; it was taken from the pager while there was this tree.
    pub(crate) fn merged(
        &self,
        root: Root,
        freed: &[NodePointer],
        blobs: Arc<TreeBlobs>,
        hinted: Option<&Arc<Hints>>,
    ) -> Tree {
        // The table that has all of this tree was the newest when the tree was made: the merge's is the same, or grown
        // from it.
        let had_all = self.hinted.as_ref().is_some_and(|hinted| hinted.has_all);
        let hinted = hinted.filter(|_| had_all);
        Tree::with(root, &self.pager, blobs, hinted, |in_place| match &self.hinted {
            Some(hinted) => {
                let kept = in_place.common_pages(&self.in_place);
                hinted.leaves.without(freed, kept, in_place.pages())
            }
            None => Leaves::new(in_place.pages()),
        })
    }

    fn with(
        root: Root,
        pager: &Arc<Pager>,
        blobs: Arc<TreeBlobs>,
        hinted: Option<&Arc<Hints>>,
        leaves: impl FnOnce(&InPlace) -> Leaves,
    ) -> Tree {
        let in_place = pager.in_place();
        let hints = match hinted {
            Some(_) => pager.newest_hints(),
            None => pager.hints(0, ENTRY_BYTES),
        };
        let hinted = hints.map(|hints| {
            // A larger table that has come meanwhile may lack what was put late.
            let has_all = hinted.is_some_and(|hinted| Arc::ptr_eq(hinted, &hints));
            if hinted.is_some() && !has_all {
                crate::sync::sometimes("tree: the table of hints grew while it was made");
            }
            Hinted { hints, leaves: leaves(&in_place), has_all }
        });
        Tree { root, pager: Arc::clone(pager), in_place, hinted, blobs }
    }

    /// Brings near the hint for a hash.
    #[inline]
    pub(crate) fn prefetch_hint(&self, hash: u64) {
        if let Some(hinted) = &self.hinted {
            hinted.hints.prefetch(hash);
        }
    }

    /// What the hints say of a hash; where they lead to is brought near.
    #[inline]
    pub(crate) fn find_near(&self, hash: u64) -> Clue {
        let Some(hinted) = &self.hinted else {
            return Clue::None;
        };
        let clue = hinted.find(hash);
        if let Clue::At(place) = clue {
            hinted.prefetch(&self.in_place, place);
        }
        clue
    }

    /// Leaves of a lowest branch into which a read goes that are not at hand are brought there together, as they most
    /// often lie side by side in the file.
    #[cold]
    fn bring(&self, branch: Node<'_>, index: usize) {
        self.pager.bring(&self.in_place, branch, index, |leaf| {
            if let Some(hinted) = &self.hinted {
                hinted.leaves.add(leaf);
            }
        });
    }

    /// The value of a key; `hash` is that of keyspace and key.
    #[inline]
    pub(crate) fn get(&self, hash: u64, key: &[u8]) -> Result<Option<btree::Found<'_>>> {
        self.get_at(self.find_near(hash), hash, key)
    }

    /// The value of a key of which the hints of this tree say `clue`.
    #[inline]
    pub(crate) fn get_at(
        &self,
        clue: Clue,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<btree::Found<'_>>> {
        match (&self.hinted, clue) {
            (_, Clue::Missing) => return Ok(None),
            (Some(hinted), Clue::At(place)) => {
                if let Some(found) = hinted.get(&self.in_place, place, key) {
                    return Ok(Some(found));
                }
            }
            _ => {}
        }
        self.descend(hash, key)
    }

    fn descend(&self, hash: u64, key: &[u8]) -> Result<Option<btree::Found<'_>>> {
        let found = btree::descend(self, self.root, hash, key)?;
        Ok(found.map(|(found, leaf, index)| {
            if let Some(hinted) = &self.hinted {
                hinted.remember(hash, key, &found, leaf, index);
            }
            found
        }))
    }
}

impl Nodes for Tree {
    #[inline]
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Bytes<'_>> {
        match self.pager.read_in_place(&self.in_place, pointer, level)? {
            Some(bytes) => Ok(Bytes::InPlace(bytes)),
            None => self.pager.read(pointer, level).map(Bytes::Copied),
        }
    }

    #[inline]
    fn in_place(&self, pointer: NodePointer) -> Option<&[u8]> {
        self.in_place.bytes(pointer)
    }

    #[inline]
    fn prefetch(&self, pointer: NodePointer, at_end: bool) {
        self.in_place.prefetch(pointer, at_end);
    }

    #[inline]
    fn enter_leaf(&self, branch: Node<'_>, index: usize, leaf: NodePointer) {
        if self.in_place.lacks(leaf) {
            self.bring(branch, index);
        }
    }

    fn walk_into(&self, branch: Node<'_>, index: usize, leaf: NodePointer) -> Range<u64> {
        // Frames are filled when the leaf is entered.
        match self.in_place.has_frame(leaf) {
            true => leaf.page..leaf.page + 1,
            false => self.pager.read_ahead(&self.in_place, branch, index),
        }
    }

    fn refuse(&self, pointer: NodePointer, why: Refused) -> Error {
        self.pager.refuse(pointer, why)
    }
}

impl KeyspaceVersion {
    /// Bytes of the large values that entries of the runs point to.
    pub(crate) fn runs_blob_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.blob_bytes()).sum()
    }

    /// The runs that are being merged into the tree, and those above them.
    pub(crate) fn split_runs(&self) -> (&[Arc<Sstable>], &[Arc<Sstable>]) {
        let merging = self.merging.as_ref().map_or(0, |merging| merging.runs);
        let (above, below) = self.runs.split_at(self.runs.len().saturating_sub(merging));
        (below, above)
    }

    /// The runs in which `key` may be.
    #[inline]
    pub(crate) fn runs_for(&self, key: &[u8]) -> &[Arc<Sstable>] {
        match &self.merging {
            Some(merging) if key < &*merging.from => self.split_runs().1,
            _ => &self.runs,
        }
    }
}

impl Version {
    /// The keyspace with this id, if it lives.
    #[inline]
    pub(crate) fn keyspace(&self, id: KeyspaceId) -> Option<&Arc<KeyspaceVersion>> {
        let at = self.keyspaces.binary_search_by_key(&id, |k| k.id).ok()?;
        self.keyspaces.get(at)
    }

    pub(crate) fn keyspace_named(&self, name: &str) -> Option<&Arc<KeyspaceVersion>> {
        self.keyspaces.iter().find(|k| &*k.name == name)
    }

    /// All memtables, newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(self.sealed.iter().map(|s| &s.memtable))
    }

    /// Brings near what a lookup of a key with this hash reads first in each place, so that the places are not waited
    /// for one after the other.
    #[inline]
    pub(crate) fn prefetch(&self, keyspace: KeyspaceId, hash: u64) {
        let filled = self.memtables().filter(|memtable| !memtable.is_empty());
        filled.for_each(|memtable| memtable.prefetch(hash));
        if let Some(live) = self.keyspace(keyspace) {
            live.runs.iter().for_each(|run| run.prefetch(hash));
            if let Some(tree) = &live.tree {
                tree.prefetch_hint(hash);
            }
        }
    }

    /// The keyspace's tree, if nothing that is newer was written to the keyspace, as of what was visible before
    /// this call.
    pub(crate) fn lone_tree(&self, keyspace: KeyspaceId) -> Option<&Tree> {
        let live = self.keyspace(keyspace).filter(|live| live.runs.is_empty())?;
        let settled = self.memtables().all(|memtable| memtable.is_empty());
        live.tree.as_deref().filter(|_| settled)
    }

    /// This Version with `memtable` taking the writes.
    pub(crate) fn with_active(&self, memtable: Arc<Memtable>, sealed: Arc<Sealed>) -> Version {
        let mut next = self.clone();
        next.active = memtable;
        next.sealed.insert(0, sealed);
        next
    }

    /// This Version with `keyspace` added.
    pub(crate) fn with_keyspace(&self, keyspace: KeyspaceVersion) -> Version {
        let mut next = self.clone();
        let at = next.keyspaces.partition_point(|k| k.id < keyspace.id);
        next.keyspaces.insert(at, Arc::new(keyspace));
        next
    }

    /// This Version with a keyspace of another kind.
    pub(crate) fn with_storage_kind(&self, id: KeyspaceId, kind: StorageKind) -> Version {
        let mut next = self.clone();
        if let Some(keyspace) = next.keyspaces.iter_mut().find(|k| k.id == id) {
            Arc::make_mut(keyspace).storage_kind = kind;
        }
        next
    }

    /// This Version without the keyspace.
    pub(crate) fn without_keyspace(&self, id: KeyspaceId) -> Version {
        let mut next = self.clone();
        next.keyspaces.retain(|k| k.id != id);
        next
    }

    /// This Version with `sealed` replaced by the runs made from it.
    pub(crate) fn flushed(
        &self,
        sealed: &Arc<Sealed>,
        runs: &[(KeyspaceId, Arc<Sstable>)],
    ) -> Version {
        let mut next = self.clone();
        next.sealed.retain(|s| !Arc::ptr_eq(s, sealed));
        for (id, run) in runs {
            next.change_runs(*id, |all| all.insert(0, Arc::clone(run)));
        }
        next
    }

    /// This Version with the runs `merged`, the oldest of the keyspace, merged into its tree, which
    /// becomes `tree`: all of them, or as far as `merging` says.
    pub(crate) fn merged_down(
        &self,
        id: KeyspaceId,
        merged: &[FileId],
        tree: Option<Arc<Tree>>,
        merging: Option<Merging>,
    ) -> Version {
        let mut next = match &merging {
            None => self.without_runs(id, merged),
            Some(_) => self.clone(),
        };
        if let Some(keyspace) = next.keyspaces.iter_mut().find(|k| k.id == id) {
            let keyspace = Arc::make_mut(keyspace);
            if merging.is_none() {
                keyspace.reads = Arc::default();
            }
            (keyspace.tree, keyspace.merging) = (tree, merging);
        }
        next
    }

    /// This Version without some runs of a keyspace.
    pub(crate) fn without_runs(&self, id: KeyspaceId, dropped: &[FileId]) -> Version {
        let mut next = self.clone();
        next.change_runs(id, |all| all.retain(|run| !dropped.contains(&run.file_id())));
        next
    }

    fn change_runs(&mut self, id: KeyspaceId, change: impl FnOnce(&mut Vec<Arc<Sstable>>)) {
        if let Some(keyspace) = self.keyspaces.iter_mut().find(|k| k.id == id) {
            change(&mut Arc::make_mut(keyspace).runs);
        }
    }
}

#[cfg(test)]
mod tests;
