//! `lightning-sim run`

use super::{number, violation, write};
use lightning_sim::{
    database::{record_seed, run_seed},
    simulation::Outcome,
};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// Where the first broken promise is written down unless told otherwise.
const OUT: &str = "schedule.json";

struct Options {
    from: u64,
    seeds: u64,
    jobs: u64,
    stop: bool,
    hashes: Option<String>,
    /// Where the first broken promise is written down.
    out: String,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options =
            Options { from: 0, seeds: 0, jobs: 1, stop: true, hashes: None, out: OUT.into() };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if name == "--no-stop" {
                options.stop = false;
                continue;
            }
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--seeds" => options.seeds = number(value)?,
                "--from" => options.from = number(value)?,
                "--jobs" => options.jobs = number(value)?.max(1),
                "--out" => options.out = value.clone(),
                "--hashes" => options.hashes = Some(value.clone()),
                _ => return Err(format!("no option {name:?}")),
            }
        }
        match options.seeds {
            0 => Err("--seeds says how many seeds to run".into()),
            _ => Ok(options),
        }
    }
}

/// What the seeds run so far came to.
#[derive(Default)]
struct Summary {
    seeds: u64,
    counters: BTreeMap<&'static str, u64>,
    hashes: BTreeMap<u64, u64>,
    violated: BTreeMap<u64, String>,
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let options = &Options::parse(arguments)?;
    let began = Instant::now();
    let (next, stopped) = (AtomicU64::new(options.from), AtomicBool::new(false));
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while !stopped.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= options.from + options.seeds {
                        break;
                    }
                    let outcome = run_seed(seed, None);
                    let violated = outcome.violation.is_some();
                    let summary = &mut *summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.add(outcome, &options.out);
                    if violated {
                        stopped.store(options.stop, Relaxed);
                    }
                }
            });
        }
    });
    let summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = began.elapsed().as_secs_f64();
    summary.print(seconds);
    if let Some(file) = &options.hashes {
        summary.write_hashes(file)?;
    }
    match summary.violated.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

impl Summary {
    fn add(&mut self, outcome: Outcome, out: &str) {
        self.seeds += 1;
        self.hashes.insert(outcome.seed, outcome.trace_hash);
        for (what, count) in outcome.counters {
            *self.counters.entry(what).or_insert(0) += count;
        }
        let Some(broken) = outcome.violation else {
            return;
        };
        let told = format!("{}: {}", broken.invariant, broken.message);
        // The first one is told whole and written down; the seed is run again for that, which
        // changes nothing.
        if self.violated.is_empty() {
            let (outcome, schedule) = record_seed(outcome.seed, Some(usize::MAX));
            match write(out, &schedule.write()) {
                Ok(()) => println!("{}it is written down in {out}", violation(&outcome, out)),
                Err(why) => println!("{}{why}", violation(&outcome, &outcome.seed.to_string())),
            }
        } else {
            println!("seed {} breaks {}", outcome.seed, told.lines().next().unwrap_or_default());
        }
        self.violated.insert(outcome.seed, told);
    }

    fn print(&self, seconds: f64) {
        println!(
            "{} seeds in {seconds:.1} s: {:.0} seeds/s",
            self.seeds,
            self.seeds as f64 / seconds
        );
        for (what, count) in &self.counters {
            println!("{count:>12}  {what}");
        }
        match self.violated.len() {
            0 => println!("no promise was broken"),
            n => println!("{n} seeds broke a promise: {:?}", self.violated.keys()),
        }
    }

    fn write_hashes(&self, file: &str) -> Result<(), String> {
        let lines = self.hashes.iter().map(|(seed, hash)| format!("{seed} {hash:016x}\n"));
        write(file, &lines.collect::<String>())
    }
}
