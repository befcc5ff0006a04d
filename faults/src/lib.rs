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
mod wrap;

pub use class::FaultClass;
pub use dice::{Dice, site_hash};
pub use planned::{Planned, site};
pub use wrap::{Call, FaultyEnv, Operation, Rule, Verdict};

use std::time::Duration;

/// What can go wrong on the disk of one run. Probabilities are per operation unless said
/// otherwise; 0.0 switches a fault off.
#[derive(Debug, Clone, PartialEq)]
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Full {
    /// When it begins, counted from the start of the run.
    pub begins: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// Bytes that are left when it begins.
    pub left_bytes: u64,
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
        plan
    }

    /// Whether an operation can fail that would not on a healthy, roomy disk.
    pub fn has_errors(&self) -> bool {
        self.read_error + self.write_error + self.sync_error + self.no_space > 0.0
            || self.full.is_some()
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
            let nested = ["power", "latency"].contains(&field);
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
