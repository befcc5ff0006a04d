//! A position in the entries of one sstable.
//!
//! A seek reads its block through the cache. Walking on from there, or from either end, takes
//! what the cache has and reads the rest several blocks at a time, past the cache: what a scan
//! or a compaction reads once would only push out what others read again.

use super::reader::Sstable;
use crate::{
    config::Compression,
    error::Result,
    format::block::{Block, Layout, Refused},
    iter::{Cursor, Entry},
    types::{Kind, SeqNo},
};
use std::{ops::Range, sync::Arc};

/// What the first read-ahead after a seek reads; each one after it twice as much.
const WINDOW_BYTES_MIN: u64 = 16 << 10;
const WINDOW_BYTES_MAX: u64 = 256 << 10;

/// A [`Cursor`] over an [`Sstable`], which it keeps open.
pub(crate) struct SstableCursor {
    table: Arc<Sstable>,
    held: Held,
    window: Window,
    /// Holds the present block if it had to be decompressed out of the window.
    scratch: Vec<u8>,
    here: Option<Here>,
    /// The present entry's key.
    key: Vec<u8>,
}

/// The present block.
struct Held {
    block_no: usize,
    bytes: Bytes,
    layout: Option<Layout>,
}

/// Where the present block's bytes are.
enum Bytes {
    Cached(Arc<[u8]>),
    InWindow(Range<usize>),
    InScratch,
}

/// Consecutive blocks as they are stored.
#[derive(Default)]
struct Window {
    blocks: Range<usize>,
    /// Where in the file `bytes` begin.
    start: u64,
    bytes: Vec<u8>,
    next_bytes: u64,
}

/// The present entry, but for its key.
struct Here {
    index: usize,
    /// How much of its key is that of its group's first key.
    shared: usize,
    seq: SeqNo,
    kind: Kind,
    value: Range<usize>,
}

/// Why a block is read.
#[derive(Clone, Copy, PartialEq)]
enum Access {
    Point,
    Forward,
    Backward,
}

impl SstableCursor {
    pub(super) fn new(table: Arc<Sstable>) -> SstableCursor {
        SstableCursor {
            table,
            held: Held { block_no: 0, bytes: Bytes::InScratch, layout: None },
            window: Window::default(),
            scratch: vec![],
            here: None,
            key: vec![],
        }
    }

    /// The number of the present block.
    pub(super) fn block_no(&self) -> usize {
        self.held.block_no
    }

    /// Whether a point get in the present block finds this key.
    pub(super) fn is_found(&self, hash: u64, key: &[u8]) -> bool {
        let found = self.block().and_then(|block| block.find(hash, key));
        matches!(found, Some(Some(_)))
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.held.bytes {
            Bytes::Cached(block) => block,
            Bytes::InWindow(range) => &self.window.bytes[range.clone()],
            Bytes::InScratch => &self.scratch,
        }
    }

    #[inline]
    fn block(&self) -> Option<Block<'_>> {
        let layout = self.held.layout?;
        Some(Block::new(self.bytes(), layout))
    }

    /// Makes `block_no` the present block and returns how many entries it has.
    fn hold(&mut self, block_no: usize, access: Access) -> Result<usize> {
        if let Some(block) = self.block()
            && self.held.block_no == block_no
        {
            return Ok(block.len());
        }
        // Whatever fails from here on leaves no block behind.
        self.held.layout = None;
        self.held.block_no = block_no;
        self.held.bytes = if access == Access::Point {
            Bytes::Cached(self.table.block(block_no)?)
        } else if self.window.blocks.contains(&block_no) {
            self.out_of_window(block_no)?
        } else if let Some(block) = self.table.cached_block(block_no) {
            Bytes::Cached(block)
        } else {
            self.read_window(block_no, access)?;
            self.out_of_window(block_no)?
        };
        let Some(layout) = Layout::of(self.bytes()) else {
            let found = "bytes that do not add up".into();
            let why = Refused::Corrupt("a block of entries", found);
            return Err(self.table.refuse_block(block_no, why));
        };
        self.held.layout = Some(layout);
        Ok(Block::new(self.bytes(), layout).len())
    }

    /// Reads blocks from `block_no` on in the direction of the walk.
    fn read_window(&mut self, block_no: usize, access: Access) -> Result<()> {
        let wanted = self.window.next_bytes.max(WINDOW_BYTES_MIN);
        let table = &self.table;
        let bytes_of = |blocks: &Range<usize>| {
            table.place(blocks.start).start..table.place(blocks.end - 1).end
        };
        let mut blocks = block_no..block_no + 1;
        loop {
            let larger = match access {
                Access::Backward if blocks.start > 0 => blocks.start - 1..blocks.end,
                Access::Forward if blocks.end < table.blocks() => blocks.start..blocks.end + 1,
                _ => break,
            };
            let place = bytes_of(&larger);
            if place.end - place.start > wanted {
                break;
            }
            blocks = larger;
        }
        let place = bytes_of(&blocks);
        self.window.blocks = 0..0;
        self.window.bytes.resize((place.end - place.start) as usize, 0);
        table.read(&mut self.window.bytes, place.start)?;
        self.window.blocks = blocks;
        self.window.start = place.start;
        self.window.next_bytes = (wanted * 2).min(WINDOW_BYTES_MAX);
        Ok(())
    }

    /// Verifies a block of the window, and decompresses it if it is not stored as it is.
    fn out_of_window(&mut self, block_no: usize) -> Result<Bytes> {
        let place = self.table.place(block_no);
        let start = (place.start - self.window.start) as usize;
        let stored = &self.window.bytes[start..][..(place.end - place.start) as usize];
        let verified = self.table.verify(block_no, stored)?;
        if verified.compression == Compression::None {
            return Ok(Bytes::InWindow(start..start + verified.len));
        }
        self.scratch.resize(verified.len, 0);
        self.table.decompress(block_no, &verified, &mut self.scratch)?;
        Ok(Bytes::InScratch)
    }

    /// Makes the entry at `index` of the present block the present one.
    #[inline]
    fn stand_at(&mut self, index: usize) -> Result<()> {
        let shared_before = self.here.take().map(|here| (here.index, here.shared));
        let mut key = std::mem::take(&mut self.key);
        let here = self.block().and_then(|block| {
            let entry = block.entry(index)?;
            // The key before began with as much of the same first key, or more.
            match shared_before {
                Some((before, shared)) if before + 1 == index && entry.shared <= shared => {
                    key.truncate(entry.shared);
                }
                _ => {
                    key.clear();
                    if entry.shared > 0 {
                        key.extend_from_slice(block.base(index)?.get(..entry.shared)?);
                    }
                }
            }
            key.extend_from_slice(entry.suffix);
            Some(Here {
                index,
                shared: match Block::starts_group(index) {
                    true => entry.suffix.len(),
                    false => entry.shared,
                },
                seq: entry.seq,
                kind: entry.kind,
                value: entry.value_at..entry.value_at + entry.value.len(),
            })
        });
        self.key = key;
        self.here = here;
        match self.here {
            Some(_) => Ok(()),
            None => Err(self.refuse_entry(index)),
        }
    }

    #[cold]
    fn refuse_entry(&self, index: usize) -> crate::error::Error {
        let why = match self.block() {
            Some(block) => block.refuse(index),
            None => Refused::Corrupt("a block", "none".into()),
        };
        self.table.refuse_block(self.held.block_no, why)
    }

    /// The first entry of the present block whose key is `key` or greater, or its length.
    fn lower_bound(&self, key: &[u8]) -> Result<usize> {
        let found = self.block().and_then(|block| block.lower_bound(key));
        found.ok_or_else(|| self.refuse_entry(0))
    }

    /// To the first entry of a block, if there is such a block.
    fn enter_at_first(&mut self, block_no: usize) -> Result<()> {
        self.here = None;
        if block_no < self.table.blocks() {
            self.hold(block_no, Access::Forward)?;
            self.stand_at(0)?;
        }
        Ok(())
    }

    /// To the last entry of the block before `block_no`, if there is one.
    fn enter_before(&mut self, block_no: usize, access: Access) -> Result<()> {
        self.here = None;
        if let Some(block_no) = block_no.checked_sub(1) {
            let len = self.hold(block_no, access)?;
            self.stand_at(len - 1)?;
        }
        Ok(())
    }

    /// Forgets the position and how far the last walk went.
    fn leave(&mut self) {
        self.here = None;
        self.window.next_bytes = 0;
    }
}

impl Cursor for SstableCursor {
    fn seek_first(&mut self) -> Result<()> {
        self.leave();
        self.enter_at_first(0)
    }

    fn seek_last(&mut self) -> Result<()> {
        self.leave();
        self.enter_before(self.table.blocks(), Access::Backward)
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.leave();
        let block_no = self.table.block_of(key);
        if block_no == self.table.blocks() {
            return Ok(());
        }
        let len = self.hold(block_no, Access::Point)?;
        match self.lower_bound(key)? {
            index if index < len => self.stand_at(index),
            _ => self.enter_at_first(block_no + 1),
        }
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.leave();
        let block_no = self.table.block_of(key);
        if block_no == self.table.blocks() {
            return self.enter_before(block_no, Access::Point);
        }
        self.hold(block_no, Access::Point)?;
        match self.lower_bound(key)?.checked_sub(1) {
            Some(index) => self.stand_at(index),
            None => self.enter_before(block_no, Access::Point),
        }
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        let (Some(here), Some(layout)) = (&self.here, self.held.layout) else {
            return Ok(());
        };
        match here.index + 1 {
            index if index < layout.len() => self.stand_at(index),
            _ => self.enter_at_first(self.held.block_no + 1),
        }
    }

    fn prev(&mut self) -> Result<()> {
        let Some(here) = &self.here else {
            return Ok(());
        };
        match here.index.checked_sub(1) {
            Some(index) => self.stand_at(index),
            None => self.enter_before(self.held.block_no, Access::Backward),
        }
    }

    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        let here = self.here.as_ref()?;
        Some(Entry {
            key: &self.key,
            seq: here.seq,
            kind: here.kind,
            value: &self.bytes()[here.value.clone()],
        })
    }
}
