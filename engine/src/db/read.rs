//! Point reads: the one list of places to look, newest first.

use super::Db;
use crate::{
    btree::{self, Clue},
    error::{Error, Result},
    format::blob::BlobPointer,
    sstable::Found,
    types::{KeyspaceId, Kind, SeqNo},
    version::{Tree, Version},
};

/// How many lookups are under way at once: as many as the CPU has requests for memory open, about.
const TOGETHER: usize = 16;

/// A value where it lies.
pub(crate) enum Value<'a> {
    /// In a memtable of the Version.
    Memtable(&'a [u8]),
    /// In a block of an sstable, which it keeps alive.
    Block(Found),
    /// In a node of a tree of the Version.
    Node(btree::Found<'a>),
    /// In a file of its own, which the Version holds.
    Blob(BlobPointer),
}

impl Value<'_> {
    /// The value, copied out.
    pub(crate) fn copied(&self, db: &Db) -> Result<Vec<u8>> {
        match self {
            Value::Blob(pointer) => db.read_blob(*pointer),
            other => other.with(db, <[u8]>::to_vec),
        }
    }

    /// Hands the value to `with`.
    #[inline]
    pub(crate) fn with<R>(&self, db: &Db, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        Ok(match self {
            Value::Memtable(bytes) => with(bytes),
            Value::Block(found) => with(found.value()),
            Value::Node(found) => with(found.value()),
            Value::Blob(pointer) => with(&db.read_blob(*pointer)?),
        })
    }
}

impl Db {
    /// The value of a key in the current state.
    #[inline]
    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.check_open()?;
        // The Version before the SeqNo: what the SeqNo shows is in the Version, or in files that
        // replaced it.
        let version = self.pin();
        crate::sync::point("read.version");
        let visible = self.visible();
        match find(&version, visible, keyspace, key)? {
            Some(value) => value.copied(self).map(Some),
            None => Ok(None),
        }
    }

    /// Whether a key has a value.
    pub(crate) fn has_value(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<bool> {
        self.check_open()?;
        let version = self.pin(); // before the SeqNo, as above
        let visible = self.visible();
        Ok(find(&version, visible, keyspace, key)?.is_some())
    }

    /// Hands the values of several keys in the current state to `with`, with their places among `keys`.
    pub(crate) fn get_batch_with<K: AsRef<[u8]>>(
        &self,
        keyspace: KeyspaceId,
        keys: &[K],
        with: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.check_open()?;
        let version = self.pin(); // before the SeqNo, as above
        let visible = self.visible();
        check_keyspace(&version, keyspace)?; // without keys too
        self.find_each((&version, visible), keyspace, keys, with)
    }

    /// A large value as a whole.
    #[cold]
    pub(crate) fn read_blob(&self, pointer: BlobPointer) -> Result<Vec<u8>> {
        let mut value = vec![];
        self.blobs.read_whole(pointer, &mut value)?;
        Ok(value)
    }

    /// Looks keys up one after the other and hands what is found to `with`. Of several keys at once what the
    /// lookups will need is brought near before it is waited for.
    pub(crate) fn find_each<K: AsRef<[u8]>>(
        &self,
        (version, visible): (&Version, SeqNo),
        keyspace: KeyspaceId,
        keys: &[K],
        mut with: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        let tree = version.keyspace(keyspace).and_then(|live| live.tree.as_deref());
        let lone = version.lone_tree(keyspace);
        for (group, keys) in keys.chunks(TOGETHER).enumerate() {
            self.check_open()?;
            let mut sought = [Sought::default(); TOGETHER];
            let sought = &mut sought[..keys.len()];
            for (sought, key) in sought.iter_mut().zip(keys) {
                let key = key.as_ref();
                *sought = Sought { key, hash: keyspace.hash(key), clue: Clue::None };
                match lone {
                    Some(tree) => tree.prefetch_hint(sought.hash),
                    None => version.prefetch(keyspace, sought.hash),
                }
            }
            if let Some(tree) = tree {
                sought.iter_mut().for_each(|sought| sought.clue = tree.find_near(sought.hash));
            }
            for (i, Sought { key, hash, clue }) in sought.iter().enumerate() {
                let found = match lone {
                    Some(tree) => tree.get_at(*clue, *hash, key)?.map(of_tree).transpose()?,
                    None => find_sought(version, visible, keyspace, *hash, key, |tree| {
                        tree.get_at(*clue, *hash, key)
                    })?,
                };
                let at = group * TOGETHER + i;
                match found {
                    Some(value) => value.with(self, |bytes| with(at, Some(bytes)))?,
                    None => with(at, None),
                }
            }
        }
        Ok(())
    }
}

/// A key that is looked for together with others.
#[derive(Clone, Copy, Default)]
struct Sought<'k> {
    key: &'k [u8],
    hash: u64,
    /// Where it may be in the tree.
    clue: Clue,
}

/// Refuses a keyspace that is not in the Version: it was dropped.
#[inline]
pub(crate) fn check_keyspace(version: &Version, keyspace: KeyspaceId) -> Result<()> {
    if keyspace == KeyspaceId::DEFAULT || version.keyspace(keyspace).is_some() {
        return Ok(());
    }
    Err(Error::KeyspaceNotFound { name: format!("#{keyspace}, dropped") })
}

/// The value of `key` at `visible`, looked for in every place of the Version, newest first. The first
/// entry found is the newest; it has no value if it deletes, or if a newer range delete covers it.
pub(crate) fn find<'v>(
    version: &'v Version,
    visible: SeqNo,
    keyspace: KeyspaceId,
    key: &[u8],
) -> Result<Option<Value<'v>>> {
    let hash = keyspace.hash(key);
    version.prefetch(keyspace, hash);
    find_sought(version, visible, keyspace, hash, key, |tree| tree.get(hash, key))
}

/// Whether what the tree has of a key is the newest entry of it.
pub(crate) fn is_of_tree(
    version: &Version,
    visible: SeqNo,
    keyspace: KeyspaceId,
    key: &[u8],
) -> Result<bool> {
    let mut asked = false;
    let in_tree = |_: &Tree| {
        asked = true;
        Ok(None)
    };
    find_sought(version, visible, keyspace, keyspace.hash(key), key, in_tree)?;
    Ok(asked)
}

/// [`find`], of a key whose hash is known, and with `in_tree` to look for it in the tree.
#[inline]
fn find_sought<'v>(
    version: &'v Version,
    visible: SeqNo,
    keyspace: KeyspaceId,
    hash: u64,
    key: &[u8],
    in_tree: impl FnOnce(&'v Tree) -> Result<Option<btree::Found<'v>>>,
) -> Result<Option<Value<'v>>> {
    check_keyspace(version, keyspace)?;
    let mut covered = None;
    for memtable in version.memtables() {
        covered = covered.max(memtable.covering(keyspace, key, visible));
        if let Some((seq, kind, value)) = memtable.get(keyspace, hash, key, visible) {
            return match kind {
                Kind::Put if Some(seq) > covered => Ok(Some(Value::Memtable(value))),
                Kind::Blob if Some(seq) > covered => pointer(value).map(Some),
                _ => Ok(None),
            };
        }
    }
    let Some(live) = version.keyspace(keyspace) else {
        return Ok(None);
    };
    let runs = live.runs_for(key);
    if !runs.is_empty() {
        live.reads.count_get(hash);
    }
    for run in runs {
        let bounds = &run.summary().contents.bounds;
        if !bounds.as_ref().is_some_and(|bounds| bounds.contains(key)) {
            continue;
        }
        covered = covered.max(run.range_tombstones().covering(key, SeqNo::MAX));
        if let Some(found) = run.get(hash, key)? {
            return match found.kind {
                Kind::Put if Some(found.seq) > covered => Ok(Some(Value::Block(found))),
                Kind::Blob if Some(found.seq) > covered => pointer(found.value()).map(Some),
                _ => Ok(None),
            };
        }
    }
    match &live.tree {
        Some(tree) if covered.is_none() => in_tree(tree)?.map(of_tree).transpose(),
        _ => Ok(None),
    }
}

/// What was found in a tree.
#[inline]
fn of_tree(found: btree::Found<'_>) -> Result<Value<'_>> {
    if found.is_blob { pointer(found.value()) } else { Ok(Value::Node(found)) }
}

/// What an entry of kind Blob has for a value.
#[cold]
fn pointer<'v>(bytes: &[u8]) -> Result<Value<'v>> {
    pointer_of(bytes).map(Value::Blob)
}

/// The pointer that stands in the place of a value. Whoever decoded the entry has seen that it is one.
pub(crate) fn pointer_of(bytes: &[u8]) -> Result<BlobPointer> {
    BlobPointer::decode(bytes).ok_or_else(|| Error::InvalidArgument {
        what: "pointer to a blob",
        why: format!("it has {} bytes", bytes.len()),
    })
}
