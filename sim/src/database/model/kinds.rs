//! Which kind each keyspace may have: what was said last, and what was asked for and not answered.

use super::SpaceId;
use std::collections::BTreeMap;

/// The kinds of all keyspaces; `true` is `BTree`.
#[derive(Debug, Default)]
pub(in super::super) struct Kinds {
    of: BTreeMap<SpaceId, Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    possible: Vec<bool>,
    /// Requests that are not answered, and whether another one was under way at the same time.
    under_way: BTreeMap<u64, bool>,
    requests: u64,
}

impl Kinds {
    fn kind(&mut self, space: SpaceId, created: bool) -> &mut Kind {
        let new = || Kind { possible: vec![created], ..Kind::default() };
        self.of.entry(space).or_insert_with(new)
    }

    /// A keyspace that was created of the kind `created` is asked to become another. Returns which request
    /// it is.
    pub(in super::super) fn asked(&mut self, space: SpaceId, created: bool, kind: bool) -> u64 {
        let of = self.kind(space, created);
        of.possible.push(kind);
        of.requests += 1;
        of.under_way.values_mut().for_each(|met_another| *met_another = true);
        of.under_way.insert(of.requests, !of.under_way.is_empty());
        of.requests
    }

    /// The request was answered: if it was done, and no other was under way meanwhile, the keyspace has the
    /// kind `done`.
    pub(in super::super) fn answered(&mut self, space: SpaceId, request: u64, done: Option<bool>) {
        let Some(of) = self.of.get_mut(&space) else { return };
        let met_another = of.under_way.remove(&request).unwrap_or(true);
        if let Some(kind) = done.filter(|_| !met_another) {
            of.possible = vec![kind];
        }
    }

    /// Whether a keyspace that was opened may have this kind. It has it from now on.
    pub(in super::super) fn found(&mut self, space: SpaceId, created: bool, kind: bool) -> bool {
        let of = self.kind(space, created);
        let may_be = of.possible.contains(&kind);
        *of = Kind { possible: vec![kind], ..Kind::default() };
        may_be
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_that_was_done_counts_and_all_that_were_not() {
        let mut kinds = Kinds::default();
        assert!(kinds.found(1, true, true) && !kinds.found(2, true, false));
        let first = kinds.asked(3, false, true);
        kinds.answered(3, first, Some(true));
        assert!(!kinds.found(3, false, false));
        // Two at once: either may be the last.
        let (one, other) = (kinds.asked(4, false, true), kinds.asked(4, false, false));
        kinds.answered(4, other, Some(false));
        kinds.answered(4, one, Some(true));
        assert!(kinds.found(4, false, true));
        kinds.asked(4, true, false); // not answered
        assert!(kinds.found(4, true, false));
        let refused = kinds.asked(4, true, true);
        kinds.answered(4, refused, None);
        assert!(kinds.found(4, true, false) && !kinds.found(4, true, true));
    }
}
