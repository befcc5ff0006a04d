//! `inspect`: what is in the directory of a database.

use super::{check, stats::storage_kind};
use crate::{
    failure::{Failure, Result},
    output::{Out, grouped},
    session,
    text::Encoding,
};
use lightning_db::{Database, DatabaseStats};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Show what is in a database and in its directory: keyspaces with their tables, log, files
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    /// Also read the trees, to tell how full their nodes are and of which kinds. Takes as long as `check`
    #[arg(long)]
    trees: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// A file of the database.
struct File {
    kind: &'static str,
    name: String,
    bytes: u64,
    /// What it takes on the disk: less than its length where nothing was written yet.
    disk_bytes: u64,
}

pub(crate) fn run(args: Args) -> Result<()> {
    session::print(&args.db.path, |db, out| {
        let (stats, files) = (db.stats()?, list(&args.db.path)?);
        let report = args.trees.then(|| check::check(db)).transpose()?;
        match args.json {
            true => {
                let mut all = as_json(&args.db.path, &stats, &files);
                if let Some(report) = &report {
                    all["trees"] = check::trees(report);
                }
                out.json(&all)?;
            }
            false => {
                print(out, &args.db.path, db, &stats, &files)?;
                if let Some(report) = &report {
                    out.line(format!("\nTREES ({})", report.trees.len()))?;
                    check::print_trees(out, report)?;
                }
            }
        }
        out.flush()?;
        match report.map_or(0, |report| report.faults.len()) {
            0 => Ok(()),
            faults => Err(Failure::Corrupt(format!("{faults} faults: `check` tells them"))),
        }
    })
}

fn list(dir: &Path) -> Result<Vec<File>> {
    use std::os::unix::fs::MetadataExt;
    let fail = |e| Failure::file("list", dir.display(), e);
    let mut files = vec![];
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // The database may remove a file that it no longer needs while we look.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        let (bytes, disk_bytes) = (metadata.len(), metadata.blocks() * 512);
        files.push(File { kind: kind(&name), name, bytes, disk_bytes });
    }
    files.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(files)
}

fn kind(name: &str) -> &'static str {
    match name {
        _ if name.ends_with(".sst") => "table",
        _ if name.ends_with(".tree") => "trees",
        _ if name.ends_with(".blob") => "value",
        _ if name.starts_with("wal-") => "log",
        _ if name.starts_with("manifest") => "manifest",
        _ => "other",
    }
}

fn print(
    out: &mut Out,
    dir: &Path,
    db: &Database,
    stats: &DatabaseStats,
    files: &[File],
) -> Result<()> {
    let total = files.iter().map(|file| file.disk_bytes).sum();
    out.line(format!("{}: {} bytes on disk", dir.display(), grouped(total)))?;
    out.line(format!("{} operations since creation", grouped(stats.visible_seq)))?;
    out.line(format!(
        "{} commits only in the log, not in tables",
        grouped(stats.recovered_commits)
    ))?;
    out.line(format!("{} bytes of the trees are free", grouped(stats.tree_free_bytes)))?;
    out.line(format!(
        "{} large values, {} bytes",
        grouped(stats.blobs),
        grouped(stats.blob_bytes)
    ))?;
    out.line(format!("\nKEYSPACES ({})", db.keyspaces()?.len()))?;
    out.line(format!(
        "{:>10} {:>16} {:>16} {:>10} {:>7}  NAME",
        "TABLES", "BYTES", "ENTRIES", "TREE DEPTH", "KIND"
    ))?;
    for keyspace in &stats.keyspaces {
        out.line(format!(
            "{:>10} {:>16} {:>16} {:>10} {:>7}  {}",
            grouped(keyspace.tables),
            grouped(keyspace.table_bytes),
            grouped(keyspace.table_entries),
            grouped(keyspace.tree_depth),
            storage_kind(keyspace),
            Encoding::Text.encode(keyspace.name.as_bytes()),
        ))?;
    }
    out.line(format!("\nFILES ({})", files.len()))?;
    out.line(format!("{:>10} {:>16} {:>16}  NAME", "KIND", "BYTES", "ON DISK"))?;
    for File { kind, name, bytes, disk_bytes } in files {
        let (bytes, on_disk) = (grouped(*bytes), grouped(*disk_bytes));
        out.line(format!("{kind:>10} {bytes:>16} {on_disk:>16}  {name}"))?;
    }
    Ok(())
}

fn as_json(dir: &Path, stats: &DatabaseStats, files: &[File]) -> Value {
    let keyspaces = stats.keyspaces.iter().map(|k| {
        json!({
            "name": k.name, "tables": k.tables, "table_bytes": k.table_bytes,
            "table_entries": k.table_entries, "tree_depth": k.tree_depth, "storage_kind": storage_kind(k),
        })
    });
    let files = files.iter().map(|f| {
        json!({
            "kind": f.kind, "name": f.name, "bytes": f.bytes, "disk_bytes": f.disk_bytes,
        })
    });
    json!({
        "directory": dir.to_string_lossy(),
        "operations": stats.visible_seq,
        "commits_only_in_log": stats.recovered_commits,
        "tree_free_bytes": stats.tree_free_bytes,
        "blobs": stats.blobs,
        "blob_bytes": stats.blob_bytes,
        "keyspaces": keyspaces.collect::<Value>(),
        "files": files.collect::<Value>(),
    })
}
