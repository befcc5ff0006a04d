//! The shape of a seed: settings of the database, number of clients, mix of operations.

use lightning_db::{Durability, LightningDbConfig, WalSyncMode};
use lightning_faults::Dice;
use std::time::Duration;

/// What clients do, as relative frequencies.
#[derive(Debug, Clone)]
pub(super) struct Mix {
    pub(super) write: u64,
    pub(super) get: u64,
    pub(super) snapshot: u64,
    pub(super) reread: u64,
    pub(super) keyspace: u64,
    pub(super) checkpoint: u64,
    pub(super) sleep: u64,
}

#[derive(Debug)]
pub(super) struct Shape {
    pub(super) config: LightningDbConfig,
    pub(super) clients: usize,
    /// Operations of each client in a session, at most.
    pub(super) ops: u64,
    pub(super) keys: u64,
    /// Keyspaces that all clients write, besides the default one.
    pub(super) shared_keyspaces: usize,
    pub(super) mix: Mix,
    /// Operations of one commit, at most.
    pub(super) batch: u64,
    /// Share of deletes and of range deletes among them.
    pub(super) deletes: f64,
    pub(super) range_deletes: f64,
    /// Longest value.
    pub(super) value_bytes: u64,
    /// Share of commits with a durability of their own.
    pub(super) own_durability: f64,
}

impl Shape {
    pub(super) fn draw(seed: u64) -> Shape {
        let dice = &mut Dice::new(seed, "shape", 0);
        // Some runs are long and large.
        let long = dice.chance(0.05);
        Shape {
            config: draw_config(dice),
            clients: dice.pick(&[1, 2, 3, 4, 6]),
            ops: if long { 600 } else { dice.skewed(5..120) },
            keys: dice.skewed(2..if long { 2000 } else { 200 }),
            shared_keyspaces: dice.below(3) as usize,
            mix: Mix {
                write: 40,
                get: dice.below(20),
                snapshot: dice.below(8),
                reread: dice.below(8),
                keyspace: dice.pick(&[0, 0, 1, 3]),
                checkpoint: dice.pick(&[0, 1, 3]),
                sleep: dice.below(12),
            },
            batch: dice.pick(&[1, 3, 10]),
            deletes: dice.pick(&[0.0, 0.1, 0.4]),
            range_deletes: dice.pick(&[0.0, 0.02, 0.1]),
            value_bytes: dice.pick(&[16, 100, 1000, 6000]),
            own_durability: dice.pick(&[0.0, 0.3, 1.0]),
        }
    }

    /// What a commit is asked for, and whether it is durable once acknowledged.
    pub(super) fn durability(&self, dice: &mut Dice) -> (Durability, bool) {
        let by_default = self.config.wal_enabled && self.config.wal_sync_mode == WalSyncMode::Sync;
        match dice.chance(self.own_durability) {
            false => (Durability::Default, by_default),
            true if dice.chance(0.5) => (Durability::Sync, true),
            true => (Durability::Async, false),
        }
    }
}

fn draw_config(dice: &mut Dice) -> LightningDbConfig {
    let interval = dice.pick(&[1, 10, 100].map(Duration::from_millis));
    LightningDbConfig {
        // Small limits cross every threshold all the time.
        memtable_size: dice.skewed(4 << 10..256 << 10) as usize,
        wal_segment_size: dice.skewed(16 << 10..256 << 10),
        cache_size: dice.pick(&[0, 16 << 10, 1 << 20]),
        wal_sync_mode: match dice.below(3) {
            0 => WalSyncMode::Sync,
            1 => WalSyncMode::Periodic { interval },
            _ => WalSyncMode::Async,
        },
        wal_sync_interval: interval,
        wal_enabled: dice.chance(0.95),
        compression_type: dice.below(4) as u32,
        compression_level: 1,
        max_memory: dice.pick(&[2 << 20, 8 << 20, 64 << 20]),
        ..LightningDbConfig::default()
    }
}
