//! One file: what the page cache shows, what is durable, and what lies between.

use lightning_faults::{Dice, PowerLoss};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Space is given out in blocks of this size, whatever the device writes at once.
pub(super) const SPACE_BLOCK: u64 = 4096;

/// A change that no sync has made durable yet.
#[derive(Debug, Clone)]
struct Change {
    /// Its place in the order of all changes to the file.
    number: u64,
    kind: ChangeKind,
}

#[derive(Debug, Clone)]
enum ChangeKind {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

/// A write that a task is in the middle of.
#[derive(Debug)]
struct InFlight {
    offset: u64,
    bytes: Vec<u8>,
}

/// A file, found by its number.
#[derive(Debug, Default)]
pub(super) struct Inode {
    /// What reads show.
    cache: Vec<u8>,
    /// What a loss of power leaves at least, apart from blocks that are being written.
    durable: Vec<u8>,
    changes: Vec<Change>,
    next_change: u64,
    in_flight: BTreeMap<u64, InFlight>,
    next_flight: u64,
    /// Numbers of the [`SPACE_BLOCK`]s that belong to the file.
    allocated: BTreeSet<u64>,
    /// Pages that can never be read again.
    pub(super) bad: BTreeSet<u64>,
    /// Pages that the device does not hold as they were written to it, and how they were: the page
    /// cache shows these until it drops them, and a later write of the page brings them to the device.
    pub(super) intended: BTreeMap<u64, Vec<u8>>,
    /// What the last syncs replaced, if that is to be remembered: for each its pages as they were.
    pub(super) replaced: VecDeque<BTreeMap<u64, Vec<u8>>>,
    /// The first page that each of the last syncs wrote.
    pub(super) synced_pages: VecDeque<u64>,
    /// How many directory entries and handles the file has. Without any its space is free.
    pub(super) links: u32,
    pub(super) handles: u32,
}

/// Copies `bytes` to `offset`, extending with zeros as needed.
fn put(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}

/// The numbers of the blocks of `size` bytes that a range touches.
fn blocks(offset: u64, len: u64, size: u64) -> std::ops::Range<u64> {
    offset / size..(offset + len).div_ceil(size)
}

impl Inode {
    /// An empty file with one name.
    pub(super) fn named() -> Inode {
        Inode { links: 1, ..Inode::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.cache.len() as u64
    }

    /// Copies what the page cache holds at `offset`; returns how much there is.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let start = self.cache.len().min(offset as usize);
        let n = buf.len().min(self.cache.len() - start);
        buf[..n].copy_from_slice(&self.cache[start..start + n]);
        n
    }

    fn change(&mut self, kind: ChangeKind) {
        let number = self.next_change;
        self.next_change += 1;
        self.changes.push(Change { number, kind });
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        put(&mut self.cache, offset, bytes);
        let bytes = bytes.to_vec();
        self.change(ChangeKind::Write { offset, bytes });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.cache.resize(len as usize, 0);
        self.allocated.split_off(&len.div_ceil(SPACE_BLOCK));
        self.change(ChangeKind::Length(len));
    }

    /// A write begins; it is in the page cache once [`end_write`](Inode::end_write) is called.
    pub(super) fn begin_write(&mut self, offset: u64, bytes: &[u8]) -> u64 {
        let bytes = bytes.to_vec();
        self.in_flight.insert(self.next_flight, InFlight { offset, bytes });
        self.next_flight += 1;
        self.next_flight - 1
    }

    pub(super) fn end_write(&mut self, flight: u64) {
        if let Some(write) = self.in_flight.remove(&flight) {
            self.write(write.offset, &write.bytes);
        }
    }

    /// A write is cut short: any parts of it are done, each up to the end of a block of `whole` bytes.
    pub(super) fn tear_write(&mut self, flight: u64, whole: u64, dice: &mut Dice) {
        let Some(write) = self.in_flight.remove(&flight) else {
            return;
        };
        let done = dice.pick(&[0.0, 0.5, 1.0]);
        let mut at = 0;
        while at < write.bytes.len() {
            let cut = write.offset + at as u64 + 1 + dice.skewed(0..4096);
            let cut = (cut.next_multiple_of(whole) - write.offset) as usize;
            let n = cut.min(write.bytes.len()) - at;
            if dice.chance(done) {
                self.write(write.offset + at as u64, &write.bytes[at..at + n]);
            }
            at += n;
        }
    }

    /// The blocks of a range that are not allocated yet.
    pub(super) fn missing(&self, offset: u64, len: u64) -> impl Iterator<Item = u64> {
        blocks(offset, len, SPACE_BLOCK).filter(|block| !self.allocated.contains(block))
    }

    pub(super) fn allocate(&mut self, offset: u64, len: u64) {
        self.allocated.extend(blocks(offset, len, SPACE_BLOCK));
    }

    /// Takes the space of the whole blocks within a range away; zeros are read there.
    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len());
        if offset < end {
            self.write(offset, &vec![0; (end - offset) as usize]);
        }
        let (first, last) = (offset.div_ceil(SPACE_BLOCK), (offset + len) / SPACE_BLOCK);
        self.allocated.retain(|block| !(first..last).contains(block));
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.allocated.len() as u64 * SPACE_BLOCK
    }

    /// The changes that a sync beginning now has to make durable: those below this number.
    pub(super) fn sync_upto(&self) -> u64 {
        self.next_change
    }

    /// Remembers where a sync wrote.
    pub(super) fn remember_place(&mut self, pages: &BTreeSet<u64>) {
        let Some(first) = pages.first() else { return };
        self.synced_pages.retain(|page| page != first);
        self.synced_pages.push_back(*first);
        if self.synced_pages.len() > PLACES {
            self.synced_pages.pop_front();
        }
    }

    /// A sync has ended well. With `remembers`, what it replaced can come back.
    pub(super) fn synced(&mut self, upto: u64, remembers: bool) {
        let pages = match self.intended.is_empty() && !remembers {
            true => BTreeSet::new(),
            false => self.pages_to_sync(upto),
        };
        if remembers && !pages.is_empty() {
            let before = pages.iter().map(|page| (*page, self.page(*page).to_vec()));
            self.replaced.push_back(before.collect());
            if self.replaced.len() > REMEMBERED {
                self.replaced.pop_front();
            }
        }
        for page in pages {
            // The whole page is written, also what of it an earlier write did not bring there.
            if let Some(bytes) = self.intended.remove(&page) {
                self.set_page(page, &bytes);
            }
        }
        let changes = self.changes.partition_point(|c| c.number < upto);
        for change in self.changes.drain(..changes) {
            apply(&mut self.durable, &change.kind);
        }
    }

    /// A sync failed and its pages were marked clean: some are durable, the rest never will be,
    /// though the page cache shows them.
    pub(super) fn sync_lost(&mut self, upto: u64, dice: &mut Dice) {
        let changes = self.changes.partition_point(|c| c.number < upto);
        let done = dice.pick(&[0.0, 0.5]);
        for change in self.changes.drain(..changes) {
            if matches!(change.kind, ChangeKind::Length(_)) || dice.chance(done) {
                apply(&mut self.durable, &change.kind);
            }
        }
    }

    /// Drops clean pages from the cache, so that reads show what is on the disk. Returns whether
    /// any byte changed.
    pub(super) fn evict_clean(&mut self) -> bool {
        let mut cache = self.durable.clone();
        for change in &self.changes {
            apply(&mut cache, &change.kind);
        }
        cache.resize(self.cache.len(), 0);
        let changed = cache != self.cache;
        self.cache = cache;
        self.intended.clear();
        changed
    }

    /// The process is killed: writes in flight are cut short, the page cache stays.
    pub(super) fn kill(&mut self, dice: &mut Dice) {
        self.cut_writes(1, dice);
    }

    fn cut_writes(&mut self, whole: u64, dice: &mut Dice) {
        while let Some(flight) = self.in_flight.keys().next().copied() {
            self.tear_write(flight, whole, dice);
        }
    }

    /// The power fails: what is durable stays, what was not synced survives in part.
    /// Returns how many changes were not synced, and how much of them survived, if there were any.
    pub(super) fn power_loss(
        &mut self,
        dice: &mut Dice,
        power: &PowerLoss,
    ) -> Option<(usize, Survived)> {
        // What is cut in the middle of a block is a mixture too, where the device makes any.
        self.cut_writes(if power.mixture > 0.0 { 1 } else { power.block_bytes }, dice);
        let changes = std::mem::take(&mut self.changes);
        let mut told = None;
        if !changes.is_empty() {
            let survivor = Survivor::new(&self.durable, &changes, power).decide(dice);
            let survived = match () {
                () if survivor == self.durable => Survived::Nothing,
                () if survivor == self.cache => Survived::All,
                () => Survived::Part,
            };
            told = Some((changes.len(), survived));
            self.durable = survivor;
        }
        self.cache = self.durable.clone();
        self.intended.clear();
        self.allocated.split_off(&self.len().div_ceil(SPACE_BLOCK));
        told
    }
}

/// How many syncs a file remembers what they replaced.
const REMEMBERED: usize = 6;

/// How many places of a file are remembered, for writes to go astray to.
const PLACES: usize = 8;

/// Damage to what is durable. A page is what the system reads and writes at once; one that holds changes
/// which are not synced is not read from the device, so that nothing can be seen of what happens to it.
impl Inode {
    fn page(&self, page: u64) -> &[u8] {
        let start = ((page * SPACE_BLOCK) as usize).min(self.durable.len());
        let end = (start + SPACE_BLOCK as usize).min(self.durable.len());
        &self.durable[start..end]
    }

    /// Makes a page of the device hold these bytes, and zeros behind them. The file stays as long as it is.
    fn set_page(&mut self, page: u64, bytes: &[u8]) {
        let start = ((page * SPACE_BLOCK) as usize).min(self.durable.len());
        let end = (start + SPACE_BLOCK as usize).min(self.durable.len());
        let place = &mut self.durable[start..end];
        let n = bytes.len().min(place.len());
        place[..n].copy_from_slice(&bytes[..n]);
        place[n..].fill(0);
    }

    /// Pages of a range that hold changes which are not synced, or are being written.
    fn is_dirty(&self, page: u64) -> bool {
        let touches =
            |offset: u64, len: usize| blocks(offset, len as u64, SPACE_BLOCK).contains(&page);
        let changed = self.changes.iter().any(|change| match &change.kind {
            ChangeKind::Write { offset, bytes } => touches(*offset, bytes.len()),
            ChangeKind::Length(len) => *len < (page + 1) * SPACE_BLOCK,
        });
        changed || self.in_flight.values().any(|write| touches(write.offset, write.bytes.len()))
    }

    /// The pages that a sync of the changes below a number writes.
    pub(super) fn pages_to_sync(&self, upto: u64) -> BTreeSet<u64> {
        let changes = self.changes.iter().take_while(|change| change.number < upto);
        let pages = changes.filter_map(|change| match &change.kind {
            ChangeKind::Write { offset, bytes } => {
                Some(blocks(*offset, bytes.len() as u64, SPACE_BLOCK))
            }
            ChangeKind::Length(_) => None,
        });
        pages.flatten().collect()
    }

    /// A page of a range that a read has to get from the device: mostly one that says something.
    fn page_to_damage(&self, offset: u64, len: u64, dice: &mut Dice) -> Option<u64> {
        let end = (offset + len).min(self.durable.len() as u64);
        let pages = blocks(offset.min(end), end.saturating_sub(offset), SPACE_BLOCK);
        let clean: Vec<u64> = pages.filter(|page| !self.is_dirty(*page)).collect();
        let speaks = |page: &&u64| self.page(**page).iter().any(|byte| *byte != 0);
        let telling: Vec<u64> = clean.iter().filter(speaks).copied().collect();
        let from = if telling.is_empty() || dice.chance(0.1) { clean } else { telling };
        (!from.is_empty()).then(|| dice.pick(&from))
    }

    /// Bytes of what is read change. Returns where and how, and whether the page cache had shown
    /// something else before; `None` if all that is read lies in the page cache only.
    pub(super) fn rot(&mut self, offset: u64, len: u64, dice: &mut Dice) -> Option<(Place, bool)> {
        let page = self.page_to_damage(offset, len, dice)?;
        let start = (page * SPACE_BLOCK) as usize;
        let (before, shown) = (self.page(page).to_vec(), self.cache.clone());
        let telling: Vec<usize> = (0..before.len()).filter(|at| before[*at] != 0).collect();
        let at = match telling.is_empty() || dice.chance(0.2) {
            true => dice.below(before.len() as u64) as usize,
            false => dice.pick(&telling),
        };
        let place = match dice.below(10) {
            0..=4 => at..at + 1,
            5..=7 => at..(at + 1 + dice.below(64) as usize).min(before.len()),
            8 => at / 512 * 512..(at / 512 * 512 + 512).min(before.len()),
            _ => 0..before.len(),
        };
        let mut after = before.clone();
        match place.len() {
            1 => after[at] ^= 1 << dice.below(8),
            _ if place.len() >= 512 && dice.chance(0.5) => after[place.clone()].fill(0),
            _ => dice.fill(&mut after[place.clone()]),
        }
        if after == before {
            after[at] ^= 1;
        }
        self.set_page(page, &after);
        self.show_device(page);
        let differed = shown.get(start..start + before.len()) != Some(&before);
        let place = Place { offset: (start + place.start) as u64, bytes: place.len() as u64 };
        Some((place, differed))
    }

    /// The page cache gets a page from the device.
    fn show_device(&mut self, page: u64) {
        self.intended.remove(&page);
        let bytes = self.page(page).to_vec();
        let start = (page * SPACE_BLOCK) as usize;
        let n = bytes.len().min(self.cache.len().saturating_sub(start));
        // Of a page behind the end, which a file that was cut has on the device, there is nothing to show.
        if let Some(place) = self.cache.get_mut(start..start + n) {
            place.copy_from_slice(&bytes[..n]);
        }
    }

    /// A page of what is read can never be read again.
    pub(super) fn turn_bad(&mut self, offset: u64, len: u64, dice: &mut Dice) -> Option<Place> {
        let page = self.page_to_damage(offset, len, dice)?;
        self.bad.insert(page);
        Some(Place { offset: page * SPACE_BLOCK, bytes: SPACE_BLOCK })
    }

    /// Whether a read meets a place that cannot be read.
    pub(super) fn is_bad(&self, offset: u64, len: u64) -> bool {
        let end = (offset + len).min(self.len());
        let mut pages = blocks(offset.min(end), end.saturating_sub(offset), SPACE_BLOCK);
        !self.bad.is_empty() && pages.any(|page| self.bad.contains(&page) && !self.is_dirty(page))
    }

    /// After a sync: pages of it were never written. `before` is what the device held.
    pub(super) fn lose_pages(&mut self, pages: &[u64], before: &BTreeMap<u64, Vec<u8>>) {
        for page in pages {
            let new = self.page(*page).to_vec();
            let old = before.get(page).map_or(&[][..], Vec::as_slice);
            if new != old {
                self.set_page(*page, old);
                self.intended.entry(*page).or_insert(new);
            }
        }
    }

    /// What the device holds in these pages.
    pub(super) fn pages(&self, pages: &BTreeSet<u64>) -> BTreeMap<u64, Vec<u8>> {
        pages.iter().map(|page| (*page, self.page(*page).to_vec())).collect()
    }

    /// A page meant for elsewhere is written here.
    pub(super) fn overwrite_page(&mut self, page: u64, bytes: &[u8]) {
        let old = self.page(page).to_vec();
        self.set_page(page, bytes);
        self.intended.entry(page).or_insert(old);
    }

    /// How many pages the device holds of the file.
    pub(super) fn durable_pages(&self) -> u64 {
        (self.durable.len() as u64).div_ceil(SPACE_BLOCK)
    }

    /// After a loss of power: one page, or all that the last few syncs wrote, are as they were before
    /// these.
    pub(super) fn go_back(&mut self, dice: &mut Dice) -> Option<Place> {
        let syncs = 1 + dice.below(self.replaced.len() as u64) as usize;
        let mut earlier: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for replaced in self.replaced.iter().rev().take(syncs) {
            earlier.extend(replaced.iter().map(|(page, bytes)| (*page, bytes.clone())));
        }
        if dice.chance(0.5) {
            let pages: Vec<u64> = earlier.keys().copied().collect();
            let only = dice.pick(&pages);
            earlier.retain(|page, _| *page == only);
        }
        earlier.retain(|page, _| !self.is_dirty(*page));
        let before = self.durable.clone();
        for (page, bytes) in &earlier {
            self.set_page(*page, bytes);
            self.show_device(*page);
        }
        let (first, last) = (earlier.keys().next()?, earlier.keys().next_back()?);
        let place = Place { offset: first * SPACE_BLOCK, bytes: (last + 1 - first) * SPACE_BLOCK };
        (before != self.durable).then_some(place)
    }

    /// What reads show once the page cache has nothing but what is not synced; pages that cannot be
    /// read hold nothing.
    pub(super) fn device_image(&self) -> Vec<u8> {
        let mut image = self.durable.clone();
        for page in &self.bad {
            let start = ((page * SPACE_BLOCK) as usize).min(image.len());
            let end = (start + SPACE_BLOCK as usize).min(image.len());
            image[start..end].fill(0);
        }
        for change in &self.changes {
            apply(&mut image, &change.kind);
        }
        image
    }
}

/// A place in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// How much of what was not synced a loss of power left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Survived {
    Nothing,
    Part,
    All,
}

fn apply(image: &mut Vec<u8>, change: &ChangeKind) {
    match change {
        ChangeKind::Write { offset, bytes } => put(image, *offset, bytes),
        ChangeKind::Length(len) => image.resize(*len as usize, 0),
    }
}

/// Decides what of a file survives a loss of power.
struct Survivor<'a> {
    old: &'a [u8],
    changes: &'a [Change],
    power: &'a PowerLoss,
}

impl<'a> Survivor<'a> {
    fn new(old: &'a [u8], changes: &'a [Change], power: &'a PowerLoss) -> Survivor<'a> {
        Survivor { old, changes, power }
    }

    fn decide(&self, dice: &mut Dice) -> Vec<u8> {
        let len = self.length(dice);
        let mut image = self.old.to_vec();
        let mut changes = self.changes;
        if let Some(cut) = self.cut(dice) {
            // The cut is durable, and with it everything before.
            for change in &self.changes[..=cut] {
                apply(&mut image, &change.kind);
            }
            changes = &self.changes[cut + 1..];
        }
        let survives = dice.pick(&[0.0, 0.5, 0.9, 1.0]);
        for (block, writes) in writes_by_block(changes, self.power.block_bytes) {
            let versions = match dice.chance(survives) {
                true => writes.len(),
                // An earlier state: the block may have been written between two changes.
                false => dice.below(writes.len() as u64 + 1) as usize,
            };
            let torn = versions < writes.len();
            for write in &writes[..versions] {
                put(&mut image, write.0, write.1);
            }
            if torn {
                self.tear(&mut image, block, &writes[versions..], dice);
            }
        }
        self.fill_tail(&mut image, len, dice);
        image
    }

    /// The length that survives: one that the file had since the last sync, or one on the way
    /// to its newest.
    fn length(&self, dice: &mut Dice) -> u64 {
        let mut newest = self.old.len() as u64;
        let mut lengths = vec![newest];
        for change in self.changes {
            newest = match &change.kind {
                ChangeKind::Write { offset, bytes } => newest.max(offset + bytes.len() as u64),
                ChangeKind::Length(len) => *len,
            };
            lengths.push(newest);
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if dice.chance(self.power.length_first) {
            return match dice.below(3) {
                0 => newest,
                1 => longest,
                _ => dice.range(self.old.len() as u64..longest + 1),
            };
        }
        dice.pick(&lengths)
    }

    /// The last change that shortened the file and is durable.
    fn cut(&self, dice: &mut Dice) -> Option<usize> {
        let shortens = |change: &Change| match change.kind {
            ChangeKind::Length(len) => len < self.old.len() as u64,
            ChangeKind::Write { .. } => false,
        };
        let last = self.changes.iter().rposition(shortens)?;
        dice.chance(0.5).then_some(last)
    }

    /// A block was being written when the power failed.
    fn tear(&self, image: &mut Vec<u8>, block: u64, writes: &[(u64, &[u8])], dice: &mut Dice) {
        let start = block * self.power.block_bytes;
        if dice.chance(self.power.garbage) {
            // All of the block, also what was durable before: nothing is known of it.
            let mut garbage = vec![0; self.power.block_bytes as usize];
            dice.fill(&mut garbage);
            let end = image.len() as u64;
            put(image, start, &garbage);
            // What this adds behind the end shows only if the length says so.
            image.truncate(end.max(start + dice.below(self.power.block_bytes)) as usize);
        } else if dice.chance(self.power.mixture) {
            for (offset, bytes) in writes {
                let mut at = 0;
                while at < bytes.len() {
                    let n = (1 + dice.skewed(0..512) as usize).min(bytes.len() - at);
                    if dice.chance(0.5) {
                        put(image, offset + at as u64, &bytes[at..at + n]);
                    }
                    at += n;
                }
            }
        }
    }

    /// Gives the image its length. Room that no surviving data fills holds zeros, or what the
    /// device held there before.
    fn fill_tail(&self, image: &mut Vec<u8>, len: u64, dice: &mut Dice) {
        let written = image.len() as u64;
        image.resize(len as usize, 0);
        if len > written && self.power.stale_tail && self.was_written_behind(written) {
            dice.fill(&mut image[written as usize..]);
        }
    }

    fn was_written_behind(&self, offset: u64) -> bool {
        // Room that was allocated or made by a longer length, and never written, reads as zeros
        // on every file system.
        self.changes.iter().any(|change| match &change.kind {
            ChangeKind::Write { offset: at, bytes } => at + bytes.len() as u64 > offset,
            ChangeKind::Length(_) => false,
        })
    }
}

/// The pieces of all writes, in order, by the block that they fall into.
fn writes_by_block(changes: &[Change], size: u64) -> BTreeMap<u64, Vec<(u64, &[u8])>> {
    let mut by_block: BTreeMap<u64, Vec<(u64, &[u8])>> = BTreeMap::new();
    for change in changes {
        let ChangeKind::Write { offset, bytes } = &change.kind else {
            continue;
        };
        for block in blocks(*offset, bytes.len() as u64, size) {
            let start = (block * size).max(*offset);
            let end = ((block + 1) * size).min(offset + bytes.len() as u64);
            let piece = &bytes[(start - offset) as usize..(end - offset) as usize];
            by_block.entry(block).or_default().push((start, piece));
        }
    }
    by_block
}
