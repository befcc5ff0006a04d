//! Looks at every node of a tree.

use super::{Held, Nodes, Root};
use crate::{
    error::Result,
    format::{
        block::Refused,
        node::{NodePointer, filter},
    },
    types::KeyspaceId,
};

/// What was found in a tree that is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) entries: u64,
    pub(crate) leaves: u64,
    pub(crate) branches: u64,
    pub(crate) pages: u64,
    /// Of keys and values.
    pub(crate) raw_bytes: u64,
}

/// Is told of every node.
pub(crate) type EachNode<'a> = &'a mut dyn FnMut(NodePointer) -> Result<()>;
/// Is told of every entry that points to a blob: its key, and the pointer.
pub(crate) type EachBlob<'a> = &'a mut dyn FnMut(&[u8], &[u8]);

/// Checks every node: its bytes, that its keys ascend and lie within what its parent says, and that the filter
/// admits them. `each` is told of every node, to see that none is used twice, `blob` of every entry that points
/// to one.
pub(crate) fn check(
    nodes: &dyn Nodes,
    (keyspace, root): (KeyspaceId, Option<Root>),
    each: EachNode<'_>,
    blob: EachBlob<'_>,
) -> Result<Checked> {
    let mut checked = Checked::default();
    if let Some(root) = root {
        let what = Expected { keyspace, lower: &[], upper: None, filter: &[] };
        part(nodes, root, what, (each, blob), &mut checked)?;
    }
    Ok(checked)
}

/// What is said above a node of its keys.
struct Expected<'k> {
    keyspace: KeyspaceId,
    lower: &'k [u8],
    upper: Option<&'k [u8]>,
    filter: &'k [u8],
}

fn part(
    nodes: &dyn Nodes,
    Root { pointer, level }: Root,
    Expected { keyspace, lower, upper, filter }: Expected<'_>,
    (each, blob): (EachNode<'_>, EachBlob<'_>),
    checked: &mut Checked,
) -> Result<()> {
    each(pointer)?;
    let held = Held::read(nodes, pointer, level)?;
    let node = held.node(nodes)?;
    node.check().map_err(|why| nodes.refuse(pointer, why))?;
    checked.pages += u64::from(pointer.pages);
    let keys = if level == 0 { node.len() } else { node.len() - 1 };
    let mut key = vec![];
    for index in 0..keys {
        key.clear();
        node.append_key(index, &mut key).ok_or_else(|| held.refuse(nodes, index))?;
        let within = key.as_slice() >= lower && upper.is_none_or(|upper| key.as_slice() < upper);
        if !within {
            let found = format!("key {index} outside of them");
            return Err(nodes.refuse(pointer, Refused::Corrupt("keys within their bounds", found)));
        }
        if level == 0 {
            let entry = node.entry(index).ok_or_else(|| held.refuse(nodes, index))?;
            if entry.is_blob {
                blob(&key, entry.value);
            }
            checked.raw_bytes += (key.len() + entry.value.len()) as u64;
            if !filter::admits(filter, keyspace.hash(&key)) {
                let found = format!("key {index} not in it");
                let why = Refused::Corrupt("the filter of the keys of a leaf", found);
                return Err(nodes.refuse(pointer, why));
            }
        }
    }
    if level == 0 {
        checked.leaves += 1;
        checked.entries += node.len() as u64;
        return Ok(());
    }
    checked.branches += 1;
    let (mut from, mut to) = (lower.to_vec(), vec![]);
    for index in 0..node.len() {
        let child = node.child(index).ok_or_else(|| held.refuse(nodes, index))?;
        let last = index + 1 == node.len();
        if !last {
            to.clear();
            node.append_key(index, &mut to).ok_or_else(|| held.refuse(nodes, index))?;
        }
        let end = if last { upper } else { Some(to.as_slice()) };
        let filter = node.filter(index);
        let what = Expected { keyspace, lower: &from, upper: end, filter };
        let child = Root { pointer: child, level: level - 1 };
        part(nodes, child, what, (each, blob), checked)?;
        std::mem::swap(&mut from, &mut to);
    }
    Ok(())
}
