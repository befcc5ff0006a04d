//! Schedules: a run that is written down happens again, exactly; what once failed stays in
//! `corpus/schedules/`; and shrinking leaves little of a failure.

mod faulty;

use faulty::{Planted, wrap};
use lightning_faults::FaultPlan;
use lightning_sim::{
    database::{record_schedule_on, record_seed, record_seed_on, run_schedule, unwrapped},
    schedule::Schedule,
    shrink::{Shrunk, Trial, runner, shrink},
};
use std::{fs, path::Path, time::Duration};

/// For a schedule that leaves out what decides: it would replay something else.
#[test]
fn a_seed_written_down_runs_the_same() {
    // With damage to files of one kind, of which some are spared.
    let damaged = |seed: &u64| !FaultPlan::draw(*seed).damage.kinds().is_empty();
    for seed in (0..60).chain((60..2000).filter(damaged).take(60)) {
        let (outcome, schedule) = record_seed(seed, None);
        let text = schedule.write();
        let read = Schedule::read(&text).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        let again = run_schedule(&read, None);
        assert_eq!(again.trace_hash, outcome.trace_hash, "seed {seed} replays otherwise");
    }
}

/// For a shrinker whose result does not fail again, because preemptions that were drawn are not all
/// written down.
#[test]
fn preemptions_drawn_beside_a_list_are_written_down() {
    let mut preempted = 0;
    for seed in 0..20 {
        let (_, schedule) = record_seed(seed, None);
        let run = runner(unwrapped());
        let (outcome, drawn) = run(&Trial { schedule: schedule.clone(), preempt: 0.05 });
        assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
        let again = run_schedule(&drawn, None);
        assert_eq!(again.trace_hash, outcome.trace_hash, "seed {seed} replays otherwise");
        preempted += usize::from(drawn.size().preemptions != schedule.size().preemptions);
    }
    assert!(preempted > 10, "{preempted} of 20 seeds have other preemptions");
}

/// For a bug that comes back.
#[test]
fn what_once_failed_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/schedules");
    let files = fs::read_dir(&corpus).expect("the corpus is there");
    let mut paths: Vec<_> = files.flatten().map(|file| file.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(!paths.is_empty(), "no schedules in {corpus:?}");
    for path in paths {
        let text = fs::read_to_string(&path).expect("a readable file");
        let schedule = Schedule::read(&text).unwrap_or_else(|why| panic!("{path:?}: {why}"));
        let (outcome, came) = record_schedule_on(&schedule, None, unwrapped());
        assert!(outcome.violation.is_none(), "{path:?}: {:?}", outcome.violation);
        assert!(outcome.counters.get("boots") > Some(&0), "{path:?} does nothing");
        // One whose faults do not come about any more, because the engine has changed, tells nothing.
        let (listed, came) = (happens(&schedule), happens(&came));
        let of_plant = path.ends_with("canary-numbers-given-apart.json"); // at a place that only the bug has
        assert!(came * 3 >= listed * 2 || of_plant, "{path:?}: {came} of {listed} come about");
    }
}

/// How many faults, preemptions and crashes there are.
fn happens(schedule: &Schedule) -> usize {
    let size = schedule.size();
    size.faults + size.preemptions + size.crashes
}

/// Of the first seeds that find a bug planted below the engine, the one that did least, with the fewest crashes: what one
/// recovery has promised may take a second one to show.
fn find(bug: Planted) -> Schedule {
    let found = (0..500).filter_map(|seed| {
        let (outcome, schedule) = record_seed_on(seed, None, wrap(bug));
        outcome.violation.map(|_| schedule)
    });
    let size = |schedule: &Schedule| (schedule.size().crashes, schedule.size().operations);
    let least = found.take(5).min_by_key(size);
    least.unwrap_or_else(|| panic!("{bug:?} is not found within 500 seeds"))
}

/// For checks that see nothing.
#[test]
fn a_disk_that_breaks_its_promises_is_found_out() {
    let broken = find(Planted::DirectorySyncDoesNothing).breaks;
    assert!(broken.is_some_and(|invariant| invariant.starts_with("I-")));
}

fn find_and_shrink(bug: Planted) -> Shrunk {
    let schedule = find(bug);
    let shrunk =
        shrink(&schedule, &runner(wrap(bug)), Duration::from_secs(30)).expect("it fails again");
    println!(
        "{bug:?}: {} became {} in {} runs, {:?}",
        shrunk.before,
        shrunk.schedule.size(),
        shrunk.runs,
        shrunk.took
    );
    shrunk
}

/// For failures that nobody can read.
#[test]
fn what_fails_shrinks_to_a_few_operations_and_one_crash() {
    let shrunk = find_and_shrink(Planted::LogSyncDoesNothing);
    let size = shrunk.schedule.size();
    assert!(size.operations <= 10, "{size}");
    assert!(size.crashes <= 1 && size.faults <= 2, "{size}");
}
