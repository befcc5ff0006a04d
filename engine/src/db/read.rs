//! Point reads: the one list of places to look, newest first.

use super::Db;
use crate::{
    btree,
    error::{Error, Result},
    sstable::Found,
    types::{KeyspaceId, Kind, SeqNo},
    version::Version,
};

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
    check_keyspace(version, keyspace)?;
    let hash = keyspace.hash(key);
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
    for run in live.runs_for(key) {
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
        Some(tree) if covered.is_none() => {
            Ok(tree.get(hash, key)?.map(Value::Node))
        }
        _ => Ok(None),
    }
}
