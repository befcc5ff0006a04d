//! Small schedules in the likeness of a large one: some of its boots, some of its operations, and
//! crashes, faults and preemptions at other places.
//!
//! What is left out one by one moves what the rest depends on: numbers of I/O operations, the time
//! at which background threads wake, the state that earlier boots left. So most schedules with one
//! part less do not break the promise, though many small ones do. A small one takes a fraction of the
//! time to run: hundreds of them can be tried for one of the large.

use super::{
    Trial,
    parts::{all_operations, count, each_value, faults, preemptions},
};
use crate::{
    database::{shape::SyncMode, workload::SessionScript},
    decisions::Order,
    schedule::{Boot, CrashAt, Schedule},
    simulation::{Crash, When},
};
use lightning_faults::{Dice, Full};
use std::time::Duration;

/// What a value grows to at most, when it has to stand for many.
const VALUE_BYTES_MAX: u64 = 16 << 10;
/// The smallest settings there are.
const MEMTABLE_BYTES_MIN: u64 = 4 << 10;
const SEGMENT_BYTES_MIN: u64 = 16 << 10;

/// Draws a schedule with about `target` operations. `ios` is how many I/O operations each boot had.
pub(super) fn sample(dice: &mut Dice, from: &Schedule, ios: &[u64], target: usize) -> Trial {
    let mut schedule = from.clone();
    let boots = std::mem::take(&mut schedule.boots);
    let ios = ios.iter().copied().chain(std::iter::repeat(0));
    let mut boots = some_boots(dice, boots.into_iter().zip(ios).collect());
    if dice.chance(0.4) {
        boots.iter_mut().for_each(|(boot, _)| one_client(dice, boot));
    }
    let operations_of = |boot: &Boot| -> usize {
        let clients = boot.sessions.iter().flat_map(|session| &session.clients);
        clients.map(|client| client.operations.len()).sum()
    };
    let total: usize = boots.iter().map(|(boot, _)| operations_of(boot)).sum();
    let share = (target as f64 / total.max(1) as f64).min(1.0);
    for (boot, ios) in &mut boots {
        let before = operations_of(boot);
        some_operations(dice, boot, share);
        let left = (operations_of(boot) + 3) as f64 / (before + 3) as f64;
        some_crash(dice, boot, *ios, left);
        if dice.chance(0.7) {
            boot.stream = dice.below(1 << 16);
        }
    }
    let last = boots.len() - 1;
    let mut at = 0;
    boots.retain_mut(|(boot, _)| {
        at += 1;
        let is_last = at > last;
        tidy(dice, boot, is_last);
        is_last || !boot.sessions.is_empty()
    });
    schedule.boots = boots.into_iter().map(|(boot, _)| boot).collect();
    schedule.make_streams_distinct();
    some_faults(dice, &mut schedule);
    some_sizes(dice, &mut schedule, share);
    let full = schedule.boots.iter_mut().map(|boot| &mut boot.full);
    full.chain([&mut schedule.disk.full]).flatten().for_each(|full| shift_full(dice, full));
    let preempt = some_preemptions(dice, &mut schedule, share);
    Trial { schedule, preempt }
}

/// Full at another time, and for another.
fn shift_full(dice: &mut Dice, full: &mut Full) {
    if dice.chance(0.5) {
        full.begins = dice.duration(Duration::ZERO..full.begins + Duration::from_nanos(1));
    }
    if dice.chance(0.3) {
        full.lasts = Duration::from_nanos(dice.skewed(1_000_000..5_000_000_000));
    }
    if dice.chance(0.2) {
        full.left_bytes = dice.skewed(0..full.left_bytes + 1);
    }
}

/// Larger values, so that a few stand for many; smaller limits, so that a few reach them.
fn some_sizes(dice: &mut Dice, schedule: &mut Schedule, share: f64) {
    let most = (1.0 / share.max(0.001)).min(64.0);
    let factor = most.powf(dice.unit());
    match dice.below(4) {
        0 => each_value(schedule, &mut |value| {
            let grown = (value.bytes as f64 * factor) as u64;
            value.bytes = grown.min(VALUE_BYTES_MAX).max(value.bytes);
        }),
        1 => each_value(schedule, &mut |value| {
            if dice.chance(0.5) {
                value.bytes = dice.skewed(16..VALUE_BYTES_MAX);
            }
        }),
        _ => {}
    }
    let settings = &mut schedule.settings;
    if dice.chance(0.5) {
        settings.memtable_bytes = smaller(dice, settings.memtable_bytes, MEMTABLE_BYTES_MIN);
    }
    if dice.chance(0.5) {
        settings.segment_bytes = smaller(dice, settings.segment_bytes, SEGMENT_BYTES_MIN);
    }
    if dice.chance(0.1) {
        settings.sync = dice.pick(&[SyncMode::Sync, SyncMode::Periodic, SyncMode::Async]);
        settings.interval_micros = dice.pick(&[1_000, 10_000, 100_000]);
    }
    if dice.chance(0.1) {
        schedule.disk.power.block_bytes = dice.pick(&[512, 1024, 4096]);
    }
}

fn smaller(dice: &mut Dice, now: u64, least: u64) -> u64 {
    match dice.chance(0.7) {
        true => least,
        false => dice.range(least..now.max(least + 1)),
    }
}

/// The last one, and a few of those before it. What a boot did that is left out may become a part of
/// the next one.
fn some_boots(dice: &mut Dice, mut boots: Vec<(Boot, u64)>) -> Vec<(Boot, u64)> {
    let last = boots.len().saturating_sub(1);
    let wanted = dice.pick(&[0, 1, 1, 1, 1, 2, 2, 3, usize::MAX]);
    let mut kept = vec![];
    if wanted < last {
        for _ in 0..wanted {
            kept.push(last - 1 - dice.skewed(0..last as u64) as usize);
        }
    } else {
        kept.extend(0..last);
    }
    let joins = dice.pick(&[0.0, 0.0, 0.5, 1.0]);
    let flat = dice.chance(0.5);
    let (mut some, mut joined) = (vec![], vec![]);
    for (n, (mut boot, ios)) in boots.drain(..).enumerate() {
        if n == last || kept.contains(&n) {
            if !joined.is_empty() {
                joined.append(&mut boot.sessions);
                boot.sessions = std::mem::take(&mut joined);
                if flat {
                    flatten(&mut boot.sessions);
                }
            }
            some.push((boot, ios));
        } else if dice.chance(joins) {
            joined.append(&mut boot.sessions);
        }
    }
    some
}

/// Makes one session of several.
fn flatten(sessions: &mut Vec<SessionScript>) {
    let all = std::mem::take(sessions);
    let mut all = all.into_iter();
    let Some(mut one) = all.next() else { return };
    for script in all {
        one.session = script.session;
        for mut client in script.clients {
            match one.clients.iter_mut().find(|known| known.client == client.client) {
                Some(known) => known.operations.append(&mut client.operations),
                None => one.clients.push(client),
            }
        }
    }
    sessions.push(one);
}

fn one_client(dice: &mut Dice, boot: &mut Boot) {
    for script in &mut boot.sessions {
        let wanted = dice.below(script.clients.len() as u64) as usize;
        let mut at = 0;
        script.clients.retain(|_| {
            at += 1;
            at - 1 == wanted
        });
    }
}

/// Keeps about this share of the operations: any, or neighbours.
fn some_operations(dice: &mut Dice, boot: &mut Boot, share: f64) {
    if share >= 1.0 {
        return;
    }
    let pattern = dice.below(4);
    for client in boot.sessions.iter_mut().flat_map(|session| &mut session.clients) {
        let len = client.operations.len();
        let wanted = len as f64 * share;
        // What is less than one is a chance.
        let wanted = wanted as usize + usize::from(dice.chance(wanted.fract()));
        let start = match pattern {
            0 => len - wanted,
            1 => 0,
            2 => dice.below((len - wanted) as u64 + 1) as usize,
            _ => {
                client.operations.retain(|_| dice.chance(share));
                continue;
            }
        };
        client.operations.drain(start + wanted..);
        client.operations.drain(..start);
    }
}

/// The crash elsewhere: where as much is `left` of the boot's I/O operations as of its others, or
/// anywhere.
fn some_crash(dice: &mut Dice, boot: &mut Boot, ios: u64, left: f64) {
    let Some(CrashAt { how, when }) = boot.crash else { return };
    if dice.chance(0.15) {
        boot.crash = None;
        return;
    }
    let io = match when {
        When::AtIo(io) => io.min(ios),
        When::AfterNanos(_) | When::Never => ios,
    };
    let when = match dice.below(10) {
        0..=2 => When::AtIo(io),
        3..=6 => When::AtIo((io as f64 * left * (0.4 + 1.2 * dice.unit())) as u64),
        7..=8 => When::AtIo(dice.skewed(0..ios + 2)),
        _ => When::AfterNanos(dice.skewed(1_000..10_000_000)),
    };
    let how = match (how, dice.chance(0.15)) {
        (Crash::PowerLoss, true) => Crash::Killed,
        (Crash::Killed, true) => Crash::PowerLoss,
        (how, _) => how,
    };
    boot.crash = Some(CrashAt { how, when });
}

/// Leaves out clients that do nothing, and most sessions.
fn tidy(dice: &mut Dice, boot: &mut Boot, is_last: bool) {
    let last = boot.sessions.len().saturating_sub(1);
    let mut at = 0;
    boot.sessions.retain_mut(|script| {
        at += 1;
        script.clients.retain(|client| !client.operations.is_empty());
        !script.clients.is_empty() || is_last && at > last || dice.chance(0.4)
    });
}

fn some_faults(dice: &mut Dice, schedule: &mut Schedule) {
    let before = count(schedule, faults);
    let wanted = dice.pick(&[0, 0, 1, 2, 4, usize::MAX]);
    let share = (wanted as f64 / before.max(1) as f64).min(1.0);
    faults(schedule, &mut || dice.chance(share));
    for strike in schedule.boots.iter_mut().flat_map(|boot| &mut boot.faults) {
        if dice.chance(0.5) {
            strike.pass = dice.skewed(0..strike.pass + 2);
        }
    }
}

/// Some of those listed, or at which rate they are to be drawn.
fn some_preemptions(dice: &mut Dice, schedule: &mut Schedule, share: f64) -> f64 {
    if dice.chance(0.2) {
        schedule.order = dice.pick(&[Order::Uniform, Order::Priorities]);
    }
    let rates = match schedule.order {
        Order::Uniform => [0.01, 0.03, 0.1, 0.3],
        Order::Priorities => [0.002, 0.01, 0.03, 0.1],
    };
    let operations = all_operations(schedule).flatten().count();
    match dice.below(3) {
        0 => preemptions(schedule, &mut || false),
        1 => preemptions(schedule, &mut || dice.chance(share)),
        _ if operations < 200 => return dice.pick(&rates),
        _ => {}
    }
    0.0
}

/// The same schedule, with something else left to chance.
pub(super) fn otherwise(dice: &mut Dice, from: &Schedule) -> Trial {
    let mut schedule = from.clone();
    let mut preempt = 0.0;
    let crashes: Vec<usize> =
        (0..schedule.boots.len()).filter(|n| schedule.boots[*n].crash.is_some()).collect();
    if !crashes.is_empty() && dice.chance(0.6) {
        let boot = &mut schedule.boots[dice.pick(&crashes)];
        if let Some(CrashAt { when: When::AtIo(io), .. }) = &mut boot.crash {
            let nearer = [
                io.saturating_sub(1),
                io.saturating_sub(2),
                io.saturating_sub(3 + dice.below(8)),
                *io + 1,
                *io * 7 / 8,
                *io * 3 / 4,
                *io / 2,
                dice.below(*io + 1),
            ];
            *io = dice.pick(&nearer);
        }
    } else if !schedule.boots.is_empty() {
        let boot = dice.below(schedule.boots.len() as u64) as usize;
        schedule.boots[boot].stream = dice.below(1 << 16);
        schedule.make_streams_distinct();
    }
    if count(&schedule, preemptions) > 0 && dice.chance(0.3) {
        preempt = dice.pick(&[0.002, 0.01, 0.03, 0.1]);
    }
    Trial { schedule, preempt }
}
