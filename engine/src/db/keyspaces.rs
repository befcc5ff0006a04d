//! Creating and dropping keyspaces: edits of the manifest.

use super::{
    Db,
    compact::{Leaving, page_runs},
    read::check_keyspace,
};
use crate::{
    config::{Compression, StorageKind},
    error::{Error, Result},
    format::{
        manifest::{Change, KeyspaceMeta, PageChange, State},
        pages::PageSet,
    },
    types::{KeyspaceId, SeqNo},
    version::{KeyspaceVersion, manifest::Manifest},
};
use std::sync::Arc;

/// Longest name of a keyspace, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Whether there were ever other keyspaces: ids are given one after the other, and never again.
fn has_dropped(state: &State) -> bool {
    (state.keyspaces.len() as u64) < u64::from(state.next_keyspace.0)
}

impl Db {
    /// Makes an edit durable. On a full disk it fails, and lets go of log, so that there may be space the next time.
    fn append(&self, manifest: &mut Manifest, changes: &[Change]) -> Result<()> {
        manifest.append(changes).inspect_err(|error| self.wal.make_space_if_full(error))
    }

    /// The keyspace with this name, created if there is none.
    pub(crate) fn open_keyspace(
        &self,
        name: &str,
        compression: Option<Compression>,
        storage_kind: Option<StorageKind>,
    ) -> Result<KeyspaceId> {
        self.check_open()?;
        if let Some(found) = self.versions.load().keyspace_named(name) {
            return Ok(found.id);
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let why = format!("{} bytes is not between 1 and {NAME_BYTES_MAX}", name.len());
            return Err(Error::InvalidArgument { what: "keyspace name", why });
        }
        let mut manifest = self.manifest.lock();
        // Under the lock: another call may have been faster.
        if let Some(found) = self.versions.load().keyspace_named(name) {
            crate::sync::sometimes("keyspaces: another call created it first");
            return Ok(found.id);
        }
        let id = manifest.state().next_keyspace;
        let created_micros = self.env.clock().wall().as_micros() as u64;
        let storage_kind = storage_kind.unwrap_or(self.config.storage_kind);
        let meta =
            KeyspaceMeta { id, name: name.into(), compression, storage_kind, created_micros };
        // Whatever is known of an earlier one with this name is not of this one.
        let created = SeqNo(self.sequencer.lock().next_seq.0 - 1);
        let created = has_dropped(manifest.state()).then_some(created);
        let mut changes = vec![Change::AddKeyspace(meta), self.next_file()];
        changes.extend(created.map(|seq| Change::Created(id, seq)));
        self.append(&mut manifest, &changes)?;
        self.wal.set_durable_edit(manifest.number());
        if let Some(seq) = created {
            crate::sync::sometimes("keyspaces: one is created after one was dropped");
            self.loads.created(id, seq);
        }
        let (runs, tree, merging) = (vec![], None, None);
        let name = name.into();
        let reads = Arc::default();
        let keyspace =
            KeyspaceVersion { id, name, compression, storage_kind, runs, tree, merging, reads };
        self.versions.install(|version| version.with_keyspace(keyspace));
        Ok(id)
    }

    /// How what is written to a keyspace comes into its tree.
    pub(crate) fn storage_kind(&self, id: KeyspaceId) -> Result<StorageKind> {
        self.check_open()?;
        let version = self.versions.load();
        check_keyspace(&version, id)?;
        Ok(version.keyspace(id).map_or_else(StorageKind::default, |k| k.storage_kind))
    }

    /// Changes that, durably. What is there follows in the background.
    pub(crate) fn set_storage_kind(&self, id: KeyspaceId, kind: StorageKind) -> Result<()> {
        self.check_open()?;
        let mut manifest = self.manifest.lock();
        // An edit that failed may be durable all the same, and have made it another one.
        self.poison.check()?;
        if self.storage_kind(id)? == kind {
            return Ok(());
        }
        self.append(&mut manifest, &[Change::StorageKind(id, kind), self.next_file()])?;
        self.wal.set_durable_edit(manifest.number());
        crate::sync::sometimes("keyspaces: one changes its kind");
        self.versions.install(|version| version.with_storage_kind(id, kind));
        drop(manifest);
        self.background.wake_compact();
        Ok(())
    }

    /// Removes a keyspace with all that it holds.
    pub(crate) fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.check_open()?;
        let version = self.versions.load();
        let before = version.keyspace_named(name).filter(|live| live.id != KeyspaceId::DEFAULT);
        let leaving = Leaving::of(before.and_then(|live| live.tree.as_ref()))?;
        let mut manifest = self.manifest.lock();
        let version = self.versions.load();
        let Some(keyspace) = version.keyspace_named(name).cloned() else {
            return Err(Error::KeyspaceNotFound { name: name.into() });
        };
        if keyspace.id == KeyspaceId::DEFAULT {
            let why = "the default keyspace cannot be dropped".into();
            return Err(Error::InvalidArgument { what: "keyspace", why });
        }
        // Commits made before must not be lost where the drop is not: they may have saved elsewhere
        // what the keyspace held.
        let committed = self.visible();
        self.sync()?;
        let mut changes = vec![Change::DropKeyspace(keyspace.id), self.next_file()];
        changes.push(Change::Committed(committed));
        let mut freed = PageSet::default();
        if let Some(tree) = &keyspace.tree {
            crate::sync::sometimes("keyspaces: drops one that has a tree");
            freed = page_runs(&leaving.now(Some(tree))?);
            changes.push(Change::Pages(PageChange {
                end: manifest.state().trees.end,
                generation: manifest.state().trees.generation,
                taken: PageSet::default(),
                freed: freed.clone(),
            }));
        }
        self.append(&mut manifest, &changes)?;
        self.wal.set_durable_edit(manifest.number());
        crate::sync::sometimes("keyspaces: one is dropped");
        // It has no SeqNo: a commit is sequenced before, or finds that it is gone.
        let sequencer = self.sequencer.lock();
        self.versions.install(|version| version.without_keyspace(keyspace.id));
        self.transactions.loads.add(keyspace.id);
        drop(sequencer);
        if let Some(tree) = &keyspace.tree {
            // Under the lock: trees retire in the order of their edits.
            self.background.add_retired(tree, freed);
        }
        drop(manifest);
        self.background.add_obsolete(keyspace.runs.iter().cloned());
        self.background.wake_all();
        self.wal.wake_followers();
        Ok(())
    }
}
