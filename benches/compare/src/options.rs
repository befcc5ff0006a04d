//! The command line.

use crate::engines;
use std::path::PathBuf;

const USAGE: &str = "\
lightning-compare [--entries N] [--rounds N] [--dir DIR] [--only PART-OF-A-ROW]
                  [--engines NAME,NAME] [--json FILE]";

/// What is measured in each process.
pub(crate) struct Plan {
    /// How many entries a database holds.
    pub(crate) entries: u64,
    /// Where directories for databases are made.
    pub(crate) dir: PathBuf,
}

/// What was asked for.
pub(crate) struct Options {
    pub(crate) plan: Plan,
    pub(crate) rounds: usize,
    /// Part of the names of the rows to measure.
    pub(crate) only: String,
    /// Names of engines, as in [`engines::ALL`].
    pub(crate) engines: Vec<&'static str>,
    /// Where the numbers go as JSON.
    pub(crate) json: Option<PathBuf>,
    /// This process measures this engine, and prints its numbers for the one that started it.
    pub(crate) child: Option<String>,
}

impl Options {
    /// The options in the arguments of this process; `Err` says what is wrong with them.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            plan: Plan { entries: 1_000_000, dir: std::env::temp_dir() },
            rounds: 5,
            only: String::new(),
            engines: engines::ALL.iter().map(|(name, _)| *name).collect(),
            json: None,
            child: None,
        };
        while let Some(arg) = args.next() {
            let value = args.next().ok_or_else(|| USAGE.to_string())?;
            match arg.as_str() {
                "--entries" => options.plan.entries = number(&value)?,
                "--rounds" => options.rounds = number(&value)? as usize,
                "--dir" => options.plan.dir = value.into(),
                "--only" => options.only = value,
                "--engines" => options.engines = engines_in(&value)?,
                "--json" => options.json = Some(value.into()),
                "--child" => options.child = Some(value),
                _ => return Err(format!("{arg} is not known\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

/// A number that is not 0.
fn number(value: &str) -> Result<u64, String> {
    match value.replace('_', "").parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("{value} is not a number from 1\n{USAGE}")),
    }
}

/// The engines whose names begin, in any case, with the parts of `list`.
fn engines_in(list: &str) -> Result<Vec<&'static str>, String> {
    let find = |part: &str| {
        let names = engines::ALL.iter().map(|(name, _)| *name);
        let found: Vec<_> =
            names.filter(|name| name.to_lowercase().starts_with(&part.to_lowercase())).collect();
        match found.is_empty() {
            true => Err(format!("no engine is called {part}\n{USAGE}")),
            false => Ok(found),
        }
    };
    Ok(list.split(',').map(find).collect::<Result<Vec<_>, _>>()?.concat())
}
