//! What a damaged log still vouches for, told from its bytes and apart from the engine.
//!
//! A record says up to where the log was durable when it was written. What lies below the highest such
//! mark of an epoch was promised, and the log itself says so: going back behind a commit that is whole
//! and lies there is never allowed, whatever else is damaged. Going back behind one that no mark vouches
//! for cannot be told from a torn end. The layout is that of `docs/formats/wal.md`.

use crate::disk::Image;
use std::collections::BTreeMap;

const BLOCK: usize = 4096;
const FILE_HEADER: usize = 88;
const FILE_ID: usize = 40;
const RECORD_HEADER: usize = 72;
const FLAG_CLEAN: u8 = 1;

/// A record whose header is whole.
#[derive(Clone)]
struct Record {
    lsn: u64,
    durable: u64,
    /// The newest edit of the manifest that was durable then.
    edit: u64,
    /// Of a commit whose operations are whole too.
    last_seq: Option<u64>,
    /// That it says only what is durable, and not that the database was closed.
    is_mark: bool,
}

/// The SeqNo up to which a database with such a log must recover, or refuse to open.
pub(super) fn vouched_for(log: &Image) -> u64 {
    let headers: Vec<Header> = log.values().filter_map(|segment| header(segment)).collect();
    let mut epochs: BTreeMap<u64, Vec<Record>> = BTreeMap::new();
    for header in &headers {
        // A header may have gone to another file: it speaks of the file that it was meant for. What went
        // from there to another one vouches for nothing.
        if let Some(segment) = log.get(&format!("wal-{:06}", header.file)) {
            epochs.entry(header.epoch).or_default().extend(records(segment, header));
        }
    }
    let vouched = epochs.into_values().filter(|records| is_named(records)).filter_map(|records| {
        let mark = records.iter().map(|record| record.durable).max()?;
        let below = records.iter().filter(|record| record.lsn < mark);
        below.filter_map(|record| record.last_seq).max()
    });
    vouched.max().unwrap_or(0)
}

/// Whether something says that an edit named the log of an epoch. Its first records are written before that: a
/// copy of what the last epoch ended with, and a mark behind it. If only these are there and the edit is lost,
/// nothing tells that there was one: of the manifest, an edit may be gone behind which nothing was written to
/// the log.
fn is_named(records: &[Record]) -> bool {
    let first = records.iter().map(|record| record.edit).min();
    let newest = records.iter().map(|record| record.edit).max();
    let ends_with_mark = records.iter().max_by_key(|record| record.lsn).is_some_and(|r| r.is_mark);
    newest > first || !ends_with_mark
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What the header of a segment says.
struct Header {
    /// The number of the file that it was written for.
    file: u64,
    salt: u64,
    first: u64,
    epoch: u64,
}

/// The header of a segment, if it is whole.
fn header(segment: &[u8]) -> Option<Header> {
    let whole = crc32fast::hash(segment.get(..84)?) == u32_at(segment, 84)?;
    let header = segment.get(FILE_HEADER..FILE_HEADER + 60)?;
    if !whole || crc32fast::hash(&header[..56]) != u32_at(header, 56)? {
        return None;
    }
    let (salt, first, epoch) = (u64_at(header, 0)?, u64_at(header, 8)?, u64_at(header, 24)?);
    Some(Header { file: u64_at(segment, FILE_ID)?, salt, first, epoch })
}

/// The records in a file that belong under a header.
fn records(segment: &[u8], header: &Header) -> Vec<Record> {
    let places = (BLOCK..segment.len().saturating_sub(RECORD_HEADER - 1)).step_by(8);
    let lsn = |at: usize| header.first + (at - BLOCK) as u64;
    places.filter_map(|at| record(segment, at, header.salt, lsn(at))).collect()
}

fn record(segment: &[u8], at: usize, salt: u64, lsn: u64) -> Option<Record> {
    let header = segment.get(at..at + RECORD_HEADER)?;
    if header[..4] != *b"LDBr" || u64_at(header, 8)? != lsn {
        return None;
    }
    let mut checksum = crc32fast::Hasher::new_with_initial((salt ^ (salt >> 32)) as u32);
    checksum.update(&header[8..]);
    if checksum.finalize() != u32_at(header, 4)? {
        return None;
    }
    let bytes = u32_at(header, 56)? as usize;
    let payload = segment.get(at + RECORD_HEADER..at + RECORD_HEADER + bytes);
    let whole = payload.is_some_and(|payload| Some(crc32fast::hash(payload)) == u32_at(header, 60));
    let last_seq = u64_at(header, 32)? + u64::from(u32_at(header, 64)?);
    let (is_commit, is_mark) = (header[70] == 1, header[70] == 2 && header[71] & FLAG_CLEAN == 0);
    let last_seq = (whole && is_commit).then(|| last_seq.saturating_sub(1));
    let (durable, edit) = (u64_at(header, 16)?, u64_at(header, 24)?);
    Some(Record { lsn, durable, edit, last_seq, is_mark })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::session::DIR,
        simulation::{BootPlan, Crash, Plan, When, run},
    };
    use lightning_db::{Database, Durability, LightningDbConfig, WriteBatch};
    use lightning_faults::FaultPlan;
    use std::{path::Path, sync::Arc};

    #[test]
    fn a_copy_vouches_for_nothing_until_a_record_names_a_later_edit() {
        let record = |lsn, edit, is_mark: bool| {
            let last_seq = (!is_mark).then_some(lsn);
            Record { lsn, durable: lsn, edit, last_seq, is_mark }
        };
        let copied = || vec![record(1, 7, false), record(2, 7, true)];
        assert!(!is_named(&copied()));
        assert!(is_named(&copied()[..1]));
        let later = |edit, is_mark| -> Vec<Record> {
            copied().into_iter().chain([record(3, edit, is_mark)]).collect()
        };
        assert!(is_named(&later(8, false)) && is_named(&later(8, true)));
        assert!(is_named(&later(7, false)), "a commit follows a recovery only");
    }

    /// If the format of the log changes, this reader must too, or damage to it goes unseen.
    #[test]
    fn a_log_of_the_engine_is_read_and_damage_takes_what_it_hit() {
        let crash = Some((When::Never, Crash::Ended));
        let boot =
            BootPlan { stream: 0, crash, near: None, full: None, calm: true, interference: None };
        let plan = Plan { faults: FaultPlan::none(), boots: vec![boot], ..Plan::draw(1) };
        let outcome = run(plan, |boot| {
            let env = Arc::new(boot.env.clone());
            let config = LightningDbConfig::default();
            let db = Database::open_or_create_with_env(env, DIR, config).unwrap();
            for n in 0..20u8 {
                let mut batch = WriteBatch::new();
                batch.put([n], [n; 50]);
                db.commit(batch, Durability::Sync).unwrap();
            }
            let mut log = boot.env.sim_disk().log_image(Path::new(DIR));
            // Nothing yet says that the last group is durable.
            let vouched = vouched_for(&log);
            assert!((18..20).contains(&vouched), "{vouched}");
            for segment in log.values_mut() {
                let Some(at) =
                    segment.windows(50).position(|bytes| bytes == [vouched as u8 - 1; 50])
                else {
                    continue;
                };
                segment[at] ^= 1;
            }
            assert_eq!(vouched_for(&log), vouched - 1);
        });
        assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    }
}
