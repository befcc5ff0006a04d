//! Compares Lightning DB with other embedded databases, in one run.
//!
//! Every engine is measured in a process of its own: this program starts itself once for each
//! engine and round, and the engines take turns, since times alone mean little on a shared machine.
//! How to run it is in `README.md`, what it said in `docs/benchmarks.md`.

mod engines;
mod measure;
mod options;
mod report;
mod rounds;
mod rows;
mod store;
mod workload;

use options::Options;
use rows::Rows;

fn main() -> Result<(), String> {
    let options = Options::parse(std::env::args().skip(1))?;
    if let Some(engine) = &options.child {
        let measure = engines::named(engine).ok_or_else(|| format!("no engine {engine}"))?;
        measure(&options.plan, &Rows { only: options.only });
        return Ok(());
    }
    let report = rounds::run(&options)?;
    println!("{}", report.markdown());
    Ok(())
}
