//! Reading the log after a crash, without changing anything.
//!
//! A piece of the log is read from its start, record by record, through its segments. Where no
//! valid record follows, either the log ends (what was being written when power failed is torn), or
//! it is corrupt. It is corrupt if any record behind that place was written when the place was
//! already known durable.

use super::segment::{Segment, segment_id};
use crate::{
    env::{Disk, NamedFile, OpenMode},
    error::{Error, Result},
    format::{
        header::{FileHeader, FileKind, HEADER_BYTES, HeaderError},
        manifest::LogPiece,
        record::{
            BLOCK_BYTES, FLAG_CLEAN, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader, RecordKind,
            SEGMENT_HEADER_BYTES, SegmentHeader, Switch, block_end,
        },
    },
    types::{EditNo, FileId, Lsn},
};
use std::{borrow::Borrow, path::Path};

/// A segment file whose header is valid and of this database.
pub(crate) struct FoundSegment {
    pub(crate) file: NamedFile,
    pub(crate) id: FileId,
    pub(crate) header: SegmentHeader,
}

/// What a file with the name of a segment turned out to be.
pub(crate) enum FoundFile {
    Segment(FoundSegment),
    /// It has the header of another segment file, which was written to the wrong place.
    Astray(FileId, SegmentHeader),
    /// It is not (yet, or any more) a segment of this database: that is corruption only if something
    /// else names it.
    Other,
}

impl FoundSegment {
    /// Reads the header of a segment file. Without a `uuid`, any database's segment counts, under any name.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        name: &str,
        uuid: Option<[u8; 16]>,
    ) -> Result<FoundFile> {
        let file = NamedFile::open(disk, dir.join(name), OpenMode::Write)?;
        let len = file.len()?;
        if len < BLOCK_BYTES {
            return Ok(FoundFile::Other);
        }
        let mut block = [0; HEADER_BYTES + SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut block, 0)?;
        let found = match FileHeader::decode(&block[..HEADER_BYTES], FileKind::Wal) {
            Ok(found) => found,
            Err(HeaderError::Corrupt(..)) => return Ok(FoundFile::Other),
            Err(HeaderError::Unsupported(what)) => {
                return Err(Error::Unsupported { file: file.path.to_path_buf(), what });
            }
        };
        let header = SegmentHeader::decode(&block[HEADER_BYTES..]);
        let ours = uuid.is_none_or(|uuid| found.uuid == uuid);
        let id = found.file_id;
        Ok(match header.filter(|header| ours && found.identity == header.salt) {
            Some(header) if uuid.is_some() && segment_id(name) != Some(id) => {
                FoundFile::Astray(id, header)
            }
            Some(header) if header.capacity.checked_add(BLOCK_BYTES) == Some(len) => {
                FoundFile::Segment(FoundSegment { file, id, header })
            }
            _ => FoundFile::Other,
        })
    }

    /// A segment of the log that is being written.
    pub(super) fn of(segment: &Segment) -> FoundSegment {
        FoundSegment { file: segment.file().clone(), id: segment.id, header: segment.header }
    }

    /// Where it stands among the segments: of two headers for one file, the greater is the newer.
    pub(crate) fn place(&self) -> (u64, Lsn) {
        (self.header.epoch, self.header.first)
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.header.first.0 + self.header.capacity)
    }

    /// Takes the file up, to be recycled or let go: the log never goes on in it.
    pub(crate) fn into_segment(self) -> Result<Segment> {
        Segment::open(self.file, self.id, self.header, false)
    }

    /// A manifest edit above `known` that a record names, wherever it stands: those in front of it may be
    /// lost as the edit is.
    pub(crate) fn edit_above(&self, known: EditNo) -> Result<Option<EditNo>> {
        let found = Records::new(self).find_from(self.header.first, |r| r.durable_edit > known)?;
        Ok(found.map(|record| record.durable_edit))
    }

    /// Whether any record stands in the segment.
    pub(crate) fn has_records(&self) -> Result<bool> {
        Ok(Records::new(self).find_from(self.header.first, |_| true)?.is_some())
    }
}

/// What [`replay`] says of the log.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// Behind the last valid record.
    pub(crate) end: Lsn,
    /// Up to here the log is known durable.
    pub(crate) durable: Lsn,
    /// The newest manifest edit that a record names.
    pub(crate) durable_edit: EditNo,
    /// The last record says that the database was closed.
    pub(crate) clean: bool,
    /// Salts of the segments that make up the log. Others may claim the same positions.
    pub(crate) segments: Vec<u64>,
}

/// Where a record was found.
pub(crate) struct Found<'a> {
    pub(crate) file: &'a NamedFile,
    pub(crate) offset: u64,
}

/// The records of one segment, which is read a piece at a time.
pub(super) struct Records<S> {
    pub(super) segment: S,
    /// Nothing is read from here on, counted from the segment's first position.
    limit: u64,
    /// How much is read at a time, at least.
    ahead: u64,
    /// What was read last, and where it begins, counted from the segment's first position.
    piece: Vec<u8>,
    from: u64,
}

/// How much of a segment is read at a time, at least, where it is read as a whole.
pub(super) const READ_BYTES: u64 = 1 << 20;

impl<'a> Records<&'a FoundSegment> {
    fn new(segment: &'a FoundSegment) -> Records<&'a FoundSegment> {
        Records::up_to(segment, segment.end(), READ_BYTES)
    }
}

impl<S: Borrow<FoundSegment>> Records<S> {
    /// Of a segment that may be written behind `end`.
    pub(super) fn up_to(segment: S, end: Lsn, ahead: u64) -> Records<S> {
        let mut records = Records { segment, limit: 0, ahead, piece: vec![], from: 0 };
        records.extend(end);
        records
    }

    /// What lies below `end` does not change any more.
    pub(super) fn extend(&mut self, end: Lsn) {
        let header = &self.segment.borrow().header;
        self.limit = end.0.saturating_sub(header.first.0).min(header.capacity);
    }

    /// `len` bytes at `lsn`, or fewer at the end of the segment.
    fn bytes(&mut self, lsn: Lsn, len: u64) -> Result<&[u8]> {
        let (segment, limit) = (self.segment.borrow(), self.limit);
        let Some(at) = lsn.0.checked_sub(segment.header.first.0).filter(|at| *at < limit) else {
            return Ok(&[]);
        };
        let end = at.saturating_add(len).min(limit);
        if at < self.from || end > self.from + self.piece.len() as u64 {
            let to = end.max(at.saturating_add(self.ahead).min(limit));
            let mut piece = std::mem::take(&mut self.piece);
            piece.resize((to - at) as usize, 0);
            segment.file.read_exact_at(&mut piece, BLOCK_BYTES + at)?;
            (self.piece, self.from) = (piece, at);
        }
        Ok(&self.piece[(at - self.from) as usize..(end - self.from) as usize])
    }

    fn header(&mut self, lsn: Lsn) -> Result<Option<RecordHeader>> {
        let salt = self.segment.borrow().header.salt;
        Ok(RecordHeader::decode(self.bytes(lsn, RECORD_HEADER_BYTES as u64)?, salt, lsn))
    }

    pub(super) fn payload(&mut self, record: &RecordHeader) -> Result<&[u8]> {
        self.bytes(Lsn(record.lsn.0 + RECORD_HEADER_BYTES as u64), record.payload_len.into())
    }

    /// The record at `lsn`, if there is a valid one.
    fn at(&mut self, lsn: Lsn) -> Result<Option<RecordHeader>> {
        let Some(record) = self.header(lsn)? else {
            return Ok(None);
        };
        let payload = self.payload(&record)?;
        let whole = payload.len() == record.payload_len as usize
            && crc32fast::hash(payload) == record.payload_crc;
        Ok(whole.then_some(record))
    }

    /// The record that follows one that ended at `end`: there, or behind padding at the next block.
    /// The first record of a piece may say of another gap, if it stands where the piece begins.
    pub(super) fn following(&mut self, end: Lsn, first: bool) -> Result<Option<RecordHeader>> {
        for lsn in [end, block_end(end)] {
            if let Some(record) = self.at(lsn)?
                && (first && lsn == end || u64::from(record.gap) == lsn.0 - end.0)
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// What the segment's last record names, if it is behind `from` and whole.
    fn switch_behind(&mut self, from: Lsn) -> Result<Option<Switch>> {
        let is_switch = |record: &RecordHeader| record.kind == RecordKind::Switch;
        let Some(found) = self.find_from(from, is_switch)? else {
            return Ok(None);
        };
        match self.at(found.lsn)? {
            Some(switch) => Ok(Switch::decode(self.payload(&switch)?)),
            None => Ok(None),
        }
    }

    /// The first valid header at or behind `from` that is `wanted`, wherever it stands.
    fn find_from(
        &mut self,
        from: Lsn,
        wanted: impl Fn(&RecordHeader) -> bool,
    ) -> Result<Option<RecordHeader>> {
        let (first, end) = (self.segment.borrow().header.first, self.segment.borrow().end());
        let start = from.max(first).0.next_multiple_of(RECORD_ALIGN);
        for lsn in (start..end.0).step_by(RECORD_ALIGN as usize) {
            if let Some(record) = self.header(Lsn(lsn))?.filter(&wanted) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

/// Reads a piece of the log and hands every commit to `commit`: where it stands, its header and its
/// operations. Pieces that have ended must be whole.
pub(crate) fn replay(
    piece: &LogPiece,
    dir: &Path,
    segments: &[FoundSegment],
    mut commit: impl FnMut(&RecordHeader, &[u8], &Found<'_>) -> Result<()>,
) -> Result<Replayed> {
    let mut segment = named(dir, segments, piece.salt, piece.start, piece.epoch)?;
    let mut out = Replayed {
        end: piece.start,
        durable: piece.start,
        durable_edit: EditNo(0),
        clean: false,
        segments: vec![segment.header.salt],
    };
    let mut first = true;
    let mut records = Records::new(segment);
    loop {
        if piece.end.is_some_and(|end| out.end >= end) {
            return Ok(out);
        }
        if piece.end.is_none() && out.clean {
            crate::sync::sometimes("replay: ends at the mark of a clean close");
            return Ok(out); // nothing was written behind the mark
        }
        let Some(record) = records.following(out.end, first)? else {
            crate::sync::sometimes("replay: ends at what is no record");
            out.segments.extend(torn_or_corrupt(piece, records, segments, out.end)?);
            return Ok(out);
        };
        if piece.end.is_some_and(|end| record.lsn >= end) {
            // Of what lies behind the end, a later piece has a copy. Logs end where a record does, so that
            // the end was met before; nothing here depends on it.
            return Ok(out);
        }
        first = false;
        out.durable = out.durable.max(record.durable);
        out.end = record.end();
        out.durable_edit = out.durable_edit.max(record.durable_edit);
        out.clean = record.kind == RecordKind::Mark && record.flags & FLAG_CLEAN != 0;
        match record.kind {
            RecordKind::Commit => {
                let found = Found { file: &segment.file, offset: offset(segment, record.lsn) };
                commit(&record, records.payload(&record)?, &found)?;
            }
            RecordKind::Mark => {}
            RecordKind::Switch => {
                let at = offset(segment, record.lsn);
                let switch = Switch::decode(records.payload(&record)?);
                let switch = switch.filter(|next| next.first == segment.end());
                let next = switch.ok_or_else(|| {
                    segment.file.corruption(at, "the name of the next segment", "other bytes")
                })?;
                if piece.end == Some(next.first) {
                    crate::sync::sometimes("replay: ends before an unused segment");
                    out.end = next.first; // the piece ended before the segment was used
                    return Ok(out);
                }
                crate::sync::sometimes("replay: goes on in the next segment");
                segment = named(dir, segments, next.salt, next.first, piece.epoch)?;
                out.end = segment.header.first;
                out.segments.push(segment.header.salt);
                records = Records::new(segment);
            }
        }
    }
}

pub(super) fn offset(segment: &FoundSegment, lsn: Lsn) -> u64 {
    BLOCK_BYTES + lsn.0.saturating_sub(segment.header.first.0)
}

/// The segment that something durable names: it must be there.
fn named<'a>(
    dir: &Path,
    segments: &'a [FoundSegment],
    salt: u64,
    lsn: Lsn,
    epoch: u64,
) -> Result<&'a FoundSegment> {
    let is_it = |s: &&FoundSegment| {
        let h = &s.header;
        h.salt == salt && h.epoch == epoch && h.first <= lsn && lsn < s.end()
    };
    segments.iter().find(is_it).ok_or_else(|| {
        let found = format!("{} segments, none of them it", segments.len());
        Error::corruption(
            dir.join("wal-*"),
            0,
            format!("the log segment that holds LSN {lsn}"),
            found,
        )
    })
}

/// No valid record follows `end`. That is where the log ends, unless something says that more was
/// durable. Returns the salt of the segment that a record behind the end names, if there is one: it must
/// stay until the log is ended in the manifest, so that it is missed only if it was damaged.
fn torn_or_corrupt(
    piece: &LogPiece,
    mut records: Records<&FoundSegment>,
    segments: &[FoundSegment],
    end: Lsn,
) -> Result<Option<u64>> {
    let segment = records.segment;
    let corrupt = |found: String| {
        let at = offset(segment, end);
        Err(segment.file.corruption(at, format!("a log record at LSN {end}"), found))
    };
    if let Some(piece_end) = piece.end {
        return corrupt(format!("none, though the log is known durable to LSN {piece_end}"));
    }
    let later = |record: &RecordHeader| record.durable > end;
    if let Some(record) = records.find_from(end, later)? {
        return corrupt(format!("none, but one at LSN {} that came later", record.lsn));
    }
    let follows =
        |s: &&FoundSegment| s.header.epoch == piece.epoch && s.header.first >= segment.end();
    for next in segments.iter().filter(follows) {
        if let Some(record) = Records::new(next).find_from(next.header.first, later)? {
            return corrupt(format!("none, but one at LSN {} that came later", record.lsn));
        }
    }
    // A segment is durable before the record is written that names it.
    let next = records.switch_behind(end)?;
    match next {
        Some(next) if !segments.iter().any(|s| s.header.salt == next.salt) => {
            crate::sync::sometimes("replay: the segment is missing that follows a torn end");
            corrupt(format!("none, but behind it the name of a segment at LSN {}", next.first))
        }
        _ => Ok(next.map(|next| next.salt)),
    }
}
