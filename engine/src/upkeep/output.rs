//! Writing one sstable out of a merge of sorted places.

use crate::{
    blob::Blobs,
    env::{Env, NamedFile, OpenMode},
    error::{Error, Result},
    format::header::{FileHeader, FileKind},
    iter::{
        Entry,
        merge::{Merge, Merged},
        tombstones::RangeTombstones,
    },
    sstable::{SharedBlocks, Sstable, SstableBuilder, SstableOptions, SstableSummary},
    sync::{AtomicU64, Ordering::SeqCst},
    types::{FileId, KeyspaceId, Kind},
};
use std::{path::Path, sync::Arc};

/// Where outputs go and what they carry.
pub(crate) struct Outputs<'a> {
    pub(crate) env: &'a dyn Env,
    pub(crate) dir: &'a Path,
    pub(crate) uuid: [u8; 16],
    pub(crate) file_ids: &'a AtomicU64,
    pub(crate) blocks: &'a Arc<SharedBlocks>,
    pub(crate) blobs: &'a Blobs,
    /// Whether what is being written will not be wanted any more: the database is being closed.
    pub(crate) given_up: &'a dyn Fn() -> bool,
}

/// How many entries are merged between two looks at whether to give up. A simulation writes few.
const ENTRIES_PER_LOOK: u32 = 256;

pub(crate) fn sstable_name(id: FileId) -> String {
    format!("{id:06}.sst")
}

/// The file id in the name of an sstable.
pub(crate) fn sstable_id(name: &str) -> Option<FileId> {
    FileId::in_name(name, "", ".sst", sstable_name)
}

impl Outputs<'_> {
    /// Writes what the merge yields into a new file and syncs it; the directory is the caller's to sync.
    /// `None`: nothing was left to write. [`Error::Closed`]: given up, nothing is left of it. At the bottom, where nothing older lies below, tombstones
    /// of both kinds are left out.
    pub(crate) fn write(
        &self,
        keyspace: KeyspaceId,
        options: SstableOptions,
        merge: Merge,
        tombstones: &RangeTombstones,
        bottom: bool,
    ) -> Result<Option<Arc<Sstable>>> {
        let file_id = FileId(self.file_ids.fetch_add(1, SeqCst));
        let path = self.dir.join(sstable_name(file_id));
        let file = NamedFile::open(self.env.disk(), path.clone(), OpenMode::CreateNew)?;
        let written = self
            .fill(file.clone(), file_id, keyspace, options, merge, tombstones, bottom)
            .and_then(|summary| match summary {
                None => Ok(None),
                Some(summary) => {
                    let blocks = Arc::clone(self.blocks);
                    let table = Sstable::open(file, &summary, &self.uuid, keyspace, blocks)?;
                    table.holding(self.blobs).map(Some)
                }
            });
        match written {
            Ok(Some(table)) => Ok(Some(Arc::new(table))),
            nothing => {
                self.blocks.cache.remove_file(file_id);
                // Nothing names the file. If it cannot be removed, the next opening does.
                let _ = self.env.disk().remove(&path);
                nothing.map(|_| None)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one call, in its words")]
    fn fill(
        &self,
        file: NamedFile,
        file_id: FileId,
        keyspace: KeyspaceId,
        options: SstableOptions,
        mut merge: Merge,
        tombstones: &RangeTombstones,
        bottom: bool,
    ) -> Result<Option<SstableSummary>> {
        let header = FileHeader {
            kind: FileKind::Sstable,
            uuid: self.uuid,
            file_id,
            identity: self.env.random("sstable.identity"),
        };
        let builder = SstableBuilder::new(file, header, keyspace, options)?;
        let mut builder = builder.caching(self.blocks);
        let mut empty = bottom || tombstones.is_empty();
        let mut merged = 0u32;
        let looks = self.env.buggify("output: looks often whether to give up");
        let entries_per_look = if looks { 4 } else { ENTRIES_PER_LOOK };
        while let Some(Merged { key, value, seq, kind, covered }) = merge.next_any()? {
            merged = merged.wrapping_add(1);
            if merged.is_multiple_of(entries_per_look) && (self.given_up)() {
                crate::sync::sometimes("output: given up");
                return Err(Error::Closed);
            }
            // What a range delete covers is gone, whether the range delete itself is kept or not.
            if covered || (bottom && kind == Kind::Delete) {
                continue;
            }
            builder.add(Entry { key, seq, kind, value })?;
            empty = false;
        }
        if empty {
            crate::sync::sometimes("output: nothing is left to write");
            return Ok(None);
        }
        if !bottom {
            crate::sync::sometimes("output: range deletes go along");
            builder.add_range_tombstones(tombstones);
        }
        builder.finish().map(Some)
    }
}
