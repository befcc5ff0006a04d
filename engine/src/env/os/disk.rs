//! Files and directories.
#![expect(clippy::disallowed_types, reason = "the one home of the system's files")]
#![expect(clippy::disallowed_methods, reason = "the one home of the system's files")]

use crate::env::{DirLock, Disk, File, FileMap, OpenMode, PathKind, ReadMap};
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use std::{
    fs, io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::Arc,
};

#[derive(Debug)]
pub(super) struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::Write => options.write(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        Ok(Arc::new(OsFile(options.open(path)?)))
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(PathKind::Directory),
            Ok(_) => Ok(PathKind::File),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(PathKind::Missing),
            Err(e) => Err(e),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Option<Box<dyn DirLock>>> {
        // On the directory's own descriptor: no lock file that could be removed or copied.
        let handle = fs::File::open(dir)?;
        match handle.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(e)) => return Err(e),
        }
        // Between opening and locking, the directory may have been replaced.
        let (ours, now) = (handle.metadata()?, fs::metadata(dir)?);
        if (ours.dev(), ours.ino()) != (now.dev(), now.ino()) {
            return Ok(None);
        }
        Ok(Some(Box::new(OsDirLock(handle))))
    }
}

struct OsDirLock(fs::File);
impl DirLock for OsDirLock {}

impl Drop for OsDirLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being spawned may hold a copy of the descriptor
        // until it runs its program.
        let _ = self.0.unlock();
    }
}

struct OsFile(fs::File);

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::{fs::FallocateFlags, io::Errno};
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), offset, len) {
            Ok(()) => Ok(()),
            // A file system without it: what is written is allocated.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = vec![0; 64 << 10];
                let (mut at, end) = (self.len()?, offset + len);
                while at < end {
                    let part = zeros.len().min((end - at) as usize);
                    self.0.write_all_at(&zeros[..part], at)?;
                    at += part as u64;
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::{fs::FallocateFlags, io::Errno};
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, flags, offset, len) {
            // A file system without it keeps the space.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn begin_writeback(&self, offset: u64, len: u64) {
        // Linux writes what is dirty before it would drop it, and drops only what is written. An error of the
        // device is kept for the next sync.
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(&self.0, offset, len, rustix::fs::Advice::DontNeed);
    }

    fn map(&self, len: u64) -> io::Result<Option<Box<dyn FileMap>>> {
        // Only where overwriting an allocated block needs no new one, so that a store to the
        // mapping cannot meet a full disk, which would be a signal. Measured on ext4.
        const EXT4_SUPER_MAGIC: u64 = 0xEF53;
        let fs_type = rustix::fs::fstatfs(&self.0)?.f_type;
        if fs_type as u64 != EXT4_SUPER_MAGIC || self.len()? < len {
            return Ok(None);
        }
        let Ok(len) = usize::try_from(len) else {
            return Ok(None);
        };
        let map = MmapOptions::new().len(len).map_raw(&self.0)?;
        Ok(Some(Box::new(OsMap(map))))
    }

    fn map_read(&self, len: u64) -> io::Result<Option<Box<dyn ReadMap>>> {
        let whole = usize::try_from(len).ok().filter(|len| *len > 0);
        let Some(whole) = whole else { return Ok(None) };
        if self.len()? < len {
            return Ok(None);
        }
        let map = MmapOptions::new().len(whole).map_raw_read_only(&self.0)?;
        // Point reads come in any order. Advice only.
        let _ = map.advise(Advice::Random);
        Ok(Some(Box::new(OsReadMap(map))))
    }
}

struct OsReadMap(MmapRaw);

impl ReadMap for OsReadMap {
    #[inline]
    #[expect(unsafe_code, reason = "a slice of shared memory; that it stays is the caller's")]
    unsafe fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        if start.checked_add(len)? > self.0.len() {
            return None;
        }
        // SAFETY: the range lies within the mapping, which is valid while `self` lives, and nobody writes
        // these bytes while the slice is in use (contract).
        Some(unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(start), len) })
    }

    #[inline]
    fn prefetch(&self, offset: u64, len: usize) {
        let start = self.0.as_ptr().wrapping_add(offset as usize);
        (0..len).step_by(64).for_each(|at| crate::sync::prefetch(start.wrapping_add(at)));
    }

    fn read_ahead(&self, offset: u64, len: usize) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if start.checked_add(len).is_some_and(|end| end <= self.0.len()) {
            // Advice only.
            let _ = self.0.advise_range(Advice::WillNeed, start, len);
        }
    }
}

struct OsMap(MmapRaw);

impl FileMap for OsMap {
    #[expect(unsafe_code, reason = "copying into shared memory; disjointness is the caller's")]
    unsafe fn write(&self, bytes: &[u8], offset: u64) {
        let start = offset as usize;
        assert!(start <= self.0.len() && bytes.len() <= self.0.len() - start);
        // SAFETY: the range lies within the mapping, which is valid while `self` lives; nobody
        // writes it at the same time (contract), and nobody in this process reads it through
        // the mapping. The file is not cut while mapped: only the holder of the directory
        // lock could, and it does not.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.0.as_mut_ptr().add(start),
                bytes.len(),
            );
        }
    }

    fn populate(&self, offset: u64, len: u64) {
        // Advice: without it pages come at their first use.
        let (start, len) = self.pages(offset, len);
        let _ = self.0.advise_range(Advice::PopulateWrite, start, len);
    }

    #[expect(unsafe_code, reason = "the advice is unsafe because of private mappings")]
    fn release(&self, offset: u64, len: u64) {
        let (start, len) = self.pages(offset, len);
        // SAFETY: of a shared mapping this takes the pages out and leaves their contents, with all
        // that was written, to the page cache; the next access maps them again.
        let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) };
    }
}

impl OsMap {
    /// The whole pages that hold `len` bytes at `offset`, within the mapping.
    fn pages(&self, offset: u64, len: u64) -> (usize, usize) {
        const PAGE: usize = 4096;
        let start = (offset as usize).min(self.0.len()) / PAGE * PAGE;
        let end = (offset as usize).saturating_add(len as usize).min(self.0.len());
        (start, end.saturating_sub(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::FileExt;

    #[test]
    fn a_mapping_for_reading_shows_what_is_written_and_ends_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        assert!(file.map_read(0).unwrap().is_none() && file.map_read(1).unwrap().is_none());
        file.write_all_at(&[1; 10_000], 0).unwrap();
        assert!(file.map_read(10_001).unwrap().is_none());
        let map = file.map_read(10_000).unwrap().expect("a mapping");
        let read = |offset, len| {
            #[expect(unsafe_code, reason = "as the pager does")]
            // SAFETY: nobody writes while the slice is in use.
            unsafe { map.bytes(offset, len) }.map(<[u8]>::to_vec)
        };
        assert_eq!(read(4000, 200), Some(vec![1; 200]));
        file.write_all_at(&[2; 100], 4000).unwrap();
        assert_eq!(read(4000, 200), Some([vec![2; 100], vec![1; 100]].concat()));
        assert_eq!(read(9_999, 1), Some(vec![1]));
        for (offset, len) in [(9_999, 2), (10_001, 0), (u64::MAX, 1), (1, usize::MAX)] {
            assert_eq!(read(offset, len), None, "{offset} {len}");
        }
    }

    /// Writers go on while pages are made present and taken out, as they do while the log is synced. (Where the
    /// file system gives no mapping there is nothing to test.)
    #[test]
    fn nothing_written_through_a_mapping_is_lost_when_its_pages_are_released() {
        const LEN: u64 = 1 << 20;
        const PIECE: u64 = 100; // pieces share pages
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.open(&dir.path().join("log"), OpenMode::CreateNew).unwrap();
        file.allocate(0, LEN).unwrap();
        let Some(map) = file.map(LEN).unwrap() else { return };
        std::thread::scope(|s| {
            for thread in 0..2 {
                let map = &map;
                s.spawn(move || {
                    for i in (thread..LEN / PIECE).step_by(2) {
                        let piece = [i as u8 | 1; PIECE as usize];
                        #[expect(unsafe_code, reason = "as the log does")]
                        // SAFETY: each piece is written once, within the mapping.
                        unsafe {
                            map.write(&piece, i * PIECE);
                        }
                    }
                });
            }
            for _ in 0..50 {
                map.populate(0, LEN / 2);
                map.release(0, LEN);
                file.sync_data().unwrap();
            }
        });
        map.release(LEN - 10, LEN); // behind the end: no more than advice
        let mut found = vec![0; LEN as usize];
        file.read_exact_at(&mut found, 0).unwrap();
        for (i, piece) in found.chunks_exact(PIECE as usize).enumerate() {
            assert!(piece.iter().all(|byte| *byte == i as u8 | 1), "piece {i}");
        }
    }
}
