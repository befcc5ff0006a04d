//! Reading the log after a crash, without changing anything.
//!
//! A piece of the log is read from its start, record by record, through its segments. Where no
//! valid record follows, either the log ends (what was being written when power failed is torn), or
//! it is corrupt. It is corrupt if any record behind that place was written when the place was
//! already known durable.

use super::segment::Segment;
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
use std::path::Path;

/// A segment file whose header is valid and of this database.
pub(crate) struct FoundSegment {
    pub(crate) file: NamedFile,
    pub(crate) id: FileId,
    pub(crate) header: SegmentHeader,
}

impl FoundSegment {
    /// Reads the header of a segment file. `None`: it is not (yet, or any more) a segment of this
    /// database; that is corruption only if something else names it.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        name: &str,
        uuid: Option<[u8; 16]>,
    ) -> Result<Option<FoundSegment>> {
        let file = NamedFile::open(disk, dir.join(name), OpenMode::Write)?;
        let len = file.len()?;
        if len < BLOCK_BYTES {
            return Ok(None);
        }
        let mut block = [0; HEADER_BYTES + SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut block, 0)?;
        let found = match FileHeader::decode(&block[..HEADER_BYTES], FileKind::Wal) {
            Ok(found) => found,
            Err(HeaderError::Corrupt(..)) => return Ok(None),
            Err(HeaderError::Unsupported(what)) => {
                return Err(Error::Unsupported { file: file.path.to_path_buf(), what });
            }
        };
        let Some(header) = SegmentHeader::decode(&block[HEADER_BYTES..]) else {
            return Ok(None);
        };
        let ours = uuid.is_none_or(|uuid| found.uuid == uuid)
            && found.identity == header.salt
            && header.capacity.checked_add(BLOCK_BYTES) == Some(len);
        Ok(ours.then_some(FoundSegment { file, id: found.file_id, header }))
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.header.first.0 + self.header.capacity)
    }

    /// Takes the file up, to be recycled or let go: the log never goes on in it.
    pub(crate) fn into_segment(self) -> Result<Segment> {
        Segment::open(self.file, self.id, self.header, false)
    }

    /// All that the segment holds, as long as the file is.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        let mut data = vec![0; self.header.capacity as usize];
        self.file.read_exact_at(&mut data, BLOCK_BYTES)?;
        Ok(data)
    }

    /// Whether any record stands in the segment.
    pub(crate) fn has_records(&self) -> Result<bool> {
        Ok(Records::new(&self.header, &self.read()?).any_from(self.header.first).next().is_some())
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

/// The records of one segment, whose data was read whole.
struct Records<'a> {
    header: &'a SegmentHeader,
    data: &'a [u8],
}

impl<'a> Records<'a> {
    fn new(header: &'a SegmentHeader, data: &'a [u8]) -> Records<'a> {
        Records { header, data }
    }

    /// The record at `lsn` with its payload, if there is a valid one.
    fn at(&self, lsn: Lsn) -> Option<(RecordHeader, &'a [u8])> {
        let offset = usize::try_from(lsn.0.checked_sub(self.header.first.0)?).ok()?;
        let bytes = self.data.get(offset..)?;
        let record = RecordHeader::decode(bytes, self.header.salt, lsn)?;
        let payload = bytes.get(RECORD_HEADER_BYTES..)?.get(..record.payload_len as usize)?;
        (crc32fast::hash(payload) == record.payload_crc).then_some((record, payload))
    }

    /// The record that follows one that ended at `end`: there, or behind padding at the next block.
    /// The first record of all may follow anything.
    fn following(&self, end: Lsn, first: bool) -> Option<(RecordHeader, &'a [u8])> {
        [end, block_end(end)].into_iter().find_map(|lsn| {
            let found = self.at(lsn)?;
            (first || u64::from(found.0.gap) == lsn.0 - end.0).then_some(found)
        })
    }

    /// Headers of valid records at or behind `from`, wherever they stand.
    fn any_from(&self, from: Lsn) -> impl Iterator<Item = RecordHeader> + 'a {
        let (header, data) = (self.header, self.data);
        let start = from.0.max(header.first.0).next_multiple_of(RECORD_ALIGN);
        let end = header.first.0 + header.capacity;
        (start..end).step_by(RECORD_ALIGN as usize).filter_map(move |lsn| {
            let bytes = data.get((lsn - header.first.0) as usize..)?;
            RecordHeader::decode(bytes, header.salt, Lsn(lsn))
        })
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
    let mut data = segment.read()?;
    loop {
        if piece.end.is_some_and(|end| out.end >= end) {
            return Ok(out);
        }
        let records = Records::new(&segment.header, &data);
        let Some((record, payload)) = records.following(out.end, first) else {
            torn_or_corrupt(piece, segment, &data, segments, out.end)?;
            return Ok(out);
        };
        if piece.end.is_some_and(|end| record.lsn >= end) {
            return Ok(out); // of what lies behind the end, a later piece has a copy
        }
        first = false;
        out.durable = out.durable.max(record.durable);
        out.end = record.end();
        out.durable_edit = out.durable_edit.max(record.durable_edit);
        out.clean = record.kind == RecordKind::Mark && record.flags & FLAG_CLEAN != 0;
        match record.kind {
            RecordKind::Commit => {
                let found = Found { file: &segment.file, offset: offset(segment, record.lsn) };
                commit(&record, payload, &found)?;
            }
            RecordKind::Mark => {}
            RecordKind::Switch => {
                let at = offset(segment, record.lsn);
                let switch = Switch::decode(payload).filter(|next| next.first == segment.end());
                let next = switch.ok_or_else(|| {
                    segment.file.corruption(at, "the name of the next segment", "other bytes")
                })?;
                if piece.end == Some(next.first) {
                    out.end = next.first; // the piece ended before the segment was used
                    return Ok(out);
                }
                segment = named(dir, segments, next.salt, next.first, piece.epoch)?;
                out.end = segment.header.first;
                out.segments.push(segment.header.salt);
                data = segment.read()?;
            }
        }
    }
}

fn offset(segment: &FoundSegment, lsn: Lsn) -> u64 {
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
/// durable.
fn torn_or_corrupt(
    piece: &LogPiece,
    segment: &FoundSegment,
    data: &[u8],
    segments: &[FoundSegment],
    end: Lsn,
) -> Result<()> {
    let corrupt = |found: String| {
        let at = offset(segment, end);
        Err(segment.file.corruption(at, format!("a log record at LSN {end}"), found))
    };
    if let Some(piece_end) = piece.end {
        return corrupt(format!("none, though the log is known durable to LSN {piece_end}"));
    }
    let later = |record: &RecordHeader| record.durable > end;
    let here = Records::new(&segment.header, data).any_from(end).find(later);
    if let Some(record) = here {
        return corrupt(format!("none, but one at LSN {} that came later", record.lsn));
    }
    let follows =
        |s: &&FoundSegment| s.header.epoch == piece.epoch && s.header.first >= segment.end();
    for next in segments.iter().filter(follows) {
        let data = next.read()?;
        let records = Records::new(&next.header, &data);
        if let Some(record) = records.any_from(next.header.first).find(later) {
            return corrupt(format!("none, but one at LSN {} that came later", record.lsn));
        }
    }
    Ok(())
}
