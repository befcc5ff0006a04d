//! A writer that is killed, and the check that it did not lose what it was told is safe.
//!
//! The writer is this program again. It writes numbers 1, 2, 3.. durably, one commit each, and
//! prints each number once its commit returned. Whatever was printed must be there after the kill,
//! and what is there must be 1..=N: a number that is missing below one that is there is a hole.

use crate::{
    failure::{Failure, Result},
    session,
};
use lightning_db::{Database, Keyspace, LightningDbConfig};
use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime},
};

const KEYSPACE: &str = "crash";
const SIGKILL: i32 = 9;

/// Write durably until killed
#[derive(clap::Args)]
pub(crate) struct WriterArgs {
    #[command(flatten)]
    db: session::Db,
}

fn key(number: u64) -> Vec<u8> {
    format!("{number:012}").into_bytes()
}

fn value(number: u64) -> Vec<u8> {
    format!("number {number} ").repeat(8).into_bytes()
}

/// The child: goes on where the last one was killed.
pub(crate) fn write_until_killed(args: WriterArgs) -> Result<()> {
    let db = Database::open(&args.db.path, LightningDbConfig::durable())?;
    let keyspace = db.keyspace(KEYSPACE)?;
    let mut next = numbers(&keyspace)? + 1;
    let mut out = io::stdout().lock();
    loop {
        keyspace.put(key(next), value(next))?;
        // Whole and at once: the kill may come after any instruction. If nobody listens any more,
        // the parent is gone, and so are we.
        writeln!(out, "{next}").and_then(|()| out.flush()).map_err(Failure::output)?;
        next += 1;
    }
}

/// How many numbers there are, which must be 1..=N with their values.
fn numbers(keyspace: &Keyspace) -> Result<u64> {
    let mut number = 0;
    for entry in keyspace.iter()? {
        let (found_key, found_value) = entry?;
        number += 1;
        if found_key != key(number) || found_value != value(number) {
            return Err(Failure::Other(format!(
                "a hole: number {number} should be next, but {} is",
                String::from_utf8_lossy(&found_key)
            )));
        }
    }
    Ok(number)
}

/// What a killed writer had said.
pub(super) struct Killed {
    /// The last number it acknowledged.
    pub(super) acknowledged: u64,
    /// How long it wrote, from its first acknowledgement on.
    pub(super) after: Duration,
}

/// Starts a writer and kills it with SIGKILL a moment after its first acknowledgement.
pub(super) fn kill_a_writer(dir: &Path) -> Result<Killed> {
    let fail = |doing| move |e| Failure::file(doing, "the writer", e);
    let program = std::env::current_exe().map_err(fail("find"))?;
    let mut command = Command::new(program);
    command.arg("demo-writer").arg("--").arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(fail("start"))?;
    let heard = listen(&mut child);
    // It is not left running, whatever happened.
    let killed = child.kill();
    let status = child.wait().map_err(fail("wait for"))?;
    killed.map_err(fail("kill"))?;
    let heard = heard.map_err(fail("listen to"))?;
    check_ending(status, heard)
}

fn check_ending(status: ExitStatus, heard: Option<Killed>) -> Result<Killed> {
    match (status.signal(), heard) {
        (Some(SIGKILL), Some(killed)) => Ok(killed),
        _ => Err(Failure::Other(format!("the writer ended by itself: {status}"))),
    }
}

/// Listens to acknowledgements, kills the child after a moment, and listens to the rest. `None` if
/// it said nothing.
fn listen(child: &mut Child) -> io::Result<Option<Killed>> {
    let Some(stdout) = child.stdout.take() else {
        return Ok(None);
    };
    let mut said = BufReader::new(stdout);
    let mut line = String::new();
    let mut acknowledged = None;
    let mut started = None;
    let moment = some_moment();
    while said.read_line(&mut line)? > 0 {
        // The last line may be cut off: then the acknowledgement was not heard.
        if let Some(number) = line.strip_suffix('\n').and_then(|n| n.parse().ok()) {
            acknowledged = Some(number);
        }
        line.clear();
        let started = started.get_or_insert_with(Instant::now);
        if started.elapsed() >= moment {
            child.kill()?;
        }
    }
    let after = started.map(|started: Instant| started.elapsed());
    Ok(acknowledged.zip(after).map(|(acknowledged, after)| Killed { acknowledged, after }))
}

/// Between 50 and 350 ms.
fn some_moment() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(50 + u64::from(now.subsec_micros()) % 300)
}

/// Reopens the database and checks that what was acknowledged is there, in this round and before.
/// Returns how long opening took, and how many numbers there are.
pub(super) fn check(dir: &Path, killed: &Killed, before: u64) -> Result<(Duration, u64)> {
    let started = Instant::now();
    let db = Database::open(dir, LightningDbConfig::default())?;
    let took = started.elapsed();
    let written = numbers(&db.keyspace(KEYSPACE)?)?;
    db.close()?;
    let acknowledged = killed.acknowledged.max(before);
    // One commit may have been under way, or be done but not acknowledged yet.
    match written {
        n if n == acknowledged || n == acknowledged + 1 => Ok((took, written)),
        n => Err(Failure::Other(format!(
            "the writer acknowledged {acknowledged} numbers, and {n} are in {}",
            dir.display()
        ))),
    }
}
