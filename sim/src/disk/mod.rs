//! The simulated disk.
//!
//! Every operation takes virtual time, during which other tasks run and the machine may crash;
//! may fail as the run's [`FaultPlan`] says; and enters the trace with its result. What has
//! been written is first only in the page cache. What a crash leaves of it is decided in
//! [`inode`] for the contents of files and in [`tree`] for the names of files.
//!
//! Faithful to Linux where the engine can tell: an unlinked file stays usable while it is
//! open, holes read as zeros, overwriting allocated space never lacks space, locks end with
//! the process.

mod damage;
mod file;
mod inode;
#[cfg(test)]
mod tests;
mod tree;

use crate::{
    env::killed,
    scheduler::{self, block_on, can_suspend},
    world::World,
};
pub(crate) use damage::{Image, Struck};
use file::SimFile;
use inode::{Inode, SPACE_BLOCK};
use lightning_db::env::{DirLock, Disk, File, OpenMode, PathKind};
use lightning_faults::{Dice, FaultPlan};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::Path,
    sync::Arc,
};
use tree::{Entry, Tree, Unlinked};

/// A disk of a simulated machine.
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    world: Arc<World>,
    plan: FaultPlan,
    state: Mutex<State>,
}

struct State {
    tree: Tree,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    used_bytes: u64,
    /// What the disk may hold while it is full.
    limit_bytes: Option<u64>,
    /// Whether a byte that programs had seen was taken back by dropping clean pages.
    took_back: bool,
    /// What was damaged so far.
    struck: Struck,
    /// Pages that live mappings showed, by file: the page cache has them, whatever becomes of the device's.
    shown: BTreeMap<u64, Shown>,
}

/// What the live mappings of a file showed.
#[derive(Default)]
struct Shown {
    mappings: u32,
    pages: BTreeSet<u64>,
}

fn pages_of(offset: u64, len: u64) -> Range<u64> {
    offset / SPACE_BLOCK..(offset + len).div_ceil(SPACE_BLOCK)
}

/// What an operation waits for.
#[derive(Clone, Copy, PartialEq)]
enum Waits {
    ForCache,
    ForDevice,
}

/// Which error an operation may meet.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Read,
    Write,
    Sync,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn interrupted() -> io::Error {
    io::Error::from_raw_os_error(4)
}

/// The descriptor is not open for this.
fn bad_descriptor() -> io::Error {
    io::Error::from_raw_os_error(9)
}

fn access_denied() -> io::Error {
    io::Error::from_raw_os_error(13)
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(22)
}

impl SimDisk {
    pub(crate) fn new(world: Arc<World>, plan: FaultPlan) -> Arc<SimDisk> {
        Arc::new(SimDisk {
            shared: Arc::new(Shared {
                world,
                plan,
                state: Mutex::new(State {
                    tree: Tree::new(),
                    inodes: BTreeMap::new(),
                    next_inode: 0,
                    used_bytes: 0,
                    limit_bytes: None,
                    took_back: false,
                    struck: Struck::default(),
                    shown: BTreeMap::new(),
                }),
            }),
        })
    }

    /// Kills the process: writes in flight are cut short, locks are free, the page cache stays.
    pub(crate) fn kill(&self) {
        let shared = &self.shared;
        let dice = &mut shared.world.dice("kill writes");
        let state = &mut *shared.state.lock();
        state.inodes.values_mut().for_each(|inode| inode.kill(dice));
        state.tree.kill();
        state.after_crash();
    }

    /// Cuts the power: only what is durable is left, and part of what is not.
    pub(crate) fn power_loss(&self) {
        let shared = &self.shared;
        let dice = &mut shared.world.dice("power loss");
        let power = &shared.plan.power;
        let state = &mut *shared.state.lock();
        let names = state.tree.names();
        for (operation, survived) in state.tree.power_loss(dice, power.directory_subset) {
            shared.world.record("survived", &[u64::from(survived)], || {
                format!("{operation}: {}", if survived { "all" } else { "nothing" })
            });
        }
        for (number, inode) in &mut state.inodes {
            let Some((changes, survived)) = inode.power_loss(dice, power) else {
                continue;
            };
            let words = [*number, changes as u64, survived as u64, inode.len()];
            shared.world.record("survived", &words, || {
                let name = names.get(number).map_or("a removed file", String::as_str);
                let len = inode.len();
                format!("{changes} un-synced changes of {name}: {survived:?}, now {len} bytes")
            });
        }
        state.after_crash();
        state.inodes.retain(|_, inode| inode.links > 0);
        shared.damage_remount(state);
    }

    /// Whether bytes that programs had seen in the page cache were taken back since this was
    /// last asked, because a failed sync had lost them and their clean pages were dropped.
    pub fn took_back(&self) -> bool {
        std::mem::take(&mut self.shared.state.lock().took_back)
    }

    /// The files of a directory and their lengths. Asking takes no time and cannot fail: only the
    /// simulator asks.
    pub fn files(&self, dir: &Path) -> BTreeMap<String, u64> {
        let state = self.shared.state.lock();
        let dir = state.tree.find_directory(dir);
        let entries = dir.and_then(|dir| state.tree.files(dir)).unwrap_or_default();
        let len = |number: &u64| state.inodes.get(number).map_or(0, Inode::len);
        entries.iter().map(|(name, number)| (name.clone(), len(number))).collect()
    }

    /// Drops clean pages from the cache of every file.
    pub(crate) fn drop_caches(&self) {
        let state = &mut *self.shared.state.lock();
        for inode in state.inodes.values_mut() {
            state.took_back |= inode.evict_clean();
        }
    }
}

impl State {
    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).ok_or_else(killed)
    }

    /// Whether a mapping showed any of these bytes of a file.
    fn is_shown(&self, number: u64, offset: u64, len: u64) -> bool {
        let mut shown = self.shown.get(&number).into_iter();
        shown.any(|shown| shown.pages.range(pages_of(offset, len)).next().is_some())
    }

    fn used_by(&self, number: u64) -> u64 {
        self.inodes.get(&number).map_or(0, Inode::allocated_bytes)
    }

    /// A name or a handle of a file is gone. Without either, its space is free; its contents
    /// stay, in case a loss of power brings the name back.
    fn release(&mut self, number: u64, names: u32, handles: u32) {
        let Some(inode) = self.inodes.get_mut(&number) else {
            return;
        };
        inode.links -= names;
        inode.handles -= handles;
        if inode.links == 0 && inode.handles == 0 {
            self.used_bytes -= inode.allocated_bytes();
        }
    }

    fn unlinked(&mut self, file: &Unlinked) {
        if let Some(number) = file.0 {
            self.release(number, 1, 0);
        }
    }

    /// No handle is open, and files are those that have a name.
    fn after_crash(&mut self) {
        let links = self.tree.links();
        for (number, inode) in &mut self.inodes {
            inode.links = links.get(number).copied().unwrap_or(0);
            inode.handles = 0;
        }
        let live = self.inodes.values().filter(|inode| inode.links > 0);
        self.used_bytes = live.map(Inode::allocated_bytes).sum();
    }
}

impl Shared {
    fn fires(&self, probability: f64, kind: &'static str) -> bool {
        self.world.strikes(kind, probability)
    }

    /// The beginning of every operation: counts it, and may fail it before it does anything.
    fn begin(&self, what: &'static str, kind: Kind) -> io::Result<Dice> {
        if !can_suspend() {
            return Err(killed());
        }
        self.world.io_begins();
        scheduler::point(what);
        let dice = self.world.dice(what);
        let (rate, name) = match kind {
            Kind::Read => (self.plan.read_error, "EIO on read"),
            Kind::Write => (self.plan.write_error, "EIO on write"),
            Kind::Sync => (0.0, ""), // a sync decides at its end
        };
        match !name.is_empty() && self.fires(rate, name) {
            true => Err(eio()),
            false => Ok(dice),
        }
    }

    /// Time passes: other tasks run, the machine may crash.
    fn wait(&self, waits: Waits, dice: &mut Dice) {
        let latency = &self.plan.latency;
        let longest = match waits {
            Waits::ForCache => latency.cached,
            Waits::ForDevice => latency.device,
        };
        let mut pause = dice.duration(longest / 8..longest);
        if self.fires(latency.stall, "stall") {
            pause *= 1000;
        }
        block_on(self.world.until(self.world.now() + pause));
    }

    /// The end of every operation: its result enters the trace.
    fn end<T>(
        &self,
        what: &'static str,
        result: io::Result<T>,
        words: &[u64],
        text: impl FnOnce() -> String,
    ) -> io::Result<T> {
        let code = match &result {
            Ok(_) => 0,
            Err(e) => 1 + e.raw_os_error().unwrap_or(0) as u64 + ((e.kind() as u64) << 32),
        };
        let mut all = [0; 6];
        all[0] = code;
        all[1..=words.len()].copy_from_slice(words);
        let error = result.as_ref().err().map(io::Error::to_string);
        self.world.record(what, &all[..=words.len()], || match error {
            None => text(),
            Some(error) => format!("{} -> {error}", text()),
        });
        result
    }

    /// An operation on names: `body` does it, after its time has passed.
    fn on_names<T>(
        &self,
        what: &'static str,
        path: &Path,
        kind: Kind,
        body: impl FnOnce(&mut State, &mut Dice) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = self.begin(what, kind).and_then(|mut dice| {
            self.wait(Waits::ForCache, &mut dice);
            body(&mut self.state.lock(), &mut dice)
        });
        let words = [lightning_faults::site_hash(&path.to_string_lossy())];
        self.end(what, result, &words, || path.display().to_string())
    }

    /// How many of `wanted` new bytes the disk has room for.
    fn room(&self, state: &mut State, wanted: u64) -> u64 {
        if wanted == 0 || !self.world.faults_on() {
            return wanted;
        }
        if self.fires(self.plan.no_space, "ENOSPC at random") {
            return 0;
        }
        let now = self.world.now();
        let all = self.world.full().into_iter().chain(self.plan.full);
        let full = all.into_iter().find(|f| (f.begins..f.begins + f.lasts).contains(&now));
        let Some(full) = full else {
            state.limit_bytes = None;
            return wanted;
        };
        let limit = *state.limit_bytes.get_or_insert(state.used_bytes + full.left_bytes);
        let room = wanted.min(limit.saturating_sub(state.used_bytes));
        if room < wanted {
            self.world.fault("disk full");
        }
        room
    }

    /// Allocates what a range lacks; returns how many of its bytes have space now.
    fn allocate(&self, state: &mut State, inode: u64, offset: u64, len: u64) -> io::Result<u64> {
        let missing: Vec<u64> = state.inode(inode)?.missing(offset, len).collect();
        let wanted = missing.len() as u64 * SPACE_BLOCK;
        let room = (self.room(state, wanted) / SPACE_BLOCK) as usize;
        let granted = match missing.get(room) {
            None => len,
            Some(first_without) => (first_without * SPACE_BLOCK).saturating_sub(offset),
        };
        let before = state.used_by(inode);
        state.inode(inode)?.allocate(offset, granted);
        state.used_bytes += state.used_by(inode) - before;
        Ok(granted)
    }

    fn sync_file(&self, what: &'static str, inode: u64) -> io::Result<()> {
        let mut upto = 0;
        let result = self.begin(what, Kind::Sync).and_then(|mut dice| {
            upto = self.state.lock().inode(inode)?.sync_upto();
            self.wait(Waits::ForDevice, &mut dice);
            let failed = self.sync_failure();
            let state = &mut *self.state.lock();
            let Some(error) = failed else {
                return self.synced(state, inode, upto);
            };
            let inode = state.inode(inode)?;
            if dice.chance(self.plan.failed_sync_loses) {
                inode.sync_lost(upto, &mut dice);
            }
            Err(error)
        });
        self.end(what, result, &[inode, upto], || format!("file {inode} up to change {upto}"))
    }

    fn sync_failure(&self) -> Option<io::Error> {
        if self.fires(self.plan.sync_error, "EIO on sync") {
            return Some(eio());
        }
        let rate = self.plan.no_space / 4.0;
        self.fires(rate, "ENOSPC on sync").then(no_space)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let (what, kind) = match mode {
            OpenMode::CreateNew => ("create", Kind::Write),
            OpenMode::Read | OpenMode::Write => ("open", Kind::Read),
        };
        let inode = self.shared.on_names(what, path, kind, |state, _| {
            let number = match (state.tree.find(path)?, mode) {
                (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
                (None, OpenMode::CreateNew) => {
                    // The name itself may need a block of its directory.
                    if self.shared.room(state, 1) == 0 {
                        return Err(no_space());
                    }
                    let (dir, name) = state.tree.parent(path)?;
                    let number = state.next_inode;
                    state.tree.link(dir, name, Entry::File(number))?;
                    state.inodes.insert(number, Inode::named());
                    state.next_inode += 1;
                    Ok(number)
                }
                (Some(Entry::File(number)), _) => Ok(number),
                (Some(Entry::Directory(_)), _) => Err(io::ErrorKind::IsADirectory.into()),
                (None, _) => Err(io::Error::from(io::ErrorKind::NotFound)),
            }?;
            state.inode(number)?.handles += 1;
            Ok(number)
        })?;
        Ok(Arc::new(SimFile { shared: self.shared.clone(), inode, mode }))
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        self.shared.on_names("kind", path, Kind::Read, |state, _| {
            Ok(match state.tree.find(path)? {
                None => PathKind::Missing,
                Some(Entry::Directory(_)) => PathKind::Directory,
                Some(Entry::File(_)) => PathKind::File,
            })
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.on_names("mkdir", path, Kind::Write, |state, _| {
            if self.shared.room(state, 1) == 0 {
                return Err(no_space());
            }
            let (dir, name) = state.tree.parent(path)?;
            state.tree.create_directory(dir, name)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.on_names("rename", to, Kind::Write, |state, _| {
            let (from, to) = (state.tree.parent(from)?, state.tree.parent(to)?);
            let replaced = state.tree.rename(from, to)?;
            state.unlinked(&replaced);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared.on_names("remove", path, Kind::Write, |state, _| {
            let (dir, name) = state.tree.parent(path)?;
            let removed = state.tree.unlink(dir, name)?;
            state.unlinked(&removed);
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.shared.on_names("list", dir, Kind::Read, |state, dice| {
            let dir = state.tree.find_directory(dir)?;
            let names = state.tree.list(dir)?;
            // In no particular order, as promised.
            let order = dice.shuffled(names.len());
            Ok(order.into_iter().map(|n| names[n].clone()).collect())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let shared = &self.shared;
        let result = shared.begin("sync dir", Kind::Sync).and_then(|mut dice| {
            let (number, upto) = {
                let state = shared.state.lock();
                (state.tree.find_directory(dir)?, state.tree.sync_upto())
            };
            shared.wait(Waits::ForDevice, &mut dice);
            match shared.sync_failure() {
                Some(error) => {
                    if dice.chance(shared.plan.failed_sync_loses) {
                        shared.state.lock().tree.sync_lost(number, upto, &mut dice);
                    }
                    Err(error)
                }
                None => {
                    shared.state.lock().tree.synced(number, upto);
                    Ok(())
                }
            }
        });
        let words = [lightning_faults::site_hash(&dir.to_string_lossy())];
        shared.end("sync dir", result, &words, || dir.display().to_string())
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Option<Box<dyn DirLock>>> {
        let token = self.shared.on_names("lock dir", dir, Kind::Read, |state, _| {
            let number = state.tree.find_directory(dir)?;
            state.tree.lock(number)
        })?;
        let shared = self.shared.clone();
        Ok(token.map(|token| Box::new(SimDirLock { shared, token }) as Box<dyn DirLock>))
    }
}

struct SimDirLock {
    shared: Arc<Shared>,
    token: u64,
}

impl DirLock for SimDirLock {}

impl Drop for SimDirLock {
    fn drop(&mut self) {
        self.shared.state.lock().tree.unlock(self.token);
    }
}
