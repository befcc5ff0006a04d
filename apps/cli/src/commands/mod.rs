//! One file for each command: its arguments, and what it does.

pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod delete;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod keyspaces;
pub(crate) mod load;
pub(crate) mod put;
pub(crate) mod scan;
pub(crate) mod stats;
