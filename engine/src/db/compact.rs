//! Fewer runs: dropping those that a range delete covers whole, merging those of a keyspace down into its
//! tree.

use super::{
    Db,
    background::RETRY,
    scan,
    settle::{IDLE_LOOK, Idling},
};
use crate::{
    blob::Blob,
    btree::{Cut, FromFile, Merged, NewNodes, TreeMerge, leave_hints},
    cache::hints::Hints,
    env::{NamedFile, OpenMode},
    error::{Error, Result},
    format::{
        manifest::{BlobChange, Change, MergedDown, PageChange},
        node::{NodeBuilder, NodePointer},
        pages::{PageRun, PageSet, TreeFileMeta},
    },
    iter::{Direction, merge::Merge},
    pager::{ENTRY_BYTES, NewPages, Pager, Shared, Taken, tree_file_name},
    sstable::Sstable,
    sync::Ordering::SeqCst,
    types::{FileId, KeyspaceId, SeqNo},
    upkeep::{
        merge_down::{BlobChanges, RunChanges, cuts},
        pick,
    },
    version::{KeyspaceVersion, Merging, Sealed, Tree, TreeBlobs, manifest::Manifest},
};
use std::{ops::Bound, sync::Arc};

/// What one slice of a merge writes, about: it is what a merge needs of space, and holds of memory.
const SLICE_BYTES_MAX: usize = 64 << 20;
/// Merges may fail so often behind one edit of the manifest; at ten tries a second it takes a day.
const TRIES_PER_EDIT: u64 = 1 << 20;

/// What a merge wrote, and what it relies on.
pub(super) struct Wrote {
    pub(super) taken: Taken,
    pub(super) generation: u64,
    /// Those that entries of the tree point to.
    pub(super) blobs: TreeBlobs,
    /// Commits up to here are durable, and may have deleted what is let go.
    pub(super) committed: SeqNo,
    /// Nothing of the old tree is in the new one.
    pub(super) anew: bool,
    /// Has a hint to each entry that was written.
    pub(super) hinted: Option<Arc<Hints>>,
    /// It holds what never was in the log.
    pub(super) loaded: bool,
}

/// How much is merged, about.
pub(super) struct Size {
    pub(super) bytes: u64,
    /// Of one entry.
    pub(super) entry_bytes: u64,
}

/// Writes nodes, and leaves hints to their entries.
pub(super) struct Hinting<'a> {
    pub(super) pages: NewPages<'a>,
    pub(super) keyspace: KeyspaceId,
    /// `None`: an entry has none.
    pub(super) hints: Option<Arc<Hints>>,
    /// Other hints stay, though an entry has none then.
    pub(super) only_if_room: bool,
}

impl NewNodes for Hinting<'_> {
    fn write(&mut self, node: &NodeBuilder) -> Result<NodePointer> {
        let pointer = self.pages.add(node)?;
        if let Some(hints) = self.hints.as_deref().filter(|_| node.level() == 0) {
            let hash = |key: &[u8]| self.keyspace.hash(key);
            let put = if self.only_if_room { Hints::put_if_room } else { Hints::put };
            if !leave_hints((hints, put), hash, self.pages.last(pointer), pointer, node) {
                self.hints = None;
            }
        }
        Ok(pointer)
    }
}

/// What there is to do.
enum Work {
    /// A flush waits for it.
    TakeDown(Arc<Sealed>, KeyspaceId),
    Drop(KeyspaceId, Vec<Arc<Sstable>>),
    DropTree(Arc<KeyspaceVersion>),
    Merge(Arc<KeyspaceVersion>),
    /// With the number of the last request for it.
    TidyUp(u64),
    End,
}

impl Work {
    /// The keyspace whose runs or tree it changes.
    fn keyspace(&self) -> Option<KeyspaceId> {
        match self {
            Work::TakeDown(_, id) | Work::Drop(id, _) => Some(*id),
            Work::DropTree(keyspace) | Work::Merge(keyspace) => Some(keyspace.id),
            Work::TidyUp(_) | Work::End => None,
        }
    }
}

impl Db {
    /// Drops covered runs and trees, and merges the runs of a keyspace down when there are too many, or when
    /// everything is to settle.
    pub(super) fn run_compact(&self) {
        let background = &self.background;
        let mut idling = Idling::default();
        loop {
            let work = background.compact_wanted.wait_for(IDLE_LOOK, || {
                if background.stopped() {
                    return Some(Work::End);
                }
                self.poison.check().ok()?;
                self.begin_work()
            });
            self.stop_settling_if_written(&mut idling);
            let Some(work) = work else {
                background.has_reclaimed();
                self.look_idle(&mut idling);
                continue;
            };
            let done = match &work {
                Work::End => return,
                Work::TakeDown(sealed, keyspace) => {
                    self.take_down(sealed, *keyspace);
                    Ok(())
                }
                Work::TidyUp(request) => self.tidy_up().map(|()| background.space_given(*request)),
                Work::Drop(keyspace, runs) => self.drop_runs(*keyspace, runs),
                Work::DropTree(keyspace) => {
                    let dropped = self.drop_tree(keyspace);
                    background.merged(keyspace.id, dropped.is_ok());
                    dropped
                }
                Work::Merge(keyspace) => {
                    let merged = self.merge_down(keyspace);
                    background.merged(keyspace.id, merged.is_ok());
                    merged
                }
            };
            background.end_merging();
            if let Err(error) = done {
                self.wal.make_space_if_full(&error);
                match work {
                    Work::TidyUp(_) => background.space_refused(error),
                    _ => background.failed("merge of runs", error),
                }
                idling = Idling::default(); // not without a pause
                let stopped = || background.stopped().then_some(());
                background.ended.wait_for(RETRY, stopped);
            }
        }
    }

    /// What there is to do, in a keyspace that nobody loads until it is done.
    fn begin_work(&self) -> Option<Work> {
        loop {
            let work = self.work()?;
            let Some(id) = work.keyspace() else {
                return Some(work);
            };
            if !self.background.begin_merging(id) {
                crate::sync::sometimes("compact: the keyspace is being loaded since just now");
                continue; // there may be other work
            }
            // Until now it might have been loaded: then what was picked is not what it has any more.
            match self.work() {
                Some(work) if work.keyspace() == Some(id) => return Some(work),
                _ => self.background.end_merging(),
            }
        }
    }

    fn work(&self) -> Option<Work> {
        if let Some((sealed, keyspace)) = self.background.handed_down() {
            return Some(Work::TakeDown(sealed, keyspace));
        }
        // The SeqNo before the Version: what was visible is in it.
        let visible = self.visible();
        let version = self.versions.load();
        let loading = &self.background.loading();
        // It needs no space, and what it drops need not be merged.
        if let Some((keyspace, runs)) = pick::covered(&version, visible, loading) {
            return Some(Work::Drop(keyspace, runs));
        }
        let (unmerged, settling) = (self.background.unmerged(), self.background.is_settling());
        let failures = |k: &KeyspaceVersion| unmerged.get(&k.id).copied().unwrap_or(0);
        let held = &self.background.relied_on() | loading;
        let covered = pick::covered_tree(&version, visible, &unmerged, &held);
        if let Some(keyspace) = covered.filter(|k| failures(k) == 0) {
            return Some(Work::DropTree(Arc::clone(keyspace)));
        }
        // Before merges, of which there may be no end; behind them once it failed, so that a file system that
        // takes nothing back holds up none.
        let space = self.background.space_wanted();
        if let Some((request, false)) = space {
            return Some(Work::TidyUp(request));
        }
        let soon = self.env.buggify("compact: reads pay for merges soon");
        let looks_per_entry = if soon { 0 } else { pick::LOOKS_PER_ENTRY };
        let costs = (looks_per_entry, self.blob_bytes_max());
        let crowded = pick::crowded(&version, &unmerged, settling, loading, costs);
        // What failed takes turns. A merge that found no space must not stand in front of its own end.
        match covered.filter(|k| crowded.is_none_or(|other| failures(k) <= failures(other))) {
            Some(keyspace) => Some(Work::DropTree(Arc::clone(keyspace))),
            None => {
                let merge = crowded.map(|keyspace| Work::Merge(Arc::clone(keyspace)));
                merge.or(space.map(|(request, _)| Work::TidyUp(request)))
            }
        }
    }

    /// Lets go of runs of which nothing is left to see. Readers of older Versions keep them.
    fn drop_runs(&self, keyspace: KeyspaceId, runs: &[Arc<Sstable>]) -> Result<()> {
        crate::sync::sometimes("compact: drops covered runs");
        // The range delete may be in the log only: it must not be lost where the runs are.
        let committed = self.visible();
        self.sync()?;
        let dropped = file_ids(runs);
        let mut manifest = self.manifest.lock();
        if !manifest.state().keyspaces.contains_key(&keyspace) {
            return Ok(());
        }
        let mut changes = drop_tables(keyspace, &dropped);
        changes.extend([Change::Committed(committed), self.next_file()]);
        manifest.append(&changes)?;
        self.wal.set_durable_edit(manifest.number());
        self.versions.install(|v| v.without_runs(keyspace, &dropped));
        drop(manifest);
        self.background.add_obsolete(runs.iter().cloned());
        self.background.wake_all();
        self.metrics.tables_dropped.add(runs.len() as u64);
        Ok(())
    }

    /// Lets go of a tree of which nothing is left to see, and of the runs that are being merged into it.
    /// Needs no space.
    fn drop_tree(&self, keyspace: &KeyspaceVersion) -> Result<()> {
        if !self.background.may_let_go(keyspace.id) {
            return Ok(());
        }
        let visible = self.visible();
        let version = self.versions.load();
        let still = version.keyspace(keyspace.id);
        let Some(keyspace) = still.filter(|live| pick::is_tree_covered(&version, live, visible))
        else {
            crate::sync::sometimes("compact: a tree is not covered any more");
            return Ok(()); // the memtable that covers it is in it by now
        };
        crate::sync::sometimes("compact: drops a covered tree");
        let committed = self.visible();
        self.sync()?; // as for runs
        let pager = self.trees()?;
        let freed = keyspace.tree.as_deref().map(nodes_to_free).transpose()?.unwrap_or_default();
        let merged = Merged { root: None, freed, written_pages: 0, stopped_at: None, cut_to: None };
        let (merging, _) = keyspace.split_runs();
        let mut manifest = self.manifest.lock();
        let (taken, blobs) = (Taken::default(), TreeBlobs::new());
        let (anew, hinted, loaded) = (true, None, false);
        let wrote = Wrote { taken, generation: 0, blobs, committed, anew, hinted, loaded };
        self.install_merge(&mut manifest, keyspace, merging, &pager, merged, wrote)?;
        drop(manifest);
        // As with runs: on a full disk the delete is to make space.
        self.background.ask_for_space();
        Ok(())
    }

    /// A generation that no node has, also none of a merge that came to nothing, of this process or of one
    /// before: what such a merge wrote must not pass for what another one writes to the same place. Every
    /// opening, and every merge that succeeds, makes an edit.
    pub(super) fn new_generation(&self) -> Result<u64> {
        let tried = self.merges_tried.fetch_add(1, SeqCst);
        let manifest = self.manifest.lock();
        let of_edit = manifest.number().0.checked_mul(TRIES_PER_EDIT);
        let generation = of_edit.and_then(|first| first.checked_add(tried % TRIES_PER_EDIT));
        generation.filter(|new| *new > manifest.state().trees.generation).ok_or_else(|| {
            let what = "the generations of the nodes of trees are used up".into();
            Error::Unsupported { file: self.dir.clone(), what }
        })
    }

    /// Merges the runs that stand in the keyspace now into its tree, or goes on with those of the last
    /// time: one slice. All of them together, so that tombstones end here.
    fn merge_down(&self, keyspace: &KeyspaceVersion) -> Result<()> {
        let (runs, from) = match &keyspace.merging {
            Some(merging) => {
                crate::sync::sometimes("compact: goes on with the next slice");
                (keyspace.split_runs().0, &*merging.from)
            }
            None => (&keyspace.runs[..], &[][..]),
        };
        let cuts = cuts(runs.iter().map(|run| &**run.range_tombstones()));
        let cuts = Cut::all_from(&cuts, from);
        let from = Bound::Included(from.to_vec());
        let sources = runs.iter().map(scan::run_source).collect();
        let bounds = (from, Bound::Unbounded);
        let merge = Merge::new(sources, SeqNo::MAX, Direction::Forward, bounds);
        let bytes: u64 = runs.iter().map(|run| run.properties().raw_bytes()).sum();
        // Deletes are shorter than what the tree holds, and are not in it.
        let puts = |run: &Arc<Sstable>| {
            let contents = &run.summary().contents;
            contents.entries.saturating_sub(contents.deletes)
        };
        let puts: u64 = runs.iter().map(puts).sum();
        let size = Size { bytes, entry_bytes: bytes.checked_div(puts).unwrap_or(ENTRY_BYTES) };
        // What it leaves out is deleted by what it merges.
        let stopped = self.merge_slice(keyspace, runs, merge, &cuts, SeqNo(0), size)?;
        if stopped.is_none() {
            crate::sync::sometimes("compact: merges all runs down");
            if runs.len() <= pick::RUNS_MAX && keyspace.reads.get() > 0 {
                crate::sync::sometimes("compact: merges few runs that were read");
            }
            self.metrics.compactions.add(1);
        }
        Ok(())
    }

    /// Merges so much into a keyspace's tree as a slice may write. Returns the key at which the next slice
    /// begins, if one is needed. What is merged are the oldest `runs`, or something else if there are none,
    /// of about that `size`; it relies on commits up to `committed`.
    pub(super) fn merge_slice(
        &self,
        keyspace: &KeyspaceVersion,
        runs: &[Arc<Sstable>],
        merge: Merge,
        cuts: &[Cut],
        committed: SeqNo,
        size: Size,
    ) -> Result<Option<Vec<u8>>> {
        let pager = self.trees()?;
        let given_up = || self.background.stopped();
        let old = keyspace.tree.as_ref().map(|tree| Arc::clone(&tree.blobs)).unwrap_or_default();
        let changes = RunChanges::new(merge, &given_up)?;
        let mut changes = BlobChanges::new(changes, &old);
        let generation = self.new_generation()?;
        let hints = pager.hints(size.bytes.min(self.slice_bytes_max() as u64), size.entry_bytes);
        let pages = pager.write(generation);
        let mut new = Hinting { pages, keyspace: keyspace.id, hints, only_if_room: false };
        let root = keyspace.tree.as_ref().map(|tree| tree.root);
        let page_bytes = pager.page_bytes();
        let pages_max = self.slice_bytes_max() / page_bytes;
        // Verified anew, though it was before: what is copied gets a checksum of its own, which would hide
        // damage that came in between.
        let nodes = FromFile(&pager);
        let merged = TreeMerge::run(
            &nodes,
            &mut new,
            (keyspace.id, root),
            &mut changes,
            cuts,
            page_bytes,
            pages_max.max(1) as u64,
        )?;
        let blobs = changes.applied(&merged.cuts_done(cuts), &self.blobs)?;
        let Hinting { pages, hints: hinted, .. } = new;
        let taken = pages.finish()?;
        self.metrics.compacted_bytes.add(merged.written_pages * page_bytes as u64);
        let stopped_at = merged.stopped_at.clone();
        let mut manifest = self.manifest.lock();
        let (anew, loaded) = (false, false);
        let wrote = Wrote { taken, generation, blobs, committed, anew, hinted, loaded };
        self.install_merge(&mut manifest, keyspace, runs, &pager, merged, wrote)?;
        Ok(stopped_at)
    }

    /// What a slice writes, about.
    pub(super) fn slice_bytes_max(&self) -> usize {
        self.config.memtable_size.min(SLICE_BYTES_MAX)
    }

    /// Makes the edit durable that puts a new tree in the place of a keyspace's tree and some of its runs,
    /// then shows it to readers.
    pub(super) fn install_merge(
        &self,
        manifest: &mut Manifest,
        keyspace: &KeyspaceVersion,
        runs: &[Arc<Sstable>],
        pager: &Arc<Pager>,
        merged: Merged,
        Wrote { taken, generation, blobs, committed, anew, hinted, loaded }: Wrote,
    ) -> Result<()> {
        if !manifest.state().keyspaces.contains_key(&keyspace.id) {
            crate::sync::sometimes("compact: the keyspace was dropped meanwhile");
            pager.give_back(taken.pages.runs());
            return Ok(());
        }
        let ids = file_ids(runs);
        let freed = page_runs(&merged.freed);
        let stopped_at = merged.stopped_at.filter(|_| !runs.is_empty());
        let mut changes = match &stopped_at {
            None => drop_tables(keyspace.id, &ids),
            Some(from) => {
                let (from, tables) = (from.clone(), ids.iter().copied().collect());
                vec![Change::MergedDown(keyspace.id, MergedDown { from, tables })]
            }
        };
        if manifest.state().trees.file.is_none() {
            changes.push(Change::TreeFile(pager.meta()));
        }
        changes.push(Change::Tree(keyspace.id, merged.root));
        let blob_change = blob_change(keyspace, &blobs);
        if blob_change != BlobChange::default() {
            changes.push(Change::TreeBlobs(keyspace.id, blob_change));
        }
        let end = taken.end.max(manifest.state().trees.end).max(1);
        let generation = generation.max(manifest.state().trees.generation);
        changes.push(Change::Pages(PageChange {
            end,
            generation,
            taken: taken.pages.clone(),
            freed: freed.clone(),
        }));
        changes.extend([Change::Committed(committed), self.next_file()]);
        changes.extend(loaded.then_some(Change::Loaded(keyspace.id, SeqNo::MAX)));
        if let Err(error) = manifest.append(&changes) {
            crate::sync::sometimes("compact: the edit fails");
            // An edit that failed may be durable all the same, and a load under way would write over them.
            if self.poison.check().is_ok() {
                pager.give_back(taken.pages.runs());
            }
            return Err(error);
        }
        self.wal.set_durable_edit(manifest.number());
        let is_load = anew && merged.root.is_some(); // else all of it was deleted before
        let blobs = Arc::new(blobs);
        let tree = merged.root.map(|root| match &keyspace.tree {
            // What a damaged tree has let go is not known.
            Some(old) if !anew => Arc::new(old.merged(root, &merged.freed, blobs, hinted.as_ref())),
            _ => Arc::new(Tree::new(root, pager, blobs, hinted.as_ref())),
        });
        let merging = stopped_at.map(|from| Merging { runs: ids.len(), from: from.into() });
        if merging.is_none() {
            self.background.add_obsolete(runs.iter().cloned());
        }
        // A load has no SeqNo: a commit is sequenced before it is there, or finds that it is.
        let sequencer = is_load.then(|| self.sequencer.lock());
        self.versions.install(|v| v.merged_down(keyspace.id, &ids, tree, merging));
        if sequencer.is_some() {
            self.transactions.loads.add(keyspace.id);
        }
        drop(sequencer);
        if let Some(tree) = &keyspace.tree {
            self.background.add_retired(tree, freed);
        }
        self.background.wake_all();
        Ok(())
    }

    /// The file of the trees, made when it is first needed.
    pub(super) fn trees(&self) -> Result<Arc<Pager>> {
        let known = || self.trees.lock().clone();
        if let Some(pager) = known() {
            return Ok(pager);
        }
        let _one = self.manifest.lock();
        if let Some(pager) = known() {
            crate::sync::sometimes("compact: another thread made the file of the trees first");
            return Ok(pager);
        }
        let file_id = FileId(self.file_ids.fetch_add(1, SeqCst));
        let meta = TreeFileMeta {
            file_id,
            identity: self.env.random("tree.identity"),
            page_bytes: self.config.page_size as u32,
        };
        let (path, before) = (self.dir.join(tree_file_name(file_id)), self.names.before());
        let file = NamedFile::open(self.env.disk(), path.clone(), OpenMode::CreateNew)?;
        let shared = Shared {
            cache: Arc::clone(&self.blocks.cache),
            frame_bytes: self.config.frame_bytes(),
            map_bytes_max: self.config.map_bytes_max(),
            hint_bytes_max: self.config.hint_bytes_max(),
            _lock: Some(Arc::clone(&self.lock)),
        };
        let made = Pager::create(file, self.uuid, meta, shared);
        let made = made.and_then(|pager| self.names.sync(before).map(|()| pager));
        let pager = Arc::new(made.inspect_err(|_| {
            crate::sync::sometimes("compact: the file of the trees cannot be made");
            // Nothing names the file. If it cannot be removed, the next opening does.
            let _ = self.env.disk().remove(&path);
        })?);
        *self.trees.lock() = Some(Arc::clone(&pager));
        Ok(pager)
    }
}

/// How the blobs of a keyspace's tree become these.
fn blob_change(keyspace: &KeyspaceVersion, blobs: &TreeBlobs) -> BlobChange {
    let none = TreeBlobs::new();
    let old = keyspace.tree.as_ref().map_or(&none, |tree| &tree.blobs);
    let stays = |(key, blob): &(&Vec<u8>, &Arc<Blob>), among: &TreeBlobs| {
        among.get(*key).is_some_and(|other| Arc::ptr_eq(blob, other))
    };
    let gone = old.iter().filter(|entry| !stays(entry, blobs)).map(|(key, _)| key.clone());
    let come = blobs.iter().filter(|entry| !stays(entry, old));
    let come = come.map(|(key, blob)| (key.clone(), blob.pointer));
    BlobChange { gone: gone.collect(), come: come.collect() }
}

fn file_ids(runs: &[Arc<Sstable>]) -> Vec<FileId> {
    runs.iter().map(|run| run.file_id()).collect()
}

fn drop_tables(keyspace: KeyspaceId, dropped: &[FileId]) -> Vec<Change> {
    dropped.iter().map(|file| Change::DropTable(keyspace, *file)).collect()
}

pub(super) fn page_runs(nodes: &[NodePointer]) -> PageSet {
    let run = |node: &NodePointer| PageRun { first: node.page, pages: node.pages.into() };
    nodes.iter().map(run).collect()
}

/// The nodes of a tree that is let go. To find them all branches are read, from the disk it may be: so it is done
/// before the manifest is locked.
pub(super) struct Leaving(Option<(Arc<Tree>, Vec<NodePointer>)>);

impl Leaving {
    pub(super) fn of(tree: Option<&Arc<Tree>>) -> Result<Leaving> {
        let nodes = tree.map(|tree| Ok((Arc::clone(tree), nodes_to_free(tree)?)));
        nodes.transpose().map(Leaving)
    }

    /// Those of the tree that is there now, with the manifest locked: rarely another one than before.
    pub(super) fn now(self, tree: Option<&Arc<Tree>>) -> Result<Vec<NodePointer>> {
        match (self.0, tree) {
            (_, None) => Ok(vec![]),
            (Some((before, nodes)), Some(tree)) if Arc::ptr_eq(&before, tree) => Ok(nodes),
            (_, Some(tree)) => {
                crate::sync::sometimes("compact: another tree is to be let go than before");
                nodes_to_free(tree)
            }
        }
    }
}

/// Every node of a tree that is let go. Where it is damaged, which pages are its is not known: they stay
/// taken, which a check reports, and nothing keeps the tree.
fn nodes_to_free(tree: &Tree) -> Result<Vec<NodePointer>> {
    match nodes_of(tree) {
        Err(error) if error.is_corruption() => {
            crate::sync::sometimes("compact: lets go of a damaged tree");
            tracing::warn!(%error, "a tree is let go, and its pages stay taken");
            Ok(vec![])
        }
        other => other,
    }
}

/// Every node of a tree.
fn nodes_of(tree: &Tree) -> Result<Vec<NodePointer>> {
    struct Nothing;
    impl crate::btree::Changes for Nothing {
        fn here(&self) -> Option<(&[u8], Option<&[u8]>)> {
            None
        }
        fn advance(&mut self) -> Result<()> {
            Ok(())
        }
    }
    let all = [Cut { start: vec![], end: None }];
    let (mut new, pager) = (tree.pager.write(0), &tree.pager);
    let root = (KeyspaceId::DEFAULT, Some(tree.root)); // whose keys they are: none of them is left
    let merged =
        TreeMerge::run(&**pager, &mut new, root, &mut Nothing, &all, pager.page_bytes(), 1)?;
    Ok(merged.freed)
}
