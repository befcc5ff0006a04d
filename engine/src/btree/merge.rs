//! A sorted stream of changes into a tree. Loading an empty tree is the same.
//!
//! The old tree is walked in key order, and what becomes of it is handed to a [`Packer`], which builds
//! the new one from left to right: entries of leaves that something changes, and whole subtrees that
//! nothing does.

use super::{Held, NewNodes, Nodes, Root};
use crate::{
    error::Result,
    format::node::{Node, NodePointer, PAGE_BYTES_MIN},
    types::KeyspaceId,
};

mod packer;
use packer::Packer;

/// What is to change, in key order, each key once.
pub(crate) trait Changes {
    /// The key here, and its new value or `None` if it is to have none. `None` at the end.
    fn here(&self) -> Option<(&[u8], Option<&[u8]>)>;
    /// Whether the new value is a pointer to a blob.
    fn is_blob(&self) -> bool {
        false
    }
    /// To the next one.
    fn advance(&mut self) -> Result<()>;
}

/// A range of keys of which the tree is to keep none; those of [`Changes`] are newer. To the last key if
/// there is no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
}

impl Cut {
    /// What is left of cuts at a key and behind it.
    pub(crate) fn all_from(cuts: &[Cut], from: &[u8]) -> Vec<Cut> {
        let left = cuts.iter().filter(|cut| cut.end.as_deref().is_none_or(|end| from < end));
        let from = |cut: &Cut| Cut {
            start: cut.start.as_slice().max(from).to_vec(),
            end: cut.end.clone(),
        };
        left.map(from).collect()
    }

    /// What cuts do in front of a key.
    fn all_to(cuts: &[Cut], to: &[u8]) -> Vec<Cut> {
        let begun = cuts.iter().take_while(|cut| *cut.start < *to);
        let end = |cut: &Cut| cut.end.as_deref().map_or(to, |end| end.min(to)).to_vec();
        begun.map(|cut| Cut { start: cut.start.clone(), end: Some(end(cut)) }).collect()
    }
}

/// What a merge came to.
#[derive(Debug)]
pub(crate) struct Merged {
    /// `None`: no entry is left.
    pub(crate) root: Option<Root>,
    /// Nodes that the new tree does not reach.
    pub(crate) freed: Vec<NodePointer>,
    /// How many pages the nodes have that were written.
    pub(crate) written_pages: u64,
    /// Changes from this key on were not taken over, nor cuts done.
    pub(crate) stopped_at: Option<Vec<u8>>,
    /// Behind that, cuts are done up to here all the same: a subtree was gone. `None`: to the last key.
    pub(crate) cut_to: Option<Vec<u8>>,
}

impl Merged {
    /// What it has done of its cuts.
    pub(crate) fn cuts_done(&self, cuts: &[Cut]) -> Vec<Cut> {
        match &self.cut_to {
            Some(to) if self.stopped_at.is_some() => Cut::all_to(cuts, to),
            _ => cuts.to_vec(),
        }
    }
}

/// A merge under way.
pub(crate) struct TreeMerge<'a> {
    nodes: &'a dyn Nodes,
    changes: &'a mut dyn Changes,
    /// In key order, without overlap. Those that the walk has passed are gone.
    cuts: &'a [Cut],
    packer: Packer<'a>,
    freed: Vec<NodePointer>,
    /// When so many pages are written, the rest is left to another merge.
    pages_max: u64,
    stopped_at: Option<Vec<u8>>,
    cut_to: Option<Vec<u8>>,
    any_taken: bool,
}

/// A part of the old tree: all of its keys that are at least `lower` and less than `upper`.
#[derive(Clone, Copy)]
struct Part<'k> {
    pointer: NodePointer,
    level: u8,
    lower: &'k [u8],
    upper: Option<&'k [u8]>,
    /// What the branch above a leaf says of its keys.
    filter: &'k [u8],
}

impl<'a> TreeMerge<'a> {
    /// Merges `changes` into the tree of `keyspace` under `root`, without the keys within `cuts`. Nodes have
    /// `page_bytes` bytes, or a few times as many where entries are large. When about `pages_max` pages are
    /// written, the rest of changes and cuts is left.
    pub(crate) fn run(
        nodes: &'a dyn Nodes,
        new: &'a mut dyn NewNodes,
        (keyspace, root): (KeyspaceId, Option<Root>),
        changes: &'a mut dyn Changes,
        cuts: &'a [Cut],
        page_bytes: usize,
        pages_max: u64,
    ) -> Result<Merged> {
        debug_assert!(page_bytes.is_multiple_of(PAGE_BYTES_MIN));
        let packer = Packer::new(new, keyspace, page_bytes);
        let (freed, stopped_at, cut_to, any_taken) = (vec![], None, None, false);
        let mut merge = TreeMerge {
            nodes,
            changes,
            cuts,
            packer,
            freed,
            pages_max,
            stopped_at,
            cut_to,
            any_taken,
        };
        if let Some(Root { pointer, level }) = root {
            merge.part(Part { pointer, level, lower: &[], upper: None, filter: &[] })?;
        }
        merge.put_changes_below(None)?;
        let (root, written_pages) = merge.packer.finish()?;
        let TreeMerge { freed, stopped_at, cut_to, .. } = merge;
        Ok(Merged { root, freed, written_pages, stopped_at, cut_to })
    }

    /// Forgets cuts that end at or before `key`.
    fn pass_cuts(&mut self, key: &[u8]) {
        let passed =
            self.cuts.iter().take_while(|cut| cut.end.as_deref().is_some_and(|end| end <= key));
        self.cuts = &self.cuts[passed.count()..];
    }

    /// Leaves what comes from `lower` on to another merge, once enough is written.
    fn stop_if_full(&mut self, lower: &[u8]) {
        if self.is_full() {
            let cut = self.cuts.first().map(|cut| cut.start.as_slice().max(lower));
            let change = self.change().map(|(key, _)| key);
            let next = cut.into_iter().chain(change).min();
            self.stop_at(next.map(<[u8]>::to_vec));
        }
    }

    /// Whether enough is written. Entries in front of the first change may fill as many pages: each merge gets on.
    fn is_full(&self) -> bool {
        self.packer.written() >= self.pages_max && self.any_taken && self.stopped_at.is_none()
    }

    fn stop_at(&mut self, key: Option<Vec<u8>>) {
        if key.is_some() {
            self.cut_to.clone_from(&key);
            (self.stopped_at, self.cuts) = (key, &[]);
        }
    }

    fn part(&mut self, part: Part<'_>) -> Result<()> {
        self.pass_cuts(part.lower);
        self.stop_if_full(part.lower);
        let is_below = |key: &[u8]| part.upper.is_none_or(|upper| key < upper);
        let changes = self.change().is_some_and(|(key, _)| is_below(key));
        let cut = self.cuts.first().filter(|cut| is_below(&cut.start));
        let gone = cut.is_some_and(|cut| {
            let to_the_end = match (cut.end.as_deref(), part.upper) {
                (None, _) => true,
                (Some(end), Some(upper)) => upper <= end,
                (Some(_), None) => false,
            };
            to_the_end && cut.start.as_slice() <= part.lower
        });
        if gone {
            self.any_taken = true;
            self.free(part.pointer, part.level)?;
            self.put_changes_below(part.upper)?;
            if self.stopped_at.is_some() {
                self.cut_to = part.upper.map(<[u8]>::to_vec);
            }
            return Ok(());
        }
        if !changes && cut.is_none() && self.packer.takes_subtree(part.level) {
            return self.packer.add_subtree(part);
        }
        self.freed.push(part.pointer);
        let held = Held::read(self.nodes, part.pointer, part.level)?;
        let node = held.node(self.nodes)?;
        match part.level {
            0 => {
                self.any_taken |= cut.is_some();
                self.leaf(&held, node, part.upper)
            }
            _ => self.branch(&held, node, part),
        }
    }

    fn branch(&mut self, held: &Held, node: Node<'_>, part: Part<'_>) -> Result<()> {
        let (mut lower, mut upper) = (part.lower.to_vec(), vec![]);
        for index in 0..node.len() {
            let child = node.child(index);
            let pointer = child.ok_or_else(|| held.refuse(self.nodes, index))?;
            let last = index + 1 == node.len();
            if !last {
                upper.clear();
                let whole = node.append_key(index, &mut upper);
                whole.ok_or_else(|| held.refuse(self.nodes, index))?;
            }
            let upper_bound = if last { part.upper } else { Some(upper.as_slice()) };
            self.part(Part {
                pointer,
                level: part.level - 1,
                lower: &lower,
                upper: upper_bound,
                filter: node.filter(index),
            })?;
            std::mem::swap(&mut lower, &mut upper);
        }
        Ok(())
    }

    fn leaf(&mut self, held: &Held, node: Node<'_>, upper: Option<&[u8]>) -> Result<()> {
        let mut key = vec![];
        for index in 0..node.len() {
            key.clear();
            let whole = node.append_key(index, &mut key).and_then(|()| node.entry(index));
            let entry = whole.ok_or_else(|| held.refuse(self.nodes, index))?;
            self.put_changes_below(Some(&key))?;
            if self.is_full() && self.change().is_some_and(|(changed, _)| changed == key) {
                self.stop_at(Some(key.clone())); // the old entry stays with the change that is left
            }
            self.pass_cuts(&key);
            let replaced = self.change().is_some_and(|(changed, _)| changed == key);
            // The first cut ends behind the key, or not at all.
            let is_cut = self.cuts.first().is_some_and(|cut| cut.start <= key);
            if !replaced && !is_cut {
                self.packer.add(&key, entry.value, entry.is_blob)?;
            }
        }
        self.put_changes_below(upper)
    }

    /// The next change to take over.
    fn change(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.changes.here().filter(|_| self.stopped_at.is_none())
    }

    /// Takes over the changes whose keys are less than `upper`.
    fn put_changes_below(&mut self, upper: Option<&[u8]>) -> Result<()> {
        while let Some((key, value)) = self.changes.here() {
            if self.stopped_at.is_some() || upper.is_some_and(|upper| key >= upper) {
                break;
            }
            if self.is_full() {
                let key = key.to_vec();
                self.stop_at(Some(key));
                break;
            }
            if let Some(value) = value {
                self.packer.add(key, value, self.changes.is_blob())?;
            }
            self.any_taken = true;
            self.changes.advance()?;
        }
        Ok(())
    }

    /// Lets go of a whole subtree. Its leaves are not read.
    fn free(&mut self, pointer: NodePointer, level: u8) -> Result<()> {
        self.freed.push(pointer);
        if level == 0 {
            return Ok(());
        }
        let held = Held::read(self.nodes, pointer, level)?;
        let node = held.node(self.nodes)?;
        for index in 0..node.len() {
            let child = node.child(index);
            self.free(child.ok_or_else(|| held.refuse(self.nodes, index))?, level - 1)?;
        }
        Ok(())
    }
}
