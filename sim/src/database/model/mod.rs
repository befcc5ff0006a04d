//! What the database must hold: an ordered map and the history of commits since it was last
//! seen whole.
//!
//! Clients run concurrently, so the order of their commits is not known from outside. The
//! engine tells the SeqNo of a commit that it acknowledges, and the SeqNo that a snapshot
//! shows; SeqNos have no gaps. So what a snapshot must hold follows exactly: every acknowledged
//! commit up to its SeqNo, none above, and in the gaps between those the commits whose answer
//! was never heard. Values are unique, so that there is one way to fill the gaps or none.

mod feeds;
pub(super) mod isolation;
mod kinds;
mod loads;
mod ops;
mod reads;
mod search;

use super::operation::{Bounds, inside};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// One life of a keyspace: a keyspace that is dropped and created again is another one.
pub(super) type SpaceId = u32;
/// The keyspace that is always there.
pub(super) const DEFAULT_SPACE: SpaceId = 0;

/// The contents of some keyspaces.
pub(super) type Contents = BTreeMap<SpaceId, BTreeMap<Vec<u8>, Vec<u8>>>;

/// One operation of a commit.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Put(SpaceId, Vec<u8>, Vec<u8>),
    Delete(SpaceId, Vec<u8>),
    DeleteRange(SpaceId, Bounds),
}

impl Op {
    fn apply(&self, contents: &mut Contents) {
        match self {
            Op::Put(space, key, value) => {
                contents.entry(*space).or_default().insert(key.clone(), value.clone());
            }
            Op::Delete(space, key) => {
                contents.entry(*space).or_default().remove(key);
            }
            Op::DeleteRange(space, bounds) => {
                let entries = contents.entry(*space).or_default();
                entries.retain(|key, _| !inside(bounds, key));
            }
        }
    }

    fn space(&self) -> SpaceId {
        let (Op::Put(space, ..) | Op::Delete(space, _) | Op::DeleteRange(space, _)) = self;
        *space
    }
}

/// What is known of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// None yet.
    InFlight,
    /// It is in, and its last SeqNo is this.
    Acknowledged(u64),
    /// It is not in, and never will be.
    Refused,
    /// The database was poisoned: after reopening it is in whole or not at all.
    Unknown,
}

/// A commit that was submitted.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    pub(super) ops: Ops,
    pub(super) answer: Answer,
    /// It was to be acknowledged only once durable.
    sync: bool,
    submitted: u64,
    /// When it was acknowledged, in virtual time.
    acknowledged_at: Duration,
    /// The moment at which it was acknowledged.
    answered: Option<u64>,
    /// A reader has seen what it wrote.
    seen: bool,
}

impl Commit {
    fn last_seq(&self) -> Option<u64> {
        match self.answer {
            Answer::Acknowledged(last) => Some(last),
            _ => None,
        }
    }

    /// What it made of a key in the end.
    fn effect(&self, space: SpaceId, key: &[u8]) -> Option<Option<&[u8]>> {
        self.ops.effect(space, key)
    }
}

/// A commit that a recovery brought back.
#[derive(Debug)]
struct Settled {
    ops: Ops,
    /// Its SeqNos were told. Else they are those of one order of several that explain what was read.
    acknowledged: bool,
}

/// The number of a commit in the model.
pub(super) type CommitId = usize;
use feeds::Feeds;
pub(super) use feeds::From;
pub(super) use loads::LoadId;
use loads::{Load, Loads};
use ops::Ops;

/// A promise that what was read breaks.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) invariant: &'static str,
    pub(super) message: String,
}

fn broken<T>(invariant: &'static str, message: String) -> Result<T, Broken> {
    Err(Broken { invariant, message })
}

/// What a keyspace's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Space {
    /// The life that exists, if one does for sure.
    pub(super) now: Option<SpaceId>,
    /// What it becomes, if an operation on it has no answer.
    pub(super) maybe: Option<Option<SpaceId>>,
    /// The life that it had last, if it has none: damage to the manifest may bring it back.
    pub(super) last: Option<SpaceId>,
}

/// What a database must show at least when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Least {
    /// All that was promised.
    Promised,
    /// The log or the manifest was damaged, and only up to this SeqNo something on disk still says what
    /// was promised. What came after may be gone: damage to the end of a log looks like its end.
    Vouched(u64),
}

/// The contents up to a SeqNo.
#[derive(Debug, Default, Clone)]
struct State {
    contents: Contents,
    seq: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Model {
    /// What the database held when it was last seen whole, up to this SeqNo.
    base: State,
    /// The same at a later SeqNo, reached by acknowledged commits without a gap. Saves checks of
    /// running databases the way from the base.
    reached: State,
    commits: Vec<Commit>,
    /// Transactions since then.
    pub(super) told: Vec<isolation::Told>,
    /// What the checker of isolation found that is allowed, to be counted.
    pub(super) admitted: Vec<&'static str>,
    /// Bulk loads since then.
    loads: Vec<Load>,
    /// Those that recoveries brought back, if damage may take them.
    settled_loads: Vec<Load>,
    /// Damage may take the database back behind the base.
    may_go_back: bool,
    /// How the base came about, if so: the commits that recoveries brought back, by their last SeqNos.
    settled: BTreeMap<u64, Settled>,
    /// Acknowledged commits, by their first SeqNo.
    acknowledged: BTreeMap<u64, CommitId>,
    /// The commits that write each key, and those that delete ranges.
    writers: BTreeMap<(SpaceId, Vec<u8>), Vec<CommitId>>,
    range_deletes: BTreeMap<SpaceId, Vec<(Bounds, CommitId)>>,
    /// Counts what happens, so that before and after can be told.
    moment: u64,
    /// Commits up to this SeqNo are durable.
    durable_seq: u64,
    /// The process that committed has run until the crash that is to be looked at.
    running: bool,
    /// Power was lost, or as good as that, since the base.
    power_lost: bool,
    pub(super) spaces: BTreeMap<String, Space>,
    pub(super) kinds: kinds::Kinds,
    /// Lives of keyspaces that were to be dropped, and what was acknowledged before.
    drops: Vec<(SpaceId, u64)>,
    next_space: SpaceId,
    /// Which keyspace each life is one of.
    lives: BTreeMap<SpaceId, String>,
    /// How many values were written: each is unique.
    pub(super) values: u64,
    /// The sstables that lay there when the database was last closed, if that can be compared
    /// with what the next session finds.
    pub(super) tables_left: Option<Vec<String>>,
    /// The database was closed in order when this was the newest SeqNo, and not opened since.
    pub(super) closed_at: Option<u64>,
    /// What subscriptions yielded, and where those who follow are.
    feeds: Feeds,
    /// The session refuses writes since this moment.
    poisoned: Option<u64>,
    /// A database was created for sure: it can be opened from now on.
    pub(super) created: bool,
}

impl Model {
    /// A model; `may_go_back` if damage may take the database back behind what was recovered before.
    pub(super) fn new(may_go_back: bool) -> Model {
        let default = Space { now: Some(DEFAULT_SPACE), ..Space::default() };
        Model {
            spaces: BTreeMap::from([("default".into(), default)]),
            next_space: DEFAULT_SPACE + 1,
            may_go_back,
            ..Model::default()
        }
    }

    pub(super) fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A new life of a keyspace.
    pub(super) fn new_space(&mut self, name: &str) -> SpaceId {
        let id = self.next_space;
        self.next_space += 1;
        self.lives.insert(id, name.into());
        id
    }

    /// In which life of a keyspace a value was written. The history must be kept.
    pub(super) fn life_that_wrote(&self, name: &str, value: &[u8]) -> Option<SpaceId> {
        let kept = self.settled.values().flat_map(|settled| settled.ops.iter());
        let mut ops = kept.chain(self.commits.iter().flat_map(|commit| commit.ops.iter()));
        let loads = self.settled_loads.iter().chain(&self.loads).flat_map(|load| load.ops.iter());
        let life = ops.by_ref().chain(loads).find_map(|op| match op {
            Op::Put(space, _, written) if written == value => Some(*space),
            _ => None,
        })?;
        (self.lives.get(&life)? == name).then_some(life)
    }

    /// A keyspace is about to be dropped. Returns the SeqNo up to which commits are durable once it is.
    pub(super) fn begin_drop(&mut self, id: SpaceId) -> u64 {
        let before = self.acknowledged_seq();
        self.drops.push((id, before));
        before
    }

    /// All keyspaces but these are gone: what was acknowledged before they were dropped must be there, as
    /// it may have saved elsewhere what they held.
    pub(super) fn dropped_but(&mut self, found: BTreeSet<SpaceId>) {
        let done = self.drops.drain(..).filter(|(id, _)| !found.contains(id));
        let before = done.map(|(_, before)| before).max();
        self.durable(before.unwrap_or(0));
    }

    pub(super) fn submit(&mut self, ops: Vec<Op>, sync: bool) -> CommitId {
        self.submit_ops(Ops::new(ops), sync)
    }

    fn submit_ops(&mut self, ops: Ops, sync: bool) -> CommitId {
        let submitted = self.moment();
        let id = self.commits.len();
        for (space, key) in ops.keys() {
            self.writers.entry((*space, key.clone())).or_default().push(id);
        }
        for (space, bounds) in ops.ranges() {
            self.range_deletes.entry(space).or_default().push((bounds.clone(), id));
        }
        self.commits.push(Commit {
            ops,
            answer: Answer::InFlight,
            sync,
            submitted,
            acknowledged_at: Duration::MAX,
            answered: None,
            seen: false,
        });
        id
    }

    /// The commits that write a key, or delete a range in which it lies. One may come several times, one behind the
    /// other.
    fn commits_on(&self, space: SpaceId, key: &[u8]) -> impl Iterator<Item = CommitId> {
        let writers = self.writers.get(&(space, key.to_vec())).into_iter().flatten().copied();
        let ranges = self.range_deletes.get(&space).into_iter().flatten();
        writers.chain(ranges.filter(move |(bounds, _)| inside(bounds, key)).map(|(_, id)| *id))
    }

    /// A commit was acknowledged at a moment of virtual time.
    pub(super) fn acknowledge(
        &mut self,
        id: CommitId,
        last_seq: u64,
        now: Duration,
    ) -> Result<(), Broken> {
        let answered = self.moment();
        let poisoned = self.poisoned;
        let commit = &mut self.commits[id];
        let operations = commit.ops.len() as u64;
        commit.answer = Answer::Acknowledged(last_seq);
        commit.acknowledged_at = now;
        commit.answered = Some(answered);
        self.acknowledged.insert((last_seq + 1).saturating_sub(operations), id);
        if commit.sync {
            self.durable_seq = self.durable_seq.max(last_seq);
        }
        if poisoned.is_some_and(|moment| moment < commit.submitted) {
            return broken(
                "I-8",
                format!(
                    "a commit was acknowledged (SeqNo {last_seq}) after another had been told that the database is poisoned"
                ),
            );
        }
        if last_seq < self.base.seq + operations {
            return broken(
                "I-2",
                format!(
                    "SeqNo {last_seq} was given to a commit of {operations} operations although the base has {}",
                    self.base.seq
                ),
            );
        }
        self.check_followed(id, last_seq)
    }

    pub(super) fn refuse(&mut self, id: CommitId) {
        self.commits[id].answer = Answer::Refused;
    }

    pub(super) fn poison(&mut self, id: CommitId) {
        self.commits[id].answer = Answer::Unknown;
        let moment = self.moment();
        self.poisoned.get_or_insert(moment);
    }

    pub(super) fn acknowledged_seq(&self) -> u64 {
        let newest = self.acknowledged.values().next_back();
        let newest = newest.and_then(|id| self.commits[*id].last_seq());
        newest.unwrap_or(self.base.seq)
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.commits.iter().filter(|c| c.last_seq().is_some()).count() as u64
    }

    /// Everything up to `seq` is durable now.
    pub(super) fn durable(&mut self, seq: u64) {
        self.durable_seq = self.durable_seq.max(seq);
    }

    /// A process ended. If it is the one that committed, everything that was acknowledged by this
    /// moment of virtual time is durable.
    pub(super) fn process_ended(&mut self, durable_by: Option<Duration>) {
        self.tables_left = None;
        let (true, Some(moment)) = (std::mem::take(&mut self.running), durable_by) else {
            return;
        };
        let old = self.commits.iter().filter(|commit| commit.acknowledged_at <= moment);
        let newest = old.filter_map(Commit::last_seq).max();
        self.durable_seq = self.durable_seq.max(newest.unwrap_or(0));
    }

    /// A crash: no answer will come to what is in flight.
    pub(super) fn crashed(&mut self, power_lost: bool) {
        for commit in &mut self.commits {
            if commit.answer == Answer::InFlight {
                commit.answer = Answer::Unknown;
            }
        }
        self.loads.iter_mut().for_each(Load::crashed);
        self.power_lost |= power_lost;
    }

    /// The number of the newest operation that a booted database must show at least.
    fn required_seq(&self) -> u64 {
        match self.power_lost {
            true => self.durable_seq.max(self.base.seq),
            false => self.acknowledged_seq(),
        }
    }

    /// Checks what a database shows after it was opened, and takes it as the new base.
    pub(super) fn recovered(
        &mut self,
        seq: u64,
        read: Contents,
        least: Least,
    ) -> Result<(), Broken> {
        self.check_least(seq, least)?;
        self.judge_isolation()?;
        if seq < self.base.seq {
            self.go_back(seq, &read, false)?;
            self.feeds.forget(seq);
            self.begin_anew(seq, read, &[]);
            return Ok(());
        }
        let loads = self.loads_after_boot(least);
        let (order, loads) = match self.explain(seq, &read, &loads, true) {
            Ok(explained) => explained,
            // The edit of a load may be what was lost.
            Err(broken) if least == Least::Promised => return Err(broken),
            Err(_) => {
                self.go_back(seq, &read, true)?;
                self.feeds.forget(seq);
                self.begin_anew(seq, read, &[]);
                return Ok(());
            }
        };
        let lost_but_seen = (0..self.commits.len()).find(|id| {
            let commit = &self.commits[*id];
            least == Least::Promised && commit.sync && commit.seen && !order.contains(id)
        });
        if let Some(id) = lost_but_seen {
            return broken(
                "I-14",
                format!(
                    "{} was read before the crash, though it is a Sync commit that was not durable",
                    self.describe(id)
                ),
            );
        }
        if least == Least::Promised {
            self.feeds.settle(seq, &self.commits);
        } else {
            self.feeds.forget(seq);
        }
        if self.may_go_back {
            let commits = std::mem::take(&mut self.commits);
            self.settle(&order, commits);
        }
        self.begin_anew(seq, read, &loads);
        Ok(())
    }

    /// Whether a database goes back no farther than it may.
    pub(super) fn check_least(&self, seq: u64, least: Least) -> Result<(), Broken> {
        match least {
            Least::Promised => {
                let required = self.required_seq();
                let how = if self.power_lost { "durably " } else { "" };
                let invariant = if seq < self.base.seq { "I-10" } else { "I-1" };
                let message =
                    format!("recovered up to SeqNo {seq}, but {required} was {how}acknowledged");
                if seq < required { broken(invariant, message) } else { Ok(()) }
            }
            Least::Vouched(required) if seq < required => broken(
                "I-1",
                format!(
                    "recovered up to SeqNo {seq}, although the log is whole enough to tell that {required} was durable"
                ),
            ),
            Least::Vouched(_) => Ok(()),
        }
    }

    /// Adds commits that came back, in their order, to those that the base consists of.
    fn settle(&mut self, order: &[CommitId], mut commits: Vec<Commit>) {
        let mut seq = self.settled.last_key_value().map_or(0, |(last, _)| *last);
        for id in order {
            let commit = &mut commits[*id];
            let acknowledged = commit.last_seq().is_some();
            let ops = std::mem::take(&mut commit.ops);
            seq += ops.len() as u64;
            self.settled.insert(seq, Settled { ops, acknowledged });
        }
    }

    /// A model of everything that recoveries brought back, as it was before any of them: of what was not
    /// acknowledged, the order is open again. With what came after the last of them, or without.
    fn history(&self, with_newest: bool) -> Model {
        let mut history = Model::new(false);
        for (last, settled) in &self.settled {
            let id = history.submit_ops(settled.ops.clone(), false);
            if settled.acknowledged {
                let commit = &mut history.commits[id];
                commit.answer = Answer::Acknowledged(*last);
                history.acknowledged.insert(last + 1 - commit.ops.len() as u64, id);
            }
        }
        for commit in self.commits.iter().filter(|_| with_newest) {
            let id = history.submit_ops(commit.ops.clone(), false);
            history.commits[id].answer = commit.answer;
            if let Some(last) = commit.last_seq() {
                history.acknowledged.insert(last + 1 - commit.ops.len() as u64, id);
            }
        }
        history.loads = self.settled_loads.iter().chain(&self.loads).cloned().collect();
        history
    }

    /// The contents are those of an earlier moment than the base: damage took the end of the log.
    fn go_back(&mut self, seq: u64, read: &Contents, with_newest: bool) -> Result<(), Broken> {
        let mut history = self.history(with_newest);
        let loads = history.loads_after_boot(Least::Vouched(0));
        let explained =
            history.explain(seq, read, &loads, true).map_err(|Broken { invariant, message }| {
                Broken { invariant, message: format!("back at SeqNo {seq}: {message}") }
            });
        let (order, loads) = explained?;
        self.settled.clear();
        self.settled_loads = loads.iter().map(|id| history.loads[*id].clone()).collect();
        self.settle(&order, history.commits);
        Ok(())
    }

    fn begin_anew(&mut self, seq: u64, read: Contents, loads: &[LoadId]) {
        if self.may_go_back {
            let moment = self.moment();
            let loads = loads.iter().map(|id| self.loads[*id].settled(moment));
            self.settled_loads.extend(loads);
        }
        self.loads.clear();
        self.base = State { contents: read, seq };
        self.reached = self.base.clone();
        self.durable_seq = seq;
        self.commits.clear();
        self.acknowledged.clear();
        self.writers.clear();
        self.range_deletes.clear();
        self.power_lost = false;
        self.poisoned = None;
        self.running = true;
    }

    /// Checks what a snapshot of a running database shows.
    pub(super) fn read_at(
        &mut self,
        seq: u64,
        began: &ReadBegan,
        read: &Contents,
    ) -> Result<(), Broken> {
        let floor = began.acknowledged_seq;
        if seq < floor {
            return broken(
                "I-12",
                format!("a snapshot shows SeqNo {seq}, but {floor} was acknowledged before"),
            );
        }
        let loads = self.loads_since(began);
        for id in self.explain(seq, read, &loads, false)?.0 {
            self.commits[id].seen |= self.is_witnessed(id, read);
        }
        Ok(())
    }

    /// Whether something that was read can be of no other commit. One order that explains a read is not the
    /// only one: commits whose effects were overwritten can stand for each other.
    fn is_witnessed(&self, id: CommitId, read: &Contents) -> bool {
        let commit = &self.commits[id];
        read.iter().any(|(space, entries)| {
            entries.iter().any(|(key, value)| {
                let value = Some(value.as_slice());
                let writers = || self.writers.get(&(*space, key.clone())).into_iter().flatten();
                let base = self.base.contents.get(space).and_then(|entries| entries.get(key));
                commit.effect(*space, key) == Some(value)
                    && base.map(Vec::as_slice) != value
                    && !writers()
                        .any(|o| *o != id && self.commits[*o].effect(*space, key) == Some(value))
            })
        })
    }

    /// What a read must not fall behind.
    pub(super) fn begin_read(&self) -> ReadBegan {
        ReadBegan { acknowledged_seq: self.acknowledged_seq(), moment: self.moment }
    }

    fn describe(&self, id: CommitId) -> String {
        let commit = &self.commits[id];
        format!("commit {id} ({} operations, {:?})", commit.ops.len(), commit.answer)
    }
}

/// The state of things when a read began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReadBegan {
    pub(super) acknowledged_seq: u64,
    moment: u64,
}

/// The first difference between two maps, in words.
pub(super) fn difference(
    space: SpaceId,
    expected: &BTreeMap<Vec<u8>, Vec<u8>>,
    read: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Option<String> {
    let keys: BTreeSet<_> = expected.keys().chain(read.keys()).collect();
    let differs = keys.iter().filter(|key| expected.get(**key) != read.get(**key));
    let number = differs.clone().count();
    let key = differs.into_iter().next()?;
    let (must, is) = (expected.get(*key), read.get(*key));
    Some(format!(
        "key {} of keyspace {space} must be {} and is {} ({number} keys differ)",
        Short(key),
        ShortValue(must.map(Vec::as_slice)),
        ShortValue(is.map(Vec::as_slice)),
    ))
}

/// Bytes, printed so that people can tell them apart.
pub(super) struct Short<'a>(pub(super) &'a [u8]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(20)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, "+{more}"),
        }
    }
}

/// A value or its absence. Values begin with their number.
pub(super) struct ShortValue<'a>(pub(super) Option<&'a [u8]>);

impl fmt::Display for ShortValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.and_then(|value| Some((value.first_chunk::<8>()?, value.len()))) {
            Some((number, len)) => {
                write!(f, "value #{} of {len} bytes", u64::from_le_bytes(*number))
            }
            None => write!(f, "{:?}", self.0),
        }
    }
}
