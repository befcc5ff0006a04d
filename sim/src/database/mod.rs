//! Lightning DB on a simulated machine: what its clients do, and what must hold.
//!
//! One boot is one process. It opens the database, checks what recovery brought back, lets
//! clients loose on it, checks again, closes it or not, and opens it again, until a crash or
//! the plan ends it. Everything is drawn from the seed.

mod client;
mod files;
mod model;
pub mod operation;
mod session;
pub mod shape;
mod verbs;
pub mod workload;

use crate::simulation::{Crash, Outcome, Plan, run};
use files::LossBound;
use model::Model;
use parking_lot::Mutex;
use session::Process;
use std::sync::Arc;
use workload::Workload;

/// Runs a seed.
pub fn run_seed(seed: u64, keep_lines: Option<usize>) -> Outcome {
    let mut plan = Plan::draw(seed);
    plan.keep_lines = keep_lines;
    run_plan(plan)
}

/// Runs a plan.
pub fn run_plan(plan: Plan) -> Outcome {
    let workload = Arc::new(Workload::draw(plan.seed));
    let model = Arc::new(Mutex::new(Model::new()));
    let bound = LossBound::of(&plan, &workload.settings);
    run(plan, move |boot| {
        if let Some(crash) = &boot.after_crash {
            bound.apply(crash, &mut model.lock());
        }
        model.lock().tables_left = None;
        model.lock().crashed(boot.after == Crash::PowerLoss);
        Process::new(boot, workload.clone(), model.clone()).run();
    })
}
