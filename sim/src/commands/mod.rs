//! What `lightning-sim` can be asked for.

pub(crate) mod canaries;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod shrink;

use canaries::Class;
use lightning_sim::{
    database::{record_plan, record_schedule_on, unwrapped},
    schedule::{Schedule, Size},
    shrink::{Shrunk, Trial, runner},
    simulation::{Outcome, Plan},
    timeline::timeline,
};
use std::{cell::Cell, time::Duration};

/// Events of each boot that are shown with a violation.
const EVENTS: usize = 60;
/// Seconds of processor time for making what fails small, unless told otherwise.
const SHRINK_SECONDS: u64 = 60;

/// A number, or why it is none.
fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// What is to be run: a seed, or the schedule in a file.
enum Source {
    Seed(u64),
    File(Box<Schedule>),
}

impl Source {
    fn of(argument: &str) -> Result<Source, String> {
        if let Ok(seed) = argument.parse() {
            return Ok(Source::Seed(seed));
        }
        let text = read(argument)?;
        let schedule = Schedule::read(&text).map_err(|why| format!("{argument}: {why}"))?;
        Ok(Source::File(Box::new(schedule)))
    }

    /// Runs it, and writes down what happened.
    fn record(&self, keep_lines: Option<usize>) -> (Outcome, Schedule) {
        match self {
            Source::Seed(seed) => record_plan(plan(*seed, &[], keep_lines)),
            Source::File(schedule) => record_schedule_on(schedule, keep_lines, unwrapped()),
        }
    }
}

/// The plan of a seed, without some of what can go wrong.
fn plan(seed: u64, without: &[Class], keep_lines: Option<usize>) -> Plan {
    let mut plan = Plan { keep_lines, ..Plan::draw(seed) };
    without.iter().for_each(|class| class.switch_off(&mut plan));
    plan
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

fn write(path: &str, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {path}: {error}"))
}

/// Tells which promise was broken.
fn verdict(outcome: &Outcome) -> String {
    match &outcome.violation {
        Some(broken) => {
            format!("seed {} BREAKS {}: {}\n", outcome.seed, broken.invariant, broken.message)
        }
        None => "no promise was broken\n".into(),
    }
}

/// Tells what happened, if a promise was broken, and how to see it again.
fn story(outcome: &Outcome, file: &str) -> String {
    if outcome.violation.is_none() {
        return String::new();
    }
    format!(
        "what happened:\n{}\nreplay it with: lightning-sim replay {file} --trace\n",
        timeline(outcome, EVENTS)
    )
}

/// Makes a schedule small, for so many seconds of processor time, writes it to `out`, and tells it.
/// `None`: it breaks no promise.
fn made_small(schedule: &Schedule, out: &str, seconds: u64) -> Result<Option<String>, String> {
    let (run, least) = (runner(unwrapped()), Cell::new(u64::MAX));
    let weight = |size: Size| {
        let Size { operations, crashes, faults, preemptions } = size;
        (operations + 4 * crashes + 2 * faults + preemptions) as u64
    };
    // A bug may end this very process: what was found until then is there.
    let keep = |trial: &Trial| {
        let (outcome, recorded) = run(trial);
        let weight = weight(recorded.size());
        if recorded.breaks == schedule.breaks && outcome.violation.is_some() && weight < least.get()
        {
            least.set(weight);
            let _ = write(out, &recorded.write());
        }
        (outcome, recorded)
    };
    let shrunk = lightning_sim::shrink::shrink(schedule, &keep, Duration::from_secs(seconds));
    let Some(Shrunk { schedule: small, before, runs, took }) = shrunk else {
        return Ok(None);
    };
    write(out, &small.write())?;
    let (outcome, _) = record_schedule_on(&small, Some(usize::MAX), unwrapped());
    Ok(Some(format!(
        "before: {before}\nafter:  {}\n{runs} runs in {:.1} s of processor time\n{}",
        small.size(),
        took.as_secs_f64(),
        story(&outcome, out)
    )))
}
