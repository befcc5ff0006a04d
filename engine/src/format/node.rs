//! A node of the tree: one or more consecutive pages. Format: `docs/formats/tree.md`.
//!
//! A search touches the array of heads, 4 bytes of each key, and then as a rule one cell. Any entry can
//! be rebuilt from two places, the prefix of the node and its cell.

use super::{
    blob::POINTER_BYTES,
    block::{Refused, common_prefix},
    bytes::Decoder,
};
use std::cmp::Ordering;

mod builder;
pub(crate) mod filter;
#[cfg(test)]
mod tests;
pub(crate) use builder::NodeBuilder;

/// A page is never smaller, and a node is a number of such units.
pub(crate) const PAGE_BYTES_MIN: usize = 4096;
/// What stands in front of every node.
pub(crate) const NODE_HEADER_BYTES: usize = 64;
/// Header, count, length of the prefix, bytes of a part of the filter.
const FIXED_BYTES: usize = NODE_HEADER_BYTES + 8;
const MAGIC: u16 = u16::from_le_bytes(*b"Ln");
const HEAD_BYTES: usize = 4;
const CHILD_BYTES: usize = 16;
/// So many heads are searched by counting.
const HEADS_COUNTED: usize = 32;
/// The kind of an entry whose value stands in its cell.
const KIND_PUT: u8 = 1;
/// The kind of an entry in whose cell a pointer to its value stands.
const KIND_BLOB: u8 = 5;

/// Where a node is, and which writing of it is meant: pages are used again, generations are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) struct NodePointer {
    /// The first page. 48 bits.
    pub(crate) page: u64,
    /// How many pages. At least one.
    pub(crate) pages: u16,
    pub(crate) generation: u64,
}

/// A tree that has entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Root {
    pub(crate) pointer: NodePointer,
    pub(crate) level: u8,
}

impl NodePointer {
    pub(crate) fn encode(self) -> [u8; CHILD_BYTES] {
        let mut out = [0; CHILD_BYTES];
        out[..8].copy_from_slice(&(self.page | u64::from(self.pages) << 48).to_le_bytes());
        out[8..].copy_from_slice(&self.generation.to_le_bytes());
        out
    }

    /// `None`: a node of no pages.
    pub(crate) fn decode(bytes: &[u8; CHILD_BYTES]) -> Option<NodePointer> {
        let mut d = Decoder::new(bytes);
        let (place, generation) = (d.u64()?, d.u64()?);
        let (page, pages) = (place & ((1 << 48) - 1), (place >> 48) as u16);
        (pages > 0).then_some(NodePointer { page, pages, generation })
    }
}

/// The node as a whole, in front of its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeHeader {
    pub(crate) pointer: NodePointer,
    /// 0 is a leaf. The children of a node are one level below it.
    pub(crate) level: u8,
}

impl NodeHeader {
    /// What the node says of itself, which was verified before.
    #[inline]
    pub(crate) fn of(node: &[u8]) -> Option<NodeHeader> {
        let header: &[u8; NODE_HEADER_BYTES] = node.first_chunk()?;
        let mut d = Decoder::new(&header[8..34]);
        let (page, generation, _lsn, pages) = (d.u64()?, d.u64()?, d.u64()?, d.u16()?);
        let pointer = NodePointer { page, pages, generation };
        Some(NodeHeader { pointer, level: header[2] })
    }

    /// Writes the header over the first bytes of a node that is otherwise complete.
    pub(crate) fn seal(&self, node: &mut [u8], identity: u64) {
        let NodePointer { page, pages, generation } = self.pointer;
        node[..NODE_HEADER_BYTES].fill(0);
        node[..2].copy_from_slice(&MAGIC.to_le_bytes());
        node[2] = self.level;
        node[8..16].copy_from_slice(&page.to_le_bytes());
        node[16..24].copy_from_slice(&generation.to_le_bytes());
        node[32..34].copy_from_slice(&pages.to_le_bytes());
        let crc = checksum(node, identity);
        node[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Of all but itself, and of the file that the node belongs to.
fn checksum(node: &[u8], identity: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&node[..4]);
    crc.update(&node[8..]);
    crc.update(&identity.to_le_bytes());
    crc.finalize()
}

/// A leaf entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafEntry<'a> {
    pub(crate) suffix: Suffix<'a>,
    pub(crate) value: &'a [u8],
    /// The value is a pointer to a blob.
    pub(crate) is_blob: bool,
    /// Where in the node the value begins.
    pub(crate) value_at: usize,
}

/// A key behind the prefix of its node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suffix<'a> {
    /// Its first bytes; what is missing is 0.
    head: [u8; HEAD_BYTES],
    len: usize,
    /// What follows the head, and where in the node.
    rest: &'a [u8],
    rest_at: usize,
}

impl Suffix<'_> {
    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head[..self.len.min(HEAD_BYTES)]);
        out.extend_from_slice(self.rest);
    }
}

/// A key put together from its parts, in memory that is used again: one entry of a node after the other.
#[derive(Default)]
pub(crate) struct KeyBuffer {
    /// The prefix of the node, behind it the suffix, and room for [`KeyBuffer::ROOM`] bytes more.
    bytes: Vec<u8>,
    prefix_len: usize,
    len: usize,
}

impl KeyBuffer {
    /// What follows a head is copied as so many bytes, if it is no more: that takes no loop and no call.
    const ROOM: usize = 32;

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Keys of this node follow.
    pub(crate) fn enter(&mut self, node: Node<'_>) {
        let prefix = node.prefix();
        self.bytes.clear();
        self.bytes.reserve(prefix.len() + HEAD_BYTES + Self::ROOM);
        self.bytes.extend_from_slice(prefix);
        (self.prefix_len, self.len) = (prefix.len(), prefix.len());
        self.bytes.resize(self.prefix_len + HEAD_BYTES + Self::ROOM, 0);
    }

    /// Puts the key together that has this suffix in the node entered last.
    #[inline(always)] // a step of a scan is little more
    pub(crate) fn set(&mut self, node: Node<'_>, suffix: Suffix<'_>) {
        self.len = self.prefix_len + suffix.len;
        // What lies behind in the node comes along, and is not looked at.
        let source = node.bytes.get(suffix.rest_at..).and_then(<[u8]>::first_chunk);
        let suffix_at = self.bytes.get_mut(self.prefix_len..);
        let parts = suffix_at.and_then(<[u8]>::split_first_chunk_mut::<HEAD_BYTES>);
        if let (Some(source), Some((head, rest))) = (source, parts)
            && let Some(rest) = rest.first_chunk_mut::<{ Self::ROOM }>()
            && suffix.rest.len() <= Self::ROOM
        {
            *head = suffix.head;
            *rest = *source;
            return;
        }
        self.set_slowly(suffix);
    }

    #[cold]
    fn set_slowly(&mut self, suffix: Suffix<'_>) {
        self.bytes.truncate(self.prefix_len);
        suffix.append_to(&mut self.bytes);
        let len = self.bytes.len().max(self.prefix_len + HEAD_BYTES);
        self.bytes.resize(len + Self::ROOM, 0);
    }
}

/// A node to search. Methods return `None` where the bytes make no sense; [`Node::refuse`] says why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

/// Where the parts of a node lie: heads, pointers and filter of a branch, offsets, prefix, cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    level: u8,
    /// How many keys: of entries in a leaf, in a branch of all children but the first.
    keys: usize,
    pointers_at: usize,
    filter_at: usize,
    offsets_at: usize,
    prefix_at: usize,
    cells_at: usize,
}

impl Layout {
    #[inline]
    fn of(bytes: &[u8]) -> Option<Layout> {
        Layout::at_level(*bytes.get(2)?, bytes)
    }

    /// Of a node whose level is known.
    #[inline]
    fn at_level(level: u8, bytes: &[u8]) -> Option<Layout> {
        let fixed: &[u8; FIXED_BYTES] = bytes.first_chunk()?;
        let mut d = Decoder::new(&fixed[NODE_HEADER_BYTES..]);
        let (count, prefix_len, part) = (d.u32()? as usize, d.u16()?, usize::from(d.u16()?));
        let keys = count.checked_sub(usize::from(level > 0))?;
        let pointers_at = FIXED_BYTES.checked_add(keys.checked_mul(HEAD_BYTES)?)?;
        let pointers = if level > 0 { count.checked_mul(CHILD_BYTES)? } else { 0 };
        let filter_at = pointers_at.checked_add(pointers)?;
        let has_parts = if level == 1 { filter::is_width(part) } else { part == 0 };
        let offsets_at = filter_at.checked_add(count.checked_mul(part)?)?;
        let prefix_at = offsets_at.checked_add(keys.checked_mul(offset_bytes(bytes.len()))?)?;
        let cells_at = prefix_at.checked_add(prefix_len.into())?;
        let fits = cells_at <= bytes.len() && has_parts && count > 0;
        let layout =
            Layout { level, keys, pointers_at, filter_at, offsets_at, prefix_at, cells_at };
        fits.then_some(layout)
    }
}

/// Whether a node says that it has neither entries nor children.
fn is_empty(bytes: &[u8]) -> bool {
    bytes.get(NODE_HEADER_BYTES..).and_then(<[u8]>::first_chunk) == Some(&[0; 4])
}

/// Width of a cell's offset in a node of this length.
#[inline]
fn offset_bytes(node_len: usize) -> usize {
    if node_len <= 1 << 16 { 2 } else { 4 }
}

/// The first bytes of a key as a number that orders as they do; what is missing counts as 0.
#[inline]
fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<HEAD_BYTES>() {
        Some(head) => u32::from_be_bytes(*head),
        None => {
            let mut head = [0; HEAD_BYTES];
            head[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(head)
        }
    }
}

/// The range of the heads that are equal to `head`, in heads that ascend.
#[inline]
fn same_heads(heads: &[[u8; HEAD_BYTES]], head: u32) -> Option<(usize, usize)> {
    let is_less = |h: &[u8; HEAD_BYTES]| u32::from_le_bytes(*h) < head;
    let is_same = |h: &[u8; HEAD_BYTES]| u32::from_le_bytes(*h) == head;
    // Few are counted all, several with one instruction: nothing waits for a comparison.
    let (mut from, mut window) = (0, heads);
    while window.len() > HEADS_COUNTED {
        let (low, high) = window.split_at(window.len() / 2);
        (from, window) = if is_less(&high[0]) { (from + low.len(), high) } else { (from, low) };
    }
    let start = from + window.iter().map(|h| u32::from(is_less(h))).sum::<u32>() as usize;
    let rest = heads.get(start..)?;
    // Most often one key at most has this head.
    let count = match rest {
        [first, second, ..] if is_same(first) && is_same(second) => rest.partition_point(is_same),
        [first, ..] => usize::from(is_same(first)),
        [] => 0,
    };
    Some((start, start + count))
}

/// A key's place among those of a node.
enum Side<'k> {
    /// In front of all.
    Before,
    /// Behind all.
    Behind,
    /// It has the prefix of the node, and behind it this.
    Within(&'k [u8]),
}

impl<'a> Node<'a> {
    /// Checks that `bytes`, read from where `pointer` points, are the node that was written there.
    pub(crate) fn verify(
        bytes: &'a [u8],
        pointer: NodePointer,
        level: u8,
        identity: u64,
    ) -> Result<Node<'a>, Refused> {
        let corrupt = |what, found: String| Err(Refused::Corrupt(what, found));
        let header = bytes.get(..NODE_HEADER_BYTES).map(Decoder::new).and_then(|mut d| {
            let (magic, level, flags, crc) = (d.u16()?, d.u8()?, d.u8()?, d.u32()?);
            let (page, generation, lsn, pages) = (d.u64()?, d.u64()?, d.u64()?, d.u16()?);
            let rest = d.take(NODE_HEADER_BYTES - 34)?;
            let unused = flags == 0 && lsn == 0 && rest.iter().all(|byte| *byte == 0);
            let pointer = NodePointer { page, pages, generation };
            Some((magic, crc, unused, NodeHeader { pointer, level }))
        });
        let Some((magic, crc, unused, header)) = header else {
            return corrupt("a node of the tree", format!("{} bytes", bytes.len()));
        };
        if magic != MAGIC {
            return corrupt("a node of the tree", format!("magic {magic:04x}"));
        }
        let actual = checksum(bytes, identity);
        if actual != crc {
            return corrupt("the node's checksum", format!("{actual:08x}, not {crc:08x}"));
        }
        if header != (NodeHeader { pointer, level }) {
            return corrupt("the node that is pointed to", format!("{header:?}"));
        }
        if !unused {
            return Err(Refused::Unsupported("a node with fields of a later version".into()));
        }
        match Layout::of(bytes) {
            Some(layout) => Ok(Node { bytes, layout }),
            None if is_empty(bytes) => corrupt("a node with an entry or child", "none".into()),
            None => corrupt("a node whose parts fit", format!("{} bytes that do not", bytes.len())),
        }
    }

    /// A node that was verified before.
    #[inline]
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Node<'a>> {
        Some(Node { bytes, layout: Layout::of(bytes)? })
    }

    /// A leaf that was verified before. Its header is not looked at, which saves waiting for a line of memory.
    #[inline]
    pub(crate) fn leaf(bytes: &'a [u8]) -> Option<Node<'a>> {
        Some(Node { bytes, layout: Layout::at_level(0, bytes)? })
    }

    /// A node of which this is the layout.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], layout: Layout) -> Node<'a> {
        Node { bytes, layout }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn level(&self) -> u8 {
        self.layout.level
    }

    /// How many entries a leaf has; how many children a branch. At least one.
    pub(crate) fn len(&self) -> usize {
        self.layout.keys + usize::from(self.layout.level > 0)
    }

    /// What all keys of the node begin with.
    #[inline]
    pub(crate) fn prefix(&self) -> &'a [u8] {
        self.bytes.get(self.layout.prefix_at..self.layout.cells_at).unwrap_or_default()
    }

    #[inline]
    fn heads(&self) -> &'a [[u8; HEAD_BYTES]] {
        let heads = self.bytes.get(FIXED_BYTES..self.layout.pointers_at);
        heads.unwrap_or_default().as_chunks().0
    }

    #[inline]
    fn head(&self, index: usize) -> Option<u32> {
        self.heads().get(index).map(|head| u32::from_le_bytes(*head))
    }

    #[inline(always)]
    fn offset(&self, index: usize) -> Option<usize> {
        let offsets = self.bytes.get(self.layout.offsets_at..self.layout.prefix_at)?;
        match offset_bytes(self.bytes.len()) {
            2 => offsets.as_chunks::<2>().0.get(index).map(|o| u16::from_le_bytes(*o).into()),
            _ => offsets.as_chunks::<4>().0.get(index).map(|o| u32::from_le_bytes(*o) as usize),
        }
    }

    /// The cell of a key: of its bytes behind the prefix how many there are and which are not in its
    /// head, and what follows them.
    #[inline]
    fn key_cell(&self, index: usize) -> Option<(usize, Decoder<'a>)> {
        let at = self.offset(index).filter(|at| *at >= self.layout.cells_at)?;
        let mut d = Decoder::at_byte(self.bytes, at);
        let suffix_len = d.varint()? as usize;
        Some((suffix_len, d))
    }

    /// The key at `index` behind the prefix.
    #[inline]
    fn suffix(&self, index: usize) -> Option<Suffix<'a>> {
        let (len, mut d) = self.key_cell(index)?;
        if self.layout.level == 0 {
            let (_kind, _value_len) = (d.u8()?, d.varint()?);
        }
        let rest_at = d.at();
        let rest = d.take(len.saturating_sub(HEAD_BYTES))?;
        Some(Suffix { head: self.head(index)?.to_be_bytes(), len, rest, rest_at })
    }

    /// Appends the key at `index`.
    pub(crate) fn append_key(&self, index: usize, out: &mut Vec<u8>) -> Option<()> {
        let suffix = self.suffix(index)?;
        out.extend_from_slice(self.prefix());
        suffix.append_to(out);
        Some(())
    }

    /// The entry of a leaf at `index`.
    #[inline(always)] // a step of a scan is little more
    pub(crate) fn entry(&self, index: usize) -> Option<LeafEntry<'a>> {
        let at = self.offset(index).filter(|at| *at >= self.layout.cells_at)?;
        let (len, kind, value_len, rest_at) = match self.bytes.get(at..)?.first_chunk() {
            // As a rule the lengths take one byte, and one or two.
            Some([len @ ..0x80, kind, low @ ..0x80, _]) => {
                (usize::from(*len), *kind, usize::from(*low), at + 3)
            }
            Some([len @ ..0x80, kind, low, high @ 1..0x80]) => {
                let value_len = usize::from(low & 0x7f) | usize::from(*high) << 7;
                (usize::from(*len), *kind, value_len, at + 4)
            }
            _ => self.long_cell(at)?,
        };
        let value_at = rest_at.checked_add(len.saturating_sub(HEAD_BYTES))?;
        let rest = self.bytes.get(rest_at..value_at)?;
        let value = self.bytes.get(value_at..value_at.checked_add(value_len)?)?;
        let suffix = Suffix { head: self.head(index)?.to_be_bytes(), len, rest, rest_at };
        let is_blob = kind == KIND_BLOB && value_len == POINTER_BYTES;
        (kind == KIND_PUT || is_blob).then_some(LeafEntry { suffix, value, is_blob, value_at })
    }

    /// The fields of the cell of a leaf that begins here, and where what follows them begins.
    #[cold]
    fn long_cell(&self, at: usize) -> Option<(usize, u8, usize, usize)> {
        let mut d = Decoder::at_byte(self.bytes, at);
        let (len, kind, value_len) = (d.varint()?, d.u8()?, d.varint()?);
        Some((len as usize, kind, value_len as usize, d.at()))
    }

    /// The entry of a leaf at `index`, if it is that of `key`.
    #[inline]
    pub(crate) fn entry_of(&self, index: usize, key: &[u8]) -> Option<LeafEntry<'a>> {
        let (front, suffix) = key.split_at_checked(self.layout.cells_at - self.layout.prefix_at)?;
        if self.layout.level > 0 || self.head(index)? != head_of(suffix) {
            return None;
        }
        let entry = self.entry(index)?;
        let same = entry.suffix.len == suffix.len()
            && suffix.get(HEAD_BYTES..).unwrap_or_default() == entry.suffix.rest
            && front == self.prefix();
        same.then_some(entry)
    }

    /// The child of a branch at `index`.
    #[inline]
    pub(crate) fn child(&self, index: usize) -> Option<NodePointer> {
        let pointers = self.bytes.get(self.layout.pointers_at..self.layout.filter_at)?;
        NodePointer::decode(pointers.as_chunks().0.get(index)?)
    }

    /// What a lowest branch says of the keys of its leaf at `index`. Empty: nothing.
    #[inline]
    pub(crate) fn filter(&self, index: usize) -> &'a [u8] {
        let Layout { filter_at, offsets_at, .. } = self.layout;
        let parts = self.bytes.get(filter_at..offsets_at).unwrap_or_default();
        let part = parts.len() / self.len();
        parts.get(index * part..(index + 1) * part).unwrap_or_default()
    }

    /// The key at `index` against one that has the node's prefix, and behind it `suffix`.
    #[inline]
    fn compare(&self, index: usize, suffix: &[u8]) -> Option<Ordering> {
        let by_head = self.head(index)?.cmp(&head_of(suffix));
        if by_head != Ordering::Equal {
            return Some(by_head);
        }
        let Suffix { len, rest, .. } = self.suffix(index)?;
        // Heads that are equal though one key ends in them: the bytes missing count as 0.
        Some(match (len < HEAD_BYTES, suffix.get(HEAD_BYTES..)) {
            (false, Some(other)) => rest.cmp(other),
            _ => len.cmp(&suffix.len()),
        })
    }

    #[inline]
    fn side<'k>(&self, key: &'k [u8]) -> Side<'k> {
        let prefix = self.prefix();
        match key.split_at_checked(prefix.len()) {
            Some((front, suffix)) => match front.cmp(prefix) {
                Ordering::Less => Side::Before,
                Ordering::Equal => Side::Within(suffix),
                Ordering::Greater => Side::Behind,
            },
            None if key < prefix => Side::Before,
            None => Side::Behind,
        }
    }

    /// How many keys of the node are less than `key`, and whether the next one is equal to it.
    #[inline]
    pub(crate) fn search(&self, key: &[u8]) -> Option<(usize, bool)> {
        let suffix = match self.side(key) {
            Side::Before => return Some((0, false)),
            Side::Behind => return Some((self.layout.keys, false)),
            Side::Within(suffix) => suffix,
        };
        let head = head_of(suffix);
        let heads = self.heads();
        let (mut start, mut end) = same_heads(heads, head)?;
        while start < end {
            let middle = start.midpoint(end);
            match self.compare(middle, suffix)? {
                Ordering::Less => start = middle + 1,
                Ordering::Equal => return Some((middle, true)),
                Ordering::Greater => end = middle,
            }
        }
        Some((start, false))
    }

    /// Which child of a branch holds `key`.
    #[inline]
    pub(crate) fn search_child(&self, key: &[u8]) -> Option<usize> {
        let (less, equal) = self.search(key)?;
        Some(less + usize::from(equal))
    }

    /// Checks what [`Node::verify`] left out: every cell, and that keys ascend.
    pub(crate) fn check(&self) -> Result<(), Refused> {
        let (mut last, mut key) = (vec![], vec![]);
        for index in 0..self.layout.keys {
            key.clear();
            let whole = self.append_key(index, &mut key).is_some()
                && (self.level() > 0 || self.entry(index).is_some());
            if !whole {
                return Err(self.refuse(index));
            }
            if index > 0 && last >= key {
                let found = format!("key {index} not greater than the one before");
                return Err(Refused::Corrupt("keys in order", found));
            }
            if self.search(&key) != Some((index, true)) {
                let found = format!("key {index}, which none finds");
                return Err(Refused::Corrupt("keys that a search finds", found));
            }
            std::mem::swap(&mut last, &mut key);
        }
        match self.level() > 0 && (0..self.len()).any(|index| self.child(index).is_none()) {
            true => Err(Refused::Corrupt("a child of at least one page", "none".into())),
            false => Ok(()),
        }
    }

    /// Why a method returned `None` for `index`.
    #[cold]
    pub(crate) fn refuse(&self, index: usize) -> Refused {
        let kind = self.key_cell(index).and_then(|(_, mut d)| d.u8());
        match kind {
            Some(kind) if self.level() == 0 && ![KIND_PUT, KIND_BLOB].contains(&kind) => {
                Refused::Unsupported(format!("an entry of kind {kind}"))
            }
            _ => Refused::Corrupt(
                "entries within their node",
                format!("entry {index}, which is not"),
            ),
        }
    }
}
