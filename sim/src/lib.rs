//! Runs Lightning DB, unchanged, on a simulated machine that fails, crashes and loses power,
//! and checks after every step that no promise was broken. Everything that happens follows
//! from one seed, so that every failure can be replayed. `docs/simulation.md` is the guide.
//!
//! The parts, from the mechanism up:
//! - `scheduler`: engine threads as coroutines on one OS thread
//! - `aim`: what a run looks at closely
//! - `decisions`: what interferes with tasks, by name and number
//! - `world`: what a run shares: random streams, virtual time, trace, counters
//! - `disk`: files and directories that lie about durability as real ones do
//! - `env`: all of it as the engine sees it, an [`Env`](lightning_db::env::Env)
//! - `simulation`: boots and crashes of one program
//! - `schedule`: a run written down
//! - `shrink`, `timeline`: making one small, and telling it
//! - `database`: the program that uses Lightning DB, and what must hold
//! - `fuzzing`: what a fuzzer's bytes stand for
//! - `isolation`: judges what transactions saw of one another, for tests outside too

#[cfg(not(madsim))]
compile_error!(
    "lightning_sim needs `--cfg madsim` in RUSTFLAGS. The repository's .cargo/config.toml sets \
     it, but a RUSTFLAGS variable replaces what stands there: add `--cfg madsim` to yours."
);

mod aim;
pub mod database;
mod decisions;
mod disk;
mod env;
pub mod fuzzing;
pub mod isolation;
pub mod schedule;
mod scheduler;
pub mod shrink;
pub mod simulation;
mod site;
pub mod timeline;
mod trace;
mod world;

pub use aim::{Aim, Near};
pub use decisions::{Interference, Order, Preemption, Strike};
pub use disk::SimDisk;
pub use env::SimEnv;
pub use lightning_faults::{Dice, FaultPlan, Full, Latency, PowerLoss};
pub use site::{MARKS, Site};
pub use trace::Line;
pub use world::{Scheduling, Violation, World};
