//! A disk with a bug planted in it, between the engine and the simulated one: what shrinking and
//! telling are tested with, without a bug in the engine.

use lightning_db::env::{
    Clock, DirLock, Disk, Env, Event, File, FileMap, OpenMode, PathKind, Task,
};
use lightning_sim::{SimEnv, database::Wrap};
use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Planted {
    /// What the sync of a log segment promises is not done, once the segment is in use.
    LogSyncDoesNothing,
    /// What a directory's sync promises is not done.
    DirectorySyncDoesNothing,
}

/// Puts it between.
pub(crate) fn wrap(bug: Planted) -> Wrap {
    Arc::new(move |env| {
        let disk = FaultyDisk { env: env.clone(), bug };
        Arc::new(FaultyEnv { env, disk })
    })
}

struct FaultyEnv {
    env: SimEnv,
    disk: FaultyDisk,
}

impl Env for FaultyEnv {
    fn disk(&self) -> &dyn Disk {
        &self.disk
    }
    fn clock(&self) -> &dyn Clock {
        self.env.clock()
    }
    fn event(&self) -> Arc<dyn Event> {
        self.env.event()
    }
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
        self.env.spawn(name, body)
    }
    fn yield_now(&self) {
        self.env.yield_now();
    }
    fn task_slot(&self) -> usize {
        self.env.task_slot()
    }
    fn random(&self, site: &'static str) -> u64 {
        self.env.random(site)
    }
    fn buggify(&self, site: &'static str) -> bool {
        self.env.buggify(site)
    }
    fn is_dying(&self) -> bool {
        self.env.is_dying()
    }
}

struct FaultyDisk {
    env: SimEnv,
    bug: Planted,
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.env.disk().open(path, mode)?;
        let log = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-"));
        let lies = log && self.bug == Planted::LogSyncDoesNothing;
        Ok(Arc::new(FaultyFile { file, lies, syncs: AtomicU64::new(0) }))
    }
    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        self.env.disk().kind(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.env.disk().create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.env.disk().rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.env.disk().remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.env.disk().list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self.bug {
            Planted::DirectorySyncDoesNothing => {
                let _takes_its_time = self.env.disk().kind(dir);
                Ok(())
            }
            Planted::LogSyncDoesNothing => self.env.disk().sync_dir(dir),
        }
    }
    fn lock_dir(&self, dir: &Path) -> io::Result<Option<Box<dyn DirLock>>> {
        self.env.disk().lock_dir(dir)
    }
}

struct FaultyFile {
    file: Arc<dyn File>,
    lies: bool,
    syncs: AtomicU64,
}

/// Syncs of a segment that are done: those that prepare it.
const HONEST: u64 = 3;

impl File for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        match self.lies && self.syncs.fetch_add(1, Relaxed) >= HONEST {
            true => {
                let _takes_its_time = self.file.read_at(&mut [0], 0);
                Ok(())
            }
            false => self.file.sync_data(),
        }
    }
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }
    fn map(&self, len: u64) -> io::Result<Option<Box<dyn FileMap>>> {
        self.file.map(len)
    }
}
