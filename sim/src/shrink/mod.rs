//! Makes a schedule that breaks a promise as small as it gets.
//!
//! Two ways, in turn. From below: small schedules are drawn in the likeness of the failing one
//! (`sample`), the sizes that pay most often, until one breaks the same promise. From above, delta
//! debugging: parts are left out, first many at once, then one by one, and what is left counts if it
//! breaks the same promise. Names and numbers keep the rest where it was; what moves all the same, such
//! as the number of the I/O operation that a crash is named by, is tried elsewhere too.

mod parts;
mod sample;

use crate::{
    database::{Wrap, record_schedule_preempted},
    schedule::{CrashAt, Schedule, Size},
    simulation::{Outcome, When},
};
use lightning_faults::{Dice, site_hash};
use parts::{Leave, PARTS, SIMPLER, cost, count};
use sample::{otherwise, sample};
use std::{collections::BTreeSet, time::Duration};

/// A schedule to be run.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The schedule.
    pub schedule: Schedule,
    /// Above 0, preemptions are drawn in place of those listed, in this share of the passes of their
    /// sites.
    pub preempt: f64,
}

/// Runs a schedule and writes down what of it happened.
pub type Runner<'a> = &'a dyn Fn(&Trial) -> (Outcome, Schedule);

/// Runs schedules with something between the engine and the machine.
pub fn runner(wrap: Wrap) -> impl Fn(&Trial) -> (Outcome, Schedule) {
    move |trial| record_schedule_preempted(&trial.schedule, trial.preempt, wrap.clone())
}

/// What shrinking came to.
#[derive(Debug)]
pub struct Shrunk {
    /// The smallest schedule that was found.
    pub schedule: Schedule,
    /// How large it was before.
    pub before: Size,
    /// How many schedules were run.
    pub runs: u64,
    /// Processor time that it took.
    pub took: Duration,
}

/// Processor time of the calling thread, on which schedules run too.
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Shrinks a schedule for up to this long, in processor time. `None`: it breaks no promise.
pub fn shrink(schedule: &Schedule, run: Runner, patience: Duration) -> Option<Shrunk> {
    let began = processor_time();
    let first = Trial { schedule: schedule.clone(), preempt: 0.0 };
    let (outcome, recorded) = run(&first);
    let mut search = Search {
        run,
        invariant: outcome.violation.as_ref()?.invariant,
        cost: cost(&recorded),
        best: recorded,
        ios: outcome.boot_ios,
        dice: Dice::new(schedule.seed, "shrink", 0),
        tried: BTreeSet::new(),
        runs: 1,
        began,
        patience,
        sizes: vec![],
        part: 0,
        interrupted: None,
    };
    search.shrink();
    let before = schedule.size();
    let Search { best, runs, .. } = search;
    Some(Shrunk { schedule: best, before, runs, took: processor_time() - began })
}

/// What drawing schedules of one size came to.
#[derive(Debug, Clone, Copy, Default)]
struct Paid {
    /// I/O operations that the runs took.
    ios: u64,
    /// How much smaller the best one became: the sum of the logarithms.
    gain: f64,
}

struct Search<'a> {
    run: Runner<'a>,
    invariant: &'static str,
    best: Schedule,
    /// Of the best.
    cost: u64,
    /// How many I/O operations each of its boots had.
    ios: Vec<u64>,
    dice: Dice,
    /// Hashes of what was run.
    tried: BTreeSet<u64>,
    runs: u64,
    began: Duration,
    patience: Duration,
    /// By the logarithm of the number of operations drawn.
    sizes: Vec<Paid>,
    /// Which kind of part is left out next, and where that was interrupted: how many at once, and the
    /// first one that was tried.
    part: usize,
    interrupted: Option<(usize, usize)>,
}

/// I/O operations that starting a run counts for.
const RUN_IOS: u64 = 60;
/// A way that finds nothing for this part of the time makes room for the other one.
const TURNS: u32 = 16;
/// Above this many operations leaving out one by one is not worth its time.
const MANY: usize = 50;
/// Rounds in which nothing is found, after which there is nothing to be found.
const VAIN_ROUNDS: u32 = 3;

impl Search<'_> {
    fn shrink(&mut self) {
        if let Some(boot) = self.best.boots.last_mut() {
            boot.crash = None; // it was never reached
        }
        self.cost = cost(&self.best);
        self.name_crashes();
        self.cut();
        let mut vain_rounds = 0;
        while !self.is_late() {
            let cost = self.cost;
            self.draw();
            self.leave_out_all();
            self.simplify();
            vain_rounds = if self.cost == cost { vain_rounds + 1 } else { 0 };
            if vain_rounds >= VAIN_ROUNDS && self.is_small() {
                break;
            }
        }
    }

    fn is_late(&self) -> bool {
        processor_time() - self.began > self.patience
    }

    /// Whether a reader would not ask for less.
    fn is_small(&self) -> bool {
        let Size { operations, crashes, faults, preemptions } = self.best.size();
        operations <= 10 && crashes <= 1 && faults <= 2 && preemptions <= 4
    }

    /// Takes a candidate if it breaks the same promise and is smaller.
    fn takes(&mut self, trial: &Trial) -> bool {
        let text = serde_json::to_string(&trial.schedule).unwrap_or_default();
        if trial.preempt == 0.0 && !self.tried.insert(site_hash(&text)) {
            return false;
        }
        self.runs += 1;
        let (outcome, recorded) = (self.run)(trial);
        let same = outcome.violation.as_ref().is_some_and(|v| v.invariant == self.invariant);
        let smaller = cost(&recorded) < self.cost;
        if same && smaller {
            self.cost = cost(&recorded);
            (self.best, self.ios) = (recorded, outcome.boot_ios);
        }
        same && smaller
    }

    fn takes_listed(&mut self, schedule: Schedule) -> bool {
        self.takes(&Trial { schedule, preempt: 0.0 })
    }

    /// The same, and up to so many times with something else left to chance.
    fn takes_nearly(&mut self, candidate: &Schedule, times: usize) -> bool {
        if self.takes_listed(candidate.clone()) {
            return true;
        }
        for _ in 0..times {
            if self.is_late() {
                return false;
            }
            let trial = otherwise(&mut self.dice, candidate);
            if self.takes(&trial) {
                return true;
            }
        }
        false
    }

    /// How often a candidate is worth trying that would save this share.
    fn worth(&self, saved: f64) -> usize {
        let most = if saved > 0.3 { 50.0 } else { 12.0 };
        (saved * 100.0).min(most) as usize
    }

    /// What most often is not needed, all of it at once.
    fn cut(&mut self) {
        let cuts: [fn(&mut Schedule); 4] = [
            |s| {
                parts::preemptions(s, &mut || false);
                parts::faults(s, &mut || false);
            },
            |s| parts::preemptions(s, &mut || false),
            |s| parts::faults(s, &mut || false),
            |s| parts::boots(s, &mut || false),
        ];
        for cut in cuts {
            let mut candidate = self.best.clone();
            cut(&mut candidate);
            if candidate != self.best && !self.is_late() {
                self.takes_nearly(&candidate, 25);
            }
        }
    }

    /// Draws smaller schedules until many have been in vain.
    fn draw(&mut self) {
        let (mut since, mut vain) = (processor_time(), 0);
        // Where runs are quick, so many in vain are enough.
        let enough = if self.is_small() { 1000 } else { 3000 };
        while processor_time() - since < self.patience / TURNS && vain < enough && !self.is_late() {
            let operations = self.best.size().operations;
            let sizes = operations.max(1).ilog2() as usize + 2;
            self.sizes.resize(self.sizes.len().max(sizes), Paid::default());
            let worth = |n: &usize| {
                let Paid { ios, gain } = self.sizes[*n];
                (gain + 0.5) / (ios + 500) as f64
            };
            let size = (0..sizes).max_by(|a, b| worth(a).total_cmp(&worth(b))).unwrap_or_default();
            let target = self.dice.range(1 << size >> 1..1 << size).min(operations as u64) as usize;
            let trial = sample(&mut self.dice, &self.best, &self.ios, target);
            let before = self.cost;
            let taken = self.takes(&trial);
            (since, vain) = if taken { (processor_time(), 0) } else { (since, vain + 1) };
            let gain = (before as f64 / self.cost as f64).ln();
            // A run that was not taken is not known: it took about its share.
            let share = (target + 1) as f64 / (operations + 1) as f64;
            let ios = (self.ios.iter().sum::<u64>() as f64 * share) as u64;
            let paid = &mut self.sizes[size];
            (paid.ios, paid.gain) = (paid.ios + RUN_IOS + ios, paid.gain + gain);
        }
    }

    fn leave_out_all(&mut self) {
        let until = match self.best.size().operations {
            ..MANY => self.patience,
            MANY.. => processor_time() - self.began + self.patience / TURNS,
        };
        for _ in PARTS {
            self.leave_out(PARTS[self.part], until);
            if self.interrupted.is_some() {
                return; // it goes on there
            }
            self.part = (self.part + 1) % PARTS.len();
        }
    }

    /// Leaves out as many parts of a kind as it can until this time, and then says where it stopped.
    fn leave_out(&mut self, leave: Leave, until: Duration) {
        let mut size = count(&self.best, leave);
        let (mut chunk, mut end) = self.interrupted.take().unwrap_or((size, size));
        (chunk, end) = (chunk.min(size), end.min(size));
        while chunk > 0 {
            while end > 0 {
                if processor_time() - self.began > until {
                    self.interrupted = Some((chunk, end));
                    return;
                }
                let start = end.saturating_sub(chunk);
                let (mut candidate, mut at) = (self.best.clone(), 0);
                leave(&mut candidate, &mut || {
                    at += 1;
                    !(start..end).contains(&(at - 1))
                });
                end = start;
                let saved = 1.0 - cost(&candidate) as f64 / self.cost as f64;
                if self.takes_nearly(&candidate, self.worth(saved)) {
                    // What is written down anew may be smaller than what was asked for.
                    size = count(&self.best, leave);
                    end = end.min(size);
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk.min(size).div_ceil(2) };
            end = size;
        }
    }

    /// Names crashes by I/O operations instead of by time.
    fn name_crashes(&mut self) {
        for n in 0..self.best.boots.len() {
            let ios = self.ios.get(n).copied().unwrap_or_default();
            let crash = self.best.boots.get(n).and_then(|boot| boot.crash);
            let Some(crash) = crash.filter(|crash| !matches!(crash.when, When::AtIo(_))) else {
                continue;
            };
            let mut candidate = self.best.clone();
            candidate.boots[n].crash = Some(CrashAt { when: When::AtIo(ios), ..crash });
            self.takes_nearly(&candidate, 4);
        }
    }

    /// Tries simpler forms of what is left.
    fn simplify(&mut self) {
        for change in SIMPLER {
            let mut candidate = self.best.clone();
            change(&mut candidate);
            if candidate != self.best && !self.is_late() {
                self.takes_nearly(&candidate, 4);
            }
        }
        for disk in self.best.disk.simpler() {
            if !self.is_late() {
                let candidate = Schedule { disk, ..self.best.clone() };
                self.takes_nearly(&candidate, 4);
            }
        }
        for n in 0..self.best.boots.len() {
            let mut candidate = self.best.clone();
            let boot = candidate.boots.get_mut(n);
            if boot.is_some_and(|boot| boot.crash.take().is_some()) && !self.is_late() {
                self.takes_nearly(&candidate, 4);
            }
        }
    }
}
