//! What `lightning-sim` can be asked for.

pub(crate) mod canaries;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod shrink;

use canaries::Class;
use lightning_sim::{
    database::{record_plan, record_schedule_on, unwrapped},
    schedule::Schedule,
    simulation::{Outcome, Plan},
    timeline::timeline,
};

/// Events of each boot that are shown with a violation.
const EVENTS: usize = 40;

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

/// Tells a broken promise, and how to see it again.
fn violation(outcome: &Outcome, file: &str) -> String {
    let Some(violation) = &outcome.violation else {
        return "no promise was broken\n".into();
    };
    format!(
        "\nseed {} BREAKS {}: {}\nwhat happened:\n{}\n\
         replay it with: lightning-sim replay {file} --trace\n\
         shrink it with: lightning-sim shrink {file}\n",
        outcome.seed,
        violation.invariant,
        violation.message,
        timeline(outcome, EVENTS)
    )
}
