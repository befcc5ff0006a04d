//! Faults over any world: an [`Env`] that does what the one below it does, unless a [`Rule`] says
//! otherwise. Over the operating system's it brings faults to a real disk.
//!
//! What needs the disk's own memory cannot be done from outside: what a loss of power leaves, pages
//! that a failed sync lost. A failed sync here reports an error and keeps the data.

use crate::Skew;
use lightning_db::env::{
    Clock, DirLock, Disk, Env, Event, File, FileMap, OpenMode, PathKind, ReadMap, Task,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// What is about to be done to a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Opening a file that exists.
    Open,
    /// Creating a file.
    Create,
    /// Asking what is at a path.
    Kind,
    /// Creating a directory.
    CreateDir,
    /// Renaming; the path is the new one.
    Rename,
    /// Removing a file.
    Remove,
    /// Listing a directory.
    List,
    /// Syncing a directory.
    SyncDir,
    /// Locking a directory.
    Lock,
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Syncing a file's data, or all of it.
    Sync,
    /// Setting a file's length.
    SetLen,
    /// Reserving space for a file.
    Allocate,
    /// Giving space of a file back.
    Punch,
    /// Mapping a file.
    Map,
}

/// One operation, before it is done.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// What it is.
    pub call: Call,
    /// What it is done to.
    pub path: &'a Path,
    /// How many bytes a read or write is given.
    pub bytes: usize,
    /// How many bytes the disk needs for it. What lies below a file's length is taken to have its space.
    /// 0 unless the rule [counts space](Rule::counts_space).
    pub space: u64,
    /// The time, counted as the clock of the world below does.
    pub now: Duration,
}

/// What becomes of an operation.
#[derive(Debug)]
pub enum Verdict {
    /// It is done. A read or write is given no more than so many bytes.
    Done(usize),
    /// It fails, and only the first so many bytes of a write are done.
    Fails(io::Error, usize),
}

/// Decides what becomes of operations. A function from call and path to a result is one.
pub trait Rule: Send + Sync + 'static {
    /// Asked before each operation.
    fn decide(&self, operation: &Operation<'_>) -> Verdict;
    /// How long the operation waits before anything else happens.
    fn pause(&self, _operation: &Operation<'_>) -> Duration {
        Duration::ZERO
    }
    /// Whether files may be mapped. What is written through a mapping passes no rule.
    fn allows_maps(&self) -> bool {
        false
    }
    /// Whether it wants to know what space operations need and free.
    fn counts_space(&self) -> bool {
        false
    }
    /// So many bytes of the disk are free again.
    fn freed(&self, _bytes: u64) {}
    /// What was read of a file, before anybody sees it: it may be changed, or refused.
    ///
    /// # Errors
    /// What the read fails with.
    fn read(&self, _path: &Path, _offset: u64, _bytes: &mut [u8]) -> io::Result<()> {
        Ok(())
    }
    /// So many bytes of a file were written.
    fn written(&self, _path: &Path, _offset: u64, _bytes: usize) {}
    /// A file was created, renamed to this, or removed.
    fn renewed(&self, _path: &Path) {}
    /// By how much the monotone clock jumps, asked each time that somebody looks at it.
    fn clock_jump(&self) -> Duration {
        Duration::ZERO
    }
    /// By how many nanoseconds the wall clock is set, asked each time that somebody looks at it.
    fn wall_jump(&self) -> i64 {
        0
    }
}

impl<F: Fn(Call, &Path) -> io::Result<()> + Send + Sync + 'static> Rule for F {
    fn decide(&self, operation: &Operation<'_>) -> Verdict {
        match self(operation.call, operation.path) {
            Ok(()) => Verdict::Done(operation.bytes),
            Err(error) => Verdict::Fails(error, 0),
        }
    }
}

/// A world under a rule. Its time may go faster than that of the world below.
pub struct FaultyEnv<E> {
    disk: FaultyDisk<E>,
    speed: u32,
    skew: Arc<Skew>,
}

impl<E: Env> FaultyEnv<E> {
    /// The world `below`, under a rule.
    pub fn new(below: E, rule: impl Rule) -> Arc<FaultyEnv<E>> {
        FaultyEnv::shared(below, Arc::new(rule))
    }

    /// Like [`new`](FaultyEnv::new), under a rule that others know too.
    pub fn shared(below: E, rule: Arc<dyn Rule>) -> Arc<FaultyEnv<E>> {
        let below = Arc::new(Below { env: below, rule });
        Arc::new(FaultyEnv { disk: FaultyDisk { below }, speed: 1, skew: Arc::default() })
    }

    /// The world `below`, where nothing fails and time goes `speed` times as fast.
    pub fn with_speed(below: E, speed: u32) -> Arc<FaultyEnv<E>> {
        let rule: Arc<dyn Rule> = Arc::new(|_: Call, _: &Path| Ok(()));
        let below = Arc::new(Below { env: below, rule });
        Arc::new(FaultyEnv { disk: FaultyDisk { below }, speed, skew: Arc::default() })
    }

    fn below(&self) -> &E {
        &self.disk.below.env
    }
}

/// An event of a world whose clock is another.
struct OtherTime {
    event: Arc<dyn Event>,
    speed: u32,
    skew: Arc<Skew>,
}

impl Event for OtherTime {
    fn epoch(&self) -> u64 {
        self.event.epoch()
    }
    fn wait(&self, seen: u64, deadline: Option<Duration>) {
        // Who waits when the clock jumps, is woken late.
        let below = |deadline: Duration| deadline.saturating_sub(self.skew.ahead()) / self.speed;
        self.event.wait(seen, deadline.map(below));
    }
    fn notify_all(&self) {
        self.event.notify_all();
    }
}

impl<E: Env> Env for FaultyEnv<E> {
    fn disk(&self) -> &dyn Disk {
        &self.disk
    }
    fn clock(&self) -> &dyn Clock {
        self
    }
    fn event(&self) -> Arc<dyn Event> {
        let (event, speed, skew) = (self.below().event(), self.speed, Arc::clone(&self.skew));
        Arc::new(OtherTime { event, speed, skew })
    }
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
        self.below().spawn(name, body)
    }
    fn yield_now(&self) {
        self.below().yield_now();
    }
    fn task_slot(&self) -> usize {
        self.below().task_slot()
    }
    fn random(&self, site: &'static str) -> u64 {
        self.below().random(site)
    }
    fn buggify(&self, site: &'static str) -> bool {
        self.below().buggify(site)
    }
    fn is_dying(&self) -> bool {
        self.below().is_dying()
    }
}

impl<E: Env> Clock for FaultyEnv<E> {
    fn now(&self) -> Duration {
        let jump = self.disk.below.rule.clock_jump();
        if !jump.is_zero() {
            self.skew.jump(jump);
        }
        // The jump before the time: whoever looked at the clock before saw less.
        let ahead = self.skew.ahead();
        self.below().clock().now() * self.speed + ahead
    }
    fn wall(&self) -> Duration {
        self.skew.set_wall(self.disk.below.rule.wall_jump());
        self.skew.wall(self.below().clock().wall())
    }
    fn sleep(&self, duration: Duration) {
        self.below().clock().sleep(duration / self.speed);
    }
}

struct Below<E> {
    env: E,
    rule: Arc<dyn Rule>,
}

impl<E: Env> Below<E> {
    /// What becomes of an operation, after its pause.
    fn verdict(&self, call: Call, path: &Path, bytes: usize, space: u64) -> Verdict {
        let now = self.env.clock().now();
        let operation = Operation { call, path, bytes, space, now };
        let pause = self.rule.pause(&operation);
        if !pause.is_zero() {
            self.env.clock().sleep(pause);
        }
        self.rule.decide(&operation)
    }

    /// Whether an operation that moves no bytes may be done.
    fn allows(&self, call: Call, path: &Path, space: u64) -> io::Result<()> {
        match self.verdict(call, path, 0, space) {
            Verdict::Done(_) => Ok(()),
            Verdict::Fails(error, _) => Err(error),
        }
    }

    /// What removing or replacing a file frees.
    fn space_of(&self, path: &Path) -> u64 {
        if !self.rule.counts_space() {
            return 0;
        }
        let file = self.env.disk().open(path, OpenMode::Read);
        file.and_then(|file| file.len()).unwrap_or(0)
    }

    /// What a file needs to become as long as `end`.
    fn growth(&self, file: &dyn File, end: u64) -> io::Result<u64> {
        match self.rule.counts_space() {
            true => Ok(end.saturating_sub(file.len()?)),
            false => Ok(0),
        }
    }
}

/// A name needs space in its directory.
const NAME_BYTES: u64 = 1;

/// The disk of a [`FaultyEnv`].
struct FaultyDisk<E> {
    below: Arc<Below<E>>,
}

impl<E: Env> FaultyDisk<E> {
    fn disk(&self) -> &dyn Disk {
        self.below.env.disk()
    }
}

impl<E: Env> Disk for FaultyDisk<E> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        match mode {
            OpenMode::CreateNew => self.below.allows(Call::Create, path, NAME_BYTES)?,
            OpenMode::Read | OpenMode::Write => self.below.allows(Call::Open, path, 0)?,
        }
        let file = self.disk().open(path, mode)?;
        if mode == OpenMode::CreateNew {
            self.below.rule.renewed(path);
        }
        Ok(Arc::new(FaultyFile { file, path: path.into(), below: self.below.clone() }))
    }
    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        self.below.allows(Call::Kind, path, 0)?;
        self.disk().kind(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.below.allows(Call::CreateDir, path, NAME_BYTES)?;
        self.disk().create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.below.allows(Call::Rename, to, 0)?;
        let freed = self.below.space_of(to);
        self.disk().rename(from, to)?;
        self.below.rule.renewed(from);
        self.below.rule.renewed(to);
        self.below.rule.freed(freed);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.below.allows(Call::Remove, path, 0)?;
        let freed = self.below.space_of(path);
        self.disk().remove(path)?;
        self.below.rule.renewed(path);
        self.below.rule.freed(freed);
        Ok(())
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.below.allows(Call::List, dir, 0)?;
        self.disk().list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.below.allows(Call::SyncDir, dir, 0)?;
        self.disk().sync_dir(dir)
    }
    fn lock_dir(&self, dir: &Path) -> io::Result<Option<Box<dyn DirLock>>> {
        self.below.allows(Call::Lock, dir, 0)?;
        self.disk().lock_dir(dir)
    }
}

struct FaultyFile<E> {
    file: Arc<dyn File>,
    path: PathBuf,
    below: Arc<Below<E>>,
}

impl<E: Env> FaultyFile<E> {
    fn write_through(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let n = self.file.write_at(bytes, offset)?;
        self.below.rule.written(&self.path, offset, n);
        Ok(n)
    }
}

impl<E: Env> File for FaultyFile<E> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.below.verdict(Call::Read, &self.path, buf.len(), 0) {
            Verdict::Done(bytes) => {
                let bytes = bytes.min(buf.len());
                let n = self.file.read_at(&mut buf[..bytes], offset)?;
                self.below.rule.read(&self.path, offset, &mut buf[..n])?;
                Ok(n)
            }
            Verdict::Fails(error, _) => Err(error),
        }
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let space = self.below.growth(&*self.file, offset + buf.len() as u64)?;
        match self.below.verdict(Call::Write, &self.path, buf.len(), space) {
            Verdict::Done(bytes) => self.write_through(&buf[..bytes.min(buf.len())], offset),
            Verdict::Fails(error, bytes) => {
                self.write_through(&buf[..bytes.min(buf.len())], offset)?;
                Err(error)
            }
        }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.below.allows(Call::Sync, &self.path, 0)?;
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.below.allows(Call::Sync, &self.path, 0)?;
        self.file.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.below.allows(Call::SetLen, &self.path, 0)?;
        let before = if self.below.rule.counts_space() { self.file.len()? } else { 0 };
        self.file.set_len(len)?;
        self.below.rule.freed(before.saturating_sub(len));
        Ok(())
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let space = self.below.growth(&*self.file, offset + len)?;
        self.below.allows(Call::Allocate, &self.path, space)?;
        self.file.allocate(offset, len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        // What lies below a file's length is taken to have its space: nothing is counted as freed.
        self.below.allows(Call::Punch, &self.path, 0)?;
        self.file.punch(offset, len)
    }
    fn begin_writeback(&self, offset: u64, len: u64) {
        self.file.begin_writeback(offset, len);
    }
    fn map(&self, len: u64) -> io::Result<Option<Box<dyn FileMap>>> {
        if !self.below.rule.allows_maps() {
            return Ok(None);
        }
        self.below.allows(Call::Map, &self.path, 0)?;
        self.file.map(len)
    }
    fn map_read(&self, len: u64) -> io::Result<Option<Box<dyn ReadMap>>> {
        if !self.below.rule.allows_maps() {
            return Ok(None);
        }
        self.below.allows(Call::Map, &self.path, 0)?;
        self.file.map_read(len)
    }
}
