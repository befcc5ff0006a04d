//! Open files and their mappings.

use super::{
    Kind, Shared, State, Waits, access_denied, bad_descriptor, eio, interrupted, invalid, no_space,
    pages_of,
};
use crate::{
    env::killed,
    scheduler::{self, can_suspend},
    trace::content_hash,
};
use lightning_db::env::{File, FileMap, OpenMode, ReadMap};
use lightning_faults::Dice;
use parking_lot::Mutex;
use std::{collections::BTreeMap, io, sync::Arc};

pub(super) struct SimFile {
    pub(super) shared: Arc<Shared>,
    pub(super) inode: u64,
    pub(super) mode: OpenMode,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.shared.state.lock().release(self.inode, 0, 1);
    }
}

impl SimFile {
    /// An operation on this file; `body` does it, after its time has passed.
    fn on_file<T>(
        &self,
        what: &'static str,
        kind: Kind,
        words: &[u64],
        body: impl FnOnce(&mut State, &mut Dice) -> io::Result<T>,
    ) -> io::Result<T> {
        let shared = &self.shared;
        let result = shared.begin(what, kind).and_then(|mut dice| {
            shared.wait(Waits::ForCache, &mut dice);
            body(&mut shared.state.lock(), &mut dice)
        });
        let mut all = [self.inode, 0, 0];
        all[1..=words.len()].copy_from_slice(words);
        let text = || format!("file {} {words:?}", self.inode);
        shared.end(what, result, &all[..=words.len()], text)
    }

    /// A signal, or the system, cuts a transfer of `len` bytes short.
    fn transfer(
        &self,
        len: usize,
        (short, kind): (f64, &'static str),
        dice: &mut Dice,
    ) -> io::Result<usize> {
        let plan = &self.shared.plan;
        if self.shared.fires(plan.interrupted, "EINTR") {
            return Err(interrupted());
        }
        if len > 1 && self.shared.fires(short, kind) {
            return Ok(1 + dice.below(len as u64 - 1) as usize);
        }
        Ok(len)
    }

    fn write(&self, buf: &[u8], offset: u64, dice: &mut Dice) -> io::Result<usize> {
        if self.mode == OpenMode::Read {
            return Err(bad_descriptor());
        }
        if buf.is_empty() {
            return Ok(0); // the file does not even grow
        }
        let shared = &self.shared;
        let wanted = self.transfer(buf.len(), (shared.plan.short_write, "short write"), dice)?;
        let (flight, n) = {
            let state = &mut *shared.state.lock();
            let n = shared.allocate(state, self.inode, offset, wanted as u64)? as usize;
            if n == 0 {
                return Err(no_space());
            }
            (state.inode(self.inode)?.begin_write(offset, &buf[..n]), n)
        };
        shared.wait(Waits::ForCache, dice);
        let fails = shared.fires(shared.plan.write_error, "EIO in a write");
        let state = &mut *shared.state.lock();
        let inode = state.inode(self.inode)?;
        match fails {
            true => {
                inode.tear_write(flight, 1, dice);
                Err(eio())
            }
            false => {
                inode.end_write(flight);
                Ok(n)
            }
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let plan = &self.shared.plan;
        self.on_file("read", Kind::Read, &[offset, buf.len() as u64], |state, dice| {
            let n = self.transfer(buf.len(), (plan.short_read, "short read"), dice)?;
            let evict = self.shared.fires(plan.evict_clean, "clean pages dropped");
            let took_back = evict && state.inode(self.inode)?.evict_clean();
            state.took_back |= took_back;
            self.shared.damage_read(state, self.inode, offset, n as u64)?;
            Ok(state.inode(self.inode)?.read(&mut buf[..n], offset))
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let shared = &self.shared;
        let result = shared.begin("write", Kind::Write);
        let result = result.and_then(|mut dice| self.write(buf, offset, &mut dice));
        let n = *result.as_ref().unwrap_or(&0) as u64;
        let hash = content_hash(buf);
        let words = [self.inode, offset, buf.len() as u64, n, hash];
        shared.end("write", result, &words, || {
            let (inode, len) = (self.inode, buf.len());
            format!("file {inode} at {offset}: {n} of {len} bytes, hash {hash:016x}")
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.sync_file("sync data", self.inode)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.shared.sync_file("sync all", self.inode)
    }

    fn len(&self) -> io::Result<u64> {
        if !can_suspend() {
            return Err(killed());
        }
        Ok(self.shared.state.lock().inode(self.inode)?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.on_file("set length", Kind::Write, &[len], |state, _| {
            if self.mode == OpenMode::Read {
                return Err(invalid());
            }
            let before = state.used_by(self.inode);
            state.inode(self.inode)?.set_len(len);
            state.used_bytes -= before - state.used_by(self.inode);
            Ok(())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.on_file("allocate", Kind::Write, &[offset, len], |state, _| {
            if len == 0 {
                return Err(invalid());
            }
            if self.mode == OpenMode::Read {
                return Err(bad_descriptor());
            }
            if self.shared.allocate(state, self.inode, offset, len)? < len {
                return Err(no_space());
            }
            let inode = state.inode(self.inode)?;
            if inode.len() < offset + len {
                inode.set_len(offset + len);
            }
            Ok(())
        })
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.on_file("punch", Kind::Write, &[offset, len], |state, dice| {
            if len == 0 {
                return Err(invalid());
            }
            if self.mode == OpenMode::Read {
                return Err(bad_descriptor());
            }
            // A file system that cannot do it keeps the space.
            if dice.chance(0.75) {
                let before = state.used_by(self.inode);
                state.inode(self.inode)?.punch(offset, len);
                state.used_bytes -= before - state.used_by(self.inode);
            }
            Ok(())
        })
    }

    fn map(&self, len: u64) -> io::Result<Option<Box<dyn FileMap>>> {
        self.on_file("map", Kind::Read, &[len], |state, _| {
            let inode = state.inode(self.inode)?;
            if self.shared.plan.map_refused || inode.len() < len {
                return Ok(None);
            }
            if self.mode == OpenMode::Read {
                return Err(access_denied());
            }
            if inode.missing(0, len).next().is_some() {
                return Ok(None);
            }
            inode.handles += 1; // a mapping keeps the file like a handle
            let (shared, inode) = (self.shared.clone(), self.inode);
            Ok(Some(Box::new(SimMap { shared, inode, len }) as Box<dyn FileMap>))
        })
    }

    fn map_read(&self, len: u64) -> io::Result<Option<Box<dyn ReadMap>>> {
        self.on_file("map", Kind::Read, &[len], |state, _| {
            let inode = state.inode(self.inode)?;
            if self.shared.plan.map_refused || inode.len() < len || len == 0 {
                return Ok(None);
            }
            inode.handles += 1;
            state.shown.entry(self.inode).or_default().mappings += 1;
            let (shared, inode, copies) = (self.shared.clone(), self.inode, Mutex::default());
            Ok(Some(Box::new(SimReadMap { shared, inode, len, copies }) as Box<dyn ReadMap>))
        })
    }
}

/// What was read of a place: each different state of it once.
type Copies = BTreeMap<(u64, usize), Vec<Box<[u8]>>>;

/// A mapping for reading. What it gave out stays as it was: whoever reads while the file changes reads what
/// no longer counts, as the checks of what is read then tell.
struct SimReadMap {
    shared: Arc<Shared>,
    inode: u64,
    len: u64,
    copies: Mutex<Copies>,
}

impl Drop for SimReadMap {
    fn drop(&mut self) {
        let state = &mut *self.shared.state.lock();
        state.release(self.inode, 0, 1);
        if let Some(shown) = state.shown.get_mut(&self.inode) {
            shown.mappings -= 1;
            if shown.mappings == 0 {
                state.shown.remove(&self.inode);
            }
        }
    }
}

impl ReadMap for SimReadMap {
    #[expect(
        unsafe_code,
        reason = "a slice that lives as long as the mapping, out of a list that grows"
    )]
    unsafe fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        if offset.checked_add(len as u64)? > self.len {
            return None;
        }
        let mut now = vec![0; len];
        let state = &mut *self.shared.state.lock();
        if let Ok(inode) = state.inode(self.inode) {
            let file = inode.len();
            assert!(
                offset + len as u64 <= file,
                "SIGBUS: {len} bytes at {offset} of a file of {file}"
            );
            inode.read(&mut now, offset);
        }
        if let Some(shown) = state.shown.get_mut(&self.inode) {
            shown.pages.extend(pages_of(offset, len as u64));
        }
        let mut copies = self.copies.lock();
        let states = copies.entry((offset, len)).or_default();
        if states.last().is_none_or(|last| **last != now[..]) {
            states.push(now.into());
        }
        let last: *const [u8] = &raw const **states.last()?;
        // SAFETY: nothing is ever taken out of the list, and a box stays where it is when the list grows: the
        // slice lives as long as `self`.
        Some(unsafe { &*last })
    }
}

struct SimMap {
    shared: Arc<Shared>,
    inode: u64,
    len: u64,
}

impl Drop for SimMap {
    fn drop(&mut self) {
        self.shared.state.lock().release(self.inode, 0, 1);
    }
}

impl FileMap for SimMap {
    #[expect(unsafe_code, reason = "the trait's method is unsafe; this body is not")]
    unsafe fn write(&self, bytes: &[u8], offset: u64) {
        assert!(
            offset + bytes.len() as u64 <= self.len,
            "a write of {} bytes at {offset} behind a mapping of {}",
            bytes.len(),
            self.len
        );
        if !can_suspend() {
            return;
        }
        let shared = &self.shared;
        let hash = content_hash(bytes);
        let words = [self.inode, offset, bytes.len() as u64, hash];
        shared.world.record("map write", &words, || {
            let (inode, len) = (self.inode, bytes.len());
            format!("file {inode} at {offset}: {len} bytes, hash {hash:016x}")
        });
        // Stores to memory: a kill may come between any two.
        let middle = shared.world.dice("map write").below(bytes.len() as u64 + 1) as usize;
        let (first, second) = bytes.split_at(middle);
        self.store(first, offset);
        scheduler::point("map write");
        self.store(second, offset + middle as u64);
    }

    fn populate(&self, _offset: u64, _len: u64) {
        scheduler::point("populate");
    }

    fn release(&self, _offset: u64, _len: u64) {
        scheduler::point("release");
    }
}

impl SimMap {
    fn store(&self, bytes: &[u8], offset: u64) {
        let state = &mut *self.shared.state.lock();
        if let (false, Ok(inode)) = (bytes.is_empty(), state.inode(self.inode)) {
            inode.write(offset, bytes);
        }
    }
}
