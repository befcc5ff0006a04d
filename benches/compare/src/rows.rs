//! The rows of the table, and how a measurement gets from the process that took it to the one that
//! makes the table.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

pub(crate) const RANDOM_LOAD: &str = "load, random order, batches of 1,000";
pub(crate) const RANDOM_SETTLED: &str = "load, random order, until settled";
pub(crate) const RANDOM_SIZE: &str = "size on disk, random load, settled";
pub(crate) const SORTED_LOAD: &str = "load, sorted";
pub(crate) const SORTED_SETTLED: &str = "load, sorted, until settled";
pub(crate) const SORTED_SIZE: &str = "size on disk, sorted load, settled";
pub(crate) const PUT: &str = "put, one by one";
pub(crate) const PUT_DURABLE: &str = "put, one by one, durable";
pub(crate) const PUT_EIGHT: &str = "put, one by one, durable, 8 threads";
pub(crate) const WRITE_DURABLE: &str = "batches of 1,000, durable";
pub(crate) const GET: &str = "get";
pub(crate) const GET_CHAINED: &str = "get, key from the value before";
pub(crate) const GET_TWO: &str = "get, 2 threads";
pub(crate) const GET_ZIPF: &str = "get, Zipf 0.99";
pub(crate) const GET_MISSING: &str = "get, missing keys";
pub(crate) const GET_BATCH: &str = "get, 100 at a time";
pub(crate) const GET_BATCH_LENT: &str = "get, 100 at a time, not copied";
pub(crate) const GET_SNAPSHOT: &str = "get, in one snapshot";
pub(crate) const GET_WRITING: &str = "get, while 50,000 entries/s are written";
pub(crate) const SCAN_10: &str = "scan of 10";
pub(crate) const SCAN_100: &str = "scan of 100";
pub(crate) const SCAN_FORWARD: &str = "scan of all, forward";
pub(crate) const SCAN_OWNED: &str = "scan of all, forward, copied";
pub(crate) const SCAN_REVERSE: &str = "scan of all, reverse";
pub(crate) const MIX: &str = "80 % get, 20 % put, 2 threads";
pub(crate) const READ_ONE: &str = "read-only transactions of one get";
pub(crate) const READ_MANY: &str = "read-only transactions of 100 gets";
pub(crate) const UPDATE: &str = "transactions that change a value";
pub(crate) const UPDATE_TWO: &str = "transactions that change a value, 2 threads";

/// All rows, in the order of the table.
pub(crate) const ALL: &[&str] = &[
    RANDOM_LOAD,
    RANDOM_SETTLED,
    RANDOM_SIZE,
    SORTED_LOAD,
    SORTED_SETTLED,
    SORTED_SIZE,
    PUT,
    PUT_DURABLE,
    PUT_EIGHT,
    WRITE_DURABLE,
    GET,
    GET_CHAINED,
    GET_TWO,
    GET_ZIPF,
    GET_MISSING,
    GET_BATCH,
    GET_BATCH_LENT,
    GET_SNAPSHOT,
    GET_WRITING,
    SCAN_10,
    SCAN_100,
    SCAN_FORWARD,
    SCAN_OWNED,
    SCAN_REVERSE,
    MIX,
    READ_ONE,
    READ_MANY,
    UPDATE,
    UPDATE_TWO,
];

/// The unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Unit {
    /// Thousands of entries in a second.
    #[serde(rename = "k/s")]
    Rate,
    /// 2^20 bytes.
    #[serde(rename = "MiB")]
    Size,
}

/// One number: a line that the process of an engine prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) row: String,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

/// The rows that are asked for. What is measured goes to standard output.
pub(crate) struct Rows {
    /// Part of the names of the rows that are asked for.
    pub(crate) only: String,
}

impl Rows {
    /// Whether one of `rows` is asked for.
    pub(crate) fn want(&self, rows: &[&str]) -> bool {
        rows.iter().any(|row| row.contains(&self.only))
    }

    /// Runs and times `run`, which handles `entries` entries, if the row is asked for.
    pub(crate) fn time(&self, row: &str, entries: u64, run: impl FnOnce()) {
        if self.want(&[row]) {
            let start = Instant::now();
            run();
            self.rate(row, entries, start.elapsed());
        }
    }

    /// Tells how long `entries` entries took.
    pub(crate) fn rate(&self, row: &str, entries: u64, took: Duration) {
        self.tell(row, Unit::Rate, entries as f64 / 1e3 / took.as_secs_f64());
    }

    /// Tells a size.
    pub(crate) fn size(&self, row: &str, bytes: u64) {
        self.tell(row, Unit::Size, bytes as f64 / f64::from(1 << 20));
    }

    fn tell(&self, row: &str, unit: Unit, value: f64) {
        if self.want(&[row]) {
            let measurement = Measurement { row: row.into(), unit, value };
            println!("{}", serde_json::to_string(&measurement).unwrap());
        }
    }
}
