//! The parts of a schedule, and how much they count.

use crate::{
    database::{
        operation::{Durable, Operation, Step, Value, Write},
        workload::Session,
    },
    decisions::Order,
    schedule::Schedule,
    simulation::When,
};

/// Leaves out the parts of a kind for which the predicate says no, in their order.
pub(super) type Leave = fn(&mut Schedule, &mut dyn FnMut() -> bool);

/// Kinds of parts, the largest first.
pub(super) const PARTS: [Leave; 7] =
    [boots, sessions, clients, operations, preemptions, faults, pieces];

pub(super) fn boots(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
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

pub(super) fn all_operations(schedule: &mut Schedule) -> impl Iterator<Item = &mut Vec<Operation>> {
    let sessions = schedule.boots.iter_mut().flat_map(|boot| &mut boot.sessions);
    sessions.flat_map(|session| &mut session.clients).map(|client| &mut client.operations)
}

fn operations(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    all_operations(schedule).for_each(|operations| operations.retain(|_| keep()));
}

pub(super) fn preemptions(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    schedule.boots.iter_mut().for_each(|boot| boot.preemptions.retain(|_| keep()));
}

pub(super) fn faults(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    schedule.boots.iter_mut().for_each(|boot| boot.faults.retain(|_| keep()));
}

/// Parts of batches.
fn pieces(schedule: &mut Schedule, keep: &mut dyn FnMut() -> bool) {
    for operation in all_operations(schedule).flatten() {
        match operation {
            Operation::Commit { writes, .. } => writes.retain(|_| keep()),
            Operation::PutBatch { entries, .. } => entries.retain(|_| keep()),
            Operation::DeleteBatch { keys, .. } => keys.retain(|_| keep()),
            Operation::Transaction { steps, .. } => steps.retain(|_| keep()),
            _ => {}
        }
    }
}

/// How many parts of a kind there are.
pub(super) fn count(schedule: &Schedule, leave: Leave) -> usize {
    let mut count = 0;
    leave(&mut schedule.clone(), &mut || {
        count += 1;
        true
    });
    count
}

/// How much there is to read, roughly in hundredths of an operation.
pub(super) fn cost(schedule: &Schedule) -> u64 {
    let mut cost = 0;
    for boot in &schedule.boots {
        cost += 200
            + boot.crash.map_or(0, |crash| match crash.when {
                When::AtIo(_) => 400,
                When::AfterNanos(_) | When::Never => 401,
            });
        cost += 200 * boot.faults.len() as u64 + 60 * boot.preemptions.len() as u64;
        for script in &boot.sessions {
            let Session { strict, settle, empties, .. } = script.session;
            cost += 60 + u64::from(strict) + u64::from(settle) + 100 * u64::from(empties);
            cost += 40 * script.clients.len() as u64;
            let operations = script.clients.iter().flat_map(|client| &client.operations);
            cost += operations.map(cost_of).sum::<u64>();
        }
    }
    let settings = &schedule.settings;
    let kinds = [
        schedule.order != Order::Uniform,
        settings.compression != 0,
        settings.btree,
        settings.page_bytes != 4 << 10,
        settings.cache_bytes != 0,
        settings.shared_keyspaces != 0,
    ];
    cost += kinds.into_iter().map(u64::from).sum::<u64>();
    cost + schedule.disk.simpler().len() as u64
}

fn cost_of(operation: &Operation) -> u64 {
    let value = |value: &Value| value.bytes / 256 + u64::from(value.random);
    let own = |durability: &Durable| u64::from(*durability != Durable::Default);
    100 + match operation {
        Operation::Commit { writes, durability } => {
            let writes = writes.iter().map(|write| match write {
                Write::Put { value: v, .. } => 20 + value(v),
                Write::Delete { .. } | Write::DeleteRange { .. } => 20,
            });
            own(durability) + writes.sum::<u64>()
        }
        Operation::Put { value: v, durability, .. } => value(v) + own(durability),
        Operation::PutBatch { entries, .. } => entries.iter().map(|(_, v)| 20 + value(v)).sum(),
        Operation::DeleteBatch { keys, .. } => 20 * keys.len() as u64,
        Operation::CompareAndSwap { value: v, .. } | Operation::FetchAndUpdate { value: v, .. } => {
            v.as_ref().map_or(0, value)
        }
        Operation::Transaction { steps, durability, pessimistic, runs, by_id, .. } => {
            let steps = steps.iter().map(|step| match step {
                Step::Put { value: v, .. } => 20 + value(v),
                _ => 20,
            });
            let kinds = [*pessimistic, *runs, *by_id].map(u64::from);
            own(durability) + kinds.into_iter().sum::<u64>() + steps.sum::<u64>()
        }
        _ => 0,
    }
}

/// Simpler forms of what is left, each to be tried by itself.
pub(super) const SIMPLER: [fn(&mut Schedule); 13] = [
    |s| s.boots.iter_mut().for_each(|boot| boot.full = None),
    |s| s.order = Order::Uniform,
    |s| s.settings.shared_keyspaces = 0,
    |s| s.settings.compression = 0,
    |s| s.settings.btree = false,
    |s| s.settings.page_bytes = 4 << 10,
    |s| s.settings.cache_bytes = 0,
    |s| each_session(s, |session| session.settle = false),
    |s| each_session(s, |session| session.strict = false),
    |s| each_session(s, |session| session.empties = false),
    |s| each_value(s, &mut |value| *value = Value { bytes: 16, random: false }),
    |s| each_value(s, &mut |value| value.random = false),
    |s| all_operations(s).flatten().for_each(by_default),
];

fn each_session(schedule: &mut Schedule, change: fn(&mut Session)) {
    let sessions = schedule.boots.iter_mut().flat_map(|boot| &mut boot.sessions);
    sessions.for_each(|script| change(&mut script.session));
}

pub(super) fn each_value(schedule: &mut Schedule, change: &mut dyn FnMut(&mut Value)) {
    for operation in all_operations(schedule).flatten() {
        match operation {
            Operation::Put { value, .. } => change(value),
            Operation::CompareAndSwap { value, .. } | Operation::FetchAndUpdate { value, .. } => {
                value.iter_mut().for_each(&mut *change);
            }
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
            Operation::Transaction { steps, .. } => {
                for step in steps {
                    if let Step::Put { value, .. } = step {
                        change(value);
                    }
                }
            }
            _ => {}
        }
    }
}

fn by_default(operation: &mut Operation) {
    if let Operation::Commit { durability, .. }
    | Operation::Put { durability, .. }
    | Operation::Transaction { durability, .. } = operation
    {
        *durability = Durable::Default;
    }
    if let Operation::Transaction { pessimistic, runs, by_id, timeout_nanos, .. } = operation {
        (*pessimistic, *runs, *by_id, *timeout_nanos) = (false, false, false, None);
    }
}
