//! Operations in their order, and which of them is the last one on each key.

use super::{Bounds, Op, SpaceId, inside};
use std::{collections::HashMap, ops::Deref};

/// Operations that took effect together. A commit of thousands is asked about each key that a scan shows.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Ops {
    all: Vec<Op>,
    /// The last operation on a key alone.
    last: HashMap<(SpaceId, Vec<u8>), usize>,
    /// The deletes of ranges.
    ranges: Vec<usize>,
}

impl Ops {
    pub(super) fn new(all: Vec<Op>) -> Ops {
        let (mut last, mut ranges) = (HashMap::new(), vec![]);
        for (n, op) in all.iter().enumerate() {
            match op {
                Op::Put(space, key, _) | Op::Delete(space, key) => {
                    last.insert((*space, key.clone()), n);
                }
                Op::DeleteRange(..) => ranges.push(n),
            }
        }
        Ops { all, last, ranges }
    }

    /// The keys that they put or delete, each once, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &(SpaceId, Vec<u8>)> {
        self.last.keys()
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = (SpaceId, &Bounds)> {
        self.ranges.iter().filter_map(|n| match &self.all[*n] {
            Op::DeleteRange(space, bounds) => Some((*space, bounds)),
            _ => None,
        })
    }

    /// What they make of a key in the end: a value, nothing (`Some(None)`), or no difference.
    pub(super) fn effect(&self, space: SpaceId, key: &[u8]) -> Option<Option<&[u8]>> {
        let point = self.last.get(&(space, key.to_vec())).copied();
        let covers = |n: &usize| match &self.all[*n] {
            Op::DeleteRange(of, bounds) => *of == space && inside(bounds, key),
            _ => false,
        };
        let behind = |n: &usize| point.is_none_or(|point| point < *n);
        let range = self.ranges.iter().rev().copied().take_while(behind).find(covers);
        match (range, &self.all[range.or(point)?]) {
            (None, Op::Put(_, _, value)) => Some(Some(value)),
            _ => Some(None),
        }
    }
}

impl Deref for Ops {
    type Target = [Op];

    fn deref(&self) -> &[Op] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Bound::{Included, Unbounded};

    /// The last operation that reaches a key decides, also among several in one commit.
    #[test]
    fn the_last_operation_on_a_key_decides() {
        let put = |key: &str, value: &str| Op::Put(0, key.into(), value.into());
        let ops = Ops::new(vec![
            put("a", "1"),
            put("b", "1"),
            put("b", "2"),
            put("c", "1"),
            Op::DeleteRange(0, (Included("c".into()), Unbounded)),
            put("d", "3"),
            Op::Delete(0, b"a".to_vec()),
            Op::DeleteRange(1, (Unbounded, Unbounded)),
        ]);
        assert_eq!(ops.effect(0, b"a"), Some(None));
        assert_eq!(ops.effect(0, b"b"), Some(Some(&b"2"[..])));
        assert_eq!(ops.effect(0, b"c"), Some(None));
        assert_eq!(ops.effect(0, b"d"), Some(Some(&b"3"[..])));
        assert_eq!(ops.effect(0, b"e"), Some(None));
        assert_eq!(ops.effect(0, b"0"), None);
        assert_eq!(ops.effect(1, b"0"), Some(None));
    }
}
