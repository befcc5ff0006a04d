//! The classes of faults, each of which can be switched off by itself.

use crate::FaultPlan;
use std::str::FromStr;

/// A class of faults: one thing that a disk does, or that happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultClass {
    /// A block not wholly written is a mixture of old and new.
    Torn,
    /// A block not wholly written is garbage.
    Garbage,
    /// A file's length is durable before what belongs there.
    LengthFirst,
    /// Operations on directories survive as any subset.
    Directories,
    /// Reads fail.
    ReadError,
    /// Writes fail.
    WriteError,
    /// Syncs fail.
    SyncError,
    /// A failed sync loses what it should have written.
    FailedSync,
    /// Operations fail at random for want of space.
    NoSpace,
    /// The disk is full for a while.
    Full,
    /// Reads return less than was asked for.
    ShortRead,
    /// Writes take less than they were given.
    ShortWrite,
    /// Reads and writes are interrupted.
    Interrupted,
    /// Mapping files is refused.
    NoMapping,
    /// Operations take a thousand times as long.
    Stall,
    /// Bytes change at rest.
    Rot,
    /// A place can never be read again.
    LatentError,
    /// Writes go to another place.
    MisdirectedWrite,
    /// Writes are acknowledged and never done.
    LostWrite,
    /// What was durable comes back in an earlier state.
    StaleBlock,
    /// Clocks jump.
    Clock,
}

impl FaultClass {
    /// All classes.
    pub const ALL: [FaultClass; 21] = [
        FaultClass::Torn,
        FaultClass::Garbage,
        FaultClass::LengthFirst,
        FaultClass::Directories,
        FaultClass::ReadError,
        FaultClass::WriteError,
        FaultClass::SyncError,
        FaultClass::FailedSync,
        FaultClass::NoSpace,
        FaultClass::Full,
        FaultClass::ShortRead,
        FaultClass::ShortWrite,
        FaultClass::Interrupted,
        FaultClass::NoMapping,
        FaultClass::Stall,
        FaultClass::Rot,
        FaultClass::LatentError,
        FaultClass::MisdirectedWrite,
        FaultClass::LostWrite,
        FaultClass::StaleBlock,
        FaultClass::Clock,
    ];

    /// The name of the class on a command line.
    pub fn name(self) -> &'static str {
        match self {
            FaultClass::Torn => "torn",
            FaultClass::Garbage => "garbage",
            FaultClass::LengthFirst => "length-first",
            FaultClass::Directories => "directories",
            FaultClass::ReadError => "read-error",
            FaultClass::WriteError => "write-error",
            FaultClass::SyncError => "sync-error",
            FaultClass::FailedSync => "failed-sync",
            FaultClass::NoSpace => "no-space",
            FaultClass::Full => "full",
            FaultClass::ShortRead => "short-read",
            FaultClass::ShortWrite => "short-write",
            FaultClass::Interrupted => "interrupted",
            FaultClass::NoMapping => "no-mapping",
            FaultClass::Stall => "stall",
            FaultClass::Rot => "rot",
            FaultClass::LatentError => "latent-error",
            FaultClass::MisdirectedWrite => "misdirected-write",
            FaultClass::LostWrite => "lost-write",
            FaultClass::StaleBlock => "stale-block",
            FaultClass::Clock => "clock",
        }
    }
}

impl FromStr for FaultClass {
    /// The names that there are.
    type Err = String;

    fn from_str(name: &str) -> Result<FaultClass, String> {
        let found = FaultClass::ALL.into_iter().find(|class| class.name() == name);
        found.ok_or_else(|| FaultClass::ALL.map(FaultClass::name).join(", "))
    }
}

impl FaultPlan {
    /// Takes a class of faults out of the plan. The others strike as often as before.
    pub fn switch_off(&mut self, class: FaultClass) {
        match class {
            FaultClass::Torn => self.power.mixture = 0.0,
            FaultClass::Garbage => self.power.garbage = 0.0,
            FaultClass::LengthFirst => {
                self.power.length_first = 0.0;
                self.power.stale_tail = false;
            }
            FaultClass::Directories => self.power.directory_subset = false,
            FaultClass::ReadError => self.read_error = 0.0,
            FaultClass::WriteError => self.write_error = 0.0,
            FaultClass::SyncError => self.sync_error = 0.0,
            FaultClass::FailedSync => {
                self.failed_sync_loses = 0.0;
                self.evict_clean = 0.0;
            }
            FaultClass::NoSpace => self.no_space = 0.0,
            FaultClass::Full => self.full = None,
            FaultClass::ShortRead => self.short_read = 0.0,
            FaultClass::ShortWrite => self.short_write = 0.0,
            FaultClass::Interrupted => self.interrupted = 0.0,
            FaultClass::NoMapping => self.map_refused = false,
            FaultClass::Stall => self.latency.stall = 0.0,
            FaultClass::Rot => self.damage.bit_rot = 0.0,
            FaultClass::LatentError => self.damage.latent_error = 0.0,
            FaultClass::MisdirectedWrite => self.damage.misdirected_write = 0.0,
            FaultClass::LostWrite => self.damage.lost_write = 0.0,
            FaultClass::StaleBlock => self.damage.stale_block = 0.0,
            FaultClass::Clock => {
                self.clock.wall_jump = 0.0;
                self.clock.clock_jump = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A class that could not be switched off would let a canary blame the wrong fault.
    #[test]
    fn a_plan_without_all_classes_has_no_faults() {
        for seed in 0..100 {
            let mut plan = FaultPlan::draw(seed);
            for name in FaultClass::ALL.map(FaultClass::name) {
                let class: FaultClass = name.parse().expect("its own name");
                let before = plan.clone();
                plan.switch_off(class);
                let once = plan.clone();
                plan.switch_off(class);
                assert_eq!(once, plan, "{name} of {before:?}");
            }
            assert!(!plan.has_errors());
            let (mut power, latency) = (FaultPlan::none().power, plan.latency.clone());
            power.block_bytes = plan.power.block_bytes;
            assert_eq!(FaultPlan { power, latency, ..FaultPlan::none() }, plan);
            assert_eq!(plan.latency.stall, 0.0);
        }
        assert!("luck".parse::<FaultClass>().is_err_and(|known| known.contains("torn")));
    }
}
