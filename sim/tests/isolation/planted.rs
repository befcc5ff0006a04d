//! One history for each anomaly, and its nearest neighbour that is innocent.

use super::build::{Build, ending, forbidden, found, history, txn};
use lightning_sim::isolation::{
    Anomaly::{self, *},
    Dependency, History,
    Level::{self, *},
    Status, check,
};

const LEVELS: [Level; 3] = [ReadCommitted, Snapshot, Serializable];

/// The anomaly is found whatever the levels are, and accuses where they forbid it; nothing is
/// found in the neighbour.
#[track_caller]
fn shows(
    anomalies: &[Anomaly],
    with: impl Fn(Level) -> History,
    without: impl Fn(Level) -> History,
) {
    for level in LEVELS {
        let report = check(&with(level));
        assert_eq!(report.found.keys().copied().collect::<Vec<_>>(), anomalies, "{report}");
        let wanted: Vec<_> = anomalies.iter().copied().filter(|a| level.forbids(*a)).collect();
        assert_eq!(report.forbidden().keys().copied().collect::<Vec<_>>(), wanted, "{report}");
        assert!(report.is_complete());
        let innocent = check(&without(level));
        assert!(innocent.found.is_empty(), "{innocent}");
    }
}

#[test]
fn contradiction() {
    let at = |order| Status::Committed { order };
    let two = |order| {
        move |level| {
            history([txn(1, level).put("x", 1), txn(2, level).put("y", 2).status(at(order))])
        }
    };
    shows(&[Contradiction], two(1), two(2));
    let numbers = |version| {
        move |level| history([txn(1, level).put("x", 1), txn(2, level).put("y", version)])
    };
    shows(&[Contradiction], numbers(1), numbers(2));
    let same = history([txn(1, Snapshot), txn(1, Snapshot)]);
    assert_eq!(forbidden(&same), [Contradiction]);
    // Those that only read may share a place.
    let readers = [txn(1, Snapshot).status(at(7)), txn(2, Snapshot).status(at(7))];
    assert!(found(&history(readers)).is_empty());
}

#[test]
fn thin_air() {
    let reads = |version| {
        move |level| history([txn(1, level).put("x", 1), txn(2, level).read("x", version)])
    };
    shows(&[ThinAir], reads(99), reads(1));
    let of_another_key = |key: &'static str| {
        move |level| history([txn(1, level).put("x", 1), txn(2, level).read(key, 1)])
    };
    shows(&[ThinAir], of_another_key("y"), of_another_key("x"));
    let scans = |seen: &'static [(&str, u64)]| {
        move |level| history([txn(1, level).put("x", 1), txn(2, level).scan("a", "z", seen)])
    };
    shows(&[ThinAir], scans(&[("x", 1), ("x", 1)]), scans(&[("x", 1)]));
    let up_to = |reached| {
        move |level| {
            let reader = txn(2, level).scan_up_to("a", "z", Some(reached), &[("x", 1)]);
            history([txn(1, level).put("x", 1), reader])
        }
    };
    shows(&[ThinAir], up_to("x"), up_to("y"));
    // A delete leaves nothing that could be read.
    let deleted = [txn(1, Snapshot).put("x", 1), txn(2, Snapshot).delete("x", 2)];
    let reader = txn(3, Snapshot).read("x", 2);
    assert_eq!(forbidden(&history(deleted.into_iter().chain([reader]))), [ThinAir]);
}

#[test]
fn own_write_missed() {
    let one = |build: fn(Build) -> Build| {
        move |level| history([txn(1, level).put("x", 1), build(txn(2, level))])
    };
    shows(
        &[OwnWriteMissed],
        one(|t| t.put("x", 2).read("x", 1)),
        one(|t| t.put("x", 2).read("x", 2)),
    );
    shows(
        &[OwnWriteMissed],
        one(|t| t.put("y", 2).scan("a", "z", &[("x", 1)])),
        one(|t| t.put("y", 2).scan("a", "z", &[("x", 1), ("y", 2)])),
    );
    shows(
        &[OwnWriteMissed],
        one(|t| t.delete_range("a", "z", 2).read("x", 1)),
        one(|t| t.delete_range("a", "z", 2).read("x", None)),
    );
    shows(
        &[OwnWriteMissed],
        one(|t| t.delete("x", 2).scan("a", "z", &[("x", 1)])),
        one(|t| t.delete("x", 2).scan("a", "z", &[])),
    );
    shows(
        &[OwnWriteMissed],
        one(|t| t.delete_range("a", "z", 2).put("x", 3).read("x", None)),
        one(|t| t.delete_range("a", "z", 2).put("x", 3).read("x", 3)),
    );
    shows(
        &[OwnWriteMissed],
        one(|t| t.read("y", 2).put("y", 2)),
        one(|t| t.read("y", None).put("y", 2)),
    );
    // Also of a transaction that is not in.
    let aborted = txn(1, ReadCommitted).put("x", 1).read("x", None).status(Status::Aborted);
    assert_eq!(forbidden(&history([aborted])), [OwnWriteMissed]);
}

#[test]
fn write_cycle() {
    let both = |level, keys: &[(&str, u64)]| {
        let two = [txn(1, level).put("x", 1).put("y", 3), txn(2, level).put("x", 2).put("y", 4)];
        // The final state is read as by a Serializable transaction, whatever the others are.
        ending(two, keys)
    };
    for level in LEVELS {
        let mixed = both(level, &[("x", 1), ("y", 4)]);
        assert_eq!(found(&mixed), [WriteCycle, RealTime], "{}", check(&mixed));
        assert_eq!(forbidden(&mixed), [WriteCycle, RealTime]);
        assert!(found(&both(level, &[("x", 2), ("y", 4)])).is_empty());
    }
}

#[test]
fn aborted_read() {
    let reads = |status| {
        move |level| history([txn(1, level).put("x", 1).status(status), txn(2, level).read("x", 1)])
    };
    shows(&[AbortedRead], reads(Status::Aborted), reads(Status::Committed { order: 1 }));
    shows(&[AbortedRead], reads(Status::Aborted), reads(Status::Unknown));
}

#[test]
fn intermediate_read() {
    let reads = |version| {
        move |level| {
            history([txn(1, level).put("x", 1).put("x", 2), txn(2, level).read("x", version)])
        }
    };
    shows(&[IntermediateRead], reads(1), reads(2));
    let deleted = |seen: Option<u64>| {
        move |level| {
            let writer = txn(1, level).put("x", 1).delete_range("a", "z", 2);
            history([writer, txn(2, level).read("x", seen)])
        }
    };
    shows(&[IntermediateRead], deleted(Some(1)), deleted(None));
}

#[test]
fn circular_information() {
    let reads = |y: Option<u64>| {
        move |level| {
            let (one, two) = (txn(1, level).put("x", 1), txn(2, level).put("y", 2));
            history([one.read("y", y), two.read("x", 1)])
        }
    };
    shows(&[CircularInformation], reads(Some(2)), reads(None));
}

#[test]
fn lost_update() {
    let second = |seen| {
        move |level| {
            let first = [txn(1, level).put("x", 1), txn(2, level).read("x", 1).put("x", 2)];
            history(first.into_iter().chain([txn(3, level).read("x", seen).put("x", 3)]))
        }
    };
    shows(&[LostUpdate], second(1), second(2));
    let inserts = |seen: Option<u64>| {
        move |level| {
            history([
                txn(1, level).read("x", None).put("x", 1),
                txn(2, level).read("x", seen).put("x", 2),
            ])
        }
    };
    shows(&[LostUpdate], inserts(None), inserts(Some(1)));
    let scanned = |seen| {
        move |level| {
            let first = [txn(1, level).put("x", 1), txn(2, level).put("x", 2)];
            let reader = txn(3, level).scan("a", "z", &[("x", seen)]).put("x", 3);
            history(first.into_iter().chain([reader]))
        }
    };
    shows(&[LostUpdate], scanned(1), scanned(2));
    // Both delete and put again: the second saw the key absent where the first left it so.
    let absent = |level| {
        let first = [txn(1, level).put("x", 1), txn(2, level).delete("x", 2)];
        history(first.into_iter().chain([txn(3, level).read("x", None).put("x", 3)]))
    };
    assert!(LEVELS.iter().all(|level| found(&absent(*level)).is_empty()));
}

#[test]
fn read_skew() {
    let reads = |x: u64, y: u64| {
        move |level| {
            let writers =
                [txn(1, level).put("x", 1).put("y", 2), txn(2, level).put("x", 3).put("y", 4)];
            history(writers.into_iter().chain([txn(3, level).read("x", x).read("y", y)]))
        }
    };
    shows(&[ReadSkew], reads(1, 4), reads(3, 4));
    shows(&[ReadSkew], reads(3, 2), reads(1, 2));
    let again = |x: u64| {
        move |level| {
            let writers = [txn(1, level).put("x", 1), txn(2, level).put("x", 3)];
            history(writers.into_iter().chain([txn(3, level).read("x", 1).read("x", x)]))
        }
    };
    shows(&[ReadSkew], again(3), again(1));
    let half_deleted = |y: Option<u64>| {
        move |level| {
            let writers =
                [txn(1, level).put("x", 1).put("y", 2), txn(2, level).delete_range("a", "z", 3)];
            history(writers.into_iter().chain([txn(3, level).read("x", None).read("y", y)]))
        }
    };
    shows(&[ReadSkew], half_deleted(Some(2)), half_deleted(None));
}

#[test]
fn read_skew_tells_its_cycle() {
    let writers =
        [txn(1, Snapshot).put("x", 1).put("y", 2), txn(2, Snapshot).put("x", 3).put("y", 4)];
    let reader = txn(3, Snapshot).read("x", 1).read("y", 4);
    let report = check(&history(writers.into_iter().chain([reader])));
    let first = &report.forbidden()[&ReadSkew].first;
    assert_eq!(first.transactions, [3, 2]);
    let told: Vec<_> =
        first.cycle.iter().map(|l| (l.from, l.to, l.dependency, l.key.as_slice())).collect();
    assert_eq!(told, [(3, 2, Dependency::Anti, &b"x"[..]), (2, 3, Dependency::Read, &b"y"[..])]);
    assert_eq!(
        report.to_string(),
        "read skew (G-single): 1 (1 of them forbidden)\n  transaction 3 (session 3, Snapshot) read \
         \"x\" of keyspace 0 and did not see what transaction 2 (session 2, Snapshot) made of it; \
         transaction 3 (session 3, Snapshot) saw what transaction 2 (session 2, Snapshot) left in \
         \"y\" of keyspace 0\n"
    );
}

#[test]
fn scan_skew() {
    let scans = |seen: &'static [(&str, u64)]| {
        move |level| {
            let reader = txn(2, level).scan("a", "c", seen).read("x", 2);
            history([txn(1, level).put("b", 1).put("x", 2), reader])
        }
    };
    shows(&[ScanSkew], scans(&[]), scans(&[("b", 1)]));
    // What the scan did not cover it did not miss.
    let up_to = |reached| {
        move |level| {
            let reader = txn(2, level).scan_up_to("a", "c", Some(reached), &[]).read("x", 2);
            history([txn(1, level).put("b", 1).put("x", 2), reader])
        }
    };
    shows(&[ScanSkew], up_to("b\0"), up_to("b"));
}

#[test]
fn no_snapshot() {
    let reads = |x: Option<u64>, y: Option<u64>| {
        move |level| {
            let writers = [txn(1, level).put("x", 1), txn(2, level).put("y", 2)];
            history(writers.into_iter().chain([txn(3, level).read("x", x).read("y", y)]))
        }
    };
    shows(&[NoSnapshot], reads(None, Some(2)), reads(Some(1), None));
    // The long fork: for Adya two anti-dependencies, which snapshots would admit.
    let writers = [txn(1, Snapshot).put("x", 1), txn(2, Snapshot).put("y", 2)];
    let readers = [
        txn(3, Snapshot).read("x", 1).read("y", None),
        txn(4, Snapshot).read("x", None).read("y", 2),
    ];
    let fork = history(writers.into_iter().chain(readers));
    assert_eq!(found(&fork), [NoSnapshot, WriteSkew]);
    assert_eq!(forbidden(&fork), [NoSnapshot]);
}

#[test]
fn real_time() {
    let reads = |began| {
        move |level| {
            let writers =
                [txn(1, level).put("x", 1).during(0, 10), txn(2, level).put("x", 2).during(20, 30)];
            history(writers.into_iter().chain([txn(3, level).read("x", 1).during(began, 100)]))
        }
    };
    shows(&[RealTime], reads(31), reads(30));
    let order = |began| {
        move |level| {
            history([
                txn(2, level).put("x", 2).during(0, 10),
                txn(1, level).put("y", 1).during(began, 30),
            ])
        }
    };
    shows(&[RealTime], order(11), order(10));
    let of_the_future = |ended| {
        move |level| {
            let writer = txn(1, level).put("x", 1).during(20, 30);
            history([writer, txn(2, level).read("x", 1).during(0, ended)])
        }
    };
    shows(&[RealTime], of_the_future(19), of_the_future(20));
    let scans = |began| {
        move |level| {
            let writer = txn(1, level).put("x", 1).during(0, 10);
            history([writer, txn(2, level).scan("a", "z", &[]).during(began, 30)])
        }
    };
    shows(&[RealTime], scans(11), scans(10));
}

#[test]
fn lost_write() {
    let writers = |ended| {
        let mut last = history([txn(2, Snapshot).put("x", 2)]).transactions.remove(0);
        last.ended = ended;
        let mut all = ending([txn(1, Snapshot).put("x", 1)], &[("x", 1)]);
        all.transactions.push(last);
        all
    };
    assert_eq!(forbidden(&writers(Some(5))), [RealTime]);
    assert!(found(&writers(None)).is_empty());
    assert_eq!(forbidden(&ending([txn(1, Snapshot).put("x", 1)], &[])), [RealTime]);
    assert!(found(&ending([txn(1, Snapshot).put("x", 1)], &[("x", 1)])).is_empty());
    // Deleted keys that come back.
    let two = || [txn(1, Snapshot).put("x", 1), txn(2, Snapshot).delete_range("a", "z", 2)];
    assert_eq!(forbidden(&ending(two(), &[("x", 1)])), [RealTime]);
    assert!(found(&ending(two(), &[])).is_empty());
    // What was not committed.
    let aborted = txn(1, Snapshot).put("x", 1).status(Status::Aborted);
    assert_eq!(forbidden(&ending([aborted], &[("x", 1)])), [AbortedRead]);
}

#[test]
fn write_skew() {
    let second = |x: Option<u64>| {
        move |level| {
            let first = txn(1, level).read("x", None).read("y", None).put("x", 1);
            history([first, txn(2, level).read("x", x).read("y", None).put("y", 2)])
        }
    };
    shows(&[WriteSkew], second(None), second(Some(1)));
}

#[test]
fn write_skew_of_three() {
    let third = |x: Option<u64>| {
        move |level| {
            history([
                txn(1, level).read("y", None).put("x", 1),
                txn(2, level).read("z", None).put("y", 2),
                txn(3, level).read("x", x).put("z", 3),
            ])
        }
    };
    shows(&[WriteSkew], third(None), third(Some(1)));
    // The reader makes it one (Fekete et al. 2004): without it the two writers have an order.
    let reader = |x: Option<u64>| {
        move |level| {
            history([
                txn(1, level).read("y", None).put("z", 1),
                txn(3, level).put("x", 3),
                txn(5, level).read("x", None).read("z", 1).put("y", 5),
                txn(4, level).read("x", x).read("y", None),
            ])
        }
    };
    assert!(found(&reader(None)(Snapshot)).is_empty());
    assert!(!forbidden(&reader(Some(3))(Serializable)).is_empty());
}

#[test]
fn phantom() {
    let second = |seen: &'static [(&str, u64)]| {
        move |level| {
            let first = txn(1, level).scan("a", "z", &[]).put("x", 1);
            history([first, txn(2, level).scan("a", "z", seen).put("y", 2)])
        }
    };
    shows(&[Phantom], second(&[]), second(&[("x", 1)]));
    let up_to = |reached| {
        move |level| {
            let first = txn(1, level).scan("a", "z", &[]).put("x", 1);
            history([first, txn(2, level).scan_up_to("a", "z", Some(reached), &[]).put("y", 2)])
        }
    };
    shows(&[Phantom], up_to("y"), up_to("x"));
    // A key that the scan saw and another deleted is one that was read.
    let deletes = |level| {
        let first = [txn(1, level).put("x", 1).put("y", 2)];
        let both = [
            txn(2, level).scan("a", "z", &[("x", 1), ("y", 2)]).delete("x", 3),
            txn(3, level).scan("a", "z", &[("x", 1), ("y", 2)]).delete_range("y", "z", 4),
        ];
        history(first.into_iter().chain(both))
    };
    assert_eq!(found(&deletes(Snapshot)), [WriteSkew]);
}

/// What counts is the level of those whose anti-dependencies the cycle needs.
#[test]
fn levels_side_by_side() {
    let skew = |one, two| {
        let first = txn(1, one).read("y", None).put("x", 1);
        history([first, txn(2, two).read("x", None).put("y", 2)])
    };
    assert!(forbidden(&skew(Serializable, Snapshot)).is_empty());
    assert!(forbidden(&skew(Snapshot, Serializable)).is_empty());
    assert_eq!(forbidden(&skew(Serializable, Serializable)), [WriteSkew]);
    let phantom = |one, two| {
        let first = txn(1, one).scan("y", "z", &[]).put("x", 1);
        history([first, txn(2, two).scan("x", "y", &[]).put("y", 2)])
    };
    assert!(forbidden(&phantom(Serializable, ReadCommitted)).is_empty());
    assert_eq!(forbidden(&phantom(Serializable, Serializable)), [Phantom]);
    let lost = |loser| {
        let writers = [txn(1, ReadCommitted).put("x", 1), txn(2, ReadCommitted).put("x", 2)];
        history(writers.into_iter().chain([txn(3, loser).read("x", 1).put("x", 3)]))
    };
    assert!(forbidden(&lost(ReadCommitted)).is_empty());
    assert_eq!(forbidden(&lost(Snapshot)), [LostUpdate]);
}

/// No value may mean several moments. The one that explains all is taken.
#[test]
fn absence_is_taken_in_favour() {
    let writers = || {
        [
            txn(1, Snapshot).put("x", 1).put("y", 2),
            txn(2, Snapshot).delete("x", 3),
            txn(3, Snapshot).put("x", 4).put("y", 5),
            txn(4, Snapshot).delete("x", 6),
            txn(5, Snapshot).put("x", 7).put("y", 8),
        ]
    };
    let with = |reader: Build| found(&history(writers().into_iter().chain([reader])));
    for y in [None, Some(2), Some(5)] {
        assert!(with(txn(6, Serializable).read("x", None).read("y", y)).is_empty(), "{y:?}");
    }
    assert_eq!(with(txn(6, Serializable).read("x", None).read("y", 8)), [ReadSkew]);
    // The scan is of the same moment.
    let scan = |y| txn(6, Serializable).scan("a", "z", &[("y", y)]);
    assert!(with(scan(2)).is_empty() && with(scan(5)).is_empty());
    assert_eq!(with(scan(8)), [ScanSkew]);
}

#[test]
fn transactions_of_unknown_end() {
    // One that nobody saw is not missed.
    let unseen = [txn(1, Serializable).put("x", 1).status(Status::Unknown)];
    assert!(found(&ending(unseen, &[])).is_empty());
    // One that was seen must be whole.
    let unknown = || txn(1, Snapshot).put("x", 1).put("x", 2).status(Status::Unknown);
    assert!(found(&ending([unknown()], &[("x", 2)])).is_empty());
    assert_eq!(forbidden(&ending([unknown()], &[("x", 1)])), [IntermediateRead]);
    // What it may have deleted may be absent.
    let may_delete = [
        txn(1, Snapshot).put("x", 1).during(0, 1),
        txn(2, Snapshot).delete_range("a", "z", 2).status(Status::Unknown).during(2, 3),
        txn(3, Snapshot).read("x", None).during(4, 5),
    ];
    assert!(found(&history(may_delete)).is_empty());
    // What it read counts as well.
    let circular = [
        txn(1, Snapshot).put("x", 1).read("y", 2).status(Status::Unknown),
        txn(2, Snapshot).put("y", 2).read("x", 1),
    ];
    assert_eq!(forbidden(&history(circular)), [CircularInformation]);
}

#[test]
fn strange_input_does_no_harm() {
    let mut strange = history([
        txn(1, Snapshot).delete_range("z", "a", 1).scan("z", "a", &[]).scan("b", "b", &[]),
        txn(1, Snapshot).put("x", 1).put("x", 1).read("x", 1),
        txn(u64::MAX, Snapshot).put("y", 1).during(9, 3).status(Status::Committed { order: 1 }),
        txn(4, Snapshot).read("x", 1).read("y", 1).put("y", u64::MAX),
    ]);
    strange.final_state =
        Some([(0, [(b"q".to_vec(), 1), (b"x".to_vec(), 1)].into()), (9, [].into())].into());
    assert!(forbidden(&strange).contains(&Contradiction));
    assert!(found(&History::default()).is_empty());
}
