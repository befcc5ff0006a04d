//! The reading verbs: how they are called, and what a result says about the keys.

use super::operation::{Bounds, Read, Walk, inside, key_bytes, within};
use lightning_db::{Database, Error, Keyspace, Result, Scan, Snapshot, ValueReader, ValueRef};
use std::{
    collections::BTreeMap,
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Bound,
    sync::Arc,
};

type Entry = (Vec<u8>, Vec<u8>);
type Bytes<'a> = Option<&'a [u8]>;

/// What can be read: the verbs that database, keyspace and snapshot share.
pub(super) trait Readable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    fn get_ref(&self, key: &[u8]) -> Result<Option<ValueRef>>;
    fn get_reader(&self, key: &[u8]) -> Result<Option<ValueReader>>;
    fn contains_key(&self, key: &[u8]) -> Result<bool>;
    fn get_batch(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>>;
    fn get_batch_with(&self, keys: &[Vec<u8>], with: &mut dyn FnMut(usize, Bytes)) -> Result<()>;
    fn first(&self) -> Result<Option<Entry>>;
    fn last(&self) -> Result<Option<Entry>>;
    fn scan(&self, start: Bytes, end: Bytes) -> Result<Scan>;
    fn scan_reverse(&self, start: Bytes, end: Bytes) -> Result<Scan>;
    fn scan_prefix(&self, prefix: &[u8]) -> Result<Scan>;
    fn range(&self, range: Bounds) -> Result<Scan>;
    fn iter(&self) -> Result<Scan>;
    fn for_each(&self, range: Bounds, with: &mut dyn FnMut(&[u8], &[u8])) -> Result<()>;
}

macro_rules! readable {
    ($($type:ty),*) => {$(
        impl Readable for $type {
            fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
                <$type>::get(self, key)
            }
            fn get_ref(&self, key: &[u8]) -> Result<Option<ValueRef>> {
                <$type>::get_ref(self, key)
            }
            fn get_reader(&self, key: &[u8]) -> Result<Option<ValueReader>> {
                <$type>::get_reader(self, key)
            }
            fn contains_key(&self, key: &[u8]) -> Result<bool> {
                <$type>::contains_key(self, key)
            }
            fn get_batch(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
                <$type>::get_batch(self, keys)
            }
            fn get_batch_with(
                &self,
                keys: &[Vec<u8>],
                with: &mut dyn FnMut(usize, Bytes),
            ) -> Result<()> {
                <$type>::get_batch_with(self, keys, with)
            }
            fn first(&self) -> Result<Option<Entry>> {
                <$type>::first(self)
            }
            fn last(&self) -> Result<Option<Entry>> {
                <$type>::last(self)
            }
            fn scan(&self, start: Bytes, end: Bytes) -> Result<Scan> {
                <$type>::scan(self, start, end)
            }
            fn scan_reverse(&self, start: Bytes, end: Bytes) -> Result<Scan> {
                <$type>::scan_reverse(self, start, end)
            }
            fn scan_prefix(&self, prefix: &[u8]) -> Result<Scan> {
                <$type>::scan_prefix(self, prefix)
            }
            fn range(&self, range: Bounds) -> Result<Scan> {
                <$type>::range(self, range)
            }
            fn iter(&self) -> Result<Scan> {
                <$type>::iter(self)
            }
            fn for_each(&self, range: Bounds, with: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
                <$type>::for_each(self, range, with)
            }
        }
    )*};
}

readable!(Database, Keyspace, Snapshot);

/// What a read said about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got {
    Value(Option<Vec<u8>>),
    Present(bool),
}

impl Got {
    /// The value that was read.
    pub(super) fn value(&self) -> Option<&Vec<u8>> {
        match self {
            Got::Value(value) => value.as_ref(),
            Got::Present(_) => None,
        }
    }

    pub(super) fn fits(&self, value: Bytes) -> bool {
        match self {
            Got::Value(got) => got.as_deref() == value,
            Got::Present(present) => *present == value.is_some(),
        }
    }
}

/// All that a read said.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Of single keys.
    pub(super) points: Vec<(Vec<u8>, Got)>,
    /// Within these bounds there are `entries` and no others.
    pub(super) covered: Vec<Bounds>,
    pub(super) entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is wrong with it whatever the database holds.
    pub(super) disorder: Option<String>,
    /// What ended it early. What it said before must be right all the same.
    pub(super) failed: Option<Error>,
}

impl Seen {
    /// What it says about each of the keys that it must say something about; `known` are those
    /// that may exist.
    pub(super) fn claims<'a>(
        &self,
        known: impl Iterator<Item = &'a Vec<u8>>,
    ) -> BTreeMap<Vec<u8>, Vec<Got>> {
        let mut claims: BTreeMap<Vec<u8>, Vec<Got>> = BTreeMap::new();
        for (key, got) in &self.points {
            claims.entry(key.clone()).or_default().push(got.clone());
        }
        for key in known.filter(|key| self.covers(key)) {
            claims.insert(key.clone(), vec![Got::Value(self.entries.get(key).cloned())]);
        }
        for (key, value) in &self.entries {
            claims.insert(key.clone(), vec![Got::Value(Some(value.clone()))]);
        }
        claims
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.covered.iter().any(|bounds| inside(bounds, key))
    }

    /// Whether it agrees with the contents of a keyspace; otherwise the key it does not agree in.
    pub(super) fn differs(&self, contents: &BTreeMap<Vec<u8>, Vec<u8>>) -> Option<Vec<u8>> {
        let known = self.covered.iter().flat_map(|bounds| within(contents, bounds));
        let claims = self.claims(known.map(|(key, _)| key));
        let wrong = claims.into_iter().find(|(key, got)| {
            let value = contents.get(key).map(Vec::as_slice);
            !got.iter().all(|got| got.fits(value))
        });
        wrong.map(|(key, _)| key)
    }
}

/// Does a read.
pub(super) fn perform(read: &Read, on: &dyn Readable) -> Result<Seen> {
    let all = || (Bound::Unbounded, Bound::Unbounded);
    match read {
        Read::Get(_) | Read::GetRef(_) | Read::GetReader(..) | Read::ContainsKey(_) => {
            point(read, on)
        }
        Read::GetBatch(_) | Read::GetBatchWith(_) => points(read, on),
        Read::First => Ok(end_of(on.first()?, |key| (Bound::Unbounded, Bound::Included(key)))),
        Read::Last => Ok(end_of(on.last()?, |key| (Bound::Included(key), Bound::Unbounded))),
        Read::Scan(start, end, way) => {
            let (start, end) = half_open(start, end);
            let scan = on.scan(start.as_deref(), end.as_deref())?;
            Ok(walk(scan, bounds(start, end), *way, false))
        }
        Read::ScanReverse(start, end, way) => {
            let (start, end) = half_open(start, end);
            let scan = on.scan_reverse(start.as_deref(), end.as_deref())?;
            Ok(walk(scan, bounds(start, end), *way, true))
        }
        Read::ScanPrefix(key, bytes, way) => {
            let mut prefix = key_bytes(*key);
            prefix.truncate(*bytes as usize);
            Ok(walk(on.scan_prefix(&prefix)?, prefixed(&prefix), *way, false))
        }
        Read::Range(range, way) => Ok(walk(on.range(range.bounds())?, range.bounds(), *way, false)),
        Read::Iter(way) => Ok(walk(on.iter()?, all(), *way, false)),
        Read::ForEach(range) => {
            let mut entries = vec![];
            let mut with = |key: &[u8], value: &[u8]| entries.push((key.to_vec(), value.to_vec()));
            let failed = on.for_each(range.bounds(), &mut with).err();
            let seen = scanned(entries, vec![], range.bounds(), failed.is_none());
            Ok(Seen { failed, ..seen })
        }
    }
}

/// Two keys as the ends of a range, in their order.
pub(super) fn half_open(
    start: &Option<u64>,
    end: &Option<u64>,
) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut start, mut end) = (start.map(key_bytes), end.map(key_bytes));
    if start > end && end.is_some() {
        std::mem::swap(&mut start, &mut end);
    }
    (start, end)
}

pub(super) fn bounds(start: Option<Vec<u8>>, end: Option<Vec<u8>>) -> Bounds {
    (start.map_or(Bound::Unbounded, Bound::Included), end.map_or(Bound::Unbounded, Bound::Excluded))
}

fn point(read: &Read, on: &dyn Readable) -> Result<Seen> {
    let (key, got) = match read {
        Read::GetRef(key) => {
            let found = on.get_ref(&key_bytes(*key))?;
            (key, Got::Value(found.map(|value| value.to_vec())))
        }
        Read::GetReader(key, piece) => {
            let reader = on.get_reader(&key_bytes(*key))?;
            (key, Got::Value(reader.map(|reader| read_pieces(reader, *piece)).transpose()?))
        }
        Read::ContainsKey(key) => (key, Got::Present(on.contains_key(&key_bytes(*key))?)),
        Read::Get(key) => (key, Got::Value(on.get(&key_bytes(*key))?)),
        _ => return Ok(Seen::default()),
    };
    Ok(Seen { points: vec![(key_bytes(*key), got)], ..Seen::default() })
}

/// Reads a value in pieces of so many bytes, its second half first.
fn read_pieces(mut reader: ValueReader, piece: u64) -> Result<Vec<u8>> {
    let len = reader.len();
    let middle = len / 2;
    let mut value = vec![0; len as usize];
    for (from, to) in [(middle, len), (0, middle)] {
        reader.seek(SeekFrom::Start(from)).map_err(unwrapped)?;
        let part = &mut value[from as usize..to as usize];
        for piece in part.chunks_mut(piece.max(1) as usize) {
            reader.read_exact(piece).map_err(unwrapped)?;
        }
    }
    Ok(value)
}

/// The database's error within one of a reader.
fn unwrapped(error: io::Error) -> Error {
    let (kind, inner) = (error.kind(), error.into_inner());
    let ours = inner.and_then(|inner| inner.downcast::<Error>().ok());
    ours.map_or_else(|| Error::Reader { source: Arc::new(kind.into()) }, |error| *error)
}

fn points(read: &Read, on: &dyn Readable) -> Result<Seen> {
    let (Read::GetBatch(keys) | Read::GetBatchWith(keys)) = read else {
        return Ok(Seen::default());
    };
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| key_bytes(*key)).collect();
    let mut values = vec![];
    let mut disorder = None;
    match read {
        Read::GetBatch(_) => values = on.get_batch(&keys)?,
        _ => on.get_batch_with(&keys, &mut |n, value| {
            if n != values.len() {
                disorder = Some(format!("get_batch_with told of key {n} out of turn"));
            }
            values.push(value.map(<[u8]>::to_vec));
        })?,
    }
    if values.len() != keys.len() {
        disorder = Some(format!("{} values for {} keys", values.len(), keys.len()));
    }
    let points = keys.into_iter().zip(values.into_iter().map(Got::Value)).collect();
    Ok(Seen { points, disorder, ..Seen::default() })
}

/// What `first` or `last` says.
pub(super) fn end_of(found: Option<Entry>, bounds: impl Fn(Vec<u8>) -> Bounds) -> Seen {
    let covered =
        found.as_ref().map_or((Bound::Unbounded, Bound::Unbounded), |e| bounds(e.0.clone()));
    Seen { covered: vec![covered], entries: found.into_iter().collect(), ..Seen::default() }
}

/// The bounds of all keys that begin with a prefix.
pub(super) fn prefixed(prefix: &[u8]) -> Bounds {
    let mut behind = prefix.to_vec();
    while behind.pop_if(|byte| *byte == 0xff).is_some() {}
    if let Some(last) = behind.last_mut() {
        *last += 1;
    }
    let end = if behind.is_empty() { Bound::Unbounded } else { Bound::Excluded(behind) };
    (Bound::Included(prefix.to_vec()), end)
}

/// Walks a scan over `bounds` that is reversed or not.
fn walk(mut scan: Scan, bounds: Bounds, way: Walk, reversed: bool) -> Seen {
    let (mut front, mut back) = (vec![], vec![]);
    let mut ended = false;
    for n in 0..way.entries {
        let from_back = way.ends.is_back(n);
        let owned = |entry: Option<(&[u8], &[u8])>| entry.map(|(k, v)| (k.to_vec(), v.to_vec()));
        let next = match (way.lent, from_back) {
            (false, false) => scan.next().transpose(),
            (false, true) => scan.next_back().transpose(),
            (true, false) => scan.next_ref().map(owned),
            (true, true) => scan.next_back_ref().map(owned),
        };
        let entry = match next {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                ended = true;
                break;
            }
            Err(error) => {
                let seen = scanned(front, back, bounds, false);
                return Seen { failed: Some(error), ..seen };
            }
        };
        if from_back != reversed { back.push(entry) } else { front.push(entry) }
    }
    scanned(front, back, bounds, ended)
}

/// What a scan says: the entries it returned from the front and from the back, each in the order
/// in which they came, and whether it came to its end.
pub(super) fn scanned(
    front: Vec<Entry>,
    mut back: Vec<Entry>,
    bounds: Bounds,
    ended: bool,
) -> Seen {
    let mut covered = vec![];
    if ended {
        covered.push(bounds.clone());
    } else {
        if let Some((key, _)) = front.last() {
            covered.push((bounds.0.clone(), Bound::Included(key.clone())));
        }
        if let Some((key, _)) = back.last() {
            covered.push((Bound::Included(key.clone()), bounds.1.clone()));
        }
    }
    back.reverse();
    let all: Vec<Entry> = front.into_iter().chain(back).collect();
    let outside = all.iter().find(|(key, _)| !inside(&bounds, key));
    let mut disorder = outside.map(|(key, _)| format!("a scan of {bounds:?} returned key {key:?}"));
    if let Some(pair) = all.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        disorder = Some(format!("a scan returned key {:?} before {:?}", pair[0].0, pair[1].0));
    }
    Seen { covered, entries: all.into_iter().collect(), disorder, ..Seen::default() }
}
