//! Opening a database for a command, and what commands do with it that is not theirs alone.

use crate::{
    failure::{Failure, Result, While},
    output::Out,
    text::Encoding,
};
use lightning_db::{Database, Durability, Error, Keyspace, LightningDbConfig, WriteBatch};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The keyspace that is there from the beginning.
pub(crate) const DEFAULT_KEYSPACE: &str = "default";
/// For each keyspace that was imported from CSV: its header row with the line ending.
pub(crate) const HEADERS: &str = ".csv";
/// Every key that a database can hold.
pub(crate) const KEY_BYTES_MAX: usize = 65_535;
/// Values that are written as text, in exports and rows, are held in memory: longer ones are refused there.
pub(crate) const TEXT_VALUE_BYTES_MAX: u64 = 1 << 30;

/// How commits become durable, for commands that write.
#[derive(clap::Args)]
pub(crate) struct Sync {
    /// Make each commit durable before the next; without it, all of them at the end
    #[arg(long)]
    pub(crate) sync: bool,
}

impl Sync {
    /// The settings of a command that writes.
    pub(crate) fn config(&self, max_key_size: usize) -> LightningDbConfig {
        let config = match self.sync {
            true => LightningDbConfig::durable(),
            false => LightningDbConfig::default(),
        };
        LightningDbConfig { max_key_size, ..config }
    }
}

/// Runs `read` on a database that must be there. What it failed with matters more than what
/// closing failed with.
pub(crate) fn read<T>(path: &Path, read: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
    let db = Database::open(path, LightningDbConfig::default())?;
    finish(&db, path, read(&db))
}

/// Runs `print` on a database that must be there, and hands over what it printed.
pub(crate) fn print(
    path: &Path,
    print: impl FnOnce(&Database, &mut Out) -> Result<()>,
) -> Result<()> {
    read(path, |db| {
        let mut out = Out::new();
        print(db, &mut out)?;
        out.finish()
    })
}

/// Runs `print` on a keyspace that must be there.
pub(crate) fn print_keyspace(
    path: &Path,
    keyspace: &str,
    print_one: impl FnOnce(&Keyspace, &mut Out) -> Result<()>,
) -> Result<()> {
    print(path, |db, out| print_one(&existing_keyspace(db, path, keyspace)?, out))
}

/// Runs `write` on a database that must be there.
pub(crate) fn change<T>(
    path: &Path,
    config: LightningDbConfig,
    write: impl FnOnce(&Database) -> Result<T>,
) -> Result<T> {
    let db = Database::open(path, config)?;
    finish(&db, path, write(&db))
}

/// Runs `write` on a database that is created if there is none. When this returns `Ok`, what was
/// written is durable.
pub(crate) fn write<T>(
    path: &Path,
    config: LightningDbConfig,
    write: impl FnOnce(&Database) -> Result<T>,
) -> Result<T> {
    let db = Database::open_or_create(path, config)?;
    finish(&db, path, write(&db))
}

fn finish<T>(db: &Database, path: &Path, done: Result<T>) -> Result<T> {
    let closed = db.close().doing(|| format!("closing {}", path.display()));
    match done {
        Ok(_) | Err(Failure::Hangup) => closed.and(done),
        failed => failed,
    }
}

/// A keyspace to read from: it is not created.
pub(crate) fn existing_keyspace(db: &Database, path: &Path, name: &str) -> Result<Keyspace> {
    let names = db.keyspaces()?;
    if !names.iter().any(|n| n == name) {
        return Err(Failure::NotFound(format!(
            "no keyspace {name:?} in {}; `lightning-cli keyspaces` lists those there are",
            path.display()
        )));
    }
    Ok(db.keyspace(name)?)
}

/// Checks the name of a keyspace on the command line.
pub(crate) fn keyspace_name(name: &str) -> Result<String, String> {
    match name.len() {
        1..=255 => Ok(name.into()),
        len => Err(format!("{len} bytes is not between 1 and 255")),
    }
}

/// The bytes of a key or value on the command line.
pub(crate) fn argument(name: &str, encoding: Encoding, text: &OsStr) -> Result<Vec<u8>> {
    let decoded = encoding.decode(text.as_bytes());
    decoded.map_err(|why| {
        let hint = match encoding {
            Encoding::Text => "; --encoding hex takes any bytes",
            _ => "",
        };
        Failure::Usage(format!("{name}: {why}{hint}"))
    })
}

/// The path of a database, as an argument.
#[derive(clap::Args)]
pub(crate) struct Db {
    /// Directory of the database
    #[arg(value_name = "DB")]
    pub(crate) path: PathBuf,
}

/// Writes entries in commits of about a mebibyte.
pub(crate) struct Batches<'a> {
    db: &'a Database,
    batch: WriteBatch,
    bytes: usize,
    committed: u64,
}

const BATCH_BYTES: usize = 1 << 20;

impl<'a> Batches<'a> {
    pub(crate) fn new(db: &'a Database) -> Batches<'a> {
        Batches { db, batch: WriteBatch::new(), bytes: 0, committed: 0 }
    }

    /// How many entries were committed.
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    /// Adds an entry, and commits if there are enough of them.
    pub(crate) fn put(&mut self, to: &Keyspace, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.batch.put_in(to, key, value);
        // An entry costs more than its bytes.
        self.bytes += key.len() + value.len() + 32;
        match self.bytes >= BATCH_BYTES {
            true => self.commit(),
            false => Ok(()),
        }
    }

    /// Commits what was added since the last time.
    pub(crate) fn commit(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        let entries = batch.len() as u64;
        self.bytes = 0;
        self.db.commit(batch, Durability::Default)?;
        self.committed += entries;
        Ok(())
    }
}
