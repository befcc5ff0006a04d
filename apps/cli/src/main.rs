//! `lightning-cli`: Lightning DB from the command line. `docs/cli.md` tells how to use it.
//!
//! Standard output carries data, standard error talk. Exit code 0 means that it is done, and
//! durable; [`failure`] holds the others. Every command is a file of [`commands`].

mod commands;
mod csv;
mod demo;
mod failure;
mod output;
mod progress;
mod session;
mod text;

use clap::{Parser, Subcommand};
use failure::{Failure, Result};
use std::process::ExitCode;

/// An embedded, ordered key-value database that is safe after any crash.
#[derive(Parser)]
#[command(name = "lightning-cli", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done and durable, 1 failed, 2 wrong arguments, \
                          3 not found, 4 corruption, 5 the database is open elsewhere.";

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    #[command(hide = true)]
    DemoWriter(demo::crash::WriterArgs),
    Import(commands::import::Args),
    Export(commands::export::Args),
    Load(commands::load::Args),
    Put(commands::put::Args),
    Get(commands::get::Args),
    Delete(commands::delete::Args),
    Scan(commands::scan::Args),
    Keyspaces(commands::keyspaces::Args),
    Stats(commands::stats::Args),
    Inspect(commands::inspect::Args),
    Check(commands::check::Args),
    Compact(commands::compact::Args),
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::DemoWriter(args) => demo::crash::write_until_killed(args),
        Command::Import(args) => commands::import::run(args),
        Command::Export(args) => commands::export::run(args),
        Command::Load(args) => commands::load::run(args),
        Command::Put(args) => commands::put::run(args),
        Command::Get(args) => commands::get::run(args),
        Command::Delete(args) => commands::delete::run(args),
        Command::Scan(args) => commands::scan::run(args),
        Command::Keyspaces(args) => commands::keyspaces::run(args),
        Command::Stats(args) => commands::stats::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Check(args) => commands::check::run(args),
        Command::Compact(args) => commands::compact::run(args),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) | Err(Failure::Hangup) => ExitCode::SUCCESS,
        Err(failure) => {
            talk(format_args!("error: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}

/// Says something on standard error. If nobody listens, so be it.
fn talk(what: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}");
}
