//! Lightning DB: an embedded, ordered key-value database that is safe after any crash.
//!
//! ```
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("db");
//! use lightning_db::{Database, LightningDbConfig};
//!
//! let db = Database::open_or_create(&path, LightningDbConfig::durable())?;
//! db.put("user:1", "Ada")?;
//! db.put("user:2", "Grace")?;
//! for entry in db.scan_prefix("user:")? {
//!     let (key, value) = entry?;
//!     println!("{} = {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
//! }
//! # Ok::<(), lightning_db::Error>(())
//! ```
//!
//! Modules form a ladder: each names only those on lower rungs, from [`Database`] at the top down to
//! types and locks. `docs/architecture.md` walks a put, a get and a recovery through it.

pub mod env;
pub mod sync;

mod blob;
mod btree;
mod cache;
mod codec;
mod config;
mod database;
mod db;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handles;
mod iter;
mod lent;
mod memtable;
mod metrics;
mod pager;
mod sstable;
mod transaction;
mod types;
mod upkeep;
mod version;
mod wal;

pub use config::{
    Compression, Durability, LightningDbConfig, MAX_VALUE_BYTES, StorageKind, WalSyncMode,
};
pub use database::Database;
pub use db::{
    check::{CheckProgress, Fault, IntegrityReport, TreeReport},
    feed::{CommittedBatch, Operation},
    stats::{DatabaseStats, KeyspaceStats},
};
pub use error::{Corruption, Error, Result};
pub use handles::{
    FeedPosition, IsolationLevel, KeyRange, Keyspace, KeyspaceOptions, Savepoint, Scan, Snapshot,
    Subscription, Transaction, TransactionBuilder, TransactionId, TransactionOptions,
    TransactionScan, ValueReader, ValueRef, WriteBatch,
};
pub use types::SeqNo;
