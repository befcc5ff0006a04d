//! `load`: what `export` printed, back into a database.
//!
//! It is read as it comes, so that it can come through a pipe: what is in front of a bad line is
//! loaded, and the message says how much that is.

use crate::{
    commands::export::FIRST_LINE,
    failure::{Failure, Result, While},
    output::{Out, grouped},
    progress::Progress,
    session::{self, Batches, KEY_BYTES_MAX, Sync, TEXT_VALUE_BYTES_MAX, keyspace_name},
    talk,
    text::Encoding,
};
use lightning_db::{Database, Keyspace};
use serde_json::json;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    time::Instant,
};

/// Load what `export` printed. Creates the database and keyspaces if they are not there, and
/// replaces the values of keys that are
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    /// The export, `-` for standard input
    file: PathBuf,
    /// Load into this keyspace, whatever the export calls it; for exports of one keyspace
    #[arg(long, value_parser = keyspace_name)]
    keyspace: Option<String>,
    /// Print a JSON object about what was loaded
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sync: Sync,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let (input, total): (Box<dyn Read>, _) = match args.file.as_os_str() == "-" {
        true => (Box::new(io::stdin()), None),
        false => {
            let fail = |e| Failure::file("open", args.file.display(), e);
            let file = File::open(&args.file).map_err(fail)?;
            let total = file.metadata().map_err(fail)?.len();
            (Box::new(file), Some(total).filter(|bytes| *bytes > 0))
        }
    };
    let mut lines = Lines {
        input: BufReader::with_capacity(256 << 10, input),
        file: match args.file.as_os_str() == "-" {
            true => "standard input".into(),
            false => args.file.display().to_string(),
        },
        line: vec![],
        number: 0,
        bytes: 0,
        progress: Progress::bytes("loading", total),
    };
    // Before the database: what is no export creates none.
    let encoding = first_line(&mut lines)?;
    let entries = session::write(&args.db.path, args.sync.config(KEY_BYTES_MAX), |db| {
        let mut load = Load {
            db,
            encoding,
            batches: Batches::new(db),
            into: args.keyspace.as_deref(),
            keyspace: None,
            entries: 0,
        };
        let done = load.all(&mut lines);
        done.map_err(|failure| match failure {
            Failure::Other(why) => {
                // What is in front of the bad line. If that fails, the count says so.
                let _ = load.batches.commit();
                let n = grouped(load.batches.committed());
                Failure::Other(format!("{why}; {n} entries before it were loaded"))
            }
            failure => failure,
        })?;
        Ok(load.entries)
    })?;
    drop(lines);
    let took = started.elapsed().as_secs_f64();
    let path = args.db.path.display();
    talk(format_args!("loaded {} entries into {path} in {took:.2} s", grouped(entries)));
    if args.json {
        let mut out = Out::new();
        out.json(&json!({ "entries": entries, "seconds": took }))?;
        out.finish()?;
    }
    Ok(())
}

fn first_line(lines: &mut Lines<impl BufRead>) -> Result<Encoding> {
    let first = lines.next()?.unwrap_or_default();
    let name = std::str::from_utf8(first).ok().and_then(|line| line.strip_prefix(FIRST_LINE));
    match name.map(Encoding::named) {
        Some(Some(encoding)) => Ok(encoding),
        Some(None) => Err(lines.wrong("an encoding that is none of text, hex, base64")),
        None => Err(lines.wrong(&format!("not an export: it does not begin with {FIRST_LINE:?}"))),
    }
}

/// Lines of an export, without their line breaks.
struct Lines<R> {
    input: R,
    file: String,
    line: Vec<u8>,
    number: u64,
    bytes: u64,
    progress: Progress,
}

/// The longest line: a key and a value, each byte escaped.
const LINE_BYTES_MAX: u64 = 4 * (KEY_BYTES_MAX as u64 + TEXT_VALUE_BYTES_MAX) + 2;

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<&[u8]>> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.input).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.line);
        let read = read.map_err(|e| Failure::file("read", &self.file, e))?;
        self.bytes += read as u64;
        if self.number.is_multiple_of(1024) {
            self.progress.at(self.bytes);
        }
        match self.line.pop_if(|last| *last == b'\n') {
            Some(_) => Ok(Some(&self.line)),
            None if read == 0 => Ok(None),
            None if read as u64 > LINE_BYTES_MAX => Err(self.wrong("the line is too long")),
            None => Err(self.wrong("the export is cut off within this line")),
        }
    }

    #[cold]
    fn wrong(&self, what: &str) -> Failure {
        Failure::Other(format!("{}:{}: {what}", self.file, self.number))
    }
}

/// A load under way.
struct Load<'a> {
    db: &'a Database,
    encoding: Encoding,
    batches: Batches<'a>,
    /// The keyspace to use instead of the one that the export names.
    into: Option<&'a str>,
    keyspace: Option<Keyspace>,
    entries: u64,
}

impl Load<'_> {
    fn all(&mut self, lines: &mut Lines<impl BufRead>) -> Result<()> {
        loop {
            let Some(line) = lines.next()? else {
                return Err(lines.wrong("the export is cut off: its last line is missing"));
            };
            let tab = line.iter().position(|byte| *byte == b'\t');
            let loaded = match tab {
                Some(tab) => self.entry(&line[..tab], &line[tab + 1..]),
                None => match line.split_at_checked(line.len().min(9)) {
                    Some((b"keyspace ", name)) => self.begin_keyspace(name),
                    _ => match line.strip_prefix(b"end ") {
                        Some(count) => {
                            let count = String::from_utf8_lossy(count).into_owned();
                            return self.end(&count, lines);
                        }
                        None => Err(Wrong::Line("neither an entry, a keyspace nor the end".into())),
                    },
                },
            };
            match loaded {
                Ok(()) => {}
                Err(Wrong::Line(why)) => return Err(lines.wrong(&why)),
                Err(Wrong::Db(error)) => {
                    return Err(error).doing(|| format!("{}:{}", lines.file, lines.number));
                }
            }
        }
    }

    fn begin_keyspace(&mut self, name: &[u8]) -> Result<(), Wrong> {
        if self.into.is_some() && self.keyspace.is_some() {
            return Err(Wrong::Line("a second keyspace, but --keyspace takes one".into()));
        }
        let name = Encoding::Text.decode(name).map_err(Wrong::Line)?;
        let name = String::from_utf8(name).ok();
        let name = name.ok_or_else(|| Wrong::Line("the name of a keyspace is not UTF-8".into()))?;
        self.keyspace = Some(self.db.keyspace(self.into.unwrap_or(&name)).map_err(Wrong::Db)?);
        Ok(())
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), Wrong> {
        let Some(keyspace) = &self.keyspace else {
            return Err(Wrong::Line("an entry before the first keyspace".into()));
        };
        let decode = |what: &str, text| {
            self.encoding.decode(text).map_err(|why| Wrong::Line(format!("{what}: {why}")))
        };
        let (key, value) = (decode("key", key)?, decode("value", value)?);
        self.batches.put(keyspace, &key, &value).map_err(Wrong::Db)?;
        self.entries += 1;
        Ok(())
    }

    fn end(&mut self, count: &str, lines: &mut Lines<impl BufRead>) -> Result<()> {
        self.batches.commit().doing(|| "loading the last entries".into())?;
        if count.parse() != Ok(self.entries) {
            let found = self.entries;
            return Err(lines.wrong(&format!("{count} entries were exported, {found} are here")));
        }
        match lines.next()? {
            None => Ok(()),
            Some(_) => Err(lines.wrong("something follows the end of the export")),
        }
    }
}

/// What is wrong with a line, or with the database.
enum Wrong {
    Line(String),
    Db(lightning_db::Error),
}
