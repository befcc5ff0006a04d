//! What a run looks at closely. Faults, pauses and crashes that come anywhere seldom come where they
//! hurt: a fault that hits one thread at one kind of call, a thread that stands still for long between
//! two steps, a crash a few operations behind a rare branch. An aim makes one such thing frequent for a
//! run, and leaves the rest as it was drawn.
//!
//! Only what is drawn is aimed. In a run written down it is a strike, a preemption and a crash like any
//! other.

use crate::site::{self, FAULTS};
use lightning_faults::{Dice, FaultClass, FaultPlan, Full};
use std::time::Duration;

/// A fault that strikes one kind of thread.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FaultAim {
    /// How the names of the threads begin.
    pub(crate) task: &'static str,
    /// Where.
    pub(crate) site: &'static str,
    /// In which operation of the disk; `None`: in any.
    pub(crate) operation: Option<&'static str>,
    /// In which share of their passes.
    pub(crate) rate: f64,
    /// How often in a boot, at most.
    pub(crate) most: u64,
}

/// A place where threads stand still for long.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PauseAim {
    pub(crate) site: &'static str,
    /// In which share of the passes.
    pub(crate) rate: f64,
    pub(crate) longest: Duration,
}

/// How often one thread pauses in a boot, at most: all pauses together must be short against the
/// times after which something counts as hung.
pub(crate) const PAUSES_MAX: u64 = 8;

/// A crash behind a place: so many I/O operations after one of its passes in a boot, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Near {
    pub(crate) site: &'static str,
    pub(crate) pass: u64,
    pub(crate) ios: u64,
}

/// What a run looks at closely: one kind of fault, a place to stand still at, a place to crash behind, a
/// full disk.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Aim {
    pub(crate) fault: Option<FaultAim>,
    pub(crate) pause: Option<PauseAim>,
    /// Crashes come behind this place.
    pub(crate) crash: Option<&'static str>,
    /// The disk is full in the boot of this number and those behind it.
    pub(crate) full: Option<u64>,
    /// Damage comes only to files whose names contain this.
    pub(crate) damaged: Option<&'static str>,
    /// Runs are merged into trees all the time, and merging is what fails.
    pub(crate) trees: bool,
    /// Nothing makes commits durable but the syncs at intervals, and the power fails late.
    pub(crate) intervals: bool,
    /// What clients do that meet at a few keys.
    pub(crate) meeting: Option<Meeting>,
}

/// What clients do that meet at a few keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// Transactions, and little else.
    Transactions,
    /// Transactions of a keyspace that is bulk loaded again and again.
    Loads,
    /// Some follow a keyspace that the others write and load.
    Feeds,
}

/// What must come together for some mistakes to show: a fault of one kind of thread in one operation of
/// the disk, a place where others stand still meanwhile, and one behind which a crash comes.
#[derive(Clone, Copy)]
struct Scene {
    task: &'static str,
    fault: &'static str,
    operation: &'static str,
    pause: Option<&'static str>,
    crash: Option<&'static str>,
}

const SCENES: [Scene; 6] = [
    // A record fails while others are between their places in the log and their headers.
    RECORD_THAT_FAILS,
    RECORD_THAT_FAILS,
    // An edit fails and is in the file all the same.
    edit_that_fails("remove"),
    edit_that_fails("ENOSPC on sync"),
    // A record is long in coming while others sync the log.
    record_that_is_late("sync data"),
    record_that_is_late("stall"),
];

const RECORD_THAT_FAILS: Scene = Scene {
    task: "client",
    fault: "EIO in a write",
    operation: "write",
    pause: Some("wal.header"),
    crash: None,
};

const fn edit_that_fails(crash: &'static str) -> Scene {
    Scene {
        task: "lightning-flush",
        fault: "ENOSPC on sync",
        operation: "sync data",
        pause: None,
        crash: Some(crash),
    }
}

const fn record_that_is_late(crash: &'static str) -> Scene {
    Scene { task: "client", fault: "stall", operation: "write", pause: None, crash: Some(crash) }
}

/// Files to damage, by a part of their names.
const DAMAGED: [&str; 5] = ["manifest-", "wal-", ".sst", ".sst", ".blob"];

/// How a merge into a tree fails, by fault and operation of the disk.
const MERGES_THAT_FAIL: [(&str, Option<&str>); 7] = [
    ("EIO on read", None),
    ("EIO in a write", None),
    ("EIO on write", Some("write")),
    ("EIO on sync", Some("sync data")),
    ("ENOSPC on sync", Some("sync data")),
    ("ENOSPC at random", None),
    ("ENOSPC at random", Some("allocate")),
];

/// Threads, faults, and operations of the disk if it is one alone, at which a run may aim. What tells more
/// is there more than once.
const FAULT_AIMS: [(&str, &str, Option<&str>); 32] = [
    ("client", "EIO on read", None),
    ("client", "EIO on read", Some("read")),
    ("client", "EIO on read", Some("read")),
    ("client", "EIO in a write", None),
    ("client", "EIO in a write", None),
    ("client", "EIO on write", None),
    ("client", "EIO on sync", None),
    ("client", "ENOSPC on sync", None),
    ("client", "ENOSPC at random", None),
    ("client", "stall", None),
    ("client", "stall", Some("write")),
    ("client", "stall", Some("write")),
    ("lightning-flush", "EIO on sync", None),
    ("lightning-flush", "EIO on sync", Some("sync data")),
    ("lightning-flush", "EIO on sync", Some("sync data")),
    ("lightning-flush", "ENOSPC on sync", Some("sync data")),
    ("lightning-flush", "ENOSPC on sync", Some("sync data")),
    ("lightning-flush", "ENOSPC at random", None),
    ("lightning-flush", "EIO in a write", None),
    ("lightning-flush", "stall", None),
    ("lightning-compact", "EIO on read", None),
    ("lightning-compact", "EIO in a write", None),
    ("lightning-compact", "EIO on sync", Some("sync dir")),
    ("lightning-compact", "EIO on sync", Some("sync data")),
    ("lightning-compact", "ENOSPC on sync", Some("sync data")),
    ("lightning-prepare", "EIO on write", None),
    ("lightning-prepare", "EIO on sync", None),
    ("lightning-prepare", "ENOSPC at random", None),
    ("lightning-sync", "EIO on sync", None),
    ("main", "EIO on read", None),
    ("main", "EIO on write", None),
    ("main", "EIO on sync", None),
];

/// The classes of the faults at which a run may aim.
const CLASSES: [(&str, FaultClass); 7] = [
    ("EIO on read", FaultClass::ReadError),
    ("EIO on write", FaultClass::WriteError),
    ("EIO in a write", FaultClass::WriteError),
    ("EIO on sync", FaultClass::SyncError),
    ("ENOSPC at random", FaultClass::NoSpace),
    ("ENOSPC on sync", FaultClass::NoSpace),
    ("stall", FaultClass::Stall),
];

/// Operations of the disk behind which a crash is most telling.
const OPERATIONS: [&str; 12] = [
    "rename",
    "rename",
    "rename",
    "sync dir",
    "sync dir",
    "remove",
    "create",
    "sync all",
    "sync data",
    "write",
    "set length",
    "allocate",
];

/// Where it matters that a client stands still while others go on.
const MEETING_POINTS: [&str; 9] = [
    "transaction.begin",
    "db.view",
    "commit.publish",
    "commit.publish",
    "in_order.advance",
    "locks: a waiter gives up",
    "points.newest",
    "version.pin",
    "lock",
];
const FEED_POINTS: [&str; 3] = ["feed.read", "feed.loads", "feed.loads"];

impl Aim {
    /// The aim of a seed whose disk may fail, or not.
    pub(crate) fn draw(seed: u64, faulty: bool) -> Aim {
        let dice = &mut Dice::new(seed, "aim", 0);
        let fault = dice.chance(0.5).then(|| {
            let (task, site, operation) = dice.pick(&FAULT_AIMS);
            let rate = among_powers(dice, 0.005, 6);
            FaultAim { task, site, operation, rate, most: dice.pick(&[1, 2, 5, u64::MAX]) }
        });
        let pause = dice.chance(0.25).then(|| PauseAim {
            site: match dice.chance(0.8) {
                true => dice.pick(site::points()),
                false => dice.pick(&OPERATIONS),
            },
            rate: among_powers(dice, 0.002, 6),
            longest: Duration::from_millis(dice.pick(&[1, 20, 50])),
        });
        let struck = fault.as_ref().map(|fault| fault.site).filter(|_| dice.chance(0.6) && faulty);
        let crash = dice.chance(0.65).then(|| match dice.below(10) {
            0..=4 => dice.pick(&OPERATIONS),
            5 => dice.pick(&FAULTS),
            6..=7 => dice.pick(site::points()),
            _ => dice.pick(site::MARKS),
        });
        let mut crash = struck.or(crash);
        let full = dice.chance(0.12).then(|| dice.below(3)).filter(|_| faulty);
        let (mut fault, mut pause) = (fault.filter(|_| faulty && full.is_none()), pause);
        if faulty && full.is_none() && dice.chance(0.16) {
            let scene = dice.pick(&SCENES);
            fault = Some(FaultAim {
                task: scene.task,
                site: scene.fault,
                operation: Some(scene.operation),
                rate: dice.pick(&[0.05, 0.2, 0.6]),
                most: dice.pick(&[1, 2, 5]),
            });
            let longest = Duration::from_millis(dice.pick(&[5, 20, 50]));
            let rate = among_powers(dice, 0.05, 4);
            pause = scene.pause.map(|site| PauseAim { site, rate, longest });
            crash = scene.crash.or(crash);
        }
        // What clocks do matters most there.
        let clock = FaultPlan::draw(seed).clock;
        let share = if clock.wall_jump + clock.clock_jump > 0.0 { 0.25 } else { 0.02 };
        let intervals = dice.chance(share) && full.is_none();
        if intervals {
            (fault, pause, crash) = (None, None, None);
        }
        let kinds = FaultPlan::draw(seed).damage.kinds();
        let damages = faulty && !kinds.is_empty();
        let trees = dice.chance(0.12) && !intervals;
        if trees && faulty && full.is_none() && dice.chance(0.7) {
            let (site, operation) = dice.pick(&MERGES_THAT_FAIL);
            let (rate, most) = (among_powers(dice, 0.01, 6), dice.pick(&[1, 2, 5]));
            fault = Some(FaultAim { task: "lightning-compact", site, operation, rate, most });
        }
        let mut damaged = (damages && dice.chance(0.6)).then(|| dice.pick(&DAMAGED));
        if trees && damages {
            damaged = Some(".tree");
        }
        // A damaged manifest shows when nothing was written to it since; other files when they are used.
        let soon = if damaged == Some("manifest-") { 0.8 } else { 0.3 };
        crash = crash.filter(|_| damaged != Some("wal-"));
        if damages && dice.chance(soon) {
            crash = Some(dice.pick(&kinds));
        }
        // Dice of their own: other seeds stay as they were.
        let dice = &mut Dice::new(seed, "meeting", 0);
        let meeting = dice.pick(&[
            Meeting::Transactions,
            Meeting::Transactions,
            Meeting::Loads,
            Meeting::Feeds,
        ]);
        let meeting =
            (dice.chance(0.12) && full.is_none() && !trees && !intervals).then_some(meeting);
        if let Some(meeting) = meeting {
            let points = if meeting == Meeting::Feeds { &FEED_POINTS[..] } else { &MEETING_POINTS };
            let longest = Duration::from_micros(dice.pick(&[100, 1_000, 20_000]));
            pause = Some(PauseAim {
                site: dice.pick(points),
                rate: among_powers(dice, 0.01, 5),
                longest,
            });
        }
        Aim { fault, pause, crash, full, damaged, trees, intervals, meeting }
    }

    /// Where a boot of this run crashes, if it is near something.
    pub(crate) fn near(&self, dice: &mut Dice) -> Option<Near> {
        let site = self.crash.filter(|_| dice.chance(0.7))?;
        // Faults are few; the first of them tells as much as any other.
        let passes = if FAULTS.contains(&site) { [1, 1, 8] } else { [1, 8, 64] };
        let (pass, ios) = (dice.pick(&passes), dice.pick(&[4, 32, 256]));
        Some(Near { site, pass: dice.below(pass), ios: dice.below(ios) })
    }

    /// How the disk is full in a boot of this run, if it is. It fills up in one boot, and is still full in
    /// most that follow: what is prepared for that is used up step by step.
    pub(crate) fn full(&self, boot: u64, dice: &mut Dice) -> Option<Full> {
        let first = self.full?;
        let (begins, left_bytes) = match boot == first {
            true => (dice.skewed(1_000..30_000), dice.pick(&[0, 4096, 64 << 10, 256 << 10])),
            false => (0, dice.pick(&[0, 0, 0, 4096])),
        };
        let lasts = Duration::from_secs(if dice.chance(0.8) { 600 } else { 1 });
        let full = Full { begins: Duration::from_micros(begins), lasts, left_bytes };
        (boot >= first && dice.chance(0.9)).then_some(full)
    }

    /// Lets what the run looks at happen.
    pub(crate) fn arm(&self, faults: &mut FaultPlan, dice: &mut Dice) {
        faults.damage.files = self.damaged.map(str::to_string);
        if self.full.is_none() && !self.intervals {
            return;
        }
        // Other errors may cost what is prepared for a full disk, and so explain much; and what could not
        // be synced may be lost.
        if dice.chance(0.7) {
            let errors = [
                FaultClass::ReadError,
                FaultClass::WriteError,
                FaultClass::SyncError,
                FaultClass::NoSpace,
            ];
            errors.into_iter().for_each(|class| faults.switch_off(class));
        }
        if self.intervals {
            faults.switch_off(FaultClass::Stall);
            faults.switch_off(FaultClass::Full);
            return;
        }
        let later = Full { begins: Duration::ZERO, lasts: Duration::ZERO, left_bytes: 0 };
        faults.full.get_or_insert(later);
    }

    /// Takes out what is of a class of faults.
    pub(crate) fn switch_off(&mut self, class: FaultClass) {
        let of_class = |fault: &FaultAim| CLASSES.contains(&(fault.site, class));
        self.fault.take_if(|fault| of_class(fault));
    }
}

/// One of `steps` numbers, each twice the one before.
fn among_powers(dice: &mut Dice, first: f64, steps: u64) -> f64 {
    first * (1 << dice.below(steps)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Site;

    /// An aim at a place that is not passed finds nothing.
    #[test]
    fn what_is_aimed_at_exists_and_many_runs_aim() {
        let aims: Vec<Aim> = (0..1000).map(|seed| Aim::draw(seed, seed % 2 == 0)).collect();
        let (mut faults, mut pauses, mut crashes) = (0, 0, 0);
        for (seed, aim) in aims.iter().enumerate() {
            if let Some(fault) = &aim.fault {
                faults += 1;
                assert!(seed % 2 == 0 && Site::find(fault.site).is_some() && fault.rate < 0.7);
            }
            if let Some(pause) = &aim.pause {
                pauses += 1;
                assert!(Site::find(pause.site).is_some(), "{pause:?}");
            }
            if let Some(place) = aim.crash {
                crashes += 1;
                assert!(Site::find(place).is_some() || site::MARKS.contains(&place), "{place}");
            }
        }
        assert!(faults > 100 && pauses > 150 && crashes > 300, "{faults} {pauses} {crashes}");
        let first = |aim: &Aim| aim.near(&mut Dice::new(1, "near", 0));
        assert_eq!(aims.iter().find_map(first), aims.iter().find_map(first));
    }

    #[test]
    fn a_class_that_is_switched_off_is_not_aimed_at() {
        for seed in 0..200 {
            let mut aim = Aim::draw(seed, true);
            let site = aim.fault.as_ref().map(|fault| fault.site);
            aim.switch_off(FaultClass::SyncError);
            let expected = site.filter(|site| *site != "EIO on sync");
            assert_eq!(aim.fault.as_ref().map(|fault| fault.site), expected);
            FaultClass::ALL.into_iter().for_each(|class| aim.switch_off(class));
            assert_eq!(aim.fault, None);
        }
    }
}
