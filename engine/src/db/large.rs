//! Large values: each is streamed to a blob and synced, its name too, before the commit that points to it.

use super::{Db, commit::Encoded, transact::Terms};
use crate::{
    blob::{Blob, fill},
    config::Durability,
    error::{Error, Result},
    format::{
        ops::{Op, Ops},
        record::{RECORD_HEADER_BYTES, record_bytes},
    },
    types::{KeyspaceId, SeqNo},
    upkeep::pick::BLOB_BYTES_PER_MEMTABLE_BYTE,
};
use std::{
    io::{Cursor, Read},
    sync::Arc,
};

/// How much is read at once of what may turn out to be small.
const PIECE_BYTES: usize = 64 << 10;

impl Db {
    /// Sets a key to what a reader yields.
    pub(crate) fn put_reader(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        mut reader: &mut dyn Read,
        durability: Durability,
    ) -> Result<SeqNo> {
        self.check_open()?;
        if key.len() > self.config.max_key_size {
            return Err(Error::KeyTooLarge);
        }
        // Before anything is read: what cannot be put need not be.
        self.check(&encoded(&[Op::Delete { keyspace, key }])[RECORD_HEADER_BYTES..])?;
        let first = read_up_to(&mut reader, self.config.blob_threshold + 1)?;
        if first.len() <= self.config.blob_threshold {
            crate::sync::sometimes("large: a reader yields a small value");
            let put = [Op::Put { keyspace, key, value: &first }];
            return self.commit_ops(&put, &[], durability, &mut Terms::default());
        }
        let mut whole = Cursor::new(first).chain(reader);
        self.begin_large()?;
        self.commit_blobs(durability, &mut Terms::default(), |db, blobs| {
            let blob = db.write_blob(keyspace, &mut whole)?;
            let pointer = blob.pointer;
            blobs.push(blob);
            Ok(vec![Op::Blob { keyspace, key, pointer }])
        })
    }

    /// Commits operations with puts of large values among them, all or none.
    #[cold]
    pub(super) fn commit_large(
        &self,
        batch: &Encoded<'_>,
        durability: Durability,
        terms: &mut Terms<'_>,
    ) -> Result<SeqNo> {
        self.begin_large()?;
        self.commit_blobs(durability, terms, |db, blobs| {
            Ops::new(batch.payload())
                .flatten() // `check` has seen that all of them are operations
                .map(|op| match op {
                    Op::Put { keyspace, key, mut value }
                        if value.len() > db.config.blob_threshold =>
                    {
                        let blob = db.write_blob(keyspace, &mut value)?;
                        let pointer = blob.pointer;
                        blobs.push(blob);
                        Ok(Op::Blob { keyspace, key, pointer })
                    }
                    other => Ok(other),
                })
                .collect()
        })
    }

    /// Writes a large value of a keyspace, with its compression. Unless something names the blob, its file goes.
    pub(super) fn write_blob(
        &self,
        keyspace: KeyspaceId,
        value: &mut dyn Read,
    ) -> Result<Arc<Blob>> {
        let of_keyspace = self.pin().keyspace(keyspace).and_then(|live| live.compression);
        let compression = of_keyspace.unwrap_or_else(|| self.config.compression());
        let compression = (compression, self.config.compression_level);
        self.blobs.write(value, compression, &|| self.may_write())
    }

    /// Commits what `write` makes of blobs that it writes. What failed leaves no file: if the failure was one
    /// of the log, so that the commit may be durable all the same, the next opening decides.
    fn commit_blobs<'o>(
        &self,
        durability: Durability,
        terms: &mut Terms<'_>,
        write: impl FnOnce(&Db, &mut Vec<Arc<Blob>>) -> Result<Vec<Op<'o>>>,
    ) -> Result<SeqNo> {
        let (mut blobs, before) = (vec![], self.names.before());
        let done = write(self, &mut blobs).and_then(|ops| {
            self.names.sync(before)?;
            self.commit_ops(&ops, &blobs, durability, terms)
        });
        match &done {
            Ok(_) => {
                let bytes = blobs.iter().map(|blob| u64::from(blob.pointer.len)).sum();
                self.metrics.blob_bytes.add(bytes);
            }
            Err(error) => {
                crate::sync::sometimes("large: a put fails behind what it wrote");
                blobs.clear();
                self.remove_dead_blobs();
                if matches!(error, Error::NoSpace { .. }) {
                    self.wal.remove_all_idle();
                    self.reclaim_blobs();
                }
            }
        }
        done
    }

    /// On a full disk: brings down what was overwritten and deleted, so that files go. What fails is tried
    /// again by the next put that finds no space.
    fn reclaim_blobs(&self) {
        if self.blobs.stats().live > 0 {
            crate::sync::sometimes("large: asks for space that blobs may give");
            self.background.reclaim();
            // The caller has an error to return, and it is for the same reason if this fails.
            let _ = self.seal_active();
        }
    }

    pub(super) fn commit_ops(
        &self,
        ops: &[Op<'_>],
        blobs: &[Arc<Blob>],
        durability: Durability,
        terms: &mut Terms<'_>,
    ) -> Result<SeqNo> {
        let mut record = encoded(ops);
        let payload_len = record.len() - RECORD_HEADER_BYTES;
        record.resize(record_bytes(payload_len), 0);
        let operations = ops.len() as u32;
        let batch = Encoded { record: &mut record, payload_len, operations };
        // Anew: a keyspace may have been dropped meanwhile.
        let need = self.check(batch.payload())?;
        self.commit_checked(batch, &need, blobs, durability, terms)
    }

    /// Whether writing may begin, or go on.
    pub(super) fn may_write(&self) -> Result<()> {
        self.check_open()?;
        self.poison.check()
    }

    /// Before a blob is written: refuses what the commit would refuse, and seals a memtable that holds many.
    fn begin_large(&self) -> Result<()> {
        self.may_write()?;
        let active = Arc::clone(&self.versions.load().active);
        let memtable_size = self.config.memtable_size;
        match active.blob_bytes() >= self.blob_bytes_max() {
            true => {
                crate::sync::sometimes("large: seals a memtable because of its blobs");
                self.seal(&active, memtable_size, false)
            }
            false => Ok(()),
        }
    }

    /// A memtable, or the runs of a keyspace, that hold so much in blobs go down, though their pointers take little:
    /// what is overwritten keeps its file until then.
    pub(super) fn blob_bytes_max(&self) -> u64 {
        let soon = self.env.buggify("large: blobs go down soon");
        let times = if soon { 1 } else { BLOB_BYTES_PER_MEMTABLE_BYTE };
        (self.config.memtable_size as u64).saturating_mul(times)
    }

    /// Removes the files of blobs that nothing names any more. Returns how many are left.
    pub(super) fn remove_dead_blobs(&self) -> usize {
        self.blobs.remove_dead(|| self.poison.check().is_ok())
    }
}

/// What a reader yields until it ends or there are so many bytes.
fn read_up_to(reader: &mut dyn Read, max: usize) -> Result<Vec<u8>> {
    let mut read = vec![];
    while read.len() < max {
        let (at, wanted) = (read.len(), (max - read.len()).min(PIECE_BYTES));
        read.resize(at + wanted, 0);
        let filled = fill(reader, &mut read[at..])?;
        read.truncate(at + filled);
        if filled < wanted {
            break;
        }
    }
    Ok(read)
}

/// Room for the header of a record, then the operations.
fn encoded(ops: &[Op<'_>]) -> Vec<u8> {
    let len: usize = ops.iter().map(Op::encoded_len).sum();
    let mut record = vec![0; RECORD_HEADER_BYTES + len];
    let mut rest = &mut record[RECORD_HEADER_BYTES..];
    for op in ops {
        let (here, behind) = rest.split_at_mut(op.encoded_len());
        op.encode(here);
        rest = behind;
    }
    record
}
