//! One keyspace of a memtable in order: the merge of its sorted runs.

use super::{
    Memtable,
    order::Sorted,
    run::{Item, Run},
};
use crate::{
    error::Result,
    iter::{Cursor, Entry},
    types::SeqNo,
};
use std::sync::Arc;

/// Entries of a run whose memory is asked for before they are reached.
const PREFETCH_AHEAD: usize = 8;

/// A cursor over the runs that there were when it was made.
///
/// Moving forward, each run stands at its first entry that is not before the current one; moving
/// backward, at its last that is not behind it. No two entries are equal, so that turning round
/// moves every run but the current one by exactly one.
pub(crate) struct MemtableCursor {
    memtable: Arc<Memtable>,
    sorted: Arc<Sorted>,
    direction: Direction,
    /// Where each run stands: its length if past the last, `usize::MAX` if before the first.
    at: Vec<usize>,
    /// The runs that are not past their end, as a heap; the current entry is at the top.
    heap: Vec<Top>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

#[derive(Clone, Copy)]
struct Top {
    item: Item,
    run: usize,
}

impl MemtableCursor {
    pub(super) fn new(memtable: Arc<Memtable>, sorted: Arc<Sorted>) -> MemtableCursor {
        MemtableCursor {
            at: vec![0; sorted.runs.len()],
            heap: Vec::with_capacity(sorted.runs.len()),
            direction: Direction::Forward,
            memtable,
            sorted,
        }
    }

    /// Whether there are no entries.
    pub(crate) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Lets every run stand at what `place` says and begins to move in that direction.
    fn position(&mut self, direction: Direction, place: impl Fn(&MemtableCursor, &Run) -> usize) {
        for run in 0..self.at.len() {
            self.at[run] = place(self, &self.sorted.runs[run]);
        }
        self.direction = direction;
        self.build();
    }

    /// Makes the heap from where the runs stand.
    fn build(&mut self) {
        self.heap.clear();
        for (run, at) in self.at.iter().enumerate() {
            if let Some(item) = self.sorted.runs[run].get(*at) {
                self.heap.push(Top { item: *item, run });
            }
        }
        for i in (0..self.heap.len() / 2).rev() {
            self.sift_down(i);
        }
    }

    fn sift_down(&mut self, mut i: usize) {
        loop {
            let mut child = 2 * i + 1;
            if child >= self.heap.len() {
                return;
            }
            if child + 1 < self.heap.len() && self.comes_first(child + 1, child) {
                child += 1;
            }
            if !self.comes_first(child, i) {
                return;
            }
            self.heap.swap(i, child);
            i = child;
        }
    }

    fn comes_first(&self, a: usize, b: usize) -> bool {
        let arena = &self.memtable.arena;
        let order = self.heap[a].item.order(&self.heap[b].item, arena);
        match self.direction {
            Direction::Forward => order.is_lt(),
            Direction::Backward => order.is_gt(),
        }
    }

    fn turn(&mut self, direction: Direction) {
        let Some(current) = self.heap.first().map(|top| top.run) else {
            return;
        };
        self.direction = direction;
        for (run, at) in self.at.iter_mut().enumerate() {
            if run != current {
                *at = step(*at, direction);
            }
        }
        self.build();
    }

    /// Moves the run at the top by one.
    fn advance(&mut self, direction: Direction) {
        if self.direction != direction {
            self.turn(direction);
        }
        let Some(top) = self.heap.first_mut() else {
            debug_assert!(false, "an unpositioned cursor was moved");
            return;
        };
        let run = &self.sorted.runs[top.run];
        let at = &mut self.at[top.run];
        *at = step(*at, direction);
        let ahead = match direction {
            Direction::Forward => at.wrapping_add(PREFETCH_AHEAD),
            Direction::Backward => at.wrapping_sub(PREFETCH_AHEAD),
        };
        if let Some(item) = run.get(ahead) {
            self.memtable.arena.prefetch(item.place);
        }
        match run.get(*at) {
            Some(item) => top.item = *item,
            None => {
                self.heap.swap_remove(0);
            }
        }
        self.sift_down(0);
    }
}

/// One on from `at`; `usize::MAX` is the place before the first.
fn step(at: usize, direction: Direction) -> usize {
    match direction {
        Direction::Forward => at.wrapping_add(1),
        Direction::Backward => at.wrapping_sub(1),
    }
}

impl Cursor for MemtableCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.position(Direction::Forward, |_, _| 0);
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        self.position(Direction::Backward, |_, run| run.len().wrapping_sub(1));
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.position(Direction::Forward, |this, run| {
            (this.sorted).before(&this.memtable.arena, run, key, SeqNo::MAX)
        });
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.position(Direction::Backward, |this, run| {
            (this.sorted).before(&this.memtable.arena, run, key, SeqNo::MAX).wrapping_sub(1)
        });
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.advance(Direction::Forward);
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.advance(Direction::Backward);
        Ok(())
    }

    fn entry(&self) -> Option<Entry<'_>> {
        let place = self.heap.first()?.item.place;
        let entry = self.memtable.arena.entry(place);
        Some(Entry { key: entry.key(), seq: entry.seq(), kind: entry.kind(), value: entry.value() })
    }
}
