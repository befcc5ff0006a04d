//! The end.

use super::Db;
use crate::{
    error::Result,
    format::{
        manifest::Change,
        record::{FLAG_CLEAN, record_bytes},
    },
    sync::Ordering::SeqCst,
    wal::Stamp,
};
use std::sync::Arc;

impl Db {
    /// Lets no new call in, waits for the commits under way, and makes them durable. Returns
    /// false if that was done before.
    pub(crate) fn begin_close(&self) -> Result<bool> {
        let ticket = {
            let sequencer = self.sequencer.lock();
            // Under the lock, so that a commit is either sequenced before or refused.
            if self.closing.swap(true, SeqCst) {
                return Ok(false);
            }
            sequencer.tail.next_ticket()
        };
        self.locks.wake();
        self.published_moved.notify();
        self.wal.wake_followers();
        self.published_moved.wait(|| {
            let done = self.published.is_complete_below(ticket);
            (done || self.poison.check().is_err()).then_some(())
        });
        self.sync()?;
        Ok(true)
    }

    /// Marks log and manifest as closed. The background threads have ended.
    pub(crate) fn end_close(&self) -> Result<()> {
        self.mark_clean()?;
        self.collect();
        Ok(())
    }

    /// Ends the log with a mark, and says in the manifest that it is there. A log without a segment, on a
    /// full disk, is durable as it is and gets neither.
    fn mark_clean(&self) -> Result<()> {
        let mut buf = vec![0; record_bytes(0)];
        let (slot, target, seq) = {
            let mut sequencer = self.sequencer.lock();
            let Some(slot) = sequencer.tail.reserve_last(buf.len()) else {
                crate::sync::sometimes("close: a log without room for a mark");
                return Ok(());
            };
            (slot, Arc::clone(&sequencer.target), sequencer.next_seq)
        };
        let stamp = Stamp::mark(seq, FLAG_CLEAN);
        let Some(segment) = &target.segment else {
            return Ok(());
        };
        self.wal.write(segment, &slot, &mut buf, stamp)?;
        self.published.complete(slot.ticket, seq.0 - 1);
        self.sync_through(slot.end)?;
        let mut manifest = self.manifest.lock();
        let mut changes = self.loads.settled(manifest.state());
        changes.extend([Change::Clean(true), self.next_file()]);
        manifest.append(&changes)
    }
}
