//! The manifest: a checksummed log of edits, the only root pointer of a database.
//! Format: `docs/formats/manifest.md`.
//!
//! Invariants:
//! - a file named `manifest-N` was complete and durable before it got that name; the highest N is
//!   the manifest, and nothing else is
//! - an edit is durable before [`Manifest::append`] returns, and names nothing that is not
//! - the file was written and synced as long as it is, so an edit needs no space; a full one is
//!   rolled into the spare file, which always exists
//! - after a failed write or sync of an edit nothing is written any more: [`Poison`]

use crate::{
    env::{Disk, Env, NamedFile, Names, OpenMode, Poison},
    error::{Error, Result},
    format::{
        header::{FileHeader, FileKind, HeaderError},
        manifest::{Change, FoundEdit, State, encode_edit},
        record::BLOCK_BYTES,
    },
    types::{EditNo, FileId, KeyspaceId},
};
use std::{path::Path, sync::Arc};

const PREFIX: &str = "manifest-";
const SPARE: &str = "manifest-spare";
/// Length of a manifest file, unless its first edit alone takes half of it.
const FILE_BYTES: u64 = 256 << 10;

pub(crate) struct Manifest {
    env: Arc<dyn Env>,
    names: Arc<Names>,
    uuid: [u8; 16],
    poison: Arc<Poison>,
    state: State,
    /// Of the last edit.
    number: EditNo,
    /// Of the file: the N of its name.
    generation: u64,
    /// What `append` writes to. `None` until the first roll.
    current: Option<Current>,
}

struct Current {
    file: NamedFile,
    identity: u64,
    /// Where the next edit goes.
    at: u64,
    len: u64,
}

/// Whether a file name is one of the manifest's.
pub(crate) fn generation_of(name: &str) -> Option<u64> {
    let named = |id: FileId| format!("{PREFIX}{:06}", id.0);
    FileId::in_name(name, PREFIX, "", named).map(|id| id.0)
}

/// Whether a file name belongs to the manifest, current or not.
pub(crate) fn is_manifest(name: &str) -> bool {
    name == SPARE || generation_of(name).is_some()
}

impl Manifest {
    /// A database that has no manifest yet.
    pub(crate) fn new(
        env: &Arc<dyn Env>,
        names: &Arc<Names>,
        uuid: [u8; 16],
        poison: &Arc<Poison>,
    ) -> Manifest {
        Manifest {
            env: Arc::clone(env),
            names: Arc::clone(names),
            uuid,
            poison: Arc::clone(poison),
            state: State::default(),
            number: EditNo(0),
            generation: 0,
            current: None,
        }
    }

    /// Reads the manifest of the highest generation. Nothing is written.
    pub(crate) fn read(
        env: &Arc<dyn Env>,
        names: &Arc<Names>,
        generation: u64,
        poison: &Arc<Poison>,
    ) -> Result<Manifest> {
        let path = names.dir().join(format!("{PREFIX}{generation:06}"));
        let file = NamedFile::open(env.disk(), path, OpenMode::Read)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let header = match FileHeader::decode(&bytes, FileKind::Manifest) {
            Ok(header) => header,
            Err(HeaderError::Corrupt(expected, found)) => {
                return Err(file.corruption(0, expected, found));
            }
            Err(HeaderError::Unsupported(what)) => {
                return Err(Error::Unsupported { file: file.path.to_path_buf(), what });
            }
        };
        if header.file_id != FileId(generation) {
            let found = format!("generation {}", header.file_id);
            return Err(file.corruption(0, format!("generation {generation}"), found));
        }
        let mut manifest = Manifest::new(env, names, header.uuid, poison);
        manifest.generation = generation;
        manifest.read_edits(&file, &bytes, header.identity)?;
        Ok(manifest)
    }

    fn read_edits(&mut self, file: &NamedFile, bytes: &[u8], identity: u64) -> Result<()> {
        let mut at = BLOCK_BYTES as usize;
        while let Some(edit) = bytes.get(at..).and_then(|b| FoundEdit::decode(b, identity)) {
            if self.number.0 != 0 && edit.number.0 != self.number.0 + 1 {
                let expected = format!("edit {}", self.number.0 + 1);
                return Err(file.corruption(at as u64, expected, format!("edit {}", edit.number)));
            }
            let changes = edit.changes().ok_or_else(|| Error::Unsupported {
                file: file.path.to_path_buf(),
                what: format!(
                    "edit {} holds a change that this version does not know",
                    edit.number
                ),
            })?;
            for change in &changes {
                let applied = self.state.apply(change);
                applied
                    .map_err(|why| file.corruption(at as u64, "an edit that can follow", why))?;
            }
            // Only a whole state adds this keyspace: a later edit, written to the place of the first,
            // would pass for a database without all that came before it.
            if !self.state.keyspaces.contains_key(&KeyspaceId::DEFAULT) {
                let found = format!("edit {} alone", edit.number);
                return Err(file.corruption(at as u64, "the whole state as the first edit", found));
            }
            self.number = edit.number;
            at += edit.bytes;
        }
        // Edits are made durable one by one, so only the last can be torn.
        let later = (at..bytes.len())
            .step_by(BLOCK_BYTES as usize)
            .find(|at| FoundEdit::decode(&bytes[*at..], identity).is_some());
        match later {
            Some(later) => Err(file.corruption(
                at as u64,
                format!("edit {}", self.number.0 + 1),
                format!("none, but a later one at offset {later}"),
            )),
            None if self.number == EditNo(0) => {
                Err(file.corruption(at as u64, "the first edit", "none"))
            }
            None => Ok(()),
        }
    }

    /// Makes a file of an older generation the spare, if there is none: a crash came between two
    /// renames. So a full disk does not keep the database from opening.
    pub(crate) fn adopt_spare(&self, names: &[String]) -> Result<()> {
        let older = names.iter().filter_map(|n| generation_of(n)).filter(|g| *g < self.generation);
        match older.max() {
            Some(older) if !names.iter().any(|name| name == SPARE) => {
                let old = self.dir().join(format!("{PREFIX}{older:06}"));
                crate::sync::sometimes("manifest: a crash came between two renames");
                let spare = self.dir().join(SPARE);
                let disk = self.env.disk();
                disk.rename(&old, &spare).map_err(|e| Error::io("rename", &old, e))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    fn dir(&self) -> &Path {
        self.names.dir()
    }

    pub(crate) fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The number of the last edit.
    pub(crate) fn number(&self) -> EditNo {
        self.number
    }

    /// The file that edits go to.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes one edit durable. On an error other than poison nothing happened. The mark of a clean end is
    /// the last edit of a process.
    pub(crate) fn append(&mut self, changes: &[Change]) -> Result<()> {
        self.poison.check()?;
        if self.state.clean {
            crate::sync::sometimes("manifest: an edit comes after the mark of a clean end");
            return Err(Error::Closed);
        }
        let mut state = self.state.clone();
        for change in changes {
            state.apply(change).map_err(|why| Error::InvalidArgument { what: "edit", why })?;
        }
        let number = EditNo(self.number.0 + 1);
        let (poison, env, names) = (self.poison.clone(), self.env.clone(), self.names.clone());
        let unfinished = poison.unless_finished(&*env, "write the manifest in", names.dir());
        let appended = self.append_checked(changes, number, state);
        unfinished.finish();
        appended
    }

    fn append_checked(&mut self, changes: &[Change], number: EditNo, state: State) -> Result<()> {
        match &mut self.current {
            Some(current) => {
                let bytes = encoded(number, changes, current.identity)?;
                if current.at + bytes.len() as u64 > current.len {
                    crate::sync::sometimes("manifest: full, rolls over");
                    return self.roll(state);
                }
                let written = current.file.write_all_at(&bytes, current.at);
                let durable = written.and_then(|()| current.file.sync_data());
                durable.map_err(|error| self.poison.set(error))?;
                current.at += bytes.len() as u64;
            }
            None => return self.roll(state),
        }
        self.number = number;
        self.state = state;
        Ok(())
    }

    /// Writes `state` as the first edit of a new file, which becomes the manifest. Also makes the
    /// edit durable that led to the state.
    pub(crate) fn roll(&mut self, state: State) -> Result<()> {
        self.poison.check()?;
        let disk = self.env.disk();
        let number = EditNo(self.number.0 + 1);
        let generation = self.generation + 1;
        let identity = self.env.random("manifest.identity");
        let header = FileHeader {
            kind: FileKind::Manifest,
            uuid: self.uuid,
            file_id: FileId(generation),
            identity,
        };
        let mut bytes = header.encode().to_vec();
        bytes.resize(BLOCK_BYTES as usize, 0);
        bytes.extend(encoded(number, &state.snapshot(), identity)?);
        let at = bytes.len() as u64;
        let spare = self.dir().join(SPARE);
        let before = self.names.before();
        let wanted = FILE_BYTES.max(at * 2);
        let (file, len, _) = match self.spare_file(disk, &spare, wanted) {
            // On a full disk the spare that is there does, if only it holds the state.
            Err(Error::NoSpace { .. }) => self.spare_file(disk, &spare, at)?,
            other => other?,
        };
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        let path = self.dir().join(format!("{PREFIX}{generation:06}"));
        // A rename that fails may have happened, but not for want of space.
        disk.rename(&spare, &path).map_err(|e| match Error::io("rename", &spare, e) {
            full @ Error::NoSpace { .. } => full,
            error => self.poison.set(error),
        })?;
        // From here on the new file may be the manifest after a crash, or not.
        self.names.sync(before).map_err(|error| self.poison.set(error))?;
        let file = NamedFile { path: Arc::new(path), file: file.file };
        let old = std::mem::replace(&mut self.generation, generation);
        self.current = Some(Current { file, identity, at, len });
        self.number = number;
        self.state = state;
        self.keep_spare(old, FILE_BYTES.max(at * 2));
        Ok(())
    }

    /// The spare file, its length, which is at least `len`, all written, and whether it has grown.
    fn spare_file(&self, disk: &dyn Disk, path: &Path, len: u64) -> Result<(NamedFile, u64, bool)> {
        let file = match NamedFile::open(disk, path.to_path_buf(), OpenMode::Write) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                NamedFile::open(disk, path.to_path_buf(), OpenMode::CreateNew)?
            }
            other => other?,
        };
        let old_len = file.len()?;
        if old_len >= len {
            return Ok((file, old_len, false));
        }
        crate::sync::sometimes("manifest: the spare grows");
        file.allocate(0, len)?;
        let zeros = vec![0; (len - old_len) as usize];
        file.write_all_at(&zeros, old_len)?;
        Ok((file, len, true))
    }

    /// The file that is no longer the manifest becomes the spare, and is made as long as the next one
    /// will have to be. Not worth failing for: without one the next roll creates it.
    fn keep_spare(&self, old: u64, len: u64) {
        let disk = self.env.disk();
        let spare = self.dir().join(SPARE);
        let before = self.names.before();
        let renamed = match old {
            0 => Ok(()),
            old => {
                let old = self.dir().join(format!("{PREFIX}{old:06}"));
                disk.rename(&old, &spare).map_err(|e| Error::io("rename", &old, e))
            }
        };
        let kept = renamed.and_then(|()| self.spare_file(disk, &spare, len));
        let durable = kept.and_then(|(file, _, has_grown)| {
            if !has_grown {
                return Ok(()); // by its old name or its new one, it is there after a loss of power
            }
            file.sync_all()?;
            self.names.sync(before)
        });
        if let Err(error) = durable {
            crate::sync::sometimes("manifest: no spare is left");
            tracing::warn!(%error, "no spare manifest file");
        }
    }
}
/// An edit as it is written.
fn encoded(number: EditNo, changes: &[Change], identity: u64) -> Result<Vec<u8>> {
    encode_edit(number, changes, identity).ok_or_else(|| Error::InvalidArgument {
        what: "edit",
        why: format!("its {} changes have more than 4 GiB", changes.len()),
    })
}
