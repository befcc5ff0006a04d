//! Reading the log while it is written.
//!
//! Who follows the log reads what is durable, from the files of its segments, record by record and with the checks
//! of recovery. Invariants:
//!
//! - nothing is read at or behind the end of what is durable, where bytes may still change
//! - a [`Follower`] has a *pin*: the first position that it still needs. Segments that hold one behind it are neither
//!   recycled nor removed, until those that recovery does not need either are too many or the disk is full. Then the
//!   oldest go, and with them the pins that need them
//! - so what cannot be read is corrupt only if the pin is still there. Bytes of another use of a file are never taken for
//!   records: they have another salt

use super::{
    Segment, Segments, Wal,
    replay::{FoundSegment, READ_BYTES, Records, offset},
};
use crate::{
    error::{Error, Result},
    format::{
        manifest::LogPiece,
        record::{BLOCK_BYTES, RecordHeader, RecordKind, SegmentHeader, Switch},
    },
    types::{Lsn, SeqNo},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// What those who follow the log still need.
#[derive(Default)]
pub(super) struct Pins {
    next: u64,
    at: BTreeMap<u64, Lsn>,
}

impl Segments {
    /// Lets go of segments that nobody needs any more, or that are too many bytes.
    pub(super) fn let_go_unheld(&mut self, bytes_max: u64) {
        let bytes = |segment: &Arc<Segment>| segment.header.capacity + BLOCK_BYTES;
        let mut held: u64 = self.held.iter().map(bytes).sum();
        while let Some(oldest) = self.held.front() {
            let (end, len) = (oldest.end(), bytes(oldest));
            if self.pins.at.values().any(|at| *at < end) {
                if held <= bytes_max {
                    return;
                }
                crate::sync::sometimes("log: lets go of what a follower has not read");
                self.pins.at.retain(|_, at| *at >= end);
            }
            held -= len;
            self.idle.extend(self.held.pop_front());
        }
    }

    /// Where the log ends in a segment, as far as what it holds is durable. Records behind the end of an earlier
    /// epoch are void, and nothing durable is in a segment of an epoch that nothing names.
    fn end_in(&self, segment: &Segment, durable: Lsn) -> Lsn {
        match segment.header.epoch {
            epoch if epoch == self.epoch => durable.min(segment.end()),
            epoch => {
                let piece = self.ended.iter().find(|piece| piece.epoch == epoch);
                piece.and_then(|piece| piece.end).unwrap_or_default().min(segment.end())
            }
        }
    }

    /// Where an earlier epoch ends, and where the log goes on behind it.
    fn epoch_end(&self, epoch: u64) -> Option<(Lsn, Lsn)> {
        let at = self.ended.iter().position(|piece| piece.epoch == epoch)?;
        let next = self.ended.get(at + 1).map_or(self.base, |piece| piece.start);
        self.ended[at].end.map(|end| (end, next))
    }
}

/// Somebody who follows the log.
pub(crate) struct Follower {
    pin: u64,
    /// Behind the last record read.
    at: Lsn,
    /// The segment that holds this, once it was looked for.
    here: Option<Here>,
    /// Of the segment to go on in, if a record has named it.
    salt: Option<u64>,
    /// What the next commit begins with, if one was read.
    next_seq: Option<SeqNo>,
}

struct Here {
    records: Records<FoundSegment>,
    /// Where the epoch of the segment ends, and where the next one begins, if it is an earlier one.
    epoch_end: Option<(Lsn, Lsn)>,
}

/// What comes next for a [`Follower`].
pub(crate) enum Next {
    Commit(RecordHeader),
    /// Nothing that is durable.
    Nothing,
    /// It came too late: the log is gone where it would go on.
    Gone,
}

/// Where the log is read from, or the first SeqNo that it holds.
pub(crate) enum Found {
    Here(Follower),
    Oldest(SeqNo),
}

impl Follower {
    pub(crate) fn at(&self) -> Lsn {
        self.at
    }

    /// The next commit below `durable`, the end of what is. It stays the next one until it is
    /// [passed](Follower::pass).
    pub(crate) fn next(&mut self, wal: &Wal, durable: Lsn) -> Result<Next> {
        loop {
            if self.at >= durable {
                if self.here.is_none() {
                    crate::sync::sometimes("follow: has read a segment to its end");
                    wal.move_pin(self); // the next one may not come for long
                }
                return Ok(Next::Nothing);
            }
            let Some(here) = &mut self.here else {
                match wal.enter(self)? {
                    true => continue,
                    false => return Ok(Next::Gone),
                }
            };
            if let Some((_, next)) = here.epoch_end.filter(|(end, _)| self.at >= *end) {
                crate::sync::sometimes("follow: goes on behind a recovery");
                (self.at, self.here, self.salt, self.next_seq) = (next, None, None, None);
                continue;
            }
            let records = &mut here.records;
            records.extend(here.epoch_end.map_or(durable, |(end, _)| end));
            let first = self.at == records.segment.header.first;
            let Some(record) = records.following(self.at, first)? else {
                return self.unreadable(wal);
            };
            match record.kind {
                RecordKind::Commit => return self.checked(record).map(Next::Commit),
                RecordKind::Mark => self.at = record.end(),
                RecordKind::Switch => self.switch(&record)?,
            }
        }
    }

    /// The commit counts as read.
    pub(crate) fn pass(&mut self, record: &RecordHeader) {
        self.at = record.end();
        self.next_seq = Some(SeqNo(record.first_seq.0 + u64::from(record.operations)));
    }

    /// The payload of the next commit.
    pub(crate) fn payload(&mut self, record: &RecordHeader) -> Result<&[u8]> {
        match &mut self.here {
            Some(here) => here.records.payload(record),
            None => Ok(&[]), // it was just read there
        }
    }

    /// That a record, whole as it is, is not what it must be.
    pub(crate) fn corrupt(&self, record: &RecordHeader, expected: String, found: String) -> Error {
        match &self.here {
            Some(Here { records: Records { segment, .. }, .. }) => {
                segment.file.corruption(offset(segment, record.lsn), expected, found)
            }
            None => Error::Closed, // it was just read there
        }
    }

    /// Goes on in the segment that a record names.
    fn switch(&mut self, record: &RecordHeader) -> Result<()> {
        let end = self.here.as_ref().map(|here| here.records.segment.end());
        let switch = Switch::decode(self.payload(record)?);
        let Some(next) = switch.filter(|next| Some(next.first) == end) else {
            let wanted = "the name of the next segment".into();
            return Err(self.corrupt(record, wanted, "other bytes".into()));
        };
        (self.at, self.salt) = (next.first, Some(next.salt));
        // An epoch may have ended before the next segment was used.
        if self.here.as_ref().is_none_or(|here| here.epoch_end.is_none_or(|(end, _)| end > self.at))
        {
            self.here = None;
        }
        Ok(())
    }

    /// The commit of a record that may come next.
    fn checked(&self, record: RecordHeader) -> Result<RecordHeader> {
        let expected = self.next_seq.unwrap_or(record.first_seq);
        let end = record.first_seq.0.checked_add(record.operations.into());
        let possible = record.operations > 0 && end.is_some_and(|end| end <= SeqNo::MAX.0 + 1);
        if record.first_seq == expected && possible {
            return Ok(record);
        }
        let wanted = format!("the commit of SeqNo {expected} in the log");
        Err(self.corrupt(&record, wanted, format!("that of SeqNo {}", record.first_seq)))
    }

    /// There is no record where one is durable: it was let go of, or is damaged.
    fn unreadable(&mut self, wal: &Wal) -> Result<Next> {
        if !wal.is_pinned(self.pin) {
            crate::sync::sometimes("follow: a segment is recycled while it is read");
            return Ok(Next::Gone);
        }
        // Taken, so that the next call reads the file again.
        match self.here.take() {
            Some(Here { records: Records { segment, .. }, .. }) => {
                let (at, wanted) = (self.at, format!("a log record at LSN {}", self.at));
                let found = "none, though more is known durable";
                Err(segment.file.corruption(offset(&segment, at), wanted, found))
            }
            None => Ok(Next::Nothing),
        }
    }
}

impl Wal {
    /// Says what the log consisted of when the database was opened, all of which has ended.
    pub(crate) fn continues_pieces(&self, ended: Vec<LogPiece>) {
        self.segments.lock().ended = ended;
    }

    /// Follows the log from `at` on, where a record ended. Called under the sequencer lock.
    pub(crate) fn follow(&self, at: Lsn) -> Follower {
        let mut segments = self.segments.lock();
        let pins = &mut segments.pins;
        pins.next += 1;
        pins.at.insert(pins.next, at);
        Follower { pin: pins.next, at, here: None, salt: None, next_seq: None }
    }

    /// Follows the log from the segment on that holds the commit with the operation `from`. There has been one,
    /// as the next commit begins with `next_seq`.
    pub(crate) fn follow_from(&self, from: SeqNo, next_seq: SeqNo) -> Result<Found> {
        loop {
            let mut follower = self.follow(Lsn(0)); // nothing goes meanwhile, unless it is too much
            let sought = self.seek(&mut follower, from, next_seq);
            if let Ok(None) = sought {
                self.move_pin(&follower);
                return Ok(Found::Here(follower));
            }
            let was_pinned = self.is_pinned(follower.pin);
            self.end_follow(&follower);
            match sought {
                // What was looked at may have another use by now.
                Err(Error::Corruption(_)) if !was_pinned => {
                    crate::sync::sometimes("follow: a segment is recycled while it is looked for");
                }
                sought => return Ok(Found::Oldest(sought?.unwrap_or(next_seq))),
            }
        }
    }

    /// Brings a follower to the segment, or returns the first SeqNo that there is.
    fn seek(&self, follower: &mut Follower, from: SeqNo, next_seq: SeqNo) -> Result<Option<SeqNo>> {
        let held = self.held();
        let mut oldest = None;
        for (segment, end) in held.iter().rev() {
            let Some(first) = self.first_seq(segment, *end)? else {
                continue;
            };
            oldest = Some(first);
            if first <= from {
                follower.at = segment.first();
                return Ok(None);
            }
        }
        if oldest.is_some() {
            return Ok(oldest);
        }
        // Nothing of it is durable yet, so the first record is not known.
        match held.first() {
            Some((segment, _)) if segment.header.first_seq <= from => {
                crate::sync::sometimes("follow: begins where nothing is durable yet");
                follower.at = segment.first();
                Ok(None)
            }
            Some((segment, _)) => Ok(Some(segment.header.first_seq)),
            None => Ok(Some(next_seq)),
        }
    }

    /// Segments that the log can be read from, oldest first, and where what is durable ends in each.
    fn held(&self) -> Vec<(Arc<Segment>, Lsn)> {
        let durable = self.durable();
        let segments = self.segments.lock();
        let all = segments.held.iter().chain(&segments.live);
        let ends = all.map(|segment| (Arc::clone(segment), segments.end_in(segment, durable)));
        let is_void = |s: &Segment, end| s.header.epoch != segments.epoch && s.first() >= end;
        ends.filter(|(segment, end)| !is_void(segment, *end)).collect()
    }

    /// The SeqNo that the first record of a segment names. `None`: none is durable.
    fn first_seq(&self, segment: &Segment, end: Lsn) -> Result<Option<SeqNo>> {
        let first = segment.first();
        if first >= end {
            return Ok(None);
        }
        let segment = FoundSegment::of(segment);
        let record = Records::up_to(&segment, end, BLOCK_BYTES).following(first, true)?;
        let lacks = || segment.file.corruption(BLOCK_BYTES, "the first log record", "none");
        record.map(|record| Some(record.first_seq)).ok_or_else(lacks)
    }

    /// Looks the segment up that a follower goes on in, and lets go of those before it. `false`: it is gone.
    fn enter(&self, follower: &mut Follower) -> Result<bool> {
        let mut segments = self.segments.lock();
        let Some(pin) = segments.pins.at.get_mut(&follower.pin) else {
            return Ok(false);
        };
        *pin = follower.at;
        let is_it = |header: &SegmentHeader| {
            let holds = header.first <= follower.at
                && follower.at.0 < header.first.0.saturating_add(header.capacity);
            holds && follower.salt.is_none_or(|salt| salt == header.salt)
        };
        let mut all = segments.held.iter().chain(&segments.live);
        let found = all.find(|segment| is_it(&segment.header));
        let Some(segment) = found.map(|segment| FoundSegment::of(segment)) else {
            let count = segments.held.len() + segments.live.len();
            let wanted = format!("the log segment that holds LSN {}", follower.at);
            let found = format!("{count} segments, none of them it");
            return Err(Error::corruption(self.names.dir().join("wal-*"), 0, wanted, found));
        };
        let epoch_end = segments.epoch_end(segment.header.epoch);
        segments.let_go_unheld(self.plan.held_bytes);
        drop(segments);
        self.remove_surplus();
        let records = Records::up_to(segment, follower.at, READ_BYTES);
        follower.here = Some(Here { records, epoch_end });
        Ok(true)
    }

    fn move_pin(&self, follower: &Follower) {
        let mut segments = self.segments.lock();
        if let Some(pin) = segments.pins.at.get_mut(&follower.pin) {
            *pin = follower.at;
        }
        segments.let_go_unheld(self.plan.held_bytes);
        drop(segments);
        self.remove_surplus();
    }

    fn is_pinned(&self, pin: u64) -> bool {
        self.segments.lock().pins.at.contains_key(&pin)
    }

    /// A follower needs nothing any more.
    pub(crate) fn end_follow(&self, follower: &Follower) {
        let mut segments = self.segments.lock();
        segments.pins.at.remove(&follower.pin);
        segments.let_go_unheld(self.plan.held_bytes);
        drop(segments);
        // What is left, the next who lets go of something removes.
        if !self.env.is_dying() && !std::thread::panicking() {
            self.remove_surplus();
        }
    }

    /// Lets go of all that is kept for those who follow the log, as somebody lacks space.
    pub(super) fn let_go_of_held(&self) {
        let mut segments = self.segments.lock();
        let Some(end) = segments.held.back().map(|segment| segment.end()) else {
            return;
        };
        crate::sync::sometimes("log: lets go of what is held, on a full disk");
        segments.pins.at.retain(|_, at| *at >= end);
        segments.let_go_unheld(self.plan.held_bytes);
    }

    /// Waits until something behind `at` is durable, `is_over`, or about `patience` has passed.
    pub(crate) fn wait_behind(&self, at: Lsn, patience: Duration, is_over: impl Fn() -> bool) {
        let moved = || (self.durable() > at || is_over()).then_some(());
        self.durable_moved.wait_for(patience, moved);
    }

    /// What those who follow the log check besides it has changed.
    pub(crate) fn wake_followers(&self) {
        self.durable_moved.notify();
    }
}
