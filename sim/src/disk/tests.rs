//! What may and what may not survive a crash. That without one the disk answers as a real one does
//! is held in `tests/conformance.rs`.

use super::{
    inode::Inode,
    tree::{Entry, ROOT, Tree},
};
use crate::{
    aim::Aim,
    simulation::{BootPlan, Crash, Plan, When, run},
};
use lightning_db::env::{Disk, Env, OpenMode};
use lightning_faults::{Dice, FaultPlan, PowerLoss};
use std::{collections::BTreeSet, io, path::Path};

fn power(block_bytes: u64) -> PowerLoss {
    PowerLoss { block_bytes, directory_subset: true, ..FaultPlan::none().power }
}

fn contents(inode: &Inode) -> Vec<u8> {
    let mut all = vec![0; inode.len() as usize];
    let n = inode.read(&mut all, 0);
    assert_eq!(n, all.len());
    all
}

/// What a file holds after many losses of power, each decided anew.
fn survivors(power: &PowerLoss, build: impl Fn(&mut Inode)) -> BTreeSet<Vec<u8>> {
    let outcome = |n| {
        let mut inode = Inode::named();
        build(&mut inode);
        inode.power_loss(&mut Dice::new(1, "test", n), power);
        contents(&inode)
    };
    (0..400).map(outcome).collect()
}

fn synced(inode: &mut Inode) {
    inode.synced(inode.sync_upto(), false);
}

#[test]
fn what_was_synced_always_survives() {
    let all = survivors(&power(512), |inode| {
        inode.write(0, &[1; 2000]);
        synced(inode);
    });
    assert_eq!(all, BTreeSet::from([vec![1; 2000]]));
}

#[test]
fn blocks_survive_each_on_its_own_and_length_on_its_own() {
    let all = survivors(&power(512), |inode| inode.write(0, &[1; 1024]));
    let blocks = |first: u8, second: u8| [[first; 512], [second; 512]].concat();
    for possible in [vec![], blocks(0, 0), blocks(1, 0), blocks(0, 1), blocks(1, 1)] {
        assert!(all.contains(&possible), "{} bytes never seen", possible.len());
    }
    assert!(all.iter().all(|c| c.is_empty() || c.len() == 1024), "no other length without a fault");
}

#[test]
fn a_block_written_twice_may_be_in_any_of_its_states() {
    let all = survivors(&power(512), |inode| {
        inode.write(0, &[1; 512]);
        synced(inode);
        inode.write(0, &[2; 512]);
        inode.write(0, &[3; 512]);
    });
    assert_eq!(all, [1, 2, 3].map(|b| vec![b; 512]).into());
}

#[test]
fn torn_blocks_are_mixtures_or_garbage_but_leave_their_neighbours_alone() {
    let build = |inode: &mut Inode| {
        inode.write(0, &[1; 1536]);
        synced(inode);
        inode.write(600, &[2; 100]);
    };
    let clean = survivors(&power(512), build);
    assert_eq!(clean.len(), 2, "old or new");
    for (mixture, garbage) in [(1.0, 0.0), (0.0, 1.0)] {
        let all = survivors(&PowerLoss { mixture, garbage, ..power(512) }, build);
        assert!(all.len() > 3);
        let untouched = |c: &Vec<u8>| c[..512] == [1; 512] && c[1024..] == [1; 512];
        assert!(all.iter().all(|c| c.len() == 1536 && untouched(c)));
        let durable_bytes_hit = all.iter().any(|c| c[512..600] != [1; 88]);
        assert_eq!(durable_bytes_hit, garbage > 0.0, "garbage takes the whole block");
    }
}

#[test]
fn a_length_may_be_durable_before_its_data() {
    let first = PowerLoss { length_first: 1.0, ..power(512) };
    let all = survivors(&first, |inode| inode.write(0, &[1; 512]));
    assert!(all.contains(&vec![0; 512]), "zeros");
    assert!(all.iter().any(|c| !c.is_empty() && c.len() < 512), "a part of the length");
    let stale = PowerLoss { stale_tail: true, ..first };
    let all = survivors(&stale, |inode| inode.write(0, &[1; 512]));
    assert!(all.iter().any(|c| c.iter().any(|b| *b > 1)), "what the device held before");
    let all = survivors(&stale, |inode| inode.set_len(512));
    assert!(all.iter().flatten().all(|b| *b == 0), "room that was never written has no garbage");
}

#[test]
fn a_failed_sync_hides_what_it_lost_until_the_cache_is_dropped() {
    let lost = |n| {
        let mut inode = Inode::named();
        inode.write(0, &[1; 512]);
        inode.sync_lost(inode.sync_upto(), &mut Dice::new(1, "test", n));
        synced(&mut inode); // succeeds, and writes nothing
        assert_eq!(contents(&inode), [1; 512]);
        let changed = inode.evict_clean();
        assert_eq!(changed, contents(&inode) != [1; 512]);
        changed
    };
    assert!((0..20).any(lost));
}

#[test]
fn a_killed_process_keeps_its_page_cache_and_tears_the_write_in_flight() {
    let outcome = |n| {
        let mut inode = Inode::named();
        inode.write(0, &[1; 4000]);
        inode.begin_write(0, &[2; 4000]);
        inode.kill(&mut Dice::new(1, "test", n));
        contents(&inode)
    };
    let all: BTreeSet<Vec<u8>> = (0..200).map(outcome).collect();
    assert!(all.contains(&vec![1; 4000]) && all.contains(&vec![2; 4000]) && all.len() > 3);
    assert!(all.iter().all(|c| c.iter().all(|b| [1, 2].contains(b))));
}

/// Else a disk without mixtures would make them, and no bug could be blamed on them.
#[test]
fn a_write_in_flight_when_the_power_fails_leaves_mixtures_only_where_there_are_any() {
    let outcome = |n, mixture| {
        let mut inode = Inode::named();
        inode.write(0, &[1; 4000]);
        synced(&mut inode);
        inode.begin_write(100, &[2; 3900]);
        let power = PowerLoss { mixture, garbage: 0.0, ..power(512) };
        inode.power_loss(&mut Dice::new(1, "test", n), &power);
        contents(&inode)
    };
    let is_mixed = |image: &Vec<u8>| {
        image[100..512].windows(2).chain(image[512..1024].windows(2)).any(|pair| pair[0] != pair[1])
    };
    let all: BTreeSet<Vec<u8>> = (0..200).map(|n| outcome(n, 0.0)).collect();
    assert!(all.len() > 3 && !all.iter().any(is_mixed));
    assert!((0..200).map(|n| outcome(n, 0.5)).any(|image| is_mixed(&image)));
}

#[test]
fn names_survive_as_any_subset_and_a_rename_in_one_piece() {
    let mut seen = BTreeSet::new();
    for n in 0..400 {
        let mut tree = Tree::new();
        tree.link(ROOT, "old".into(), Entry::File(0)).unwrap();
        tree.synced(ROOT, tree.sync_upto());
        tree.link(ROOT, "a".into(), Entry::File(1)).unwrap();
        tree.rename((ROOT, "a".into()), (ROOT, "old".into())).unwrap();
        tree.link(ROOT, "b".into(), Entry::File(2)).unwrap();
        tree.power_loss(&mut Dice::new(1, "test", n), true);
        let find = |name: &str| tree.find(Path::new(name)).unwrap();
        let old = find("old").unwrap();
        assert!([Entry::File(0), Entry::File(1)].contains(&old), "a rename replaces or does not");
        seen.insert((find("a").is_some(), old, find("b").is_some()));
    }
    // "a" beside a renamed "old" cannot be: the rename takes the name away.
    let possible = |a, old, b| (a, Entry::File(old), b);
    assert_eq!(
        seen,
        [false, true]
            .into_iter()
            .flat_map(|b| [possible(false, 0, b), possible(true, 0, b), possible(false, 1, b)])
            .collect()
    );
}

#[test]
fn a_directory_whose_own_entry_was_not_synced_takes_its_files_along() {
    let lost = |n| {
        let mut tree = Tree::new();
        tree.create_directory(ROOT, "dir".into()).unwrap();
        let dir = tree.find_directory(Path::new("dir")).unwrap();
        tree.link(dir, "file".into(), Entry::File(0)).unwrap();
        tree.synced(dir, tree.sync_upto());
        tree.power_loss(&mut Dice::new(1, "test", n), true);
        tree.find(Path::new("dir/file")).unwrap().is_none()
    };
    assert!((0..50).any(lost) && !(0..50).all(lost));
}

/// A file of three pages, each durable and full of its number.
fn three_pages() -> Inode {
    let mut inode = Inode::named();
    for page in 0..3 {
        inode.write(page * 4096, &[page as u8 + 1; 4096]);
    }
    synced(&mut inode);
    inode
}

#[test]
fn rot_changes_one_place_of_what_is_read_and_stays() {
    for n in 0..200 {
        let mut inode = three_pages();
        let before = contents(&inode);
        let rot = inode.rot(5000, 100, &mut Dice::new(1, "test", n));
        let (place, differed) = rot.expect("all is durable");
        assert!(!differed && (4096..8192).contains(&place.offset) && place.bytes <= 4096);
        let after = contents(&inode);
        let end = (place.offset + place.bytes) as usize;
        assert_ne!(after, before);
        assert_eq!(after[..place.offset as usize], before[..place.offset as usize]);
        assert_eq!(after[end..], before[end..]);
        inode.evict_clean();
        inode.power_loss(&mut Dice::new(1, "test", n), &power(512));
        assert_eq!(contents(&inode), after);
    }
}

#[test]
fn what_is_not_synced_cannot_rot_nor_turn_bad() {
    let mut inode = three_pages();
    inode.write(4000, &[9; 200]);
    let dice = &mut Dice::new(1, "test", 0);
    assert!(inode.rot(0, 8192, dice).is_none() && inode.turn_bad(0, 8192, dice).is_none());
    assert!(inode.rot(0, 8193, dice).is_some());
}

#[test]
fn a_bad_place_is_never_read_again_not_even_once_it_was_written_anew() {
    let mut inode = three_pages();
    let place = inode.turn_bad(4096, 1, &mut Dice::new(1, "test", 0));
    assert_eq!(place.map(|place| (place.offset, place.bytes)), Some((4096, 4096)));
    let is_bad = |inode: &Inode| (inode.is_bad(0, 4096), inode.is_bad(4095, 2));
    assert_eq!(is_bad(&inode), (false, true));
    assert!(inode.device_image()[4096..8192].iter().all(|byte| *byte == 0));
    inode.write(4096, &[7; 4096]);
    assert_eq!(is_bad(&inode), (false, false), "it is in the page cache");
    synced(&mut inode);
    assert_eq!(is_bad(&inode), (false, true));
}

/// Writes page 1 anew; the device does not get it.
fn with_a_lost_page() -> (Inode, Vec<u8>) {
    let mut inode = three_pages();
    let old = contents(&inode);
    inode.write(4096, &[7; 4096]);
    let before = inode.pages(&inode.pages_to_sync(inode.sync_upto()));
    synced(&mut inode);
    inode.lose_pages(&[1], &before);
    (inode, old)
}

#[test]
fn a_lost_write_shows_when_the_cache_is_dropped_or_the_power_fails() {
    let (mut inode, old) = with_a_lost_page();
    assert_eq!(contents(&inode)[4096..8192], [7; 4096]);
    inode.kill(&mut Dice::new(1, "test", 0));
    assert_eq!(contents(&inode)[4096..8192], [7; 4096], "the page cache outlives the process");
    assert!(inode.evict_clean());
    assert_eq!(contents(&inode), old);
    let (mut inode, old) = with_a_lost_page();
    inode.power_loss(&mut Dice::new(1, "test", 0), &power(512));
    assert_eq!(contents(&inode), old);
}

#[test]
fn a_later_write_of_the_page_brings_to_the_device_what_was_lost() {
    let (mut inode, _) = with_a_lost_page();
    inode.write(5000, &[8; 10]);
    synced(&mut inode);
    inode.evict_clean();
    let mut page = vec![7; 4096];
    page[904..914].fill(8);
    assert_eq!(contents(&inode)[4096..8192], page);
}

#[test]
fn a_misdirected_page_overwrites_another_and_the_cache_hides_it() {
    let mut inode = three_pages();
    inode.overwrite_page(2, &[7; 4096]);
    assert_eq!(contents(&inode)[8192..], [3; 4096]);
    inode.overwrite_page(3, &[7; 4096]);
    inode.evict_clean();
    assert_eq!(contents(&inode)[8192..], [7; 4096], "a file gets no longer by it");
}

#[test]
fn stale_pages_are_as_they_were_before_some_of_the_last_syncs() {
    let went_back = |n| {
        let mut inode = Inode::named();
        for state in 1..=4 {
            inode.write(0, &[state; 4096]);
            inode.write(4096 * u64::from(state), &[state; 4096]);
            inode.synced(inode.sync_upto(), true);
        }
        let dice = &mut Dice::new(1, "test", n);
        inode.power_loss(dice, &power(512));
        let newest = contents(&inode);
        assert!(inode.go_back(dice).is_some() && contents(&inode) != newest);
        let pages: Vec<u8> = contents(&inode).chunks(4096).map(|page| page[0]).collect();
        pages
    };
    let all: BTreeSet<Vec<u8>> = (0..200).map(went_back).collect();
    for possible in [[4, 1, 2, 3, 0], [3, 1, 2, 3, 0], [3, 1, 2, 3, 4], [1, 1, 0, 0, 0], [0; 5]] {
        assert!(all.contains(&possible[..]), "never {possible:?}: {all:?}");
    }
}

/// Counts faults of a kind on a machine whose plan has them all the time.
#[test]
fn damage_strikes_reads_syncs_and_losses_of_power_and_is_counted() {
    let all = |damage: fn(&mut lightning_faults::Damage)| {
        let mut plan = FaultPlan::none();
        damage(&mut plan.damage);
        plan
    };
    let read_back = |disk: &dyn Disk| {
        let file = disk.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
        disk.open(Path::new("/b"), OpenMode::CreateNew).unwrap().write_at(&[9; 9000], 0).unwrap();
        file.write_at(&[1; 9000], 0).unwrap();
        file.sync_all().unwrap();
        let mut found = vec![0; 9000];
        file.read_at(&mut found, 0).map(|_| found)
    };
    on_machine(all(|damage| damage.bit_rot = 0.999_999), move |disk| {
        assert_ne!(read_back(disk).unwrap(), [1; 9000]);
    });
    on_machine(all(|damage| damage.latent_error = 0.999_999), move |disk| {
        assert_eq!(read_back(disk).unwrap_err().raw_os_error(), Some(5));
    });
    on_machine(all(|damage| damage.lost_write = 0.999_999), move |disk| {
        assert_eq!(read_back(disk).unwrap(), [1; 9000], "the page cache has it");
    });
    let rots_in = |files: &str| {
        let mut plan = all(|damage| damage.bit_rot = 0.999_999);
        plan.damage.files = Some(files.into());
        plan
    };
    on_machine(rots_in("a"), move |disk| assert_ne!(read_back(disk).unwrap(), [1; 9000]));
    on_machine(rots_in("b"), move |disk| {
        assert_eq!(read_back(disk).unwrap(), [1; 9000], "damage that is meant for others");
    });
}

/// A file remembers the places of its last syncs once each.
#[test]
fn places_of_syncs_are_remembered() {
    let mut inode = Inode::named();
    for page in (0..20).chain([3, 19]) {
        inode.remember_place(&[page, page + 1].into());
    }
    assert_eq!(inode.synced_pages, [13, 14, 15, 16, 17, 18, 3, 19]);
}

/// Clocks: the monotone one never goes back, whoever waits is woken all the same.
#[test]
fn clocks_jump_and_the_monotone_one_only_forwards() {
    let clock = lightning_faults::ClockFaults { wall_jump: 0.2, clock_jump: 0.2 };
    let boot = BootPlan {
        stream: 0,
        crash: Some((When::Never, Crash::Ended)),
        near: None,
        full: None,
        calm: false,
        interference: None,
    };
    let faults = FaultPlan { clock, ..FaultPlan::none() };
    let outcome = run(Plan { faults, boots: vec![boot], ..Plan::draw(1) }, |boot| {
        let (clock, world) = (boot.env.clock(), boot.env.world());
        let (mut before, mut back) = (clock.now(), 0);
        let mut wall = clock.wall();
        for _ in 0..100 {
            let began = world.now();
            clock.sleep(std::time::Duration::from_millis(1));
            assert!(world.now() < began + std::time::Duration::from_millis(2));
            assert!(clock.now() >= before);
            (before, back) = (clock.now(), back + u32::from(clock.wall() < wall));
            wall = clock.wall();
        }
        assert!(back > 0 && before > world.now() + std::time::Duration::from_millis(1));
    });
    assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    assert!(outcome.counters["clock jump"] > 0 && outcome.counters["wall clock jump"] > 0);
}

/// Runs `body` on a machine where nothing fails unless `faults` say so.
fn on_machine(faults: FaultPlan, body: impl Fn(&dyn Disk) + Send + Sync + 'static) {
    let boot = BootPlan {
        stream: 0,
        crash: Some((When::Never, Crash::Ended)),
        near: None,
        full: None,
        calm: false,
        interference: None,
    };
    let mut plan = Plan { faults, boots: vec![boot], ..Plan::draw(1) };
    plan.scheduling.aim = Aim::default();
    let outcome = run(plan, move |boot| {
        if !boot.last {
            body(boot.env.disk());
        }
    });
    assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
}

#[test]
fn a_full_disk_refuses_what_is_new_and_overwrites_what_is_there() {
    let full = lightning_faults::Full {
        begins: std::time::Duration::ZERO,
        lasts: std::time::Duration::from_secs(1),
        left_bytes: 8192,
    };
    on_machine(FaultPlan { full: Some(full), ..FaultPlan::none() }, |disk| {
        let file = disk.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
        file.allocate(0, 8192).unwrap();
        let code = |result: io::Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(code(file.allocate(0, 8193)), Some(28));
        assert_eq!(file.write_at(&[1; 6000], 4096).unwrap(), 4096, "as much as there is room for");
        assert_eq!(code(file.write_at(&[1; 10], 8192).map(drop)), Some(28));
        assert_eq!(file.write_at(&[2; 8192], 0).unwrap(), 8192);
        let open = disk.open(Path::new("/b"), OpenMode::CreateNew);
        assert_eq!(code(open.map(drop)), Some(28));
        disk.remove(Path::new("/a")).unwrap();
        assert_eq!(code(disk.create_dir(Path::new("/d"))), Some(28), "the file is still open");
        drop(file);
        disk.create_dir(Path::new("/d")).unwrap();
    });
}

/// What a sync of a directory does that fails: another thread's names go with it, though its own sync succeeds.
#[test]
fn names_that_a_failed_sync_has_lost_stay_until_the_power_fails() {
    let (mut tree, mut dice) = (Tree::new(), Dice::new(1, "names", 0));
    let file = |name: &str| Path::new("/").join(name);
    tree.link(ROOT, "old".into(), Entry::File(1)).unwrap();
    tree.create_directory(ROOT, "directory".into()).unwrap();
    tree.synced(ROOT, tree.sync_upto() - 1);
    tree.link(ROOT, "lost".into(), Entry::File(2)).unwrap();
    tree.rename((ROOT, "old".into()), (ROOT, "new".into())).unwrap();
    let upto = tree.sync_upto();
    tree.link(ROOT, "later".into(), Entry::File(3)).unwrap();
    while tree.pending_operations() > 2 {
        tree.sync_lost(ROOT, upto, &mut dice);
    }
    tree.synced(ROOT, tree.sync_upto());
    assert!(
        tree.find(&file("lost")).unwrap().is_some() && tree.find(&file("new")).unwrap().is_some()
    );
    // The next renaming is durable, and the file has no other name.
    tree.rename((ROOT, "new".into()), (ROOT, "newest".into())).unwrap();
    tree.synced(ROOT, tree.sync_upto());
    tree.power_loss(&mut dice, true);
    assert_eq!(tree.list(ROOT).unwrap(), ["directory", "later", "newest"]);
}

#[test]
fn an_unlinked_file_stays_usable_and_a_lock_excludes() {
    on_machine(FaultPlan::none(), |disk| {
        let file = disk.open(Path::new("/f"), OpenMode::CreateNew).unwrap();
        disk.remove(Path::new("/f")).unwrap();
        file.write_at(b"still here", 3).unwrap();
        let mut buf = [9; 5];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 5);
        assert_eq!(&buf, b"\0\0\0st");
        disk.create_dir(Path::new("/d")).unwrap();
        let held = disk.lock_dir(Path::new("/d")).unwrap();
        assert!(held.is_some() && disk.lock_dir(Path::new("/d")).unwrap().is_none());
        drop(held);
        assert!(disk.lock_dir(Path::new("/d")).unwrap().is_some());
    });
}
