//! The tree: settled entries of one keyspace, in nodes that are written once. Format:
//! `docs/formats/tree.md`.
//!
//! Invariants:
//! - a node that anything points to never changes; a merge writes new ones and says which the new
//!   root no longer reaches
//! - a pointer names the generation and level of its node: no cycle, no mistaken page
//! - the first child of a branch holds whatever is less than the key of the second; every other holds the
//!   keys from its own on
//!
//! Nodes are read through [`Nodes`] and written through [`NewNodes`]: a [`Pager`], or a test's memory.

mod check;
mod cursor;
mod merge;
#[cfg(test)]
mod tests;

pub(crate) use crate::format::node::Root;
#[cfg(test)]
use check::Checked;
pub(crate) use check::check;
pub(crate) use cursor::TreeCursor;
pub(crate) use merge::{Changes, Cut, Merged, TreeMerge};

use crate::{
    error::{Error, Result},
    format::{
        block::Refused,
        node::{Node, NodeBuilder, NodePointer},
    },
    pager::{NewPages, Pager},
};
use std::sync::Arc;

/// Where nodes are read from.
pub(crate) trait Nodes {
    /// The node's bytes, verified.
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Arc<[u8]>>;

    /// The error for a node that was verified and still makes no sense.
    fn refuse(&self, pointer: NodePointer, why: Refused) -> Error;
}

/// Where nodes are written to.
pub(crate) trait NewNodes {
    /// Writes a node into pages that no pointer names. What it holds fits them.
    fn write(&mut self, node: &NodeBuilder) -> Result<NodePointer>;
}

impl Nodes for Pager {
    #[inline]
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Arc<[u8]>> {
        Pager::read(self, pointer, level)
    }

    fn refuse(&self, pointer: NodePointer, why: Refused) -> Error {
        Pager::refuse(self, pointer, why)
    }
}

impl NewNodes for NewPages<'_> {
    fn write(&mut self, node: &NodeBuilder) -> Result<NodePointer> {
        self.add(node)
    }
}

/// A node and where it was read from.
struct Held {
    pointer: NodePointer,
    bytes: Arc<[u8]>,
}

impl Held {
    fn read(nodes: &dyn Nodes, pointer: NodePointer, level: u8) -> Result<Held> {
        Ok(Held { pointer, bytes: nodes.read(pointer, level)? })
    }

    fn node(&self, nodes: &dyn Nodes) -> Result<Node<'_>> {
        Node::of(&self.bytes).ok_or_else(|| self.refuse(nodes, 0))
    }

    /// The error for an entry or child that makes no sense.
    #[cold]
    fn refuse(&self, nodes: &dyn Nodes, index: usize) -> Error {
        let why = match Node::of(&self.bytes) {
            Some(node) => node.refuse(index),
            None => Refused::Corrupt("a node", "other bytes".into()),
        };
        nodes.refuse(self.pointer, why)
    }
}

/// A value as it lies in its node.
#[derive(Debug)]
pub(crate) struct Found {
    node: Arc<[u8]>,
    at: usize,
    len: usize,
}

impl Found {
    pub(crate) fn value(&self) -> &[u8] {
        &self.node[self.at..self.at + self.len]
    }
}

/// The value of a key.
pub(crate) fn get(nodes: &dyn Nodes, root: Root, key: &[u8]) -> Result<Option<Found>> {
    let (mut pointer, mut level) = (root.pointer, root.level);
    loop {
        let held = Held::read(nodes, pointer, level)?;
        let node = held.node(nodes)?;
        if level == 0 {
            let (index, equal) = node.search(key).ok_or_else(|| held.refuse(nodes, 0))?;
            if !equal {
                return Ok(None);
            }
            let entry = node.entry(index).ok_or_else(|| held.refuse(nodes, index))?;
            let (at, len) = (entry.value_at, entry.value.len());
            return Ok(Some(Found { node: held.bytes, at, len }));
        }
        let child = node.search_child(key).and_then(|index| node.child(index));
        pointer = child.ok_or_else(|| held.refuse(nodes, 0))?;
        level -= 1;
    }
}
