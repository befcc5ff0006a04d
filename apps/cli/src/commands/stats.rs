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
            out.line(format!("{name:<22} {number}"))?;
        }
        for (name, number) in fractions(&stats) {
            match number {
                Some(number) => out.line(format!("{name:<22} {number:.2}"))?,
                None => out.line(format!("{name:<22} none"))?,
            }
        }
        for keyspace in &stats.keyspaces {
            out.line(format!("keyspace {}", Encoding::Text.encode(keyspace.name.as_bytes())))?;
            for (name, number) in keyspace_numbers(keyspace) {
                out.line(format!("  {name:<20} {number}"))?;
            }
            out.line(format!("  {:<20} {}", "storage_kind", storage_kind(keyspace)))?;
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

fn numbers(stats: &DatabaseStats) -> [(&'static str, u64); 33] {
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
        ("open_transactions", stats.open_transactions),
        ("transactions_committed", stats.transactions_committed),
        ("transactions_aborted", stats.transactions_aborted),
        ("transaction_conflicts", stats.transaction_conflicts),
        ("snapshots_ended", stats.snapshots_ended),
    ]
}

/// What may be said of nothing, and is no whole number. Ages are in seconds.
fn fractions(stats: &DatabaseStats) -> [(&'static str, Option<f64>); 3] {
    [
        ("oldest_snapshot_age", stats.oldest_snapshot_age.map(|age| age.as_secs_f64())),
        ("write_amplification", stats.write_amplification()),
        ("space_amplification", stats.space_amplification()),
    ]
}

fn keyspace_numbers(stats: &KeyspaceStats) -> [(&'static str, u64); 6] {
    [
        ("tables", stats.tables),
        ("table_bytes", stats.table_bytes),
        ("raw_bytes", stats.raw_bytes),
        ("index_bytes", stats.index_bytes),
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
    fields.extend(fractions(stats).map(|(name, number)| (name.into(), json!(number))));
    fields.insert("keyspaces".into(), keyspaces.collect());
    Value::Object(fields)
}
