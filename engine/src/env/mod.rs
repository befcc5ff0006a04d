//! The traits between the engine and the world: disk, clock, threads, events, randomness.
//!
//! The engine is written against [`Env`] alone. [`OsEnv`] is the production one; the
//! simulator brings its own, on which every operation can fail, tear, stall or be cut
//! short by a crash. What each method promises about durability is what the engine may
//! rely on, and no more.
//!
//! What we assume of a disk:
//! - written bytes are durable after `sync_data` or `sync_all` of that file returned `Ok`;
//!   until then any subset of the blocks written since the last sync survives, each old,
//!   new, a mixture or garbage
//! - a file's length may become durable before the data that made it longer
//! - creating, renaming or removing a directory entry is durable after `sync_dir` of the
//!   directory returned `Ok`; until then any subset of such operations survives
//! - a rename is atomic: afterwards one of the two states is found
//! - after a failed sync nothing is known of the data that it should have made durable, nor of the names of files, if
//!   it was one of a directory; a later sync that succeeds says nothing of them, unless the database was opened anew
//!   in between

#[cfg(all(test, shuttle))]
pub(crate) mod model;
mod names;
mod os;
mod poison;
mod signal;

pub(crate) use names::{Names, NamesBefore};
pub use os::OsEnv;
pub(crate) use os::memory::{Memory, Words};
pub(crate) use poison::{Poison, Unfinished};
pub(crate) use signal::Signal;

use crate::error::{Error, Result};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Everything that the engine asks of the world.
///
/// ```
/// use lightning_db::env::{Env, OsEnv};
/// let env = OsEnv::new();
/// assert!(!env.buggify("a rare branch") && !env.is_dying());
/// ```
pub trait Env: Send + Sync + 'static {
    /// The file system.
    fn disk(&self) -> &dyn Disk;
    /// Time.
    fn clock(&self) -> &dyn Clock;
    /// A new event that nobody waits on.
    fn event(&self) -> Arc<dyn Event>;
    /// Starts a thread.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>>;
    /// Lets other threads go on for a moment.
    fn yield_now(&self);
    /// A small number that no other living task has, the same for the life of the
    /// calling task. Numbers of ended tasks are given out again.
    fn task_slot(&self) -> usize;
    /// Random bits for salts and identities. `site` names who asks.
    fn random(&self, site: &'static str) -> u64;
    /// Whether a test wants the rare branch `site` taken now. Always false in production.
    fn buggify(&self, _site: &'static str) -> bool {
        false
    }
    /// Whether the process is being torn down by a simulated crash: destructors then do
    /// no I/O and wait for nothing. Always false in production.
    fn is_dying(&self) -> bool {
        false
    }
}

/// A started thread.
///
/// ```
/// use lightning_db::env::{Env, OsEnv};
/// let task = OsEnv::new().spawn("greeter", Box::new(|| println!("hello")))?;
/// task.join();
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Task: Send {
    /// Waits until the thread has ended.
    fn join(self: Box<Self>);
}

/// Time.
///
/// ```
/// use lightning_db::env::{Env, OsEnv};
/// let env = OsEnv::new();
/// let before = env.clock().now();
/// assert!(env.clock().now() >= before);
/// ```
pub trait Clock: Send + Sync {
    /// Monotonic time since some fixed moment.
    fn now(&self) -> Duration;
    /// The same to about 4 ms, never later than [`now`](Clock::now): for what asks often.
    fn about_now(&self) -> Duration {
        self.now()
    }
    /// Time since 1970-01-01 UTC. May jump.
    fn wall(&self) -> Duration;
    /// Waits for at least `duration`.
    fn sleep(&self, duration: Duration);
}

/// An event count: a waiter reads the epoch, checks its condition, and waits for the epoch
/// to move on; a notifier changes the condition, then moves the epoch. So nobody sleeps
/// through a notification that came between the check and the wait.
///
/// ```
/// use lightning_db::env::{Env, OsEnv};
/// let event = OsEnv::new().event();
/// let seen = event.epoch();
/// event.notify_all();
/// event.wait(seen, None); // returns at once: the epoch has moved
/// ```
pub trait Event: Send + Sync {
    /// The present epoch. Read it before checking the condition.
    fn epoch(&self) -> u64;
    /// Returns once the epoch is no longer `seen`, or when [`Clock::now`] passes `deadline`.
    fn wait(&self, seen: u64, deadline: Option<Duration>);
    /// Moves the epoch and wakes every waiter.
    fn notify_all(&self);
}

/// How [`Disk::open`] opens a file.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::env::{Env, OpenMode, OsEnv};
/// let env = OsEnv::new();
/// let path = dir.path().join("file");
/// assert!(env.disk().open(&path, OpenMode::Read).is_err());
/// assert!(env.disk().open(&path, OpenMode::CreateNew).is_ok());
/// assert!(env.disk().open(&path, OpenMode::CreateNew).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// What is found at a path.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::env::{Env, OsEnv, PathKind};
/// let env = OsEnv::new();
/// assert_eq!(env.disk().kind(dir.path())?, PathKind::Directory);
/// assert_eq!(env.disk().kind(&dir.path().join("nothing"))?, PathKind::Missing);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// Nothing.
    Missing,
    /// A directory.
    Directory,
    /// A file, or anything else that is not a directory.
    File,
}

/// A file system.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::env::{Env, FileExt, OpenMode, OsEnv};
/// let env = OsEnv::new();
/// let file = env.disk().open(&dir.path().join("file"), OpenMode::CreateNew)?;
/// file.write_all_at(b"data", 0)?;
/// file.sync_all()?; // the data is durable
/// env.disk().sync_dir(dir.path())?; // and so is the name
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Disk: Send + Sync {
    /// Opens or creates a file. A created entry is durable after `sync_dir` of its directory.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// What is found at `path`.
    fn kind(&self, path: &Path) -> io::Result<PathKind>;
    /// Creates one directory; its parent exists. Durable after `sync_dir` of the parent.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, replacing what is at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes all earlier creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks a directory against other processes and other handles of this one, until the
    /// returned value is dropped. `None`: someone else holds it.
    fn lock_dir(&self, dir: &Path) -> io::Result<Option<Box<dyn DirLock>>>;
}

/// Holds a directory locked until dropped.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::env::{Env, OsEnv};
/// let env = OsEnv::new();
/// let lock = env.disk().lock_dir(dir.path())?;
/// assert!(lock.is_some());
/// assert!(env.disk().lock_dir(dir.path())?.is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait DirLock: Send + Sync {}

/// An open file. All methods take `&self` and may be called from many threads.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::env::{Env, File, OpenMode, OsEnv};
/// let env = OsEnv::new();
/// let file = env.disk().open(&dir.path().join("file"), OpenMode::CreateNew)?;
/// file.set_len(10)?;
/// assert_eq!(file.len()?, 10);
/// # Ok::<(), std::io::Error>(())
/// ```
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length is asked of the system and can fail"
)]
pub trait File: Send + Sync {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file, or for no reason
    /// at all: see [`FileExt::read_exact_at`].
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `buf.len()` bytes, at least one; see [`FileExt::write_all_at`].
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes data and length durable. After an error nothing is known of what was written
    /// since the last success, and trying again proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// Like `sync_data`, and all metadata too.
    fn sync_all(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file, or extends it with zeros that occupy no space.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space for `len` bytes at `offset` and extends the file to at least their end.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives the space of `len` bytes at `offset` back, as far as that can be done: what is read there
    /// afterwards is zeros or what was there, and a write there needs space again. The file stays as
    /// long as it is. Unless a file says otherwise, nothing is done.
    fn punch(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    /// The `len` bytes at `offset` were written, and will not be again soon: the system may begin to bring them to
    /// the device, so that the sync that makes them durable has less to do. Advice only: unless a file says
    /// otherwise, nothing is done, and what fails is told by the sync.
    fn begin_writeback(&self, _offset: u64, _len: u64) {}
    /// A writable mapping of the first `len` bytes, all allocated and written before; `None`
    /// where writing through it could fail (the caller then uses `write_at`).
    fn map(&self, len: u64) -> io::Result<Option<Box<dyn FileMap>>>;
    /// The first `len` bytes mapped for reading, all within the file; `None` where that cannot be done
    /// (the caller then uses `read_at`), as it is unless a file says otherwise.
    fn map_read(&self, _len: u64) -> io::Result<Option<Box<dyn ReadMap>>> {
        Ok(None)
    }
}

/// A mapping of a file for reading. What is written to the file later shows in it.
///
/// A place that the device cannot read, and one that is cut off by another program, end the process with a
/// signal when they are looked at: who cannot accept that reads with [`File::read_at`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::env::{Env, FileExt, OpenMode, OsEnv};
/// let env = OsEnv::new();
/// let file = env.disk().open(&dir.path().join("file"), OpenMode::CreateNew)?;
/// file.write_all_at(b"some data", 0)?;
/// if let Some(map) = file.map_read(9)? {
///     // SAFETY: nobody writes to the file or cuts it meanwhile.
///     assert_eq!(unsafe { map.bytes(5, 4) }, Some(&b"data"[..]));
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait ReadMap: Send + Sync {
    /// `len` bytes at `offset`; `None` if they do not lie within the mapping.
    ///
    /// # Safety
    /// While the slice is in use nobody writes these bytes of the file, in whichever way, and nobody cuts
    /// it.
    #[expect(unsafe_code, reason = "a file can change: the caller sees to it that it does not")]
    unsafe fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]>;

    /// `len` bytes at `offset` are about to be looked at. Advice only: unless a mapping says otherwise,
    /// nothing is done.
    fn prefetch(&self, _offset: u64, _len: usize) {}

    /// The same, long before, of bytes that are read from the disk if they are not in memory. Advice only.
    fn read_ahead(&self, _offset: u64, _len: usize) {}
}

/// A writable shared mapping of a file: what is written is at once in the page cache, so it
/// survives a kill of the process, and becomes durable with the file's next `sync_data`.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::env::{Env, OpenMode, OsEnv};
/// let env = OsEnv::new();
/// let file = env.disk().open(&dir.path().join("file"), OpenMode::CreateNew)?;
/// file.allocate(0, 8192)?;
/// if let Some(map) = file.map(8192)? {
///     map.populate(0, 8192);
///     // SAFETY: nobody else writes these bytes, and they lie within the mapping.
///     unsafe { map.write(b"data", 4096) };
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait FileMap: Send + Sync {
    /// Copies `bytes` to `offset` of the file.
    ///
    /// # Safety
    /// No other call writes any of the same bytes at the same time, and the range lies within
    /// the mapping.
    #[expect(
        unsafe_code,
        reason = "concurrent writes to disjoint ranges: the caller keeps them disjoint"
    )]
    unsafe fn write(&self, bytes: &[u8], offset: u64);
    /// Makes the pages of this range present and writable, so that `write` does not fault.
    fn populate(&self, offset: u64, len: u64);
    /// Takes the pages of this range out of the mapping, because the file is about to be synced: otherwise
    /// the sync would have to take each page back from all processors. What was written stays in
    /// the page cache, and `write` goes on as before, with a fault for each page.
    fn release(&self, offset: u64, len: u64);
}

/// Whole reads and writes on top of [`File`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use lightning_db::env::{Env, FileExt, OpenMode, OsEnv};
/// let env = OsEnv::new();
/// let file = env.disk().open(&dir.path().join("file"), OpenMode::CreateNew)?;
/// file.write_all_at(b"data", 100)?;
/// let mut data = [0; 4];
/// file.read_exact_at(&mut data, 100)?;
/// assert_eq!(&data, b"data");
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait FileExt: File {
    /// Fills `buf`, or fails with `UnexpectedEof` at the end of the file.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all of `buf`. After an error any part of it may have been written.
    fn write_all_at(&self, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    buf = &buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl<F: File + ?Sized> FileExt for F {}

/// An open file together with its path, so that every error names it.
#[derive(Clone)]
pub(crate) struct NamedFile {
    pub(crate) path: Arc<PathBuf>,
    pub(crate) file: Arc<dyn File>,
}

impl NamedFile {
    pub(crate) fn open(disk: &dyn Disk, path: PathBuf, mode: OpenMode) -> Result<NamedFile> {
        let op = if mode == OpenMode::CreateNew { "create" } else { "open" };
        match disk.open(&path, mode) {
            Ok(file) => Ok(NamedFile { path: Arc::new(path), file }),
            Err(e) => Err(Error::io(op, path, e)),
        }
    }

    pub(crate) fn len(&self) -> Result<u64> {
        self.file.len().map_err(|e| self.error("read the length of", e))
    }

    /// Fills `buf`. A file that ends before is corrupt: the caller knows how long it must be.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let wanted = buf.len();
        self.file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.corruption(offset, format!("{wanted} bytes"), "the end of the file")
            }
            _ => self.error("read", e),
        })
    }

    pub(crate) fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(buf, offset).map_err(|e| self.error("write", e))
    }

    pub(crate) fn map_read(&self, len: u64) -> Result<Option<Box<dyn ReadMap>>> {
        self.file.map_read(len).map_err(|e| self.error("map", e))
    }

    pub(crate) fn sync_data(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| self.error("sync", e))
    }

    pub(crate) fn sync_all(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.error("sync", e))
    }

    pub(crate) fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.file.allocate(offset, len).map_err(|e| self.error("allocate", e))
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| self.error("change the length of", e))
    }

    pub(crate) fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.file.punch(offset, len).map_err(|e| self.error("give back space of", e))
    }

    pub(crate) fn error(&self, op: &'static str, source: io::Error) -> Error {
        Error::io(op, self.path.as_path(), source)
    }

    pub(crate) fn corruption(
        &self,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::corruption(self.path.as_path(), offset, expected, found)
    }
}
