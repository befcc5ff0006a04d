//! Medians, spread and ratios, as Markdown and as JSON.

use crate::{
    engines,
    rows::{self, Measurement, Unit},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The numbers of an engine in a row, one a round.
struct Cell {
    unit: Unit,
    values: Vec<f64>,
}

impl Cell {
    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        match sorted.len() % 2 {
            1 => sorted[half],
            _ => (sorted[half - 1] + sorted[half]) / 2.0,
        }
    }

    fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }
}

/// What was measured.
#[derive(Default)]
pub(crate) struct Report {
    /// By row and engine.
    cells: BTreeMap<(String, &'static str), Cell>,
}

impl Report {
    /// Adds a number of a round.
    pub(crate) fn add(&mut self, engine: &'static str, measured: Measurement) {
        let Measurement { row, unit, value } = measured;
        let cell = self.cells.entry((row, engine)).or_insert(Cell { unit, values: vec![] });
        cell.values.push(value);
    }

    fn cell(&self, row: &str, engine: &'static str) -> Option<&Cell> {
        self.cells.get(&(row.to_string(), engine))
    }

    /// An engine's median in a row, divided by Lightning DB's.
    fn ratio(&self, row: &str, engine: &'static str) -> Option<f64> {
        Some(self.cell(row, engine)?.median() / self.cell(row, engines::ALL[0].0)?.median())
    }

    /// The engines and the rows that have numbers, in the order of the table.
    fn shape(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let has = |engine, row: &str| self.cell(row, engine).is_some();
        let engines = engines::ALL.iter().map(|(engine, _)| *engine);
        let engines: Vec<_> =
            engines.filter(|engine| rows::ALL.iter().any(|row| has(*engine, row))).collect();
        let rows = rows::ALL.iter().copied();
        let rows = rows.filter(|row| engines.iter().any(|engine| has(*engine, row))).collect();
        (engines, rows)
    }

    /// Two tables: medians with their ratios to Lightning DB's, and the least and the most.
    pub(crate) fn markdown(&self) -> String {
        let medians = self.table(|row, engine, cell| {
            let median = number(cell.median());
            match self.ratio(row, engine) {
                Some(ratio) if engine != engines::ALL[0].0 => format!("{median} ({ratio:.2})"),
                _ => median,
            }
        });
        let spread =
            self.table(|_, _, cell| format!("{} to {}", number(cell.min()), number(cell.max())));
        format!(
            "Medians; in parentheses, divided by Lightning DB's.\n\n{medians}\n\
             From the least to the most.\n\n{spread}"
        )
    }

    fn table(&self, text: impl Fn(&str, &'static str, &Cell) -> String) -> String {
        let (engines, rows) = self.shape();
        let mut table = format!("| | unit | {} |\n", engines.join(" | "));
        table += &format!("| --- | --- |{}\n", " ---: |".repeat(engines.len()));
        for row in rows {
            let cell = |engine| self.cell(row, engine).map(|cell| (engine, cell));
            let unit = engines.iter().find_map(|engine| cell(engine)).map(|(_, cell)| cell.unit);
            let name = match unit {
                Some(Unit::Size) => "MiB",
                _ => "k/s",
            };
            let texts = engines.iter().map(|engine| {
                cell(engine).map_or(String::new(), |(engine, cell)| text(row, engine, cell))
            });
            table += &format!("| {row} | {name} | {} |\n", texts.collect::<Vec<_>>().join(" | "));
        }
        table
    }

    /// Every number, with what the tables make of them.
    pub(crate) fn json(&self, entries: u64) -> Value {
        let cells = self.cells.iter().map(|((row, engine), cell)| {
            json!({
                "row": row, "engine": engine, "unit": cell.unit, "values": cell.values,
                "median": cell.median(), "min": cell.min(), "max": cell.max(),
                "ratio": self.ratio(row, engine),
            })
        });
        json!({ "entries": entries, "results": cells.collect::<Vec<_>>() })
    }
}

/// Three digits that count, without a fraction from 100 on.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
