//! The operating system with a say in what it does: a test may have any call fail, take its time or
//! panic.

use lightning_db::env::OsEnv;
use lightning_faults::{FaultyEnv, Rule};
use std::{path::Path, sync::Arc};

/// The operating system under a rule. Log segments are written with `write_at`.
pub(crate) type Outside = FaultyEnv<OsEnv>;

/// The operating system, as far as the rule lets it.
pub(crate) fn under(rule: impl Rule) -> Arc<Outside> {
    FaultyEnv::new(OsEnv::new(), rule)
}

/// Whether the path is that of a log segment.
pub(crate) fn is_log(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-"))
}

/// Whether the path is that of an sstable.
pub(crate) fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sst")
}

/// Whether the path is that of the file of the trees.
pub(crate) fn is_tree(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tree")
}
