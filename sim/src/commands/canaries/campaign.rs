//! Running the simulator of the copy, and reading what it says.

use super::{scratch::Scratch, told};
use lightning_sim::schedule::Schedule;
use std::{
    fs,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A run that takes longer does not end by itself any more.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What a run of many seeds came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Campaign {
    pub(super) seeds: u64,
    pub(super) seconds: f64,
    /// The seed that broke a promise, and the promise.
    pub(super) found: Option<(u64, String)>,
}

impl Campaign {
    pub(super) fn to_line(&self) -> String {
        let (seed, invariant) = match &self.found {
            Some((seed, invariant)) => (seed.to_string(), invariant.as_str()),
            None => ("-".into(), "-"),
        };
        format!("{} {:.1} {seed} {invariant}", self.seeds, self.seconds)
    }

    pub(super) fn of_line(line: &str) -> Option<Campaign> {
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
pub(super) fn run(
    scratch: &Scratch,
    options: &[String],
    seeds: u64,
    log: &Path,
) -> Result<Campaign, String> {
    let out = fs::File::create(log).map_err(|error| told("cannot create", log, error))?;
    let errors = out.try_clone().map_err(|error| told("cannot write", log, error))?;
    let began = Instant::now();
    let mut child = Command::new(scratch.program())
        .args(["run", "--no-shrink", "--seeds", &seeds.to_string()])
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
pub(super) fn shrink(
    scratch: &Scratch,
    schedule: &Path,
    seconds: u64,
    log: &Path,
) -> Result<String, String> {
    let small = schedule.with_extension("small.json");
    // What an earlier one left is not this one's.
    let _ = fs::remove_file(&small);
    let output = Command::new(scratch.program())
        .arg("shrink")
        .arg(schedule)
        .arg("--out")
        .arg(&small)
        .args(["--seconds", &seconds.to_string()])
        .output()
        .map_err(|error| told("cannot run", &scratch.program(), error))?;
    fs::write(log, &output.stdout).map_err(|error| told("cannot write", log, error))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let after = said.lines().find_map(|line| line.strip_prefix("after:"));
    // A bug that ends the process leaves what was found until then.
    let left = || Some(Schedule::read(&fs::read_to_string(&small).ok()?).ok()?.size().to_string());
    let after = after.map(|size| size.trim().to_owned()).or_else(left);
    Ok(after.unwrap_or_else(|| "it could not be made small".into()))
}

/// Runs the seeds twice: the first whose traces differ breaks the promise of being replayable.
pub(super) fn run_twice(scratch: &Scratch, seeds: u64, log: &Path) -> Result<Campaign, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
