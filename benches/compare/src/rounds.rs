//! Runs every engine in a process of its own, round after round.

use crate::{options::Options, report::Report, rows::Measurement};
use std::process::{Command, Stdio};

/// Collects the numbers of all rounds. Every round begins with another engine, so that none is
/// always the first. Each round writes down what there is so far.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let mut report = Report::default();
    for round in 0..options.rounds {
        let mut engines = options.engines.clone();
        engines.rotate_left(round % options.engines.len());
        for engine in engines {
            eprintln!("round {} of {}: {engine}", round + 1, options.rounds);
            for measurement in measure(options, engine) {
                report.add(engine, measurement);
            }
        }
        if let Some(path) = &options.json {
            let json = serde_json::to_string_pretty(&report.json(options.plan.entries)).unwrap();
            std::fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(report)
}

/// The numbers of one engine in one round.
fn measure(options: &Options, engine: &str) -> Vec<Measurement> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--child", engine, "--only", &options.only])
        .args(["--entries", &options.plan.entries.to_string()])
        .arg("--dir")
        .arg(&options.plan.dir)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the process of {engine} ended with {}", output.status);
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
