//! The locks and requests themselves, in one array, and the lists that they are linked into: so that one more
//! needs no memory of its own, and one less is found at once.

use super::{Mode, Target};
use crate::types::KeyspaceId;
use std::{
    ops::{Index, IndexMut},
    sync::Arc,
};

/// The index of no node.
pub(super) const NONE: u32 = u32::MAX;

/// How many nodes without use are kept once nothing is locked.
const KEPT: usize = 1024;

/// A [`Target`] of its own. What is locked more than once shares the bytes of the key.
#[derive(Default)]
pub(super) enum Place {
    /// Taken out of its list.
    #[default]
    Nowhere,
    Key(KeyspaceId, Arc<[u8]>),
    Range(KeyspaceId, Arc<[u8]>, Option<Arc<[u8]>>),
}

impl Place {
    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Place::Nowhere => Target::Range(KeyspaceId::DEFAULT, &[], Some(&[])),
            Place::Key(keyspace, key) => Target::Key(*keyspace, key),
            Place::Range(keyspace, start, end) => Target::Range(*keyspace, start, end.as_deref()),
        }
    }
}

#[derive(PartialEq, Eq)]
pub(super) enum State {
    Held,
    Waiting,
    /// Chosen to give way in this circle of owners, and not told yet.
    Lost(Vec<u64>),
}

/// A lock that is held, or a request for one.
pub(super) struct Node {
    /// Counted up from 1 in the order of the requests; 0 if the node is not in use.
    pub(super) number: u64,
    pub(super) owner: u64,
    pub(super) place: Place,
    pub(super) mode: Mode,
    pub(super) state: State,
    /// The next that the same owner holds, or waits for; the next node that is not in use.
    pub(super) next: u32,
    /// Of a plain write.
    pub(super) plain: bool,
    before: u32,
    after: u32,
}

impl Node {
    /// In no list yet.
    pub(super) fn new(number: u64, owner: u64, place: Place, mode: Mode, state: State) -> Node {
        let (next, before, after) = (NONE, NONE, NONE);
        Node { number, owner, place, mode, state, next, plain: false, before, after }
    }
}

/// All nodes.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    used: usize,
    of_transactions: usize,
    /// The first that is not in use.
    free: u32,
}

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes { nodes: vec![], used: 0, of_transactions: 0, free: NONE }
    }
}

impl Nodes {
    /// How many in use are not of plain writes.
    pub(super) fn of_transactions(&self) -> usize {
        self.of_transactions
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn add(&mut self, node: Node) -> u32 {
        self.used += 1;
        self.of_transactions += usize::from(!node.plain);
        match self.free {
            NONE => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
            id => {
                self.free = self[id].next;
                self[id] = node;
                id
            }
        }
    }

    /// Takes a node out of use that is in no list any more.
    pub(super) fn remove(&mut self, id: u32) {
        self.used -= 1;
        self.of_transactions -= usize::from(!self[id].plain);
        if self.used == 0 && self.nodes.len() > KEPT {
            *self = Nodes::default();
            return;
        }
        let free = Node::new(0, 0, Place::Nowhere, Mode::Shared, State::Held);
        self[id] = Node { next: self.free, ..free };
        self.free = id;
    }

    /// The node with this number, if it is in use still.
    pub(super) fn numbered(&mut self, id: u32, number: u64) -> Option<&mut Node> {
        self.nodes.get_mut(id as usize).filter(|node| node.number == number)
    }

    /// The nodes from `first` on that are linked by `next`.
    pub(super) fn chain(&self, first: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(link(first), |id| link(self[*id].next))
    }
}

fn link(id: u32) -> Option<u32> {
    (id != NONE).then_some(id)
}

impl Index<u32> for Nodes {
    type Output = Node;
    fn index(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }
}

impl IndexMut<u32> for Nodes {
    fn index_mut(&mut self, id: u32) -> &mut Node {
        &mut self.nodes[id as usize]
    }
}

/// The nodes of one key, or those of the ranges of one keyspace, in the order in which they came.
pub(super) struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> List {
        List { first: NONE, last: NONE }
    }
}

impl List {
    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    pub(super) fn iter<'n>(&self, nodes: &'n Nodes) -> impl Iterator<Item = &'n Node> + use<'n> {
        let ids = std::iter::successors(link(self.first), |id| link(nodes[*id].after));
        ids.map(|id| &nodes[id])
    }

    pub(super) fn push(&mut self, nodes: &mut Nodes, id: u32) {
        nodes[id].before = self.last;
        match self.last {
            NONE => self.first = id,
            last => nodes[last].after = id,
        }
        self.last = id;
    }

    pub(super) fn remove(&mut self, nodes: &mut Nodes, id: u32) {
        let (before, after) = (nodes[id].before, nodes[id].after);
        match before {
            NONE => self.first = after,
            before => nodes[before].after = after,
        }
        match after {
            NONE => self.last = before,
            after => nodes[after].before = before,
        }
    }
}
