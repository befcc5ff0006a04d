//! Random requests, compared with what the rules say, told without any structure.

use super::*;
use std::collections::BTreeSet;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// The keys are the numbers below 8: what is locked is a set of bits.
#[derive(Clone, Copy, Debug)]
struct Lock {
    owner: u64,
    keys: u8,
    mode: Mode,
    /// Whether it was asked for as one key.
    one: bool,
}

impl Lock {
    fn conflicts(&self, other: &Lock) -> bool {
        self.owner != other.owner
            && self.keys & other.keys != 0
            && (self.mode, other.mode) != (Shared, Shared)
    }
}

#[derive(Default)]
struct Model {
    held: Vec<Lock>,
    /// In the order in which they came.
    waiting: Vec<Lock>,
}

impl Model {
    fn keeps_waiting(&self, owner: u64, request: &Lock) -> bool {
        self.held.iter().any(|held| {
            held.owner == owner
                && held.keys & request.keys != 0
                && (request.one || (held.mode, request.mode) != (Shared, Shared))
        })
    }

    /// Whom `request` waits for, if those of `waiting` came before it.
    fn blockers(&self, request: &Lock, waiting: &[Lock]) -> BTreeSet<u64> {
        let before = waiting
            .iter()
            .filter(|other| other.conflicts(request) && !self.keeps_waiting(request.owner, other));
        let held = self.held.iter().filter(|held| held.conflicts(request));
        held.chain(before).map(|lock| lock.owner).collect()
    }

    fn waits_for(&self, owner: u64) -> BTreeSet<u64> {
        let at = self.waiting.iter().position(|request| request.owner == owner);
        at.map_or(BTreeSet::new(), |at| self.blockers(&self.waiting[at], &self.waiting[..at]))
    }

    fn is_circle(&self, cycle: &[u64]) -> bool {
        let next = cycle.iter().cycle().skip(1);
        cycle.iter().zip(next).all(|(waiter, next)| self.waits_for(*waiter).contains(next))
    }

    /// Whether some owners wait for each other: those who wait only for others can end are taken away, until
    /// nobody is left, or only such as wait for those who are left.
    fn has_circle(&self) -> bool {
        let mut stuck: BTreeSet<u64> = self.waiting.iter().map(|request| request.owner).collect();
        loop {
            let before = stuck.len();
            let left = stuck.clone();
            stuck.retain(|owner| !self.waits_for(*owner).is_disjoint(&left));
            if stuck.len() == before {
                return before > 0;
            }
        }
    }

    fn forget(&mut self, owner: u64) {
        self.waiting.retain(|request| request.owner != owner);
    }

    /// Grants what can be; answers to whom.
    fn hand_over(&mut self) -> BTreeSet<u64> {
        let mut granted = BTreeSet::new();
        let mut at = 0;
        while at < self.waiting.len() {
            if self.blockers(&self.waiting[at], &self.waiting[..at]).is_empty() {
                let request = self.waiting.remove(at);
                granted.insert(request.owner);
                self.held.push(request);
                at = 0;
            } else {
                at += 1;
            }
        }
        granted
    }
}

/// The table beside the model.
#[derive(Default)]
struct Run {
    desk: Desk,
    model: Model,
    deadlocks: usize,
    granted_later: usize,
}

impl Run {
    fn ask(&mut self, owner: u64, (first, last, one): (u64, u64, bool), mode: Mode) {
        let keys = (first..=last).fold(0, |keys, key| keys | 1 << key);
        let (start, end) = ([first as u8], [last as u8 + 1]);
        let target = match one {
            true => Target::Key(KEYSPACE, &start),
            false => Target::Range(KEYSPACE, &start, (last < 7).then_some(&end)),
        };
        let request = Lock { owner, keys, mode, one };
        // One lock must cover it all: a key does not cover the range of it, nor two ranges a third.
        let covered = self.model.held.iter().any(|held| {
            let wider = one || !held.one;
            held.owner == owner && held.mode >= mode && held.keys & keys == keys && wider
        });
        let blockers = self.model.blockers(&request, &self.model.waiting);
        let answer = self.desk.try_ask(owner, target, mode);
        if covered || blockers.is_empty() {
            assert!(answer.unwrap(), "{request:?}");
            self.model.held.push(request);
            return self.settle();
        }
        self.model.waiting.push(request);
        let (granted, lost) = match answer {
            Ok(granted) => (granted, vec![]),
            refused => (false, vec![circle(refused)]),
        };
        assert!(lost.iter().all(|cycle| cycle[0] == owner));
        self.settle_with(lost);
        let waits = self.model.waiting.iter().any(|request| request.owner == owner);
        assert!(!granted || !waits, "granted, because another one lost");
    }

    fn settle(&mut self) {
        self.settle_with(vec![]);
    }

    /// What was decided in the table is what the model says, and nobody is left in a circle. Those of `lost`
    /// are known.
    fn settle_with(&mut self, mut lost: Vec<Vec<u64>>) {
        let mut granted = BTreeSet::new();
        let waiting: Vec<(u64, Request)> =
            self.desk.waiting.iter().map(|(owner, request)| (*owner, *request)).collect();
        for (owner, request) in waiting {
            match self.desk.table.decision(request) {
                None => continue,
                Some(Ok(())) => assert!(granted.insert(owner)),
                Some(refused) => lost.push(circle(refused)),
            }
            self.desk.waiting.remove(&owner);
        }
        for cycle in &lost {
            assert!(self.model.is_circle(cycle), "{cycle:?}");
            assert_eq!(cycle.iter().max(), cycle.first(), "the youngest loses");
        }
        lost.iter().for_each(|cycle| self.model.forget(cycle[0]));
        let expected = self.model.hand_over();
        assert!(granted.is_subset(&expected), "granted {granted:?}, not {expected:?}");
        for owner in &expected {
            assert!(!self.desk.waiting.contains_key(owner), "{owner} waits for nobody");
        }
        assert!(!self.model.has_circle());
        for (at, lock) in self.model.held.iter().enumerate() {
            assert!(!self.model.held[..at].iter().any(|other| other.conflicts(lock)));
        }
        self.deadlocks += lost.len();
        self.granted_later += granted.len();
    }

    fn unlock_all(&mut self, owner: u64) {
        self.desk.table.unlock_all(owner);
        self.model.held.retain(|held| held.owner != owner);
        self.settle();
    }
}

#[test]
fn random_requests_are_granted_as_the_rules_say() {
    let (mut deadlocks, mut granted_later) = (0, 0);
    for seed in 0..if cfg!(miri) { 5 } else { 500 } {
        let mut random = Random(seed);
        let mut run = Run::default();
        for _ in 0..200 {
            let owner = random.below(6);
            if run.desk.waiting.contains_key(&owner) {
                if random.below(8) == 0 {
                    run.desk.gives_up(owner);
                    run.model.forget(owner);
                    run.settle();
                }
                continue;
            }
            if random.below(6) == 0 {
                run.unlock_all(owner);
                continue;
            }
            let first = random.below(8);
            let last = (first + random.below(4)).min(7);
            let place =
                if random.below(3) > 0 { (first, first, true) } else { (first, last, false) };
            let mode = if random.below(2) == 0 { Shared } else { Exclusive };
            run.ask(owner, place, mode);
        }
        for owner in (0..6).cycle().take(100) {
            if !run.desk.waiting.contains_key(&owner) {
                run.unlock_all(owner);
            }
        }
        deadlocks += run.deadlocks;
        granted_later += run.granted_later;
        run.desk.end();
    }
    assert!(cfg!(miri) || deadlocks > 1000 && granted_later > 1000, "{deadlocks} {granted_later}");
}
