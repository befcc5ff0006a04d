//! A position in the entries of a tree.

use super::{Bytes, Held, Nodes, Root, refuse};
use crate::{
    error::Result,
    format::node::{Node, NodePointer},
    iter::{Cursor, Entry},
    types::{Kind, SeqNo},
};
use std::{ops::Range, sync::Arc};

/// A [`Cursor`] over a tree. Its entries are older than all others, so that their SeqNo is 0.
pub(crate) struct TreeCursor {
    nodes: Arc<Source>,
    root: Option<Root>,
    /// From the root to the leaf.
    path: Vec<Step>,
    key: Vec<u8>,
    /// Where in the leaf the value is. `None`: unpositioned.
    value: Option<Range<usize>>,
}

/// A node, and which of its children or entries the cursor is at.
struct Step {
    pointer: NodePointer,
    level: u8,
    index: usize,
    /// `None`: it is read in place.
    copy: Option<Arc<[u8]>>,
}

impl Step {
    fn bytes<'s>(&'s self, nodes: &'s Source) -> Option<&'s [u8]> {
        match &self.copy {
            Some(bytes) => Some(bytes),
            None => nodes.in_place(self.pointer),
        }
    }

    fn node<'s>(&'s self, nodes: &'s Source) -> Result<Node<'s>> {
        let node = self.bytes(nodes).and_then(Node::of);
        node.ok_or_else(|| refuse(nodes, self.pointer, None, self.index))
    }
}

/// Where nodes are read from.
type Source = dyn Nodes + Send + Sync;

/// The first or the last.
#[derive(Clone, Copy, PartialEq)]
enum End {
    First,
    Last,
}

impl TreeCursor {
    pub(crate) fn new(nodes: Arc<Source>, root: Option<Root>) -> TreeCursor {
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
            let child = if level > 0 { node.child(index) } else { Some(pointer) };
            let child = child.ok_or_else(|| held.refuse(&*self.nodes, index))?;
            let copy = match held.bytes {
                Bytes::InPlace(_) => None,
                Bytes::Copied(bytes) => Some(bytes),
            };
            self.path.push(Step { pointer: held.pointer, level, index, copy });
            if level == 0 {
                return Ok(());
            }
            (pointer, level) = (child, level - 1);
        }
    }

    fn go_to_end(&mut self, pointer: NodePointer, level: u8, end: End) -> Result<()> {
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
        self.go_to_end(pointer, level, end)?;
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
        let Some(step) = self.path.last() else {
            return Ok(());
        };
        let (node, index) = (step.node(&*self.nodes)?, step.index);
        if index >= node.len() {
            return self.walk(End::First);
        }
        self.key.clear();
        let whole = node.append_key(index, &mut self.key).and_then(|()| node.entry(index));
        let entry = whole.ok_or_else(|| refuse(&*self.nodes, step.pointer, Some(node), index))?;
        self.value = Some(entry.value_at..entry.value_at + entry.value.len());
        Ok(())
    }

    /// To the neighbouring leaf: the next at its first entry, or the one before at its last.
    fn walk(&mut self, to: End) -> Result<()> {
        self.value = None;
        self.path.pop();
        while let Some(mut step) = self.path.pop() {
            let node = step.node(&*self.nodes)?;
            let next = match to {
                End::First => Some(step.index + 1).filter(|next| *next < node.len()),
                End::Last => step.index.checked_sub(1),
            };
            if let Some(next) = next {
                let child = node.child(next);
                let child =
                    child.ok_or_else(|| refuse(&*self.nodes, step.pointer, Some(node), next))?;
                let level = step.level - 1;
                step.index = next;
                self.path.push(step);
                self.go_to_end(child, level, to)?;
                return self.stand();
            }
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
        if let (Some(_), Some(step)) = (&self.value, self.path.last_mut()) {
            step.index += 1;
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
        let bytes = self.path.last()?.bytes(&*self.nodes)?;
        let value = bytes.get(self.value.clone()?)?;
        Some(Entry { key: &self.key, seq: SeqNo(0), kind: Kind::Put, value })
    }
}

impl TreeCursor {
    fn prev_from_here(&mut self) -> Result<()> {
        match self.path.last_mut() {
            Some(Step { index: 0, .. }) => self.walk(End::Last),
            Some(step) => {
                step.index -= 1;
                self.stand()
            }
            None => Ok(()),
        }
    }
}
