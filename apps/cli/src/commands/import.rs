//! `import csv`: a CSV file into a keyspace, one entry a row.
//!
//! The key is the field of one column, the value the row as it stands in the file, so that
//! `export --csv` gives back the same bytes. The file is read twice: once to find what is wrong
//! with it, before anything is created or written, and once to write.

use crate::{
    csv::{Header, Reader, Record},
    failure::{Failure, Result, While},
    output::{Out, grouped},
    progress::Progress,
    session::{self, Batches, HEADERS, Sync, keyspace_name},
    talk,
    text::Encoding,
};
use clap::Subcommand;
use lightning_db::{Database, Keyspace};
use serde_json::json;
use std::{
    collections::HashMap,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::Instant,
};

/// Import a CSV file
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    format: Format,
}

#[derive(Subcommand)]
enum Format {
    Csv(CsvArgs),
}

/// Import a CSV file with a header row: the key is one column, the value the row as it stands
#[derive(clap::Args)]
pub(crate) struct CsvArgs {
    /// The CSV file, as in RFC 4180 and UTF-8
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) db: session::Db,
    /// The column that becomes the key, by its name in the header row; the first if not given
    #[arg(long, value_name = "COLUMN")]
    pub(crate) key: Option<String>,
    #[arg(long, default_value = session::DEFAULT_KEYSPACE, value_parser = keyspace_name)]
    pub(crate) keyspace: String,
    /// Replace the values of keys that are there; of rows with the same key, the last one stays.
    /// Without it both are errors
    #[arg(long)]
    replace: bool,
    /// Longest key to accept, in bytes, at most 65535
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    max_key_size: u16,
    /// Print a JSON object about what was imported
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sync: Sync,
}

/// What was found in the first reading.
struct Checked {
    rows: u64,
    bytes: u64,
    /// On which line each key is; empty with `--replace`.
    keys: HashMap<Box<[u8]>, u64>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let Format::Csv(args) = args.format;
    if args.keyspace == HEADERS {
        let why = format!("--keyspace: {HEADERS:?} is where the header rows of others are kept");
        return Err(Failure::Usage(why));
    }
    let started = Instant::now();
    let checked = check(&args)?;
    session::write(&args.db.path, args.sync.config(args.max_key_size.into()), |db| {
        let (_, header) = open(&args.file)?;
        refuse_what_does_not_fit(db, &args, &header, &checked)?;
        copy(db, &args, &checked)
    })?;
    let (rows, bytes, took) = (checked.rows, checked.bytes, started.elapsed().as_secs_f64());
    talk(format_args!(
        "imported {} rows ({} bytes) from {} into keyspace {} of {} in {took:.2} s",
        grouped(rows),
        grouped(bytes),
        args.file.display(),
        Encoding::Text.encode(args.keyspace.as_bytes()),
        args.db.path.display(),
    ));
    if args.json {
        let mut out = Out::new();
        let keyspace = &args.keyspace;
        out.json(&json!({ "rows": rows, "bytes": bytes, "keyspace": keyspace, "seconds": took }))?;
        out.finish()?;
    }
    Ok(())
}

type Csv = Reader<BufReader<File>>;

/// Opens a CSV file and reads its header row.
pub(crate) fn open(path: &Path) -> Result<(Csv, Header)> {
    let fail = |e| Failure::file("open", path.display(), e);
    let file = File::open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        let why = "it is not a regular file, and an import reads it twice";
        return Err(Failure::Other(format!("cannot import {}: {why}", path.display())));
    }
    let input = BufReader::with_capacity(256 << 10, file);
    let mut reader = Reader::new(input, path.display().to_string());
    let header = reader.header()?;
    Ok((reader, header))
}

/// Hands every row and its key to `with`.
fn each_row(
    args: &CsvArgs,
    what: &'static str,
    mut with: impl FnMut(&Record<'_>, &[u8]) -> Result<()>,
) -> Result<(u64, u64)> {
    let (mut reader, header) = open(&args.file)?;
    let column = header.column(args.key.as_deref(), &args.file.display().to_string())?;
    let total = args.file.metadata().map(|metadata| metadata.len()).ok();
    let progress = Progress::bytes(what, total);
    let (mut rows, mut bytes) = (0, reader.bytes());
    while let Some(row) = reader.row(&header)? {
        let key = row.field(column);
        if key.len() > args.max_key_size.into() {
            return Err(Failure::Other(format!(
                "{}:{}: column {:?}: a key of {} bytes is longer than --max-key-size {}",
                args.file.display(),
                row.line,
                header.name(column),
                key.len(),
                args.max_key_size
            )));
        }
        with(&row, &key)?;
        rows += 1;
        bytes = reader.bytes();
        if rows % 1024 == 0 {
            progress.at(bytes);
        }
    }
    Ok((rows, bytes))
}

/// Reads the file to the end, so that nothing is written if anything is wrong with it.
fn check(args: &CsvArgs) -> Result<Checked> {
    let mut keys = HashMap::new();
    let (rows, bytes) = each_row(args, "checking", |row, key| {
        if args.replace {
            return Ok(());
        }
        match keys.insert(Box::from(key), row.line) {
            None => Ok(()),
            Some(before) => Err(Failure::Other(format!(
                "{}:{}: key \"{}\" is also on line {before}; with --replace the last one stays",
                args.file.display(),
                row.line,
                Encoding::Text.encode(key)
            ))),
        }
    })?;
    Ok(Checked { rows, bytes, keys })
}

/// Refuses keys that are there, and a table with other columns than the one that is there.
fn refuse_what_does_not_fit(
    db: &Database,
    args: &CsvArgs,
    header: &Header,
    checked: &Checked,
) -> Result<()> {
    if !db.keyspaces()?.contains(&args.keyspace) {
        return Ok(());
    }
    let keyspace = db.keyspace(&args.keyspace)?;
    if keyspace.first()?.is_none() {
        return Ok(());
    }
    let refused = match stored_header(db, &args.keyspace)? {
        Some(there) if there == header_line(header) => None,
        Some(there) => {
            let there = String::from_utf8_lossy(&there).trim_end().to_string();
            Some(format!("rows under another header row: {there}"))
        }
        None => Some("entries without a header row; --keyspace names another".into()),
    };
    if let Some(what) = refused {
        return Err(Failure::Other(format!(
            "{}:1: keyspace {:?} holds {what}",
            args.file.display(),
            args.keyspace,
        )));
    }
    let mut first: Option<(u64, &[u8])> = None;
    for (key, line) in &checked.keys {
        if first.is_none_or(|(before, _)| *line < before) && keyspace.contains_key(key)? {
            first = Some((*line, key));
        }
    }
    let Some((line, key)) = first else {
        return Ok(());
    };
    Err(Failure::Other(format!(
        "{}:{line}: key \"{}\" is in keyspace {:?} already; --replace replaces its value",
        args.file.display(),
        Encoding::Text.encode(key),
        args.keyspace
    )))
}

fn copy(db: &Database, args: &CsvArgs, checked: &Checked) -> Result<()> {
    let (_, header) = open(&args.file)?;
    let (keyspace, headers) = (db.keyspace(&args.keyspace)?, db.keyspace(HEADERS)?);
    let mut batches = Batches::new(db);
    let doing = |line: u64| move || format!("importing line {line}");
    batches.put(&headers, args.keyspace.as_bytes(), &header_line(&header)).doing(doing(1))?;
    let read = each_row(args, "importing", |row, key| {
        batches.put(&keyspace, key, row.raw).doing(doing(row.line))
    })?;
    batches.commit().doing(|| "importing the last rows".into())?;
    match read == (checked.rows, checked.bytes) {
        true => Ok(()),
        false => Err(Failure::Other(format!(
            "{} changed while it was imported; what was read of it is in the database",
            args.file.display()
        ))),
    }
}

fn header_line(header: &Header) -> Vec<u8> {
    [&header.raw, header.ending.as_bytes()].concat()
}

/// The header row, with its line ending, of a keyspace that was imported from CSV.
pub(crate) fn stored_header(db: &Database, keyspace: &str) -> Result<Option<Vec<u8>>> {
    if !db.keyspaces()?.iter().any(|name| name == HEADERS) {
        return Ok(None);
    }
    let headers: Keyspace = db.keyspace(HEADERS)?;
    Ok(headers.get(keyspace)?)
}
