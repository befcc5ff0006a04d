//! `lightning-sim shrink`

use super::{EVENTS, Source, number, write};
use lightning_sim::{
    database::{record_schedule_on, unwrapped},
    schedule::Schedule,
    shrink::shrink as make_small,
    timeline::timeline,
};
use std::{process::ExitCode, time::Duration};

pub(crate) fn shrink(arguments: &[String]) -> Result<ExitCode, String> {
    let (mut source, mut out, mut seconds) = (None, "shrunk.json".to_string(), 60);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "-o" | "--out" => out = value()?.clone(),
            "--seconds" => seconds = number(value()?)?,
            _ if argument.starts_with('-') => return Err(format!("no option {argument:?}")),
            _ => source = Some(Source::of(argument)?),
        }
    }
    let source = source.ok_or("shrink takes a file or a seed")?;
    let (_, schedule) = source.record(None);
    let run = |schedule: &Schedule| record_schedule_on(schedule, None, unwrapped());
    let Some(shrunk) = make_small(&schedule, &run, Duration::from_secs(seconds)) else {
        println!("no promise was broken");
        return Ok(ExitCode::SUCCESS);
    };
    write(&out, &shrunk.schedule.write())?;
    let (outcome, _) = record_schedule_on(&shrunk.schedule, Some(usize::MAX), unwrapped());
    println!("{}", timeline(&outcome, EVENTS));
    println!("before: {}", shrunk.before);
    println!("after:  {}", shrunk.schedule.size());
    println!("{} runs in {:.1} s", shrunk.runs, shrunk.took.as_secs_f64());
    println!("replay it with: lightning-sim replay {out} --trace");
    Ok(ExitCode::FAILURE)
}
