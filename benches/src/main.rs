//! Measures this engine against what the machine can do, in one run.
//!
//! `cargo run --release -p lightning_benches -- [NAME..] [--rounds N] [--dir DIR]`. Every comparison
//! is interleaved and given as a ratio of medians: times alone mean little on a shared machine. `gets` takes
//! `--entries N` and `--only PART` too, the part of a row's name.
#![expect(clippy::unwrap_used, reason = "a benchmark that fails should say where and stop")]

mod durable;
mod gets;
mod memory;
mod report;
mod scans;
mod settled;
mod transactions;
mod waits;

use report::Report;
use std::path::PathBuf;

/// What all benchmarks are given.
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    pub(crate) dir: PathBuf,
    /// How many entries a database has that is only read.
    pub(crate) entries: u64,
    /// Part of the names of the rows that are asked for.
    pub(crate) only: String,
}

type Run = fn(&Bench, &mut Report);

fn main() {
    let all: [(&str, Run); 7] = [
        ("memory", memory::run),
        ("settled", settled::run),
        ("durable", durable::run),
        ("gets", gets::run),
        ("scans", scans::run),
        ("waits", waits::run),
        ("transactions", transactions::run),
    ];
    let (dir, only) = (std::env::temp_dir(), String::new());
    let mut bench = Bench { rounds: 5, dir, entries: 1_000_000, only };
    let mut chosen = vec![];
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => bench.rounds = args.next().unwrap().parse().unwrap(),
            "--dir" => bench.dir = args.next().unwrap().into(),
            "--entries" => bench.entries = args.next().unwrap().parse().unwrap(),
            "--only" => bench.only = args.next().unwrap(),
            name => chosen.push(name.to_string()),
        }
    }
    let mut report = Report::default();
    for (name, run) in all {
        if chosen.is_empty() || chosen.iter().any(|c| c == name) {
            run(&bench, &mut report);
        }
    }
    println!("{report}");
}
