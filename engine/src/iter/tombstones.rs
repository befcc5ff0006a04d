//! The range tombstones of one keyspace in one place, cut into fragments that do not overlap,
//! so that a lookup is one binary search.

use crate::types::SeqNo;
use std::{collections::BTreeSet, ops::Bound};

/// One range delete: no key of `start <= key < end` (no upper end if `None`) that is older than
/// `seq` has a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RangeTombstone {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) seq: SeqNo,
}

/// Fragments in key order. Neighbours may touch, never overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeTombstones {
    fragments: Vec<Fragment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fragment {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    /// Of every range delete that covers the fragment, descending, never empty.
    seqs: Vec<SeqNo>,
}

impl RangeTombstones {
    /// Cuts overlapping range deletes into fragments. Empty ranges vanish.
    pub(crate) fn new(tombstones: &[RangeTombstone]) -> RangeTombstones {
        let ranges: Vec<&RangeTombstone> =
            tombstones.iter().filter(|t| t.end.as_ref().is_none_or(|end| t.start < *end)).collect();
        // The places where something begins or ends.
        let cuts: BTreeSet<&[u8]> = ranges
            .iter()
            .flat_map(|t| [Some(t.start.as_slice()), t.end.as_deref()])
            .flatten()
            .collect();
        let cuts: Vec<&[u8]> = cuts.into_iter().collect();
        let mut starting: Vec<&RangeTombstone> = ranges;
        starting.sort_by(|a, b| b.start.cmp(&a.start)); // taken from the back
        let mut open: Vec<&RangeTombstone> = vec![];
        let mut fragments: Vec<Fragment> = vec![];
        for (i, cut) in cuts.iter().enumerate() {
            open.retain(|t| t.end.as_deref().is_none_or(|end| end > *cut));
            while let Some(t) = starting.pop_if(|t| t.start.as_slice() <= *cut) {
                open.push(t);
            }
            if open.is_empty() {
                continue;
            }
            let mut seqs: Vec<SeqNo> = open.iter().map(|t| t.seq).collect();
            seqs.sort_unstable_by(|a, b| b.cmp(a));
            seqs.dedup();
            fragments.push(Fragment {
                start: cut.to_vec(),
                end: cuts.get(i + 1).map(|end| end.to_vec()),
                seqs,
            });
        }
        RangeTombstones { fragments }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    /// The newest range delete not above `visible` that covers `key`.
    pub(crate) fn covering(&self, key: &[u8], visible: SeqNo) -> Option<SeqNo> {
        let behind = self.fragments.partition_point(|f| f.start.as_slice() <= key);
        let fragment = &self.fragments[behind.checked_sub(1)?];
        if fragment.end.as_deref().is_some_and(|end| end <= key) {
            return None;
        }
        fragment.seqs.iter().copied().find(|seq| *seq <= visible)
    }

    /// Whether range deletes newer than `than`, and not above `visible`, cover every key from `first` to
    /// `last`.
    pub(crate) fn cover(
        &self,
        first: &[u8],
        last: Bound<&[u8]>,
        than: SeqNo,
        visible: SeqNo,
    ) -> bool {
        let behind = self.fragments.partition_point(|f| f.start.as_slice() <= first);
        let Some(at) = behind.checked_sub(1) else {
            return false;
        };
        // Where the next fragment must begin, for no key to be left out.
        let mut to = first;
        for fragment in &self.fragments[at..] {
            let newest = fragment.seqs.iter().find(|seq| **seq <= visible);
            if fragment.start.as_slice() > to || newest.is_none_or(|seq| *seq <= than) {
                return false;
            }
            match fragment.end.as_deref() {
                None => return true,
                Some(end) if end <= first => return false,
                Some(end) => to = end,
            }
            let all = match last {
                Bound::Included(key) => key < to,
                Bound::Excluded(end) => end <= to,
                Bound::Unbounded => false,
            };
            if all {
                return true;
            }
        }
        false
    }

    /// What of them lies at or behind `from`.
    pub(crate) fn clipped(&self, from: &[u8]) -> RangeTombstones {
        let behind = |f: &&Fragment| f.end.as_deref().is_none_or(|end| end > from);
        let clip =
            |f: &Fragment| Fragment { start: f.start.as_slice().max(from).to_vec(), ..f.clone() };
        RangeTombstones { fragments: self.fragments.iter().filter(behind).map(clip).collect() }
    }

    /// The fragments as range deletes again, each with its newest SeqNo only: what a file
    /// carries, which no snapshot reads at an older SeqNo.
    pub(crate) fn newest(&self) -> impl Iterator<Item = RangeTombstone> + '_ {
        self.fragments.iter().map(|f| RangeTombstone {
            start: f.start.clone(),
            end: f.end.clone(),
            seq: f.seqs[0],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(start: u8, end: Option<u8>, seq: u64) -> RangeTombstone {
        RangeTombstone { start: vec![start], end: end.map(|e| vec![e]), seq: SeqNo(seq) }
    }

    /// Every set of up to three ranges over a small key space, against the definition.
    #[test]
    fn fragments_cover_exactly_what_the_ranges_cover() {
        let ranges: Vec<(u8, Option<u8>)> = (0..5u8)
            .flat_map(|s| (0..6u8).map(move |e| (s, if e == 5 { None } else { Some(e) })))
            .collect();
        for a in &ranges {
            for b in &ranges {
                for c in ranges.iter().step_by(7) {
                    let all =
                        [tombstone(a.0, a.1, 3), tombstone(b.0, b.1, 9), tombstone(c.0, c.1, 5)];
                    let list = RangeTombstones::new(&all);
                    for key in 0..6u8 {
                        for visible in [0, 3, 4, 8, 9] {
                            let expected = all
                                .iter()
                                .filter(|t| t.seq.0 <= visible)
                                .filter(|t| t.start <= vec![key])
                                .filter(|t| t.end.as_ref().is_none_or(|e| vec![key] < *e))
                                .map(|t| t.seq)
                                .max();
                            assert_eq!(
                                list.covering(&[key], SeqNo(visible)),
                                expected,
                                "{all:?} {key}"
                            );
                        }
                    }
                    for (first, last) in (0..6u8).flat_map(|f| (f..6).map(move |l| (f, l))) {
                        for (than, visible) in [(0, 9), (3, 9), (4, 5), (5, 9), (9, 9)] {
                            let (than, visible) = (SeqNo(than), SeqNo(visible));
                            // Between these keys lies nothing where a range could end.
                            let each = (first..=last).all(|key| {
                                list.covering(&[key], visible).is_some_and(|s| s > than)
                            });
                            let (low, high) = ([first], [last]);
                            let found = list.cover(&low, Bound::Included(&high), than, visible);
                            assert_eq!(found, each, "{all:?} {first}..={last}");
                        }
                    }
                    let again = RangeTombstones::new(&list.newest().collect::<Vec<_>>());
                    for key in 0..6u8 {
                        let newest = list.covering(&[key], SeqNo::MAX);
                        assert_eq!(again.covering(&[key], SeqNo::MAX), newest);
                    }
                }
            }
        }
    }
}
