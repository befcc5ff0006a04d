//! `lightning-sim canaries`: plants one bug after the other in a copy of the workspace and tells
//! how long the simulator takes to find it.
//!
//! A canary is a patch of the engine in `sim/canaries/`, behind a header that says what the bug is.
//! What was measured is kept after every canary: a campaign that was interrupted goes on where it
//! ended.

mod campaign;
mod class;
mod measured;
mod patch;
mod report;
mod scratch;

pub(crate) use class::Class;

use campaign::{run, run_twice, shrink};
use measured::Measured;
use patch::{Canary, read_canaries};
use report::{is_as_named, progress, report};
use scratch::{Scratch, apply, fingerprint};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const PATCHES: &str = "sim/canaries";

fn told(what: &str, path: &Path, error: io::Error) -> String {
    format!("{what} {}: {error}", path.display())
}

/// What the command was asked for.
#[derive(Debug)]
struct Options {
    names: Vec<String>,
    seeds: u64,
    off_seeds: u64,
    shrink_seconds: u64,
    jobs: String,
    state: Option<PathBuf>,
    report: Option<PathBuf>,
    share: Share,
    check: bool,
}

/// A part of the canaries, so that all are looked for in `of` nights.
#[derive(Debug, PartialEq)]
struct Share {
    nth: usize,
    of: usize,
}

impl Share {
    /// Reads `I/N`: of each N one, the I-th, counted from 0.
    fn parse(text: &str) -> Result<Share, String> {
        let share = text.split_once('/').and_then(|(nth, of)| {
            let share = Share { nth: nth.parse().ok()?, of: of.parse().ok()? };
            (share.nth < share.of).then_some(share)
        });
        share.ok_or_else(|| format!("{text:?} is no share I/N with I less than N"))
    }

    fn of<T>(&self, all: Vec<T>) -> Vec<T> {
        all.into_iter().skip(self.nth).step_by(self.of).collect()
    }
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            names: vec![],
            seeds: 20_000,
            off_seeds: 2_000,
            shrink_seconds: crate::commands::SHRINK_SECONDS,
            jobs: "1".into(),
            state: None,
            report: None,
            share: Share { nth: 0, of: 1 },
            check: false,
        };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if name == "--check" {
                options.check = true;
                continue;
            }
            if !name.starts_with("--") {
                options.names.push(name.clone());
                continue;
            }
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--seeds" => options.seeds = crate::commands::number(value)?,
                "--off-seeds" => options.off_seeds = crate::commands::number(value)?,
                "--shrink-seconds" => options.shrink_seconds = crate::commands::number(value)?,
                "--jobs" => options.jobs = crate::commands::number(value)?.to_string(),
                "--state" => options.state = Some(value.into()),
                "--share" => options.share = Share::parse(value)?,
                "--report" => options.report = Some(value.into()),
                _ => return Err(format!("no option {name:?}")),
            }
        }
        Ok(options)
    }
}

/// `lightning-sim canaries`.
pub(crate) fn command(arguments: &[String]) -> Result<ExitCode, String> {
    let options = Options::parse(arguments)?;
    match hunt(&options) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        // Not the usage: the command was right.
        Err(why) => {
            eprintln!("{why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn workspace_root() -> Result<PathBuf, String> {
    let asked = Command::new("git").args(["rev-parse", "--show-toplevel"]).output();
    let asked = asked.map_err(|error| format!("cannot run git: {error}"))?;
    let root = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    match Path::new(&root).join(PATCHES).is_dir() {
        true => Ok(root.into()),
        false => Err(format!("run it within the repository: there is no {PATCHES} here")),
    }
}

/// Looks for all canaries. Whether each was found, by the promise it names, and not without its class.
fn hunt(options: &Options) -> Result<bool, String> {
    let root = workspace_root()?;
    let canaries = options.share.of(read_canaries(&root, &options.names)?);
    let state = options.state.clone().unwrap_or_else(|| root.join("target/canaries"));
    for dir in ["scratch", "results", "logs"] {
        let dir = state.join(dir);
        fs::create_dir_all(&dir).map_err(|error| told("cannot create", &dir, error))?;
    }
    let state = state.canonicalize().map_err(|error| told("cannot find", &state, error))?;
    let scratch = Scratch::prepare(&root, &state)?;
    // All of them first: a patch that does not fit is not to be learnt of after an hour.
    let mut bad = vec![];
    for canary in &canaries {
        let fits = apply(&scratch.dir, &canary.patch, false)
            .and_then(|()| apply(&scratch.dir, &canary.patch, true));
        bad.extend(fits.err().map(|why| format!("{}: {why}", canary.name)));
    }
    if !bad.is_empty() {
        return Err(bad.join("\n"));
    }
    if options.check {
        println!("{} canaries, all of which apply", canaries.len());
        return Ok(true);
    }
    // Patching has touched the files; what is measured depends on their contents.
    let source = fingerprint(&scratch)?;
    let mut all = vec![];
    for canary in &canaries {
        let measured = measure(&scratch, &state, source, canary, options);
        let measured = measured.map_err(|why| format!("{}: {why}", canary.name));
        match measured {
            Ok(measured) => {
                println!("{}", progress(canary, &measured));
                all.push((canary, measured));
            }
            Err(why) => {
                println!("{why}");
                bad.push(why);
            }
        }
    }
    if let Some(file) = &options.report {
        fs::write(file, report(&all)).map_err(|error| told("cannot write", file, error))?;
    }
    match bad.is_empty() {
        true => Ok(all.iter().all(|(canary, measured)| is_as_named(canary, measured))),
        false => Err(format!("{} canaries could not be looked for", bad.len())),
    }
}

/// What is off in all runs is part of what was measured; nothing is the usual.
fn site_hash_of(off: &[&str]) -> u64 {
    if off.is_empty() { 0 } else { lightning_faults::site_hash(&off.join(" ")) }
}

/// Looks for one canary, unless it was done before.
fn measure(
    scratch: &Scratch,
    state: &Path,
    source: u64,
    canary: &Canary,
    options: &Options,
) -> Result<Measured, String> {
    let file = state.join("results").join(&canary.name);
    let diff = canary.patch.find("\ndiff --git ").map_or("", |at| &canary.patch[at..]);
    let apart = canary.apart.iter().map(|class| class.name());
    let apart: Vec<&str> = apart.flat_map(|name| ["--without", name]).collect();
    let key = source ^ lightning_faults::site_hash(diff) ^ site_hash_of(&apart);
    let mut measured = Measured::load(&file, key);
    // The header may name another class by now.
    let class = canary.class.name();
    let done = measured.is_done(options.seeds);
    let log = |which: &str| state.join("logs").join(format!("{}{which}", canary.name));
    let is_small = |measured: &Measured| {
        let found = measured.with.as_ref().and_then(|campaign| campaign.found.as_ref());
        // One that tramples on memory left no schedule, and two runs are no schedule.
        let written = found.is_some_and(|(_, invariant)| {
            !["I-11", "signal", "endless"].contains(&invariant.as_str())
        });
        measured.shrunk.is_some() || options.shrink_seconds == 0 || !written
    };
    let done_without = measured.is_done_without(canary.class, options.off_seeds);
    if done && done_without && is_small(&measured) {
        return Ok(measured);
    }
    apply(&scratch.dir, &canary.patch, false)?;
    let looked = scratch.build().and_then(|()| {
        let schedule = log(".json");
        let options_of = |off: &[&str]| {
            let out = schedule.display().to_string();
            let all = ["--jobs", &options.jobs, "--out", &out].into_iter();
            let all = all.chain(apart.iter().copied()).chain(off.iter().copied());
            all.map(str::to_owned).collect::<Vec<_>>()
        };
        if !done {
            measured.with = Some(match canary.invariants.iter().any(|named| named == "I-11") {
                true => run_twice(scratch, options.seeds, &log(".txt"))?,
                false => run(scratch, &options_of(&[]), options.seeds, &log(".txt"))?,
            });
            measured.save(&file, key)?;
        }
        if !is_small(&measured) && schedule.is_file() {
            let (seconds, log) = (options.shrink_seconds, log("-shrink.txt"));
            measured.shrunk = Some(shrink(scratch, &schedule, seconds, &log)?);
            measured.save(&file, key)?;
        }
        if !measured.is_done_without(canary.class, options.off_seeds) {
            let mut off = options_of(&["--without", class]);
            off[3] = log("-without.json").display().to_string();
            let log = log("-without.txt");
            measured.without = Some(run(scratch, &off, options.off_seeds, &log)?);
            measured.save(&file, key)?;
        }
        Ok(())
    });
    apply(&scratch.dir, &canary.patch, true)?;
    looked.map(|()| measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed in the end.
    pub(super) struct TempDir(pub(super) PathBuf);

    impl TempDir {
        pub(super) fn new(name: &str) -> TempDir {
            let name = format!("lightning-sim-{name}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).expect("a directory for the test");
            TempDir(dir)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn shares_are_all_the_canaries_and_each_once() {
        let parts: Vec<Vec<u32>> = (0..3)
            .map(|nth| Share::parse(&format!("{nth}/3")).expect("a share").of((0..8).collect()))
            .collect();
        assert_eq!(parts, [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5]]);
        for bad in ["", "1", "3/3", "0/0", "a/2", "-1/2"] {
            assert!(Share::parse(bad).is_err_and(|why| why.contains(bad)), "{bad:?}");
        }
    }
}
