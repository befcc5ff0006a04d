//! A world for shuttle: events it can see through, a clock that moves when looked at, and files in memory that
//! tell what was synced.

use super::{Clock, DirLock, Disk, Env, Event, File, FileMap, OpenMode, PathKind, Task};
use shuttle::sync::{Condvar, Mutex};
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as Plain,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

#[derive(Default)]
pub(crate) struct ModelEnv {
    disk: ModelDisk,
    micros: AtomicU64,
}

impl ModelEnv {
    pub(crate) fn new() -> Arc<ModelEnv> {
        Arc::new(ModelEnv::default())
    }

    /// From now on every sync fails.
    pub(crate) fn fail_syncs(&self) {
        self.disk.failing.store(true, SeqCst);
    }

    /// What was synced of the only file.
    pub(crate) fn synced(&self) -> Vec<u8> {
        let files = self.disk.files.lock().unwrap();
        assert_eq!(files.len(), 1);
        files.values().next().unwrap().synced.lock().unwrap().clone()
    }
}

impl Env for ModelEnv {
    fn disk(&self) -> &dyn Disk {
        &self.disk
    }
    fn clock(&self) -> &dyn Clock {
        self
    }
    fn event(&self) -> Arc<dyn Event> {
        Arc::new(ModelEvent::default())
    }
    fn spawn(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
        Err(ErrorKind::Unsupported.into())
    }
    fn yield_now(&self) {
        shuttle::thread::yield_now();
    }
    fn task_slot(&self) -> usize {
        usize::MAX
    }
    fn random(&self, _site: &'static str) -> u64 {
        self.micros.fetch_add(1, SeqCst)
    }
}

impl Clock for ModelEnv {
    fn now(&self) -> Duration {
        Duration::from_micros(self.micros.fetch_add(1, SeqCst))
    }
    fn wall(&self) -> Duration {
        self.now()
    }
    fn sleep(&self, _duration: Duration) {
        shuttle::thread::yield_now();
    }
}

/// Waits without a deadline: whoever sleeps through a notification is a deadlock, which shuttle reports.
#[derive(Default)]
struct ModelEvent {
    epoch: Mutex<u64>,
    moved: Condvar,
}

impl Event for ModelEvent {
    fn epoch(&self) -> u64 {
        *self.epoch.lock().unwrap()
    }
    fn wait(&self, seen: u64, _deadline: Option<Duration>) {
        let mut epoch = self.epoch.lock().unwrap();
        while *epoch == seen {
            epoch = self.moved.wait(epoch).unwrap();
        }
    }
    fn notify_all(&self) {
        *self.epoch.lock().unwrap() += 1;
        self.moved.notify_all();
    }
}

#[derive(Default)]
struct ModelDisk {
    files: Plain<BTreeMap<PathBuf, Arc<ModelFile>>>,
    failing: Arc<AtomicBool>,
}

impl Disk for ModelDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        assert_eq!(mode, OpenMode::CreateNew);
        let file = Arc::new(ModelFile { failing: self.failing.clone(), ..Default::default() });
        self.files.lock().unwrap().insert(path.into(), file.clone());
        Ok(file)
    }
    fn kind(&self, _path: &Path) -> io::Result<PathKind> {
        Err(ErrorKind::Unsupported.into())
    }
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.lock().unwrap().remove(path);
        Ok(())
    }
    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        Err(ErrorKind::Unsupported.into())
    }
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn lock_dir(&self, _dir: &Path) -> io::Result<Option<Box<dyn DirLock>>> {
        Err(ErrorKind::Unsupported.into())
    }
}

#[derive(Default)]
struct ModelFile {
    bytes: Plain<Vec<u8>>,
    synced: Plain<Vec<u8>>,
    failing: Arc<AtomicBool>,
}

impl File for ModelFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
    /// In two parts, so that a sync can come between.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        shuttle::thread::yield_now();
        let part = &buf[..buf.len().div_ceil(2)];
        let mut bytes = self.bytes.lock().unwrap();
        let end = offset as usize + part.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(part);
        Ok(part.len())
    }
    fn sync_data(&self) -> io::Result<()> {
        shuttle::thread::yield_now();
        if self.failing.load(SeqCst) {
            return Err(io::Error::other("the sync failed, as planned"));
        }
        let now = self.bytes.lock().unwrap().clone();
        shuttle::thread::yield_now();
        *self.synced.lock().unwrap() = now;
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.set_len(offset + len)
    }
    fn map(&self, _len: u64) -> io::Result<Option<Box<dyn FileMap>>> {
        Ok(None)
    }
}
