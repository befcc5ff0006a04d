//! The engines, each behind [`Store`](crate::store::Store), and the limits beside them.

mod fjall;
mod lightning;
mod limits;
mod lmdb;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use crate::{measure, options::Plan, rows::Rows};

/// Measures an engine in this process.
pub(crate) type Measure = fn(&Plan, &Rows);

/// What there is to compare, by name. The first is what the others are compared with.
pub(crate) const ALL: &[(&str, Measure)] = &[
    ("Lightning DB", measure::store::<lightning::Lightning>),
    ("LMDB", measure::store::<lmdb::Lmdb>),
    ("redb", measure::store::<redb::Redb>),
    ("fjall", measure::store::<fjall::Fjall>),
    #[cfg(feature = "rocksdb")]
    ("RocksDB", measure::store::<rocksdb::RocksDb>),
    ("limit: HashMap", |plan, rows| measure::lookups(&limits::Map::new(plan.entries), plan, rows)),
    ("limit: sorted array", |plan, rows| {
        let array = limits::Array::new(plan.entries);
        measure::lookups(&array, plan, rows);
        measure::scans(&array, plan, rows);
    }),
];

/// The one whose name is `name`.
pub(crate) fn named(name: &str) -> Option<Measure> {
    ALL.iter().find(|(n, _)| *n == name).map(|(_, measure)| *measure)
}
