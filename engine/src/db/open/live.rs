//! The files that the manifest names: sstables, and the trees.

use super::Opening;
use crate::{
    blob::Blobs,
    env::{DirLock, NamedFile, OpenMode},
    error::{Error, Result},
    format::manifest::{KeyspaceState, MergedDown},
    pager::{Pager, Shared, tree_file_name},
    sstable::{SharedBlocks, Sstable},
    upkeep::output::sstable_name,
    version::{KeyspaceVersion, Merging, Tree, manifest::Manifest},
};
use std::{io::ErrorKind, sync::Arc};

impl Opening {
    /// The file of the trees, if there is one.
    pub(super) fn open_trees(
        &self,
        manifest: &Manifest,
        blocks: &Arc<SharedBlocks>,
        lock: &Arc<dyn DirLock>,
    ) -> Result<Option<Arc<Pager>>> {
        let trees = &manifest.state().trees;
        let Some(meta) = trees.file else {
            return Ok(None);
        };
        let file = self.open_named(manifest, &tree_file_name(meta.file_id), OpenMode::Write)?;
        let shared = Shared {
            cache: Arc::clone(&blocks.cache),
            frame_bytes: self.config.frame_bytes(),
            map_bytes_max: self.config.map_bytes_max(),
            hint_bytes_max: self.config.hint_bytes_max(),
            _lock: Some(Arc::clone(lock)),
        };
        let space = (trees.free.clone(), trees.end);
        let pager = Pager::open(file, manifest.uuid(), meta, space, shared)?;
        Ok(Some(Arc::new(pager)))
    }

    /// Opens a file that the manifest names.
    fn open_named(&self, manifest: &Manifest, name: &str, mode: OpenMode) -> Result<NamedFile> {
        let path = self.dir.join(name);
        match NamedFile::open(self.env.disk(), path.clone(), mode) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                let expected = format!("the file that edit {} names", manifest.number());
                Err(Error::corruption(path, 0, expected, "no such file"))
            }
            other => other,
        }
    }

    pub(super) fn open_tables(
        &self,
        manifest: &Manifest,
        blocks: &Arc<SharedBlocks>,
        pager: Option<&Arc<Pager>>,
        blobs: &Blobs,
    ) -> Result<Vec<Arc<KeyspaceVersion>>> {
        let mut keyspaces = vec![];
        for (id, keyspace) in &manifest.state().keyspaces {
            let mut runs = vec![];
            for (file_id, summary) in &keyspace.tables {
                let file = self.open_named(manifest, &sstable_name(*file_id), OpenMode::Read)?;
                let (uuid, blocks) = (manifest.uuid(), Arc::clone(blocks));
                let run = Sstable::open(file, summary, &uuid, *id, blocks)?;
                runs.push(Arc::new(run.holding(blobs)?));
            }
            // Runs do not overlap in SeqNos.
            runs.sort_by_key(|run| std::cmp::Reverse(run.summary().contents.largest_seq));
            let merging = merging_of(keyspace, &runs).ok_or_else(|| {
                let name = format!("manifest-{:06}", manifest.generation());
                let found = format!("{:?}", keyspace.merged_down);
                Error::corruption(self.dir.join(name), 0, "a merge of the oldest tables", found)
            })?;
            keyspaces.push(Arc::new(KeyspaceVersion {
                id: *id,
                name: keyspace.meta.name.as_str().into(),
                compression: keyspace.meta.compression,
                storage_kind: keyspace.meta.storage_kind,
                runs,
                tree: tree_of(keyspace, pager, blobs)?,
                merging,
                reads: Arc::default(),
            }));
        }
        Ok(keyspaces)
    }
}

/// `None`: what is being merged are not the oldest runs.
fn merging_of(keyspace: &KeyspaceState, runs: &[Arc<Sstable>]) -> Option<Option<Merging>> {
    let Some(MergedDown { from, tables }) = &keyspace.merged_down else {
        return Some(None);
    };
    let oldest = &runs[runs.len().checked_sub(tables.len())?..];
    let same = oldest.iter().all(|run| tables.contains(&run.file_id()));
    same.then(|| Some(Merging { runs: oldest.len(), from: from.as_slice().into() }))
}

fn tree_of(
    keyspace: &KeyspaceState,
    pager: Option<&Arc<Pager>>,
    blobs: &Blobs,
) -> Result<Option<Arc<Tree>>> {
    let held = keyspace.blobs.iter().map(|(key, pointer)| Ok((key.clone(), blobs.hold(*pointer)?)));
    let held = held.collect::<Result<_>>()?;
    let root = keyspace.root.zip(pager);
    Ok(root.map(|(root, pager)| Arc::new(Tree::new(root, pager, Arc::new(held), None))))
}
