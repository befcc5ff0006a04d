//! Collected times, and the table that they make.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

/// Times by name, in the order in which the names first came.
#[derive(Default)]
pub(crate) struct Report {
    names: Vec<String>,
    nanos: BTreeMap<String, Vec<f64>>,
}

impl Report {
    /// Times `run`, which does `operations` operations.
    pub(crate) fn time<R>(&mut self, name: &str, operations: u64, run: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = run();
        self.add(name, operations, start.elapsed());
        result
    }

    pub(crate) fn add(&mut self, name: &str, operations: u64, took: Duration) {
        if !self.nanos.contains_key(name) {
            self.names.push(name.into());
        }
        let nanos = took.as_nanos() as f64 / operations as f64;
        self.nanos.entry(name.into()).or_default().push(nanos);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | median ns | min | max | rounds |")?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: |")?;
        for name in &self.names {
            let values = &self.nanos[name];
            let min = values.iter().copied().fold(f64::INFINITY, f64::min);
            let max = values.iter().copied().fold(0.0, f64::max);
            let (median, rounds) = (median(values), values.len());
            writeln!(f, "| {name} | {median:.0} | {min:.0} | {max:.0} | {rounds} |")?;
        }
        Ok(())
    }
}
