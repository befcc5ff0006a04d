//! `lightning-sim shrink`

use super::{SHRINK_SECONDS, Source, made_small, number};
use std::process::ExitCode;

pub(crate) fn shrink(arguments: &[String]) -> Result<ExitCode, String> {
    let (mut source, mut out, mut seconds) = (None, "shrunk.json".to_string(), SHRINK_SECONDS);
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
    match made_small(&schedule, &out, seconds)? {
        Some(told) => {
            print!("{told}");
            Ok(ExitCode::FAILURE)
        }
        None => {
            println!("no promise was broken");
            Ok(ExitCode::SUCCESS)
        }
    }
}
