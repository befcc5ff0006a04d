//! `export`: everything, as lines that `load` reads back; or a table as the CSV it came from.
//!
//! `docs/cli.md` has the format. A line with a tab is an entry, one without is about the export; the
//! last one counts the entries, so that a cut-off export is not taken for a whole one.

use crate::{
    commands::import::stored_header,
    failure::{Failure, Result},
    output::Out,
    progress::Progress,
    session::{self, TEXT_VALUE_BYTES_MAX, existing_keyspace, keyspace_name},
    text::Encoding,
};
use lightning_db::{Database, Scan};
use std::path::Path;

/// The first line of an export, before the name of its encoding.
pub(crate) const FIRST_LINE: &str = "lightning-db export 1 ";

/// Print everything in a form that `load` reads back
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    /// Only this keyspace
    #[arg(long, value_parser = keyspace_name)]
    keyspace: Option<String>,
    /// How keys and values are written; `load` finds it in the first line
    #[arg(long, value_enum, default_value_t, conflicts_with = "csv")]
    encoding: Encoding,
    /// Print the CSV file that the keyspace was imported from, its rows in key order
    #[arg(long)]
    csv: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    session::read(&args.db.path, |db| {
        let names = match &args.keyspace {
            Some(name) => {
                existing_keyspace(db, &args.db.path, name)?;
                vec![name.clone()]
            }
            None => db.keyspaces()?,
        };
        let mut out = Out::new();
        match args.csv {
            true => write_csv(
                &mut out,
                db,
                &args.db.path,
                args.keyspace.as_deref().unwrap_or(session::DEFAULT_KEYSPACE),
            )?,
            false => write_lines(&mut out, db, &names, args.encoding)?,
        }
        out.finish()
    })
}

fn write_lines(out: &mut Out, db: &Database, names: &[String], encoding: Encoding) -> Result<()> {
    out.line(format!("{FIRST_LINE}{}", encoding.name()))?;
    let snapshot = db.snapshot()?;
    let mut count = Counted::new();
    for name in names {
        out.line(format!("keyspace {}", Encoding::Text.encode(name.as_bytes())))?;
        let scan = snapshot.of(&db.keyspace(name)?).iter()?;
        count.each(scan, |key, value| {
            if value.len() as u64 > TEXT_VALUE_BYTES_MAX {
                return Err(Failure::Other(format!(
                    "the value of key \"{}\" in keyspace {name:?} has {} bytes, and an export holds \
                     values of up to {TEXT_VALUE_BYTES_MAX}; `get --raw` prints it",
                    encoding.encode(key),
                    value.len()
                )));
            }
            out.entry(encoding, key, value)
        })?;
    }
    out.line(format!("end {}", count.entries))
}

fn write_csv(out: &mut Out, db: &Database, path: &Path, name: &str) -> Result<()> {
    let header = stored_header(db, name)?.ok_or_else(|| {
        let path = path.display();
        Failure::NotFound(format!("keyspace {name:?} of {path} was not imported from CSV"))
    })?;
    let ending = if header.ends_with(b"\r\n") { &b"\r\n"[..] } else { b"\n" };
    out.bytes(&header)?;
    Counted::new().each(db.keyspace(name)?.iter()?, |_, row| {
        out.bytes(row)?;
        out.bytes(ending)
    })
}

/// Counts entries, for the last line and for who watches.
struct Counted {
    entries: u64,
    progress: Progress,
}

impl Counted {
    fn new() -> Counted {
        Counted { entries: 0, progress: Progress::entries("exporting") }
    }

    fn each(
        &mut self,
        mut scan: Scan,
        mut with: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        while let Some((key, value)) = scan.next_ref()? {
            with(key, value)?;
            self.entries += 1;
            if self.entries.is_multiple_of(1024) {
                self.progress.at(self.entries);
            }
        }
        Ok(())
    }
}
