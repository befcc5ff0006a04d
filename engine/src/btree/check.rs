//! Looks at every node of a tree.

use super::{Held, Nodes, Root};
use crate::{
    error::{Error, Result},
    format::{
        block::Refused,
        node::{Node, NodePointer, filter},
    },
    types::KeyspaceId,
};

/// What was found good in a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) entries: u64,
    pub(crate) leaves: u64,
    pub(crate) branches: u64,
    pub(crate) pages: u64,
    /// Of keys and values.
    pub(crate) raw_bytes: u64,
}

/// Is told what a check comes to.
pub(crate) trait Watch {
    /// A node that is about to be read. An error refuses it.
    fn node(&mut self, pointer: NodePointer) -> Result<()>;

    /// An entry that points to a blob: its key, and the pointer. The leaf may be refused behind it.
    fn blob(&mut self, key: &[u8], pointer: &[u8]);

    /// A node that was refused, and why: nothing below it is looked at. An error ends the check.
    fn refused(&mut self, node: Root, why: Error) -> Result<()>;
}

/// Checks every node: its bytes, that it is not empty, that its keys ascend and lie within what its parent says, and
/// that the filter admits them. Behind one that is refused it goes on with the next.
pub(crate) fn check(
    nodes: &dyn Nodes,
    (keyspace, root): (KeyspaceId, Option<Root>),
    watch: &mut dyn Watch,
) -> Result<Checked> {
    let mut check = Check { nodes, keyspace, watch, checked: Checked::default() };
    if let Some(root) = root {
        check.part(root, &Expected { lower: &[], upper: None, filter: &[] })?;
    }
    Ok(check.checked)
}

/// What is said above a node of its keys.
struct Expected<'k> {
    lower: &'k [u8],
    upper: Option<&'k [u8]>,
    filter: &'k [u8],
}

struct Check<'n> {
    nodes: &'n dyn Nodes,
    keyspace: KeyspaceId,
    watch: &'n mut dyn Watch,
    checked: Checked,
}

impl<'n> Check<'n> {
    /// A node and what is below it.
    fn part(&mut self, root: Root, expected: &Expected<'_>) -> Result<()> {
        match self.node(root, expected) {
            Ok(held) if root.level > 0 => self.children(&held, root.level, expected),
            Ok(_) => Ok(()),
            Err(why) => self.watch.refused(root, why),
        }
    }

    /// The node by itself.
    fn node(&mut self, Root { pointer, level }: Root, expected: &Expected<'_>) -> Result<Held<'n>> {
        self.watch.node(pointer)?;
        let held = Held::read(self.nodes, pointer, level)?;
        let node = held.node(self.nodes)?;
        node.check().map_err(|why| self.nodes.refuse(pointer, why))?;
        let raw_bytes = self.keys(&held, node, expected)?;
        self.checked.pages += u64::from(pointer.pages);
        self.checked.raw_bytes += raw_bytes;
        if level == 0 {
            self.checked.leaves += 1;
            self.checked.entries += node.len() as u64;
        } else {
            self.checked.branches += 1;
        }
        Ok(held)
    }

    /// The keys of a node and, of a leaf, its values. Returns how many bytes both have in a leaf.
    fn keys(&mut self, held: &Held<'_>, node: Node<'_>, expected: &Expected<'_>) -> Result<u64> {
        let nodes = self.nodes;
        let Expected { lower, upper, filter } = *expected;
        let is_leaf = node.level() == 0;
        let keys = if is_leaf { node.len() } else { node.len() - 1 };
        let (mut key, mut raw_bytes) = (vec![], 0);
        for index in 0..keys {
            let refuse = |what, found| nodes.refuse(held.pointer, Refused::Corrupt(what, found));
            key.clear();
            node.append_key(index, &mut key).ok_or_else(|| held.refuse(nodes, index))?;
            let within =
                key.as_slice() >= lower && upper.is_none_or(|upper| key.as_slice() < upper);
            if !within {
                let found = format!("key {index} outside of them");
                return Err(refuse("keys within their bounds", found));
            }
            if is_leaf {
                let entry = node.entry(index).ok_or_else(|| held.refuse(nodes, index))?;
                if entry.is_blob {
                    self.watch.blob(&key, entry.value);
                }
                raw_bytes += (key.len() + entry.value.len()) as u64;
                if !filter::admits(filter, self.keyspace.hash(&key)) {
                    let found = format!("key {index} not in it");
                    return Err(refuse("the filter of the keys of a leaf", found));
                }
            }
        }
        Ok(raw_bytes)
    }

    /// All below a branch that was found good.
    fn children(&mut self, held: &Held<'_>, level: u8, expected: &Expected<'_>) -> Result<()> {
        let nodes = self.nodes;
        let node = held.node(nodes)?;
        let (mut from, mut to) = (expected.lower.to_vec(), vec![]);
        for index in 0..node.len() {
            let child = node.child(index).ok_or_else(|| held.refuse(nodes, index))?;
            let last = index + 1 == node.len();
            if !last {
                to.clear();
                node.append_key(index, &mut to).ok_or_else(|| held.refuse(nodes, index))?;
            }
            let upper = if last { expected.upper } else { Some(to.as_slice()) };
            let below = Expected { lower: &from, upper, filter: node.filter(index) };
            self.part(Root { pointer: child, level: level - 1 }, &below)?;
            std::mem::swap(&mut from, &mut to);
        }
        Ok(())
    }
}
