//! Collects the entries of one node and writes them down.

use super::{
    super::bytes::{put_varint, varint_len},
    CHILD_BYTES, FIXED_BYTES, HEAD_BYTES, KIND_BLOB, KIND_PUT, NODE_HEADER_BYTES, NodePointer,
    common_prefix, filter, head_of, offset_bytes,
};

/// The entries of a leaf, or the children of a branch, in key order.
#[derive(Default)]
pub(crate) struct NodeBuilder {
    level: u8,
    /// Keys, and values or parts of the filter, one behind the other.
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// How many bytes all keys have in common.
    prefix_len: usize,
    /// Bytes of the widest part of the filter.
    part_bytes: usize,
    /// Of the keys, the length of the shortest.
    shortest: usize,
    /// Lengths of all keys, values and length fields.
    content_bytes: usize,
}

#[derive(Clone, Copy)]
struct Item {
    at: usize,
    key_len: usize,
    /// Of a child that of its part of the filter.
    value_len: usize,
    /// The value is a pointer to a blob.
    is_blob: bool,
    child: Option<NodePointer>,
}

impl NodeBuilder {
    pub(crate) fn new(level: u8) -> NodeBuilder {
        NodeBuilder { level, ..Default::default() }
    }

    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The key of the first entry, or the lower bound of the first child.
    pub(crate) fn first_key(&self) -> &[u8] {
        self.items.first().map_or(&[], |item| self.key(item))
    }

    /// The key of the last entry, or the lower bound of the last child.
    pub(crate) fn last_key(&self) -> &[u8] {
        self.items.last().map_or(&[], |item| self.key(item))
    }

    pub(crate) fn first_child(&self) -> Option<NodePointer> {
        self.items.first()?.child
    }

    /// The keys of a leaf, in order.
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.items.iter().map(|item| self.key(item))
    }

    fn key(&self, item: &Item) -> &[u8] {
        &self.bytes[item.at..item.at + item.key_len]
    }

    fn value(&self, item: &Item) -> &[u8] {
        &self.bytes[item.at + item.key_len..][..item.value_len]
    }

    /// Items that have a key in the node: of a branch all but the first.
    fn keyed(&self) -> &[Item] {
        &self.items[usize::from(self.level > 0).min(self.items.len())..]
    }

    /// Length of the node as it stands, not rounded up to pages.
    pub(crate) fn encoded_len(&self) -> usize {
        let (items, filter) = (self.items.len(), self.items.len() * self.part_bytes);
        self.encoded(items, self.prefix_len, self.shortest, filter + self.content_bytes)
    }

    /// Bytes of a part of the filter.
    pub(crate) fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// Length with one more entry, or with a child and a part of the filter of so many bytes.
    pub(crate) fn encoded_len_with(&self, key: &[u8], value_len: usize) -> usize {
        let items = self.items.len() + 1;
        let filter = if self.level > 0 { items * self.part_bytes.max(value_len) } else { 0 };
        if self.level > 0 && items == 1 {
            return self.encoded(items, 0, 0, filter);
        }
        let content = self.content_bytes + content_len(self.level, key.len(), value_len);
        self.encoded(items, self.prefix_with(key), self.shortest_with(key), filter + content)
    }

    /// At least what `encode` writes: exact where no key ends in its head. `content` counts the filter, too.
    fn encoded(&self, items: usize, prefix_len: usize, shortest: usize, content: usize) -> usize {
        let keyed = items.saturating_sub(usize::from(self.level > 0));
        let pointers = if self.level > 0 { items * CHILD_BYTES } else { 0 };
        // A head is no part of the cell.
        let heads = if shortest >= prefix_len + HEAD_BYTES { 0 } else { keyed * HEAD_BYTES };
        let with = |width: usize| {
            let shared = keyed * prefix_len;
            FIXED_BYTES + pointers + heads + keyed * width + prefix_len + content - shared
        };
        match with(2) {
            short if short <= 1 << 16 => short,
            _ => with(4),
        }
    }

    fn shortest_with(&self, key: &[u8]) -> usize {
        if self.keyed().is_empty() { key.len() } else { self.shortest.min(key.len()) }
    }

    fn prefix_with(&self, key: &[u8]) -> usize {
        match self.keyed().first() {
            None => key.len(),
            Some(first) => common_prefix(&self.key(first)[..self.prefix_len], key),
        }
    }

    /// Appends an entry of a leaf. Its key is greater than the last.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        debug_assert_eq!(self.level, 0);
        self.push(key, (value, false), None);
    }

    /// The same of an entry that has a pointer to a blob.
    pub(crate) fn add_blob(&mut self, key: &[u8], pointer: &[u8]) {
        debug_assert_eq!(self.level, 0);
        self.push(key, (pointer, true), None);
    }

    /// Appends a child of a branch, which holds the keys from `lower` on. `part` says what keys a leaf has;
    /// it is empty if that is not known, and for other children.
    pub(crate) fn add_child(&mut self, lower: &[u8], child: NodePointer, part: &[u8]) {
        debug_assert!(self.level == 1 || self.level > 1 && part.is_empty());
        self.part_bytes = self.part_bytes.max(part.len());
        self.push(lower, (part, false), Some(child));
    }

    fn push(&mut self, key: &[u8], (value, is_blob): (&[u8], bool), child: Option<NodePointer>) {
        if self.level == 0 || !self.items.is_empty() {
            self.shortest = self.shortest_with(key);
            self.prefix_len = self.prefix_with(key);
            self.content_bytes += content_len(self.level, key.len(), value.len());
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        let (key_len, value_len) = (key.len(), value.len());
        self.items.push(Item { at, key_len, value_len, is_blob, child });
    }

    /// Appends all that another node was to hold.
    pub(crate) fn append(&mut self, other: &NodeBuilder) {
        self.part_bytes = self.part_bytes.max(other.part_bytes);
        for item in &other.items {
            self.push(other.key(item), (other.value(item), item.is_blob), item.child);
        }
    }

    /// Takes the items from `at` on away, into a builder of their own.
    pub(crate) fn split_off(&mut self, at: usize) -> NodeBuilder {
        let all = std::mem::replace(self, NodeBuilder::new(self.level));
        let mut behind = NodeBuilder::new(all.level);
        for (n, item) in all.items.iter().enumerate() {
            let to = if n < at { &mut *self } else { &mut behind };
            if item.child.is_some() {
                to.part_bytes = to.part_bytes.max(item.value_len);
            }
            to.push(all.key(item), (all.value(item), item.is_blob), item.child);
        }
        behind
    }

    /// How many items to leave in front so that both parts are about as long.
    pub(crate) fn middle(&self) -> usize {
        let whole: usize = self.items.iter().map(|i| i.key_len + i.value_len + CHILD_BYTES).sum();
        let mut front = 0;
        let cut = self.items.iter().position(|item| {
            front += item.key_len + item.value_len + CHILD_BYTES;
            front * 2 >= whole
        });
        (cut.unwrap_or(0) + 1).min(self.items.len().saturating_sub(1)).max(1)
    }

    /// Appends the node to `out`, `node_len` bytes of it: at least [`NodeBuilder::encoded_len`]. The
    /// header is left to [`NodeHeader::seal`](super::NodeHeader::seal).
    pub(crate) fn encode(&self, node_len: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + NODE_HEADER_BYTES, 0);
        out[start + 2] = self.level;
        out.extend_from_slice(&(self.items.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.prefix_len as u16).to_le_bytes());
        out.extend_from_slice(&(self.part_bytes as u16).to_le_bytes());
        let keyed = self.keyed();
        for item in keyed {
            out.extend_from_slice(&head_of(&self.key(item)[self.prefix_len..]).to_le_bytes());
        }
        let children = self.items.iter().filter_map(|item| item.child);
        children.for_each(|child| out.extend_from_slice(&child.encode()));
        if self.part_bytes > 0 {
            self.items.iter().for_each(|item| filter::put(self.value(item), self.part_bytes, out));
        }
        let width = offset_bytes(node_len);
        let offsets_at = out.len();
        out.resize(offsets_at + keyed.len() * width, 0);
        if let Some(first) = keyed.first() {
            out.extend_from_slice(&self.key(first)[..self.prefix_len]);
        }
        for (n, item) in keyed.iter().enumerate() {
            let offset = ((out.len() - start) as u32).to_le_bytes();
            out[offsets_at + n * width..][..width].copy_from_slice(&offset[..width]);
            let suffix = &self.key(item)[self.prefix_len..];
            put_varint(out, suffix.len() as u32);
            if self.level == 0 {
                out.push(if item.is_blob { KIND_BLOB } else { KIND_PUT });
                put_varint(out, item.value_len as u32);
            }
            out.extend_from_slice(suffix.get(HEAD_BYTES..).unwrap_or_default());
            if self.level == 0 {
                out.extend_from_slice(self.value(item));
            }
        }
        // What is cut off here no pointer leads to any more.
        assert!(out.len() - start <= node_len, "a node longer than was said");
        out.resize(start + node_len, 0);
    }
}

/// What an item adds to the length of a node besides head, pointer and offset, as long as nothing of its
/// key is in the prefix.
fn content_len(level: u8, key_len: usize, value_len: usize) -> usize {
    let value = if level == 0 { 1 + varint_len(value_len as u32) + value_len } else { 0 };
    varint_len(key_len as u32) + key_len + value
}
