//! The conflict window: which keys were written by the newest commits, so that a transaction can be told
//! whether what it read, or is about to write, was written since by another.
//!
//! It lives under the sequencer lock, where each commit adds its [`Footprint`] in the order of SeqNos, and
//! only while there are transactions that it could fail: a database without any pays one branch for each
//! commit. It has two parts, and reads no file and no memtable:
//!
//! - [`Points`], the newest SeqNo for the hash of a key: rows of eight, of which a new one takes the
//!   place of the oldest. So a row does not forget without saying so: whatever it has forgotten is older than
//!   the oldest that it holds.
//! - the footprints themselves, newest last, bounded in bytes: for ranges, and for what came since a
//!   transaction looked last.
//!
//! Both may call something a conflict that is none, never the other way round: below [`Window::floor`], and
//! below what was forgotten, everything is one.

use crate::{
    env::Words,
    error::Result,
    format::ops::{Op, Ops},
    iter::successor,
    sync::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    types::{KeyspaceId, SeqNo},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    ops::Deref,
    sync::Arc,
};

/// SeqNos in a row of [`Points`]: a line of the processor's cache.
const ROW: usize = 8;
/// A commit that touches more keys than this is not entered into the points one by one under the lock.
const WIDE: usize = 1024;
/// Bytes of footprints that are kept, at most.
const RECENT_BYTES: usize = 4 << 20;
/// What a footprint costs besides its bytes, about.
const RECENT_OVERHEAD: usize = 64;
/// A footprint that is no longer needs no memory of its own.
const SHORT_BYTES: usize = 54;

/// What a commit touches: its keys and ranges, without values. Made outside the sequencer lock.
#[derive(Clone)]
pub(crate) struct Footprint {
    bytes: Bytes,
    touches: u32,
    /// How many of them are ranges.
    ranges: u32,
}

#[derive(Clone)]
enum Bytes {
    Short(u8, [u8; SHORT_BYTES]),
    Long(Arc<[u8]>),
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Short(len, bytes) => &bytes[..*len as usize],
            Bytes::Long(bytes) => bytes,
        }
    }
}

/// One key or range that a commit touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch<'a> {
    Key { hash: u64, keyspace: KeyspaceId, key: &'a [u8] },
    Range { keyspace: KeyspaceId, start: &'a [u8], end: Option<&'a [u8]> },
}

const KEY: u8 = 0;
const RANGE: u8 = 1;
const RANGE_WITHOUT_END: u8 = 2;

impl Footprint {
    /// Of operations that were checked.
    pub(crate) fn of(payload: &[u8]) -> Footprint {
        let ops = || Ops::new(payload).flatten();
        let len = ops().map(encoded_len).sum();
        let mut long = vec![];
        let mut short = [0; SHORT_BYTES];
        let out = match short.get_mut(..len) {
            Some(short) => short,
            None => {
                long.resize(len, 0);
                &mut long[..]
            }
        };
        let (mut at, mut touches, mut ranges) = (0, 0, 0);
        for op in ops() {
            let touch = Touch::of(op);
            at += touch.encode(&mut out[at..]);
            touches += 1;
            ranges += u32::from(matches!(touch, Touch::Range { .. }));
        }
        let bytes = match long.is_empty() {
            true => Bytes::Short(len as u8, short),
            false => Bytes::Long(Arc::from(long)),
        };
        Footprint { bytes, touches, ranges }
    }

    pub(crate) fn touches(&self) -> impl Iterator<Item = Touch<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (touch, behind) = Touch::decode(rest)?;
            rest = behind;
            Some(touch)
        })
    }
}

/// How long an operation is in a footprint.
fn encoded_len(op: Op<'_>) -> usize {
    let (key, end) = match op {
        Op::Put { key, .. } | Op::Blob { key, .. } | Op::Delete { key, .. } => (key, None),
        Op::RangeDelete { start, end, .. } => (start, end),
    };
    TOUCH_BYTES + key.len() + end.map_or(0, <[u8]>::len)
}

/// Bytes of a touch besides its keys.
const TOUCH_BYTES: usize = 1 + 8 + 4 + 4 + 4;

impl<'a> Touch<'a> {
    fn of(op: Op<'a>) -> Touch<'a> {
        match op {
            Op::Put { keyspace, key, .. }
            | Op::Blob { keyspace, key, .. }
            | Op::Delete { keyspace, key } => {
                Touch::Key { hash: keyspace.hash(key), keyspace, key }
            }
            Op::RangeDelete { keyspace, start, end } => Touch::Range { keyspace, start, end },
        }
    }

    fn parts(&self) -> (u8, u64, KeyspaceId, &'a [u8], &'a [u8]) {
        match *self {
            Touch::Key { hash, keyspace, key } => (KEY, hash, keyspace, key, b""),
            Touch::Range { keyspace, start, end: Some(end) } => (RANGE, 0, keyspace, start, end),
            Touch::Range { keyspace, start, end: None } => {
                (RANGE_WITHOUT_END, 0, keyspace, start, b"")
            }
        }
    }

    fn encode(&self, out: &mut [u8]) -> usize {
        let (kind, hash, keyspace, key, end) = self.parts();
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&[kind]);
        put(&hash.to_le_bytes());
        put(&keyspace.0.to_le_bytes());
        put(&(key.len() as u32).to_le_bytes());
        put(&(end.len() as u32).to_le_bytes());
        put(key);
        put(end);
        at
    }

    fn decode(bytes: &'a [u8]) -> Option<(Touch<'a>, &'a [u8])> {
        let (kind, rest) = bytes.split_first()?;
        let (hash, rest) = rest.split_first_chunk()?;
        let (keyspace, rest) = rest.split_first_chunk()?;
        let (key_len, rest) = rest.split_first_chunk()?;
        let (end_len, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
        let (end, rest) = rest.split_at_checked(u32::from_le_bytes(*end_len) as usize)?;
        let keyspace = KeyspaceId(u32::from_le_bytes(*keyspace));
        let touch = match *kind {
            KEY => Touch::Key { hash: u64::from_le_bytes(*hash), keyspace, key },
            RANGE => Touch::Range { keyspace, start: key, end: Some(end) },
            _ => Touch::Range { keyspace, start: key, end: None },
        };
        Some((touch, rest))
    }
}

/// For the hash of a key, the newest commit that may have touched the key.
pub(crate) struct Points {
    /// SeqNo and, in the low byte, a tag of the hash. 0: nothing.
    words: Words,
}

impl Points {
    /// Of about so many keys, at least one row.
    pub(crate) fn new(keys: usize) -> Result<Arc<Points>> {
        let rows = (keys / ROW).next_power_of_two();
        let words = Words::zeroed(rows * ROW, "the newest commits of keys")?;
        words.memory().populate(0, words.memory().len());
        Ok(Arc::new(Points { words }))
    }

    #[inline]
    fn row_at(&self, hash: u64) -> usize {
        ((hash >> 8) as usize & (self.words.len() / ROW - 1)) * ROW
    }

    #[inline]
    fn row(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        let at = self.row_at(hash);
        (at..at + ROW).map(|i| self.words.get(i))
    }

    /// Brings near what recording a hash writes.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.words.prefetch(self.row_at(hash));
    }

    /// Only under the sequencer lock, in the order of SeqNos.
    #[inline]
    fn record(&self, hash: u64, seq: SeqNo) {
        let mut oldest: Option<(u64, &AtomicU64)> = None;
        for place in self.row(hash) {
            let held = place.load(Relaxed);
            if held != 0 && held as u8 == hash as u8 {
                oldest = Some((held, place));
                break;
            }
            if oldest.is_none_or(|(oldest, _)| held < oldest) {
                oldest = Some((held, place));
            }
        }
        if let Some((_, place)) = oldest {
            place.store(seq.0 << 8 | u64::from(hash as u8), Release);
        }
    }

    /// No commit behind what this returns has touched a key of this hash: of those that the caller knows to
    /// be recorded, because it has held the sequencer lock since.
    #[inline]
    fn newest(&self, hash: u64) -> SeqNo {
        let mut newest = 0;
        for place in self.row(hash) {
            let held = place.load(Acquire);
            if held as u8 == hash as u8 {
                newest = newest.max(held >> 8);
            }
        }
        crate::sync::point("points.newest");
        // Only then: others go on entering commits. What was taken out before it was looked at above was the
        // oldest then, so all that is found here is newer.
        let oldest = self.row(hash).map(|place| place.load(Acquire) >> 8).min().unwrap_or(0);
        // What is no longer there is older than everything that is.
        SeqNo(newest.max(oldest))
    }
}

/// A key that must not have been touched since some SeqNo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point<'a> {
    pub(crate) hash: u64,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: &'a [u8],
    pub(crate) since: SeqNo,
}

impl Point<'_> {
    fn lost(&self) -> Lost {
        Lost { keyspace: self.keyspace, start: self.key.to_vec(), end: None }
    }
}

/// A range in which no key must have been touched since some SeqNo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) start: &'a [u8],
    pub(crate) end: Option<&'a [u8]>,
    pub(crate) since: SeqNo,
}

impl Span<'_> {
    fn lost(&self) -> Lost {
        let end = Some(self.end.map(<[u8]>::to_vec));
        Lost { keyspace: self.keyspace, start: self.start.to_vec(), end }
    }

    fn contains(&self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        self.keyspace == keyspace && self.start <= key && self.end.is_none_or(|end| key < end)
    }

    fn overlaps(&self, keyspace: KeyspaceId, start: &[u8], end: Option<&[u8]>) -> bool {
        self.keyspace == keyspace
            && self.end.is_none_or(|e| start < e)
            && end.is_none_or(|e| self.start < e)
    }
}

/// What a transaction counts on that another commit touched: the key or the whole range, so that whoever locks it
/// cannot lose it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lost {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) start: Vec<u8>,
    /// Of a range: where it ends, if it does. None: it is one key.
    pub(crate) end: Option<Option<Vec<u8>>>,
}

impl Lost {
    /// The same, or a range for each keyspace that holds all of it if it is too much to be locked one by one.
    pub(crate) fn few(mut lost: Vec<Lost>) -> Vec<Lost> {
        if lost.len() <= LOST_MAX {
            return lost;
        }
        let mut around: BTreeMap<KeyspaceId, (Vec<u8>, Option<Vec<u8>>)> = BTreeMap::new();
        for Lost { keyspace, start, end } in lost.drain(..) {
            let end = end.unwrap_or_else(|| Some(successor(&start)));
            match around.entry(keyspace) {
                Entry::Vacant(place) => _ = place.insert((start, end)),
                Entry::Occupied(mut place) => {
                    let (first, last) = place.get_mut();
                    *first = std::mem::take(first).min(start);
                    *last = last.take().zip(end).map(|(last, end)| last.max(end));
                }
            }
        }
        let range = |(keyspace, (start, end))| Lost { keyspace, start, end: Some(end) };
        around.into_iter().map(range).collect()
    }

    fn has(&self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        self.keyspace == keyspace
            && match &self.end {
                None => self.start == key,
                Some(end) => *self.start <= *key && end.as_ref().is_none_or(|end| key < &**end),
            }
    }

    fn has_all(&self, span: &Span<'_>) -> bool {
        let Some(end) = &self.end else { return false };
        let to_the_end =
            end.as_ref().is_none_or(|end| span.end.is_some_and(|span_end| span_end <= &**end));
        self.keyspace == span.keyspace && *self.start <= *span.start && to_the_end
    }
}

/// What must hold when a transaction gets its SeqNo.
#[derive(Debug, Default)]
pub(crate) struct Checks<'a> {
    /// In the order of their hashes.
    points: Vec<Point<'a>>,
    spans: Vec<Span<'a>>,
    /// Where there is more that nobody can touch, but a bulk load may.
    locked_in: BTreeSet<KeyspaceId>,
    /// It holds for all commits up to here.
    through: SeqNo,
    /// What was found to have been touched; all of it if that is not known.
    pub(crate) lost: Vec<Lost>,
    /// The points called something a conflict that the footprints, if they are known, may know better.
    doubtful: bool,
    /// How often there was too much to look at under the lock.
    behind: u32,
}

/// How the newest commits stand to what a transaction counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They touch nothing of it.
    Holds,
    /// One does, or may.
    Conflict,
    /// There are too many to look at under the lock: see [`Window::after`].
    Behind,
}

impl<'a> Checks<'a> {
    /// Nothing is checked yet of what came behind the oldest SeqNo that anything must hold since.
    pub(crate) fn new(mut points: Vec<Point<'a>>, spans: Vec<Span<'a>>) -> Checks<'a> {
        points.sort_unstable_by_key(|point| point.hash);
        let oldest = points.iter().map(|p| p.since).chain(spans.iter().map(|s| s.since)).min();
        let through = oldest.unwrap_or(SeqNo::MAX);
        Checks { points, spans, through, ..Checks::default() }
    }

    /// Whether no commit can touch any of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty() && self.spans.is_empty()
    }

    /// Whether nothing at all can.
    pub(crate) fn is_void(&self) -> bool {
        self.is_empty() && self.locked_in.is_empty()
    }

    /// Whether a commit touches nothing of it. It becomes part of what is checked.
    pub(crate) fn pass(&mut self, seq: SeqNo, footprint: &Footprint) -> bool {
        self.lost.extend(footprint.touches().find_map(|touch| self.touched(seq, touch)));
        self.through = self.through.max(seq);
        self.lost.is_empty()
    }

    fn touched(&self, seq: SeqNo, touch: Touch<'_>) -> Option<Lost> {
        match touch {
            Touch::Key { hash, keyspace, key } => {
                let from = self.points.partition_point(|point| point.hash < hash);
                let mut same = self.points[from..].iter().take_while(|point| point.hash == hash);
                let point = same.find(|point| point.since < seq).map(Point::lost);
                let mut spans = self.spans.iter();
                let mut span = || spans.find(|s| s.since < seq && s.contains(keyspace, key));
                point.or_else(|| span().map(Span::lost))
            }
            Touch::Range { keyspace, start, end } => {
                let touched = Span { keyspace, start, end, since: seq };
                let mut points = self.points.iter();
                let point = points.find(|p| p.since < seq && touched.contains(p.keyspace, p.key));
                let mut spans = self.spans.iter();
                let mut span = || spans.find(|s| s.since < seq && s.overlaps(keyspace, start, end));
                point.map(Point::lost).or_else(|| span().map(Span::lost))
            }
        }
    }

    /// How many comparisons a commit takes, about.
    fn work(&self, footprint: &Footprint) -> usize {
        let (touches, ranges) = (footprint.touches as usize, footprint.ranges as usize);
        touches * (1 + self.spans.len()) + ranges * self.points.len()
    }

    /// Whether something that must hold lies in a keyspace.
    pub(crate) fn concern(&self, id: KeyspaceId) -> bool {
        let points = self.points.iter().map(|point| point.keyspace);
        let mut all = points.chain(self.spans.iter().map(|span| span.keyspace));
        self.locked_in.contains(&id) || all.any(|keyspace| keyspace == id)
    }

    fn lose(&mut self, point: usize) -> Verdict {
        self.lost.push(self.points[point].lost());
        Verdict::Conflict
    }

    /// Nobody knows what was touched: whoever tries again needs all of it, as a few ranges if it is many keys.
    pub(crate) fn lose_all(&mut self) -> Verdict {
        self.lost.extend(self.spans.iter().map(Span::lost));
        self.lost.extend(self.points.iter().map(Point::lost));
        self.lost = Lost::few(std::mem::take(&mut self.lost));
        Verdict::Conflict
    }

    /// Takes out what nobody else can have touched, as its locks are `held`.
    pub(crate) fn without_locked(mut self, held: &[Lost]) -> Checks<'a> {
        if held.is_empty() {
            return self;
        }
        let is_held = |point: &mut Point<'_>| held.iter().any(|h| h.has(point.keyspace, point.key));
        let points = self.points.extract_if(.., is_held).map(|point| point.keyspace);
        self.locked_in.extend(points);
        let is_held = |span: &mut Span<'_>| held.iter().any(|h| h.has_all(span));
        let spans = self.spans.extract_if(.., is_held).map(|span| span.keyspace);
        self.locked_in.extend(spans);
        self
    }
}

/// Keys that a transaction locks one by one when it is tried again, at most, if it is not known what it lost.
const LOST_MAX: usize = 256;
/// Commits looked at under the sequencer lock, at most.
const DELTA: usize = 32;
/// Comparisons made under it, at most; but twice as many each time that a transaction has caught up with the rest
/// and was left behind again.
const DELTA_WORK: usize = 1024;

/// What was written by the newest commits.
pub(crate) struct Window {
    points: Arc<Points>,
    recent: VecDeque<(SeqNo, Footprint)>,
    recent_bytes: usize,
    recent_max: usize,
    /// Commits up to here may be missing in `recent`.
    forgotten: SeqNo,
    /// Commits up to here may be missing altogether.
    floor: SeqNo,
    /// The newest commit that the points do not tell of.
    wide: SeqNo,
    /// Commits since there was a transaction.
    idle: u32,
}

impl Window {
    /// A window that knows of no commit up to `floor`; what the points tell of those does not matter. `short`: one that forgets soon, for tests.
    pub(crate) fn new(points: Arc<Points>, floor: SeqNo, short: bool) -> Window {
        Window {
            points,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_max: if short { 1 << 10 } else { RECENT_BYTES },
            forgotten: floor,
            floor,
            wide: floor,
            idle: 0,
        }
    }

    /// Adds a commit, the newest.
    pub(crate) fn record(&mut self, seq: SeqNo, footprint: Footprint) {
        match footprint.touches as usize > WIDE {
            true => {
                crate::sync::sometimes("window: a commit touches many keys");
                self.wide = seq;
            }
            false => {
                for touch in footprint.touches() {
                    match touch {
                        Touch::Key { hash, .. } => self.points.record(hash, seq),
                        Touch::Range { .. } => self.wide = seq,
                    }
                }
            }
        }
        self.recent_bytes += footprint.bytes.len() + RECENT_OVERHEAD;
        self.recent.push_back((seq, footprint));
        while self.recent_bytes > self.recent_max
            && let Some((seq, footprint)) = self.recent.pop_front()
        {
            crate::sync::sometimes("window: forgets a commit");
            self.recent_bytes -= footprint.bytes.len() + RECENT_OVERHEAD;
            self.forgotten = seq;
        }
    }

    /// Counts commits without a transaction to fail. Returns whether there were so many that the window is not
    /// worth its while.
    pub(crate) fn is_idle(&mut self, transactions: usize, max: u32) -> bool {
        self.idle = if transactions == 0 { self.idle + 1 } else { 0 };
        self.idle > max
    }

    /// Looks at the commits that `checks` has not seen, if they are few.
    pub(crate) fn judge(&self, checks: &mut Checks<'_>) -> Verdict {
        if checks.through < self.floor {
            return checks.lose_all();
        }
        if checks.through < self.forgotten {
            return Verdict::Behind;
        }
        // Usually there are none, or few.
        let patience = checks.behind.min(16);
        let (mut behind, mut work) = (0, 0);
        for (seq, footprint) in self.recent.iter().rev() {
            if *seq <= checks.through {
                break;
            }
            (behind, work) = (behind + 1, work + checks.work(footprint));
            if behind > DELTA << patience || work > DELTA_WORK << patience {
                crate::sync::sometimes("window: too much to look at under the lock");
                checks.behind += 1;
                return Verdict::Behind;
            }
        }
        let unseen = self.recent.range(self.recent.len() - behind..);
        for (seq, footprint) in unseen {
            if !checks.pass(*seq, footprint) {
                return Verdict::Conflict;
            }
        }
        Verdict::Holds
    }

    /// For checks that are behind: what is to be looked at without the lock.
    pub(crate) fn after(&self, checks: &Checks<'_>, newest: SeqNo) -> Backlog {
        if checks.through < self.floor {
            return Backlog::Forgotten;
        }
        // The points tell of all commits at once, but not of ranges.
        let known = checks.through >= self.forgotten;
        if checks.spans.is_empty() && self.wide <= checks.through && !(checks.doubtful && known) {
            return Backlog::Points { points: Arc::clone(&self.points), newest, known };
        }
        if !known {
            return Backlog::Forgotten;
        }
        let from = self.recent.partition_point(|r| r.0 <= checks.through);
        Backlog::Footprints(self.recent.range(from..).take(DELTA * 8).cloned().collect())
    }
}

/// Commits that are to be looked at without the lock.
pub(crate) enum Backlog {
    /// Some of them are not known any more.
    Forgotten,
    /// All up to a SeqNo. What is doubtful, their footprints tell if they are known.
    Points { points: Arc<Points>, newest: SeqNo, known: bool },
    /// The oldest of them.
    Footprints(Vec<(SeqNo, Footprint)>),
}

impl Backlog {
    /// Looks at them.
    pub(crate) fn judge(&self, checks: &mut Checks<'_>) -> Verdict {
        match self {
            Backlog::Forgotten => {
                crate::sync::sometimes("window: a transaction is older than what it knows");
                checks.lose_all()
            }
            Backlog::Points { points, newest, known } => {
                let touched = |point: &Point<'_>| points.newest(point.hash) > point.since;
                match checks.points.iter().position(touched) {
                    Some(_) if *known && !checks.doubtful => {
                        crate::sync::sometimes("window: two keys look like one");
                        checks.doubtful = true;
                        Verdict::Behind
                    }
                    Some(at) => checks.lose(at),
                    None => {
                        checks.through = *newest;
                        Verdict::Holds
                    }
                }
            }
            Backlog::Footprints(commits) => {
                let holds = commits.iter().all(|(seq, footprint)| checks.pass(*seq, footprint));
                if holds { Verdict::Holds } else { Verdict::Conflict }
            }
        }
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::sync::{Mutex, model::explore};
    use shuttle::thread;

    /// More keys than there are places in the row: commits go on pushing each other out while others look.
    const KEYS: u64 = 2 * ROW as u64;

    /// Whoever has held the sequencer lock since a commit was recorded is told of it, or of a newer one.
    #[test]
    fn shuttle_points_miss_no_commit_that_was_recorded_before() {
        explore(|| {
            let points = Points::new(ROW).unwrap();
            let sequencer = Arc::new(Mutex::new([0; KEYS as usize]));
            let writer = {
                let (points, sequencer) = (points.clone(), sequencer.clone());
                thread::spawn(move || {
                    for n in 1..=3 * KEYS / 2 {
                        let mut known = sequencer.lock();
                        points.record(n % KEYS, SeqNo(n));
                        known[(n % KEYS) as usize] = n;
                    }
                })
            };
            let readers: Vec<_> = (0..2)
                .map(|first| {
                    let (points, sequencer) = (points.clone(), sequencer.clone());
                    thread::spawn(move || {
                        for key in [first, first + 9, first + 2] {
                            let known = sequencer.lock()[key as usize];
                            let newest = points.newest(key).0;
                            assert!(newest >= known, "key {key}: {newest}, and {known} was before");
                        }
                    })
                })
                .collect();
            readers.into_iter().for_each(|t| t.join().unwrap());
            writer.join().unwrap();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: KeyspaceId = KeyspaceId(1);

    fn footprint(ops: &[Op<'_>]) -> Footprint {
        let mut payload = vec![0; ops.iter().map(Op::encoded_len).sum()];
        let mut at = 0;
        for op in ops {
            op.encode(&mut payload[at..at + op.encoded_len()]);
            at += op.encoded_len();
        }
        Footprint::of(&payload)
    }

    fn put(key: &[u8]) -> Footprint {
        footprint(&[Op::Put { keyspace: A, key, value: b"value" }])
    }

    fn point(key: &[u8], since: u64) -> Point<'_> {
        Point { hash: A.hash(key), keyspace: A, key, since: SeqNo(since) }
    }

    fn span<'a>(start: &'a [u8], end: Option<&'a [u8]>, since: u64) -> Span<'a> {
        Span { keyspace: A, start, end, since: SeqNo(since) }
    }

    fn window(keys: usize, short: bool) -> Window {
        Window::new(Points::new(keys).unwrap(), SeqNo(10), short)
    }

    /// What the window says in the end, however often it has to be asked.
    fn verdict(window: &Window, mut checks: Checks<'_>, newest: u64) -> (Verdict, Vec<Lost>) {
        for _ in 0..10_000 {
            let verdict = match window.judge(&mut checks) {
                Verdict::Behind => window.after(&checks, SeqNo(newest)).judge(&mut checks),
                other => return (other, checks.lost),
            };
            if verdict == Verdict::Conflict {
                return (verdict, checks.lost);
            }
        }
        panic!("it never comes to an end");
    }

    #[test]
    fn footprints_come_back_as_they_were() {
        let long = [7; 2000];
        let ops = [
            Op::Put { keyspace: A, key: b"k", value: &long },
            Op::Delete { keyspace: KeyspaceId(2), key: &long },
            Op::RangeDelete { keyspace: A, start: b"a", end: Some(b"b") },
            Op::RangeDelete { keyspace: A, start: b"", end: None },
        ];
        let footprint = footprint(&ops);
        let touches: Vec<_> = footprint.touches().collect();
        assert_eq!(touches, ops.map(Touch::of));
        assert_eq!(footprint.touches, 4);
    }

    #[test]
    fn only_what_was_touched_since_is_a_conflict() {
        let mut window = window(1024, false);
        window.record(SeqNo(11), put(b"a"));
        window.record(
            SeqNo(12),
            footprint(&[Op::RangeDelete { keyspace: A, start: b"m", end: Some(b"p") }]),
        );
        let holds = |points: Vec<_>, spans: Vec<_>| {
            verdict(&window, Checks::new(points, spans), 12).0 == Verdict::Holds
        };
        assert!(holds(vec![point(b"b", 10)], vec![]));
        assert!(!holds(vec![point(b"a", 10)], vec![]));
        assert!(holds(vec![point(b"a", 11)], vec![]));
        assert!(!holds(vec![point(b"n", 11)], vec![]));
        assert!(holds(vec![point(b"p", 11)], vec![]));
        assert!(holds(vec![point(b"n", 12)], vec![]));
        assert!(!holds(vec![], vec![span(b"", Some(b"b"), 10)]));
        assert!(holds(vec![], vec![span(b"b", Some(b"m"), 10)]));
        assert!(!holds(vec![], vec![span(b"o", None, 10)]));
        assert!(holds(vec![], vec![span(b"p", None, 10)]));
        let other = Span { keyspace: KeyspaceId(2), ..span(b"", None, 10) };
        assert!(holds(vec![], vec![other]));
        // What it does not know of is a conflict.
        assert!(!holds(vec![point(b"never touched", 9)], vec![]));
        let (_, lost) = verdict(&window, Checks::new(vec![point(b"a", 10)], vec![]), 12);
        assert_eq!(lost, [Lost { keyspace: A, start: b"a".to_vec(), end: None }]);
        // What it read is what it lost, not what the other wrote.
        for (start, end) in [(&b""[..], Some(&b"b"[..])), (b"o", None)] {
            let (_, lost) = verdict(&window, Checks::new(vec![], vec![span(start, end, 10)]), 12);
            let end = Some(end.map(<[u8]>::to_vec));
            assert_eq!(lost, [Lost { keyspace: A, start: start.to_vec(), end }]);
        }
        let (_, lost) = verdict(&window, Checks::new(vec![point(b"n", 10)], vec![]), 12);
        assert_eq!(lost, [Lost { keyspace: A, start: b"n".to_vec(), end: None }]);
    }

    /// Under the lock a commit is only looked at if that is quick; but who catches up and is left behind again and
    /// again has its turn.
    #[test]
    fn much_to_look_at_is_not_looked_at_under_the_lock() {
        let mut window = window(1024, false);
        let keys: Vec<_> = (0..200_u32).map(u32::to_be_bytes).collect();
        let ops: Vec<_> = keys.iter().map(|key| Op::Delete { keyspace: A, key }).collect();
        window.record(SeqNo(11), footprint(&ops));
        let few = Checks::new(vec![], vec![span(b"x", Some(b"y"), 10)]);
        assert_eq!(window.judge(&mut { few }), Verdict::Holds);
        let bounds: Vec<_> = (0..99_u8).map(|n| ([b'x', n], [b'x', n + 1])).collect();
        let spans = bounds.iter().map(|(start, end)| span(start, Some(end), 10)).collect();
        let mut many = Checks::new(vec![], spans);
        for tries in 0.. {
            match window.judge(&mut many) {
                Verdict::Behind => assert!(tries < 16, "it never gets its turn"),
                other => {
                    assert_eq!(other, Verdict::Holds);
                    assert!(tries > 0, "20,000 comparisons under the lock");
                    break;
                }
            }
        }
    }

    /// However little it remembers, it never misses a conflict.
    #[test]
    fn what_is_forgotten_is_a_conflict() {
        for (keys, short) in [(8, false), (8, true), (1 << 14, true), (1 << 14, false)] {
            let mut window = window(keys, short);
            let commits = 3000_u64;
            for n in 0..commits {
                window.record(SeqNo(11 + n), put(&(n % 500).to_be_bytes()));
            }
            let newest = 10 + commits;
            let (mut held, mut conflicts) = (0, 0);
            for since in (10..=newest).step_by(37) {
                for n in (0..600_u64).step_by(13) {
                    let key = n.to_be_bytes();
                    let last = (n < 500).then(|| newest - (commits - 1 - n) % 500);
                    let touched = last.is_some_and(|last| last > since);
                    let checks = Checks::new(vec![point(&key, since)], vec![]);
                    match verdict(&window, checks, newest).0 {
                        Verdict::Holds => {
                            held += 1;
                            assert!(!touched, "{n} since {since} with {keys} keys");
                        }
                        _ => conflicts += u32::from(!touched),
                    }
                }
            }
            assert!(held > 0, "{keys} keys: all is a conflict");
            if !short {
                assert_eq!(conflicts, 0, "{keys} keys: what is remembered is not doubted");
            }
        }
    }

    #[test]
    fn a_commit_of_many_keys_is_looked_at_whole() {
        let mut window = window(1 << 14, false);
        let keys: Vec<_> = (0..2000_u32).map(u32::to_be_bytes).collect();
        let ops: Vec<_> = keys.iter().map(|key| Op::Delete { keyspace: A, key }).collect();
        window.record(SeqNo(2010), footprint(&ops));
        (0..100_u64).for_each(|n| window.record(SeqNo(2011 + n), put(b"other")));
        let asked = |key| verdict(&window, Checks::new(vec![point(key, 10)], vec![]), 2110).0;
        assert_eq!(asked(&keys[1999]), Verdict::Conflict);
        assert_eq!(asked(b"beside"), Verdict::Holds);
    }
}
