//! What can go wrong, grouped by what the caller can do about it.

use crate::types::SeqNo;
use std::{io, path::PathBuf, sync::Arc};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// An error leaves nothing half done: a write that returns one is not visible, now
/// or after reopening, with one exception named at [`Error::Poisoned`].
/// Errors are cheap to clone, because iterators repeat theirs.
///
/// ```
/// use lightning_db::{Database, Error, LightningDbConfig};
/// let missing = Database::open("/nonexistent/db", LightningDbConfig::default());
/// assert!(matches!(missing, Err(Error::NotFound { .. })));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is longer than `max_key_size`.
    #[error("key is larger than max_key_size allows")]
    KeyTooLarge,
    /// The value is longer than a value may be.
    #[error("value of {len} bytes is larger than the limit of {max} bytes")]
    ValueTooLarge {
        /// Length of the value in bytes.
        len: u64,
        /// The largest length allowed, in bytes.
        max: u64,
    },
    /// The reader that a value was to come from failed. Nothing was written.
    #[error("cannot read the value that was to be written: {source}")]
    Reader {
        /// The reader's error.
        source: Arc<io::Error>,
    },
    /// All operations of one commit together are larger than a commit may be, or all that open transactions hold
    /// is more than they may.
    #[error(
        "a commit, or what open transactions hold, of {len} bytes is larger than the limit of {max} bytes"
    )]
    CommitTooLarge {
        /// Encoded length of the commit in bytes, or what all transactions would hold.
        len: u64,
        /// The largest length allowed, in bytes.
        max: u64,
    },
    /// The start of a range lies behind its end.
    #[error("inverted range: the start lies behind the end")]
    InvertedRange,
    /// A configuration or argument that makes no sense.
    #[error("invalid {what}: {why}")]
    InvalidArgument {
        /// The field or argument.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No database is at this path.
    #[error("no database at {}: {why}", path.display())]
    NotFound {
        /// The directory that was to be opened.
        path: PathBuf,
        /// What was looked for and not found.
        why: &'static str,
    },
    /// `create` found a database at this path. It was not touched.
    #[error("a database already exists at {}", path.display())]
    AlreadyExists {
        /// The directory that was to be created.
        path: PathBuf,
    },
    /// Another process, or another handle of this one, has the database open.
    #[error("the database at {} is open elsewhere", path.display())]
    Locked {
        /// The directory of the database.
        path: PathBuf,
    },
    /// There is something at this path, but it is not a database.
    #[error("{} is not a database: {why}", path.display())]
    NotADatabase {
        /// The path that was to be opened.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The keyspace does not exist, or was dropped while the handle lived.
    #[error("keyspace {name:?} does not exist")]
    KeyspaceNotFound {
        /// Name of the keyspace.
        name: String,
    },
    /// A bulk load found entries in its keyspace. Nothing was loaded.
    #[error("keyspace {keyspace:?} is not empty")]
    NotEmpty {
        /// Name of the keyspace.
        keyspace: String,
    },
    /// A bulk load came to an entry that cannot be loaded. Nothing was loaded.
    #[error("entry {number} of a bulk load, key {key}: {why}")]
    BadEntry {
        /// Which entry, counted from 1.
        number: u64,
        /// Its key, as text, cut short where it is long.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A subscription wants what the log does not hold any more, or what never was in it: a bulk load. Or it is ahead
    /// of the database, which has lost commits that it counts on. It has to begin anew, from a snapshot.
    #[error("the change feed cannot go on from sequence number {wanted}: {}", why_lagged(*wanted, *oldest))]
    Lagged {
        /// What the subscription would have gone on with.
        wanted: SeqNo,
        /// From here on a subscription is possible, unless more is let go of meanwhile. Below `wanted` if that is
        /// ahead of the database: then it is the SeqNo that is given next.
        oldest: SeqNo,
    },
    /// Bytes on disk are not what was written. Nothing wrong was returned.
    #[error(transparent)]
    Corruption(Arc<Corruption>),
    /// A file was written by a newer version, or uses a feature this one lacks.
    #[error("{} needs a newer version: {what}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The format version or feature it names.
        what: String,
    },
    /// The disk is full. The operation failed whole; it can be tried again in this
    /// process once there is space.
    #[error("no space left on the device while trying to {op} {}", path.display())]
    NoSpace {
        /// What was tried.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
    },
    /// The operating system failed an operation.
    #[error("failed to {op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// A write or sync of the log or the manifest failed earlier, so what is durable is
    /// unknown: reads go on, writes are refused until the database is reopened. A commit
    /// that returns this was not acknowledged; after reopening it is there whole or
    /// not at all.
    #[error(
        "writes are refused until the database is reopened, because of an earlier failure: {cause}"
    )]
    Poisoned {
        /// The failure.
        cause: Arc<Error>,
    },
    /// Another commit has changed what the transaction read or was about to write. Nothing was written; the
    /// transaction has ended, and its work can be done again in a new one:
    /// [`execute_transaction`](crate::Database::execute_transaction) does that by itself.
    #[error("another commit has changed what the transaction counts on")]
    TransactionConflict,
    /// Transactions wait for each other's locks, and this one, the youngest, has ended for the others to go on.
    /// Nothing was written.
    #[error("deadlock: transactions {} wait for each other", circle(cycle))]
    Deadlock {
        /// The numbers of the transactions, each waiting for the next, and the last for the first.
        cycle: Vec<u64>,
    },
    /// A lock that another transaction holds was waited for too long. A transaction that waited has ended.
    #[error("waited too long for a lock that another transaction holds")]
    LockTimeout,
    /// The transaction was open for longer than
    /// [`transaction_timeout`](crate::LightningDbConfig::transaction_timeout) allows. It has ended, and nothing
    /// of it was written.
    #[error("the transaction was open for too long")]
    TransactionTimeout,
    /// The snapshot or transaction looked at a moment that is no longer kept: see
    /// [`version_retention`](crate::LightningDbConfig::version_retention) and
    /// [`max_memory`](crate::LightningDbConfig::max_memory). Of a transaction nothing was written.
    #[error("what the snapshot looks at is too old, and is no longer kept")]
    SnapshotTooOld,
    /// The transaction was committed or aborted before.
    #[error("the transaction has ended: it was {how}")]
    TransactionEnded {
        /// How it ended.
        how: &'static str,
    },
    /// No transaction of this database, since it was opened, has this number; or it ended before a thousand others did.
    #[error("no transaction {id} is open")]
    TransactionNotFound {
        /// The number.
        id: u64,
    },
    /// A write in a transaction that was begun for reading only. The transaction goes on.
    #[error("a write in a read-only transaction")]
    ReadOnlyTransaction,
    /// As many transactions are open as
    /// [`max_active_transactions`](crate::LightningDbConfig::max_active_transactions) allows.
    #[error("{max} transactions are open, and no more are allowed")]
    TooManyTransactions {
        /// How many may be open at once.
        max: usize,
    },
    /// The database was closed.
    #[error("the database is closed")]
    Closed,
}

/// What a corrupted file should have held, and what it holds.
///
/// ```
/// # use lightning_db::Error;
/// fn tell(error: &Error) {
///     if let Error::Corruption(found) = error {
///         eprintln!("expected {}, found {}", found.expected, found.found);
///     }
/// }
/// # tell(&Error::Closed);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "corruption in {} at {}: expected {expected}, found {found}",
    file.display(), place(*page, *offset)
)]
#[non_exhaustive]
pub struct Corruption {
    /// The file.
    pub file: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Number of the page that begins there, in the file of the trees.
    pub page: Option<u64>,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Error {
    /// Whether the same call may succeed if it is tried again, without reopening and
    /// without changing its arguments.
    ///
    /// ```
    /// # use lightning_db::Error;
    /// assert!(Error::LockTimeout.is_retryable());
    /// assert!(!Error::Closed.is_retryable());
    /// ```
    ///
    /// For an error that ended a transaction, the call to try again is the whole transaction.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Error::NoSpace { .. } | Error::Locked { .. } | Error::TooManyTransactions { .. }
        ) || self.is_conflict()
    }

    /// Whether a transaction failed only because of what other transactions did at the same time: it has
    /// ended, and the same work may succeed in a new one.
    ///
    /// ```
    /// # use lightning_db::Error;
    /// assert!(Error::TransactionConflict.is_conflict());
    /// assert!(!Error::KeyTooLarge.is_conflict());
    /// ```
    pub fn is_conflict(&self) -> bool {
        matches!(self, Error::TransactionConflict | Error::Deadlock { .. } | Error::LockTimeout)
    }

    /// Whether bytes on disk are not what was written.
    ///
    /// ```
    /// # use lightning_db::Error;
    /// assert!(!Error::KeyTooLarge.is_corruption());
    /// ```
    pub fn is_corruption(&self) -> bool {
        match self {
            Error::Corruption(_) => true,
            Error::Poisoned { cause } => cause.is_corruption(),
            _ => false,
        }
    }

    /// A corruption found in `file` at `offset`.
    pub(crate) fn corruption(
        file: impl Into<PathBuf>,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Corruption(Arc::new(Corruption {
            file: file.into(),
            offset,
            page: None,
            expected: expected.into(),
            found: found.into(),
        }))
    }

    /// The same where the offset is that of a page.
    pub(crate) fn in_page(self, page: u64) -> Error {
        match self {
            Error::Corruption(found) => {
                let found = Arc::unwrap_or_clone(found);
                Error::Corruption(Arc::new(Corruption { page: Some(page), ..found }))
            }
            other => other,
        }
    }

    /// Names what was tried, and where, when the operating system said no.
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { op, path }
            }
            _ => Error::Io { op, path, source: Arc::new(source) },
        }
    }

    /// The error that every later write gets after `self` poisoned the writer.
    pub(crate) fn poison(self) -> Error {
        match self {
            Error::Poisoned { .. } => self,
            cause => Error::Poisoned { cause: Arc::new(cause) },
        }
    }

    /// What went wrong itself, for whom there is no writer that it could have poisoned: an opening
    /// that failed.
    pub(crate) fn unpoisoned(self) -> Error {
        match self {
            Error::Poisoned { cause } => Arc::unwrap_or_clone(cause),
            other => other,
        }
    }
}

/// Where something is in a file.
pub(crate) fn place(page: Option<u64>, offset: u64) -> String {
    match page {
        Some(page) => format!("page {page} (offset {offset})"),
        None => format!("offset {offset}"),
    }
}

/// Why a change feed cannot go on.
fn why_lagged(wanted: SeqNo, oldest: SeqNo) -> String {
    match wanted > oldest {
        true => {
            format!("the next one to be given is {oldest}, so commits that it counts on are lost")
        }
        false => format!("the log holds only what comes from {oldest} on"),
    }
}

/// `3 -> 7 -> 3`
fn circle(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().chain(ids.first()).map(u64::to_string).collect();
    ids.join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For a message that leaves out who waits for the first, or an error that nobody tries again.
    #[test]
    fn a_deadlock_tells_its_circle() {
        let error = Error::Deadlock { cycle: vec![3, 7] };
        assert_eq!(error.to_string(), "deadlock: transactions 3 -> 7 -> 3 wait for each other");
        assert!(error.is_retryable());
    }
}
