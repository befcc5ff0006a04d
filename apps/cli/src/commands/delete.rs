//! `delete`: removes a key, or all keys of a range.

use crate::{
    failure::{Result, While},
    session::{self, KEY_BYTES_MAX, Sync, argument, existing_keyspace, keyspace_name},
    text::Encoding,
};
use std::{ffi::OsString, ops::Bound};

/// Remove a key, or all keys of a range. Keys that are not there are no error
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    #[arg(required_unless_present_any = ["range", "from"])]
    key: Option<OsString>,
    /// Remove every key from FROM on, up to TO but without it, at the cost of one write
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], conflicts_with = "key")]
    range: Option<Vec<OsString>>,
    /// Remove every key from FROM on, to the last one, at the cost of one write
    #[arg(long, conflicts_with_all = ["key", "range"])]
    from: Option<OsString>,
    #[arg(long, default_value = session::DEFAULT_KEYSPACE, value_parser = keyspace_name)]
    keyspace: String,
    /// How KEY, FROM and TO are written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    #[command(flatten)]
    sync: Sync,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let key = args.key.map(|key| argument("KEY", args.encoding, &key)).transpose()?;
    let bound = |name, text: &OsString| argument(name, args.encoding, text);
    let range = match (args.range.as_deref(), &args.from) {
        (Some([from, to]), _) => {
            Some((Bound::Included(bound("FROM", from)?), Bound::Excluded(bound("TO", to)?)))
        }
        (_, Some(from)) => Some((Bound::Included(bound("FROM", from)?), Bound::Unbounded)),
        _ => None,
    };
    // Whatever is there can be removed.
    session::change(&args.db.path, args.sync.config(KEY_BYTES_MAX), |db| {
        let keyspace = existing_keyspace(db, &args.db.path, &args.keyspace)?;
        if let Some(key) = key {
            keyspace.delete(key)?;
        }
        if let Some(range) = range {
            let option = if args.from.is_some() { "--from" } else { "--range" };
            keyspace.delete_range(range).doing(|| option.into())?;
        }
        Ok(())
    })
}
