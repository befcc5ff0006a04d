//! `put`: sets a key to a value.

use crate::{
    failure::{Failure, Result, While},
    session::{self, Sync, argument, keyspace_name},
    text::Encoding,
};
use lightning_db::MAX_VALUE_BYTES;
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Set a key to a value. Creates the database and the keyspace if they are not there
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    key: OsString,
    #[arg(required_unless_present = "file")]
    value: Option<OsString>,
    /// Take the value from a file as it stands, `-` for standard input
    #[arg(long, conflicts_with = "value")]
    file: Option<PathBuf>,
    #[arg(long, default_value = session::DEFAULT_KEYSPACE, value_parser = keyspace_name)]
    keyspace: String,
    /// How KEY and VALUE are written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    /// Longest key to accept, in bytes, at most 65535. A program that changes longer ones than the
    /// default must be set likewise
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    max_key_size: u16,
    #[command(flatten)]
    sync: Sync,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let key = argument("KEY", args.encoding, &args.key)?;
    let value = match (&args.file, &args.value) {
        (Some(file), _) => read_value(file)?,
        (None, Some(value)) => argument("VALUE", args.encoding, value)?,
        (None, None) => return Err(Failure::Usage("there is neither VALUE nor --file".into())),
    };
    session::write(&args.db.path, args.sync.config(args.max_key_size.into()), |db| {
        let put = db.keyspace(&args.keyspace)?.put(&key, &value);
        put.doing(|| format!("putting a key of {} bytes", key.len()))
    })
}

/// Reads one byte more than a value may have, so that the database can refuse it.
fn read_value(file: &Path) -> Result<Vec<u8>> {
    let mut value = vec![];
    let limit = MAX_VALUE_BYTES + 1;
    let read = match file.as_os_str() == "-" {
        true => io::stdin().take(limit).read_to_end(&mut value),
        false => File::open(file).and_then(|f| f.take(limit).read_to_end(&mut value)),
    };
    read.map_err(|e| Failure::file("read", file.display(), e))?;
    Ok(value)
}
