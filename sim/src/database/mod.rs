//! Lightning DB on a simulated machine: what its clients do, and what must hold.
//!
//! One boot is one process. It opens the database, checks what recovery brought back, lets
//! clients loose on it, checks again, closes it or not, and opens it again, until a crash or
//! the plan ends it. Everything is drawn from the seed.

mod client;
mod model;
mod session;
mod shape;

use crate::simulation::{Crash, Outcome, Plan, run};
use model::Model;
use parking_lot::Mutex;
use session::Process;
use shape::Shape;
use std::sync::Arc;

/// Runs a seed.
pub fn run_seed(seed: u64, keep_lines: Option<usize>) -> Outcome {
    let mut plan = Plan::draw(seed);
    plan.keep_lines = keep_lines;
    run_plan(plan)
}

/// Runs a plan.
pub fn run_plan(plan: Plan) -> Outcome {
    let shape = Arc::new(Shape::draw(plan.seed));
    let model = Arc::new(Mutex::new(Model::new()));
    run(plan, move |boot| {
        model.lock().crashed(boot.after == Crash::PowerLoss);
        Process::new(boot, shape.clone(), model.clone()).run();
    })
}
