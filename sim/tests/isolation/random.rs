//! Histories of databases that keep their word are never accused; those of databases that do not
//! are, and so are histories with one lie in them.

use super::executor::{Plan, run};
use lightning_sim::{
    Dice,
    isolation::{
        Anomaly, History,
        Level::{self, *},
        Operation, Status, check,
    },
};

const ALL: &[Level] = &[ReadCommitted, Snapshot, Serializable];

/// In how many of the histories of a plan each anomaly is.
fn found_in(plan: &Plan, seeds: u64) -> impl Fn(Anomaly) -> usize + use<> {
    let reports: Vec<_> = (0..seeds).map(|seed| check(&run(plan, seed))).collect();
    move |anomaly| reports.iter().filter(|report| report.count(anomaly) > 0).count()
}

#[track_caller]
fn is_innocent(plan: &Plan, seeds: u64) {
    for seed in 0..seeds {
        let report = check(&run(plan, seed));
        assert!(report.forbidden().is_empty() && report.is_complete(), "seed {seed}:\n{report}");
    }
}

#[test]
fn one_after_the_other_is_clean() {
    for seed in 0..300 {
        let report = check(&run(&Plan::new(100, 1, ALL), seed));
        assert!(report.found.is_empty(), "seed {seed}:\n{report}");
    }
}

#[test]
fn levels_that_are_kept_are_not_accused() {
    for levels in [&[ReadCommitted][..], &[Snapshot], &[Serializable], ALL] {
        is_innocent(&Plan::new(150, 5, levels), 150);
    }
    let many_keys = Plan { keys: 60, ..Plan::new(300, 12, ALL) };
    is_innocent(&many_keys, 100);
}

#[test]
fn answers_that_are_not_heard_accuse_nobody() {
    is_innocent(&Plan { unheard: 0.1, ..Plan::new(150, 5, ALL) }, 300);
    is_innocent(&Plan { unheard: 0.1, ..Plan::new(150, 1, ALL) }, 100);
}

/// Each level admits what it is known for, and nothing worse.
#[test]
fn levels_admit_what_they_are_known_for() {
    let committed = found_in(&Plan::new(150, 5, &[ReadCommitted]), 50);
    let snapshot = found_in(&Plan::new(150, 5, &[Snapshot]), 50);
    let serializable = found_in(&Plan::new(150, 5, &[Serializable]), 50);
    for anomaly in Anomaly::ALL {
        assert!(!Serializable.forbids(anomaly) || serializable(anomaly) == 0, "{anomaly}");
        assert!(!Snapshot.forbids(anomaly) || snapshot(anomaly) == 0, "{anomaly}");
    }
    use Anomaly::*;
    for anomaly in [LostUpdate, ReadSkew, ScanSkew, WriteSkew, Phantom] {
        assert!(committed(anomaly) > 25, "{anomaly}: {}", committed(anomaly));
    }
    assert!(snapshot(WriteSkew) > 25 && snapshot(Phantom) > 25);
}

#[test]
fn databases_that_break_their_word_are_accused() {
    let accused = |plan: &Plan, anomaly| {
        let forbids = |seed| check(&run(plan, seed)).forbidden().contains_key(&anomaly);
        (0..50).filter(|seed| forbids(*seed)).count()
    };
    let snapshot = Plan::new(150, 5, &[Snapshot]);
    let no_conflicts = Plan { no_write_conflicts: true, ..snapshot };
    assert!(accused(&no_conflicts, Anomaly::LostUpdate) > 45);
    let serializable = Plan::new(150, 5, &[Serializable]);
    let no_validation = Plan { no_validation: true, ..serializable.clone() };
    assert!(accused(&no_validation, Anomaly::WriteSkew) > 25);
    let no_scans = Plan { no_validation_of_scans: true, ..serializable };
    assert!(accused(&no_scans, Anomaly::Phantom) > 15);
}

/// Lets a read of a committed transaction have seen another version of its key, or none.
fn lie(history: &mut History, dice: &mut Dice) -> Option<String> {
    let mut versions: Vec<(Vec<u8>, u64)> = Vec::new();
    for operation in history.transactions.iter().flat_map(|txn| &txn.operations) {
        if let Operation::Write { key, version, delete: false, .. } = operation {
            versions.push((key.clone(), *version));
        }
    }
    for _ in 0..10_000 {
        let at = dice.below(history.transactions.len() as u64) as usize;
        let txn = &mut history.transactions[at];
        if !matches!(txn.status, Status::Committed { .. }) || txn.operations.is_empty() {
            continue;
        }
        let step = dice.below(txn.operations.len() as u64) as usize;
        let Operation::Read { key, seen, .. } = &mut txn.operations[step] else { continue };
        let others: Vec<u64> = versions
            .iter()
            .filter(|(of, version)| of == key && Some(*version) != *seen)
            .map(|(_, version)| *version)
            .collect();
        let wrong = match seen {
            Some(_) if dice.chance(0.2) => None,
            _ if others.is_empty() => continue,
            _ => Some(dice.pick(&others)),
        };
        let told = format!("transaction {}, step {step}: {seen:?} is now {wrong:?}", txn.id);
        *seen = wrong;
        return Some(told);
    }
    None
}

/// How many of 1,000 histories with one lie are accused.
fn lies_found(levels: &'static [Level], real_time: bool) -> usize {
    let (mut found, mut told) = (0, 0);
    for seed in 0..1000 {
        let mut history = run(&Plan::new(60, 1, levels), seed);
        if !real_time {
            history.transactions.iter_mut().for_each(|txn| txn.ended = None);
        }
        if let Some(lie) = lie(&mut history, &mut Dice::new(seed, "lie", 0)) {
            told += 1;
            let is_found = !check(&history).forbidden().is_empty();
            found += usize::from(is_found);
            if real_time && !is_found {
                println!("seed {seed}: {lie}");
            }
        }
    }
    println!("{levels:?}, acknowledged: {real_time}: {found} of {told} lies found");
    assert!(told > 990);
    found * 1000 / told
}

#[test]
fn a_lie_in_a_history_is_found() {
    assert!(lies_found(&[Serializable], true) >= 990);
    assert!(lies_found(&[Snapshot], true) >= 990);
}

/// Without knowing what was acknowledged when, a lie shows only if it contradicts other reads.
#[test]
fn a_lie_without_times_is_often_found() {
    assert!(lies_found(&[Serializable], false) >= 500);
}

/// 100,000 transactions of five steps, several at once, take seconds at most. (What they took is
/// printed; a shared machine admits no bound that would mean something.)
#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "heavy")]
fn a_long_history() {
    for (levels, keys) in [(ALL, 1000), (ALL, 20), (&[Serializable][..], 1000), (&[Snapshot], 1000)]
    {
        let history = run(&Plan { keys, ..Plan::new(100_000, 8, levels) }, 1);
        let began = std::time::Instant::now();
        let report = check(&history);
        println!("{levels:?}, {keys} keys: {:?}\n{report}", began.elapsed());
        assert!(report.forbidden().is_empty() && report.is_complete());
    }
}
