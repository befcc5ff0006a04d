//! `demo`: shows on a real table that what goes in comes out, and that what was acknowledged
//! survives a kill.

pub(crate) mod crash;
mod table;

use crate::{
    failure::{Failure, Result, While},
    output::{Out, grouped},
    talk,
};
use lightning_db::{Database, LightningDbConfig};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use table::Table;

/// The table that the demo loads. It is read where it was built, not carried in the binary, which
/// stays small so; `--csv` takes any other.
const AIRPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../corpus/data/airports.csv");

/// Load a real table, read it back byte for byte, then kill a writer again and again and check that
/// nothing acknowledged is lost
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Create the database here and keep it; a directory that is removed at the end if not given
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How many times the writer is killed
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// The table: a CSV file with a header row and a different first field on every row
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let table = Table::read(&find_csv(args.csv)?)?;
    let dir = args.dir.clone().unwrap_or_else(fresh_dir);
    let mut out = Out::new();
    let done = show(&table, &dir, args.rounds, &mut out);
    match (&done, &args.dir) {
        (Ok(()), Some(_)) => out.line(format!(
            "The database stays: lightning-cli scan {} --keyspace {} --limit 3",
            dir.display(),
            table::KEYSPACE
        ))?,
        (Ok(()) | Err(Failure::Hangup), None) => {
            fs::remove_dir_all(&dir).map_err(|e| Failure::file("remove", dir.display(), e))?;
        }
        (Err(_), None) if dir.exists() => {
            talk(format_args!("the database is left in {} to look at", dir.display()));
        }
        (Err(_), _) => {}
    }
    done?;
    out.finish()
}

fn find_csv(given: Option<PathBuf>) -> Result<PathBuf> {
    let path = given.unwrap_or_else(|| AIRPORTS.into());
    match path.exists() {
        true => Ok(path),
        false => Err(Failure::Other(format!(
            "no table at {}: --csv names another CSV file, such as corpus/data/airports.csv of the \
             source tree",
            path.display()
        ))),
    }
}

fn fresh_dir() -> PathBuf {
    std::env::temp_dir().join(format!("lightning-demo-{}", std::process::id()))
}

fn show(table: &Table, dir: &Path, rounds: u32, out: &mut Out) -> Result<()> {
    Database::create(dir, LightningDbConfig::default())?.close()?;
    step(out, format!("Lightning DB in {}, table {}", dir.display(), table.file))?;

    let took = timed(|| with_db(dir, |db| table.load(db)))?;
    step(out, table.line("load", "imported and made durable", took))?;
    let took = timed(|| with_db(dir, |db| table.read_back(db)))?;
    step(out, table.line("get", "read by key, each byte for byte as in the file", took))?;
    let took = timed(|| with_db(dir, |db| table.scan_both_ways(db)))?;
    step(out, table.line("scan", "in key order, then again from the back", took))?;
    let prefix = table.some_prefix();
    let took = timed(|| with_db(dir, |db| table.scan_prefix(db, &prefix)))?;
    let found = table.with_prefix(&prefix).count() as u64;
    let shown = String::from_utf8_lossy(&prefix).into_owned();
    step(
        out,
        line("prefix", found, &format!("with keys that begin with {shown}, both ways"), took),
    )?;

    let mut acknowledged = 0;
    for round in 1..=rounds {
        let killed = crash::kill_a_writer(dir)?;
        let (reopened_in, written) = crash::check(dir, &killed, acknowledged)?;
        let new = killed.acknowledged - acknowledged;
        step(
            out,
            format!(
                "crash {round}: writer killed with SIGKILL after {:.0} ms, {} durable writes \
                 acknowledged ({}/s); reopened in {:.0} ms: all there, {} in a row without a hole",
                killed.after.as_secs_f64() * 1e3,
                grouped(new),
                grouped(per_second(new, killed.after)),
                reopened_in.as_secs_f64() * 1e3,
                grouped(written),
            ),
        )?;
        acknowledged = written;
    }
    if rounds > 0 {
        let took = timed(|| with_db(dir, |db| table.read_back(db)))?;
        step(out, table.line("get", "still as in the file after the crashes", took))?;
    }
    step(out, "All of it held.".into())
}

/// Prints a line at once, so that the demo is seen to go on.
fn step(out: &mut Out, line: String) -> Result<()> {
    out.line(line)?;
    out.flush()
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

/// Opens the database, does something, closes it.
fn with_db(dir: &Path, work: impl FnOnce(&Database) -> Result<()>) -> Result<()> {
    let db = Database::open(dir, LightningDbConfig::default())?;
    work(&db)?;
    db.close().doing(|| format!("closing {}", dir.display()))
}

fn per_second(count: u64, took: Duration) -> u64 {
    (count as f64 / took.as_secs_f64().max(1e-9)) as u64
}

fn line(step: &str, rows: u64, what: &str, took: Duration) -> String {
    format!(
        "{step:<7} {:>7} rows in {:.3} s ({} rows/s): {what}",
        grouped(rows),
        took.as_secs_f64(),
        grouped(per_second(rows, took))
    )
}
