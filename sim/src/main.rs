//! `lightning-sim`: runs seeds, replays one, makes what fails small, and looks for planted bugs.

mod commands;

use std::process::ExitCode;

const USAGE: &str = "\
lightning-sim: runs Lightning DB on a simulated machine that fails

  lightning-sim run --seeds N [--from S] [--jobs J] [--no-stop] [--hashes FILE] [--out FILE]
                    [--no-shrink] [--shrink-seconds N] [--without CLASS]..
      Runs the seeds S to S+N-1 (S is 0 if not given) on J threads (1 if not given). Stops at
      the first seed that breaks a promise, unless told not to, and writes it down in FILE
      (schedule.json if not given). Makes it as small as it gets in N seconds of processor time
      (60 if not given), unless told not to, writes that beside it (schedule.small.json), and
      tells what happens in it. --hashes writes the trace hash of each seed. --without switches
      off a class of what can go wrong, such as power-loss or sync-error.

  lightning-sim replay FILE|SEED [--trace] [--step] [--out FILE] [--without CLASS]..
      Runs a schedule or a seed and tells how it ended; with --trace, everything that happened;
      with --step, one event each time Enter is pressed. --out writes down what happened.

  lightning-sim shrink FILE|SEED [-o OUT] [--seconds N]
      Makes a schedule that breaks a promise as small as it gets in N seconds of processor time
      (60 if not given), and writes it to OUT (shrunk.json if not given).

  lightning-sim canaries [NAME..] [--seeds N] [--off-seeds N] [--shrink-seconds N] [--jobs J]
                         [--state DIR] [--report FILE] [--share I/N] [--check]
      Plants each bug of sim/canaries in a copy of the workspace and runs up to N seeds (20000)
      to find it, and N (2000; 0: none) without its class, in which it must survive; makes what
      it found small in N seconds (60; 0: not at all). Goes on where it was interrupted, in DIR
      (target/canaries). With --share, takes of each N canaries the I-th, counted from 0. With
      --check, says only whether the patches apply.

  lightning-sim coverage --seeds N [--from S] [--jobs J]
      Runs seeds and tells how often each mark in the engine's rare branches was reached, the first
      seed that did, and the marks that none reached.

Exits with 0 if no promise was broken, 1 if one was, 2 if it was asked for what it cannot do.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((command, rest)) if command == "run" => commands::run::run(rest),
        Some((command, rest)) if command == "replay" => commands::replay::replay(rest),
        Some((command, rest)) if command == "shrink" => commands::shrink::shrink(rest),
        Some((command, rest)) if command == "canaries" => commands::canaries::command(rest),
        Some((command, rest)) if command == "coverage" => commands::run::coverage(rest),
        _ => Err(USAGE.into()),
    };
    result.unwrap_or_else(|why| {
        eprintln!("{}", why.trim_end());
        ExitCode::from(2)
    })
}
