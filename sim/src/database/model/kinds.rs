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
    /// How often another one was asked for.
    asked: u64,
}

impl Kinds {
    fn kind(&mut self, space: SpaceId, created: bool) -> &mut Kind {
        let new = || Kind { possible: vec![created], asked: 0 };
        self.of.entry(space).or_insert_with(new)
    }

    /// A keyspace that was created of the kind `created` is asked to become another. Returns which request
    /// it is.
    pub(in super::super) fn asked(&mut self, space: SpaceId, created: bool, kind: bool) -> u64 {
        let of = self.kind(space, created);
        of.possible.push(kind);
        of.asked += 1;
        of.asked
    }

    /// The request was done: if no other was meanwhile, the keyspace has this kind.
    pub(in super::super) fn done(&mut self, space: SpaceId, request: u64, kind: bool) {
        if let Some(of) = self.of.get_mut(&space).filter(|of| of.asked == request) {
            of.possible = vec![kind];
        }
    }

    /// Whether a keyspace that was opened may have this kind. It has it from now on.
    pub(in super::super) fn found(&mut self, space: SpaceId, created: bool, kind: bool) -> bool {
        let of = self.kind(space, created);
        let may_be = of.possible.contains(&kind);
        of.possible = vec![kind];
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
        kinds.done(3, first, true);
        assert!(!kinds.found(3, false, false));
        // Two at once: either may be the last.
        let (one, other) = (kinds.asked(4, false, true), kinds.asked(4, false, false));
        kinds.done(4, other, false);
        kinds.done(4, one, true);
        assert!(kinds.found(4, false, false));
        let unanswered = kinds.asked(4, false, true);
        assert!(unanswered == 3 && kinds.found(4, false, true));
    }
}
