//! `lightning-sim canaries`: plants one bug after the other in a copy of the workspace and tells
//! how long the simulator takes to find it.
//!
//! A canary is a patch of the engine in `sim/canaries/`, behind a header that says what the bug is.
//! The copy has a build directory of its own, which all canaries share, so that only the crates
//! behind the change are compiled again. What was measured is kept after every canary: a campaign
//! that was interrupted goes on where it ended.

use lightning_faults::FaultClass;
use lightning_sim::simulation::{Crash, Plan};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant},
};

const PATCHES: &str = "sim/canaries";
/// How a bug may show beside a broken promise.
const SYMPTOMS: [&str; 6] = ["panic", "hang", "spins", "read", "signal", "endless"];
/// A run that takes longer does not end by itself any more.
const PATIENCE: Duration = Duration::from_secs(1800);

// Classes of what can go wrong

/// What a canary needs to be found, and what `run --without` switches off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Found whatever is switched off.
    None,
    Preemption,
    Kill,
    PowerLoss,
    Fault(FaultClass),
}

impl Class {
    fn parse(name: &str) -> Result<Class, String> {
        match name {
            "none" => Ok(Class::None),
            "preemption" => Ok(Class::Preemption),
            "kill" => Ok(Class::Kill),
            "power-loss" => Ok(Class::PowerLoss),
            other => other.parse().map(Class::Fault).map_err(|known| {
                format!("no class {other:?}: none, preemption, kill, power-loss, {known}")
            }),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Class::None => "none",
            Class::Preemption => "preemption",
            Class::Kill => "kill",
            Class::PowerLoss => "power-loss",
            Class::Fault(class) => class.name(),
        }
    }

    /// A class for `--without`.
    pub(crate) fn to_switch_off(name: &str) -> Result<Class, String> {
        match Class::parse(name)? {
            Class::None => Err(format!("{name:?} cannot be switched off")),
            class => Ok(class),
        }
    }

    /// Takes the class out of a run. Each boot still ends where it would have ended.
    pub(crate) fn switch_off(self, plan: &mut Plan) {
        let instead = |from, to, plan: &mut Plan| {
            for (_, crash) in plan.boots.iter_mut().filter_map(|boot| boot.crash.as_mut()) {
                *crash = if *crash == from { to } else { *crash };
            }
        };
        match self {
            Class::None => {}
            Class::Preemption => plan.switch_preemption_off(),
            Class::Kill => instead(Crash::Killed, Crash::PowerLoss, plan),
            Class::PowerLoss => instead(Crash::PowerLoss, Crash::Killed, plan),
            Class::Fault(class) => plan.switch_off(class),
        }
    }
}

// Canaries

/// A planted bug, as the header of its patch describes it.
#[derive(Debug, Clone, PartialEq)]
struct Canary {
    name: String,
    /// The bug in one sentence.
    bug: String,
    class: Class,
    /// Any of these may be the one that is reported.
    invariants: Vec<String>,
    /// Written without knowing the checkers.
    blind: bool,
    /// What else is worth saying, such as why it is hard to find.
    note: String,
    patch: String,
}

impl Canary {
    fn parse(name: &str, patch: &str) -> Result<Canary, String> {
        let refuse = |why: String| format!("{PATCHES}/{name}.patch: {why}");
        let mut fields = BTreeMap::new();
        for line in patch.lines().take_while(|line| !line.starts_with("diff ")) {
            if line.trim().is_empty() {
                continue;
            }
            let (key, value) = line
                .split_once(": ")
                .ok_or_else(|| refuse(format!("{line:?} is no line of a header, as `bug: ..`")))?;
            if !["bug", "class", "invariant", "blind", "note"].contains(&key) {
                return Err(refuse(format!("unknown header {key:?}")));
            }
            if fields.insert(key, value.trim()).is_some() {
                return Err(refuse(format!("two headers {key:?}")));
            }
        }
        let field = |key: &str| {
            let found = fields.get(key).copied().filter(|value| !value.is_empty());
            found.ok_or_else(|| refuse(format!("no header {key:?}")))
        };
        if !patch.contains("\ndiff --git ") {
            return Err(refuse("no diff behind the header".into()));
        }
        let invariants: Vec<String> = field("invariant")?.split(", ").map(str::to_owned).collect();
        if let Some(bad) = invariants.iter().find(|invariant| !is_known_symptom(invariant)) {
            return Err(refuse(format!("{bad:?} is none of I-1 to I-15, nor one of {SYMPTOMS:?}")));
        }
        Ok(Canary {
            name: name.into(),
            bug: field("bug")?.into(),
            class: Class::parse(field("class")?).map_err(refuse)?,
            invariants,
            blind: match field("blind")? {
                "yes" => true,
                "no" => false,
                other => return Err(refuse(format!("blind is yes or no, not {other:?}"))),
            },
            note: fields.get("note").copied().unwrap_or_default().into(),
            patch: patch.into(),
        })
    }
}

fn is_known_symptom(text: &str) -> bool {
    let number = text.strip_prefix("I-").and_then(|number| number.parse().ok());
    number.is_some_and(|number: u32| (1..=15).contains(&number)) || SYMPTOMS.contains(&text)
}

/// The canaries of the workspace with these names, or all, by name.
fn read_canaries(root: &Path, names: &[String]) -> Result<Vec<Canary>, String> {
    let dir = root.join(PATCHES);
    let entries = fs::read_dir(&dir).map_err(|error| told("cannot list", &dir, error))?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| told("cannot list", &dir, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".patch") {
            let patch = fs::read_to_string(&path);
            let patch = patch.map_err(|error| told("cannot read", &path, error))?;
            found.insert(name.to_owned(), Canary::parse(name, &patch)?);
        }
    }
    if let Some(unknown) = names.iter().find(|name| !found.contains_key(*name)) {
        return Err(format!("there is no canary {unknown:?} in {PATCHES}"));
    }
    found.retain(|name, _| names.is_empty() || names.contains(name));
    Ok(found.into_values().collect())
}

fn told(what: &str, path: &Path, error: io::Error) -> String {
    format!("{what} {}: {error}", path.display())
}

// The copy of the workspace

struct Scratch {
    dir: PathBuf,
    target: PathBuf,
}

impl Scratch {
    /// Makes the copy equal to the tracked files of the workspace. A file that is already equal is
    /// not touched, so that nothing is compiled again for it.
    fn prepare(root: &Path, state: &Path) -> Result<Scratch, String> {
        let scratch = Scratch { dir: state.join("scratch"), target: state.join("target") };
        let tracked = tracked_files(root)?;
        for name in &tracked {
            let (from, to) = (root.join(name), scratch.dir.join(name));
            // Tracked, and removed in the working tree.
            let Ok(wanted) = fs::read(&from) else {
                continue;
            };
            if fs::read(&to).is_ok_and(|found| found == wanted) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(|e| told("cannot create", parent, e))?;
            }
            fs::write(&to, wanted).map_err(|error| told("cannot write", &to, error))?;
        }
        let kept: BTreeSet<PathBuf> = tracked.iter().map(|name| scratch.dir.join(name)).collect();
        remove_others(&scratch.dir, &kept)?;
        Ok(scratch)
    }

    fn build(&self) -> Result<(), String> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--locked", "-p", "lightning_sim"]);
        cargo.args(["--bin", "lightning-sim", "--quiet"]);
        cargo.current_dir(&self.dir).env("CARGO_TARGET_DIR", &self.target);
        // Compiled again and again after a change of a few lines.
        cargo.envs([("CARGO_INCREMENTAL", "1"), ("CARGO_PROFILE_RELEASE_DEBUG", "0")]);
        let output = cargo.output().map_err(|error| format!("cannot run cargo: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let all = String::from_utf8_lossy(&output.stderr);
                let errors = all.split("\n\n").filter(|part| part.contains("error"));
                Err(format!("it does not compile:\n{}", errors.collect::<Vec<_>>().join("\n\n")))
            }
        }
    }

    /// The simulator of the copy.
    fn program(&self) -> PathBuf {
        self.target.join("release/lightning-sim")
    }
}

fn tracked_files(root: &Path) -> Result<Vec<String>, String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let listed = listed.map_err(|error| format!("cannot run git: {error}"))?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim()));
    }
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Removes what lies below `dir` and is not to be kept.
fn remove_others(dir: &Path, kept: &BTreeSet<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(dir).map_err(|error| told("cannot list", dir, error))?;
    for entry in entries {
        let path = entry.map_err(|error| told("cannot list", dir, error))?.path();
        if path.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path).map_err(|error| told("cannot remove", &path, error))?;
        }
    }
    Ok(())
}

/// Applies a patch in `dir`, or takes it back. If it does not fit, says which hunk does not.
fn apply(dir: &Path, patch: &str, reverse: bool) -> Result<(), String> {
    let mut git = Command::new("git");
    git.arg("apply").args(reverse.then_some("--reverse")).arg("-");
    // Git must not take the copy for a part of the repository that it may lie in.
    git.current_dir(dir).env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir));
    git.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = || -> io::Result<_> {
        let mut child = git.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            io::Write::write_all(&mut stdin, patch.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| format!("cannot run git apply: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let why = String::from_utf8_lossy(&output.stderr);
            Err(format!("the patch no longer applies: {}", why.trim().replace('\n', "; ")))
        }
    }
}

// Runs

/// What a run of many seeds came to.
#[derive(Debug, Clone, PartialEq)]
struct Campaign {
    seeds: u64,
    seconds: f64,
    /// The seed that broke a promise, and the promise.
    found: Option<(u64, String)>,
}

impl Campaign {
    fn to_line(&self) -> String {
        let (seed, invariant) = match &self.found {
            Some((seed, invariant)) => (seed.to_string(), invariant.as_str()),
            None => ("-".into(), "-"),
        };
        format!("{} {:.1} {seed} {invariant}", self.seeds, self.seconds)
    }

    fn of_line(line: &str) -> Option<Campaign> {
        let mut words = line.splitn(4, ' ');
        let (seeds, seconds) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (seed, invariant) = (words.next()?, words.next()?);
        let found = match seed {
            "-" => None,
            seed => Some((seed.parse().ok()?, invariant.to_owned())),
        };
        Some(Campaign { seeds, seconds, found })
    }
}

/// Runs seeds of the copy until one breaks a promise. What the run says goes to `log`.
fn run(scratch: &Scratch, options: &[String], seeds: u64, log: &Path) -> Result<Campaign, String> {
    let out = fs::File::create(log).map_err(|error| told("cannot create", log, error))?;
    let errors = out.try_clone().map_err(|error| told("cannot write", log, error))?;
    let began = Instant::now();
    let mut child = Command::new(scratch.program())
        .args(["run", "--seeds", &seeds.to_string()])
        .args(options)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .map_err(|error| told("cannot run", &scratch.program(), error))?;
    let status = loop {
        match child.try_wait().map_err(|error| format!("cannot wait for the run: {error}"))? {
            Some(status) => break Some(status),
            None if began.elapsed() > PATIENCE => {
                let _ended_meanwhile = child.kill();
                let _status = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    let said = fs::read(log).map_err(|error| told("cannot read", log, error))?;
    let found = read_outcome(&String::from_utf8_lossy(&said), status)?;
    Ok(Campaign { seeds, seconds, found })
}

/// The seed that broke a promise and the promise, out of what a run printed.
fn read_outcome(said: &str, status: Option<ExitStatus>) -> Result<Option<(u64, String)>, String> {
    let broken = said.lines().find_map(|line| {
        let (seed, rest) = line.strip_prefix("seed ")?.split_once(" BREAKS ")?;
        let (invariant, _) = rest.split_once(':')?;
        Some((seed.parse().ok()?, invariant.to_owned()))
    });
    match (broken, status.map(|status| status.code())) {
        (Some(broken), _) => Ok(Some(broken)),
        (None, Some(Some(0))) => Ok(None),
        (None, Some(Some(code))) => {
            let last = said.lines().next_back().unwrap_or_default();
            Err(format!("the run ended with {code} and without a broken promise: {last}"))
        }
        // A bug that tramples on memory, or never lets go of the processor.
        (None, Some(None)) => Ok(Some((0, "signal".into()))),
        (None, None) => Ok(Some((0, "endless".into()))),
    }
}

/// Makes the schedule that broke a promise small, and says what is left of it.
fn shrink(scratch: &Scratch, schedule: &Path, seconds: u64, log: &Path) -> Result<String, String> {
    let small = schedule.with_extension("small.json");
    let output = Command::new(scratch.program())
        .arg("shrink")
        .arg(schedule)
        .arg("--out")
        .arg(small)
        .args(["--seconds", &seconds.to_string()])
        .output()
        .map_err(|error| told("cannot run", &scratch.program(), error))?;
    fs::write(log, &output.stdout).map_err(|error| told("cannot write", log, error))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let after = said.lines().find_map(|line| line.strip_prefix("after:"));
    Ok(after.map_or_else(|| "it could not be made small".into(), |size| size.trim().to_owned()))
}

/// Runs the seeds twice: the first whose traces differ breaks the promise of being replayable.
fn run_twice(scratch: &Scratch, seeds: u64, log: &Path) -> Result<Campaign, String> {
    let mut campaign = Campaign { seeds, seconds: 0.0, found: None };
    let mut hashes = vec![];
    for which in ["first", "second"] {
        let file = log.with_extension(which);
        let options = ["--hashes".to_owned(), file.display().to_string()];
        let once = run(scratch, &options, seeds, log)?;
        campaign.seconds += once.seconds;
        if once.found.is_some() {
            return Ok(Campaign { found: once.found, ..campaign });
        }
        hashes.push(fs::read_to_string(&file).map_err(|e| told("cannot read", &file, e))?);
    }
    let differs = hashes[0].lines().zip(hashes[1].lines()).find(|(a, b)| a != b);
    campaign.found = differs.and_then(|(line, _)| {
        let seed = line.split(' ').next()?.parse().ok()?;
        Some((seed, "I-11".to_owned()))
    });
    Ok(campaign)
}

// What was measured

/// What is known of one canary.
#[derive(Debug, Clone, Default, PartialEq)]
struct Measured {
    /// With everything that can go wrong.
    with: Option<Campaign>,
    /// With its class switched off.
    without: Option<Campaign>,
    /// What is left of the schedule that found it once it is made small, in words.
    shrunk: Option<String>,
}

impl Measured {
    /// What is on record for a canary whose patch, and the program it changes, are still those of
    /// `key`.
    fn load(file: &Path, key: u64) -> Measured {
        let text = fs::read_to_string(file).unwrap_or_default();
        let mut lines = text.lines();
        if lines.next() != Some(format!("{key:016x}").as_str()) {
            return Measured::default();
        }
        let mut campaign = || lines.next().and_then(Campaign::of_line);
        let (with, without) = (campaign(), campaign());
        Measured { with, without, shrunk: lines.next().map(str::to_owned) }
    }

    fn save(&self, file: &Path, key: u64) -> Result<(), String> {
        let line = |campaign: &Option<Campaign>| match campaign {
            Some(campaign) => campaign.to_line(),
            None => "none".into(),
        };
        let shrunk = self.shrunk.iter().map(|words| format!("{words}\n")).collect::<String>();
        let (with, without) = (line(&self.with), line(&self.without));
        let text = format!("{key:016x}\n{with}\n{without}\n{shrunk}");
        fs::write(file, text).map_err(|error| told("cannot write", file, error))
    }

    /// Whether the canary was found, or looked for long enough.
    fn is_done(&self, seeds: u64) -> bool {
        self.with.as_ref().is_some_and(|c| c.found.is_some() || c.seeds >= seeds)
    }

    /// Whether it is known that the canary survives without its class, or nothing is to be learnt: of
    /// one that was not found with it, for instance.
    fn is_done_without(&self, class: Class, seeds: u64) -> bool {
        Class::to_switch_off(class.name()).is_err()
            || self.without.as_ref().is_some_and(|c| c.found.is_some() || c.seeds >= seeds)
            || self.with.as_ref().is_some_and(|c| c.found.is_none())
            || seeds == 0
    }
}

/// A number for what the results depend on: all that is compiled but this tool, and the patch.
fn fingerprint(scratch: &Scratch) -> Result<u64, String> {
    let mut all = String::new();
    let mut dirs =
        ["engine/src", "faults/src", "sim/src"].map(|dir| scratch.dir.join(dir)).to_vec();
    let mut files = vec![scratch.dir.join("Cargo.lock")];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).map_err(|error| told("cannot list", &dir, error))?;
        for entry in entries {
            let path = entry.map_err(|error| told("cannot list", &dir, error))?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false => files.push(path),
            }
        }
    }
    files.retain(|path| !path.ends_with("sim/src/main.rs"));
    files.sort();
    for file in files {
        let text = fs::read(&file).map_err(|error| told("cannot read", &file, error))?;
        all.push_str(&String::from_utf8_lossy(&text));
    }
    Ok(lightning_faults::site_hash(&all))
}

// The command

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
    check: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            names: vec![],
            seeds: 20_000,
            off_seeds: 2_000,
            shrink_seconds: 20,
            jobs: "1".into(),
            state: None,
            report: None,
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
                "--seeds" => options.seeds = super::number(value)?,
                "--off-seeds" => options.off_seeds = super::number(value)?,
                "--shrink-seconds" => options.shrink_seconds = super::number(value)?,
                "--jobs" => options.jobs = super::number(value)?.to_string(),
                "--state" => options.state = Some(value.into()),
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
    let canaries = read_canaries(&root, &options.names)?;
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
    let key = source ^ lightning_faults::site_hash(diff);
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
            let all = ["--jobs", &options.jobs, "--out", &out].into_iter().chain(off.to_vec());
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

/// Whether a canary was found by a promise it names, and not with its class switched off.
fn is_as_named(canary: &Canary, measured: &Measured) -> bool {
    let found = measured.with.as_ref().and_then(|campaign| campaign.found.as_ref());
    let named = found.is_some_and(|(_, invariant)| canary.invariants.contains(invariant));
    named && measured.without.as_ref().is_none_or(|campaign| campaign.found.is_none())
}

fn progress(canary: &Canary, measured: &Measured) -> String {
    let of = |campaign: &Option<Campaign>| match campaign {
        None => "-".into(),
        Some(Campaign { found: Some((seed, invariant)), seconds, .. }) => {
            format!("seed {seed} ({seconds:.0} s, {invariant})")
        }
        Some(campaign) => format!("not in {} ({:.0} s)", campaign.seeds, campaign.seconds),
    };
    let (with, without) = (of(&measured.with), of(&measured.without));
    format!("{:<34} {with:<28} without {}: {without}", canary.name, canary.class.name())
}

/// The table of what was measured, in Markdown.
fn report(all: &[(&Canary, Measured)]) -> String {
    let seed_of = |measured: &Measured| {
        let found = measured.with.as_ref().and_then(|campaign| campaign.found.as_ref());
        found.map(|(seed, _)| *seed)
    };
    let within = |seeds: u64| {
        all.iter().filter(|(_, m)| seed_of(m).is_some_and(|seed| seed < seeds)).count()
    };
    let looked = all.iter().filter_map(|(_, m)| m.with.as_ref()).map(|c| c.seeds).max();
    let looked = looked.unwrap_or_default();
    let mut out = String::from("# Canaries\n\n");
    let _ = writeln!(
        out,
        "Of {} planted bugs, {} of them written without knowing the checkers, {} are found within \
         1,000 seeds, {} within {looked}. `docs/simulation.md` tells how they are looked for; this \
         table is what `lightning-sim canaries --seeds {looked} --report sim/canaries/REPORT.md` \
         measured.\n",
        all.len(),
        all.iter().filter(|(canary, _)| canary.blind).count(),
        within(1000.min(looked)),
        within(looked),
    );
    out.push_str(
        "| canary | bug | class | breaks | reported | seed | seconds | shrunk to | without the class \
         | blind |\n|---|---|---|---|---|---:|---:|---|---|---|\n",
    );
    for (canary, measured) in all {
        let none = || "".to_owned();
        let with = measured.with.as_ref();
        let found = with.and_then(|campaign| campaign.found.as_ref());
        let without = measured.without.as_ref().map_or_else(none, |c| match &c.found {
            Some((seed, invariant)) => format!("{invariant} at {seed}"),
            None => format!("none in {}", c.seeds),
        });
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {without} | {} |",
            canary.name,
            canary.bug,
            canary.class.name(),
            canary.invariants.join(", "),
            found.map_or("not found", |(_, invariant)| invariant),
            found.map_or_else(none, |(seed, _)| seed.to_string()),
            with.map_or_else(none, |campaign| format!("{:.0}", campaign.seconds)),
            measured.shrunk.as_deref().unwrap_or_default(),
            if canary.blind { "yes" } else { "" },
        );
    }
    let noted: Vec<_> = all.iter().filter(|(canary, _)| !canary.note.is_empty()).collect();
    if !noted.is_empty() {
        out.push_str("\n## Notes\n\n");
        for (canary, _) in noted {
            let _ = writeln!(out, "- **{}**: {}", canary.name, canary.note);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "\
bug: A line is missing.
class: power-loss
invariant: I-1, I-15
blind: yes

diff --git a/story.txt b/story.txt
--- a/story.txt
+++ b/story.txt
@@ -1,3 +1,2 @@
 once
-upon
 a
";

    /// A directory that is removed in the end.
    struct TempDir(PathBuf);

    impl TempDir {
        fn new(name: &str) -> TempDir {
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

    /// A header that is misread would let a canary count that nobody looked for.
    #[test]
    fn a_header_says_what_the_bug_is() {
        let canary = Canary::parse("story", PATCH).expect("a canary");
        assert_eq!(canary.bug, "A line is missing.");
        assert_eq!(canary.class, Class::PowerLoss);
        assert_eq!(canary.invariants, ["I-1", "I-15"]);
        assert!(canary.blind && canary.note.is_empty());
        let noted = PATCH.replace("blind: yes", "blind: no\nnote: hard");
        let canary = Canary::parse("story", &noted).expect("a canary");
        assert!(!canary.blind && canary.note == "hard");
    }

    #[test]
    fn a_bad_header_is_refused_by_name() {
        for (from, to, why) in [
            ("bug: A line is missing.\n", "", "no header \"bug\""),
            ("power-loss", "bad-luck", "no class \"bad-luck\""),
            ("I-1, I-15", "I-16", "\"I-16\" is none of I-1 to I-15"),
            ("blind: yes", "blind: maybe", "blind is yes or no"),
            ("blind: yes", "blind: yes\nblind: yes", "two headers \"blind\""),
            ("blind: yes", "blnd: yes", "unknown header \"blnd\""),
            ("blind: yes", "blind: yes\nwords", "\"words\" is no line of a header"),
            ("\ndiff --git a/story.txt b/story.txt", "", "is no line of a header"),
        ] {
            assert!(PATCH.contains(from), "{from:?}");
            let refused = Canary::parse("story", &PATCH.replacen(from, to, 1));
            let refused = refused.expect_err(why);
            assert!(refused.contains(why) && refused.contains("story.patch"), "{refused}");
        }
    }

    #[test]
    fn the_canaries_of_the_workspace_are_well_formed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let canaries = read_canaries(&root, &[]).expect("well-formed headers");
        assert!(canaries.len() >= 40, "{} canaries", canaries.len());
        assert!(canaries.iter().filter(|c| c.blind).count() * 3 >= canaries.len());
        let named = |i: u32| canaries.iter().any(|c| c.invariants.contains(&format!("I-{i}")));
        let unnamed: Vec<u32> = (1..=15).filter(|i| !named(*i)).collect();
        assert!(unnamed.is_empty(), "no canary breaks I-{unnamed:?}");
        for class in FaultClass::ALL {
            assert!(canaries.iter().any(|c| c.class == Class::Fault(class)), "{class:?}");
        }
    }

    /// A patch that is skipped in silence would be a canary that sings for ever.
    #[test]
    fn a_patch_that_no_longer_applies_names_the_hunk() {
        let dir = TempDir::new("apply");
        let file = dir.0.join("story.txt");
        fs::write(&file, "once\nupon\na\n").expect("a file");
        apply(&dir.0, PATCH, false).expect("a patch that fits");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "once\na\n");
        let again = apply(&dir.0, PATCH, false).expect_err("it is applied already");
        assert!(again.contains("no longer applies") && again.contains("story.txt:1"), "{again}");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "once\na\n");
        apply(&dir.0, PATCH, true).expect("it is taken back");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "once\nupon\na\n");
    }

    #[test]
    fn a_run_is_understood() {
        let said = "noise\nseed 17 BREAKS I-3: torn: twice\nmore\n1 seeds in 0.1 s\n";
        assert_eq!(read_outcome(said, None), Ok(Some((17, "I-3".into()))));
        assert_eq!(read_outcome("", None), Ok(Some((0, "endless".into()))));
        let found = Campaign { seeds: 3000, seconds: 1.5, found: Some((17, "I-3".into())) };
        let none = Campaign { found: None, ..found.clone() };
        for campaign in [found, none] {
            assert_eq!(Campaign::of_line(&campaign.to_line()), Some(campaign));
        }
    }

    /// Results of another program or another patch must not be reported as those of this one.
    #[test]
    fn results_are_kept_for_the_same_program_only() {
        let dir = TempDir::new("results");
        let file = dir.0.join("story");
        let with = Some(Campaign { seeds: 3000, seconds: 1.5, found: None });
        let measured = Measured { with, shrunk: Some("two operations".into()), without: None };
        measured.save(&file, 7).expect("saved");
        assert_eq!(Measured::load(&file, 7), measured);
        assert_eq!(Measured::load(&file, 8), Measured::default());
        assert!(measured.is_done(3000) && !measured.is_done(3001));
        assert!(measured.is_done_without(Class::Kill, 2000), "it was not found with it");
        let found = Some(Campaign { seeds: 3000, seconds: 1.5, found: Some((17, "I-3".into())) });
        let measured = Measured { with: found, ..Measured::default() };
        assert!(measured.is_done(20_000) && measured.is_done_without(Class::None, 2000));
        assert!(!measured.is_done_without(Class::Kill, 2000));
    }

    #[test]
    fn switching_off_changes_how_boots_end_but_not_when() {
        let plan = (0..).map(Plan::draw).find(|p| p.boots.len() > 6).expect("a long plan");
        let mut calm = plan.clone();
        for class in ["preemption", "power-loss", "sync-error"] {
            Class::to_switch_off(class).expect("a class").switch_off(&mut calm);
        }
        let crashes = |plan: &Plan| plan.boots.iter().filter_map(|b| b.crash).collect::<Vec<_>>();
        let (before, after) = (crashes(&plan), crashes(&calm));
        assert!(before.len() > 5 && before.len() == after.len());
        assert!(after.iter().all(|(_, crash)| *crash == Crash::Killed));
        assert!(after.iter().zip(&before).all(|(a, b)| a.0 == b.0));
        assert!(calm.scheduling.preempt == 0.0 && calm.faults.sync_error == 0.0);
        assert!(Class::to_switch_off("none").is_err() && Class::to_switch_off("luck").is_err());
    }
}
