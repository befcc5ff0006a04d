//! The fault model of Lightning DB: as data, and as wrappers that bring it to any disk.
//!
//! A [`FaultPlan`] says which faults a simulated disk has and how often they strike. Plans are
//! drawn swarm-wise: each seed switches whole classes on or off, because a run in which
//! everything fails all the time never gets far enough to meet the rare combinations.
//!
//! The simulated disk asks the plan itself. Any other, a real one foremost, is put under it with
//! [`FaultyEnv`] and [`Planned`], as far as faults make sense from outside. `CATALOG.md` says what must
//! hold under each fault, and where that is tested.

mod class;
mod dice;
mod planned;
mod skew;
mod text;
mod wrap;

pub use class::FaultClass;
pub use dice::{Dice, site_hash};
pub use planned::{Planned, site};
pub use skew::Skew;
pub use wrap::{Call, FaultyEnv, Operation, Rule, Verdict};

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What can go wrong on the disk of one run. Probabilities are per operation unless said
/// otherwise; 0.0 switches a fault off.
///
/// As text it is one flat list of named settings, such as `{ "block_bytes": 512, "lost_write": 0.01,
/// "cached_nanos": 1000, "device_nanos": 50000 }`. What is off may be left out, times are in
/// nanoseconds, and a name that is not known is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "text::Text", into = "text::Text")]
pub struct FaultPlan {
    /// What a loss of power does to data that was not synced.
    pub power: PowerLoss,
    /// A read, open or listing fails with EIO.
    pub read_error: f64,
    /// A write, creation, rename or removal fails with EIO; any part of a write may be done.
    pub write_error: f64,
    /// A sync, of a file or a directory, fails with EIO.
    pub sync_error: f64,
    /// After a failed sync of a file: its pages are marked clean, so that a later sync succeeds
    /// without writing them. Otherwise they stay dirty.
    pub failed_sync_loses: f64,
    /// A clean page is dropped from the cache when it is read: what a failed sync lost shows.
    pub evict_clean: f64,
    /// An operation that needs space fails with ENOSPC although there is some; a sync may too.
    pub no_space: f64,
    /// The disk is really full for a while.
    pub full: Option<Full>,
    /// A read returns fewer bytes than asked.
    pub short_read: f64,
    /// A write takes fewer bytes than given.
    pub short_write: f64,
    /// A read or write is interrupted by a signal.
    pub interrupted: f64,
    /// Mapping a file is refused in this run.
    pub map_refused: bool,
    /// What destroys the only copy.
    pub damage: Damage,
    /// What clocks do.
    pub clock: ClockFaults,
    /// How long operations take.
    pub latency: Latency,
}

/// What a loss of power does to data that was not synced. The block is what the device
/// writes at once; a block in flight may end old, new, or as these say.
#[derive(Debug, Clone, PartialEq)]
pub struct PowerLoss {
    /// Bytes in a block of the device: 512 to 4096.
    pub block_bytes: u64,
    /// Per block not wholly written: it is a mixture of old and new.
    pub mixture: f64,
    /// Per block not wholly written: it is garbage, also where nothing was written.
    pub garbage: f64,
    /// Per file: a new length is durable before the data that belongs there.
    pub length_first: f64,
    /// The room below a length that came first holds stale garbage instead of zeros.
    pub stale_tail: bool,
    /// Operations on directories survive as any subset; otherwise those up to some moment do.
    pub directory_subset: bool,
}

/// A time during which the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "text::FullText", into = "text::FullText")]
pub struct Full {
    /// When it begins, counted from the start of the run.
    pub begins: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// Bytes that are left when it begins.
    pub left_bytes: u64,
}

/// Faults that destroy the only copy of what is durable. Where one has struck, nothing better can be
/// promised than an error or what is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Damage {
    /// Where: only in files whose name contains this, such as `wal-`. `None`: anywhere.
    pub files: Option<String>,
    /// Per read: bytes that were durable have changed at rest, in one place of what is read.
    pub bit_rot: f64,
    /// Per read: a page of what is read can never be read again, whatever is written to it.
    pub latent_error: f64,
    /// Per sync of a file: a page goes to another place of the same or another file; the place asked
    /// for stays as it was. The page cache shows what was written until it drops the page.
    pub misdirected_write: f64,
    /// Per sync of a file: pages are acknowledged and never written. The page cache shows them until it
    /// drops them.
    pub lost_write: f64,
    /// Per loss of power or remount: pages of a file come back as they were before some of its last
    /// syncs.
    pub stale_block: f64,
}

/// What clocks do, each time that the engine looks at one.
#[derive(Debug, Clone, PartialEq)]
pub struct ClockFaults {
    /// The wall clock is set forwards or backwards, by up to years.
    pub wall_jump: f64,
    /// The monotone clock jumps forwards, by up to an hour.
    pub clock_jump: f64,
}

/// How long operations take.
#[derive(Debug, Clone, PartialEq)]
pub struct Latency {
    /// What stays in the page cache takes up to this.
    pub cached: Duration,
    /// What waits for the device takes up to this.
    pub device: Duration,
    /// An operation takes a thousand times as long.
    pub stall: f64,
}

impl FaultPlan {
    /// A disk on which nothing fails. A loss of power still takes what was not synced.
    pub fn none() -> FaultPlan {
        FaultPlan {
            power: PowerLoss {
                block_bytes: 4096,
                mixture: 0.0,
                garbage: 0.0,
                length_first: 0.0,
                stale_tail: false,
                directory_subset: false,
            },
            read_error: 0.0,
            write_error: 0.0,
            sync_error: 0.0,
            failed_sync_loses: 0.0,
            evict_clean: 0.0,
            no_space: 0.0,
            full: None,
            short_read: 0.0,
            short_write: 0.0,
            interrupted: 0.0,
            map_refused: false,
            damage: Damage {
                files: None,
                bit_rot: 0.0,
                latent_error: 0.0,
                misdirected_write: 0.0,
                lost_write: 0.0,
                stale_block: 0.0,
            },
            clock: ClockFaults { wall_jump: 0.0, clock_jump: 0.0 },
            latency: Latency {
                cached: Duration::from_micros(2),
                device: Duration::from_micros(200),
                stall: 0.0,
            },
        }
    }

    /// The plan of a seed. A fifth of the seeds have no faults.
    pub fn draw(seed: u64) -> FaultPlan {
        let dice = &mut Dice::new(seed, "fault plan", 0);
        let mut plan = FaultPlan::none();
        plan.map_refused = dice.chance(0.5);
        if dice.chance(0.2) {
            return plan;
        }
        plan.power = PowerLoss {
            block_bytes: dice.pick(&[512, 1024, 2048, 4096]),
            mixture: rate(dice, 0.5, 0.05..0.5),
            garbage: rate(dice, 0.3, 0.02..0.3),
            length_first: rate(dice, 0.5, 0.1..1.0),
            stale_tail: dice.chance(0.5),
            directory_subset: dice.chance(0.5),
        };
        plan.read_error = rate(dice, 0.1, 0.0005..0.01);
        plan.write_error = rate(dice, 0.15, 0.0005..0.01);
        plan.sync_error = rate(dice, 0.25, 0.001..0.05);
        plan.failed_sync_loses = dice.pick(&[0.0, 0.5, 1.0]);
        plan.evict_clean = rate(dice, 0.3, 0.01..0.5);
        plan.no_space = rate(dice, 0.1, 0.001..0.05);
        plan.full = dice.chance(0.2).then(|| Full {
            begins: Duration::from_micros(dice.skewed(0..200_000)),
            lasts: Duration::from_micros(dice.skewed(1_000..1_000_000)),
            left_bytes: dice.pick(&[0, 4096, 16 << 10, 64 << 10]),
        });
        plan.short_read = rate(dice, 0.3, 0.01..0.2);
        plan.short_write = rate(dice, 0.3, 0.01..0.2);
        plan.interrupted = rate(dice, 0.2, 0.01..0.1);
        plan.latency = Latency {
            cached: Duration::from_micros(dice.pick(&[1, 5, 20])),
            device: Duration::from_micros(dice.pick(&[50, 200, 1000])),
            stall: rate(dice, 0.2, 0.0005..0.01),
        };
        plan.damage = Damage::draw(seed);
        // Through a mapping, what cannot be read would be a signal.
        plan.map_refused |= plan.damage.latent_error > 0.0;
        plan.clock = ClockFaults::draw(seed);
        plan
    }

    /// The same without what destroys the only copy: all that is durable stays.
    pub fn undamaged(self) -> FaultPlan {
        FaultPlan { damage: FaultPlan::none().damage, ..self }
    }

    /// What is left if each fault is said by name and number, and not drawn: the kind of disk it is.
    pub fn kind_of_disk(&self) -> FaultPlan {
        FaultPlan {
            power: self.power.clone(),
            failed_sync_loses: self.failed_sync_loses,
            full: self.full,
            map_refused: self.map_refused,
            latency: Latency { stall: 0.0, ..self.latency.clone() },
            // Such a disk has to remember what its blocks held, and of which files one is drawn.
            damage: Damage {
                files: self.damage.files.clone(),
                stale_block: self.damage.stale_block,
                ..FaultPlan::none().damage
            },
            ..FaultPlan::none()
        }
    }

    /// Disks of a kind that lacks one of its ways to fail.
    pub fn simpler(&self) -> Vec<FaultPlan> {
        let changes: [fn(&mut FaultPlan); 9] = [
            |plan| plan.full = None,
            |plan| plan.power.mixture = 0.0,
            |plan| plan.power.garbage = 0.0,
            |plan| plan.power.length_first = 0.0,
            |plan| plan.power.stale_tail = false,
            |plan| plan.power.directory_subset = false,
            |plan| plan.failed_sync_loses = 0.0,
            |plan| plan.power.block_bytes = 4096,
            |plan| plan.damage.stale_block = 0.0,
        ];
        let simpler = changes.iter().map(|change| {
            let mut plan = self.clone();
            change(&mut plan);
            plan
        });
        simpler.filter(|plan| plan != self).collect()
    }

    /// Whether an operation can fail that would not on a healthy, roomy disk.
    pub fn has_errors(&self) -> bool {
        self.read_error + self.write_error + self.sync_error + self.no_space > 0.0
            || self.full.is_some()
    }
}

impl Damage {
    /// Whether it comes to a file of this name.
    pub fn comes_to(&self, file: &str) -> bool {
        self.files.as_ref().is_none_or(|part| file.contains(part))
    }

    /// The names of the kinds that are on.
    pub fn kinds(&self) -> Vec<&'static str> {
        let all = [
            ("bit rot", self.bit_rot),
            ("latent error", self.latent_error),
            ("misdirected write", self.misdirected_write),
            ("lost write", self.lost_write),
            ("stale block", self.stale_block),
        ];
        all.into_iter().filter(|(_, rate)| *rate > 0.0).map(|(name, _)| name).collect()
    }

    /// Each kind is on in a few of all seeds: a damaged database proves less of everything else.
    fn draw(seed: u64) -> Damage {
        let dice = &mut Dice::new(seed, "damage", 0);
        Damage {
            files: None,
            bit_rot: rate(dice, 0.05, 0.01..0.3),
            latent_error: rate(dice, 0.08, 0.005..0.1),
            misdirected_write: rate(dice, 0.1, 0.05..0.6),
            lost_write: rate(dice, 0.07, 0.02..0.4),
            stale_block: rate(dice, 0.05, 0.2..1.0),
        }
    }
}

impl ClockFaults {
    fn draw(seed: u64) -> ClockFaults {
        let dice = &mut Dice::new(seed, "clock", 0);
        ClockFaults {
            wall_jump: rate(dice, 0.15, 0.001..0.1),
            clock_jump: rate(dice, 0.1, 0.0005..0.02),
        }
    }
}

/// With probability `on` a rate from `range`, else 0.0.
fn rate(dice: &mut Dice, on: f64, range: std::ops::Range<f64>) -> f64 {
    let on = dice.chance(on);
    let rate = range.start + dice.unit() * (range.end - range.start);
    if on { rate } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_differ_and_some_have_no_errors() {
        let plans: Vec<_> = (0..200).map(FaultPlan::draw).collect();
        let calm = plans.iter().filter(|p| !p.has_errors()).count();
        assert!((40..160).contains(&calm), "{calm} of 200 without errors");
        assert!(plans.iter().any(|p| p.sync_error > 0.0 && p.full.is_some()));
        assert_eq!(plans[7], FaultPlan::draw(7));
    }

    const CATALOG: &str = include_str!("../CATALOG.md");

    /// A fault that nobody wrote down is one that nobody knows what must hold under.
    #[test]
    fn the_catalogue_has_every_fault() {
        // Field names stand in front of their values.
        let plan = format!("{:?}", FaultPlan::none());
        let words = plan.split([' ', '{', '}', ',']);
        let fields: Vec<_> = words.filter_map(|word| word.strip_suffix(':')).collect();
        assert!(fields.len() > 15, "{fields:?}");
        for field in fields {
            let nested = ["power", "damage", "clock", "latency"].contains(&field);
            let named =
                CATALOG.contains(&format!("`{field}`")) || CATALOG.contains(&format!(".{field}`"));
            assert!(nested || named, "{field} is not in CATALOG.md");
        }
    }

    /// A canary that was renamed or taken away guards nothing.
    #[test]
    fn the_catalogue_names_canaries_that_exist() {
        let canaries = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/canaries");
        let rows =
            CATALOG.lines().filter(|line| line.starts_with("| ") && !line.contains("canaries |"));
        let columns = rows.filter_map(|row| row.split(" | ").nth(2));
        let named: Vec<_> = columns.flat_map(|column| column.split(", ")).collect();
        assert!(named.len() > 60 && named.contains(&"short-write-ignored"), "{named:?}");
        for name in named {
            let patch = canaries.join(format!("{name}.patch"));
            assert!(!canaries.exists() || patch.exists(), "no {}", patch.display());
        }
    }
}
