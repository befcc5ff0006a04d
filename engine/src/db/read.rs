//! Point reads: the one list of places to look, newest first.

use super::Db;
use crate::{
    btree,
    error::{Error, Result},
    sstable::Found,
    types::{KeyspaceId, Kind, SeqNo},
    version::Version,
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
}

impl Value<'_> {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Value::Memtable(bytes) => bytes,
            Value::Block(found) => found.value(),
            Value::Node(found) => found.value(),
        }
    }
}

impl Db {
    /// Looks a key up in the current state and hands the value to `with`.
    #[inline]
    pub(crate) fn get_with<R>(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        with: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        self.check_open()?;
        // The Version before the SeqNo: what the SeqNo shows is in the Version, or in files that
        // replaced it.
        let version = self.pin();
        crate::sync::point("read.version");
        let visible = self.visible();
        Ok(find(&version, visible, keyspace, key)?.map(|value| with(value.bytes())))
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
        for (group, keys) in keys.chunks(TOGETHER).enumerate() {
            let (mut slices, mut hashes) = ([&[][..]; TOGETHER], [0; TOGETHER]);
            let (slices, hashes) = (&mut slices[..keys.len()], &mut hashes[..keys.len()]);
            for ((slice, hash), key) in slices.iter_mut().zip(&mut *hashes).zip(keys) {
                *slice = key.as_ref();
                *hash = keyspace.hash(slice);
                for memtable in version.memtables().filter(|memtable| !memtable.is_empty()) {
                    memtable.prefetch(*hash);
                }
                if let Some(tree) = tree {
                    tree.prefetch_hint(*hash);
                }
            }
            if let Some(tree) = tree {
                hashes.iter().for_each(|hash| tree.prefetch(*hash));
            }
            for (i, (key, hash)) in slices.iter().zip(&*hashes).enumerate() {
                self.check_open()?;
                let found = find_hashed(version, visible, keyspace, *hash, key)?;
                with(group * TOGETHER + i, found.as_ref().map(Value::bytes));
            }
        }
        Ok(())
    }
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
    find_hashed(version, visible, keyspace, keyspace.hash(key), key)
}

/// [`find`], of a key whose hash is known.
#[inline]
fn find_hashed<'v>(
    version: &'v Version,
    visible: SeqNo,
    keyspace: KeyspaceId,
    hash: u64,
    key: &[u8],
) -> Result<Option<Value<'v>>> {
    check_keyspace(version, keyspace)?;
    let mut covered = None;
    for memtable in version.memtables() {
        covered = covered.max(memtable.covering(keyspace, key, visible));
        if let Some((seq, kind, value)) = memtable.get(keyspace, hash, key, visible) {
            let lives = kind == Kind::Put && Some(seq) > covered;
            return Ok(lives.then_some(Value::Memtable(value)));
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
            let lives = found.kind == Kind::Put && Some(found.seq) > covered;
            return Ok(lives.then_some(Value::Block(found)));
        }
    }
    match &live.tree {
        Some(tree) if covered.is_none() => Ok(tree.get(hash, key)?.map(Value::Node)),
        _ => Ok(None),
    }
}
