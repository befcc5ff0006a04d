//! `put`: sets a key to a value.

use crate::{
    failure::{Failure, Result, While},
    session::{self, Sync, argument, keyspace_name},
    text::Encoding,
};
use lightning_db::{Error, Keyspace};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
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
    let from = match (&args.file, &args.value) {
        (Some(file), _) => From::File(file, open(file)?),
        (None, Some(value)) => From::Argument(argument("VALUE", args.encoding, value)?),
        (None, None) => return Err(Failure::Usage("there is neither VALUE nor --file".into())),
    };
    session::write(&args.db.path, args.sync.config(args.max_key_size.into()), |db| {
        put(&db.keyspace(&args.keyspace)?, &key, from)
    })
}

/// Where the value is.
enum From<'a> {
    Argument(Vec<u8>),
    File(&'a Path, Box<dyn Read>),
}

/// Before a database is created for it: a file that is not there is no reason to.
fn open(file: &Path) -> Result<Box<dyn Read>> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = File::open(file).map_err(|e| Failure::file("read", file.display(), e))?;
    Ok(Box::new(opened))
}

fn put(keyspace: &Keyspace, key: &[u8], from: From<'_>) -> Result<()> {
    let doing = || format!("putting a key of {} bytes", key.len());
    match from {
        From::Argument(value) => keyspace.put(key, value).doing(doing),
        From::File(file, reader) => match keyspace.put_reader(key, reader) {
            Err(Error::Reader { source }) => {
                let source = Arc::try_unwrap(source).unwrap_or_else(|shared| shared.kind().into());
                Err(Failure::file("read", file.display(), source))
            }
            done => done.doing(doing),
        },
    }
}
