//! A position in the entries of a tree.
//!
//! The leaf is looked up, checked and its header decoded once, when the cursor comes to it; within it a
//! step is that to the next cell.

use super::{Bytes, Held, Nodes, Root, refuse};
use crate::{
    error::Result,
    format::node::{KeyBuffer, Layout, Node, NodePointer},
    iter::{Cursor, Direction, Entry},
    lent::Lent,
    sync::prefetch,
    types::{Kind, SeqNo},
};
use std::{ops::Range, sync::Arc};

/// A walk that begins in the middle of a leaf asks for so much of it at once.
const AHEAD_BYTES: usize = 1024;

/// A [`Cursor`] over a tree. Its entries are older than all others, so that their SeqNo is 0.
pub(crate) struct TreeCursor {
    root: Option<Root>,
    /// From the root to the parent of the leaf.
    path: Vec<Step>,
    leaf: Leaf,
    /// Which of its entries.
    index: usize,
    /// Of that entry.
    key: KeyBuffer,
    /// Where in the leaf the value is. `None`: unpositioned.
    value: Option<Range<usize>>,
    /// The value is a pointer to a blob.
    is_blob: bool,
    /// It has walked on from the leaf to which it was led.
    walks: bool,
    /// Pages of leaves that were asked for in a walk.
    asked: Range<u64>,
}

/// A branch, and which of its children the cursor is under.
struct Step {
    pointer: NodePointer,
    level: u8,
    index: usize,
    /// `None`: it is read in place.
    copy: Option<Arc<[u8]>>,
}

impl Step {
    fn node<'s>(&'s self, nodes: &'s Source) -> Result<Node<'s>> {
        let bytes = match &self.copy {
            Some(bytes) => Some(&**bytes),
            None => nodes.in_place(self.pointer),
        };
        let node = bytes.and_then(Node::of);
        node.ok_or_else(|| refuse(nodes, self.pointer, None, self.index))
    }
}

/// A leaf whose bytes are at hand, and where all nodes are read from.
struct Leaf {
    /// The bytes, if they are read in place: whoever holds the source of the nodes holds their pages.
    in_place: Lent<Source>,
    /// The bytes, if they are not.
    copy: Option<Arc<[u8]>>,
    pointer: NodePointer,
    layout: Layout,
}

impl Leaf {
    fn nodes(&self) -> &Source {
        &**self.in_place.owner()
    }

    /// Takes another leaf in the place of this one. After an error there is none.
    fn read(&mut self, pointer: NodePointer) -> Result<()> {
        let Leaf { in_place, copy, .. } = self;
        *copy = None;
        in_place.lend(|nodes| {
            Ok(match nodes.read(pointer, 0)? {
                Bytes::InPlace(bytes) => bytes,
                Bytes::Copied(bytes) => {
                    *copy = Some(bytes);
                    &[]
                }
            })
        })?;
        let node = Node::of(self.bytes());
        self.layout = node.ok_or_else(|| refuse(self.nodes(), pointer, None, 0))?.layout();
        self.pointer = pointer;
        Ok(())
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.copy {
            Some(bytes) => bytes,
            None => self.in_place.bytes(),
        }
    }

    #[inline]
    fn node(&self) -> Node<'_> {
        Node::new(self.bytes(), self.layout)
    }

    #[cold]
    fn refuse(&self, index: usize) -> crate::error::Error {
        refuse(self.nodes(), self.pointer, Some(self.node()), index)
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

impl End {
    /// The child or entry of a node that is there.
    fn of(self, node: Node<'_>) -> Option<usize> {
        match self {
            End::First => Some(0),
            End::Last => node.len().checked_sub(1),
        }
    }
}

impl TreeCursor {
    pub(crate) fn new(nodes: Arc<Source>, root: Option<Root>) -> TreeCursor {
        let pointer = NodePointer { page: 0, pages: 0, generation: 0 };
        let (in_place, layout) = (Lent::none(nodes), Layout::default());
        let leaf = Leaf { in_place, copy: None, pointer, layout };
        let key = KeyBuffer::default();
        let (path, value, asked) = (vec![], None, 0..0);
        let (is_blob, walks) = (false, false);
        TreeCursor { root, path, leaf, index: 0, key, value, is_blob, walks, asked }
    }

    /// Leads the path on from `pointer` to a leaf. `choose` says to which child or entry of a node.
    fn descend(
        &mut self,
        mut pointer: NodePointer,
        mut level: u8,
        choose: impl Fn(Node<'_>) -> Option<usize>,
    ) -> Result<()> {
        while level > 0 {
            let nodes = self.leaf.nodes();
            let held = Held::read(nodes, pointer, level)?;
            let node = held.node(nodes)?;
            let index = choose(node).ok_or_else(|| held.refuse(nodes, 0))?;
            let child = node.child(index).ok_or_else(|| held.refuse(nodes, index))?;
            if level == 1 {
                nodes.enter_leaf(node, index, child);
            }
            let copy = match held.bytes {
                Bytes::InPlace(_) => None,
                Bytes::Copied(bytes) => Some(bytes),
            };
            self.path.push(Step { pointer, level, index, copy });
            (pointer, level) = (child, level - 1);
        }
        self.leaf.nodes().prefetch(pointer, false);
        self.leaf.read(pointer)?;
        let node = self.leaf.node();
        self.index = choose(node).ok_or_else(|| self.leaf.refuse(0))?;
        self.key.enter(node);
        Ok(())
    }

    fn seek_end(&mut self, end: End) -> Result<()> {
        self.leave();
        let Some(Root { pointer, level }) = self.root else {
            return Ok(());
        };
        self.descend(pointer, level, |node| end.of(node))?;
        self.prefetch_beyond(end);
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
        self.walks = false;
    }

    /// Takes up the entry of the leaf that the cursor came to; if it came behind the last, the first of the
    /// next leaf.
    fn stand(&mut self) -> Result<()> {
        self.value = None;
        if self.index >= self.leaf.node().len() {
            return self.walk(End::First);
        }
        match self.take_up(self.index, true) {
            true => Ok(()),
            false => Err(self.leaf.refuse(self.index)),
        }
    }

    /// Takes up an entry of the leaf. `false`: it makes no sense, or is a pointer to a blob and not to be
    /// taken, and nothing is changed.
    #[inline(always)]
    fn take_up(&mut self, index: usize, blobs: bool) -> bool {
        let node = self.leaf.node();
        let Some(entry) = node.entry(index) else {
            return false;
        };
        if entry.is_blob && !blobs {
            return false;
        }
        self.index = index;
        self.key.set(node, entry.suffix);
        self.value = Some(entry.value_at..entry.value_at + entry.value.len());
        self.is_blob = entry.is_blob;
        true
    }

    /// Moves to the neighbouring entry if it is in the same leaf and has its value there. `false`: nothing is
    /// changed.
    #[inline(always)] // a step of a scan is little more
    pub(crate) fn step_in_leaf(&mut self, direction: Direction) -> bool {
        let index = match direction {
            Direction::Forward => self.index + 1,
            Direction::Reverse => self.index.wrapping_sub(1),
        };
        self.value.is_some() && index < self.leaf.node().len() && self.take_up(index, false)
    }

    /// Which child of a branch a walk comes to after the present one.
    fn child_beyond(step: &Step, node: Node<'_>, to: End) -> Option<usize> {
        match to {
            End::First => Some(step.index + 1).filter(|next| *next < node.len()),
            End::Last => step.index.checked_sub(1),
        }
    }

    /// Asks for the leaf that a walk comes to after this one, if it has the same parent.
    fn prefetch_beyond(&self, to: End) {
        let nodes = self.leaf.nodes();
        let step = self.path.last().and_then(|step| Some((step, step.node(nodes).ok()?)));
        let child = step.and_then(|(step, node)| node.child(Self::child_beyond(step, node, to)?));
        if let Some(child) = child {
            nodes.prefetch(child, to == End::Last);
        }
    }

    /// Asks for what a walk that begins in the middle of a leaf comes to next. One from leaf to leaf needs it
    /// not: the processor sees by itself which way it goes.
    fn prefetch_on(&self, to: End) {
        let Some(value) = &self.value else {
            return;
        };
        let part = match to {
            End::First => value.start..(value.start + AHEAD_BYTES).min(self.leaf.bytes().len()),
            End::Last => value.start.saturating_sub(AHEAD_BYTES)..value.start,
        };
        let lines = self.leaf.bytes().get(part).unwrap_or_default().chunks(64);
        lines.for_each(|line| prefetch(line.as_ptr()));
        self.prefetch_beyond(to);
    }

    /// To the neighbouring leaf: the next at its first entry, or the one before at its last.
    #[inline(never)]
    fn walk(&mut self, to: End) -> Result<()> {
        self.value = None;
        while let Some(step) = self.path.last_mut() {
            let nodes = self.leaf.nodes();
            let node = step.node(nodes)?;
            let Some(next) = Self::child_beyond(step, node, to) else {
                self.path.pop();
                continue;
            };
            let child = node.child(next);
            let child = child.ok_or_else(|| refuse(nodes, step.pointer, Some(node), next))?;
            // One that ends in the next leaf asks for nothing.
            if step.level == 1 && self.walks && !self.asked.contains(&child.page) {
                self.asked = nodes.walk_into(node, next, child);
            }
            self.walks = true;
            step.index = next;
            let level = step.level - 1;
            self.descend(child, level, |node| to.of(node))?;
            self.prefetch_beyond(to);
            return self.stand();
        }
        Ok(())
    }

    fn prev_from_here(&mut self) -> Result<()> {
        match self.index.checked_sub(1) {
            None => self.walk(End::Last),
            Some(before) => {
                self.index = before;
                self.stand()
            }
        }
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
            true => {
                self.stand()?;
                self.prefetch_on(End::First);
                Ok(())
            }
            false => Ok(()),
        }
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        match self.seek_leaf(key)? {
            true => {
                self.prev_from_here()?;
                self.prefetch_on(End::Last);
                Ok(())
            }
            false => Ok(()),
        }
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        if self.value.is_none() || self.step_in_leaf(Direction::Forward) {
            return Ok(());
        }
        self.index += 1;
        self.stand()
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        if self.value.is_none() || self.step_in_leaf(Direction::Reverse) {
            return Ok(());
        }
        self.prev_from_here()
    }

    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        let value = self.leaf.bytes().get(self.value.clone()?)?;
        let kind = if self.is_blob { Kind::Blob } else { Kind::Put };
        Some(Entry { key: self.key.key(), seq: SeqNo(0), kind, value })
    }
}
