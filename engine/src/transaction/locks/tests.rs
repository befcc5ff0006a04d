//! For the failure that makes a lock worse than none: two hold what one may, or all wait for what nobody has.

mod measure;
mod model;
mod threads;

use super::{table::Table, *};
use Mode::{Exclusive, Shared};

const KEYSPACE: KeyspaceId = KeyspaceId(3);

fn key(key: &str) -> Target<'_> {
    Target::Key(KEYSPACE, key.as_bytes())
}

/// `start..end`; without an end if that is `~`.
fn range<'a>(start: &'a str, end: &'a str) -> Target<'a> {
    Target::Range(KEYSPACE, start.as_bytes(), (end != "~").then_some(end.as_bytes()))
}

/// A table, and what each owner waits for. Owners are as old as their numbers are small.
#[derive(Default)]
struct Desk {
    table: Table,
    waiting: std::collections::BTreeMap<u64, Request>,
}

impl Desk {
    fn try_ask(&mut self, id: u64, target: Target<'_>, mode: Mode) -> Result<bool> {
        let asked = self.table.ask(Owner::new(id, id), target, mode, || false)?;
        if let Asked::Waits(request) = asked {
            assert!(self.waiting.insert(id, request).is_none());
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether it is granted at once.
    #[track_caller]
    fn ask(&mut self, owner: u64, target: Target<'_>, mode: Mode) -> bool {
        self.try_ask(owner, target, mode).unwrap()
    }

    /// Whether it was granted now to an owner who waited.
    #[track_caller]
    fn granted(&mut self, owner: u64) -> bool {
        let granted = self.table.decision(self.waiting[&owner]).map(Result::unwrap).is_some();
        if granted {
            self.waiting.remove(&owner);
        }
        granted
    }

    /// Those who are granted something now, in the order of their numbers.
    fn all_granted(&mut self) -> Vec<u64> {
        let owners: Vec<u64> = self.waiting.keys().copied().collect();
        owners.into_iter().filter(|owner| self.granted(*owner)).collect()
    }

    fn gives_up(&mut self, owner: u64) {
        let request = self.waiting.remove(&owner).unwrap();
        let given_up = self.table.withdraw(request, Error::LockTimeout);
        assert!(matches!(given_up, Err(Error::LockTimeout)));
    }

    /// The circle that an owner who waited has lost in.
    fn lost(&mut self, owner: u64) -> Vec<u64> {
        let request = self.waiting.remove(&owner).unwrap();
        circle(self.table.decision(request).unwrap())
    }

    /// Nobody waits, and when all have ended nothing is left.
    fn end(mut self) {
        assert!(self.waiting.is_empty());
        (0..20).for_each(|owner| self.table.unlock_all(owner));
        assert!(!self.table.is_in_use() && self.table.is_bare());
    }
}

#[track_caller]
fn circle<T>(refused: Result<T>) -> Vec<u64> {
    match refused {
        Err(Error::Deadlock { cycle }) => cycle,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("granted"),
    }
}

#[test]
fn shared_locks_are_shared_and_nothing_else_is() {
    for target in [key("a"), range("a", "c"), range("", "~")] {
        for (held, asked, both) in [
            (Shared, Shared, true),
            (Shared, Exclusive, false),
            (Exclusive, Shared, false),
            (Exclusive, Exclusive, false),
        ] {
            let mut desk = Desk::default();
            assert!(desk.ask(1, target, held));
            assert!(desk.ask(1, target, asked), "one's own lock is in nobody's way");
            desk.table.unlock_all(1);
            assert!(desk.ask(1, target, held));
            assert_eq!(desk.ask(2, target, asked), both, "{target:?}: {held:?}, {asked:?}");
            desk.table.unlock_all(1);
            assert!(both || desk.granted(2));
            desk.end();
        }
    }
}

#[test]
fn overlapping_is_what_has_a_key_in_common() {
    let b_to_d = range("b", "d");
    for (other, overlaps) in [
        (key("a"), false),
        (key("b"), true),
        (key("c\u{7f}"), true),
        (key("d"), false),
        (range("a", "b"), false),
        (range("a", "b\0"), true),
        (range("c", "c\0"), true),
        (range("c\u{7f}", "z"), true),
        (range("d", "e"), false),
        (range("d", "~"), false),
        (range("", "~"), true),
        (Target::Key(KeyspaceId(4), b"c"), false),
        (Target::Range(KeyspaceId(4), b"", None), false),
    ] {
        for (held, asked) in [(b_to_d, other), (other, b_to_d)] {
            let mut desk = Desk::default();
            assert!(desk.ask(1, held, Exclusive));
            assert_eq!(desk.ask(2, asked, Exclusive), !overlaps, "{held:?} {asked:?}");
            desk.table.unlock_all(1);
            assert!(!overlaps || desk.granted(2));
            assert_eq!(desk.ask(3, held, Exclusive), !overlaps, "{held:?} {asked:?}");
            desk.table.unlock_all(2);
            assert!(!overlaps || desk.granted(3));
            desk.end();
        }
    }
}

#[test]
fn a_range_of_no_keys_is_nobodys() {
    let mut desk = Desk::default();
    assert!(desk.ask(1, range("", "~"), Exclusive));
    for empty in [range("b", "b"), range("c", "b"), range("", "")] {
        assert!(desk.ask(2, empty, Exclusive));
    }
    desk.table.unlock_all(1);
    assert!(!desk.table.is_in_use());
    desk.end();
}

/// Plain writes among themselves need no locks.
#[test]
fn a_table_of_plain_writes_is_not_in_use() {
    let mut table = Table::default();
    let plain = |id| Owner { plain: true, ..Owner::new(id, id) };
    let ask = |table: &mut Table, owner, target| {
        matches!(table.ask(owner, target, Exclusive, || false), Ok(Asked::Granted))
    };
    assert!(ask(&mut table, plain(1), key("a")) && !table.is_in_use());
    assert!(ask(&mut table, Owner::new(2, 2), key("b")) && table.is_in_use());
    assert!(!ask(&mut table, Owner::new(3, 3), key("a")));
    table.unlock_all(2);
    assert!(table.is_in_use(), "one waits");
    table.unlock_all(1);
    assert!(table.is_in_use(), "it has the lock now");
    assert!(ask(&mut table, plain(4), range("x", "~")));
    table.unlock_all(3);
    assert!(!table.is_in_use() && !table.is_bare());
    table.unlock_all(4);
    assert!(table.is_bare());
}

#[test]
fn what_is_held_is_not_held_twice() {
    let mut desk = Desk::default();
    assert!(desk.ask(1, range("b", "f"), Exclusive) && desk.ask(1, key("x"), Exclusive));
    assert!(desk.ask(1, range("m", "~"), Shared));
    assert_eq!(desk.table.len(), 3);
    for covered in [key("b"), key("e"), range("b", "f"), range("c", "d")] {
        assert!(desk.ask(1, covered, Shared) && desk.ask(1, covered, Exclusive), "{covered:?}");
    }
    assert!(desk.ask(1, key("x"), Shared) && desk.ask(1, range("n", "~"), Shared));
    assert_eq!(desk.table.len(), 3);
    for more in [key("f"), key("y"), range("a", "f"), range("b", "g"), range("b", "~")] {
        assert!(desk.ask(1, more, Exclusive), "{more:?}");
    }
    assert_eq!(desk.table.len(), 8);
    desk.end();
}

#[test]
fn first_come_first_served() {
    let mut desk = Desk::default();
    assert!(desk.ask(1, key("k"), Exclusive));
    for (owner, mode) in
        [(2, Shared), (3, Shared), (4, Exclusive), (5, Shared), (6, Exclusive), (7, Shared)]
    {
        assert!(!desk.ask(owner, key("k"), mode));
    }
    desk.table.unlock_all(1);
    assert_eq!(desk.all_granted(), [2, 3]);
    desk.table.unlock_all(3);
    assert_eq!(desk.all_granted(), []);
    desk.gives_up(6);
    desk.table.unlock_all(2);
    assert_eq!(desk.all_granted(), [4]);
    desk.table.unlock_all(4);
    assert_eq!(desk.all_granted(), [5, 7]);
    desk.end();
}

#[test]
fn no_stream_of_shared_locks_keeps_an_exclusive_one_waiting() {
    for wanted in [key("k"), range("a", "~")] {
        let mut desk = Desk::default();
        assert!(desk.ask(1, key("k"), Shared));
        assert!(!desk.ask(2, wanted, Exclusive));
        assert!(!desk.ask(3, key("k"), Shared) && !desk.ask(4, range("j", "l"), Shared));
        assert!(desk.ask(1, key("k"), Shared), "it has it");
        desk.table.unlock_all(1);
        assert_eq!(desk.all_granted(), [2]);
        desk.table.unlock_all(2);
        assert_eq!(desk.all_granted(), [3, 4]);
        desk.end();
    }
}

/// For a request that gave up and is still in the way of those behind it.
#[test]
fn who_gives_up_lets_those_behind_go_on() {
    for wanted in [key("k"), range("a", "~")] {
        let mut desk = Desk::default();
        assert!(desk.ask(1, key("k"), Shared));
        assert!(!desk.ask(2, wanted, Exclusive));
        assert!(!desk.ask(3, key("k"), Shared) && !desk.ask(4, range("j", "l"), Shared));
        desk.gives_up(2);
        assert_eq!(desk.all_granted(), [3, 4]);
        desk.end();
    }
}

#[test]
fn an_upgrade_waits_only_for_those_who_hold_the_lock_too() {
    for held in [key("k"), range("j", "l")] {
        let mut desk = Desk::default();
        assert!(desk.ask(1, held, Shared) && desk.ask(2, key("k"), Shared));
        assert!(!desk.ask(3, key("k"), Exclusive) && !desk.ask(4, key("k"), Shared));
        assert!(!desk.ask(1, key("k"), Exclusive));
        assert!(!desk.ask(5, key("k"), Shared));
        desk.table.unlock_all(2);
        assert_eq!(desk.all_granted(), [1]);
        desk.table.unlock_all(1);
        assert_eq!(desk.all_granted(), [3]);
        desk.table.unlock_all(3);
        assert_eq!(desk.all_granted(), [4, 5]);
        // Alone with the lock, an upgrade waits for nobody.
        desk.table.unlock_all(4);
        assert!(!desk.ask(6, key("k"), Exclusive) && !desk.ask(7, key("k"), Shared));
        assert!(desk.ask(5, key("k"), Exclusive));
        desk.table.unlock_all(5);
        assert_eq!(desk.all_granted(), [6]);
        desk.table.unlock_all(6);
        assert_eq!(desk.all_granted(), [7]);
        desk.end();
    }
}

/// For a deadlock where there need be none: a request for a range waits for one of its keys anyway.
#[test]
fn who_is_waited_for_does_not_wait_for_those_who_wait_for_it() {
    let mut desk = Desk::default();
    assert!(desk.ask(1, key("b"), Exclusive));
    assert!(!desk.ask(2, range("a", "z"), Exclusive));
    assert!(desk.ask(1, key("c"), Exclusive));
    assert!(desk.ask(1, range("b", "y"), Exclusive));
    assert!(!desk.ask(3, key("d"), Exclusive), "it came later");
    desk.table.unlock_all(1);
    assert_eq!(desk.all_granted(), [2]);
    desk.table.unlock_all(2);
    assert_eq!(desk.all_granted(), [3]);
    desk.end();
}

#[test]
fn of_two_upgrades_the_younger_one_loses() {
    // The younger one asks last, then first.
    let mut desk = Desk::default();
    assert!(desk.ask(1, key("k"), Shared) && desk.ask(2, key("k"), Shared));
    assert!(!desk.ask(1, key("k"), Exclusive));
    assert_eq!(circle(desk.try_ask(2, key("k"), Exclusive)), [2, 1]);
    assert!(!desk.granted(1), "not before the other one has let go");
    desk.table.unlock_all(2);
    assert!(desk.granted(1));
    desk.table.unlock_all(1);

    assert!(desk.ask(1, key("k"), Shared) && desk.ask(2, key("k"), Shared));
    assert!(!desk.ask(2, key("k"), Exclusive));
    assert!(!desk.ask(1, key("k"), Exclusive));
    assert_eq!(desk.lost(2), [2, 1]);
    desk.table.unlock_all(2);
    assert!(desk.granted(1));
    desk.end();
}

#[test]
fn the_youngest_is_the_one_that_began_last_whatever_its_id() {
    let mut table = Table::default();
    let (old, young) = (Owner::new(9, 1), Owner::new(8, 2));
    let mut ask = |owner, name| table.ask(owner, key(name), Exclusive, || false);
    assert!(matches!(ask(old, "a"), Ok(Asked::Granted)));
    assert!(matches!(ask(young, "b"), Ok(Asked::Granted)));
    assert!(matches!(ask(old, "b"), Ok(Asked::Waits(_))));
    assert_eq!(circle(ask(young, "a")), [8, 9]);
    table.unlock_all(8);
    // Of the same age, the one with the larger id.
    let same = Owner::new(10, 1);
    let mut ask = |owner, name| table.ask(owner, key(name), Exclusive, || false);
    assert!(matches!(ask(same, "c"), Ok(Asked::Granted)));
    assert!(matches!(ask(old, "c"), Ok(Asked::Waits(_))));
    assert_eq!(circle(ask(same, "a")), [10, 9]);
}

#[test]
fn circles_of_three_and_through_ranges_are_found() {
    for (a, b, c) in [
        (key("a"), key("b"), key("c")),
        (range("a", "b"), range("b", "c"), range("c", "~")),
        (key("a"), range("b", "c"), key("c")),
    ] {
        // Whoever closes the circle, the third loses.
        for closes in 1..=3 {
            let mut desk = Desk::default();
            for (owner, target) in [(1, a), (2, b), (3, c)] {
                assert!(desk.ask(owner, target, Exclusive));
            }
            let wanted = [(1, key("b")), (2, range("c", "c\0")), (3, key("a"))];
            for (owner, target) in wanted.into_iter().filter(|(owner, _)| *owner != closes) {
                assert!(!desk.ask(owner, target, Shared));
            }
            let last = desk.try_ask(closes, wanted[closes as usize - 1].1, Shared);
            match closes {
                3 => assert_eq!(circle(last), [3, 1, 2]),
                _ => {
                    assert!(!last.unwrap());
                    assert_eq!(desk.lost(3), [3, 1, 2]);
                }
            }
            assert_eq!(desk.all_granted(), []);
            desk.table.unlock_all(3);
            assert_eq!(desk.all_granted(), [2]);
            desk.table.unlock_all(2);
            assert_eq!(desk.all_granted(), [1]);
            desk.end();
        }
    }
}

/// For a circle that leads through the order of a queue, where one waits for another that holds nothing of it.
#[test]
fn circles_through_a_queue_are_found() {
    let mut desk = Desk::default();
    assert!(desk.ask(1, key("k"), Shared) && desk.ask(3, key("b"), Exclusive));
    assert!(!desk.ask(2, key("k"), Exclusive));
    assert!(!desk.ask(3, key("k"), Shared), "behind 2");
    assert!(!desk.ask(1, key("b"), Shared));
    assert_eq!(desk.lost(3), [3, 2, 1]);
    desk.table.unlock_all(3);
    assert_eq!(desk.all_granted(), [1]);
    desk.table.unlock_all(1);
    assert_eq!(desk.all_granted(), [2]);
    desk.end();
}

/// For a second circle that stays when the first one is broken.
#[test]
fn a_request_that_closes_two_circles_breaks_both() {
    let mut desk = Desk::default();
    assert!(desk.ask(1, key("a"), Exclusive));
    assert!(desk.ask(2, key("k"), Shared) && desk.ask(3, key("k"), Shared));
    assert!(!desk.ask(2, key("a"), Shared) && !desk.ask(3, key("a"), Shared));
    assert!(!desk.ask(1, key("k"), Exclusive));
    assert_eq!((desk.lost(2), desk.lost(3)), (vec![2, 1], vec![3, 1]));
    desk.table.unlock_all(2);
    assert_eq!(desk.all_granted(), []);
    desk.table.unlock_all(3);
    assert_eq!(desk.all_granted(), [1]);
    desk.end();
}

/// For a request whose time is over before it begins to wait, and that makes another one lose all the same.
#[test]
fn who_cannot_wait_is_in_no_queue_and_no_circle() {
    let mut desk = Desk::default();
    assert!(desk.ask(1, key("a"), Exclusive) && desk.ask(2, key("b"), Exclusive));
    assert!(!desk.ask(2, key("a"), Exclusive));
    let late = desk.table.ask(Owner::new(1, 1), key("b"), Shared, || true);
    assert!(matches!(late, Err(Error::LockTimeout)));
    assert!(!desk.granted(2));
    desk.table.unlock_all(1);
    assert!(desk.granted(2));
    desk.end();
}

/// For memory that grows with what was locked once.
#[test]
fn what_is_unlocked_takes_no_memory() {
    let mut desk = Desk::default();
    for keyspace in 0..100 {
        for number in 0..100_u32 {
            let target = Target::Key(KeyspaceId(keyspace), &number.to_be_bytes());
            assert!(desk.ask(number.into(), target, Exclusive));
        }
        let all = Target::Range(KeyspaceId(keyspace), &[], None);
        assert!(!desk.ask(200 + u64::from(keyspace), all, Exclusive));
    }
    (0..100).for_each(|owner| desk.table.unlock_all(owner));
    assert_eq!(desk.all_granted().len(), 100);
    (200..300).for_each(|owner| desk.table.unlock_all(owner));
    assert!(desk.table.is_bare());
    desk.end();
}
