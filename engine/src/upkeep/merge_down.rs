//! Runs as changes to the tree below them.

use crate::{
    blob::{Blob, Blobs},
    btree::{Changes, Cut},
    error::{Error, Result},
    format::blob::BlobPointer,
    iter::{merge::Merge, tombstones::RangeTombstones},
    types::Kind,
};
use std::{collections::BTreeMap, sync::Arc};

/// How many entries are merged between two looks at whether to give up.
const ENTRIES_PER_LOOK: u32 = 256;

/// What a merge of runs yields, entry by entry. What a range delete in the runs covers is left out: the
/// same range delete is a [`Cut`].
pub(crate) struct RunChanges<'a> {
    merge: Merge,
    here: Option<Here>,
    /// Whether what is being written will not be wanted any more: the database is being closed.
    given_up: &'a dyn Fn() -> bool,
    merged: u32,
}

struct Here {
    key: Vec<u8>,
    value: Vec<u8>,
    kind: Kind,
}

impl<'a> RunChanges<'a> {
    /// Stands on the first change.
    pub(crate) fn new(merge: Merge, given_up: &'a dyn Fn() -> bool) -> Result<RunChanges<'a>> {
        let here = Some(Here { key: vec![], value: vec![], kind: Kind::Delete });
        let mut changes = RunChanges { merge, here, given_up, merged: 0 };
        changes.advance()?;
        Ok(changes)
    }
}

impl Changes for RunChanges<'_> {
    fn here(&self) -> Option<(&[u8], Option<&[u8]>)> {
        let here = self.here.as_ref()?;
        Some((&here.key, here.kind.has_value().then_some(here.value.as_slice())))
    }

    fn is_blob(&self) -> bool {
        self.here.as_ref().is_some_and(|here| here.kind == Kind::Blob)
    }

    fn advance(&mut self) -> Result<()> {
        let Some(mut here) = self.here.take() else {
            return Ok(());
        };
        while let Some(merged) = self.merge.next_any()? {
            self.merged = self.merged.wrapping_add(1);
            if self.merged.is_multiple_of(ENTRIES_PER_LOOK) && (self.given_up)() {
                crate::sync::sometimes("merge: given up");
                return Err(Error::Closed);
            }
            if merged.covered {
                continue;
            }
            here.key.clear();
            here.key.extend_from_slice(merged.key);
            here.value.clear();
            here.value.extend_from_slice(merged.value);
            here.kind = merged.kind;
            self.here = Some(here);
            break;
        }
        Ok(())
    }
}

/// Changes to a tree, with those taken down that change which blobs it has.
pub(crate) struct BlobChanges<'a, C> {
    changes: C,
    old: &'a BTreeMap<Vec<u8>, Arc<Blob>>,
    /// Of the changes taken over: keys whose entries do not point to the same blob any more, and what they
    /// point to.
    taken: Vec<(Vec<u8>, Option<BlobPointer>)>,
}

impl<'a, C: Changes> BlobChanges<'a, C> {
    pub(crate) fn new(changes: C, old: &'a BTreeMap<Vec<u8>, Arc<Blob>>) -> BlobChanges<'a, C> {
        BlobChanges { changes, old, taken: vec![] }
    }

    /// The blobs of the tree after the changes that were taken over, and after these cuts, which are older.
    pub(crate) fn applied(
        &self,
        cuts: &[Cut],
        blobs: &Blobs,
    ) -> Result<BTreeMap<Vec<u8>, Arc<Blob>>> {
        let mut all = self.old.clone();
        for cut in cuts.iter().filter(|_| !self.old.is_empty()) {
            let ends = |key: &[u8]| cut.end.as_deref().is_some_and(|end| end <= key);
            let cut_off = self.old.range(cut.start.clone()..).take_while(|(key, _)| !ends(key));
            cut_off.for_each(|(key, _)| _ = all.remove(key));
        }
        for (key, pointer) in &self.taken {
            match pointer {
                Some(pointer) => _ = all.insert(key.clone(), blobs.hold(*pointer)?),
                None => _ = all.remove(key),
            }
        }
        Ok(all)
    }
}

impl<C: Changes> Changes for BlobChanges<'_, C> {
    fn here(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.changes.here()
    }

    fn is_blob(&self) -> bool {
        self.changes.is_blob()
    }

    fn advance(&mut self) -> Result<()> {
        let is_blob = self.changes.is_blob();
        if let Some((key, value)) = self.changes.here()
            && (is_blob || (!self.old.is_empty() && self.old.contains_key(key)))
        {
            let pointer = value.filter(|_| is_blob).and_then(BlobPointer::decode);
            self.taken.push((key.to_vec(), pointer));
        }
        self.changes.advance()
    }
}

/// What the range deletes of runs cut out of the tree, which is older than all of them.
pub(crate) fn cuts<'t>(tombstones: impl Iterator<Item = &'t RangeTombstones>) -> Vec<Cut> {
    let all: Vec<_> = tombstones.flat_map(RangeTombstones::newest).collect();
    let mut cuts: Vec<Cut> = vec![];
    for range in RangeTombstones::new(&all).newest() {
        match cuts.last_mut() {
            Some(last) if last.end.as_ref() == Some(&range.start) => last.end = range.end,
            _ => cuts.push(Cut { start: range.start, end: range.end }),
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{iter::tombstones::RangeTombstone, types::SeqNo};

    #[test]
    fn overlapping_and_touching_range_deletes_are_one_cut() {
        let list = |ranges: &[(&str, Option<&str>, u64)]| {
            let range = |(start, end, seq): &(&str, Option<&str>, u64)| RangeTombstone {
                start: start.as_bytes().to_vec(),
                end: end.map(|end| end.as_bytes().to_vec()),
                seq: SeqNo(*seq),
            };
            RangeTombstones::new(&ranges.iter().map(range).collect::<Vec<_>>())
        };
        let newer = list(&[("b", Some("d"), 9), ("m", Some("n"), 8), ("x", None, 7)]);
        let older = list(&[("c", Some("e"), 3), ("e", Some("f"), 2), ("y", Some("z"), 1)]);
        let cut = |start: &str, end: Option<&str>| Cut {
            start: start.as_bytes().to_vec(),
            end: end.map(|end| end.as_bytes().to_vec()),
        };
        let expected = [cut("b", Some("f")), cut("m", Some("n")), cut("x", None)];
        assert_eq!(cuts([&newer, &older].into_iter()), expected);
    }
}
