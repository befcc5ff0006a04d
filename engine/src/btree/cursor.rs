//! A position in the entries of a tree.

use super::{Held, Nodes, Root};
use crate::{
    error::Result,
    format::node::NodePointer,
    iter::{Cursor, Entry},
    types::{Kind, SeqNo},
};
use std::{ops::Range, sync::Arc};

/// A [`Cursor`] over a tree. Its entries are older than all others, so that their SeqNo is 0.
pub(crate) struct TreeCursor {
    nodes: Arc<dyn Nodes + Send + Sync>,
    root: Option<Root>,
    /// From the root to the leaf: each node, and which of its children or entries the cursor is at.
    path: Vec<(Held, usize)>,
    key: Vec<u8>,
    /// Where in the leaf the value is. `None`: unpositioned.
    value: Option<Range<usize>>,
}

/// The first or the last.
#[derive(Clone, Copy, PartialEq)]
enum End {
    First,
    Last,
}

impl TreeCursor {
    pub(crate) fn new(nodes: Arc<dyn Nodes + Send + Sync>, root: Option<Root>) -> TreeCursor {
        TreeCursor { nodes, root, path: vec![], key: vec![], value: None }
    }

    /// Leads the path on from `pointer` to a leaf. `choose` says to which child or entry of a node.
    fn descend(
        &mut self,
        mut pointer: NodePointer,
        mut level: u8,
        choose: impl Fn(crate::format::node::Node<'_>) -> Option<usize>,
    ) -> Result<()> {
        loop {
            let held = Held::read(&*self.nodes, pointer, level)?;
            let node = held.node(&*self.nodes)?;
            let index = choose(node).ok_or_else(|| held.refuse(&*self.nodes, 0))?;
            if level > 0 {
                let child = node.child(index);
                pointer = child.ok_or_else(|| held.refuse(&*self.nodes, index))?;
            }
            self.path.push((held, index));
            if level == 0 {
                return Ok(());
            }
            level -= 1;
        }
    }

    fn to_end(&mut self, pointer: NodePointer, level: u8, end: End) -> Result<()> {
        self.descend(pointer, level, |node| match end {
            End::First => Some(0),
            End::Last => node.len().checked_sub(1),
        })
    }

    fn seek_end(&mut self, end: End) -> Result<()> {
        self.leave();
        let Some(Root { pointer, level }) = self.root else {
            return Ok(());
        };
        self.to_end(pointer, level, end)?;
        self.stand()
    }

    /// To where `key` is or would be: the first entry that is not less, or behind the last of its leaf.
    fn seek_leaf(&mut self, key: &[u8]) -> Result<bool> {
        self.leave();
        let Some(Root { pointer, level }) = self.root else {
            return Ok(false);
        };
        self.descend(pointer, level, |node| match node.level() {
            0 => node.search(key).map(|(less, _)| less),
            _ => node.search_child(key),
        })?;
        Ok(true)
    }

    fn leave(&mut self) {
        self.path.clear();
        self.value = None;
    }

    /// Takes up the entry that the path leads to; if the path leads behind the last of its leaf, the first
    /// of the next leaf.
    fn stand(&mut self) -> Result<()> {
        self.value = None;
        let Some((held, index)) = self.path.last() else {
            return Ok(());
        };
        let node = held.node(&*self.nodes)?;
        if *index >= node.len() {
            return self.walk(End::First);
        }
        self.key.clear();
        let whole = node.append_key(*index, &mut self.key).and_then(|()| node.entry(*index));
        let entry = whole.ok_or_else(|| held.refuse(&*self.nodes, *index))?;
        self.value = Some(entry.value_at..entry.value_at + entry.value.len());
        Ok(())
    }

    /// To the neighbouring leaf: the next at its first entry, or the one before at its last.
    fn walk(&mut self, to: End) -> Result<()> {
        self.value = None;
        let mut level = 0u8;
        self.path.pop();
        while let Some((held, index)) = self.path.pop() {
            let node = held.node(&*self.nodes)?;
            let next = match to {
                End::First => Some(index + 1).filter(|next| *next < node.len()),
                End::Last => index.checked_sub(1),
            };
            if let Some(next) = next {
                let child = node.child(next);
                let pointer = child.ok_or_else(|| held.refuse(&*self.nodes, next))?;
                self.path.push((held, next));
                self.to_end(pointer, level, to)?;
                return self.stand();
            }
            level += 1;
        }
        Ok(())
    }
}

impl Cursor for TreeCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.seek_end(End::First)
    }

    fn seek_last(&mut self) -> Result<()> {
        self.seek_end(End::Last)
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        match self.seek_leaf(key)? {
            true => self.stand(),
            false => Ok(()),
        }
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        match self.seek_leaf(key)? {
            true => self.prev_from_here(),
            false => Ok(()),
        }
    }

    fn next(&mut self) -> Result<()> {
        if let (Some(_), Some((_, index))) = (&self.value, self.path.last_mut()) {
            *index += 1;
            return self.stand();
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        match self.value {
            Some(_) => self.prev_from_here(),
            None => Ok(()),
        }
    }

    fn entry(&self) -> Option<Entry<'_>> {
        let (held, _) = self.path.last()?;
        let value = held.bytes.get(self.value.clone()?)?;
        Some(Entry { key: &self.key, seq: SeqNo(0), kind: Kind::Put, value })
    }
}

impl TreeCursor {
    fn prev_from_here(&mut self) -> Result<()> {
        match self.path.last_mut() {
            Some((_, 0)) => self.walk(End::Last),
            Some((_, index)) => {
                *index -= 1;
                self.stand()
            }
            None => Ok(()),
        }
    }
}
