//! Sets of pages, as runs. Format: `docs/formats/manifest.md`.

use super::bytes::Decoder;
use crate::types::FileId;
use std::collections::BTreeMap;

/// What a manifest says of the file of the trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TreeFileMeta {
    pub(crate) file_id: FileId,
    /// As in the file's header.
    pub(crate) identity: u64,
    pub(crate) page_bytes: u32,
}

/// So many pages from `first` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) struct PageRun {
    pub(crate) first: u64,
    pub(crate) pages: u64,
}

impl PageRun {
    pub(crate) fn end(self) -> u64 {
        self.first + self.pages
    }
}

/// A set of pages. Neighbouring runs are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageSet {
    /// The first page of each run, and how many there are.
    runs: BTreeMap<u64, u64>,
}

impl PageSet {
    /// Adds pages, none of which is in the set. Says whether that was so.
    pub(crate) fn insert(&mut self, run: PageRun) -> bool {
        let PageRun { mut first, mut pages } = run;
        if pages == 0 || first.checked_add(pages).is_none() {
            return pages == 0;
        }
        if let Some((before, of)) = self.runs.range(..first).next_back() {
            let end = before + of;
            if end > first {
                return false;
            }
            if end == first {
                (first, pages) = (*before, pages + of);
            }
        }
        if let Some((behind, of)) = self.runs.range(run.first..).next() {
            if *behind < run.end() {
                return false;
            }
            if *behind == run.end() {
                let (behind, of) = (*behind, *of);
                self.runs.remove(&behind);
                pages += of;
            }
        }
        self.runs.insert(first, pages);
        true
    }

    /// Takes pages out, all of which are in the set. Says whether that was so.
    pub(crate) fn remove(&mut self, run: PageRun) -> bool {
        if run.pages == 0 {
            return true;
        }
        let Some((first, pages)) = self.runs.range(..=run.first).next_back() else {
            return false;
        };
        let (whole, end) =
            (PageRun { first: *first, pages: *pages }, run.first.checked_add(run.pages));
        if end.is_none_or(|end| end > whole.end()) {
            return false;
        }
        self.runs.remove(&whole.first);
        for (first, end) in [(whole.first, run.first), (run.end(), whole.end())] {
            if first < end {
                self.runs.insert(first, end - first);
            }
        }
        true
    }

    /// Takes the first run of so many pages out, and returns its first page.
    pub(crate) fn take(&mut self, pages: u64) -> Option<u64> {
        let (first, _) = self.runs.iter().find(|(_, of)| **of >= pages)?;
        let first = *first;
        self.remove(PageRun { first, pages });
        Some(first)
    }

    /// The pages that are in this set and not in the other.
    pub(crate) fn minus(&self, other: &PageSet) -> PageSet {
        let mut left = PageSet::default();
        for run in self.runs() {
            // One of the other may begin before this and reach into it.
            let before = other.runs.range(..=run.first).next_back();
            let from = before.map_or(run.first, |(first, _)| *first);
            let mut at = run.first;
            for (first, pages) in other.runs.range(from..run.end()) {
                if at < *first {
                    left.runs.insert(at, first - at);
                }
                at = at.max(first + pages);
            }
            if at < run.end() {
                left.runs.insert(at, run.end() - at);
            }
        }
        left
    }

    /// Whether the last run ends here.
    pub(crate) fn ends_at(&self, end: u64) -> bool {
        self.runs.last_key_value().is_some_and(|(first, pages)| first + pages == end)
    }

    /// Takes the last run out if it ends here.
    pub(crate) fn take_ending_at(&mut self, end: u64) -> Option<PageRun> {
        let last = self.runs.last_entry().filter(|last| last.key() + last.get() == end)?;
        let (first, pages) = last.remove_entry();
        Some(PageRun { first, pages })
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.runs.iter().map(|(first, pages)| PageRun { first: *first, pages: *pages })
    }

    /// How many pages.
    pub(crate) fn pages(&self) -> u64 {
        self.runs.values().sum()
    }
}

impl FromIterator<PageRun> for PageSet {
    /// Runs that overlap count once.
    fn from_iter<I: IntoIterator<Item = PageRun>>(runs: I) -> PageSet {
        let mut set = PageSet::default();
        for run in runs {
            let whole = set.insert(run);
            debug_assert!(whole, "{run:?} twice");
        }
        set
    }
}

/// Appends runs.
pub(crate) fn put_runs(out: &mut Vec<u8>, set: &PageSet) {
    out.extend_from_slice(&(set.runs.len() as u64).to_le_bytes());
    for run in set.runs() {
        out.extend_from_slice(&run.first.to_le_bytes());
        out.extend_from_slice(&run.pages.to_le_bytes());
    }
}

/// `None`: too few bytes, or runs that overlap or are empty.
pub(crate) fn decode_runs(d: &mut Decoder<'_>) -> Option<PageSet> {
    let mut set = PageSet::default();
    for _ in 0..d.u64()? {
        let run = PageRun { first: d.u64()?, pages: d.u64()? };
        (run.pages > 0 && set.insert(run)).then_some(())?;
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn agrees_with_a_set_of_single_pages() {
        let mut x = 5u64;
        let mut number = |below: u64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % below
        };
        let (mut set, mut model) = (PageSet::default(), BTreeSet::new());
        for _ in 0..20_000 {
            let run = PageRun { first: number(60), pages: number(6) };
            let all = run.first..run.end();
            match number(3) {
                0 => {
                    let fits = all.clone().all(|page| !model.contains(&page));
                    assert_eq!(set.insert(run), fits, "{run:?}");
                    model.extend(all.filter(|_| fits));
                }
                1 => {
                    let fits = all.clone().all(|page| model.contains(&page));
                    assert_eq!(set.remove(run), fits, "{run:?}");
                    all.filter(|_| fits).for_each(|page| assert!(model.remove(&page)));
                }
                _ if run.pages > 0 => {
                    let first = (0..70).find(|f| (*f..f + run.pages).all(|p| model.contains(&p)));
                    assert_eq!(set.take(run.pages), first);
                    let taken = first.into_iter().flat_map(|f| f..f + run.pages);
                    taken.for_each(|page| assert!(model.remove(&page)));
                }
                _ => {}
            }
            let pages_of = |set: &PageSet| -> Vec<u64> {
                set.runs().flat_map(|run| run.first..run.end()).collect()
            };
            assert_eq!(pages_of(&set), model.iter().copied().collect::<Vec<_>>());
            let mut other = PageSet::default();
            for _ in 0..4 {
                other.insert(PageRun { first: number(60), pages: number(9) });
            }
            let others = pages_of(&other);
            let left: Vec<u64> =
                model.iter().copied().filter(|page| !others.contains(page)).collect();
            assert_eq!(pages_of(&set.minus(&other)), left);
            assert_eq!(set.pages(), model.len() as u64);
            let mut out = vec![];
            put_runs(&mut out, &set);
            assert_eq!(decode_runs(&mut Decoder::new(&out)), Some(set.clone()));
            assert!(set.runs().zip(set.runs().skip(1)).all(|(a, b)| a.end() < b.first));
        }
    }

    #[test]
    fn impossible_runs_are_refused() {
        let words = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        for bad in [&[1, 5][..], &[1, 5, 0], &[2, 5, 2, 6, 1], &[1, u64::MAX, 2], &[u64::MAX]] {
            assert_eq!(decode_runs(&mut Decoder::new(&words(bad))), None, "{bad:?}");
        }
    }
}
