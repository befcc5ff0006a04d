//! Bulk loads: entries that come in at once, at a place in the order of commits that has passed by then.
//!
//! The engine tells the place: the SeqNo up to which all commits are older than what is loaded. What a read
//! shows follows from its SeqNo and from the loads that were installed when it began.

use super::{Least, Model, Op, Ops, ReadBegan, SpaceId};
use std::collections::BTreeSet;

/// The number of a load in the model.
pub(in super::super) type LoadId = usize;

/// What is known of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    InFlight,
    /// All of it is in, since this moment at the latest.
    Done(u64),
    /// Nothing of it is in, and never will be.
    Refused,
    /// A crash or poison left it open: after reopening it is in whole or not at all.
    Unknown,
}

/// A bulk load that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// One put for each entry.
    pub(super) ops: Ops,
    /// Commits up to this SeqNo are older. Nothing of a load without a place is in.
    place: Option<u64>,
    answer: Answer,
}

impl Load {
    pub(super) fn crashed(&mut self) {
        if self.answer == Answer::InFlight {
            self.answer = Answer::Unknown;
        }
    }

    /// The same load, which was found to be in at some moment.
    pub(super) fn settled(&self, moment: u64) -> Load {
        Load { answer: Answer::Done(moment), ..self.clone() }
    }

    pub(super) fn may_be_in(&self) -> bool {
        self.place.is_some() && self.answer != Answer::Refused
    }
}

/// Loads that a read shows, and those that it may show.
#[derive(Debug, Default)]
pub(super) struct Loads {
    shown: Vec<LoadId>,
    /// Those whose edits damage may have taken, in the order of these: the last ones go first.
    at_the_end: Vec<LoadId>,
    perhaps: Vec<LoadId>,
}

impl Loads {
    /// Whether it is known which loads are in.
    pub(super) fn are_known(&self) -> bool {
        self.perhaps.is_empty() && self.at_the_end.is_empty()
    }

    /// Whether [`Loads::sets`] would be more than can be looked at.
    pub(super) fn are_too_many(&self) -> bool {
        self.perhaps.len() > 8
    }

    /// All sets of loads that may be in, those of many loads first.
    pub(super) fn sets(&self) -> Vec<Vec<LoadId>> {
        let ends = 0..=self.at_the_end.len();
        let with = |end| [&self.shown[..], &self.at_the_end[..end]].concat();
        let mut sets: Vec<Vec<LoadId>> = ends.map(with).collect();
        for id in &self.perhaps {
            let with = sets.iter().map(|set| set.iter().copied().chain([*id]).collect());
            let with: Vec<_> = with.collect();
            sets.extend(with);
        }
        sets.sort_by_key(|set| std::cmp::Reverse(set.len()));
        sets
    }
}

impl Model {
    /// A load is asked for.
    pub(in super::super) fn begin_load(
        &mut self,
        space: SpaceId,
        entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> LoadId {
        let ops = entries.into_iter().map(|(key, value)| Op::Put(space, key, value)).collect();
        let ops = Ops::new(ops);
        self.loads.push(Load { ops, place: None, answer: Answer::InFlight });
        self.feeds.load_begins(space);
        self.loads.len() - 1
    }

    /// The loads into a keyspace that have not returned.
    pub(super) fn loads_under_way(&self, space: SpaceId) -> BTreeSet<LoadId> {
        let is_there = |load: &Load| {
            load.answer == Answer::InFlight && load.ops.iter().any(|op| op.space() == space)
        };
        let all = self.loads.iter().enumerate();
        all.filter(|(_, load)| is_there(load)).map(|(id, _)| id).collect()
    }

    /// The engine has told the place of a load.
    pub(in super::super) fn load_has_place(&mut self, id: LoadId, place: u64) {
        self.loads[id].place = Some(place);
    }

    /// A load has returned: it is durable, with all commits that are older.
    pub(in super::super) fn load_done(&mut self, id: LoadId) {
        let moment = self.moment();
        self.loads[id].answer = Answer::Done(moment);
        if let Some(op) = self.loads[id].ops.first() {
            self.feeds.load_is_in(op.space(), id);
        }
        self.durable(self.loads[id].place.unwrap_or(0));
        // It stands in front of what was reached.
        self.reached = self.base.clone();
        self.reach_loads();
    }

    pub(in super::super) fn load_refused(&mut self, id: LoadId) {
        self.loads[id].answer = Answer::Refused;
    }

    /// The database was poisoned meanwhile.
    pub(in super::super) fn load_poisoned(&mut self, id: LoadId) {
        self.loads[id].answer = Answer::Unknown;
        let moment = self.moment();
        self.poisoned.get_or_insert(moment);
    }

    /// Puts loads that are in into what was reached, if their place was.
    pub(super) fn reach_loads(&mut self) {
        let here = self.reached.seq;
        let done =
            |load: &&Load| matches!(load.answer, Answer::Done(_)) && load.place == Some(here);
        for op in self.loads.iter().filter(done).flat_map(|load| load.ops.iter()) {
            op.apply(&mut self.reached.contents);
        }
    }

    /// The loads that a read shows of a database that was not opened since.
    pub(super) fn loads_since(&self, began: &ReadBegan) -> Loads {
        let mut loads = Loads::default();
        for (id, load) in self.loads.iter().enumerate().filter(|(_, load)| load.may_be_in()) {
            match load.answer {
                Answer::Done(moment) if moment <= began.moment => loads.shown.push(id),
                Answer::Done(_) | Answer::InFlight => loads.perhaps.push(id),
                // What fails is not seen before the database is opened again.
                Answer::Refused | Answer::Unknown => {}
            }
        }
        loads
    }

    /// The loads that a database shows that was opened. Damage may take the edit of any.
    pub(super) fn loads_after_boot(&self, least: Least) -> Loads {
        let mut loads = Loads::default();
        for (id, load) in self.loads.iter().enumerate().filter(|(_, load)| load.may_be_in()) {
            match load.answer {
                Answer::Done(_) if least == Least::Promised => loads.shown.push(id),
                Answer::Done(_) => loads.at_the_end.push(id),
                _ => loads.perhaps.push(id),
            }
        }
        loads.at_the_end.sort_by_key(|id| match self.loads[*id].answer {
            Answer::Done(moment) => moment,
            _ => 0,
        });
        loads
    }

    /// The places of some loads and what they put there, the last first.
    pub(super) fn placed(&self, loads: &[LoadId]) -> Vec<(u64, &Ops)> {
        let load = |id: &LoadId| (self.loads[*id].place.unwrap_or(0), &self.loads[*id].ops);
        let mut placed: Vec<_> = loads.iter().map(load).collect();
        placed.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        placed
    }
}
