//! The directory: locked, made if it is not there, and what lies in it.

use super::OpenAs;
use crate::{
    blob::blob_id,
    env::{DirLock, Env, PathKind},
    error::{Error, Result},
    pager::tree_file_id,
    upkeep::output::sstable_id,
    version::manifest::{generation_of, is_manifest},
    wal::segment::segment_id,
};
use std::{io::ErrorKind, path::Path, sync::Arc};

pub(super) fn lock_directory(
    env: &Arc<dyn Env>,
    dir: &Path,
    open_as: OpenAs,
) -> Result<Box<dyn DirLock>> {
    let disk = env.disk();
    let kind = disk.kind(dir).map_err(|e| Error::io("look at", dir, e))?;
    match (kind, open_as) {
        (PathKind::Directory, _) => {}
        (PathKind::File, _) => {
            return Err(Error::NotADatabase {
                path: dir.into(),
                why: "it is not a directory".into(),
            });
        }
        (PathKind::Missing, OpenAs::Existing) => {
            return Err(Error::NotFound { path: dir.into(), why: "there is no such directory" });
        }
        (PathKind::Missing, _) => create_directory(env, dir)?,
    }
    let lock = disk.lock_dir(dir).map_err(|e| Error::io("lock", dir, e))?;
    let lock = lock.ok_or_else(|| Error::Locked { path: dir.into() })?;
    if open_as != OpenAs::Existing {
        // Whoever created the directory, or one above it, may have been killed before its entry
        // was durable.
        sync_parent(env, dir)?;
        let above = dir.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty());
        for ancestor in above {
            match sync_parent(env, ancestor) {
                // Not ours, so not created by us either.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {}
                other => other?,
            }
        }
    }
    Ok(lock)
}

/// Creates a directory, and its parents where they are missing, each durable in its own parent.
fn create_directory(env: &Arc<dyn Env>, dir: &Path) -> Result<()> {
    if let Some(parent) = parent(dir) {
        let kind = env.disk().kind(parent).map_err(|e| Error::io("look at", parent, e))?;
        if kind == PathKind::Missing {
            create_directory(env, parent)?;
        }
    }
    match env.disk().create_dir(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            Err(Error::io("create the directory", dir, e))
        }
        _ => sync_parent(env, dir),
    }
}

fn parent(dir: &Path) -> Option<&Path> {
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(Path::new(".")),
        other => other,
    }
}

fn sync_parent(env: &Arc<dyn Env>, dir: &Path) -> Result<()> {
    let Some(parent) = parent(dir) else {
        return Ok(());
    };
    env.disk().sync_dir(parent).map_err(|e| Error::io("sync the directory", parent, e))
}

/// What lies in the directory, by name.
pub(super) struct Listing {
    /// The highest generation of a manifest.
    pub(super) manifest: Option<u64>,
    pub(super) manifests: Vec<String>,
    pub(super) segments: Vec<String>,
    pub(super) tables: Vec<String>,
    pub(super) trees: Vec<String>,
    pub(super) blobs: Vec<String>,
    pub(super) others: Vec<String>,
}

impl Listing {
    pub(super) fn read(env: &Arc<dyn Env>, dir: &Path) -> Result<Listing> {
        let mut names = env.disk().list(dir).map_err(|e| Error::io("list", dir, e))?;
        names.sort();
        let mut listing = Listing {
            manifest: None,
            manifests: vec![],
            segments: vec![],
            tables: vec![],
            trees: vec![],
            blobs: vec![],
            others: vec![],
        };
        for name in names {
            if is_manifest(&name) {
                listing.manifest = listing.manifest.max(generation_of(&name));
                listing.manifests.push(name);
            } else if segment_id(&name).is_some() {
                listing.segments.push(name);
            } else if sstable_id(&name).is_some() {
                listing.tables.push(name);
            } else if tree_file_id(&name).is_some() {
                listing.trees.push(name);
            } else if blob_id(&name).is_some() {
                listing.blobs.push(name);
            } else if name != "lost+found" {
                listing.others.push(name);
            }
        }
        Ok(listing)
    }

    /// The first file id that no name in the directory uses.
    pub(super) fn next_file(&self) -> u64 {
        let segments = self.segments.iter().filter_map(|name| segment_id(name)).map(|id| id.0);
        let tables = self.tables.iter().filter_map(|name| sstable_id(name)).map(|id| id.0);
        let trees = self.trees.iter().filter_map(|name| tree_file_id(name)).map(|id| id.0);
        let blobs = self.blobs.iter().filter_map(|name| blob_id(name)).map(|id| id.0);
        segments.chain(tables).chain(trees).chain(blobs).max().map_or(1, |id| id.saturating_add(1))
    }
}
