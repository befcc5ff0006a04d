//! The shape of a seed: settings of the database, number of clients, mix of operations.

use crate::{
    aim::{Aim, Meeting},
    schedule::number_within,
};
use lightning_db::{LightningDbConfig, StorageKind, WalSyncMode};
use lightning_faults::Dice;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When commits become durable that do not say it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// Before they are acknowledged.
    Sync,
    /// At the interval, said by the mode.
    Periodic,
    /// At the interval, said beside it.
    Async,
}

/// `BTree` or not.
pub(super) fn storage_kind(btree: bool) -> StorageKind {
    if btree { StorageKind::BTree } else { StorageKind::Hybrid }
}

/// Settings of the database, as far as runs differ in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `memtable_size`
    #[serde(deserialize_with = "number_within::<_, _, 4_096, 67_108_864>")]
    pub memtable_bytes: u64,
    /// `wal_segment_size`
    #[serde(deserialize_with = "number_within::<_, _, 16_384, 67_108_864>")]
    pub segment_bytes: u64,
    /// `cache_size`
    #[serde(deserialize_with = "number_within::<_, _, 0, 67_108_864>")]
    pub cache_bytes: u64,
    /// `max_memory`
    #[serde(deserialize_with = "number_within::<_, _, 16_384, 1_073_741_824>")]
    pub memory_bytes: u64,
    /// `wal_sync_mode`
    pub sync: SyncMode,
    /// `wal_sync_interval`
    #[serde(deserialize_with = "number_within::<_, _, 1, 10_000_000>")]
    pub interval_micros: u64,
    /// `wal_enabled`
    pub wal: bool,
    /// `compression_type`
    #[serde(deserialize_with = "number_within::<_, _, 0, 3>")]
    pub compression: u32,
    /// `wal_compression`
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_compression: bool,
    /// `blob_threshold`; the default where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_bytes: Option<u64>,
    /// `wal_retention`; the default, which no run reaches, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// Keyspaces are created as `StorageKind::BTree`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub btree: bool,
    /// `page_size`
    #[serde(default = "page_bytes_min", skip_serializing_if = "is_page_bytes_min")]
    pub page_bytes: usize,
    /// Keyspaces that all clients write, besides the default one: up to 2.
    #[serde(deserialize_with = "number_within::<_, _, 0, 2>")]
    pub shared_keyspaces: usize,
}

fn page_bytes_min() -> usize {
    4 << 10
}

fn is_page_bytes_min(bytes: &usize) -> bool {
    *bytes == page_bytes_min()
}

impl Settings {
    fn draw(dice: &mut Dice) -> Settings {
        Settings {
            interval_micros: dice.pick(&[1_000, 10_000, 100_000]),
            // Small limits cross every threshold all the time.
            memtable_bytes: dice.skewed(4 << 10..256 << 10),
            segment_bytes: dice.skewed(16 << 10..256 << 10),
            cache_bytes: dice.pick(&[0, 16 << 10, 1 << 20]),
            sync: dice.pick(&[SyncMode::Sync, SyncMode::Periodic, SyncMode::Async]),
            wal: dice.chance(0.95),
            compression: dice.below(4) as u32,
            btree: false,
            page_bytes: page_bytes_min(),
            blob_bytes: None,
            retention_bytes: None,
            log_compression: false,
            memory_bytes: dice.pick(&[2 << 20, 8 << 20, 64 << 20]),
            shared_keyspaces: dice.below(3) as usize,
        }
    }

    /// Time between syncs of commits that do not wait for one.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_micros(self.interval_micros)
    }

    /// Whether a commit that does not say it is durable once acknowledged.
    pub(super) fn syncs_by_default(&self) -> bool {
        self.wal && self.sync == SyncMode::Sync
    }

    fn blob_threshold(&self) -> usize {
        let default = LightningDbConfig::default().blob_threshold;
        // One that the database refuses says nothing about it.
        self.blob_bytes.map_or(default, |bytes| bytes.clamp(64, 16 << 20) as usize)
    }

    pub(super) fn config(&self) -> LightningDbConfig {
        let default = LightningDbConfig::default();
        LightningDbConfig {
            memtable_size: self.memtable_bytes as usize,
            wal_segment_size: self.segment_bytes,
            cache_size: self.cache_bytes as _,
            wal_sync_mode: match self.sync {
                SyncMode::Sync => WalSyncMode::Sync,
                SyncMode::Periodic => WalSyncMode::Periodic { interval: self.interval() },
                SyncMode::Async => WalSyncMode::Async,
            },
            wal_sync_interval: self.interval(),
            wal_enabled: self.wal,
            compression_type: self.compression,
            compression_level: 1,
            storage_kind: storage_kind(self.btree),
            page_size: self.page_bytes,
            max_memory: self.memory_bytes as usize,
            blob_threshold: self.blob_threshold(),
            wal_compression: self.log_compression,
            wal_retention: self.retention_bytes.unwrap_or(default.wal_retention),
            ..default
        }
    }
}

/// What clients do, as relative frequencies.
#[derive(Debug, Clone)]
pub(super) struct Mix {
    pub(super) commit: u64,
    /// Verbs that write without a batch of one's own.
    pub(super) single: u64,
    pub(super) read: u64,
    pub(super) snapshot: u64,
    pub(super) reread: u64,
    pub(super) keyspace: u64,
    pub(super) checkpoint: u64,
    pub(super) compact: u64,
    pub(super) sleep: u64,
    pub(super) close: u64,
    pub(super) storage: u64,
    pub(super) load: u64,
    pub(super) transaction: u64,
    pub(super) follow: u64,
    /// Changes of one key that depend on what is there.
    pub(super) atomic: u64,
    /// Long transactions that only read.
    pub(super) reader: u64,
    /// Transactions that the verbs by number can do.
    pub(super) by_id: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) settings: Settings,
    pub(super) clients: u64,
    /// Operations of each client in a session, at most.
    pub(super) ops: u64,
    pub(super) keys: u64,
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
    /// Share of reads that scan.
    pub(super) scans: f64,
    /// Share of sessions that wait until the background has nothing to do.
    pub(super) settles: f64,
    /// Share of sessions that end with deleting everything.
    pub(super) empties: f64,
    /// Bulk loads are of the keyspace at whose keys transactions meet.
    pub(super) loads_meet: bool,
}

impl Shape {
    pub(super) fn draw(seed: u64) -> Shape {
        let dice = &mut Dice::new(seed, "shape", 0);
        // Some runs are long and large.
        let long = dice.chance(0.05);
        let mut shape = Shape {
            settings: Settings::draw(dice),
            clients: dice.pick(&[1, 2, 3, 4, 6]),
            ops: if long { 600 } else { dice.skewed(5..120) },
            keys: dice.skewed(2..if long { 2000 } else { 200 }),
            mix: Mix {
                commit: dice.pick(&[10, 30, 40]),
                single: dice.pick(&[0, 10, 40]),
                read: dice.below(24),
                snapshot: dice.below(8),
                reread: dice.below(8),
                keyspace: dice.pick(&[0, 1, 3, 10]),
                checkpoint: dice.pick(&[0, 1, 3]),
                compact: dice.pick(&[0, 0, 1, 2]),
                sleep: dice.below(12),
                close: 0,
                storage: 0,
                load: Dice::new(seed, "loads", 0).pick(&[0, 0, 1, 4]),
                transaction: Dice::new(seed, "transactions", 0).pick(&[0, 0, 5, 20, 60]),
                follow: Dice::new(seed, "feeds", 0).pick(&[0, 0, 3, 10]),
                atomic: Dice::new(seed, "atomic", 0).pick(&[0, 0, 0, 5, 20]),
                reader: Dice::new(seed, "readers", 0).pick(&[0, 0, 0, 2, 6]),
                by_id: Dice::new(seed, "by id", 0).pick(&[0, 0, 0, 2, 10]),
            },
            batch: dice.pick(&[1, 3, 10]),
            deletes: dice.pick(&[0.0, 0.1, 0.4]),
            range_deletes: dice.pick(&[0.0, 0.02, 0.1]),
            value_bytes: dice.pick(&[16, 100, 1000, 6000]),
            own_durability: dice.pick(&[0.0, 0.3, 1.0]),
            scans: dice.pick(&[0.1, 0.3]),
            settles: dice.pick(&[0.0, 0.3]),
            empties: 0.03,
            loads_meet: false,
        };
        // Dice of their own: other seeds stay as they were.
        let kinds = &mut Dice::new(seed, "kinds", 0);
        shape.settings.btree = kinds.chance(0.3);
        shape.mix.storage = kinds.pick(&[0, 0, 0, 1]);
        shape.settings.page_bytes =
            Dice::new(seed, "pages", 0).pick(&[4 << 10, 4 << 10, 4 << 10, 16 << 10, 64 << 10]);
        let blobs = &mut Dice::new(seed, "blobs", 0);
        let threshold = blobs.pick(&[64, 200, 1000]);
        let has_blobs = blobs.chance(0.4);
        shape.settings.log_compression = Dice::new(seed, "log compression", 0).chance(0.3);
        shape.settings.retention_bytes =
            Dice::new(seed, "retention", 0).pick(&[None, None, Some(0), Some(64 << 10)]);
        let aim = Aim::draw(seed, true);
        let has_blobs = has_blobs || aim.damaged == Some(".blob");
        shape.settings.blob_bytes = has_blobs.then_some(threshold);
        if aim.intervals {
            shape.leave_the_log_alone(dice);
        }
        if aim.damaged == Some("wal-") && dice.chance(0.6) {
            // The log goes on in one segment after the other, and all of it is needed.
            shape.settings.segment_bytes = dice.skewed(16 << 10..48 << 10);
            shape.settings.memtable_bytes = 256 << 10;
            shape.settings.sync = SyncMode::Sync;
            shape.value_bytes = shape.value_bytes.max(1000);
            shape.ops = shape.ops.max(60);
        }
        if aim.damaged == Some(".sst") {
            // Reads go to the files.
            shape.settings.cache_bytes = dice.pick(&[0, 0, 16 << 10]);
            shape.mix.read = shape.mix.read.max(12);
        }
        if dice.chance(if aim.damaged == Some(".sst") { 0.6 } else { 0.07 }) {
            shape.write_large_runs(dice);
        }
        if Dice::new(seed, "closing", 0).chance(0.1) {
            shape.mix.close = 1;
        }
        if aim.damaged == Some("wal-") {
            // What a range delete lets go of must not be needed again.
            shape.empties = 0.3;
        }
        if aim.full.is_some() {
            shape.empties = 0.3;
            // On a full disk the log goes on until its segments or the memtables are used up.
            let settings = &mut shape.settings;
            settings.segment_bytes = dice.skewed(16 << 10..64 << 10);
            settings.memtable_bytes = dice.pick(&[64 << 10, 256 << 10]);
            shape.ops = shape.ops.max(60);
            shape.value_bytes = shape.value_bytes.max(1000);
        }
        if shape.settings.blob_bytes.is_some() {
            // Some are larger than the threshold.
            shape.value_bytes = shape.value_bytes.max(threshold * 2);
        }
        if aim.trees {
            shape.grow_trees(&mut Dice::new(seed, "trees", 0));
            if aim.full.is_some() {
                shape.empties = 0.5;
            }
        }
        if let Some(meeting) = aim.meeting {
            shape.meet(meeting, &mut Dice::new(seed, "meet", 0));
        }
        if Dice::new(seed, "hinted", 0).chance(if aim.trees { 0.3 } else { 0.02 }) {
            shape.lose_hints(&mut Dice::new(seed, "hints", 0));
        }
        shape
    }

    /// Runs have many pages. Those of most seeds have one or two.
    fn write_large_runs(&mut self, dice: &mut Dice) {
        self.settings.memtable_bytes = dice.skewed(16 << 10..128 << 10);
        self.settings.compression = 0;
        self.keys = self.keys.max(60);
        self.ops = self.ops.max(40);
        self.batch = 10;
        self.value_bytes = self.value_bytes.max(1000);
        self.deletes = self.deletes.min(0.1);
    }

    /// Runs are merged all the time, into trees that have more than a node.
    fn grow_trees(&mut self, dice: &mut Dice) {
        self.settings.memtable_bytes = dice.skewed(4 << 10..32 << 10);
        // Of the nodes in memory all, some or none.
        self.settings.cache_bytes = dice.pick(&[0, 16 << 10, 64 << 10, 1 << 20]);
        self.keys = self.keys.max(40);
        self.ops = self.ops.max(60);
        self.batch = 10;
        self.value_bytes = dice.pick(&[100, 1000]);
        self.deletes = dice.pick(&[0.1, 0.4]);
        self.range_deletes = dice.pick(&[0.02, 0.1]);
        self.settles = self.settles.max(0.3);
        self.empties = 0.1;
        self.mix.compact = dice.pick(&[2, 5, 10]);
        self.mix.read = self.mix.read.max(12);
    }

    /// Clients meet at a few keys.
    fn meet(&mut self, meeting: Meeting, dice: &mut Dice) {
        self.clients = dice.pick(&[2, 3, 4, 6]);
        self.keys = dice.pick(&[2, 4, 8, 40]);
        self.ops = self.ops.max(60);
        self.batch = self.batch.min(3);
        self.value_bytes = self.value_bytes.min(100);
        self.settings.shared_keyspaces = dice.pick(&[0, 1, 1]);
        let mix = &mut self.mix;
        (mix.transaction, mix.commit, mix.single) = match meeting {
            Meeting::Transactions | Meeting::Loads => dice.pick(&[(200, 5, 10), (60, 20, 60)]),
            Meeting::Feeds => (10, 30, 10),
        };
        (mix.load, mix.follow) = match meeting {
            Meeting::Transactions => (0, mix.follow),
            Meeting::Loads => (60, mix.follow),
            Meeting::Feeds => (30, 120),
        };
        self.loads_meet = mix.load > 0;
        (mix.sleep, mix.read, mix.compact) = (0, mix.read.min(5), mix.compact.min(1));
        if mix.atomic > 0 {
            mix.atomic = dice.pick(&[20, 60, 200]);
        }
    }

    /// The entries of a tree are more than the hints for which there is room.
    fn lose_hints(&mut self, dice: &mut Dice) {
        self.settings.cache_bytes = dice.pick(&[8 << 10, 16 << 10, 128 << 10]);
        self.settings.memtable_bytes = dice.skewed(8 << 10..32 << 10);
        self.keys = dice.pick(&[300, 600]);
        self.ops = self.ops.max(80);
        self.batch = 30;
        self.value_bytes = 16;
        self.range_deletes = 0.0;
        self.mix.load = dice.pick(&[0, 2]);
        self.mix.compact = 10;
        self.mix.read = 24;
        self.scans = 0.1;
    }

    /// Nothing makes commits durable but the syncs at intervals.
    fn leave_the_log_alone(&mut self, dice: &mut Dice) {
        let settings = &mut self.settings;
        settings.sync = dice.pick(&[SyncMode::Periodic, SyncMode::Async]);
        settings.interval_micros = dice.pick(&[1_000, 10_000]);
        settings.memtable_bytes = 256 << 10;
        settings.segment_bytes = 256 << 10;
        settings.wal = true;
        self.own_durability = 0.0;
        self.mix.keyspace = 0;
        self.mix.checkpoint = 0;
        self.mix.compact = 0;
        self.mix.sleep = 40;
        self.ops = self.ops.max(200);
        self.value_bytes = self.value_bytes.min(100);
    }
}
