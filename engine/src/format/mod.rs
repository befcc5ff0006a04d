//! Bytes to structs and back, without I/O. Each format is described once, in `docs/formats/`.
//! A decoder trusts nothing that it reads.

pub(crate) mod blob;
pub(crate) mod block;
pub(crate) mod bytes;
pub(crate) mod header;
pub(crate) mod manifest;
pub(crate) mod node;
pub(crate) mod ops;
pub(crate) mod pages;
pub(crate) mod record;
pub(crate) mod sstable;
