//! Lightning DB: an embedded, ordered key-value database that is safe after any crash.

pub mod env;
pub mod sync;

mod cache;
mod codec;
mod config;
mod error;
mod format;
mod iter;
mod sstable;
mod types;

pub use config::{Compression, Durability, LightningDbConfig, MAX_VALUE_BYTES, WalSyncMode};
pub use error::{Corruption, Error, Result};
pub use types::SeqNo;
