//! One file of the log.

use crate::{
    env::{Disk, FileMap, NamedFile, OpenMode},
    error::Result,
    format::{
        header::{FileHeader, FileKind, HEADER_BYTES},
        record::{BLOCK_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader},
    },
    types::{FileId, Lsn},
};
use std::path::Path;

/// A prepared segment: its file is as long as it will be, every byte zero, its header durable.
pub(crate) struct Segment {
    pub(crate) id: FileId,
    pub(crate) header: SegmentHeader,
    file: NamedFile,
    map: Option<Box<dyn FileMap>>,
}

pub(crate) fn segment_name(id: FileId) -> String {
    format!("wal-{id:06}")
}

/// The file id in the name of a segment.
pub(crate) fn segment_id(name: &str) -> Option<FileId> {
    FileId::in_name(name, "wal-", "", segment_name)
}

impl Segment {
    /// Makes a new file into a segment. The caller makes its directory entry durable.
    ///
    /// Written blocks can be overwritten without a change of metadata, so that a commit's sync has only
    /// its data to write; blocks that are only allocated cost each sync a journal entry, once. So
    /// `written` is for logs whose commits wait for the disk.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        uuid: [u8; 16],
        id: FileId,
        header: SegmentHeader,
        written: bool,
    ) -> Result<Segment> {
        let path = dir.join(segment_name(id));
        let file = NamedFile::open(disk, path.clone(), OpenMode::CreateNew)?;
        let prepared = Self::fill(&file, header.capacity, written)
            .and_then(|()| Self::write_header(&file, uuid, id, &header))
            .and_then(|()| file.sync_all());
        if let Err(error) = prepared {
            // Nothing names it: what is left of it is removed now or at the next opening.
            let _ = disk.remove(&path);
            return Err(error);
        }
        Segment::open(file, id, header, !written)
    }

    fn fill(file: &NamedFile, capacity: u64, written: bool) -> Result<()> {
        let len = BLOCK_BYTES + capacity;
        file.allocate(0, len)?;
        if !written {
            return Ok(());
        }
        let zeros = vec![0; len.min(1 << 20) as usize];
        let mut at = 0;
        while at < len {
            let part = zeros.len().min((len - at) as usize);
            file.write_all_at(&zeros[..part], at)?;
            at += part as u64;
        }
        Ok(())
    }

    /// Gives a segment that is no longer needed a new place in the log. What it holds is of
    /// another salt.
    pub(crate) fn recycle(
        &self,
        uuid: [u8; 16],
        header: SegmentHeader,
        mapped: bool,
    ) -> Result<Segment> {
        debug_assert_eq!(header.capacity, self.header.capacity);
        Self::write_header(&self.file, uuid, self.id, &header)?;
        self.file.sync_data()?;
        Segment::open(self.file.clone(), self.id, header, mapped)
    }

    fn write_header(
        file: &NamedFile,
        uuid: [u8; 16],
        id: FileId,
        header: &SegmentHeader,
    ) -> Result<()> {
        let kind = FileKind::Wal;
        let mut block = vec![0; BLOCK_BYTES as usize];
        block[..HEADER_BYTES].copy_from_slice(
            &FileHeader { kind, uuid, file_id: id, identity: header.salt }.encode(),
        );
        block[HEADER_BYTES..HEADER_BYTES + SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
        file.write_all_at(&block, 0)
    }

    /// Takes up a segment whose header was read or written by the caller. `mapped` writes go through a
    /// mapping where there can be one, without a system call each. Where each commit waits for the disk
    /// that is no gain, and its sync would have to take the page from all processors first.
    pub(crate) fn open(
        file: NamedFile,
        id: FileId,
        header: SegmentHeader,
        mapped: bool,
    ) -> Result<Segment> {
        let map = match mapped {
            true => {
                file.file.map(BLOCK_BYTES + header.capacity).map_err(|e| file.error("map", e))?
            }
            false => None,
        };
        Ok(Segment { id, header, file, map })
    }

    pub(crate) fn first(&self) -> Lsn {
        self.header.first
    }

    /// The position behind the last byte.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.header.first.0 + self.header.capacity)
    }

    fn offset(&self, lsn: Lsn) -> u64 {
        BLOCK_BYTES + (lsn.0 - self.header.first.0)
    }

    /// Hands `bytes` to the kernel. The caller has reserved `lsn..lsn + bytes.len()` for itself.
    #[inline]
    pub(crate) fn write(&self, lsn: Lsn, bytes: &[u8]) -> Result<()> {
        debug_assert!(lsn >= self.first() && lsn.0 + bytes.len() as u64 <= self.end().0);
        match &self.map {
            Some(map) => {
                #[expect(unsafe_code, reason = "the reservation makes the range ours")]
                // SAFETY: log space is reserved under the sequencer lock, each byte once; the
                // reservation lies within the segment, and so within the mapping.
                unsafe {
                    map.write(bytes, self.offset(lsn));
                }
                Ok(())
            }
            None => self.file.write_all_at(bytes, self.offset(lsn)),
        }
    }

    /// Makes the pages of a stretch present, so that writing it does not fault.
    pub(crate) fn populate(&self, from: Lsn, to: Lsn) {
        let (from, to) = (from.max(self.first()), to.min(self.end()));
        if let (Some(map), true) = (&self.map, from < to) {
            map.populate(self.offset(from), to.0 - from.0);
        }
    }

    /// Makes durable what was written, which all lies in `from..to`, where pages may be present.
    pub(crate) fn sync(&self, from: Lsn, to: Lsn) -> Result<()> {
        let (from, to) = (from.max(self.first()), to.min(self.end()));
        if let (Some(map), true) = (&self.map, from < to) {
            map.release(self.offset(from), to.0 - from.0);
        }
        self.file.sync_data()
    }

    pub(super) fn file(&self) -> &NamedFile {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }
}
