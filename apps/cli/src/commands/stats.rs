//! `stats`: numbers about a database.

use crate::{failure::Result, session, text::Encoding};
use lightning_db::{DatabaseStats, KeyspaceStats, StorageKind};
use serde_json::{Map, Value, json};

/// Print numbers about a database. Counters begin when it is opened, that is now
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    session::print(&args.db.path, |db, out| {
        let stats = db.stats()?;
        if args.json {
            return out.json(&as_json(&stats));
        }
        for (name, number) in numbers(&stats) {
            out.line(format!("{name:<19} {number}"))?;
        }
        if let Some(ratio) = stats.space_amplification() {
            out.line(format!("space_amplification {ratio:.2}"))?;
        }
        for keyspace in &stats.keyspaces {
            out.line(format!("keyspace {}", Encoding::Text.encode(keyspace.name.as_bytes())))?;
            for (name, number) in keyspace_numbers(keyspace) {
                out.line(format!("  {name:<17} {number}"))?;
            }
            out.line(format!("  {:<17} {}", "storage_kind", storage_kind(keyspace)))?;
        }
        Ok(())
    })
}

/// How the kind of a keyspace is written.
pub(super) fn storage_kind(keyspace: &KeyspaceStats) -> &'static str {
    match keyspace.storage_kind {
        StorageKind::BTree => "btree",
        StorageKind::Hybrid => "hybrid",
        _ => "unknown", // of a later version of the library
    }
}

fn numbers(stats: &DatabaseStats) -> [(&'static str, u64); 28] {
    [
        ("visible_seq", stats.visible_seq),
        ("durable_lsn", stats.durable_lsn),
        ("log_end_lsn", stats.log_end_lsn),
        ("commits", stats.commits),
        ("operation_bytes", stats.operation_bytes),
        ("log_bytes", stats.log_bytes),
        ("wal_file_bytes", stats.wal_file_bytes),
        ("memtable_bytes", stats.memtable_bytes),
        ("memtable_used_bytes", stats.memtable_used_bytes),
        ("sealed_memtables", stats.sealed_memtables),
        ("cache_bytes", stats.cache_bytes),
        ("cache_hits", stats.cache_hits),
        ("cache_misses", stats.cache_misses),
        ("flushes", stats.flushes),
        ("flushed_bytes", stats.flushed_bytes),
        ("compactions", stats.compactions),
        ("compacted_bytes", stats.compacted_bytes),
        ("tables_dropped", stats.tables_dropped),
        ("tree_file_bytes", stats.tree_file_bytes),
        ("tree_free_bytes", stats.tree_free_bytes),
        ("blobs", stats.blobs),
        ("blob_bytes", stats.blob_bytes),
        ("blob_files", stats.blob_files),
        ("blob_file_bytes", stats.blob_file_bytes),
        ("blob_bytes_written", stats.blob_bytes_written),
        ("stalls", stats.stalls),
        ("recovered_commits", stats.recovered_commits),
        ("pinned_versions", stats.pinned_versions),
    ]
}

fn keyspace_numbers(stats: &KeyspaceStats) -> [(&'static str, u64); 4] {
    [
        ("tables", stats.tables),
        ("table_bytes", stats.table_bytes),
        ("table_entries", stats.table_entries),
        ("tree_depth", stats.tree_depth),
    ]
}

fn as_json(stats: &DatabaseStats) -> Value {
    let object = |numbers: &[(&str, u64)]| -> Map<String, Value> {
        numbers.iter().map(|(name, number)| ((*name).into(), json!(number))).collect()
    };
    let keyspaces = stats.keyspaces.iter().map(|keyspace| {
        let mut fields = object(&keyspace_numbers(keyspace));
        fields.insert("name".into(), json!(keyspace.name));
        fields.insert("storage_kind".into(), json!(storage_kind(keyspace)));
        Value::Object(fields)
    });
    let mut fields = object(&numbers(stats));
    fields.insert("space_amplification".into(), json!(stats.space_amplification()));
    fields.insert("keyspaces".into(), keyspaces.collect());
    Value::Object(fields)
}
