//! Whether everything is as it should be.

use super::Db;
use crate::{
    btree,
    error::{Corruption, Error, Result},
    format::pages::{PageRun, PageSet},
    version::{KeyspaceVersion, Version},
};
use std::sync::Arc;

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
    /// Entries in both; a key counts once for each place that holds it, deletes included.
    pub entries: u64,
    /// What is wrong: file, offset, expected, found. Of each sstable and tree the first fault.
    pub faults: Vec<Corruption>,
}

impl Db {
    /// Reads everything that the current Version names.
    pub(crate) fn check_integrity(&self) -> Result<IntegrityReport> {
        let mut report = IntegrityReport::default();
        // The Version that belongs to the manifest's state.
        let (version, free, end) = {
            let manifest = self.manifest.lock();
            let trees = &manifest.state().trees;
            (self.versions.load(), trees.free.clone(), trees.end)
        };
        let mut used = PageSet::default();
        for keyspace in &version.keyspaces {
            self.check_open()?;
            check_runs(keyspace, &mut report)?;
            check_tree(keyspace, &mut used, &mut report)?;
        }
        if report.faults.is_empty() {
            report.faults.extend(leaked_pages(&version, used, &free, end));
        }
        Ok(report)
    }
}

/// Takes damage down; other errors end the check.
fn note<T>(result: Result<T>, report: &mut IntegrityReport) -> Result<Option<T>> {
    match result {
        Ok(good) => Ok(Some(good)),
        Err(Error::Corruption(fault)) => {
            report.faults.push(Arc::unwrap_or_clone(fault));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn check_runs(keyspace: &KeyspaceVersion, report: &mut IntegrityReport) -> Result<()> {
    for run in &keyspace.runs {
        if note(run.check(), report)?.is_some() {
            report.tables += 1;
            report.entries += run.summary().contents.entries;
        }
    }
    Ok(())
}

fn check_tree(
    keyspace: &KeyspaceVersion,
    used: &mut PageSet,
    report: &mut IntegrityReport,
) -> Result<()> {
    let Some(tree) = &keyspace.tree else {
        return Ok(());
    };
    let pager = &tree.pager;
    let mut each = |node: crate::format::node::NodePointer| {
        let pages = PageRun { first: node.page, pages: node.pages.into() };
        match used.insert(pages) {
            true => Ok(()),
            false => Err(pager.used_twice(node)),
        }
    };
    let checked = btree::check(&**pager, Some(tree.root), &mut each);
    if let Some(checked) = note(checked, report)? {
        report.tree_nodes += checked.leaves + checked.branches;
        report.entries += checked.entries;
    }
    Ok(())
}

/// Pages that are neither used nor free, or both.
fn leaked_pages(
    version: &Version,
    mut used: PageSet,
    free: &PageSet,
    end: u64,
) -> Option<Corruption> {
    let tree = version.keyspaces.iter().find_map(|keyspace| keyspace.tree.as_ref())?;
    let apart = free.runs().all(|run| used.insert(run));
    let all = used.runs().eq([PageRun { first: 1, pages: end.saturating_sub(1) }]);
    let found = format!("{} of {} pages used or free", used.pages(), end.saturating_sub(1));
    (!apart || !all).then(|| Corruption {
        file: tree.pager.path().to_path_buf(),
        offset: 0,
        expected: "every page used or free, and none both".into(),
        found,
    })
}
