//! Turning memtables into runs, and many runs into one. What to do is decided in [`pick`], which is pure.

pub(crate) mod output;
pub(crate) mod pick;
