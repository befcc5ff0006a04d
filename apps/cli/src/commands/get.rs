//! `get`: prints the value of a key.

use crate::{
    failure::{Failure, Result},
    session::{self, argument, keyspace_name},
    text::Encoding,
};
use std::ffi::OsString;

/// Print the value of a key
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    key: OsString,
    #[arg(long, default_value = session::DEFAULT_KEYSPACE, value_parser = keyspace_name)]
    keyspace: String,
    /// How KEY and the value are written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    /// Print the value as it is, not encoded and without a line break
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let key = argument("KEY", args.encoding, &args.key)?;
    session::print_keyspace(&args.db.path, &args.keyspace, |keyspace, out| {
        let none = || {
            let key = args.encoding.encode(&key);
            Failure::NotFound(format!("no key \"{key}\" in keyspace {:?}", args.keyspace))
        };
        if args.raw {
            return out.stream(keyspace.get_reader(&key)?.ok_or_else(none)?);
        }
        let value = keyspace.get(&key)?.ok_or_else(none)?;
        if args.json {
            out.json_entry(args.encoding, &key, &value)
        } else {
            out.line(args.encoding.encode(&value))
        }
    })
}
