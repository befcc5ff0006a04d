//! The tree: settled entries of one keyspace, in nodes that are written once. Format:
//! `docs/formats/tree.md`.
//!
//! Invariants:
//! - a node that anything points to never changes; a merge writes new ones and says which the new
//!   root no longer reaches
//! - a pointer names the generation and level of its node: no cycle, no mistaken page
//! - a lowest branch has a part of a Bloom filter for each of its leaves, which admits all keys of that leaf
//! - the first child of a branch holds whatever is less than the key of the second; every other holds the
//!   keys from its own on
//!
//! Nodes are read through [`Nodes`] and written through [`NewNodes`]: a [`Pager`], or a test's memory.

mod check;
mod cursor;
mod hinted;
mod merge;
#[cfg(test)]
mod tests;
mod weigh;

pub(crate) use crate::format::node::Root;
#[cfg(test)]
use check::Checked;
pub(crate) use check::{Watch, check};
pub(crate) use cursor::TreeCursor;
pub(crate) use hinted::{Clue, Hinted, Leaves, leave_hints};
pub(crate) use merge::{Changes, Cut, Merged, TreeMerge};
pub(crate) use weigh::pages_within;

use crate::{
    cache::hints::Spot,
    error::{Error, Result},
    format::{
        block::Refused,
        node::{Node, NodeBuilder, NodePointer, filter},
    },
    pager::{NewPages, Pager},
};
use std::{
    ops::{Deref, Range},
    sync::Arc,
};

/// A node's bytes.
#[derive(Debug)]
pub(crate) enum Bytes<'a> {
    /// Where they lie in the file.
    InPlace(&'a [u8]),
    /// A copy.
    Copied(Arc<[u8]>),
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::InPlace(bytes) => bytes,
            Bytes::Copied(bytes) => bytes,
        }
    }
}

/// Where nodes are read from.
pub(crate) trait Nodes {
    /// The node's bytes, verified.
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Bytes<'_>>;

    /// The same of a node that was read before and is not a copy, as it is now.
    fn in_place(&self, _pointer: NodePointer) -> Option<&[u8]> {
        None
    }

    /// The node is about to be read, from its last entry on if `at_end`. Advice only.
    fn prefetch(&self, _pointer: NodePointer, _at_end: bool) {}

    /// A read is about to go from a lowest branch into its leaf at `index`. Advice only.
    fn enter_leaf(&self, _branch: Node<'_>, _index: usize, _leaf: NodePointer) {}

    /// A walk goes from a lowest branch into its leaf at `index`, and on to those beside it. Returns the pages that it need
    /// not ask for again. Advice only.
    fn walk_into(&self, _branch: Node<'_>, _index: usize, leaf: NodePointer) -> Range<u64> {
        leaf.page..leaf.page + 1
    }

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
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Bytes<'_>> {
        Pager::read(self, pointer, level).map(Bytes::Copied)
    }

    fn refuse(&self, pointer: NodePointer, why: Refused) -> Error {
        Pager::refuse(self, pointer, why)
    }
}

/// Nodes as they are in the file, whatever is cached of them.
pub(crate) struct FromFile<'a>(pub(crate) &'a Pager);

impl Nodes for FromFile<'_> {
    fn read(&self, pointer: NodePointer, level: u8) -> Result<Bytes<'_>> {
        self.0.read_file(pointer, level).map(Bytes::Copied)
    }

    fn refuse(&self, pointer: NodePointer, why: Refused) -> Error {
        self.0.refuse(pointer, why)
    }
}

impl NewNodes for NewPages<'_> {
    fn write(&mut self, node: &NodeBuilder) -> Result<NodePointer> {
        self.add(node)
    }
}

/// A node and where it was read from.
struct Held<'a> {
    pointer: NodePointer,
    bytes: Bytes<'a>,
}

impl<'a> Held<'a> {
    #[inline]
    fn read<N: Nodes + ?Sized>(nodes: &'a N, pointer: NodePointer, level: u8) -> Result<Held<'a>> {
        Ok(Held { pointer, bytes: nodes.read(pointer, level)? })
    }

    #[inline]
    fn node<N: Nodes + ?Sized>(&self, nodes: &N) -> Result<Node<'_>> {
        Node::of(&self.bytes).ok_or_else(|| self.refuse(nodes, 0))
    }

    /// The error for an entry or child that makes no sense.
    #[cold]
    fn refuse<N: Nodes + ?Sized>(&self, nodes: &N, index: usize) -> Error {
        refuse(nodes, self.pointer, Node::of(&self.bytes), index)
    }
}

/// The error for an entry or child of a node, if it is one, that makes no sense.
#[cold]
fn refuse<N: Nodes + ?Sized>(
    nodes: &N,
    pointer: NodePointer,
    node: Option<Node<'_>>,
    index: usize,
) -> Error {
    let why = match node {
        Some(node) => node.refuse(index),
        None => Refused::Corrupt("a node", "other bytes".into()),
    };
    nodes.refuse(pointer, why)
}

/// A value as it lies in its node.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    node: Bytes<'a>,
    at: usize,
    len: usize,
    /// The value is a pointer to a blob.
    pub(crate) is_blob: bool,
}

impl Found<'_> {
    /// What a hint is to say of it, in the leaf at `pointer`.
    fn spot(&self, pointer: NodePointer, index: usize, key: &[u8]) -> Spot {
        let page_bytes = self.node.len() / usize::from(pointer.pages);
        spot(pointer, index, key, self.at, page_bytes)
    }

    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        &self.node[self.at..self.at + self.len]
    }
}

impl<'a> Found<'a> {
    /// The same, if it holds a copy of its node; else the value where it lies.
    pub(crate) fn copied(self) -> std::result::Result<Found<'static>, &'a [u8]> {
        let Found { node, at, len, is_blob } = self;
        match node {
            Bytes::Copied(node) => Ok(Found { node: Bytes::Copied(node), at, len, is_blob }),
            Bytes::InPlace(node) => Err(&node[at..at + len]),
        }
    }
}

/// What a hint is to say of the entry `index` of a leaf, whose value begins at `value_at`.
fn spot(
    pointer: NodePointer,
    index: usize,
    key: &[u8],
    value_at: usize,
    page_bytes: usize,
) -> Spot {
    // About where the cell begins: there the key's bytes stand that are not in its head, and lengths.
    Spot::new(pointer.page, index, value_at.saturating_sub(key.len()), page_bytes)
}

/// The value of a key.
#[cfg(test)]
pub(crate) fn get<'a, N: Nodes + ?Sized>(
    nodes: &'a N,
    root: Root,
    hash: u64,
    key: &[u8],
) -> Result<Option<Found<'a>>> {
    Ok(descend(nodes, root, hash, key)?.map(|(found, ..)| found))
}

/// The value of a key, with the leaf in which it stands and its number there. `hash` is that of keyspace and
/// key.
#[inline]
pub(crate) fn descend<'a, N: Nodes + ?Sized>(
    nodes: &'a N,
    root: Root,
    hash: u64,
    key: &[u8],
) -> Result<Option<(Found<'a>, NodePointer, usize)>> {
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
            let (at, len, is_blob) = (entry.value_at, entry.value.len(), entry.is_blob);
            let found = Found { node: held.bytes, at, len, is_blob };
            return Ok(Some((found, pointer, index)));
        }
        let index = node.search_child(key).ok_or_else(|| held.refuse(nodes, 0))?;
        if level == 1 && !filter::admits(node.filter(index), hash) {
            return Ok(None);
        }
        pointer = node.child(index).ok_or_else(|| held.refuse(nodes, index))?;
        if level == 1 {
            nodes.enter_leaf(node, index, pointer);
        }
        level -= 1;
        // Header, count and heads are asked for at once: each of them waits for the one before otherwise.
        nodes.prefetch(pointer, false);
    }
}
