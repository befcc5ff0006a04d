//! What destroys the only copy: bit rot, places that cannot be read any more, writes that went
//! elsewhere or nowhere, and blocks that come back in an earlier state.

use super::{Inode, SPACE_BLOCK, Shared, SimDisk, State, eio};
use crate::world::BAD_PLACE;
use lightning_faults::{ClockFaults, Dice};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

/// What the device holds of the files of a directory, by name; pages that cannot be read hold zeros.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// How often files were damaged, by what they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Struck {
    /// Log segments and manifests, and files that had lost their name by then.
    pub(crate) log: u64,
    pub(crate) manifests: u64,
    /// The log as it was after each damage to it by a read, since this was last asked: nobody has had
    /// the time to act upon what was read.
    pub(crate) logs: Vec<Image>,
}

impl SimDisk {
    /// What was damaged so far in this run.
    pub(crate) fn struck(&self) -> Struck {
        let struck = &mut self.shared.state.lock().struck;
        Struck { logs: std::mem::take(&mut struck.logs), ..struck.clone() }
    }

    /// What the device holds of the log in a directory. Only the simulator asks.
    pub(crate) fn log_image(&self, dir: &Path) -> Image {
        let state = self.shared.state.lock();
        let dir = state.tree.find_directory(dir);
        let files = dir.and_then(|dir| state.tree.files(dir)).unwrap_or_default();
        image(&state.inodes, &files)
    }

    /// The process has ended by itself. Perhaps the disk is mounted anew then, if that can show damage.
    pub(crate) fn ended(&self) {
        let shared = &self.shared;
        let hides = |inode: &Inode| !inode.intended.is_empty() || !inode.replaced.is_empty();
        if !shared.state.lock().inodes.values().any(hides)
            || !shared.world.dice("remount").chance(0.5)
        {
            return;
        }
        self.drop_caches();
        shared.damage_remount(&mut shared.state.lock());
    }

    /// What the clocks of the machine do.
    pub(crate) fn clock_faults(&self) -> &ClockFaults {
        &self.shared.plan.clock
    }
}

fn image(inodes: &BTreeMap<u64, Inode>, files: &BTreeMap<String, u64>) -> Image {
    let log = files.iter().filter(|(name, _)| name.starts_with("wal-"));
    let held =
        log.filter_map(|(name, number)| Some((name.clone(), inodes.get(number)?.device_image())));
    held.collect()
}

impl State {
    /// Notes that a file was damaged, and tells its name.
    fn note_damage(&mut self, number: u64) -> String {
        let name = self.tree.names().remove(&number);
        let named = |prefix| name.as_ref().is_none_or(|name| name.starts_with(prefix));
        self.struck.log += u64::from(named("wal-"));
        self.struck.manifests += u64::from(named("manifest-"));
        name.unwrap_or_else(|| "a removed file".into())
    }

    /// Remembers the log as it is now, if it was damaged.
    fn note_log(&mut self, number: u64) {
        let names = self.tree.names();
        if names.get(&number).is_some_and(|name| name.starts_with("wal-")) {
            let files = names.into_iter().map(|(number, name)| (name, number)).collect();
            self.struck.logs.push(image(&self.inodes, &files));
        }
    }
}

impl Shared {
    fn tell(&self, kind: &'static str, words: &[u64], text: String) {
        self.world.fault(kind);
        self.world.record("damage", words, || text);
    }

    /// What a read finds damaged, or cannot read.
    pub(super) fn damage_read(
        &self,
        state: &mut State,
        number: u64,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let damage = &self.plan.damage;
        let name = || state.tree.names().remove(&number);
        let rot = self.world.struck_file("bit rot", damage.bit_rot, damage, name);
        let bad = self.world.struck_file("latent error", damage.latent_error, damage, name);
        let on_device = !state.is_shown(number, offset, len);
        let (rot, bad) = (rot.filter(|_| on_device), bad.filter(|_| on_device));
        if let Some(mut dice) = rot
            && let Some((place, differed)) = state.inode(number)?.rot(offset, len, &mut dice)
        {
            state.took_back |= differed;
            let name = state.note_damage(number);
            state.note_log(number);
            self.tell("bit rot", &[number, place.offset, place.bytes], {
                format!("{} bytes of {name} at {}", place.bytes, place.offset)
            });
        }
        if let Some(mut dice) = bad
            && let Some(place) = state.inode(number)?.turn_bad(offset, len, &mut dice)
        {
            let name = state.note_damage(number);
            state.note_log(number);
            self.tell("latent error", &[number, place.offset], {
                format!("{name} at {} cannot be read any more", place.offset)
            });
        }
        if state.inode(number)?.is_bad(offset, len) {
            self.world.fault(BAD_PLACE);
            return Err(eio());
        }
        Ok(())
    }

    /// A sync ends well, or says so.
    pub(super) fn synced(&self, state: &mut State, number: u64, upto: u64) -> io::Result<()> {
        let damage = &self.plan.damage;
        let name = || state.tree.names().remove(&number);
        let lost = self.world.struck_file("lost write", damage.lost_write, damage, name);
        let misdirected =
            self.world.struck_file("misdirected write", damage.misdirected_write, damage, name);
        let inode = state.inode(number)?;
        let pages = inode.pages_to_sync(upto);
        inode.remember_place(&pages);
        let struck = (lost.is_some() || misdirected.is_some()) && !pages.is_empty();
        let before = if struck { inode.pages(&pages) } else { BTreeMap::new() };
        inode.synced(upto, damage.stale_block > 0.0);
        let pages: Vec<u64> = pages.into_iter().collect();
        if let (Some(mut dice), true) = (lost, struck) {
            let first = dice.below(pages.len() as u64) as usize;
            let lost = match dice.below(6) {
                0 | 1 => &pages[first..=first],
                2 => &pages[first..first + 1 + dice.below((pages.len() - first) as u64) as usize],
                _ => &pages[..],
            };
            inode.lose_pages(lost, &before);
            let name = state.note_damage(number);
            self.tell("lost write", &[number, lost[0], lost.len() as u64], {
                format!("{} pages of {name} from page {} on", lost.len(), lost[0])
            });
        }
        if let (Some(mut dice), true) = (misdirected, struck) {
            // The first page says what the others are.
            let page = if dice.chance(0.5) { pages[0] } else { dice.pick(&pages) };
            self.misdirect(state, number, page, &before, &mut dice);
        }
        Ok(())
    }

    /// A page that was just synced went elsewhere.
    fn misdirect(
        &self,
        state: &mut State,
        number: u64,
        page: u64,
        before: &BTreeMap<u64, Vec<u8>>,
        dice: &mut Dice,
    ) {
        let elsewhere = dice.chance(0.5);
        // Files of one length lie alike.
        let alike = dice.chance(0.7).then(|| state.inodes.get(&number).map(Inode::len)).flatten();
        let others = state.tree.names().into_keys().filter(|other| {
            let len = state.inodes.get(other).map(Inode::len);
            elsewhere && *other != number && (alike.is_none() || len == alike)
        });
        let others: Vec<u64> = others.collect();
        let target = if others.is_empty() { number } else { dice.pick(&others) };
        let Ok(inode) = state.inode(number) else { return };
        let bytes = inode.pages(&BTreeSet::from([page])).remove(&page).unwrap_or_default();
        let Ok(other) = state.inode(target) else { return };
        let earlier = other.synced_pages.iter().copied().collect::<Vec<_>>();
        let place = match dice.below(4) {
            _ if target != number && dice.chance(0.5) => page,
            // The device mixes up what it was asked for.
            _ if !earlier.is_empty() && dice.chance(0.6) => dice.pick(&earlier),
            // One bit of the address is wrong.
            0 => page ^ (1 << dice.below(4)),
            1 => page + 1,
            2 => page.saturating_sub(1),
            _ => dice.below(other.durable_pages()),
        };
        if place >= other.durable_pages() || (target, place) == (number, page) {
            return;
        }
        if state.is_shown(target, place * SPACE_BLOCK, SPACE_BLOCK) {
            return;
        }
        let Ok(other) = state.inode(target) else { return };
        other.overwrite_page(place, &bytes);
        if let Ok(inode) = state.inode(number) {
            inode.lose_pages(&[page], before);
        }
        let (name, to) = (state.note_damage(number), state.note_damage(target));
        self.tell("misdirected write", &[number, page, target, place], {
            format!("page {page} of {name} went to page {place} of {to}")
        });
    }

    /// What the device shows after a loss of power that it did not show before.
    pub(super) fn damage_remount(&self, state: &mut State) {
        let Some(mut dice) = self.world.struck("stale block", self.plan.damage.stale_block) else {
            return;
        };
        let names = state.tree.names();
        let name = |number| names.get(number).map_or("", String::as_str);
        let remembering = state.inodes.iter().filter(|(number, inode)| {
            !inode.replaced.is_empty() && self.plan.damage.comes_to(name(number))
        });
        let files: Vec<u64> = remembering.map(|(number, _)| *number).collect();
        if files.is_empty() {
            return;
        }
        let number = dice.pick(&files);
        let place = state.inodes.get_mut(&number).and_then(|inode| inode.go_back(&mut dice));
        for inode in state.inodes.values_mut() {
            inode.replaced.clear();
        }
        let Some(place) = place else { return };
        let name = state.note_damage(number);
        self.tell("stale block", &[number, place.offset, place.bytes], {
            format!("{} bytes of {name} at {} are as they were", place.bytes, place.offset)
        });
    }
}
