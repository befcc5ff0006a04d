//! For the failure of a promise: the documents that describe the product show programs, and a
//! program written so does not compile, or does something else.
//!
//! Every snippet that what is built so far covers stands here as it is written there, in a
//! function of its own. Only paths are changed: a test has its own directory. What cannot stand
//! as written stands corrected, with the reason.
//!
//! Waiting, because what they show is not built yet:
//! - transactions (`begin_transaction`, `begin_transaction_with_options`, `put_tx`, `get_tx`,
//!   `delete_tx`, `commit_transaction`, `abort_transaction`, `TransactionOptions`,
//!   `execute_transaction`, `Error::TransactionConflict`): "Transactions", the second half of
//!   "Advanced Example", "Transaction Methods", "Transaction Conflicts"
//! - fields of the configuration: `max_active_transactions`,
//!   `transaction_timeout` (transactions); `prefetch_enabled`, `prefetch_distance`,
//!   `prefetch_workers` (prefetching); `background_compaction`, `compaction_interval`,
//!   `parallel_compaction_workers` (compaction that can be steered); `write_batch_size`,
//!   `enable_safety_guards`, `enable_checksums`,
//!   `verify_checksums_on_read`, `consistency_config`, `encryption_enabled`, `encryption_key`,
//!   `max_connections`, `rate_limit_ops_per_second`: the literals of "Configuration",
//!   "Production Configuration", "Memory Configuration", "For Durability", "For Performance",
//!   "For Reliability", "Encryption"; and the type `ConsistencyLevel`
//! - `compact`, `evict_cache`, `disable_compression`, `disable_prefetch`, `reduce_cache_size`,
//!   `stats.pending_compaction_bytes`: "Slow Writes", "High Memory Usage", "Performance Emergency"
//! - `backup`: "recommended backup strategy"
//! - `get_metrics`, `MetricsSnapshot`, `health_check`, `HealthStatus`, `PrometheusExporter`,
//!   `logging::init_logger`: "Monitoring", "Health Checks", "Logging"
//! - `verify_integrity`, `repair_integrity`: "Data Corruption"
//! - `TlsConfig`: the server
//! - `async fn handle_request`: "Tracing"; it uses `?` in a block without a return type

use crate::files::Scratch;
use lightning_db::{Database, DatabaseStats, Error, LightningDbConfig, Result, WalSyncMode};
use std::sync::Arc;

fn database(scratch: &Scratch) -> Arc<Database> {
    Database::create(scratch.db(), LightningDbConfig::default()).unwrap()
}

/// README, "Basic Usage".
#[test]
fn basic_usage() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = Scratch::new();
    // Create a database with default configuration
    let db = Database::create(scratch.db(), LightningDbConfig::default())?;

    // Basic operations
    db.put(b"hello", b"world")?;

    let value = db.get(b"hello")?;
    assert_eq!(value.as_deref(), Some(&b"world"[..]));

    db.delete(b"hello")?;
    assert!(db.get(b"hello")?.is_none());

    Ok(())
}

/// Documentation, "Basic Example". `value` is used here, which only quiets a warning.
#[test]
fn basic_example() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = Scratch::new();
    // Create database
    let db = Database::create(scratch.db(), LightningDbConfig::default())?;

    // Basic operations
    db.put(b"key", b"value")?;
    let value = db.get(b"key")?;
    db.delete(b"key")?;

    assert_eq!(value, Some(b"value".to_vec()));
    Ok(())
}

/// The paths as written are `&str`.
#[test]
fn paths_are_strings() -> Result<()> {
    let scratch = Scratch::new();
    let path: String = scratch.db().to_str().unwrap().into();
    let created: Result<Arc<Database>> =
        Database::create(path.as_str(), LightningDbConfig::default());
    drop(created?);
    let opened: Result<Arc<Database>> = Database::open(path.as_str(), LightningDbConfig::default());
    drop(opened?);
    Ok(())
}

/// Documentation, "Advanced Example", without its transaction.
#[test]
#[expect(clippy::field_reassign_with_default, reason = "as written")]
fn advanced_example() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = Scratch::new();
    let mut config = LightningDbConfig::default();
    config.cache_size = 256 * 1024 * 1024; // 256MB cache
    config.compression_enabled = true;
    config.compression_type = 1; // Zstd

    let db = Database::create(scratch.db(), config)?;

    for i in 0..1000 {
        let key = format!("key_{}", i);
        let value = format!("value_{}", i);
        db.put(key.as_bytes(), value.as_bytes())?;
    }

    // Range scan
    let iter = db.scan_prefix(b"key_")?;
    let mut seen = 0;
    for result in iter.take(10) {
        let (key, value) = result?;
        println!("{}: {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
        seen += 1;
    }
    assert_eq!(seen, 10);
    Ok(())
}

/// README, "Batch Operations".
#[test]
fn batch_operations() -> Result<()> {
    let scratch = Scratch::new();
    let db = database(&scratch);
    // Insert multiple key-value pairs efficiently
    let batch = vec![
        (b"user:1".to_vec(), b"Alice".to_vec()),
        (b"user:2".to_vec(), b"Bob".to_vec()),
        (b"user:3".to_vec(), b"Charlie".to_vec()),
    ];
    db.put_batch(&batch)?;

    // Retrieve multiple values
    let keys = vec![b"user:1".to_vec(), b"user:2".to_vec()];
    let values = db.get_batch(&keys)?;

    // Delete multiple keys
    db.delete_batch(&keys)?;

    let values: Vec<Option<Vec<u8>>> = values;
    assert_eq!(values, [Some(b"Alice".to_vec()), Some(b"Bob".to_vec())]);
    assert_eq!(db.get_batch(&keys)?, [None, None]);
    assert_eq!(db.iter()?.count(), 1);
    Ok(())
}

/// README, "Range Queries".
#[test]
fn range_queries() -> Result<()> {
    let scratch = Scratch::new();
    let db = database(&scratch);
    for i in 0..20 {
        db.put(format!("user:{i:02}").as_bytes(), b"someone")?;
    }
    db.put(b"zebra", b"striped")?;
    let mut scanned = vec![];

    // Scan all keys in a range
    let iter = db.scan(Some(b"user:"), Some(b"user:~"))?;
    for result in iter {
        let (key, value) = result?;
        println!("{}: {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
        scanned.push(key);
    }
    assert_eq!(scanned.len(), 20);
    assert!(scanned.is_sorted());

    // Scan with prefix
    let iter = db.scan_prefix(b"user:")?;
    let mut limited = 0;
    for result in iter.take(10) {
        // Limit to 10 results
        let (key, value) = result?;
        // Process user entries
        assert!(key.starts_with(b"user:") && value == b"someone");
        limited += 1;
    }
    assert_eq!(limited, 10);

    // Reverse scan
    let iter = db.scan_reverse(None, None)?;
    let mut backwards = vec![];
    for result in iter.take(5) {
        let (key, value) = result?;
        // Process in reverse order
        backwards.push((key, value));
    }
    assert_eq!(backwards[0], (b"zebra".to_vec(), b"striped".to_vec()));
    assert_eq!(backwards[1].0, b"user:19");
    Ok(())
}

/// Documentation, "Core Methods" and "Iterator Methods": what each takes and returns. The
/// documents' `Iterator` is a type that std's trait of this name hides; ours is `Scan`.
#[test]
fn signatures() -> Result<()> {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let (key, value): (&[u8], &[u8]) = (b"key", b"value");
    let done: Result<()> = db.put(key, value);
    done?;
    let found: Result<Option<Vec<u8>>> = db.get(key);
    assert_eq!(found?.as_deref(), Some(value));
    let items: &[(Vec<u8>, Vec<u8>)] = &[(b"a".to_vec(), b"1".to_vec())];
    let done: Result<()> = db.put_batch(items);
    done?;
    let keys: &[Vec<u8>] = &[b"a".to_vec()];
    let found: Result<Vec<Option<Vec<u8>>>> = db.get_batch(keys);
    assert_eq!(found?, [Some(b"1".to_vec())]);
    let done: Result<()> = db.delete_batch(keys);
    done?;
    let (start, end): (Option<&[u8]>, Option<&[u8]>) = (None, Some(b"z"));
    let prefix: &[u8] = b"k";
    for mut iter in [db.scan(start, end)?, db.scan_prefix(prefix)?, db.scan_reverse(start, end)?] {
        let next: Option<Result<(Vec<u8>, Vec<u8>)>> = iter.next();
        assert_eq!(next.unwrap()?, (key.to_vec(), value.to_vec()));
    }
    let done: Result<()> = db.delete(key);
    done?;
    let done: Result<()> = db.checkpoint();
    done?;
    let stats: Result<DatabaseStats> = db.stats();
    assert_eq!(stats?.visible_seq, 4);
    Ok(())
}

/// Critical behaviors, "Write-Ahead Logging": the configuration for most durability.
#[test]
fn maximum_durability() -> Result<()> {
    let scratch = Scratch::new();
    // Configure for maximum durability
    let config = LightningDbConfig {
        use_improved_wal: true,
        wal_sync_mode: WalSyncMode::Sync,
        ..Default::default()
    };
    assert_eq!(config, LightningDbConfig::durable());
    let db = Database::create(scratch.db(), config)?;
    db.put(b"key", b"value")?;
    let stats = db.stats()?;
    assert!(stats.durable_lsn >= stats.log_end_lsn, "an acknowledged commit is durable");
    Ok(())
}

/// README, "Configuration": the fields that exist.
#[test]
fn configuration() -> Result<()> {
    let scratch = Scratch::new();
    let config = LightningDbConfig {
        // Storage settings
        cache_size: 256 * 1024 * 1024, // Cache size (256MB)

        // Compression
        compression_enabled: true,
        compression_type: 1, // 1=Zstd, 2=LZ4, 3=Snappy

        // Transaction settings
        use_optimized_transactions: true,

        // Performance tuning
        use_lock_free_cache: true,

        // WAL settings
        wal_enabled: true,
        improved_wal: true,

        ..Default::default()
    };

    let db = Database::create(scratch.db(), config)?;
    db.put(b"key", b"value")
}

/// Documentation, "Configuration Options" and "Memory Configuration": defaults, and fields set one
/// by one.
#[test]
fn configuration_options() {
    let mut config = LightningDbConfig::default();
    assert_eq!(config.cache_size, 64 * 1024 * 1024); // Default: 64MB
    assert!(config.compression_enabled); // Default: true
    assert_eq!(config.compression_level, 3); // Default: 3
    assert!(config.use_optimized_transactions); // Default: true
    assert!(config.wal_enabled); // Default: true
    assert_eq!(config.wal_sync_mode, WalSyncMode::Async); // Default: Async
    assert!(config.improved_wal); // Default: true
    assert!(config.use_lock_free_cache); // Default: true

    // For read-heavy workloads
    config.cache_size = 1024 * 1024 * 1024; // 1GB cache

    // For write-heavy workloads
    config.wal_sync_mode = WalSyncMode::Async;

    // Enable SIMD optimizations
    config.use_simd = true;

    // Lock-free structures for high concurrency
    config.use_lock_free_cache = true;
    config.use_optimized_transactions = true;
    let scratch = Scratch::new();
    Database::create(scratch.db(), config).unwrap();
}

/// Documentation, "Input Validation": its limit is a constant of the caller's.
#[test]
fn input_validation() {
    const MAX_KEY_SIZE: usize = 1024;
    fn validate_key(key: &[u8]) -> Result<()> {
        if key.len() > MAX_KEY_SIZE {
            return Err(Error::KeyTooLarge);
        }
        Ok(())
    }
    let scratch = Scratch::new();
    let db = database(&scratch);
    for len in [0, 1, 1024, 1025, 5000] {
        let key = vec![b'k'; len];
        assert_eq!(validate_key(&key).is_ok(), db.put(&key, b"value").is_ok(), "{len}");
    }
}

/// Documentation, "recommended backup strategy": the half before the snapshot of the file system.
#[test]
fn consistent_state() -> Result<()> {
    let scratch = Scratch::new();
    let db = database(&scratch);
    db.put(b"key", b"value")?;
    db.checkpoint()?; // Ensure consistent state
    let stats = db.stats()?;
    assert!(stats.durable_lsn >= stats.log_end_lsn);
    Ok(())
}
