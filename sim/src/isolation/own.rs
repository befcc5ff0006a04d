//! What a transaction has written so far: what it must see itself, and what it leaves behind.

use super::history::{KeyRange, Operation};
use std::collections::BTreeMap;

/// What a transaction made of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) version: u64,
    /// There is no value.
    pub(super) dead: bool,
}

#[derive(Debug, Default)]
pub(super) struct Own<'h> {
    /// Keys that were written one by one.
    keys: BTreeMap<(u32, &'h [u8]), Effect>,
    /// Ranges that were deleted. What was written into them later is in `keys`.
    ranges: Vec<(u32, &'h KeyRange, u64)>,
}

impl<'h> Own<'h> {
    pub(super) fn of(operations: &'h [Operation]) -> Own<'h> {
        let mut own = Own::default();
        operations.iter().for_each(|operation| own.apply(operation));
        own
    }

    pub(super) fn apply(&mut self, operation: &'h Operation) {
        match operation {
            Operation::Write { keyspace, key, version, delete } => {
                self.keys.insert((*keyspace, key), Effect { version: *version, dead: *delete });
            }
            Operation::DeleteRange { keyspace, range, version } => {
                for ((space, key), effect) in &mut self.keys {
                    if space == keyspace && range.contains(key) {
                        *effect = Effect { version: *version, dead: true };
                    }
                }
                self.ranges.push((*keyspace, range, *version));
            }
            Operation::Read { .. } | Operation::Scan { .. } => {}
        }
    }

    /// What it made of a key, if it wrote it.
    pub(super) fn effect(&self, keyspace: u32, key: &[u8]) -> Option<Effect> {
        if let Some(effect) = self.keys.get(&(keyspace, key)) {
            return Some(*effect);
        }
        let covers =
            |(space, range, _): &&(u32, &KeyRange, u64)| *space == keyspace && range.contains(key);
        let (_, _, version) = self.ranges.iter().rev().find(covers)?;
        Some(Effect { version: *version, dead: true })
    }

    /// The keys written one by one, with what became of them.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, &'h [u8], Effect)> {
        self.keys.iter().map(|((keyspace, key), effect)| (*keyspace, *key, *effect))
    }

    pub(super) fn ranges(&self) -> &[(u32, &'h KeyRange, u64)] {
        &self.ranges
    }
}
