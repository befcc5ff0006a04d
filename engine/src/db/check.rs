//! Whether everything is as it should be.

use super::Db;
use crate::{
    blob::{Blob, blob_id, blob_name},
    btree::{self, Root},
    env::PathKind,
    error::{Corruption, Error, Result, place},
    format::{
        node::NodePointer,
        pages::{PageRun, PageSet},
    },
    pager::Pager,
    types::FileId,
    version::{KeyspaceVersion, Tree, Version},
};
use std::{
    collections::BTreeMap,
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

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
    /// What is wrong. Of each sstable and large value the first fault; of a tree each node that is not what it must be,
    /// but nothing of what is below such a node.
    pub faults: Vec<Fault>,
}

/// Something that is not as it was written, or that cannot be looked at. See [`IntegrityReport`].
///
/// ```
/// # use lightning_db::Fault;
/// fn tell(fault: &Fault) {
///     eprintln!("{}: expected {}, found {}", fault.file.display(), fault.expected, fault.found);
/// }
/// # let _ = tell;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The file, or the directory if it is that which cannot be looked at.
    pub file: PathBuf,
    /// Where in the file, in bytes, if that is known.
    pub offset: Option<u64>,
    /// Number of the page that begins there, in the file of the trees.
    pub page: Option<u64>,
    /// What should be there.
    pub expected: String,
    /// What is there, or why that cannot be said.
    pub found: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault in {}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at {}", place(self.page, offset))?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

impl Fault {
    /// Of a file as a whole.
    fn in_file(file: &Path, expected: impl Into<String>, found: impl Into<String>) -> Fault {
        let (expected, found) = (expected.into(), found.into());
        Fault { file: file.to_path_buf(), offset: None, page: None, expected, found }
    }

    /// What an error says of a file. Others, which say nothing of what is in one, end the check.
    fn of(error: Error) -> Result<Fault> {
        match error {
            Error::Corruption(corruption) => {
                let Corruption { file, offset, page, expected, found } =
                    Arc::unwrap_or_clone(corruption);
                Ok(Fault { file, offset: Some(offset), page, expected, found })
            }
            Error::Unsupported { file, what } => {
                Ok(Fault::in_file(&file, "what this version knows", what))
            }
            Error::Io { op, path, source } if source.kind() != ErrorKind::OutOfMemory => {
                let expected = format!("to be able to {op} it");
                Ok(Fault::in_file(&path, expected, source.to_string()))
            }
            other => Err(other),
        }
    }

    /// The same of a page.
    fn in_page(self, pager: &Pager, page: u64) -> Fault {
        let offset = page.saturating_mul(pager.page_bytes() as u64);
        Fault { offset: Some(offset), page: Some(page), ..self }
    }
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

    /// Takes down what is wrong with a file; other errors end the check.
    fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(good) => Ok(Some(good)),
            Err(error) => {
                self.report.faults.push(Fault::of(error)?);
                Ok(None)
            }
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
        let mut used = Used { pages: PageSet::default(), known: true };
        for keyspace in &version.keyspaces {
            self.check_open()?;
            check_runs(keyspace, &self.uuid, &mut check)?;
            check_tree(keyspace, &mut used, &mut check)?;
        }
        let trees = self.trees.lock().clone();
        if let Some(trees) = trees.filter(|_| used.known) {
            check.report.faults.extend(wrong_uses(&trees, &used.pages, &free, end));
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
        let names = disk.list(&self.dir).map_err(|e| Error::io("list", &self.dir, e));
        for name in check.note(names)?.unwrap_or_default() {
            let Some(id) = blob_id(&name).filter(|id| !self.blobs.knows(*id)) else {
                continue;
            };
            let file = self.dir.join(blob_name(id));
            // It may have been removed since it was listed.
            let kind = disk.kind(&file).map_err(|e| Error::io("look at", &file, e));
            if check.note(kind)? == Some(PathKind::File) {
                let found = "one that nothing does";
                let fault = Fault::in_file(&file, "a blob that something names", found);
                check.report.faults.push(fault);
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

/// The pages that trees use.
struct Used {
    pages: PageSet,
    /// Nothing stood in the way of finding them all.
    known: bool,
}

/// What the check of a tree goes by.
struct TreeCheck<'c, 'a> {
    check: &'c mut Check<'a>,
    used: &'c mut Used,
    pager: &'c Pager,
    /// The key and pointer of each entry that has a large value.
    blobs: Vec<(Vec<u8>, Vec<u8>)>,
    /// No node was refused.
    whole: bool,
}

impl btree::Watch for TreeCheck<'_, '_> {
    fn node(&mut self, node: NodePointer) -> Result<()> {
        let pages = PageRun { first: node.page, pages: node.pages.into() };
        self.check.has_read(pages.pages * self.pager.page_bytes() as u64);
        if self.used.pages.insert(pages) {
            return Ok(());
        }
        // One of the two has other pages.
        self.used.known = false;
        Err(self.pager.used_twice(node))
    }

    fn blob(&mut self, key: &[u8], pointer: &[u8]) {
        self.blobs.push((key.to_vec(), pointer.to_vec()));
    }

    fn refused(&mut self, node: Root, why: Error) -> Result<()> {
        let fault = Fault::of(why)?.in_page(self.pager, node.pointer.page);
        self.check.report.faults.push(fault);
        self.whole = false;
        // A leaf has its pages, whatever they hold; those below a branch only the branch tells.
        self.used.known &= node.level == 0;
        Ok(())
    }
}

fn check_tree(keyspace: &KeyspaceVersion, used: &mut Used, check: &mut Check<'_>) -> Result<()> {
    let Some(tree) = &keyspace.tree else {
        return Ok(());
    };
    let pager = &*tree.pager;
    let mut watch = TreeCheck { check, used, pager, blobs: vec![], whole: true };
    let root = (keyspace.id, Some(tree.root));
    let checked = btree::check(&btree::FromFile(pager), root, &mut watch)?;
    let TreeCheck { check, blobs, whole, .. } = watch;
    check.report.tree_nodes += checked.leaves + checked.branches;
    check.report.entries += checked.entries;
    if !whole {
        return Ok(());
    }
    if let Some(fault) = wrong_blobs(tree, &blobs) {
        check.report.faults.push(fault);
        return Ok(());
    }
    check.report.trees.push(TreeReport {
        keyspace: keyspace.name.to_string(),
        depth: u64::from(tree.root.level) + 1,
        leaves: checked.leaves,
        branches: checked.branches,
        entries: checked.entries,
        page_bytes: checked.pages * pager.page_bytes() as u64,
        raw_bytes: checked.raw_bytes,
    });
    Ok(())
}

/// Large values of a tree that are not those that the manifest says it has.
fn wrong_blobs(tree: &Tree, found: &[(Vec<u8>, Vec<u8>)]) -> Option<Fault> {
    let expected = tree.blobs.iter().map(|(key, blob)| (key.clone(), blob.pointer.encode().into()));
    (!expected.eq(found.iter().cloned())).then(|| {
        let expected = format!("{} large values, as the manifest says", tree.blobs.len());
        Fault::in_file(tree.pager.path(), expected, format!("{} others in a tree", found.len()))
    })
}

/// Pages that are neither used nor free, that are both, and that are not there.
fn wrong_uses(trees: &Pager, used: &PageSet, free: &PageSet, end: u64) -> Vec<Fault> {
    let there = PageRun { first: 1, pages: end.saturating_sub(1) }; // the first page is the header's
    let there: PageSet = [there].into_iter().collect();
    let both = used.minus(&used.minus(free));
    let wrong = [
        (there.minus(used).minus(free), "neither"),
        (both, "both"),
        (used.minus(&there), "used and not there"),
        (free.minus(&there), "free and not there"),
    ];
    let faults = wrong.into_iter().filter_map(|(pages, are)| {
        let first = pages.runs().next()?.first;
        let found = format!("{} pages that are {are}, this the first", pages.pages());
        let fault = Fault::in_file(trees.path(), "every page used or free, and none both", found);
        Some(fault.in_page(trees, first))
    });
    faults.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::Cache,
        env::{Env, NamedFile, OpenMode, OsEnv},
        format::pages::TreeFileMeta,
        pager::Shared,
    };

    fn set(runs: &[(u64, u64)]) -> PageSet {
        runs.iter().map(|(first, pages)| PageRun { first: *first, pages: *pages }).collect()
    }

    /// For a page that a merge took and nobody gave back: nothing else tells of it.
    #[test]
    fn pages_without_a_use_or_with_two_are_counted_and_the_first_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("000003.tree");
        let file = NamedFile::open(OsEnv::new().disk(), path, OpenMode::CreateNew).unwrap();
        let meta = TreeFileMeta { file_id: FileId(3), identity: 9, page_bytes: 4096 };
        let shared = Shared {
            cache: Arc::new(Cache::new(0)),
            frame_bytes: 0,
            map_bytes_max: 0,
            hint_bytes_max: 0,
            _lock: None,
        };
        let trees = Pager::create(file, [7; 16], meta, shared).unwrap();
        let told = |used: &[(u64, u64)], free: &[(u64, u64)]| -> Vec<(Option<u64>, String)> {
            let faults = wrong_uses(&trees, &set(used), &set(free), 20);
            assert!(faults.iter().all(|f| f.offset == f.page.map(|page| page * 4096)));
            faults.into_iter().map(|fault| (fault.page, fault.found)).collect()
        };
        let one = |page, found: &str| vec![(Some(page), format!("{found}, this the first"))];
        assert_eq!(told(&[(1, 4), (9, 11)], &[(5, 4)]), []);
        let leaked = told(&[(1, 4), (10, 8)], &[(6, 3)]);
        assert_eq!(leaked, one(5, "4 pages that are neither"));
        let both = told(&[(1, 4), (6, 14)], &[(3, 4)]);
        assert_eq!(both, one(3, "3 pages that are both"));
        let used = told(&[(1, 24)], &[]);
        assert_eq!(used, one(20, "5 pages that are used and not there"));
        let free = told(&[(1, 4)], &[(5, 15), (30, 1)]);
        assert_eq!(free, one(30, "1 pages that are free and not there"));
        assert_eq!(told(&[], &[]), one(1, "19 pages that are neither"));
        assert_eq!(wrong_uses(&trees, &set(&[]), &set(&[]), 1), []);
    }
}
