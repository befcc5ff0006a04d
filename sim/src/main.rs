//! `lightning-sim`: runs seeds, and replays one.

use lightning_sim::{database::run_seed, simulation::Outcome};
use std::{
    collections::BTreeMap,
    io::Write as _,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

const USAGE: &str = "\
lightning-sim: runs Lightning DB on a simulated machine that fails

  lightning-sim run --seeds N [--from S] [--jobs J] [--no-stop] [--hashes FILE]
      Runs the seeds S to S+N-1 (S is 0 if not given) on J threads (1 if not given). Stops at
      the first seed that breaks a promise, unless told not to. Writes the trace hash of each
      seed to FILE. Exits with 1 if a promise was broken.

  lightning-sim replay SEED [--trace]
      Runs one seed and tells how it ended; with --trace, everything that happened.
";

/// Lines of the trace shown with a violation.
const TAIL: usize = 60;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((command, rest)) if command == "run" => Options::parse(rest).map(|o| run(&o)),
        Some((command, rest)) if command == "replay" => replay(rest),
        _ => Err(String::new()),
    };
    result.unwrap_or_else(|why| {
        eprint!("{why}{}{USAGE}", if why.is_empty() { "" } else { "\n\n" });
        ExitCode::from(2)
    })
}

struct Options {
    from: u64,
    seeds: u64,
    jobs: u64,
    stop: bool,
    hashes: Option<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options { from: 0, seeds: 0, jobs: 1, stop: true, hashes: None };
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

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// What the seeds run so far came to.
#[derive(Default)]
struct Summary {
    seeds: u64,
    counters: BTreeMap<&'static str, u64>,
    hashes: BTreeMap<u64, u64>,
    violated: BTreeMap<u64, String>,
}

fn run(options: &Options) -> ExitCode {
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
                    summary.add(outcome);
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
        summary.write_hashes(file);
    }
    match summary.violated.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

impl Summary {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.hashes.insert(outcome.seed, outcome.trace_hash);
        for (what, count) in outcome.counters {
            *self.counters.entry(what).or_insert(0) += count;
        }
        let Some(violation) = outcome.violation else {
            return;
        };
        let told = format!("{}: {}", violation.invariant, violation.message);
        // The first of a kind is told whole, with the end of its trace; the seed is run again
        // for that, which changes nothing.
        if self.violated.is_empty() {
            print_violation(&run_seed(outcome.seed, Some(TAIL)));
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

    fn write_hashes(&self, file: &str) {
        let lines = self.hashes.iter().map(|(seed, hash)| format!("{seed} {hash:016x}\n"));
        if let Err(error) = std::fs::write(file, lines.collect::<String>()) {
            eprintln!("cannot write {file}: {error}");
        }
    }
}

fn replay(arguments: &[String]) -> Result<ExitCode, String> {
    let (seed, trace) = match arguments {
        [seed] => (number(seed)?, false),
        [seed, option] if option == "--trace" => (number(seed)?, true),
        _ => return Err("replay takes a seed".into()),
    };
    let outcome = run_seed(seed, Some(if trace { usize::MAX } else { TAIL }));
    if trace {
        let mut out = std::io::stdout().lock();
        for line in &outcome.lines {
            // A reader such as `head` that has enough is no error.
            if writeln!(out, "{line}").is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    println!("seed {seed}: trace hash {:016x}", outcome.trace_hash);
    for (what, count) in &outcome.counters {
        println!("{count:>12}  {what}");
    }
    match &outcome.violation {
        None => {
            println!("no promise was broken");
            Ok(ExitCode::SUCCESS)
        }
        Some(_) => {
            print_violation(&outcome);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print_violation(outcome: &Outcome) {
    let Some(violation) = &outcome.violation else {
        println!("seed {} did not fail again: the run is not deterministic", outcome.seed);
        return;
    };
    println!("\nseed {} BREAKS {}: {}", outcome.seed, violation.invariant, violation.message);
    println!("what happened last:");
    for line in outcome.lines.iter().rev().take(TAIL).rev() {
        println!("  {line}");
    }
    println!("replay it with: lightning-sim replay {} --trace\n", outcome.seed);
}
