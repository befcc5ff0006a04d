//! `check`: whether everything is as it was written.

use crate::{
    failure::{Failure, Result, While},
    output::{Out, grouped},
    progress::Progress,
    session,
    text::Encoding,
};
use lightning_db::{Database, IntegrityReport, TreeReport};
use serde_json::{Value, json};
use std::{
    cmp::Ordering,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Read a database whole and compare everything with its checksums and with each other. Exits with 4 if
/// anything is wrong
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    /// Also read every entry as a program would: forwards, backwards and by its key
    #[arg(long)]
    deep: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut wrong = None;
    session::print(&args.db.path, |db, out| {
        let report = check(db)?;
        wrong = (!report.faults.is_empty())
            .then(|| format!("{}: {} faults", args.db.path.display(), report.faults.len()));
        let read = match args.deep && wrong.is_none() {
            true => read_all(db)?.map_err(|differs| wrong = Some(differs)).ok(),
            false => None,
        };
        print(out, &report, read, args.json)
    })?;
    wrong.map_or(Ok(()), |wrong| Err(Failure::Corrupt(wrong)))
}

pub(super) fn check(db: &Database) -> Result<IntegrityReport> {
    let mut shown = None;
    let report = db.check_integrity_with(|progress| {
        let bar = shown.get_or_insert_with(|| Progress::bytes("check", Some(progress.total_bytes)));
        bar.at(progress.bytes);
    })?;
    Ok(report)
}

/// Reads every entry of every keyspace in all ways there are. Returns how many there are, or what differs.
fn read_all(db: &Database) -> Result<Result<u64, String>> {
    let progress = Progress::entries("read");
    let mut entries = 0;
    for name in db.keyspaces()? {
        let shown = Encoding::Text.encode(name.as_bytes());
        let doing = || format!("keyspace {shown}");
        let snapshot = db.keyspace(&name)?.snapshot()?;
        let (mut forwards, mut backwards) =
            (Seen::new(Ordering::Less), Seen::new(Ordering::Greater));
        for entry in snapshot.iter()? {
            let (key, value) = entry.doing(doing)?;
            if snapshot.get(&key).doing(doing)?.as_ref() != Some(&value) {
                let key = Encoding::Text.encode(&key);
                return Ok(Err(format!(
                    "keyspace {shown}: key {key} is in a scan, and not found so"
                )));
            }
            forwards.take(key, &value);
            progress.at(entries + forwards.count);
        }
        for entry in snapshot.scan_reverse(None, None)? {
            let (key, value) = entry.doing(doing)?;
            backwards.take(key, &value);
        }
        let ordered = forwards.in_order && backwards.in_order;
        if !ordered || (forwards.count, forwards.sum) != (backwards.count, backwards.sum) {
            return Ok(Err(format!("keyspace {shown} is not the same forwards and backwards")));
        }
        entries += forwards.count;
    }
    Ok(Ok(entries))
}

/// What a scan has shown.
struct Seen {
    /// How each key must be to the one behind it.
    step: Ordering,
    in_order: bool,
    count: u64,
    /// Of the hashes of all entries: the same in any order.
    sum: u64,
    last: Option<Vec<u8>>,
}

impl Seen {
    fn new(step: Ordering) -> Seen {
        Seen { step, in_order: true, count: 0, sum: 0, last: None }
    }

    fn take(&mut self, key: Vec<u8>, value: &[u8]) {
        let mut hasher = DefaultHasher::new();
        (&key, value).hash(&mut hasher);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
        self.in_order &= self.last.as_ref().is_none_or(|last| last.cmp(&key) == self.step);
        self.last = Some(key);
    }
}

/// The trees of a report, for JSON.
pub(super) fn trees(report: &IntegrityReport) -> Value {
    let tree = |tree: &TreeReport| {
        json!({
            "keyspace": tree.keyspace, "depth": tree.depth, "leaves": tree.leaves,
            "branches": tree.branches, "entries": tree.entries,
            "page_bytes": tree.page_bytes, "raw_bytes": tree.raw_bytes,
        })
    };
    report.trees.iter().map(tree).collect()
}

/// A line for each tree of a report.
pub(super) fn print_trees(out: &mut Out, report: &IntegrityReport) -> Result<()> {
    report.trees.iter().try_for_each(|tree| {
        out.line(format!(
            "tree of {}: depth {}, {} leaves, {} branches, {} entries, {} % of {} bytes are keys and values",
            Encoding::Text.encode(tree.keyspace.as_bytes()),
            tree.depth,
            grouped(tree.leaves),
            grouped(tree.branches),
            grouped(tree.entries),
            tree.raw_bytes * 100 / tree.page_bytes.max(1),
            grouped(tree.page_bytes),
        ))
    })
}

fn print(out: &mut Out, report: &IntegrityReport, read: Option<u64>, as_json: bool) -> Result<()> {
    if as_json {
        let faults = report.faults.iter().map(|fault| {
            json!({
                "file": fault.file.to_string_lossy(), "offset": fault.offset, "page": fault.page,
                "expected": fault.expected, "found": fault.found,
            })
        });
        return out.json(&json!({
            "tables": report.tables, "tree_nodes": report.tree_nodes, "blobs": report.blobs,
            "entries": report.entries,
            "read": read, "trees": trees(report), "faults": faults.collect::<Value>(),
        }));
    }
    for fault in &report.faults {
        out.line(fault.to_string())?;
    }
    let (tables, nodes) = (grouped(report.tables), grouped(report.tree_nodes));
    let (entries, blobs) = (grouped(report.entries), grouped(report.blobs));
    out.line(format!(
        "good: {tables} tables, {nodes} nodes of trees, {entries} entries in them, {blobs} large values"
    ))?;
    print_trees(out, report)?;
    if let Some(read) = read {
        out.line(format!("read: {} entries, in all ways the same", grouped(read)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For a scan that shows an entry twice, in the wrong place, or another one: no healthy engine does.
    #[test]
    fn what_two_scans_show_differently_is_seen() {
        let seen = |step: Ordering, keys: &str| {
            let mut seen = Seen::new(step);
            keys.bytes().for_each(|key| seen.take(vec![key], b"value"));
            (seen.in_order, seen.count, seen.sum)
        };
        let forwards = seen(Ordering::Less, "abc");
        assert_eq!(forwards, seen(Ordering::Greater, "cba"));
        assert!(forwards.0 && !seen(Ordering::Less, "abb").0 && !seen(Ordering::Greater, "bca").0);
        assert_ne!(forwards.2, seen(Ordering::Less, "abd").2);
        assert_ne!(forwards.1, seen(Ordering::Less, "ab").1);
    }
}
