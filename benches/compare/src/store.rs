//! What an engine has to do to be measured. A failure ends the measurement: all calls unwrap.

use crate::workload::{Entry, Key};
use std::path::Path;

/// Bytes of memory that every engine may use for its caches and maps.
pub(crate) const MEMORY: usize = 4 << 30;
/// Bytes of memory that collect writes, in the engines that do so: the default of each of them.
pub(crate) const WRITE_BUFFER: usize = 64 << 20;

/// What a commit waits for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Commits {
    /// Nothing: a loss of power may take the newest commits, or as the engine says more.
    Fast,
    /// Until it is safe from a loss of power.
    Durable,
}

/// Can be asked for values.
pub(crate) trait Lookup: Sync {
    type Reader<'a>: Reader
    where
        Self: 'a;

    /// One read transaction, in the engines that need one to read.
    fn reader(&self) -> Self::Reader<'_>;

    /// Reads keys that are all there in a transaction of its own.
    fn read_together(&self, keys: &[Key], mut with: impl FnMut(&[u8])) {
        let mut reader = self.reader();
        for key in keys {
            with(reader.get(key).expect("a key that is there").as_ref());
        }
    }

    /// A reader that goes on to see what there is now. `None`: [`Lookup::reader`] gives one such.
    fn snapshot(&self) -> Option<impl Reader + '_> {
        None::<Self::Reader<'_>>
    }
}

/// Reads and writes several keys as one step.
pub(crate) trait Transactions: Sync + Sized {
    /// Creates an empty database whose commits do not wait for the disk.
    fn create(dir: &Path) -> Self;

    /// Puts several entries in one commit.
    fn fill(&self, entries: &[Entry]);

    /// Gets the value of a key that is there, lets it be changed, and puts it, in a transaction that is done again if
    /// another one comes between.
    fn update(&self, key: &Key, change: impl Fn(&mut Vec<u8>));
}

/// Used by one thread.
pub(crate) trait Reader {
    /// The value, copied out in the engine's usual way.
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>>;

    /// Hands the values of keys that are all there to `with`.
    fn get_batch(&mut self, keys: &[Key], mut with: impl FnMut(&[u8])) {
        for key in keys {
            with(self.get(key).expect("a key that is there").as_ref());
        }
    }

    /// The same without copying. `false`: the engine has no such way, and nothing was done.
    fn get_batch_lent(&mut self, _keys: &[Key], _with: impl FnMut(&[u8])) -> bool {
        false
    }
}

/// Which way a scan of everything goes.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Forward,
    Reverse,
}

/// Keeps its entries in order.
pub(crate) trait Ordered: Lookup {
    /// Hands the values of up to `count` entries from `from` on to `with`, without copying where the
    /// engine can.
    fn scan(reader: &mut Self::Reader<'_>, from: &Key, count: usize, with: impl FnMut(&[u8]));

    /// Hands all values to `with`.
    fn scan_all(reader: &mut Self::Reader<'_>, direction: Direction, with: impl FnMut(&[u8]));

    /// Hands all entries to `with`, each copied out.
    fn scan_copied(reader: &mut Self::Reader<'_>, with: impl FnMut(Vec<u8>, Vec<u8>));
}

/// An engine in a directory.
pub(crate) trait Store: Ordered + Sized {
    /// The engine with transactions that write.
    type Transactions: Transactions;

    /// Creates an empty database in an empty directory.
    fn create(dir: &Path, commits: Commits) -> Self;

    /// Puts one entry, in a commit of its own.
    fn put(&self, entry: &Entry);

    /// Puts several entries in one commit.
    fn write(&self, entries: &[Entry]);

    /// Fills the empty database with entries that come in the order of their keys, in the fastest
    /// way that the engine has.
    fn load_sorted(&self, entries: impl Iterator<Item = Entry>);

    /// Returns when the engine's own compaction or flush has, if it has one.
    fn settle(&mut self);
}

/// Entries in one commit of a load.
pub(crate) const BATCH: usize = 1000;
