//! A sorted run of entries of one keyspace, which never changes.
//!
//! It is an array of [`Item`]s: 12 bytes of the key, after the prefix that all keys of the
//! keyspace share, and the entry's place, in 16 bytes. Most comparisons end there. An array of
//! every 32nd head, small enough for the processor's own cache, leads to the part to search.

use super::arena::{Arena, Place};
use crate::types::SeqNo;
use std::cmp;

/// Items for each fence.
const FENCED: usize = 32;

/// An entry in a run.
#[derive(Clone, Copy)]
pub(super) struct Item {
    head: u64,
    more: u32,
    pub(super) place: Place,
}

impl Item {
    pub(super) fn new(arena: &Arena, skip: usize, place: Place) -> Item {
        let heads = heads(&arena.entry(place).key()[skip..]);
        Item {
            head: (heads >> 32) as u64,
            more: heads as u32,
            place,
        }
    }

    /// Key ascending, then SeqNo descending; both of one keyspace and with the same prefix cut off.
    #[inline]
    pub(super) fn order(&self, other: &Item, arena: &Arena) -> cmp::Ordering {
        self.heads()
            .cmp(&other.heads())
            .then_with(|| arena.entry(self.place).order(arena.entry(other.place)))
    }

    #[inline]
    fn heads(&self) -> u128 {
        u128::from(self.head) << 32 | u128::from(self.more)
    }
}

/// The first 12 bytes, padded with zeros: they order keys as far as they differ.
#[inline]
fn heads(key: &[u8]) -> u128 {
    let padded = match key.first_chunk::<12>() {
        Some(twelve) => *twelve,
        None => {
            let mut padded = [0; 12];
            padded[..key.len()].copy_from_slice(key);
            padded
        }
    };
    padded
        .iter()
        .fold(0, |all, byte| all << 8 | u128::from(*byte))
}

/// Items in order, all with the same prefix cut off.
pub(super) struct Run {
    items: Vec<Item>,
    /// The heads of every [`FENCED`]th item.
    fences: Vec<u64>,
}

impl Run {
    /// A run of these entries, in whatever order they come.
    pub(super) fn sort(arena: &Arena, skip: usize, places: impl Iterator<Item = Place>) -> Run {
        let mut items: Vec<Item> = places.map(|place| Item::new(arena, skip, place)).collect();
        items.sort_unstable_by(|a, b| a.order(b, arena));
        Run::new(items)
    }

    /// The same entries, with a prefix of another length cut off.
    pub(super) fn with_skip(&self, arena: &Arena, skip: usize) -> Run {
        let anew = self.items.iter();
        Run::new(
            anew.map(|item| Item::new(arena, skip, item.place))
                .collect(),
        )
    }

    pub(super) fn merge(arena: &Arena, a: &Run, b: &Run) -> Run {
        let (a, b) = (&a.items, &b.items);
        let mut merged = Vec::with_capacity(a.len() + b.len());
        let (mut i, mut j) = (0, 0);
        while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
            let first = x.order(y, arena).is_lt();
            merged.push(if first { *x } else { *y });
            i += usize::from(first);
            j += usize::from(!first);
        }
        merged.extend_from_slice(&a[i..]);
        merged.extend_from_slice(&b[j..]);
        Run::new(merged)
    }

    fn new(items: Vec<Item>) -> Run {
        let fences = items.iter().step_by(FENCED).map(|item| item.head);
        Run {
            fences: fences.collect(),
            items,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    #[inline]
    pub(super) fn get(&self, i: usize) -> Option<&Item> {
        self.items.get(i)
    }

    /// The number of entries that come before (`key`, `newest`): those with smaller keys, and
    /// those of the same key with SeqNos above `newest`. `rest` is the key without the prefix.
    pub(super) fn before(&self, arena: &Arena, key: &[u8], rest: &[u8], newest: SeqNo) -> usize {
        let heads = heads(rest);
        let head = (heads >> 32) as u64;
        // Items before the last fence with a smaller head come before; so do no items from
        // the first fence with a greater one.
        let smaller = self.fences.partition_point(|fence| *fence < head);
        let not_greater = smaller + self.fences[smaller..].partition_point(|f| *f <= head);
        let from = smaller.saturating_sub(1) * FENCED;
        let to = (not_greater * FENCED).min(self.items.len());
        // Heads first: comparing them takes no branch that could be guessed wrong.
        let from = from + self.items[from..to].partition_point(|item| item.heads() < heads);
        let equal = self.items[from..to].partition_point(|item| item.heads() == heads);
        let is_before = |item: &Item| {
            let entry = arena.entry(item.place);
            let order = entry.key().cmp(key);
            order.then_with(|| newest.cmp(&entry.seq())).is_lt()
        };
        from + self.items[from..from + equal].partition_point(is_before)
    }
}
