//! What the database must hold: an ordered map and the history of commits since it was last
//! seen whole.
//!
//! Clients run concurrently, so the order of their commits is not known from outside. The
//! engine tells the SeqNo of a commit that it acknowledges, and the SeqNo that a snapshot
//! shows; SeqNos have no gaps. So what a snapshot must hold follows exactly: every acknowledged
//! commit up to its SeqNo, none above, and in the gaps between those the commits whose answer
//! was never heard. Values are unique, so that there is one way to fill the gaps or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
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
    /// The start and the end of a half-open range.
    DeleteRange(SpaceId, Vec<u8>, Vec<u8>),
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
            Op::DeleteRange(space, start, end) => {
                let entries = contents.entry(*space).or_default();
                let mut covered = entries.split_off(start);
                let mut behind = covered.split_off(end);
                entries.append(&mut behind);
            }
        }
    }

    /// What the operation makes of a key: a value, nothing (`Some(None)`), or no difference.
    fn effect(&self, space: SpaceId, key: &[u8]) -> Option<Option<&[u8]>> {
        match self {
            Op::Put(s, k, value) if *s == space && k == key => Some(Some(value)),
            Op::Delete(s, k) if *s == space && k == key => Some(None),
            Op::DeleteRange(s, start, end)
                if *s == space && start.as_slice() <= key && key < end.as_slice() =>
            {
                Some(None)
            }
            _ => None,
        }
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
    pub(super) ops: Vec<Op>,
    pub(super) answer: Answer,
    /// It was to be acknowledged only once durable.
    sync: bool,
    submitted: u64,
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
        self.ops.iter().rev().find_map(|op| op.effect(space, key))
    }
}

/// The number of a commit in the model.
pub(super) type CommitId = usize;

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
    /// Acknowledged commits, by their first SeqNo.
    acknowledged: BTreeMap<u64, CommitId>,
    /// Counts what happens, so that before and after can be told.
    moment: u64,
    /// Commits up to this SeqNo are durable.
    durable_seq: u64,
    /// Power was lost, or as good as that, since the base.
    power_lost: bool,
    pub(super) spaces: BTreeMap<String, Space>,
    next_space: SpaceId,
    /// How many values were written: each is unique.
    pub(super) values: u64,
    /// How many operations each client did, over all boots.
    pub(super) client_ops: BTreeMap<usize, u64>,
    /// The session refuses writes since this moment.
    poisoned: Option<u64>,
    /// A database was created for sure: it can be opened from now on.
    pub(super) created: bool,
}

impl Model {
    pub(super) fn new() -> Model {
        let default = Space { now: Some(DEFAULT_SPACE), maybe: None };
        Model {
            spaces: BTreeMap::from([("default".into(), default)]),
            next_space: DEFAULT_SPACE + 1,
            ..Model::default()
        }
    }

    pub(super) fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    pub(super) fn new_space(&mut self) -> SpaceId {
        self.next_space += 1;
        self.next_space - 1
    }

    pub(super) fn submit(&mut self, ops: Vec<Op>, sync: bool) -> CommitId {
        let submitted = self.moment();
        let answer = Answer::InFlight;
        self.commits.push(Commit { ops, answer, sync, submitted, seen: false });
        self.commits.len() - 1
    }

    pub(super) fn acknowledge(&mut self, id: CommitId, last_seq: u64) -> Result<(), Broken> {
        self.moment();
        let poisoned = self.poisoned;
        let commit = &mut self.commits[id];
        let operations = commit.ops.len() as u64;
        commit.answer = Answer::Acknowledged(last_seq);
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
        Ok(())
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

    /// A crash: no answer will come to what is in flight.
    pub(super) fn crashed(&mut self, power_lost: bool) {
        for commit in &mut self.commits {
            if commit.answer == Answer::InFlight {
                commit.answer = Answer::Unknown;
            }
        }
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
    pub(super) fn recovered(&mut self, seq: u64, read: Contents) -> Result<(), Broken> {
        let required = self.required_seq();
        if seq < required {
            let how = if self.power_lost { "durably " } else { "" };
            let invariant = if seq < self.base.seq { "I-10" } else { "I-1" };
            return broken(
                invariant,
                format!("recovered up to SeqNo {seq}, but {required} was {how}acknowledged"),
            );
        }
        let order = self.explain(seq, &read, true)?;
        let lost_but_seen = (0..self.commits.len()).find(|id| {
            let commit = &self.commits[*id];
            commit.sync && commit.seen && !order.contains(id)
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
        self.base = State { contents: read, seq };
        self.reached = self.base.clone();
        self.durable_seq = seq;
        self.commits.clear();
        self.acknowledged.clear();
        self.power_lost = false;
        self.poisoned = None;
        Ok(())
    }

    /// Checks what a snapshot of a running database shows.
    pub(super) fn read_at(&mut self, seq: u64, floor: u64, read: &Contents) -> Result<(), Broken> {
        if seq < floor {
            return broken(
                "I-12",
                format!("a snapshot shows SeqNo {seq}, but {floor} was acknowledged before"),
            );
        }
        for id in self.explain(seq, read, false)? {
            self.commits[id].seen = true;
        }
        Ok(())
    }

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
    fn explain(
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

    /// Checks the value that a get returned between two moments.
    pub(super) fn read_key(
        &mut self,
        space: SpaceId,
        key: &[u8],
        got: Option<&[u8]>,
        began: &ReadBegan,
    ) -> Result<(), Broken> {
        let base = self.base.contents.get(&space).and_then(|entries| entries.get(key));
        let mut floor = None;
        for commit in &self.commits[..began.commits] {
            if commit.effect(space, key).is_some() {
                floor = floor.max(commit.last_seq().filter(|seq| *seq <= began.acknowledged_seq));
            }
        }
        let (mut explaining, mut poisoned) = (vec![], None);
        for (id, commit) in self.commits.iter().enumerate() {
            if commit.effect(space, key) != Some(got) {
                continue;
            }
            match commit.answer {
                Answer::Acknowledged(seq) if Some(seq) >= floor => return Ok(()),
                Answer::InFlight => explaining.push(id),
                Answer::Unknown => poisoned = Some(id),
                Answer::Acknowledged(_) | Answer::Refused => {}
            }
        }
        if floor.is_none() && base.map(Vec::as_slice) == got {
            return Ok(());
        }
        if let (Some(id), []) = (poisoned, &explaining[..]) {
            let commit = self.describe(id);
            return broken(
                "I-8",
                format!(
                    "{commit} is visible, though its client was told that the database is poisoned"
                ),
            );
        }
        match explaining[..] {
            [] => broken(
                "I-12",
                format!(
                    "key {} of keyspace {space} reads {}, which no commit allows; its newest acknowledged write has SeqNo {floor:?} (base {}: {})",
                    Short(key),
                    ShortValue(got),
                    self.base.seq,
                    ShortValue(base.map(Vec::as_slice))
                ),
            ),
            [only] => {
                self.commits[only].seen = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What a read must not fall behind.
    pub(super) fn begin_read(&self) -> ReadBegan {
        ReadBegan { commits: self.commits.len(), acknowledged_seq: self.acknowledged_seq() }
    }

    fn describe(&self, id: CommitId) -> String {
        let commit = &self.commits[id];
        format!("commit {id} ({} operations, {:?})", commit.ops.len(), commit.answer)
    }
}

/// The state of things when a read began.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadBegan {
    commits: usize,
    pub(super) acknowledged_seq: u64,
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
