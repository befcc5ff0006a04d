//! Bulk loading: sorted entries into the tree of an empty keyspace, past log, memtable and runs.
//!
//! A load has its place in the order of commits where it begins: everything committed before is gone from
//! the keyspace, everything committed later is newer than what is loaded. Until it is installed, in one edit,
//! nothing of it is to be seen. Meanwhile the keyspace is *being loaded*
//! ([`Background::begin_loading`](super::background::Background::begin_loading)): nobody else makes a tree for
//! it or drops what it has, and flushes keep its deletes, which have to hide what will lie below them.

use super::{
    Db,
    compact::{Hinting, Leaving, Wrote},
    scan::Walk,
};
use crate::{
    btree::{Changes, FromFile, TreeMerge},
    config::MAX_VALUE_BYTES,
    env::NamesBefore,
    error::{Error, Result},
    format::blob::POINTER_BYTES,
    iter::Direction,
    memtable::Memtable,
    pager::{ENTRY_BYTES, Taken},
    sstable::Sstable,
    types::{KeyspaceId, SeqNo},
    version::{KeyspaceVersion, Sealed, TreeBlobs},
};
use std::{fmt::Write, ops::Bound, sync::Arc};

/// How many entries are loaded between two looks at whether to give up.
const ENTRIES_PER_LOOK: u64 = 256;
/// As many bytes of a key go into an error.
const KEY_BYTES_SHOWN: usize = 64;

/// A keyspace that is to be loaded, as handles know it.
#[derive(Clone, Copy)]
pub(crate) struct Empty<'a> {
    pub(crate) id: KeyspaceId,
    pub(crate) name: &'a str,
}

impl Empty<'_> {
    fn is_gone(&self) -> Error {
        Error::KeyspaceNotFound { name: self.name.into() }
    }

    fn is_not_empty(&self) -> Error {
        Error::NotEmpty { keyspace: self.name.into() }
    }
}

impl Db {
    /// Loads an empty keyspace with entries whose keys ascend, all or none. What they end with early is
    /// returned as it is. Returns how many there were.
    pub(crate) fn bulk_load<K, V, E>(
        &self,
        keyspace: Empty<'_>,
        entries: impl Iterator<Item = Result<(K, V), E>>,
    ) -> Result<u64, E>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: From<Error>,
    {
        let loading = self.background.begin_loading(self, keyspace.id)?;
        let begun = self.begin_load(keyspace)?;
        crate::sync::point_at("bulk.begun", begun.0 + 1);
        let (give_up, before) = (|| self.refuse_load(keyspace), self.names.before());
        let mut loaded = Loaded {
            entries,
            here: None,
            number: 0,
            failed: None,
            db: self,
            keyspace: keyspace.id,
            give_up: &give_up,
            blob: None,
            blobs: TreeBlobs::new(),
        };
        let done = loaded.advance().and_then(|()| self.write_tree(keyspace, &mut loaded)).and_then(
            |new| {
                let blobs = std::mem::take(&mut loaded.blobs);
                self.install_load(keyspace, begun, new, (blobs, before))
            },
        );
        drop(loading);
        if let Err(error) = done {
            crate::sync::sometimes("bulk: a load fails");
            // What it wrote takes space.
            loaded.blobs.clear();
            self.remove_dead_blobs();
            self.wal.make_space_if_full(&error);
            self.background.wake_prepare();
            self.background.ask_for_space();
            return Err(loaded.failed.take().unwrap_or_else(|| error.into()));
        }
        Ok(loaded.number)
    }

    /// Fixes the place of a load in the order of commits: all up to the SeqNo returned are older, and none of
    /// them is in memory any more. Fails if they leave an entry.
    fn begin_load(&self, keyspace: Empty<'_>) -> Result<SeqNo> {
        self.check_empty(keyspace, None)?; // no flush for nothing
        let begun = loop {
            if let Some(begun) = self.flush_keyspace(keyspace.id)? {
                break begun;
            }
        };
        self.check_empty(keyspace, Some(begun))?;
        Ok(begun)
    }

    /// Brings what memory holds of a keyspace into runs: all up to the SeqNo returned. `None`: to be tried
    /// again.
    fn flush_keyspace(&self, id: KeyspaceId) -> Result<Option<SeqNo>> {
        let last = SeqNo(self.sequencer.lock().next_seq.0 - 1);
        // Then all of them are in the memtables of the Version, whole, or in files.
        self.published_moved.wait(|| {
            if let Err(refused) = self.check_open().and_then(|()| self.poison.check()) {
                return Some(Err(refused));
            }
            (self.visible() >= last).then_some(Ok(()))
        })?;
        let version = self.versions.load();
        let holds = |memtable: &Memtable| memtable.keyspaces().contains(&id);
        let sealed = if holds(&version.active) {
            crate::sync::sometimes("bulk: seals the memtable");
            self.seal(&version.active, self.config.memtable_size, false)?;
            let now = self.versions.load();
            let is_it = |sealed: &&Arc<Sealed>| Arc::ptr_eq(&sealed.memtable, &version.active);
            let Some(sealed) = now.sealed.iter().find(is_it) else {
                return Ok(None); // flushed meanwhile
            };
            Some(Arc::clone(sealed))
        } else {
            version.sealed.iter().find(|sealed| holds(&sealed.memtable)).cloned()
        };
        let Some(sealed) = sealed else {
            // A run that was flushed since may have newer ones, and older ones with them.
            let runs = version.keyspace(id).into_iter().flat_map(|keyspace| &keyspace.runs);
            let newest = runs.map(|run| run.summary().contents.largest_seq).max();
            return Ok(Some(last.max(newest.unwrap_or(last))));
        };
        self.wait_until(|now| !now.sealed.iter().any(|s| Arc::ptr_eq(s, &sealed)))?;
        // It may have got newer ones before it was sealed: they are in one run with the older ones.
        Ok(Some(last.max(sealed.last_seq)))
    }

    /// Whether a keyspace had no entry at a SeqNo, or has none now.
    fn check_empty(&self, keyspace: Empty<'_>, at: Option<SeqNo>) -> Result<()> {
        let (version, visible) = self.view();
        version.keyspace(keyspace.id).ok_or_else(|| keyspace.is_gone())?;
        let everything = (Bound::Unbounded, Bound::Unbounded);
        let mut walk = Walk::new(version, at.unwrap_or(visible), keyspace.id, everything);
        walk.keys_only = true;
        match walk.next(self, Direction::Forward)? {
            Some(_) => Err(keyspace.is_not_empty()),
            None => Ok(()),
        }
    }

    /// Whether a load may go on.
    fn refuse_load(&self, keyspace: Empty<'_>) -> Result<()> {
        self.check_open()?;
        self.poison.check()?;
        self.pin().keyspace(keyspace.id).map(|_| ()).ok_or_else(|| keyspace.is_gone())
    }

    /// Writes the entries into a tree of their own, and makes it durable.
    fn write_tree(&self, keyspace: Empty<'_>, entries: &mut dyn Changes) -> Result<New> {
        let pager = self.trees()?;
        let generation = self.new_generation()?;
        let hints = pager.hints(self.slice_bytes_max() as u64, ENTRY_BYTES);
        // What is loaded is not known to be read soon, and how much it is neither.
        let pages = pager.write(generation);
        let mut new = Hinting { pages, keyspace: keyspace.id, hints, only_if_room: true };
        let page_bytes = pager.page_bytes();
        let nodes = FromFile(&pager);
        let merged = TreeMerge::run(
            &nodes,
            &mut new,
            (keyspace.id, None),
            entries,
            &[],
            page_bytes,
            u64::MAX,
        )?;
        let taken = new.pages.finish()?;
        self.metrics.compacted_bytes.add(merged.written_pages * page_bytes as u64);
        Ok(New { merged, taken, generation })
    }

    /// Makes the edit durable that names the new tree, in the place of all that the keyspace had when the load
    /// began, then shows it to readers.
    fn install_load(
        &self,
        keyspace: Empty<'_>,
        begun: SeqNo,
        new: New,
        (blobs, before): (TreeBlobs, NamesBefore),
    ) -> Result<()> {
        let (New { mut merged, taken, generation }, pager) = (new, self.trees()?);
        if !blobs.is_empty() {
            // The names of the blobs, which were synced one by one.
            self.names.sync(before).inspect_err(|_| pager.give_back(taken.pages.runs()))?;
        }
        let live = self.versions.load().keyspace(keyspace.id).cloned();
        let leaving = Leaving::of(live.as_ref().and_then(|live| live.tree.as_ref()))
            .inspect_err(|_| pager.give_back(taken.pages.runs()))?;
        pager.hints(0, ENTRY_BYTES); // not made larger with the manifest locked
        let mut manifest = self.manifest.lock();
        // Commits made before must not be lost where the load is not. They may have made the keyspace
        // empty, too.
        let committed = self.visible();
        let ready = self.sync().and_then(|()| {
            self.check_open()?;
            let version = self.versions.load();
            let live = version.keyspace(keyspace.id).cloned().ok_or_else(|| keyspace.is_gone())?;
            let freed = leaving.now(live.tree.as_ref())?;
            Ok((live, freed))
        });
        let (live, freed) = ready.inspect_err(|_| pager.give_back(taken.pages.runs()))?;
        merged.freed = freed;
        let old = runs_up_to(&live, begun);
        if live.tree.is_some() || !old.is_empty() {
            crate::sync::sometimes("bulk: a load takes the place of what was deleted");
        }
        if old.len() < live.runs.len() {
            crate::sync::sometimes("bulk: runs are newer than what is loaded");
        }
        // The table that it left hints in was made for less.
        let (hinted, loaded) = (None, true);
        let wrote = Wrote { taken, generation, blobs, committed, anew: true, hinted, loaded };
        self.install_merge(&mut manifest, &live, old, &pager, merged, wrote)?;
        self.is_loaded(keyspace.id);
        Ok(())
    }
}

/// A tree that no edit names yet. Its pages are taken.
struct New {
    merged: crate::btree::Merged,
    taken: Taken,
    generation: u64,
}

/// The runs that hold nothing newer than a SeqNo. Each run comes from one memtable, so that others hold
/// nothing older.
fn runs_up_to(keyspace: &KeyspaceVersion, seq: SeqNo) -> &[Arc<Sstable>] {
    let newer = keyspace.runs.iter().take_while(|run| run.summary().contents.largest_seq > seq);
    &keyspace.runs[newer.count()..]
}

/// The entries of a load as changes to a tree that has none.
struct Loaded<'a, I, K, V, E> {
    entries: I,
    here: Option<(K, V)>,
    /// How many came.
    number: u64,
    /// What they ended with early.
    failed: Option<E>,
    db: &'a Db,
    keyspace: KeyspaceId,
    give_up: &'a dyn Fn() -> Result<()>,
    /// The blob of the entry here, if its value is large.
    blob: Option<[u8; POINTER_BYTES]>,
    /// All of them.
    blobs: TreeBlobs,
}

impl<I, K, V, E> Changes for Loaded<'_, I, K, V, E>
where
    I: Iterator<Item = Result<(K, V), E>>,
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    #[inline]
    fn here(&self) -> Option<(&[u8], Option<&[u8]>)> {
        let (key, value) = self.here.as_ref()?;
        let value = self.blob.as_ref().map_or(value.as_ref(), |pointer| pointer);
        Some((key.as_ref(), Some(value)))
    }

    fn is_blob(&self) -> bool {
        self.blob.is_some()
    }

    fn advance(&mut self) -> Result<()> {
        if self.number.is_multiple_of(ENTRIES_PER_LOOK) {
            (self.give_up)()?;
        }
        let before = self.here.take();
        self.blob = None;
        match self.entries.next() {
            None => return Ok(()),
            Some(Ok(entry)) => self.here = Some(entry),
            Some(Err(failed)) => {
                self.failed = Some(failed);
                return Err(Error::Closed); // not told: what it failed with is
            }
        }
        self.number += 1;
        let Some((key, value)) = &self.here else {
            return Ok(());
        };
        let (key, value) = (key.as_ref(), value.as_ref());
        if key.len() > self.db.config.max_key_size {
            return Err(self.bad(key, &Error::KeyTooLarge));
        }
        if value.len() as u64 > MAX_VALUE_BYTES {
            let len = value.len() as u64;
            return Err(self.bad(key, &Error::ValueTooLarge { len, max: MAX_VALUE_BYTES }));
        }
        match before {
            Some((before, _)) if before.as_ref() >= key => {
                let why = format!("not greater than the one before it, {}", shown(before.as_ref()));
                return Err(self.bad(key, &why));
            }
            _ => {}
        }
        if value.len() > self.db.config.blob_threshold {
            crate::sync::sometimes("bulk: loads a large value");
            let blob = self.db.write_blob(self.keyspace, &mut &*value)?;
            self.db.metrics.blob_bytes.add(value.len() as u64);
            self.blob = Some(blob.pointer.encode());
            self.blobs.insert(key.to_vec(), blob);
        }
        Ok(())
    }
}

impl<I, K, V, E> Loaded<'_, I, K, V, E> {
    #[cold]
    fn bad(&self, key: &[u8], why: &dyn ToString) -> Error {
        Error::BadEntry { number: self.number, key: shown(key), why: why.to_string() }
    }
}

/// A key as it goes into an error.
fn shown(key: &[u8]) -> String {
    let mut text = format!("\"{}\"", key[..key.len().min(KEY_BYTES_SHOWN)].escape_ascii());
    if key.len() > KEY_BYTES_SHOWN {
        let _ = write!(text, ".. of {} bytes", key.len());
    }
    text
}
