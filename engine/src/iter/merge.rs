//! Many sorted places seen as one: for each key its newest visible value.

use super::{Bounds, Cursor, Direction, Entry, tombstones::RangeTombstones};
use crate::{
    error::Result,
    types::{Kind, SeqNo},
};
use std::{cmp::Ordering, sync::Arc};

/// The place a merge reads from: a cursor, and the range tombstones that the place carries.
pub(crate) struct Source {
    pub(crate) cursor: Box<dyn Cursor + Send>,
    pub(crate) tombstones: Arc<RangeTombstones>,
}

/// Walks the newest versions, not above `visible`, of the keys within `bounds`, in one direction.
/// Sources stand newest first; of two entries of one key the one with the higher SeqNo is newer.
pub(crate) struct Merge {
    sources: Vec<Source>,
    visible: SeqNo,
    direction: Direction,
    bounds: Bounds,
    /// The entry that the merge stands on, copied from the source: its cursor has moved on.
    key: Vec<u8>,
    value: Vec<u8>,
    seq: SeqNo,
    kind: Kind,
    started: bool,
    /// Whether any source carries range tombstones.
    tombstones: bool,
}

/// What a [`Merge`] stands on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merged<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) seq: SeqNo,
    pub(crate) kind: Kind,
    /// A newer range delete covers the entry.
    pub(crate) covered: bool,
}

impl Merge {
    pub(crate) fn new(
        sources: Vec<Source>,
        visible: SeqNo,
        direction: Direction,
        bounds: Bounds,
    ) -> Merge {
        let tombstones = sources.iter().any(|s| !s.tombstones.is_empty());
        Merge {
            sources,
            visible,
            direction,
            bounds,
            key: vec![],
            value: vec![],
            seq: SeqNo(0),
            kind: Kind::Put,
            started: false,
            tombstones,
        }
    }

    /// Ends the walk earlier: a walk from the other end has come that far.
    pub(crate) fn narrow(&mut self, bounds: &Bounds) {
        match self.direction {
            Direction::Forward => self.bounds.1.clone_from(&bounds.1),
            Direction::Reverse => self.bounds.0.clone_from(&bounds.0),
        }
    }

    /// The key that was given out last.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.started.then_some(&self.key)
    }

    /// The next key that has a value.
    pub(crate) fn next_live(&mut self) -> Result<Option<Entry<'_>>> {
        loop {
            match self.advance()? {
                None => return Ok(None),
                Some(false) => {}
                Some(true) => {
                    let (seq, kind) = (self.seq, self.kind);
                    let entry = Entry { key: &self.key, seq, kind, value: &self.value };
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The next key's newest version, whatever it is: what a flush or a merge of runs writes.
    pub(crate) fn next_any(&mut self) -> Result<Option<Merged<'_>>> {
        Ok(self.advance()?.map(|_| Merged {
            key: &self.key,
            value: &self.value,
            seq: self.seq,
            kind: self.kind,
            covered: self.covered(),
        }))
    }

    /// To the next key; whether it has a value. `None` at the end.
    fn advance(&mut self) -> Result<Option<bool>> {
        if !self.started {
            for source in &mut self.sources {
                self.direction.seek(&mut *source.cursor, &self.bounds)?;
            }
            self.started = true;
        }
        while let Some(at) = self.pick() {
            let seen = match self.direction {
                Direction::Forward => self.take_forward(at)?,
                Direction::Reverse => self.take_reverse(at)?,
            };
            if !self.direction.is_before_end(&self.bounds, &self.key) {
                self.sources.clear();
                return Ok(None);
            }
            if seen {
                return Ok(Some(self.kind.has_value() && !self.covered()));
            }
        }
        Ok(None)
    }

    /// The source whose entry comes next; of equal keys the newest version comes first going
    /// forward, last in reverse, as within a source.
    fn pick(&self) -> Option<usize> {
        let mut best: Option<(usize, Entry<'_>)> = None;
        for (at, source) in self.sources.iter().enumerate() {
            let Some(entry) = source.cursor.entry() else {
                continue;
            };
            let earlier = match &best {
                None => true,
                Some((_, best)) => {
                    let order = entry.key.cmp(best.key).then(best.seq.cmp(&entry.seq));
                    match self.direction {
                        Direction::Forward => order == Ordering::Less,
                        Direction::Reverse => order == Ordering::Greater,
                    }
                }
            };
            if earlier {
                best = Some((at, entry));
            }
        }
        best.map(|(at, _)| at)
    }

    /// Takes the first version not above `visible` of the key that source `at` stands on, and moves all
    /// sources behind the key. False if every version is above.
    fn take_forward(&mut self, at: usize) -> Result<bool> {
        self.copy_key(at);
        let mut seen = false;
        let mut next = Some(at);
        while let Some(at) = next {
            if let (false, Some(entry)) = (seen, self.sources[at].cursor.entry())
                && entry.seq <= self.visible
            {
                (self.seq, self.kind) = (entry.seq, entry.kind);
                self.value.clear();
                self.value.extend_from_slice(entry.value);
                seen = true;
            }
            self.sources[at].cursor.next()?;
            next = self.pick().filter(|at| self.stands_on_key(*at));
        }
        Ok(seen)
    }

    /// As [`Self::take_forward`], but the versions come oldest first: the last not above `visible` counts.
    fn take_reverse(&mut self, at: usize) -> Result<bool> {
        self.copy_key(at);
        let mut seen = false;
        let mut next = Some(at);
        while let Some(at) = next {
            if let Some(entry) = self.sources[at].cursor.entry()
                && entry.seq <= self.visible
            {
                (self.seq, self.kind) = (entry.seq, entry.kind);
                self.value.clear();
                self.value.extend_from_slice(entry.value);
                seen = true;
            }
            self.sources[at].cursor.prev()?;
            next = self.pick().filter(|at| self.stands_on_key(*at));
        }
        Ok(seen)
    }

    fn copy_key(&mut self, at: usize) {
        self.key.clear();
        if let Some(entry) = self.sources[at].cursor.entry() {
            self.key.extend_from_slice(entry.key);
        }
    }

    fn stands_on_key(&self, at: usize) -> bool {
        self.sources[at].cursor.entry().is_some_and(|entry| entry.key == self.key)
    }

    fn covered(&self) -> bool {
        self.tombstones
            && self
                .sources
                .iter()
                .any(|s| s.tombstones.covering(&self.key, self.visible) > Some(self.seq))
    }
}
