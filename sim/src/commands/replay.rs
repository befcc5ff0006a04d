//! `lightning-sim replay`

use super::{Source, canaries::Class, plan, story, verdict, write};
use lightning_sim::database::record_plan;
use std::{io::Write as _, process::ExitCode, time::Instant};

pub(crate) fn replay(arguments: &[String]) -> Result<ExitCode, String> {
    let (mut source, mut out, mut trace, mut step) = (None, None, false, false);
    let mut without = vec![];
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--trace" => trace = true,
            "--step" => step = true,
            "--without" => {
                let class = arguments.next().ok_or("--without needs a value")?;
                without.push(Class::to_switch_off(class)?);
            }
            "--out" => out = Some(arguments.next().ok_or("--out needs a value")?),
            _ if argument.starts_with('-') => return Err(format!("no option {argument:?}")),
            _ if source.is_some() => return Err("replay takes one file or seed".into()),
            _ => source = Some((argument, Source::of(argument)?)),
        }
    }
    let (name, source) = source.ok_or("replay takes a file or a seed")?;
    let began = Instant::now();
    let (outcome, schedule) = match source {
        Source::Seed(seed) => record_plan(plan(seed, &without, Some(usize::MAX))),
        Source::File(_) if !without.is_empty() => {
            return Err("--without goes with a seed: a schedule says itself what fails".into());
        }
        file => file.record(Some(usize::MAX)),
    };
    if let Some(out) = out {
        write(out, &schedule.write())?;
    }
    let took = began.elapsed().as_secs_f64();
    let mut screen = std::io::stdout().lock();
    let lines = outcome.lines.iter().filter(|_| trace || step);
    for line in lines {
        // A reader such as `head` that has enough is no error.
        if writeln!(screen, "{line}").is_err() || step && !goes_on() {
            break; // how it ended is told all the same
        }
    }
    let mut told = format!("{name}: trace hash {:016x}, {}\n", outcome.trace_hash, schedule.size());
    for (what, count) in &outcome.counters {
        told.push_str(&format!("{count:>12}  {what}\n"));
    }
    let exit = match &outcome.violation {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    };
    told.push_str(&format!("replayed in {took:.3} s\n"));
    told.push_str(&verdict(&outcome));
    told.push_str(&story(&outcome, name));
    let _ = screen.write_all(told.as_bytes());
    Ok(exit)
}

/// Waits for Enter. False: for `q`, or the end of the input.
fn goes_on() -> bool {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line.trim() != "q"
}
