//! The operating system with a say in what it does: a test may have any call fail, take its time or
//! panic.

use lightning_db::env::{
    Clock, DirLock, Disk, Env, Event, File, FileMap, OpenMode, OsEnv, PathKind, Task,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// What is about to be done to a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    Create,
    Read,
    Write,
    Sync,
    Allocate,
    SyncDir,
    Remove,
}

type Rule = Arc<dyn Fn(Call, &Path) -> io::Result<()> + Send + Sync>;

/// The operating system, as far as the rule lets it. Log segments are written with `write_at`. Time
/// goes `speed` times as fast.
pub(crate) struct Outside {
    inner: OsEnv,
    rule: Rule,
    speed: u32,
}

impl Outside {
    pub(crate) fn new(
        rule: impl Fn(Call, &Path) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<Outside> {
        Arc::new(Outside { inner: OsEnv::new(), rule: Arc::new(rule), speed: 1 })
    }

    pub(crate) fn with_speed(speed: u32) -> Arc<Outside> {
        Arc::new(Outside { inner: OsEnv::new(), rule: Arc::new(|_, _| Ok(())), speed })
    }
}

struct FastEvent(Arc<dyn Event>, u32);

impl Event for FastEvent {
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }
    fn wait(&self, seen: u64, deadline: Option<Duration>) {
        self.0.wait(seen, deadline.map(|deadline| deadline / self.1));
    }
    fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl Env for Outside {
    fn disk(&self) -> &dyn Disk {
        self
    }
    fn clock(&self) -> &dyn Clock {
        self
    }
    fn event(&self) -> Arc<dyn Event> {
        Arc::new(FastEvent(self.inner.event(), self.speed))
    }
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
        self.inner.spawn(name, body)
    }
    fn yield_now(&self) {
        self.inner.yield_now();
    }
    fn task_slot(&self) -> usize {
        self.inner.task_slot()
    }
    fn random(&self, site: &'static str) -> u64 {
        self.inner.random(site)
    }
}

impl Clock for Outside {
    fn now(&self) -> Duration {
        self.inner.clock().now() * self.speed
    }
    fn wall(&self) -> Duration {
        self.inner.clock().wall()
    }
    fn sleep(&self, duration: Duration) {
        self.inner.clock().sleep(duration / self.speed);
    }
}

impl Disk for Outside {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let call = if mode == OpenMode::CreateNew { Call::Create } else { Call::Open };
        (self.rule)(call, path)?;
        let inner = self.inner.disk().open(path, mode)?;
        Ok(Arc::new(OutsideFile { inner, path: path.into(), rule: Arc::clone(&self.rule) }))
    }
    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        self.inner.disk().kind(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.disk().create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.disk().rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        (self.rule)(Call::Remove, path)?;
        self.inner.disk().remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.disk().list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        (self.rule)(Call::SyncDir, dir)?;
        self.inner.disk().sync_dir(dir)
    }
    fn lock_dir(&self, dir: &Path) -> io::Result<Option<Box<dyn DirLock>>> {
        self.inner.disk().lock_dir(dir)
    }
}

struct OutsideFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    rule: Rule,
}

impl File for OutsideFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (self.rule)(Call::Read, &self.path)?;
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        (self.rule)(Call::Write, &self.path)?;
        self.inner.write_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        (self.rule)(Call::Sync, &self.path)?;
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        (self.rule)(Call::Sync, &self.path)?;
        self.inner.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        (self.rule)(Call::Allocate, &self.path)?;
        self.inner.allocate(len)
    }
    fn map(&self, _len: u64) -> io::Result<Option<Box<dyn FileMap>>> {
        Ok(None)
    }
}

/// Whether the path is that of a log segment.
pub(crate) fn is_log(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-"))
}

/// Whether the path is that of an sstable.
pub(crate) fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sst")
}
