//! A [`FaultPlan`] as the rule of a [`FaultyEnv`](crate::FaultyEnv).

use crate::{Call, Dice, FaultPlan, Operation, Rule, Verdict};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Where faults strike: the names under which the simulator counts them too.
pub mod site {
    /// A read, open or listing fails.
    pub const READ_ERROR: &str = "EIO on read";
    /// A creation, renaming, removal or write fails; of a write any part may be done.
    pub const WRITE_ERROR: &str = "EIO on write";
    /// A sync of a file or directory fails.
    pub const SYNC_ERROR: &str = "EIO on sync";
    /// What needs space has none, at random.
    pub const NO_SPACE: &str = "ENOSPC at random";
    /// A sync has no space.
    pub const NO_SPACE_ON_SYNC: &str = "ENOSPC on sync";
    /// What needs space has none, for a while.
    pub const FULL: &str = "disk full";
    /// A read returns less than it might.
    pub const SHORT_READ: &str = "short read";
    /// A write takes less than it might.
    pub const SHORT_WRITE: &str = "short write";
    /// A read or write is interrupted.
    pub const INTERRUPTED: &str = "EINTR";
    /// An operation takes long.
    pub const STALL: &str = "stall";
    /// What is read has changed at rest.
    pub const BIT_ROT: &str = "bit rot";
    /// A page of what is read can never be read again.
    pub const LATENT_ERROR: &str = "latent error";
    /// The wall clock is set.
    pub const WALL_JUMP: &str = "wall clock jump";
    /// The monotone clock jumps.
    pub const CLOCK_JUMP: &str = "clock jump";
}

/// Applies a plan. Each fault is decided by the seed, its site and how often the site was passed:
/// where one thread runs, the same seed has the same faults.
///
/// Of the plan's latencies only stalls are applied, as a disk has latencies of its own. Bit rot and latent
/// errors are what reads through it meet: the files below stay whole. What a loss of power leaves is not its
/// business, nor what a failed sync loses, nor writes that are lost, go astray or come back, which the page
/// cache hides from here.
pub struct Planned {
    plan: FaultPlan,
    strikes: Strikes,
    state: Mutex<State>,
}

enum Strikes {
    /// As often as the plan says.
    Drawn { seed: u64 },
    /// At these passes of these sites, and nowhere else.
    At(BTreeSet<(String, u64)>),
}

#[derive(Default)]
struct State {
    over: bool,
    began: Option<Duration>,
    /// What is left while the disk is full, or was before it is full again.
    left_bytes: Option<u64>,
    passed: BTreeMap<&'static str, u64>,
    struck: Vec<(&'static str, u64)>,
    damaged: BTreeMap<PathBuf, Damaged>,
}

/// What is wrong with a file.
#[derive(Default)]
struct Damaged {
    /// Bytes that are read changed, by their offset, until they are written again.
    rotten: BTreeMap<u64, u8>,
    /// Pages that cannot be read.
    bad: BTreeSet<u64>,
}

/// What a disk reads at once.
const PAGE_BYTES: u64 = 4096;

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

impl Planned {
    /// The plan, with the dice of a seed.
    pub fn new(plan: FaultPlan, seed: u64) -> Planned {
        Planned { plan, strikes: Strikes::Drawn { seed }, state: Mutex::default() }
    }

    /// Faults at these passes, counted from 0, of these [`site`]s, and no others.
    pub fn at(strikes: impl IntoIterator<Item = (impl Into<String>, u64)>) -> Planned {
        let at = strikes.into_iter().map(|(site, pass)| (site.into(), pass)).collect();
        let plan = FaultPlan::none();
        Planned { plan, strikes: Strikes::At(at), state: Mutex::default() }
    }

    /// From now on nothing fails.
    pub fn end(&self) {
        self.state().over = true;
    }

    /// Where faults struck: the site, and which pass of it.
    pub fn struck(&self) -> Vec<(&'static str, u64)> {
        self.state().struck.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a site: the dice of what happens there if the fault strikes.
    fn strike(&self, site: &'static str, rate: f64) -> Option<Dice> {
        let mut state = self.state();
        if state.over {
            return None;
        }
        let passed = state.passed.entry(site).or_default();
        let pass = *passed;
        *passed += 1;
        let (seed, strikes) = match &self.strikes {
            Strikes::Drawn { seed } => (*seed, rate > 0.0),
            Strikes::At(at) => (0, at.contains(&(site.to_string(), pass))),
        };
        if !strikes {
            return None;
        }
        let mut dice = Dice::new(seed, site, pass);
        if matches!(self.strikes, Strikes::Drawn { .. }) && !dice.chance(rate) {
            return None;
        }
        state.struck.push((site, pass));
        Some(dice)
    }

    /// EIO, before anything is done; of a write any part may be done.
    fn fails(&self, operation: &Operation<'_>) -> Option<Verdict> {
        let (site, rate) = match operation.call {
            Call::Open | Call::Kind | Call::List | Call::Lock | Call::Read | Call::Map => {
                (site::READ_ERROR, self.plan.read_error)
            }
            Call::Create | Call::CreateDir | Call::Rename | Call::Remove => {
                (site::WRITE_ERROR, self.plan.write_error)
            }
            Call::Write | Call::SetLen | Call::Allocate | Call::Punch => {
                (site::WRITE_ERROR, self.plan.write_error)
            }
            Call::Sync | Call::SyncDir => (site::SYNC_ERROR, self.plan.sync_error),
        };
        let mut dice = self.strike(site, rate)?;
        let part = dice.below(operation.bytes as u64 + 1) as usize;
        Some(Verdict::Fails(error(EIO), part))
    }

    /// How many bytes of a transfer are granted before space is asked for.
    fn transfer(&self, operation: &Operation<'_>) -> Result<usize, Verdict> {
        let (short, rate) = match operation.call {
            Call::Read => (site::SHORT_READ, self.plan.short_read),
            Call::Write => (site::SHORT_WRITE, self.plan.short_write),
            _ => return Ok(operation.bytes),
        };
        if self.strike(site::INTERRUPTED, self.plan.interrupted).is_some() {
            return Err(Verdict::Fails(error(EINTR), 0));
        }
        if operation.bytes > 1
            && let Some(mut dice) = self.strike(short, rate)
        {
            return Ok(1 + dice.below(operation.bytes as u64 - 1) as usize);
        }
        Ok(operation.bytes)
    }

    /// How much of the space that an operation needs there is.
    fn room(&self, operation: &Operation<'_>) -> u64 {
        if matches!(operation.call, Call::Sync | Call::SyncDir) {
            let lacks = self.strike(site::NO_SPACE_ON_SYNC, self.plan.no_space / 4.0);
            return if lacks.is_some() { 0 } else { u64::MAX };
        }
        if operation.space == 0 {
            return u64::MAX;
        }
        if self.strike(site::NO_SPACE, self.plan.no_space).is_some() {
            return 0;
        }
        let state = &mut *self.state();
        let began = *state.began.get_or_insert(operation.now);
        let since = operation.now.saturating_sub(began);
        let full = self.plan.full.filter(|f| (f.begins..f.begins + f.lasts).contains(&since));
        let Some(full) = full.filter(|_| !state.over) else {
            state.left_bytes = None;
            return u64::MAX;
        };
        let left = state.left_bytes.get_or_insert(full.left_bytes);
        let room = operation.space.min(*left);
        // What is reserved is reserved whole or not at all.
        if operation.call == Call::Write || room == operation.space {
            *left -= room;
        }
        if room < operation.space {
            let pass = state.passed.entry(site::FULL).or_default();
            state.struck.push((site::FULL, *pass));
            *pass += 1;
        }
        room
    }
}

impl Rule for Planned {
    fn decide(&self, operation: &Operation<'_>) -> Verdict {
        if let Some(fails) = self.fails(operation) {
            return fails;
        }
        let bytes = match self.transfer(operation) {
            Ok(bytes) => bytes,
            Err(verdict) => return verdict,
        };
        let room = self.room(operation);
        if room >= operation.space.max(1) {
            return Verdict::Done(bytes);
        }
        // A write takes what there is room for: what it overwrites, and what is left.
        let overwrites = (operation.bytes as u64).saturating_sub(operation.space);
        let granted = match operation.call {
            Call::Write => bytes.min((overwrites + room) as usize),
            _ => 0,
        };
        match granted {
            0 => Verdict::Fails(error(ENOSPC), 0),
            some => Verdict::Done(some),
        }
    }

    fn pause(&self, operation: &Operation<'_>) -> Duration {
        let latency = &self.plan.latency;
        let stalls = self.strike(site::STALL, latency.stall).is_some();
        let usual = match operation.call {
            Call::Sync | Call::SyncDir => latency.device,
            _ => latency.cached,
        };
        if stalls { usual * 1000 } else { Duration::ZERO }
    }

    fn allows_maps(&self) -> bool {
        // What is written through a mapping would stay rotten.
        !self.plan.map_refused && self.plan.damage.bit_rot <= 0.0
    }

    fn counts_space(&self) -> bool {
        self.plan.no_space > 0.0
            || self.plan.full.is_some()
            || matches!(self.strikes, Strikes::At(_))
    }

    fn read(&self, path: &Path, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(());
        }
        // A file that is spared counts all the same.
        let damage = &self.plan.damage;
        let spared = !damage.comes_to(&path.file_name().unwrap_or_default().to_string_lossy());
        let strike = |site, rate| self.strike(site, if spared { 0.0 } else { rate });
        let rots = strike(site::BIT_ROT, damage.bit_rot);
        let turns_bad = strike(site::LATENT_ERROR, damage.latent_error);
        let state = &mut *self.state();
        if state.over {
            return Ok(());
        }
        if rots.is_some() || turns_bad.is_some() {
            let damaged = state.damaged.entry(path.into()).or_default();
            if let Some(mut dice) = rots {
                damaged.rotten.insert(dice.range(offset..end), 1 << dice.below(8));
            }
            if let Some(mut dice) = turns_bad {
                damaged.bad.insert(dice.range(offset..end) / PAGE_BYTES);
            }
        }
        let Some(damaged) = state.damaged.get(path) else {
            return Ok(());
        };
        if damaged.bad.range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).next().is_some() {
            return Err(error(EIO));
        }
        for (at, bits) in damaged.rotten.range(offset..end) {
            bytes[(at - offset) as usize] ^= bits;
        }
        Ok(())
    }

    fn written(&self, path: &Path, offset: u64, bytes: usize) {
        if let Some(damaged) = self.state().damaged.get_mut(path) {
            let anew = offset..offset + bytes as u64;
            damaged.rotten.retain(|at, _| !anew.contains(at));
        }
    }

    fn renewed(&self, path: &Path) {
        self.state().damaged.remove(path);
    }

    fn clock_jump(&self) -> Duration {
        const HOUR: u64 = 3_600_000_000_000;
        match self.strike(site::CLOCK_JUMP, self.plan.clock.clock_jump) {
            Some(mut dice) => Duration::from_nanos(dice.skewed(1_000_000..HOUR)),
            None => Duration::ZERO,
        }
    }

    fn wall_jump(&self) -> i64 {
        const YEARS: u64 = 100_000_000_000_000_000;
        let Some(mut dice) = self.strike(site::WALL_JUMP, self.plan.clock.wall_jump) else {
            return 0;
        };
        let nanos = dice.skewed(1_000_000..YEARS) as i64;
        if dice.chance(0.5) { nanos } else { -nanos }
    }

    fn freed(&self, bytes: u64) {
        if let Some(left) = &mut self.state().left_bytes {
            *left += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FaultyEnv, Full};
    use lightning_db::env::{Env, File, FileExt, OpenMode, OsEnv};
    use std::sync::Arc;

    /// A file of a disk under a rule, and its directory.
    fn file_under(rule: Arc<Planned>) -> (tempfile::TempDir, Arc<FaultyEnv<OsEnv>>, Arc<dyn File>) {
        let dir = tempfile::tempdir().unwrap();
        let env = FaultyEnv::shared(OsEnv::new(), rule);
        let file = env.disk().open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        (dir, env, file)
    }

    fn code<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn faults_strike_at_their_pass_and_nowhere_else() {
        let rule = Arc::new(Planned::at([
            (site::WRITE_ERROR, 2), // the creation is pass 0
            (site::SYNC_ERROR, 0),
            (site::READ_ERROR, 1),
            (site::NO_SPACE, 3), // the creation, and two writes that need space
        ]));
        let (_dir, _env, file) = file_under(rule.clone());
        file.write_all_at(&[1; 10], 0).unwrap();
        assert_eq!(code(file.write_at(&[2; 10], 0)), Some(EIO));
        assert_eq!(code(file.sync_data()), Some(EIO));
        file.sync_data().unwrap();
        let mut found = [0; 10];
        file.read_exact_at(&mut found, 0).unwrap();
        // Of a failed write any first part is done.
        assert!(found.is_sorted_by(|a, b| a >= b) && found[9] == 1, "{found:?}");
        assert_eq!(code(file.read_at(&mut found, 0)), Some(EIO));
        file.write_all_at(&[3; 10], 10).unwrap();
        assert_eq!(code(file.write_at(&[3; 10], 20)), Some(ENOSPC));
        let expected = [
            (site::WRITE_ERROR, 2),
            (site::SYNC_ERROR, 0),
            (site::READ_ERROR, 1),
            (site::NO_SPACE, 3),
        ];
        assert_eq!(rule.struck(), expected);
    }

    #[test]
    fn a_full_disk_takes_overwrites_and_what_is_left_and_what_was_freed() {
        let full = Full { begins: Duration::ZERO, lasts: Duration::MAX / 2, left_bytes: 100 };
        let rule = Arc::new(Planned::new(FaultPlan { full: Some(full), ..FaultPlan::none() }, 1));
        let (dir, env, file) = file_under(rule.clone());
        assert_eq!(file.write_at(&[1; 90], 0).unwrap(), 90);
        assert_eq!(file.write_at(&[2; 90], 0).unwrap(), 90, "it overwrites");
        assert_eq!(file.write_at(&[3; 90], 80).unwrap(), 19, "nine bytes were left");
        assert_eq!(code(file.write_at(&[3; 1], 99)), Some(ENOSPC));
        assert_eq!(code(file.allocate(0, 200)), Some(ENOSPC));
        assert_eq!(code(env.disk().create_dir(&dir.path().join("d"))), Some(ENOSPC));
        file.set_len(50).unwrap();
        env.disk().create_dir(&dir.path().join("d")).unwrap();
        file.allocate(0, 98).unwrap();
        assert_eq!(code(file.allocate(0, 99)), Some(ENOSPC));
        env.disk().remove(&dir.path().join("f")).unwrap();
        file.allocate(0, 150).unwrap();
        rule.end();
        file.allocate(0, 10_000).unwrap();
        assert!(rule.struck().iter().all(|(site, _)| *site == site::FULL));
    }

    #[test]
    fn what_rots_stays_rotten_until_it_is_written_again() {
        let damage = crate::Damage { bit_rot: 0.9999, ..FaultPlan::none().damage };
        let rule = Arc::new(Planned::new(FaultPlan { damage, ..FaultPlan::none() }, 3));
        let (_dir, _env, file) = file_under(rule.clone());
        file.write_all_at(&[1; 100], 0).unwrap();
        let wrong = |file: &Arc<dyn File>| {
            let mut found = [0; 100];
            file.read_exact_at(&mut found, 0).unwrap();
            found.iter().filter(|byte| **byte != 1).count()
        };
        let counts = [(); 8].map(|()| wrong(&file));
        assert!(counts.is_sorted() && counts[0] == 1 && counts[7] > 4, "{counts:?}");
        file.write_all_at(&[1; 100], 0).unwrap();
        assert_eq!(wrong(&file), 1);
        rule.end();
        assert_eq!(wrong(&file), 0, "the file itself is whole");
        let damage = crate::Damage { files: Some("other".into()), ..rule.plan.damage.clone() };
        let rule = Arc::new(Planned::new(FaultPlan { damage, ..FaultPlan::none() }, 3));
        let (_dir, _env, file) = file_under(rule);
        file.write_all_at(&[1; 100], 0).unwrap();
        assert_eq!([(); 8].map(|()| wrong(&file)), [0; 8], "damage that is meant for other files");
    }

    #[test]
    fn a_bad_page_cannot_be_read_again_and_its_neighbours_can() {
        let rule = Arc::new(Planned::at([(site::LATENT_ERROR, 1)]));
        let (dir, env, file) = file_under(rule.clone());
        file.write_all_at(&[1; 12_288], 0).unwrap();
        let read = |at: u64| code(file.read_at(&mut [0; 10], at));
        assert_eq!(
            [read(0), read(5000), read(5000), read(4090)],
            [None, Some(5), Some(5), Some(5)]
        );
        file.write_all_at(&[2; 12_288], 0).unwrap();
        assert_eq!([read(4000), read(8191), read(8192)], [None, Some(5), None]);
        // A file that is made anew has other pages.
        env.disk().remove(&dir.path().join("f")).unwrap();
        let file = env.disk().open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        file.write_all_at(&[1; 12_288], 0).unwrap();
        assert_eq!(code(file.read_at(&mut [0; 10], 5000)), None);
    }

    #[test]
    fn clocks_jump_and_waits_end_in_time() {
        let clock = crate::ClockFaults { wall_jump: 0.5, clock_jump: 0.5 };
        let rule = Arc::new(Planned::new(FaultPlan { clock, ..FaultPlan::none() }, 5));
        let (_dir, env, _file) = file_under(rule.clone());
        let (mut last, mut back, mut wall) = (env.clock().now(), 0, env.clock().wall());
        for _ in 0..100 {
            let event = env.event();
            event.wait(event.epoch(), Some(env.clock().now() + Duration::from_micros(100)));
            let now = (env.clock().now(), env.clock().wall());
            assert!(now.0 >= last);
            back += u32::from(now.1 < wall);
            (last, wall) = now;
        }
        assert!(back > 5 && last > OsEnv::new().clock().now() + Duration::from_secs(60));
        let struck: BTreeSet<_> = rule.struck().into_iter().map(|(site, _)| site).collect();
        assert_eq!(struck, BTreeSet::from([site::CLOCK_JUMP, site::WALL_JUMP]));
    }

    #[test]
    fn transfers_are_cut_short_and_interrupted_but_never_lost() {
        let plan =
            FaultPlan { short_read: 0.5, short_write: 0.5, interrupted: 0.3, ..FaultPlan::none() };
        let rule = Arc::new(Planned::new(plan, 7));
        let (_dir, _env, file) = file_under(rule.clone());
        for n in 0..50u8 {
            let at = u64::from(n) * 100;
            file.write_all_at(&[n; 100], at).unwrap();
            let mut found = [0; 100];
            file.read_exact_at(&mut found, at).unwrap();
            assert_eq!(found, [n; 100]);
        }
        let struck = rule.struck();
        for site in [site::SHORT_READ, site::SHORT_WRITE, site::INTERRUPTED] {
            assert!(struck.iter().filter(|s| s.0 == site).count() > 10, "{site}");
        }
    }
}
