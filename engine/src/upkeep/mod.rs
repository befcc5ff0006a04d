//! Turning memtables into runs, and merging runs down into the tree. What to do is decided in [`pick`], which is pure.

pub(crate) mod merge_down;
pub(crate) mod output;
pub(crate) mod pick;
