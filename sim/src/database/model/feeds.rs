//! What subscriptions may yield: the commits to a keyspace, each once, in the order of their SeqNos, none left out; and
//! nothing that a crash takes back.

use super::{
    super::operation::as_half_open, Answer, Broken, Commit, CommitId, DEFAULT_SPACE, LoadId, Model,
    Op, Ops, SpaceId, broken,
};
use lightning_db::Operation;
use std::collections::{BTreeMap, BTreeSet};

/// Who follows a keyspace: a client, by its number.
type Follower = (u64, SpaceId);

/// From where a follower goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum From {
    Seq(u64),
    /// What comes next there is gone: from a new snapshot.
    Snapshot,
}

/// What was yielded since the database was created, or since damage took something of it.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    /// Commits that recoveries brought back: those that were acknowledged, by their last SeqNos, and those that may
    /// be in as well.
    past: BTreeMap<u64, Ops>,
    unheard: Vec<Ops>,
    yielded: BTreeMap<(SpaceId, u64), Vec<Operation>>,
    /// At these SeqNos, the end not included, no commit to the keyspace ends: a subscription went past them.
    passed: Vec<(SpaceId, u64, u64)>,
    /// The next one that each follower waits for.
    at: BTreeMap<Follower, From>,
    /// How many bulk loads are in each keyspace for sure, and of how many each follower has been told.
    loads_in: BTreeMap<SpaceId, u64>,
    told: BTreeMap<Follower, u64>,
    /// Loads that had not returned when a follower began with a snapshot, which may show them.
    perhaps_told: BTreeMap<Follower, BTreeSet<LoadId>>,
    /// What was committed up to this SeqNo is not known.
    unknown: u64,
    /// Keyspaces into which something was to be loaded.
    loaded: BTreeSet<SpaceId>,
}

impl Feeds {
    pub(super) fn load_begins(&mut self, space: SpaceId) {
        self.loaded.insert(space);
    }

    pub(super) fn load_is_in(&mut self, space: SpaceId, id: LoadId) {
        *self.loads_in.entry(space).or_default() += 1;
        let perhaps = self.perhaps_told.iter().filter(|(_, loads)| loads.contains(&id));
        for (follower, _) in perhaps {
            *self.told.entry(*follower).or_default() += 1;
        }
    }

    /// Damage may have taken something of what was yielded: everything begins anew behind `seq`.
    pub(super) fn forget(&mut self, seq: u64) {
        // Of loads it is not known either whether they are still in.
        let loaded = std::mem::take(&mut self.loaded);
        *self = Feeds { loaded, unknown: seq, ..Feeds::default() };
    }

    /// A recovery brought back what was committed up to `seq`.
    pub(super) fn settle(&mut self, seq: u64, commits: &[Commit]) {
        for commit in commits {
            match commit.answer {
                Answer::Acknowledged(last) if last <= seq => {
                    self.past.insert(last, commit.ops.clone());
                }
                Answer::InFlight | Answer::Unknown => self.unheard.push(commit.ops.clone()),
                Answer::Acknowledged(_) | Answer::Refused => {}
            }
        }
    }

    fn has_passed(&self, space: SpaceId, seq: u64) -> bool {
        self.passed.iter().any(|(of, from, end)| *of == space && (*from..*end).contains(&seq))
    }
}

impl Model {
    /// Whether a bulk load may be why a subscription cannot go on.
    pub(in super::super) fn may_be_loaded(&self, space: SpaceId) -> bool {
        self.feeds.loaded.contains(&space)
    }

    /// From where a follower goes on.
    pub(in super::super) fn follows_from(&self, follower: Follower) -> From {
        self.feeds.at.get(&follower).copied().unwrap_or(From::Seq(1))
    }

    /// Where a client goes on in other keyspaces, if it has anything of what they hold.
    pub(in super::super) fn earlier_positions(
        &self,
        client: u64,
        now: SpaceId,
    ) -> Vec<(SpaceId, u64)> {
        let of_client =
            self.feeds.at.iter().filter(|((of, space), _)| *of == client && *space != now);
        let positions = of_client.filter_map(|((_, space), from)| match from {
            From::Seq(from) if *from > 1 && *space != DEFAULT_SPACE => Some((*space, *from)),
            _ => None,
        });
        positions.collect()
    }

    /// A follower begins with a snapshot, and so behind all loads that are in, and some of those that have not returned.
    pub(in super::super) fn begins_from(&mut self, follower: Follower, seq: u64) {
        self.feeds.told.insert(follower, self.loads_in(follower.1));
        self.feeds.perhaps_told.insert(follower, self.loads_under_way(follower.1));
        self.goes_on_from(follower, From::Seq(seq));
    }

    pub(in super::super) fn goes_on_from(&mut self, follower: Follower, from: From) {
        self.feeds.at.insert(follower, from);
    }

    /// How many bulk loads are in a keyspace for sure.
    pub(in super::super) fn loads_in(&self, space: SpaceId) -> u64 {
        self.feeds.loads_in.get(&space).copied().unwrap_or(0)
    }

    /// A follower goes on, and so many loads were in before. None of them is in the log.
    pub(in super::super) fn goes_on(&self, follower: Follower, loads: u64) -> Result<(), Broken> {
        let told = self.feeds.told.get(&follower).copied().unwrap_or(0);
        let message = format!("{loads} loads are in, and a follower goes on that knows of {told}");
        if told < loads { broken("feed", message) } else { Ok(()) }
    }

    /// A subscription went on from `from` to `to`, and yielded what one commit did to the keyspace, or nothing.
    pub(in super::super) fn followed(
        &mut self,
        follower: Follower,
        (from, to): (u64, u64),
        yielded: Option<(u64, &[Operation])>,
    ) -> Result<(), Broken> {
        let end = yielded.map_or(to, |(seq, _)| seq);
        if end < from || to != end + u64::from(yielded.is_some()) {
            return broken(
                "feed",
                format!("from SeqNo {from} it goes on to {end}, and is at {to}"),
            );
        }
        self.pass(follower.1, from, end)?;
        if let Some((seq, operations)) = yielded {
            self.yielded(follower.1, seq, operations)?;
        }
        self.durable(to - 1);
        self.goes_on_from(follower, From::Seq(to));
        Ok(())
    }

    /// No commit to the keyspace ends at these SeqNos.
    fn pass(&mut self, space: SpaceId, from: u64, end: u64) -> Result<(), Broken> {
        let told = self.commits.iter().filter_map(|commit| Some((commit.last_seq()?, &commit.ops)));
        let mut known =
            told.chain(self.feeds.past.range(from..end).map(|(last, ops)| (*last, ops)));
        let is_here = |(last, ops): &(u64, &Ops)| {
            (from..end).contains(last) && ops.iter().any(|op| op.space() == space && is_shown(op))
        };
        let mut yielded = self.feeds.yielded.range((space, from)..(space, end));
        let left_out = known.find(is_here).map(|(last, _)| last);
        if let Some(seq) = left_out.or_else(|| yielded.next().map(|((_, seq), _)| *seq)) {
            let message = format!(
                "from SeqNo {from} a subscription to keyspace {space} goes on to {end}, past the commit {seq}"
            );
            return broken("feed", message);
        }
        match self.feeds.passed.iter_mut().find(|(of, _, last)| *of == space && *last == from) {
            Some((_, _, last)) => *last = end,
            None if from < end => self.feeds.passed.push((space, from, end)),
            None => {}
        }
        Ok(())
    }

    fn yielded(&mut self, space: SpaceId, seq: u64, yielded: &[Operation]) -> Result<(), Broken> {
        let what = || format!("{} operations on keyspace {space} at SeqNo {seq}", yielded.len());
        if self.feeds.has_passed(space, seq) {
            return broken("feed", format!("{}, which another went past", what()));
        }
        if !self.may_be_at(space, seq, yielded) {
            return broken("feed", format!("{}, which nobody has committed there", what()));
        }
        let known = self.feeds.yielded.entry((space, seq)).or_insert_with(|| yielded.to_vec());
        if !same(known, yielded) {
            return broken("feed", format!("{}, which were others before", what()));
        }
        Ok(())
    }

    /// Whether a commit that ends at this SeqNo may have done this to a keyspace.
    fn may_be_at(&self, space: SpaceId, seq: u64, yielded: &[Operation]) -> bool {
        let does = |ops: &[Op]| does(ops, space, yielded);
        let told = self.acknowledged.range(..=seq).next_back().map(|(_, id)| &self.commits[*id]);
        if let Some(commit) = told.filter(|commit| commit.last_seq() >= Some(seq)) {
            return commit.last_seq() == Some(seq) && does(&commit.ops);
        }
        if let Some(ops) = self.feeds.past.get(&seq) {
            return does(ops);
        }
        // Nobody is told that the database is poisoned whose commit is visible.
        let in_flight = |commit: &&Commit| commit.answer == Answer::InFlight;
        match seq > self.base.seq {
            true => self.commits.iter().filter(in_flight).any(|commit| does(&commit.ops)),
            false if seq <= self.feeds.unknown => true,
            false => self.feeds.unheard.iter().any(|ops| does(ops)),
        }
    }

    /// A commit is acknowledged that a subscription may have yielded, or should have.
    pub(super) fn check_followed(&self, id: CommitId, last: u64) -> Result<(), Broken> {
        let ops = &self.commits[id].ops;
        let spaces: BTreeSet<_> = ops.iter().map(Op::space).collect();
        for space in spaces {
            let others = self.feeds.yielded.get(&(space, last));
            let left_out = self.feeds.has_passed(space, last)
                && ops.iter().any(|op| op.space() == space && is_shown(op));
            if left_out || others.is_some_and(|o| !does(ops, space, o)) {
                let message = format!(
                    "{} ends at SeqNo {last}, where a subscription to keyspace {space} yielded {others:?}",
                    self.describe(id)
                );
                return broken("feed", message);
            }
        }
        Ok(())
    }
}

/// Whether operations do this to a keyspace.
fn does(ops: &[Op], space: SpaceId, yielded: &[Operation]) -> bool {
    let ops = ops.iter().filter(|op| op.space() == space && is_shown(op));
    ops.clone().count() == yielded.len() && ops.zip(yielded).all(|(op, yielded)| fits(op, yielded))
}

/// Whether a subscription yields the operation: not if its range can have no key.
fn is_shown(op: &Op) -> bool {
    let Op::DeleteRange(_, bounds) = op else { return true };
    let (start, end) = as_half_open(bounds.clone());
    end.is_none_or(|end| start < end)
}

fn fits(op: &Op, yielded: &Operation) -> bool {
    match (op, yielded) {
        (Op::Put(_, k, v), Operation::Put { key, value }) => k == key && v == value,
        // The file of the value is gone.
        (Op::Put(_, k, _), Operation::Superseded { key }) => k == key,
        (Op::Delete(_, k), Operation::Delete { key }) => k == key,
        (Op::DeleteRange(_, bounds), Operation::DeleteRange { start, end }) => {
            as_half_open(bounds.clone()) == (start.clone(), end.clone())
        }
        _ => false,
    }
}

/// Whether it is the same commit, read earlier and later.
fn same(earlier: &[Operation], later: &[Operation]) -> bool {
    let pair = |(earlier, later): (&Operation, &Operation)| match (earlier, later) {
        (Operation::Put { key: k, .. }, Operation::Superseded { key })
        | (Operation::Superseded { key: k }, Operation::Put { key, .. }) => k == key,
        _ => earlier == later,
    };
    earlier.len() == later.len() && earlier.iter().zip(later).all(pair)
}
