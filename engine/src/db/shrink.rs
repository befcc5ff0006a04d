//! A log that needs little gives space back: large segments that it has in reserve, and the one that it ends in once
//! nothing of it is needed.

use super::Db;
use crate::{
    error::{Error, Result},
    format::{manifest::Change, record::record_bytes},
    types::{Lsn, SeqNo},
    wal::Stamp,
};
use std::sync::Arc;

impl Db {
    /// Whether the log has segments that it could give back.
    pub(super) fn may_shrink_log(&self) -> bool {
        if self.wal.has_large_spares() {
            return true;
        }
        let large = self.wal.is_large(self.sequencer.lock().tail.segment());
        large && self.is_memory_empty()
    }

    /// Gives the space of large spare segments back, unless somebody writes meanwhile.
    pub(super) fn shrink_log(&self) {
        if self.poison.check().is_err() {
            return;
        }
        let small = match self.wal.prepare_small() {
            Ok(small) => small,
            Err(error) => return tracing::warn!(%error, "cannot make small log segments"),
        };
        let marked = self.mark_durable();
        let rest = {
            let mut sequencer = self.sequencer.lock();
            let nothing_to_copy = marked.is_some_and(|end| sequencer.tail.last_end() == end);
            let rest = self.wal.exchange(small, nothing_to_copy);
            sequencer.spare_bytes = sequencer.spare_bytes.min(self.wal.spare_bytes(0));
            rest
        };
        rest.iter().for_each(|segment| self.wal.give_up(segment));
        if let Err(error) = self.leave_large_segment() {
            tracing::warn!(%error, "the log does not leave its large segment");
        }
    }

    /// Whether nothing that was committed is in memory, and so nothing of the log is needed.
    fn is_memory_empty(&self) -> bool {
        let version = self.versions.load();
        version.sealed.is_empty() && version.active.is_empty()
    }

    /// Lets the log go on in a small segment and gives the large one back that it is in, if nothing of what it
    /// holds is needed.
    fn leave_large_segment(&self) -> Result<()> {
        let (ended, next, seq) = {
            let mut sequencer = self.sequencer.lock();
            self.poison.check().and_then(|()| self.check_open())?;
            // Under the lock: what is committed later is in the next segment.
            let tail = &sequencer.tail;
            let ticket = tail.next_ticket();
            let stays = !self.wal.is_large(tail.segment()) || self.unsynced(tail) > 0;
            if stays || !self.is_memory_empty() || !self.published.has_room(ticket) {
                return Ok(());
            }
            let Some(next) = self.wal.take_small() else {
                return Ok(());
            };
            sequencer.spare_bytes = self.wal.spare_bytes(0);
            let seq = SeqNo(sequencer.next_seq.0 - 1);
            (sequencer.switch(Arc::clone(&next)), next, seq)
        };
        crate::sync::sometimes("log: leaves a large segment");
        self.end_segment(ended, &next, seq)?;
        self.sync_through(next.first())?;
        let mut manifest = self.manifest.lock();
        let log = self.log_from(&manifest.state().log, next.first());
        let flushed = seq.max(manifest.state().flushed); // what came since may be flushed, too
        manifest.append(&[Change::Flushed(flushed), Change::Log(log), self.next_file()])?;
        self.wal.set_durable_edit(manifest.number());
        drop(manifest);
        self.wal.release(next.first());
        // An idle file is what an opening may need, unless the next ones are ready.
        self.wal.prepare(0)?;
        self.wal.take_large_idle().iter().for_each(|segment| self.wal.give_up(segment));
        Ok(())
    }

    /// Ends the log with a durable record that knows all before it durable: the next opening copies nothing
    /// that lies before the end returned, though it was synced only after it was written. `None`: not
    /// now.
    fn mark_durable(&self) -> Option<Lsn> {
        let mut buf = vec![0; record_bytes(0)];
        self.sync().ok()?;
        let (slot, target, next_seq) = {
            let mut sequencer = self.sequencer.lock();
            self.poison.check().and_then(|()| self.check_open()).ok()?;
            let tail = &sequencer.tail;
            if self.unsynced(tail) > 0 || !self.published.has_room(tail.next_ticket() + 1) {
                return None;
            }
            let slot = sequencer.tail.reserve(buf.len())?;
            (slot, Arc::clone(&sequencer.target), sequencer.next_seq)
        };
        let unfinished = self.unless_finished("mark what is durable in");
        let stamp = Stamp::mark(next_seq, 0);
        let written = match &target.segment {
            Some(segment) => self.wal.write(segment, &slot, &mut buf, stamp),
            None => Err(Error::Closed), // the log had room, so it has a segment
        };
        written.ok()?;
        self.published.complete(slot.ticket, next_seq.0 - 1);
        self.published_moved.notify();
        unfinished.finish();
        self.sync_through(slot.end).ok().map(|()| slot.end)
    }
}
