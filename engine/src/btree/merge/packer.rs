//! Builds a tree from left to right, its nodes packed full.

use super::{
    super::{NewNodes, Root},
    Part,
};
use crate::{
    error::Result,
    format::{
        block::common_prefix,
        node::{NodeBuilder, NodePointer, filter},
    },
    types::KeyspaceId,
};

/// A node of small entries grows to at most so many pages, so that no more than an eighth of it is left
/// empty.
const PAGES_MAX: usize = 8;
/// An entry of more pages stands alone: who changes its neighbours need not write it again.
const ALONE_PAGES: usize = 4;

/// What is being built of one level.
struct Level {
    /// A node that is full, but not written yet: the one behind it may turn out too small.
    full: Option<Pending>,
    open: Pending,
}

/// A node to be written.
struct Pending {
    /// The least key that may be looked for in it.
    lower: Vec<u8>,
    node: NodeBuilder,
}

impl Pending {
    fn new(level: u8) -> Pending {
        Pending { lower: vec![], node: NodeBuilder::new(level) }
    }
}

/// What was added last.
#[derive(Default)]
struct Last {
    key: Vec<u8>,
    /// All that was added is less than `key`, not up to it: it is the end of a subtree.
    is_end: bool,
    any: bool,
}

pub(super) struct Packer<'a> {
    new: &'a mut dyn NewNodes,
    /// Whose keys they are: their hashes, in the filter, depend on it.
    keyspace: KeyspaceId,
    page_bytes: usize,
    levels: Vec<Level>,
    last: Last,
    /// How many pages.
    written: u64,
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        new: &'a mut dyn NewNodes,
        keyspace: KeyspaceId,
        page_bytes: usize,
    ) -> Packer<'a> {
        Packer { new, keyspace, page_bytes, levels: vec![], last: Last::default(), written: 0 }
    }

    /// How many pages were written so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    fn level(&mut self, level: u8) -> &mut Level {
        while self.levels.len() <= level.into() {
            let next = self.levels.len() as u8;
            self.levels.push(Level { full: None, open: Pending::new(next) });
        }
        &mut self.levels[usize::from(level)]
    }

    /// Appends an entry. Its key is greater than all before.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], is_blob: bool) -> Result<()> {
        let page_bytes = self.page_bytes;
        let open = &self.level(0).open.node;
        if !open.is_empty() && is_full(open, key, value.len(), page_bytes) {
            self.turn(0)?;
        }
        let lower = match self.levels[0].open.node.is_empty() {
            true => Some(self.last.lower_of(key)),
            false => None,
        };
        let open = &mut self.levels[0].open;
        if let Some(lower) = lower {
            open.lower = lower;
        }
        match is_blob {
            false => open.node.add(key, value),
            true => open.node.add_blob(key, value),
        }
        self.last.key.clear();
        self.last.key.extend_from_slice(key);
        (self.last.is_end, self.last.any) = (false, true);
        Ok(())
    }

    /// Whether a subtree of this level can be taken over as it is: what is still to be written in front of
    /// it makes nodes that are at least half full.
    pub(super) fn takes_subtree(&self, level: u8) -> bool {
        let half = self.page_bytes / 2;
        self.levels.iter().take(usize::from(level) + 1).all(|level| {
            let open = &level.open.node;
            level.full.is_some() || open.is_empty() || open.encoded_len() >= half
        })
    }

    /// Appends a whole subtree: the keys from `lower` on, up to but without `upper`.
    pub(super) fn add_subtree(&mut self, part: Part<'_>) -> Result<()> {
        for below in 0..=part.level {
            self.flush(below)?;
        }
        self.add_child(part.level + 1, part.lower, part.pointer, part.filter)?;
        self.last.key.clear();
        self.last.key.extend_from_slice(part.upper.unwrap_or_default());
        (self.last.is_end, self.last.any) = (true, true);
        Ok(())
    }

    fn add_child(
        &mut self,
        level: u8,
        lower: &[u8],
        child: NodePointer,
        filter: &[u8],
    ) -> Result<()> {
        let page_bytes = self.page_bytes;
        let open = &self.level(level).open.node;
        // A wider part widens those of all children.
        let bytes = open.encoded_len_with(lower, filter.len());
        let is_full = is_full(open, lower, filter.len(), page_bytes)
            || filter.len() > open.part_bytes() && bytes > PAGES_MAX * page_bytes;
        // A branch of one child would be no branch.
        if open.len() > 1 && is_full {
            self.turn(level)?;
        }
        let open = &mut self.levels[usize::from(level)].open;
        if open.node.is_empty() {
            open.lower = lower.to_vec();
        }
        open.node.add_child(lower, child, filter);
        Ok(())
    }

    /// The open node is full: the next one begins.
    fn turn(&mut self, level: u8) -> Result<()> {
        let at = self.level(level);
        let open = std::mem::replace(&mut at.open, Pending::new(level));
        match at.full.replace(open) {
            Some(full) => self.write(full),
            None => Ok(()),
        }
    }

    /// Writes all that is pending of a level.
    fn flush(&mut self, level: u8) -> Result<()> {
        let half = self.page_bytes / 2;
        let at = self.level(level);
        let mut open = std::mem::replace(&mut at.open, Pending::new(level));
        let mut full = at.full.take();
        let is_small = !open.node.is_empty() && open.node.encoded_len() < half;
        if is_small && let Some(full) = &mut full {
            // Unless its wider parts of the filter would make the other one long.
            if open.node.part_bytes() <= full.node.part_bytes() {
                even_out(full, &mut open);
            }
        }
        for pending in full.into_iter().chain([open]) {
            if !pending.node.is_empty() {
                self.write(pending)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, pending: Pending) -> Result<()> {
        let Pending { lower, node } = pending;
        let pointer = self.new.write(&node)?;
        self.written += u64::from(pointer.pages);
        let filter = match node.level() {
            0 => filter::build(node.keys().map(|key| self.keyspace.hash(key))),
            _ => vec![],
        };
        self.add_child(node.level() + 1, &lower, pointer, &filter)
    }

    /// Writes all that is left, and returns the root, and how many pages were written in all.
    pub(super) fn finish(&mut self) -> Result<(Option<Root>, u64)> {
        let mut level = 0u8;
        while usize::from(level) < self.levels.len() {
            let is_top = usize::from(level) + 1 == self.levels.len();
            let at = &self.levels[usize::from(level)];
            if is_top && level > 0 && at.full.is_none() && at.open.node.len() == 1 {
                let pointer = at.open.node.first_child();
                let root = pointer.map(|pointer| Root { pointer, level: level - 1 });
                return Ok((root, self.written));
            }
            self.flush(level)?;
            level += 1;
        }
        Ok((None, self.written))
    }
}

impl Last {
    /// The lower bound of a leaf that begins with `key`: greater than all before it, and short.
    fn lower_of(&self, key: &[u8]) -> Vec<u8> {
        match (self.any, self.is_end) {
            (false, _) => vec![],
            (true, true) => self.key.clone(),
            (true, false) => key[..(common_prefix(&self.key, key) + 1).min(key.len())].to_vec(),
        }
    }
}

/// Whether an entry is to begin the next node.
fn is_full(open: &NodeBuilder, key: &[u8], value_len: usize, page_bytes: usize) -> bool {
    let (now, then) = (open.encoded_len(), open.encoded_len_with(key, value_len));
    let pages = now.div_ceil(page_bytes);
    if then <= pages * page_bytes {
        return false;
    }
    let alone = ALONE_PAGES * page_bytes;
    let left = pages * page_bytes - now;
    let is_packed = left <= pages * page_bytes / 8;
    is_packed || pages >= PAGES_MAX || now > alone || key.len() + value_len > alone
}

/// Moves entries of the full node over, so that both are about as long.
fn even_out(full: &mut Pending, open: &mut Pending) {
    let mut all = std::mem::take(&mut full.node);
    all.append(&open.node);
    let middle = all.middle();
    let behind = all.split_off(middle);
    // Of a leaf any key behind the last one in front will do.
    open.lower = match all.level() {
        0 => {
            let (last, first) = (all.last_key(), behind.first_key());
            first[..(common_prefix(last, first) + 1).min(first.len())].to_vec()
        }
        _ => behind.first_key().to_vec(),
    };
    full.node = all;
    open.node = behind;
}
