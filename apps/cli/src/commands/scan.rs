//! `scan`: prints the entries of a range.

use crate::{
    failure::{Result, While},
    session::{self, argument, keyspace_name},
    text::Encoding,
};
use lightning_db::{Keyspace, Scan};
use std::{ffi::OsString, ops::Bound};

/// Print entries in key order, one `KEY<tab>VALUE` a line
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    /// Only keys that begin with this
    #[arg(long, conflicts_with_all = ["from", "to"])]
    prefix: Option<OsString>,
    /// Only keys from this one on
    #[arg(long, value_name = "KEY")]
    from: Option<OsString>,
    /// Only keys before this one
    #[arg(long, value_name = "KEY")]
    to: Option<OsString>,
    /// Highest key first
    #[arg(long)]
    reverse: bool,
    /// Print at most this many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[arg(long, default_value = session::DEFAULT_KEYSPACE, value_parser = keyspace_name)]
    keyspace: String,
    /// How keys and values are written, here and in the output
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let range = Range::of(&args)?;
    session::print_keyspace(&args.db.path, &args.keyspace, |keyspace, out| {
        let mut scan = range.scan(keyspace)?;
        for _ in 0..args.limit.unwrap_or(u64::MAX) {
            let entry = match args.reverse {
                true => scan.next_back_ref()?,
                false => scan.next_ref()?,
            };
            let Some((key, value)) = entry else { break };
            match args.json {
                true => out.json_entry(args.encoding, key, value)?,
                false => out.entry(args.encoding, key, value)?,
            }
        }
        Ok(())
    })
}

/// Which keys.
enum Range {
    Prefix(Vec<u8>),
    Between(Bound<Vec<u8>>, Bound<Vec<u8>>),
}

impl Range {
    fn of(args: &Args) -> Result<Range> {
        let bytes = |name, text: &Option<OsString>| {
            text.as_deref().map(|text| argument(name, args.encoding, text)).transpose()
        };
        if let Some(prefix) = bytes("--prefix", &args.prefix)? {
            return Ok(Range::Prefix(prefix));
        }
        let from = bytes("--from", &args.from)?.map_or(Bound::Unbounded, Bound::Included);
        let to = bytes("--to", &args.to)?.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(Range::Between(from, to))
    }

    fn scan(self, keyspace: &Keyspace) -> Result<Scan> {
        Ok(match self {
            Range::Prefix(prefix) => keyspace.scan_prefix(prefix)?,
            Range::Between(from, to) => {
                keyspace.range((from, to)).doing(|| "--from and --to".into())?
            }
        })
    }
}
