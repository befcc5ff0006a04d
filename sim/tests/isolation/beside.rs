//! The same verdict as another checker, `adya`, which follows Jepsen's Elle, on what both
//! understand: keys that are read and put one by one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{
    build::{Build, found, history, txn},
    executor::{Plan, run},
};
use lightning_sim::isolation::{
    Anomaly, History,
    Level::{self, *},
    Operation, Report, Status, Transaction, check,
};
use std::{collections::HashMap, fmt::Write, time::Duration};

/// Histories of each plan.
const SEEDS: u64 = if cfg!(feature = "integration_tests") { 60 } else { 10 };

/// The history in adya's words: a line for each beginning and each end.
fn lines(history: &History) -> (String, HashMap<u64, i64>) {
    let mut events: Vec<(u64, &Transaction, bool)> = Vec::new();
    for txn in &history.transactions {
        events.push((txn.began, txn, false));
        // Whoever was aborted ended before their session went on; the order of ends is not used.
        events.push((txn.ended.unwrap_or(txn.began), txn, true));
    }
    events.sort_by_key(|(at, _, end)| (*at, *end));
    let (mut text, mut orders) = (String::new(), HashMap::new());
    for (index, (_, txn, end)) in events.into_iter().enumerate() {
        let kind = match (end, txn.status) {
            (false, _) => "invoke",
            (true, Status::Committed { order }) => {
                orders.insert(index as u64, order as i64);
                "ok"
            }
            (true, Status::Aborted) => "fail",
            (true, Status::Unknown) => "info",
        };
        let steps: Vec<_> = txn.operations.iter().map(|step| micro(step, end)).collect();
        let (session, steps) = (txn.session, steps.join(","));
        writeln!(
            text,
            r#"{{"index":{index},"type":"{kind}","process":{session},"value":[{steps}]}}"#
        )
        .unwrap();
    }
    (text, orders)
}

fn micro(step: &Operation, end: bool) -> String {
    match step {
        Operation::Write { key, version, .. } => {
            format!(r#"["w","{}",{version}]"#, key.escape_ascii())
        }
        Operation::Read { key, seen, .. } => {
            let seen = seen.filter(|_| end).map_or("null".into(), |seen| seen.to_string());
            format!(r#"["r","{}",{seen}]"#, key.escape_ascii())
        }
        _ => unreachable!("not in this plan"),
    }
}

/// What adya finds, and whether it rules the level out.
fn other(history: &History, model: &str) -> (Vec<String>, bool) {
    let (text, orders) = lines(history);
    let opts = adya::Opts {
        models: vec![model.into()],
        transaction_order: Some(orders),
        timeout: Duration::from_secs(600), // else a slow machine has no verdict
        ..adya::Opts::default()
    };
    let history = adya::History::from_json(&text).unwrap();
    let report = adya::check(&history, adya::Workload::RwRegister, &opts);
    (report.anomaly_types, report.valid == adya::Valid::False)
}

/// Whether we find what the level forbids, whatever the transactions were promised. What follows
/// from times and from the order of commits alone adya does not look for.
fn ours(report: &Report, level: Level) -> bool {
    let of_order = [Anomaly::RealTime, Anomaly::NoSnapshot];
    report.found.keys().any(|anomaly| level.forbids(*anomaly) && !of_order.contains(anomaly))
}

#[test]
fn another_checker_agrees() {
    let kept = |levels| Plan { registers: true, keys: 6, ..Plan::new(40, 4, levels) };
    let plans = [
        kept(&[ReadCommitted]),
        kept(&[Snapshot]),
        kept(&[Serializable]),
        Plan { no_write_conflicts: true, ..kept(&[Snapshot]) },
        Plan { no_validation: true, ..kept(&[Serializable]) },
    ];
    let models = [
        (ReadCommitted, "read-committed"),
        (Snapshot, "snapshot-isolation"),
        (Serializable, "serializable"),
    ];
    let mut ruled_out = [0; 3];
    for (plan, seed) in plans.iter().flat_map(|plan| (0..SEEDS).map(move |seed| (plan, seed))) {
        let history = run(plan, seed);
        let report = check(&history);
        for (at, (level, model)) in models.iter().enumerate() {
            let (theirs, invalid) = other(&history, model);
            let same = ours(&report, *level) == invalid;
            assert!(same, "{plan:?}, seed {seed}, {model}: {theirs:?}, {invalid}\n{report}");
            ruled_out[at] += usize::from(invalid);
        }
    }
    println!("ruled out of {} histories: {ruled_out:?}", plans.len() as u64 * SEEDS);
}

/// Planted histories have the same name in both.
#[test]
fn another_checker_finds_the_same() {
    let level = Serializable;
    let one = || txn(1, level).put("x", 1).put("y", 11);
    let two = |x, y| txn(2, level).read("x", x).read("y", y).put("x", 2).put("y", 12);
    let aborted = || txn(1, level).put("x", 1).status(Status::Aborted);
    let skew = |id, key, seen, version| txn(id, level).read(key, seen).put("xy", version);
    let planted: [(Vec<Build>, &[Anomaly], &[&str]); 8] = [
        (vec![one(), two(1, 11), txn(3, level).read("x", 2).read("y", 12)], &[], &[]),
        (vec![aborted(), txn(2, level).read("x", 1)], &[Anomaly::AbortedRead], &["G1a"]),
        (
            vec![txn(1, level).put("x", 1).put("x", 2), txn(2, level).read("x", 1)],
            &[Anomaly::IntermediateRead],
            &["G1b"],
        ),
        (
            vec![txn(1, level).put("x", 1).read("y", 2), txn(2, level).put("y", 2).read("x", 1)],
            &[Anomaly::CircularInformation],
            &["G1c"],
        ),
        (
            vec![
                txn(1, level).put("x", 1),
                skew(2, "x", 1, 2).put("x", 3),
                skew(3, "x", 1, 4).put("x", 5),
            ],
            &[Anomaly::LostUpdate],
            &["G-single-item", "lost-update"],
        ),
        (
            vec![one(), two(1, 11), txn(3, level).read("x", 1).read("y", 12)],
            &[Anomaly::ReadSkew],
            &["G-single-item"],
        ),
        (
            vec![
                txn(1, level).read("x", None).put("y", 1),
                txn(2, level).read("y", None).put("x", 2),
            ],
            &[Anomaly::WriteSkew],
            &["G2-item"],
        ),
        (
            vec![txn(1, level).put("x", 1).read("x", None)],
            &[Anomaly::OwnWriteMissed],
            &["internal"],
        ),
    ];
    for (transactions, anomalies, names) in planted {
        let history = history(transactions);
        assert_eq!(found(&history), anomalies);
        let (theirs, invalid) = other(&history, "serializable");
        println!("{anomalies:?}: {theirs:?}");
        assert_eq!(invalid, !names.is_empty(), "{theirs:?}");
        assert!(names.iter().any(|name| theirs.iter().any(|t| t == name)) || names.is_empty());
    }
}
