//! Blobs: values too large for log, memtable and nodes, each in a file of its own. Format:
//! `docs/formats/blob.md`.
//!
//! Invariants:
//! - a blob is whole and durable, and so is its name, before anything names it; it never changes
//! - whoever names a blob, a memtable, an sstable or a tree, holds its [`Blob`]; when the last of them is
//!   gone, so that no Version reaches it, the blob is dead
//! - a file is removed only when its blob is dead and the database is not poisoned: what stops naming a
//!   blob does so by a durable edit, and an edit or commit that failed may be durable all the same
//! - every chunk is verified before anything of it is returned
//!
//! What names a blob, and when, others decide.

mod read;
mod write;

pub(crate) use read::BlobReader;
pub(crate) use write::fill;

use crate::{
    env::{Env, Signal},
    error::{Error, Result},
    format::blob::BlobPointer,
    sync::{AtomicU64, Mutex},
    types::FileId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

const SUFFIX: &str = ".blob";

pub(crate) fn blob_name(id: FileId) -> String {
    format!("{id:06}{SUFFIX}")
}

/// The file id in the name of a blob file.
pub(crate) fn blob_id(name: &str) -> Option<FileId> {
    FileId::in_name(name, "", SUFFIX, blob_name)
}

/// A blob that something names. The last one to let it go makes it dead.
pub(crate) struct Blob {
    pub(crate) pointer: BlobPointer,
    dead: Arc<Dead>,
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.dead.push(self.pointer.file_id);
    }
}

/// Files of which nobody needs anything any more, until they are removed.
#[derive(Default)]
struct Dead(Mutex<DeadFiles>);

#[derive(Default)]
struct DeadFiles {
    ids: Vec<FileId>,
    /// What tells whoever removes them.
    signal: Option<Arc<Signal>>,
}

impl Dead {
    fn push(&self, id: FileId) {
        let mut files = self.0.lock();
        files.ids.push(id);
        let signal = files.signal.clone();
        drop(files);
        if let Some(signal) = signal {
            signal.notify();
        }
    }
}

/// A file that this process made or found.
struct Known {
    identity: u64,
    /// Of the value; 0 while it is written.
    len: u32,
    /// `None`: it is being written, or nothing named it when the database was opened.
    blob: Weak<Blob>,
}

/// How many blob files there are, and their values' bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlobStats {
    /// Those that something names.
    pub(crate) live: u64,
    pub(crate) live_bytes: u64,
    /// Besides those, what is written, or waits to be removed.
    pub(crate) files: u64,
    pub(crate) file_bytes: u64,
}

/// All blobs of a database.
pub(crate) struct Blobs {
    env: Arc<dyn Env>,
    dir: PathBuf,
    uuid: [u8; 16],
    /// Gives ids to all files.
    file_ids: Arc<AtomicU64>,
    known: Mutex<BTreeMap<FileId, Known>>,
    dead: Arc<Dead>,
}

impl Blobs {
    pub(crate) fn new(
        env: &Arc<dyn Env>,
        dir: &Path,
        uuid: [u8; 16],
        file_ids: &Arc<AtomicU64>,
    ) -> Blobs {
        Blobs {
            env: Arc::clone(env),
            dir: dir.to_path_buf(),
            uuid,
            file_ids: Arc::clone(file_ids),
            known: Mutex::default(),
            dead: Arc::default(),
        }
    }

    fn path(&self, id: FileId) -> PathBuf {
        self.dir.join(blob_name(id))
    }

    /// The blob that a pointer names, for somebody who will name it too. Whoever the pointer comes from
    /// holds it meanwhile, unless the database is being opened.
    pub(crate) fn hold(&self, pointer: BlobPointer) -> Result<Arc<Blob>> {
        let mut known = self.known.lock();
        if let Some(Known { identity, len, blob }) = known.get(&pointer.file_id)
            && let Some(blob) = blob.upgrade()
        {
            if (*identity, *len) == (pointer.identity, pointer.len) {
                return Ok(blob);
            }
            let wanted = format!("one value, {:?}", blob.pointer);
            drop(known); // before the blob
            let path = self.path(pointer.file_id);
            return Err(Error::corruption(path, 0, wanted, format!("another, {pointer:?}")));
        }
        let blob = Arc::new(Blob { pointer, dead: Arc::clone(&self.dead) });
        let BlobPointer { file_id, identity, len } = pointer;
        known.insert(file_id, Known { identity, len, blob: Arc::downgrade(&blob) });
        Ok(blob)
    }

    /// The same, if somebody still names it.
    pub(crate) fn held(&self, pointer: BlobPointer) -> Option<Arc<Blob>> {
        let known = self.known.lock();
        let found =
            known.get(&pointer.file_id).filter(|known| known.identity == pointer.identity)?;
        found.blob.upgrade()
    }

    /// Checks that the files of all blobs held are `there`, and gives up the others that are. For opening.
    pub(crate) fn settle_files(&self, there: &BTreeSet<FileId>) -> Result<Vec<FileId>> {
        let known = self.known.lock();
        let missing = known.keys().find(|id| !there.contains(id)).copied();
        let orphans = there.iter().filter(|id| !known.contains_key(id)).copied().collect();
        drop(known);
        match missing {
            None => Ok(orphans),
            Some(id) => {
                let wanted = "a large value, which something names";
                Err(Error::corruption(self.path(id), 0, wanted, "no such file"))
            }
        }
    }

    /// Takes over files that nothing names, to be removed.
    pub(crate) fn bury(&self, orphans: Vec<FileId>) {
        let mut known = self.known.lock();
        for id in &orphans {
            known.insert(*id, Known { identity: 0, len: 0, blob: Weak::new() });
        }
        drop(known);
        self.dead.0.lock().ids.extend(orphans);
    }

    /// What to notify when there is a file to remove.
    pub(crate) fn notify_when_dead(&self, signal: &Arc<Signal>) {
        self.dead.0.lock().signal = Some(Arc::clone(signal));
    }

    /// Whether a file may belong to the database: it is held, being written, or waits to be removed.
    pub(crate) fn knows(&self, id: FileId) -> bool {
        self.known.lock().contains_key(&id)
    }

    /// Whether [`Blobs::remove_dead`] has something to do.
    pub(crate) fn has_dead(&self) -> bool {
        !self.dead.0.lock().ids.is_empty()
    }

    /// Removes the files of dead blobs, if that is allowed. Returns how many are left.
    pub(crate) fn remove_dead(&self, allowed: impl FnOnce() -> bool) -> usize {
        let dead = std::mem::take(&mut self.dead.0.lock().ids);
        if dead.is_empty() {
            return 0;
        }
        // Asked after they were taken: a commit or an edit whose failure poisons does so before it lets go
        // of what it named.
        let mut left = vec![];
        if allowed() {
            for id in dead {
                let known = self.known.lock();
                // Held again, while the database is opened.
                let held = known.get(&id).is_some_and(|known| known.blob.strong_count() > 0);
                drop(known);
                match held || self.remove(id) {
                    true if held => {}
                    true => _ = self.known.lock().remove(&id),
                    false => left.push(id),
                }
            }
        } else {
            crate::sync::sometimes("blob: kept because of poison");
            left = dead;
        }
        let count = left.len();
        self.dead.0.lock().ids.extend(left);
        count
    }

    fn remove(&self, id: FileId) -> bool {
        let path = self.path(id);
        match self.env.disk().remove(&path) {
            Ok(()) => {
                crate::sync::sometimes("blob: removes a file");
                true
            }
            // Its creation failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                crate::sync::sometimes("blob: cannot remove a file");
                tracing::warn!(%error, path = %path.display(), "cannot remove a blob file");
                false
            }
        }
    }

    pub(crate) fn stats(&self) -> BlobStats {
        let mut stats = BlobStats::default();
        // Let go outside of the lock.
        let mut held = vec![];
        let known = self.known.lock();
        for Known { len, blob, .. } in known.values() {
            stats.files += 1;
            stats.file_bytes += u64::from(*len);
            if let Some(blob) = blob.upgrade() {
                stats.live += 1;
                stats.live_bytes += u64::from(*len);
                held.push(blob);
            }
        }
        drop(known);
        stats
    }
}
