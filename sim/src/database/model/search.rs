//! Explaining contents: which commits, in which order, make what was read.

use super::{Answer, Broken, Commit, CommitId, Contents, Model, State, broken, difference};
use std::collections::{BTreeMap, BTreeSet};

impl Model {
    /// Brings `reached` as near to `seq` as acknowledged commits lead without a gap.
    fn reach(&mut self, seq: u64) {
        while let Some(id) = self.acknowledged.get(&(self.reached.seq + 1)) {
            let commit = &self.commits[*id];
            let Some(last) = commit.last_seq().filter(|last| *last <= seq) else {
                return;
            };
            for op in &commit.ops {
                op.apply(&mut self.reached.contents);
            }
            self.reached.seq = last;
        }
    }

    /// The commits up to `seq`, in an order that explains what was read. Those that need no
    /// explanation may be left out.
    pub(super) fn explain(
        &mut self,
        seq: u64,
        read: &Contents,
        after_boot: bool,
    ) -> Result<Vec<CommitId>, Broken> {
        self.reach(seq);
        let mut search = self.search(seq, read, after_boot, after_boot);
        let mut order = vec![];
        if search.fill(search.from.seq + 1, &mut order) {
            return Ok(order);
        }
        let mut lenient = self.search(seq, read, after_boot, true);
        if lenient.fill(lenient.from.seq + 1, &mut order) {
            let told = |id: &&CommitId| self.commits[**id].answer == Answer::Unknown;
            let commit = order.iter().find(told).map(|id| self.describe(*id));
            let commit = commit.unwrap_or_default();
            return broken(
                "I-8",
                format!(
                    "{commit} is visible, though its client was told that the database is poisoned"
                ),
            );
        }
        match search.difference {
            Some(difference) if self.commits.is_empty() => broken("I-10", difference),
            Some(difference) if after_boot => broken("I-2", difference),
            Some(difference) => broken("I-12", difference),
            None => {
                let (from, unheard) = (search.from.seq, search.unheard);
                let known: Vec<_> = self.acknowledged.range(from..).take(8).collect();
                broken(
                    "I-2",
                    format!(
                        "no commits fill the SeqNos from {from} to {seq}: acknowledged {known:?}, unheard {unheard:?}"
                    ),
                )
            }
        }
    }

    fn search<'a>(
        &'a self,
        seq: u64,
        read: &'a Contents,
        after_boot: bool,
        poisoned_count: bool,
    ) -> Search<'a> {
        let from_base = after_boot || seq < self.reached.seq;
        let may_be_in = |commit: &Commit| match commit.answer {
            Answer::InFlight => true,
            Answer::Unknown => poisoned_count,
            Answer::Acknowledged(_) | Answer::Refused => false,
        };
        let unheard = self.commits.iter().enumerate();
        Search {
            model: self,
            from: if from_base { &self.base } else { &self.reached },
            seq,
            read,
            unheard: unheard.filter(|(_, c)| may_be_in(c)).map(|(id, _)| id).collect(),
            difference: None,
        }
    }
}

/// The search for an order of commits that explains what was read.
struct Search<'a> {
    model: &'a Model,
    from: &'a State,
    seq: u64,
    read: &'a Contents,
    /// Commits that may be in.
    unheard: BTreeSet<CommitId>,
    /// What is wrong with the first order that fits the SeqNos.
    difference: Option<String>,
}

impl Search<'_> {
    /// Fills the SeqNos from `next` on.
    fn fill(&mut self, next: u64, order: &mut Vec<CommitId>) -> bool {
        let (mut next, kept) = (next, order.len());
        while next <= self.seq
            && let Some(id) = self.model.acknowledged.get(&next).copied()
        {
            order.push(id);
            next += self.model.commits[id].ops.len() as u64;
        }
        if next > self.seq {
            // Not beyond: a commit is in whole or not at all.
            let found = next == self.seq + 1 && self.matches(order);
            if !found {
                order.truncate(kept);
            }
            return found;
        }
        let known = self.model.acknowledged.range(next..).next();
        let end = known.map_or(self.seq + 1, |(first, _)| *first).min(self.seq + 1);
        for id in self.unheard.clone() {
            let operations = self.model.commits[id].ops.len() as u64;
            if next + operations > end {
                continue;
            }
            self.unheard.remove(&id);
            order.push(id);
            if self.fill(next + operations, order) {
                return true;
            }
            order.pop();
            self.unheard.insert(id);
        }
        order.truncate(kept);
        false
    }

    fn matches(&mut self, order: &[CommitId]) -> bool {
        let mut expected = self.from.contents.clone();
        for id in order {
            for op in &self.model.commits[*id].ops {
                op.apply(&mut expected);
            }
        }
        let difference = self.read.iter().find_map(|(space, read)| {
            let nothing = BTreeMap::new();
            difference(*space, expected.get(space).unwrap_or(&nothing), read)
        });
        if let Some(difference) = &difference {
            self.difference
                .get_or_insert_with(|| format!("up to SeqNo {}: {difference}", self.seq));
        }
        difference.is_none()
    }
}
