//! Whether everything is as it should be.

use super::Db;
use crate::{
    blob::{Blob, blob_id, blob_name},
    btree,
    env::PathKind,
    error::{Corruption, Error, Result},
    format::pages::{PageRun, PageSet},
    pager::Pager,
    types::FileId,
    version::{KeyspaceVersion, Version},
};
use std::{collections::BTreeMap, sync::Arc};

/// What a check found. See [`Database::check_integrity`](crate::Database::check_integrity).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// let report = db.check_integrity()?;
/// for fault in &report.faults {
///     eprintln!("{fault}");
/// }
/// assert!(report.faults.is_empty());
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct IntegrityReport {
    /// Sstables that were read whole and found good.
    pub tables: u64,
    /// Nodes of trees that were read and found good.
    pub tree_nodes: u64,
    /// Large values that were read whole and found good.
    pub blobs: u64,
    /// Entries in both; a key counts once for each place that holds it, deletes included.
    pub entries: u64,
    /// The trees that are good.
    pub trees: Vec<TreeReport>,
    /// What is wrong: file, offset, expected, found. Of each sstable and tree the first fault.
    pub faults: Vec<Corruption>,
}

/// What a check found in the tree of a keyspace. See [`IntegrityReport`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put("key", "value")?;
/// db.compact()?;
/// let tree = &db.check_integrity()?.trees[0];
/// assert_eq!((tree.keyspace.as_str(), tree.entries, tree.raw_bytes), ("default", 1, 8));
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeReport {
    /// Name of the keyspace.
    pub keyspace: String,
    /// How many nodes lead from the root to an entry, both included.
    pub depth: u64,
    /// Nodes with entries.
    pub leaves: u64,
    /// Nodes that lead to others.
    pub branches: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of the pages of all nodes.
    pub page_bytes: u64,
    /// Bytes of keys and values: by how much this is less than `page_bytes` is what the tree costs.
    pub raw_bytes: u64,
}

/// How far a check is. See [`Database::check_integrity_with`](crate::Database::check_integrity_with).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.check_integrity_with(|progress| {
///     println!("{} of {} bytes", progress.bytes, progress.total_bytes);
/// })?;
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckProgress {
    /// Bytes that were read.
    pub bytes: u64,
    /// Of so many. Damage can make what is read more or less.
    pub total_bytes: u64,
}

/// What a check goes by.
struct Check<'a> {
    report: IntegrityReport,
    progress: CheckProgress,
    told: &'a mut dyn FnMut(CheckProgress),
}

impl Check<'_> {
    fn has_read(&mut self, bytes: u64) {
        self.progress.bytes += bytes;
        (self.told)(self.progress);
    }

    /// Takes damage down; other errors end the check.
    fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(good) => Ok(Some(good)),
            Err(Error::Corruption(fault)) => {
                self.report.faults.push(Arc::unwrap_or_clone(fault));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Db {
    /// Reads everything that the current Version names.
    pub(crate) fn check_integrity(
        &self,
        told: &mut dyn FnMut(CheckProgress),
    ) -> Result<IntegrityReport> {
        // The Version that belongs to the manifest's state.
        let (version, free, end) = {
            let manifest = self.manifest.lock();
            let trees = &manifest.state().trees;
            (self.versions.load(), trees.free.clone(), trees.end)
        };
        let runs = version.keyspaces.iter().flat_map(|keyspace| &keyspace.runs);
        let run_bytes: u64 = runs.map(|run| run.summary().file_bytes).sum();
        let page_bytes = self.trees.lock().as_ref().map_or(0, |pager| pager.page_bytes() as u64);
        let blobs = named_blobs(&version);
        let blob_bytes: u64 = blobs.values().map(|blob| u64::from(blob.pointer.len)).sum();
        let total_bytes =
            run_bytes + blob_bytes + end.saturating_sub(1 + free.pages()) * page_bytes;
        let progress = CheckProgress { bytes: 0, total_bytes };
        let mut check = Check { report: IntegrityReport::default(), progress, told };
        let mut used = PageSet::default();
        for keyspace in &version.keyspaces {
            self.check_open()?;
            check_runs(keyspace, &self.uuid, &mut check)?;
            check_tree(keyspace, &mut used, &mut check)?;
        }
        if check.report.faults.is_empty() {
            let trees = self.trees.lock().clone();
            let leaked = trees.and_then(|trees| leaked_pages(&trees, used, &free, end));
            check.report.faults.extend(leaked);
        }
        self.check_blobs(&blobs, &mut check)?;
        Ok(check.report)
    }
}

impl Db {
    /// Reads every blob, and looks for blob files that nothing names.
    fn check_blobs(
        &self,
        blobs: &BTreeMap<FileId, Arc<Blob>>,
        check: &mut Check<'_>,
    ) -> Result<()> {
        for blob in blobs.values() {
            self.check_open()?;
            let checked = self.blobs.open(blob.pointer).and_then(|mut reader| reader.check());
            if check.note(checked)?.is_some() {
                check.report.blobs += 1;
            }
            check.has_read(blob.pointer.len.into());
        }
        let disk = self.env.disk();
        let names = disk.list(&self.dir).map_err(|e| Error::io("list", &self.dir, e))?;
        for name in names {
            let Some(id) = blob_id(&name).filter(|id| !self.blobs.knows(*id)) else {
                continue;
            };
            let file = self.dir.join(blob_name(id));
            // It may have been removed since it was listed.
            let kind = disk.kind(&file).map_err(|e| Error::io("look at", &file, e))?;
            if kind == PathKind::File {
                let expected = "a blob that something names".into();
                let found = "one that nothing does".into();
                check.report.faults.push(Corruption {
                    file,
                    offset: 0,
                    page: None,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// The blobs that a Version names.
fn named_blobs(version: &Version) -> BTreeMap<FileId, Arc<Blob>> {
    let memtables = version.memtables().flat_map(|memtable| memtable.blobs());
    let keyspaces = || version.keyspaces.iter();
    let runs = keyspaces().flat_map(|k| &k.runs).flat_map(|run| run.blobs().iter().cloned());
    let trees = keyspaces().filter_map(|k| k.tree.as_ref());
    let trees = trees.flat_map(|tree| tree.blobs.values().cloned());
    let all = memtables.chain(runs).chain(trees);
    all.map(|blob| (blob.pointer.file_id, blob)).collect()
}

fn check_runs(keyspace: &KeyspaceVersion, uuid: &[u8; 16], check: &mut Check<'_>) -> Result<()> {
    for run in &keyspace.runs {
        if check.note(run.check(uuid))?.is_some() {
            check.report.tables += 1;
            check.report.entries += run.summary().contents.entries;
        }
        check.has_read(run.summary().file_bytes);
    }
    Ok(())
}

fn check_tree(keyspace: &KeyspaceVersion, used: &mut PageSet, check: &mut Check<'_>) -> Result<()> {
    let Some(tree) = &keyspace.tree else {
        return Ok(());
    };
    let pager = &tree.pager;
    let mut each = |node: crate::format::node::NodePointer| {
        let pages = PageRun { first: node.page, pages: node.pages.into() };
        check.has_read(pages.pages * pager.page_bytes() as u64);
        match used.insert(pages) {
            true => Ok(()),
            false => Err(pager.used_twice(node)),
        }
    };
    let mut blobs = vec![];
    let mut blob = |key: &[u8], pointer: &[u8]| blobs.push((key.to_vec(), pointer.to_vec()));
    let root = (keyspace.id, Some(tree.root));
    let checked = btree::check(&btree::FromFile(pager), root, &mut each, &mut blob);
    let expected = tree.blobs.iter().map(|(key, blob)| (key.clone(), blob.pointer.encode().into()));
    let checked = checked.and_then(|checked| match expected.eq(blobs.iter().cloned()) {
        true => Ok(checked),
        false => {
            let expected = format!("{} large values, as the manifest says", tree.blobs.len());
            let found = format!("{} others in a tree", blobs.len());
            Err(Error::corruption(pager.path(), 0, expected, found))
        }
    });
    if let Some(checked) = check.note(checked)? {
        check.report.tree_nodes += checked.leaves + checked.branches;
        check.report.entries += checked.entries;
        check.report.trees.push(TreeReport {
            keyspace: keyspace.name.to_string(),
            depth: u64::from(tree.root.level) + 1,
            leaves: checked.leaves,
            branches: checked.branches,
            entries: checked.entries,
            page_bytes: checked.pages * pager.page_bytes() as u64,
            raw_bytes: checked.raw_bytes,
        });
    }
    Ok(())
}

/// Pages that are neither used nor free, or both.
fn leaked_pages(trees: &Pager, mut used: PageSet, free: &PageSet, end: u64) -> Option<Corruption> {
    let apart = free.runs().all(|run| used.insert(run));
    let whole = PageRun { first: 1, pages: end.saturating_sub(1) };
    let all = used.runs().eq(Some(whole).filter(|whole| whole.pages > 0));
    let found = format!("{} of {} pages used or free", used.pages(), end.saturating_sub(1));
    (!apart || !all).then(|| Corruption {
        file: trees.path().to_path_buf(),
        offset: 0,
        page: None,
        expected: "every page used or free, and none both".into(),
        found,
    })
}
