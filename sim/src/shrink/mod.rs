//! Makes a schedule that breaks a promise as small as it gets.
//!
//! Delta debugging: parts are left out, first many at once, then one by one, and what is left counts
//! if it breaks the same promise. Names and numbers keep the rest where it was; only a crash is named
//! by an I/O operation whose number changes when there is less to do, so that it is tried earlier,
//! too, and with other leftovers of un-synced data.

use crate::{
    database::operation::{Durable, Operation, Value, Write},
    decisions::Order,
    schedule::{Schedule, Size},
    simulation::{Outcome, When},
};
use std::time::{Duration, Instant};

/// Runs a schedule and writes down what of it happened.
pub type Runner<'a> = &'a dyn Fn(&Schedule) -> (Outcome, Schedule);

/// What shrinking came to.
#[derive(Debug)]
pub struct Shrunk {
    /// The smallest schedule that was found.
    pub schedule: Schedule,
    /// How large it was before.
    pub before: Size,
    /// How many schedules were run.
    pub runs: u64,
    /// How long that took.
    pub took: Duration,
}

/// Leaves out the parts of a kind for which the predicate says no, in their order.
type Leave = fn(&mut Schedule, &mut dyn FnMut() -> bool);

/// Kinds of parts, the largest first.
const PARTS: [Leave; 7] = [boots, sessions, clients, operations, preemptions, faults, pieces];

fn boots(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    let last = schedule.boots.len().saturating_sub(1);
    let mut at = 0;
    schedule.boots.retain(|_| {
        at += 1;
        at > last || keep() // the one that breaks the promise stays
    });
}

fn sessions(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    schedule.boots.iter_mut().for_each(|boot| boot.sessions.retain(|_| keep()));
}

fn clients(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    let sessions = schedule.boots.iter_mut().flat_map(|boot| &mut boot.sessions);
    sessions.for_each(|session| session.clients.retain(|_| keep()));
}

fn all_operations(schedule: &mut Schedule) -> impl Iterator<Item = &mut Vec<Operation>> {
    let sessions = schedule.boots.iter_mut().flat_map(|boot| &mut boot.sessions);
    sessions.flat_map(|session| &mut session.clients).map(|client| &mut client.operations)
}

fn operations(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    all_operations(schedule).for_each(|operations| operations.retain(|_| keep()));
}

fn preemptions(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    schedule.boots.iter_mut().for_each(|boot| boot.preemptions.retain(|_| keep()));
}

fn faults(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    schedule.boots.iter_mut().for_each(|boot| boot.faults.retain(|_| keep()));
}

/// Parts of batches.
fn pieces(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    for operation in all_operations(schedule).flatten() {
        match operation {
            Operation::Commit { writes, .. } => writes.retain(|_| keep()),
            Operation::PutBatch { entries, .. } => entries.retain(|_| keep()),
            Operation::DeleteBatch { keys, .. } => keys.retain(|_| keep()),
            _ => {}
        }
    }
}

/// Shrinks a schedule for up to this long. `None`: it breaks no promise.
pub fn shrink(schedule: &Schedule, run: Runner, patience: Duration) -> Option<Shrunk> {
    let began = Instant::now();
    let (outcome, recorded) = run(schedule);
    let mut search = Search {
        run,
        invariant: outcome.violation.as_ref()?.invariant,
        best: recorded,
        outcome,
        runs: 1,
        deadline: began + patience,
    };
    let before = schedule.size();
    search.name_crashes();
    loop {
        let size = search.best.clone();
        for part in PARTS {
            search.leave_out(part);
        }
        search.simplify();
        if search.best == size || search.is_late() {
            break;
        }
    }
    let Search { best, runs, .. } = search;
    Some(Shrunk { schedule: best, before, runs, took: began.elapsed() })
}

struct Search<'a> {
    run: Runner<'a>,
    invariant: &'static str,
    best: Schedule,
    /// Of the best.
    outcome: Outcome,
    runs: u64,
    deadline: Instant,
}

impl Search<'_> {
    fn is_late(&self) -> bool {
        Instant::now() > self.deadline
    }

    /// Takes a candidate if it breaks the same promise.
    fn takes(&mut self, candidate: &Schedule) -> bool {
        self.runs += 1;
        let (outcome, recorded) = (self.run)(candidate);
        let same = outcome.violation.as_ref().is_some_and(|v| v.invariant == self.invariant);
        if same {
            (self.best, self.outcome) = (recorded, outcome);
        }
        same
    }

    /// The same, with the last crash elsewhere if need be.
    fn takes_nearly(&mut self, candidate: &Schedule) -> bool {
        if self.takes(candidate) {
            return true;
        }
        let Some(last) = candidate.boots.iter().rposition(|boot| boot.crash.is_some()) else {
            return false;
        };
        let (stream, crash) = (candidate.boots[last].stream, candidate.boots[last].crash);
        let Some((mut crash, When::AtIo(io))) = crash.map(|crash| (crash, crash.when)) else {
            return false;
        };
        let nearer = [io.wrapping_sub(1), io.wrapping_sub(2), io.wrapping_sub(4), io + 1];
        let nearer = nearer.into_iter().chain([io * 7 / 8, io * 3 / 4, io / 2]);
        let elsewhere = nearer.filter(|at| *at != io && *at < 1 << 40).map(|at| (at, stream));
        let otherwise = (1..4).map(|more| (io, stream + 1000 * more));
        for (io, stream) in elsewhere.chain(otherwise) {
            let mut candidate = candidate.clone();
            crash.when = When::AtIo(io);
            candidate.boots[last].crash = Some(crash);
            candidate.boots[last].stream = stream;
            if self.is_late() || self.takes(&candidate) {
                return !self.is_late();
            }
        }
        false
    }

    /// Leaves out as many parts of a kind as it can.
    fn leave_out(&mut self, leave: Leave) {
        let count = |schedule: &Schedule| {
            let mut count = 0usize;
            leave(&mut schedule.clone(), &mut || {
                count += 1;
                true
            });
            count
        };
        let mut size = count(&self.best);
        let mut chunk = size;
        while chunk > 0 {
            let mut end = size;
            while end > 0 && !self.is_late() {
                let start = end.saturating_sub(chunk);
                let (mut candidate, mut at) = (self.best.clone(), 0);
                leave(&mut candidate, &mut || {
                    at += 1;
                    !(start..end).contains(&(at - 1))
                });
                end = start;
                if self.takes_nearly(&candidate) {
                    // What is written down anew may be smaller than what was asked for.
                    size = count(&self.best);
                    end = end.min(size);
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk.min(size).div_ceil(2).max(1) };
            if self.is_late() || size == 0 {
                return;
            }
        }
    }

    /// Names crashes by I/O operations instead of by time.
    fn name_crashes(&mut self) {
        for n in 0..self.best.boots.len() {
            let ios = self.outcome.boot_ios.get(n).copied().unwrap_or(0);
            let timed = |when| !matches!(when, When::AtIo(_));
            let Some(crash) = self.best.boots[n].crash.filter(|crash| timed(crash.when)) else {
                continue;
            };
            for when in [When::AtIo(ios), When::AtIo(ios.saturating_sub(1))] {
                let mut candidate = self.best.clone();
                candidate.boots[n].crash = Some(crate::schedule::CrashAt { when, ..crash });
                if self.takes_nearly(&candidate) {
                    break;
                }
            }
        }
    }

    /// Tries simpler forms of what is left.
    fn simplify(&mut self) {
        let changes: [fn(&mut Schedule); 9] = [
            |s| s.boots.iter_mut().for_each(|boot| boot.full = None),
            |s| s.order = Order::Uniform,
            |s| s.settings.shared_keyspaces = 0,
            |s| s.settings.compression = 0,
            |s| s.settings.cache_bytes = 0,
            |s| each_session(s, |session| session.settle = false),
            |s| each_session(s, |session| session.strict = false),
            |s| each_value(s, |value| *value = Value { bytes: 16, random: false }),
            |s| all_operations(s).flatten().for_each(by_default),
        ];
        for change in changes {
            let mut candidate = self.best.clone();
            change(&mut candidate);
            if candidate != self.best && !self.is_late() {
                self.takes_nearly(&candidate);
            }
        }
        for disk in self.best.disk.simpler() {
            let candidate = Schedule { disk, ..self.best.clone() };
            if !self.is_late() {
                self.takes_nearly(&candidate);
            }
        }
        for n in 0..self.best.boots.len() {
            let mut candidate = self.best.clone();
            let boot = candidate.boots.get_mut(n);
            if boot.is_some_and(|boot| boot.crash.take().is_some()) && !self.is_late() {
                self.takes(&candidate);
            }
        }
    }
}

fn each_session(schedule: &mut Schedule, change: fn(&mut crate::database::workload::Session)) {
    let sessions = schedule.boots.iter_mut().flat_map(|boot| &mut boot.sessions);
    sessions.for_each(|script| change(&mut script.session));
}

fn each_value(schedule: &mut Schedule, change: fn(&mut Value)) {
    for operation in all_operations(schedule).flatten() {
        match operation {
            Operation::Put { value, .. } => change(value),
            Operation::PutBatch { entries, .. } => {
                entries.iter_mut().for_each(|(_, value)| change(value));
            }
            Operation::Commit { writes, .. } => {
                for write in writes {
                    if let Write::Put { value, .. } = write {
                        change(value);
                    }
                }
            }
            _ => {}
        }
    }
}

fn by_default(operation: &mut Operation) {
    if let Operation::Commit { durability, .. } | Operation::Put { durability, .. } = operation {
        *durability = Durable::Default;
    }
}
