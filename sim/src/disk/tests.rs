//! What may and what may not survive a crash. That without one the disk answers as a real one does
//! is held in `tests/conformance.rs`.

use super::{
    inode::Inode,
    tree::{Entry, ROOT, Tree},
};
use crate::simulation::{BootPlan, Crash, Plan, When, run};
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
    inode.synced(inode.sync_upto());
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
    let plan = Plan { faults, boots: vec![boot], ..Plan::draw(1) };
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
        file.allocate(8192).unwrap();
        let code = |result: io::Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(code(file.allocate(8193)), Some(28));
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
