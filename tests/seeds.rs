//! For the failure of a promise: the documents that describe the product show programs, and a
//! program written so does not compile, or does something else.
//!
//! Every snippet that what is built so far covers stands here as it is written there, in a
//! function of its own. Only paths are changed: a test has its own directory. What cannot stand
//! as written stands corrected, with the reason.
//!
//! Waiting, because what they show is not built yet:
//! - fields of the configuration: `prefetch_enabled`, `prefetch_distance`,
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
use lightning_db::{
    Database, DatabaseStats, Error, LightningDbConfig, Result, TransactionId, TransactionOptions,
    WalSyncMode,
};
use std::{sync::Arc, time::Duration};

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

/// Documentation, "Advanced Example".
#[test]
#[expect(clippy::field_reassign_with_default, reason = "as written")]
fn advanced_example() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = Scratch::new();
    let mut config = LightningDbConfig::default();
    config.cache_size = 256 * 1024 * 1024; // 256MB cache
    config.compression_enabled = true;
    config.compression_type = 1; // Zstd

    let db = Database::create(scratch.db(), config)?;

    // Transaction with custom options
    let tx_opts = TransactionOptions { read_only: false, snapshot: true };

    let tx = db.begin_transaction_with_options(tx_opts)?;

    // Batch operations in transaction
    for i in 0..1000 {
        let key = format!("key_{}", i);
        let value = format!("value_{}", i);
        db.put_tx(tx, key.as_bytes(), value.as_bytes())?;
    }

    db.commit_transaction(tx)?;

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
    assert_eq!(config.max_active_transactions, 1000); // Default: 1000
    assert_eq!(config.transaction_timeout, Duration::from_secs(30)); // Default: 30s
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

/// Documentation, "Transaction Methods": the signatures.
#[test]
#[expect(clippy::type_complexity, reason = "they are what is tested")]
fn transaction_methods() -> Result<()> {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let begin: fn(&Database) -> Result<TransactionId> = Database::begin_transaction;
    let commit: fn(&Database, TransactionId) -> Result<()> = Database::commit_transaction;
    let abort: fn(&Database, TransactionId) -> Result<()> = Database::abort_transaction;
    let put: fn(&Database, TransactionId, &'static [u8], &'static [u8]) -> Result<()> =
        Database::put_tx;
    let get: fn(&Database, TransactionId, &'static [u8]) -> Result<Option<Vec<u8>>> =
        Database::get_tx;
    let delete: fn(&Database, TransactionId, &'static [u8]) -> Result<()> = Database::delete_tx;
    let tx = begin(&db)?;
    put(&db, tx, b"a", b"1")?;
    delete(&db, tx, b"b")?;
    assert_eq!(get(&db, tx, b"a")?, Some(b"1".to_vec()));
    commit(&db, tx)?;
    abort(&db, begin(&db)?)
}

/// Documentation, "Transaction Conflicts". The closure takes the transaction, without which there was nothing it could do;
/// it returns a result; and the loop has a function around it whose type it decides.
#[test]
fn transaction_conflicts() -> Result<()> {
    let scratch = Scratch::new();
    let db = database(&scratch);
    // Use read-only transactions when possible
    let tx_opts = TransactionOptions { read_only: true, snapshot: true };
    db.begin_transaction_with_options(tx_opts)?;

    // Implement retry logic
    let mut retries = 0;
    loop {
        match db.execute_transaction(|tx| {
            // Transaction logic
            tx.put("key", "value")
        }) {
            Ok(result) => break Ok(result),
            Err(Error::TransactionConflict) if retries < 3 => {
                retries += 1;
                std::thread::sleep(Duration::from_millis(10 * retries));
            }
            Err(e) => break Err(e),
        }
    }
}

/// README, "Transactions". As written it returns a reference into a value that is gone: `from_utf8` of the string owns it
/// here.
fn transfer_funds(
    db: &Database,
    from: &[u8],
    to: &[u8],
    amount: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let tx = db.begin_transaction()?;

    // Read current balances
    let from_balance = db
        .get_tx(tx, from)?
        .and_then(|v| String::from_utf8(v).ok())
        .and_then(|s| s.parse::<u64>().ok())
        .unwrap_or(0);

    let to_balance = db
        .get_tx(tx, to)?
        .and_then(|v| String::from_utf8(v).ok())
        .and_then(|s| s.parse::<u64>().ok())
        .unwrap_or(0);

    // Check sufficient funds
    if from_balance < amount {
        db.abort_transaction(tx)?;
        return Err("Insufficient funds".into());
    }

    // Update balances
    db.put_tx(tx, from, (from_balance - amount).to_string().as_bytes())?;
    db.put_tx(tx, to, (to_balance + amount).to_string().as_bytes())?;

    // Commit transaction
    db.commit_transaction(tx)?;
    Ok(())
}

#[test]
fn transactions() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = Scratch::new();
    let db = database(&scratch);
    db.put(b"a", b"100")?;
    transfer_funds(&db, b"a", b"b", 30)?;
    assert!(transfer_funds(&db, b"a", b"b", 71).is_err());
    assert_eq!((db.get(b"a")?, db.get(b"b")?), (Some(b"70".to_vec()), Some(b"30".to_vec())));
    Ok(())
}
