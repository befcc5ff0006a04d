//! `lightning-sim run`

use super::{SHRINK_SECONDS, canaries::Class, made_small, number, plan, story, verdict, write};
use lightning_sim::{
    MARKS,
    database::{record_plan, run_plan},
    schedule::Schedule,
    shrink::processor_time,
    simulation::Outcome,
};
use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// More threads than this no campaign needs.
const JOBS_MAX: u64 = 256;
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
    /// Seconds of processor time for making it small. 0: it stays as it is.
    shrink_seconds: u64,
    without: Vec<Class>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            from: 0,
            seeds: 0,
            jobs: 1,
            stop: true,
            hashes: None,
            out: OUT.into(),
            shrink_seconds: SHRINK_SECONDS,
            without: vec![],
        };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--no-stop" => {
                    options.stop = false;
                    continue;
                }
                "--no-shrink" => {
                    options.shrink_seconds = 0;
                    continue;
                }
                _ => {}
            }
            let known = [
                "--seeds",
                "--from",
                "--jobs",
                "--shrink-seconds",
                "--out",
                "--without",
                "--hashes",
            ];
            if !known.contains(&name.as_str()) {
                return Err(format!("no option {name:?}"));
            }
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--seeds" => options.seeds = number(value)?,
                "--from" => options.from = number(value)?,
                "--jobs" => options.jobs = number(value)?,
                "--shrink-seconds" => options.shrink_seconds = number(value)?,
                "--out" => options.out = value.clone(),
                "--without" => options.without.push(Class::to_switch_off(value)?),
                _ => options.hashes = Some(value.clone()),
            }
        }
        if !(1..=JOBS_MAX).contains(&options.jobs) {
            return Err(format!("--jobs is 1 to {JOBS_MAX}, not {}", options.jobs));
        }
        if options.from.checked_add(options.seeds).is_none() {
            return Err(format!("behind seed {} there are not so many", options.from));
        }
        // Not after hours.
        for file in options.hashes.iter().chain([&options.out]) {
            let dir = Path::new(file).parent().filter(|dir| !dir.as_os_str().is_empty());
            if Path::new(file).is_dir() || dir.is_some_and(|dir| !dir.is_dir()) {
                return Err(format!("cannot write {file}"));
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
    seconds: f64,
    /// Processor time of all runs.
    processor: Duration,
    counters: BTreeMap<&'static str, u64>,
    hashes: BTreeMap<u64, u64>,
    violated: BTreeMap<u64, String>,
    /// The first run that broke a promise.
    first: Option<Schedule>,
    /// For each mark: how often it was reached, in how many seeds, and by which first.
    marks: BTreeMap<&'static str, (u64, u64, u64)>,
}

pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let options = &Options::parse(arguments)?;
    let summary = campaign(options);
    summary.print();
    if let Some(file) = &options.hashes {
        summary.write_hashes(file)?;
    }
    if let Some(first) = summary.first.as_ref().filter(|_| options.shrink_seconds > 0) {
        let (small, seconds) = (small_name(&options.out), options.shrink_seconds);
        println!("\nmaking it small, for up to {seconds} s of processor time (--no-shrink: not)");
        let told = made_small(first, &small, seconds)?;
        print!("{}", told.ok_or("a run that is written down does not replay: breaks I-11")?);
    }
    Ok(summary.exit())
}

/// Where the small form of a schedule is written.
fn small_name(file: &str) -> String {
    format!("{}.small.json", file.strip_suffix(".json").unwrap_or(file))
}

/// `lightning-sim coverage`
pub(crate) fn coverage(arguments: &[String]) -> Result<ExitCode, String> {
    let summary =
        campaign(&Options { stop: false, shrink_seconds: 0, ..Options::parse(arguments)? });
    summary.print_marks();
    Ok(summary.exit())
}

fn campaign(options: &Options) -> Summary {
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
                    let began = processor_time();
                    let outcome = run_plan(plan(seed, &options.without, None));
                    let took = processor_time() - began;
                    let violated = outcome.violation.is_some();
                    let summary = &mut *summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.processor += took;
                    summary.add(outcome, options);
                    if violated {
                        stopped.store(options.stop, Relaxed);
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.seconds = began.elapsed().as_secs_f64();
    summary
}

impl Summary {
    fn add(&mut self, outcome: Outcome, options: &Options) {
        self.seeds += 1;
        self.hashes.insert(outcome.seed, outcome.trace_hash);
        let ios = ("I/O operations", outcome.boot_ios.iter().sum());
        for (what, count) in outcome.counters.into_iter().chain([ios]) {
            *self.counters.entry(what).or_insert(0) += count;
        }
        for (mark, times) in outcome.marks {
            let (count, seeds, first) = self.marks.entry(mark).or_insert((0, 0, u64::MAX));
            *count += times;
            *seeds += 1;
            *first = outcome.seed.min(*first);
        }
        let Some(broken) = outcome.violation else {
            return;
        };
        let told = format!("{}: {}", broken.invariant, broken.message);
        // The first one is written down; the seed is run again for that, which changes nothing.
        if self.violated.is_empty() {
            let plan = plan(outcome.seed, &options.without, Some(usize::MAX));
            let ((outcome, schedule), out) = (record_plan(plan), &options.out);
            print!("\n{}", verdict(&outcome));
            match write(out, &schedule.write()) {
                Ok(()) => println!("it is written down in {out}: {}", schedule.size()),
                Err(why) => println!("{why}"),
            }
            if options.shrink_seconds == 0 {
                print!("{}", story(&outcome, out));
                println!("shrink it with: lightning-sim shrink {out}");
            }
            self.first = Some(schedule);
        } else {
            println!("seed {} breaks {}", outcome.seed, told.lines().next().unwrap_or_default());
        }
        self.violated.insert(outcome.seed, told);
    }

    fn print(&self) {
        let seconds = self.seconds;
        println!(
            "{} seeds in {seconds:.1} s: {:.0} seeds/s",
            self.seeds,
            self.seeds as f64 / seconds
        );
        let (processor, seeds) = (self.processor.as_secs_f64(), self.seeds.max(1) as f64);
        let ios = self.counters.get("I/O operations").copied().unwrap_or_default() as f64;
        println!(
            "each took {:.1} ms of processor time and {:.0} I/O operations: {:.0} seeds in an hour of \
             processor time, {:.0} if each did 5,000",
            processor * 1000.0 / seeds,
            ios / seeds,
            seeds * 3600.0 / processor,
            ios / 5000.0 * 3600.0 / processor,
        );
        for (what, count) in &self.counters {
            println!("{count:>12}  {what}");
        }
        match self.violated.len() {
            0 => println!("no promise was broken"),
            n => println!("{n} seeds broke a promise: {:?}", self.violated.keys()),
        }
    }

    fn exit(&self) -> ExitCode {
        match self.violated.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn print_marks(&self) {
        println!("{:>12} {:>8} {:>8}  mark", "times", "seeds", "first");
        for mark in MARKS {
            if let Some((count, seeds, first)) = self.marks.get(mark) {
                println!("{count:>12} {seeds:>8} {first:>8}  {mark}");
            }
        }
        let never: Vec<_> = MARKS.iter().filter(|mark| !self.marks.contains_key(*mark)).collect();
        println!("{} of {} marks reached in {} seeds", self.marks.len(), MARKS.len(), self.seeds);
        for mark in never {
            println!("NEVER: {mark}");
        }
    }

    fn write_hashes(&self, file: &str) -> Result<(), String> {
        let lines = self.hashes.iter().map(|(seed, hash)| format!("{seed} {hash:016x}\n"));
        write(file, &lines.collect::<String>())
    }
}
