//! A table in memory, and the same in a database: they must be equal.

use super::{Duration, line};
use crate::{
    commands::import,
    failure::{Failure, Result},
    session::Batches,
};
use lightning_db::Database;
use std::{collections::BTreeMap, path::Path};

/// Where the rows go.
pub(super) const KEYSPACE: &str = "airports";

pub(super) struct Table {
    /// The name of the file it came from.
    pub(super) file: String,
    /// Rows as they stand in the file, by their first field.
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

type Row<'a> = (&'a Vec<u8>, &'a Vec<u8>);

impl Table {
    pub(super) fn read(path: &Path) -> Result<Table> {
        let (mut reader, header) = import::open(path)?;
        let mut rows = BTreeMap::new();
        while let Some(row) = reader.row(&header)? {
            let (line, key) = (row.line, row.field(0).into_owned());
            if rows.insert(key, row.raw.to_vec()).is_some() {
                let why = "its first field is that of an earlier row";
                return Err(Failure::Other(format!("{}:{line}: {why}", path.display())));
            }
        }
        if rows.is_empty() {
            return Err(Failure::Other(format!("{} has no rows", path.display())));
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Table { file, rows })
    }

    /// What a step did with all rows.
    pub(super) fn line(&self, step: &str, what: &str, took: Duration) -> String {
        line(step, self.rows.len() as u64, what, took)
    }

    pub(super) fn load(&self, db: &Database) -> Result<()> {
        let keyspace = db.keyspace(KEYSPACE)?;
        let mut batches = Batches::new(db);
        for (key, row) in &self.rows {
            batches.put(&keyspace, key, row)?;
        }
        Ok(batches.commit()?)
    }

    pub(super) fn read_back(&self, db: &Database) -> Result<()> {
        let keyspace = db.keyspace(KEYSPACE)?;
        for (key, row) in &self.rows {
            let found = keyspace.get(key)?;
            if found.as_ref() != Some(row) {
                return Err(differs((key, row), found.as_deref()));
            }
        }
        Ok(())
    }

    pub(super) fn scan_both_ways(&self, db: &Database) -> Result<()> {
        let keyspace = db.keyspace(KEYSPACE)?;
        compare(self.rows.iter(), keyspace.iter()?)?;
        compare(self.rows.iter().rev(), keyspace.scan_reverse(None, None)?)
    }

    /// The first two bytes of the key in the middle.
    pub(super) fn some_prefix(&self) -> Vec<u8> {
        let middle = self.rows.keys().nth(self.rows.len() / 2);
        middle.map_or(vec![], |key| key.iter().copied().take(2).collect())
    }

    pub(super) fn with_prefix(&self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = Row<'_>> {
        self.rows.iter().filter(move |(key, _)| key.starts_with(prefix))
    }

    pub(super) fn scan_prefix(&self, db: &Database, prefix: &[u8]) -> Result<()> {
        let keyspace = db.keyspace(KEYSPACE)?;
        compare(self.with_prefix(prefix), keyspace.scan_prefix(prefix)?)?;
        compare(self.with_prefix(prefix).rev(), keyspace.scan_prefix(prefix)?.rev())
    }
}

/// Checks that a scan gives these rows, all of them, and nothing else.
fn compare<'a>(
    mut rows: impl Iterator<Item = Row<'a>>,
    scan: impl Iterator<Item = lightning_db::Result<(Vec<u8>, Vec<u8>)>>,
) -> Result<()> {
    for entry in scan {
        let (key, value) = entry?;
        match rows.next() {
            Some(row) if (row.0, row.1) == (&key, &value) => {}
            Some(row) => return Err(differs(row, Some(&value))),
            None => {
                return Err(Failure::Other("a scan gives more rows than the table has".into()));
            }
        }
    }
    match rows.next() {
        None => Ok(()),
        Some(row) => Err(differs(row, None)),
    }
}

fn differs((key, row): Row<'_>, found: Option<&[u8]>) -> Failure {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found = found.map_or("nothing".into(), text);
    Failure::Other(format!(
        "row {} is {} in the file, {found} in the database",
        text(key),
        text(row)
    ))
}
