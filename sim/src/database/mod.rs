//! Lightning DB on a simulated machine: what its clients do, and what must hold.
//!
//! One boot is one process. It opens the database, checks what recovery brought back, lets
//! clients loose on it, checks again, closes it or not, and opens it again, until a crash or
//! the plan ends it. Everything is drawn from the seed.

pub(crate) mod alone;
mod atomic;
mod by_id;
mod client;
mod closed;
mod emptied;
mod files;
mod follow;
mod load;
mod model;
pub mod operation;
mod pieces;
mod session;
pub mod shape;
mod transactions;
mod verbs;
mod vouched;
pub mod workload;

use crate::{
    env::SimEnv,
    schedule::Schedule,
    simulation::{Crash, Outcome, Plan, run},
};
use files::LossBound;
use lightning_db::env::Env;
use model::Model;
use parking_lot::Mutex;
use session::Process;
use std::sync::Arc;
use workload::Workload;

/// What the engine is given for the simulated machine: a test may put something between.
pub type Wrap = Arc<dyn Fn(SimEnv) -> Arc<dyn Env> + Send + Sync>;

/// Nothing between the engine and the machine.
pub fn unwrapped() -> Wrap {
    Arc::new(|env| Arc::new(env))
}

/// Runs a seed.
pub fn run_seed(seed: u64, keep_lines: Option<usize>) -> Outcome {
    let plan = Plan { keep_lines, ..Plan::draw(seed) };
    run_plan(plan)
}

/// Runs a seed and writes down what happened.
pub fn record_seed(seed: u64, keep_lines: Option<usize>) -> (Outcome, Schedule) {
    record_seed_on(seed, keep_lines, unwrapped())
}

/// The same, with something between the engine and the machine.
pub fn record_seed_on(seed: u64, keep_lines: Option<usize>, wrap: Wrap) -> (Outcome, Schedule) {
    let plan = Plan { keep_lines, ..Plan::draw(seed) };
    record(plan, Workload::draw(seed), wrap)
}

/// Runs a plan that was drawn from its seed, and perhaps changed.
pub fn run_plan(plan: Plan) -> Outcome {
    let workload = Workload::draw(plan.seed).into();
    run_plan_on(plan, workload, unwrapped())
}

/// The same, and writes down what happened.
pub fn record_plan(plan: Plan) -> (Outcome, Schedule) {
    let workload = Workload::draw(plan.seed);
    record(plan, workload, unwrapped())
}

/// Runs a schedule.
pub fn run_schedule(schedule: &Schedule, keep_lines: Option<usize>) -> Outcome {
    run_schedule_on(schedule, keep_lines, unwrapped())
}

/// The same, with something between the engine and the machine.
pub fn run_schedule_on(schedule: &Schedule, keep_lines: Option<usize>, wrap: Wrap) -> Outcome {
    run_plan_on(schedule.plan(0.0, keep_lines), Workload::listed(schedule).into(), wrap)
}

/// Runs a schedule and writes down what of it happened.
pub fn record_schedule_on(
    schedule: &Schedule,
    keep_lines: Option<usize>,
    wrap: Wrap,
) -> (Outcome, Schedule) {
    record_listed(schedule, schedule.plan(0.0, keep_lines), wrap)
}

/// The same, with preemptions drawn in this share of the passes of their sites, in place of those
/// listed, if it is above 0.
pub fn record_schedule_preempted(
    schedule: &Schedule,
    preempt: f64,
    wrap: Wrap,
) -> (Outcome, Schedule) {
    record_listed(schedule, schedule.plan(preempt, None), wrap)
}

fn record_listed(schedule: &Schedule, plan: Plan, wrap: Wrap) -> (Outcome, Schedule) {
    let (outcome, mut recorded) = record(plan, Workload::listed(schedule), wrap);
    recorded.note = schedule.note.clone();
    (outcome, recorded)
}

fn record(plan: Plan, workload: Workload, wrap: Wrap) -> (Outcome, Schedule) {
    let workload = Arc::new(workload.recorded());
    let outcome = run_plan_on(plan.clone(), workload.clone(), wrap);
    let sessions = workload.take_recorded();
    let schedule = Schedule::of(&plan, &outcome, &workload.settings, sessions);
    (outcome, schedule)
}

fn run_plan_on(plan: Plan, workload: Arc<Workload>, wrap: Wrap) -> Outcome {
    let model = Arc::new(Mutex::new(Model::new(plan.may_damage())));
    let bound = LossBound::of(&plan, &workload.settings);
    run(plan, move |boot| {
        if let Some(crash) = &boot.after_crash {
            bound.apply(crash, &mut model.lock());
        }
        model.lock().crashed(boot.after == Crash::PowerLoss);
        let env = wrap(boot.env.clone());
        Process::new(boot, env, workload.clone(), model.clone()).run();
    })
}
