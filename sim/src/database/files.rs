//! I-13: every file in the directory is needed by something. And what a loss of power may take of
//! commits that did not wait for the disk.

use super::{
    model::Model,
    session::{DIR, Over, Process, Session},
    shape::Settings,
};
use crate::{
    decisions::Interference,
    simulation::{Ending, Plan},
};
use lightning_db::env::Env;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

/// Virtual time after which the background must have done all it has to do. The engine tries again
/// every 100 ms what it could not do at once.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The files of the database's directory, by what they are.
struct Listed {
    tables: Vec<String>,
    trees: Vec<String>,
    blobs: Vec<String>,
    segment_bytes: u64,
    manifests: Vec<String>,
    others: Vec<String>,
}

impl Listed {
    fn of(files: BTreeMap<String, u64>) -> Listed {
        let mut listed = Listed {
            tables: vec![],
            trees: vec![],
            blobs: vec![],
            segment_bytes: 0,
            manifests: vec![],
            others: vec![],
        };
        for (name, bytes) in files {
            if name.ends_with(".sst") {
                listed.tables.push(name);
            } else if name.ends_with(".tree") {
                listed.trees.push(name);
            } else if name.ends_with(".blob") {
                listed.blobs.push(name);
            } else if name.starts_with("wal-") {
                listed.segment_bytes += bytes;
            } else if name.starts_with("manifest-") {
                listed.manifests.push(name);
            } else {
                listed.others.push(name);
            }
        }
        listed
    }

    /// What is there besides `tables` sstables, `trees` files of trees, `blobs` of large values, segments of so many bytes, one
    /// manifest and its spare; or what of it is missing.
    fn wrong(&self, tables: u64, trees: u64, blobs: u64, segment_bytes: u64) -> Option<String> {
        let current = self.manifests.iter().filter(|name| *name != "manifest-spare").count();
        if self.tables.len() as u64 != tables {
            Some(format!("sstables {:?}, but {tables} are in use", self.tables))
        } else if self.trees.len() as u64 != trees {
            Some(format!("files of trees {:?}, but {trees} are in use", self.trees))
        } else if self.blobs.len() as u64 != blobs {
            Some(format!("files of large values {:?}, but {blobs} are in use", self.blobs))
        } else if self.segment_bytes != segment_bytes {
            let there = self.segment_bytes;
            Some(format!("log segments of {there} bytes, but {segment_bytes} are in use"))
        } else if current != 1 {
            Some(format!("manifests {:?}", self.manifests))
        } else if !self.others.is_empty() {
            Some(format!("files that nothing names: {:?}", self.others))
        } else {
            None
        }
    }
}

impl Process {
    fn listed(&self) -> Listed {
        Listed::of(self.boot.env.sim_disk().files(Path::new(DIR)))
    }

    /// Counts what closing left behind, so that the next session can compare. What somebody read until then
    /// was in use.
    pub(super) fn remember_files(&self, read: bool) {
        let comparable = !self.boot.had_errors() && !read;
        self.model.lock().tables_left = comparable.then_some(self.listed().tables);
    }
}

impl Session {
    /// Waits until the background has nothing to do, and looks for files that nobody needs.
    pub(super) fn check_files(&self) -> Result<(), Over> {
        let process = &self.process;
        // The engine's clock may jump.
        let deadline = process.world().now() + SETTLES_WITHIN;
        loop {
            if process.world().violation().is_some() {
                return Ok(());
            }
            if process.boot.had_errors() {
                // What failed is tried again, or not at all; but it keeps no pages meanwhile.
                return self.check_uses();
            }
            let stats = process.checked_read("stats", self.db.stats())?;
            let tables = stats.keyspaces.iter().map(|keyspace| keyspace.tables).sum();
            let trees = u64::from(stats.tree_file_bytes > 0);
            let Some(wrong) =
                process.listed().wrong(tables, trees, stats.blobs, stats.wal_file_bytes)
            else {
                process.world().count("directories without a file too many");
                return self.check_pages();
            };
            if process.world().now() > deadline {
                process.world().violate("I-13", format!("after {SETTLES_WITHIN:?}: {wrong}"));
                return Err(Over);
            }
            process.boot.env.clock().sleep(LOOK_AGAIN);
        }
    }

    /// Every page of the trees' file has a use, or is free.
    fn check_pages(&self) -> Result<(), Over> {
        let process = &self.process;
        let began = process.world().now();
        let report = process.checked_read("check_integrity", self.db.check_integrity())?;
        // What is damaged or could not be read is reported, and that is right: the check reads the disk, whatever is
        // cached.
        let may_be = process.world().had_errors_since(began);
        if let Some(fault) = report.faults.first().filter(|_| !may_be) {
            process.world().violate("I-13", format!("check_integrity: {fault}"));
            return Err(Over);
        }
        process.world().count("integrity checks");
        self.check_uses()
    }

    /// The pages that are not free are those of the nodes that the trees have, and the file's first: what a
    /// merge took that came to nothing is free again.
    fn check_uses(&self) -> Result<(), Over> {
        let process = &self.process;
        let deadline = process.world().now() + SETTLES_WITHIN;
        loop {
            let stats = process.checked_read("stats", self.db.stats())?;
            let began = process.world().now();
            let Ok(report) = self.db.check_integrity() else {
                return Ok(());
            };
            if !report.faults.is_empty() && process.world().had_errors_since(began) {
                return Ok(()); // a fault that struck the check
            }
            let page_bytes = process.workload.settings.page_bytes as u64;
            let first_page = if stats.tree_file_bytes > 0 { page_bytes } else { 0 };
            let used = stats.tree_file_bytes - stats.tree_free_bytes;
            let named = first_page + report.trees.iter().map(|tree| tree.page_bytes).sum::<u64>();
            if used == named {
                process.world().count("trees' files without a page too many");
                return Ok(());
            }
            // A poisoned database merges nothing to its end any more.
            if process.world().is_damaged() || self.db.checkpoint().is_err() {
                return Ok(());
            }
            if process.world().now() > deadline {
                let message = format!("{used} bytes of the trees' file are used, {named} by trees");
                process.world().violate("I-13", message);
                return Err(Over);
            }
            process.boot.env.clock().sleep(LOOK_AGAIN);
        }
    }

    /// Right after opening: the sstables that are in use are those that closing left.
    pub(super) fn check_left_files(&self) -> Result<(), Over> {
        let process = &self.process;
        let Some(left) = process.model.lock().tables_left.take() else {
            return Ok(());
        };
        let stats = process.checked_read("stats", self.db.stats())?;
        let tables: u64 = stats.keyspaces.iter().map(|keyspace| keyspace.tables).sum();
        if tables == left.len() as u64 {
            process.world().count("closings that left no file too many");
            return Ok(());
        }
        // Unless they are others by now: what is installed is counted a little later.
        process.boot.env.clock().sleep(SETTLES_WITHIN);
        let stats = process.checked_read("stats", self.db.stats())?;
        let changes = stats.flushes + stats.compactions + stats.tables_dropped;
        if changes > 0 || process.boot.had_errors() {
            return Ok(());
        }
        let message = format!("closing left the sstables {left:?}, but {tables} are in use");
        process.world().violate("I-13", message);
        Err(Over)
    }
}

/// What Async and Periodic promise: a loss of power takes at most what was acknowledged within
/// the last interval and one sync.
pub(super) struct LossBound(Option<Duration>);

impl LossBound {
    pub(super) fn of(plan: &Plan, settings: &Settings) -> LossBound {
        let latency = &plan.faults.latency;
        // Besides the device, what preempts the threads that sync takes its time. A commit that just
        // missed a sync waits for the next, which begins an interval after that one began, or when it ends.
        let stall =
            |list: &Arc<Interference>| list.strikes.iter().any(|s| s.site.name() == "stall");
        let lists = || plan.boots.iter().filter_map(|boot| boot.interference.as_ref());
        let aim = &plan.scheduling.aim;
        let aimed = aim.fault.as_ref().is_some_and(|fault| fault.site == "stall");
        let stalled = latency.stall > 0.0 || aimed || lists().any(stall);
        let stalled = if stalled { 1000 } else { 1 };
        // Threads that stand still for long may hold up any sync.
        let long = |list: &Arc<Interference>| {
            let pauses = list.preemptions.iter().filter_map(|p| p.pause_nanos);
            pauses.max().is_some_and(|nanos| nanos > 1_000_000)
        };
        let paused = aim.pause.is_some() || lists().any(long);
        let sync = (latency.device + latency.cached * 8) * stalled + Duration::from_millis(20);
        LossBound((settings.wal && !paused).then(|| settings.interval().max(sync) + sync))
    }

    /// Tells the model what must have survived a crash.
    pub(super) fn apply(&self, crash: &Ending, model: &mut Model) {
        let bound = self.0.filter(|_| !crash.had_errors);
        model.process_ended(bound.and_then(|bound| crash.at.checked_sub(bound)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nobody_needs_is_seen() {
        let files = |names: &[(&str, u64)]| {
            Listed::of(names.iter().map(|(name, bytes)| ((*name).into(), *bytes)).collect())
        };
        let good =
            [("wal-000001", 20), ("000002.sst", 5), ("manifest-000001", 9), ("manifest-spare", 9)];
        assert_eq!(files(&good).wrong(1, 0, 0, 20), None);
        for (name, bytes) in [
            ("wal-000009", 1),
            ("000009.sst", 5),
            ("000009.tree", 5),
            ("000009.blob", 5),
            ("manifest-000002", 9),
            ("left", 0),
        ] {
            let mut more = good.to_vec();
            more.push((name, bytes));
            assert!(files(&more).wrong(1, 0, 0, 20).is_some(), "{name} is not seen");
        }
        assert!(files(&good[1..]).wrong(1, 0, 0, 20).is_some());
        assert!(files(&good).wrong(2, 0, 0, 20).is_some());
    }
}
