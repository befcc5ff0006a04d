//! Who wrote what, and the order of the versions of each key.
//!
//! - Commits are numbered by *rank*: 1 for the first in the commit order. Only committed
//!   transactions that write have one. The state *at* rank r is that of the first r commits.
//! - A key has a *chain*: what each ranked commit left there, by rank. A delete is in it only
//!   where there was a value: nobody can tell one that found nothing. So dead versions never
//!   follow one another, and none comes first.
//! - A transaction of unknown end that somebody saw is counted, and has no rank: it is in no
//!   chain. Where one may have deleted, it is not known what finding no value means
//!   (`Chain::is_clouded`). Both can only hide an anomaly, never make one up.

use super::{
    history::{Contents, KeyRange, Level, Operation, Status, Transaction},
    own::Own,
    report::{Anomaly, Dependency, Link, Tally, Witness},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// A version in a chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Installed {
    pub(super) txn: u32,
    pub(super) rank: u32,
    pub(super) dead: bool,
    version: u64,
    /// The newest dead version here or before.
    absent: Option<u32>,
}

/// The versions of one key.
#[derive(Debug)]
pub(super) struct Chain<'h> {
    pub(super) keyspace: u32,
    pub(super) key: &'h [u8],
    by_rank: Vec<Installed>,
    /// The version that the final state holds, where it is not the one of the highest rank: then
    /// it is the last in the order of versions, whatever the commits say.
    last: Option<u32>,
    /// A transaction of unknown end may have deleted it.
    pub(super) is_clouded: bool,
}

impl Chain<'_> {
    pub(super) fn get(&self, index: u32) -> Option<&Installed> {
        self.by_rank.get(index as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_rank.is_empty()
    }

    /// Whether the final state and the order of commits agree about the key.
    pub(super) fn is_agreed(&self) -> bool {
        self.last.is_none()
    }

    /// What follows in the order of versions; behind `None`, which is no value yet, the first.
    pub(super) fn next(&self, index: Option<u32>) -> Option<&Installed> {
        if index.is_some() && index == self.last {
            return None;
        }
        let mut next = index.map_or(0, |index| index + 1);
        if Some(next) == self.last {
            next += 1;
        }
        self.get(next).or_else(|| self.get(self.last?))
    }

    /// What follows in the order of commits.
    pub(super) fn next_by_rank(&self, index: Option<u32>) -> Option<&Installed> {
        self.get(index.map_or(0, |index| index + 1))
    }

    /// The newest moment up to `rank` at which there was no value: the version that ended the
    /// value (`None`: there was none yet), and the last rank at which that is so.
    pub(super) fn absent_at(&self, rank: u32) -> (Option<u32>, u32) {
        let newer = self.by_rank.partition_point(|installed| installed.rank <= rank);
        let dead = newer.checked_sub(1).and_then(|at| self.by_rank[at].absent);
        let end = self.next_by_rank(dead).map_or(u32::MAX, |next| next.rank - 1);
        (dead, end)
    }

    /// Where the version of a rank is.
    pub(super) fn position_of(&self, rank: u32) -> Option<u32> {
        let at = self.by_rank.binary_search_by_key(&rank, |installed| installed.rank);
        at.ok().map(|at| at as u32)
    }

    fn install(&mut self, txn: u32, rank: u32, version: u64, dead: bool) {
        let before = self.by_rank.last();
        if dead && before.is_none_or(|before| before.dead) {
            return;
        }
        let here = self.by_rank.len() as u32;
        let absent = if dead { Some(here) } else { before.and_then(|before| before.absent) };
        self.by_rank.push(Installed { txn, rank, version, dead, absent });
    }
}

/// What a number of a version stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) txn: u32,
    /// Of the key; `None` for a range that was deleted.
    pub(super) chain: Option<u32>,
    /// A value, not a delete.
    pub(super) value: bool,
    /// Its transaction left it so.
    pub(super) last: bool,
    /// Its place in the chain.
    pub(super) place: Option<u32>,
}

/// A commit that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    ended: u64,
    /// The highest of those acknowledged until then.
    pub(super) rank: u32,
    pub(super) txn: u32,
}

/// Everything that is known of the writes of a history.
#[derive(Debug)]
pub(super) struct Versions<'h> {
    pub(super) txns: Vec<&'h Transaction>,
    /// The transactions that are in.
    pub(super) counted: Vec<bool>,
    /// 0 for those that have none.
    pub(super) ranks: Vec<u32>,
    pub(super) commits: u32,
    pub(super) chains: Vec<Chain<'h>>,
    by_version: BTreeMap<u64, Written>,
    spaces: BTreeMap<u32, BTreeMap<&'h [u8], u32>>,
    acknowledged: Vec<Acknowledged>,
    /// By when they began: the lowest rank of those that began then or later.
    begun: Vec<(u64, u32)>,
}

impl<'h> Versions<'h> {
    pub(super) fn of(
        txns: Vec<&'h Transaction>,
        final_state: Option<&Contents>,
        tally: &mut Tally,
    ) -> Versions<'h> {
        let counted =
            txns.iter().map(|txn| matches!(txn.status, Status::Committed { .. })).collect();
        let mut versions = Versions {
            counted,
            ranks: vec![0; txns.len()],
            commits: 0,
            chains: Vec::new(),
            by_version: BTreeMap::new(),
            spaces: BTreeMap::new(),
            acknowledged: Vec::new(),
            begun: Vec::new(),
            txns,
        };
        versions.find_ids_given_twice(tally);
        versions.collect_writes(tally);
        versions.count_seen();
        let ranked = versions.give_ranks(tally);
        versions.install_all(&ranked);
        versions.believe(final_state);
        versions.find_clouds();
        versions.collect_begun(&ranked);
        versions.collect_acknowledged(ranked);
        versions
    }

    fn find_ids_given_twice(&self, tally: &mut Tally) {
        let mut ids = BTreeSet::new();
        for (at, txn) in self.txns.iter().enumerate() {
            if !ids.insert(txn.id) {
                let text = || format!("two transactions have the number {}", txn.id);
                tally.add(Anomaly::Contradiction, true, || self.told(&[at as u32], text()));
            }
        }
    }

    fn collect_writes(&mut self, tally: &mut Tally) {
        for (at, txn) in self.txns.clone().into_iter().enumerate() {
            let own = Own::of(&txn.operations);
            for operation in &txn.operations {
                let (version, chain, value, last) = match operation {
                    Operation::Write { keyspace, key, version, delete } => {
                        let effect = own.effect(*keyspace, key);
                        let last = effect.is_some_and(|effect| effect.version == *version);
                        (*version, Some(self.chain_for(*keyspace, key)), !delete, last)
                    }
                    Operation::DeleteRange { version, .. } => (*version, None, false, true),
                    Operation::Read { .. } | Operation::Scan { .. } => continue,
                };
                let written = Written { txn: at as u32, chain, value, last, place: None };
                if let Some(other) = self.by_version.insert(version, written) {
                    let text = || format!("two writes have the number {version}");
                    let both = [other.txn, at as u32];
                    tally.add(Anomaly::Contradiction, true, || self.told(&both, text()));
                }
            }
        }
    }

    fn chain_for(&mut self, keyspace: u32, key: &'h [u8]) -> u32 {
        let chains = &mut self.chains;
        *self.spaces.entry(keyspace).or_default().entry(key).or_insert_with(|| {
            chains.push(Chain {
                keyspace,
                key,
                by_rank: Vec::new(),
                last: None,
                is_clouded: false,
            });
            chains.len() as u32 - 1
        })
    }

    /// A transaction of unknown end is in if anybody else saw something of it.
    fn count_seen(&mut self) {
        for (at, txn) in self.txns.iter().enumerate() {
            for version in txn.operations.iter().flat_map(seen_by) {
                if let Some(written) = self.by_version.get(&version)
                    && written.txn != at as u32
                    && self.txns[written.txn as usize].status == Status::Unknown
                {
                    self.counted[written.txn as usize] = true;
                }
            }
        }
    }

    /// Returns the transactions that have a rank, in its order.
    fn give_ranks(&mut self, tally: &mut Tally) -> Vec<u32> {
        let mut ordered = Vec::new();
        for (at, txn) in self.txns.iter().enumerate() {
            if let Status::Committed { order } = txn.status
                && txn.writes()
            {
                ordered.push((order, at as u32));
            }
        }
        ordered.sort_unstable();
        for pair in ordered.windows(2) {
            if pair[0].0 == pair[1].0 {
                let text = || format!("two commits have the place {} in their order", pair[0].0);
                let both = [pair[0].1, pair[1].1];
                tally.add(Anomaly::Contradiction, true, || self.told(&both, text()));
            }
        }
        for (before, (_, txn)) in ordered.iter().enumerate() {
            self.ranks[*txn as usize] = before as u32 + 1;
        }
        self.commits = ordered.len() as u32;
        ordered.into_iter().map(|(_, txn)| txn).collect()
    }

    /// Runs the commits in their order. A range that is deleted costs only for the values that
    /// it finds, of which each was put there by a write.
    fn install_all(&mut self, ranked: &[u32]) {
        let mut alive: BTreeMap<u32, BTreeSet<&'h [u8]>> = BTreeMap::new();
        for txn in ranked {
            let rank = self.ranks[*txn as usize];
            let own = Own::of(&self.txns[*txn as usize].operations);
            for (keyspace, range, _) in own.ranges() {
                let alive = alive.entry(*keyspace).or_default();
                for key in in_set(alive, range) {
                    // The last range that covers it stands for all of them.
                    let Some(effect) = own.effect(*keyspace, key) else { continue };
                    if effect.dead {
                        let chain = self.chain_for(*keyspace, key) as usize;
                        self.chains[chain].install(*txn, rank, effect.version, true);
                        alive.remove(key);
                    }
                }
            }
            for (keyspace, key, effect) in own.keys() {
                let chain = self.chain_for(keyspace, key) as usize;
                self.chains[chain].install(*txn, rank, effect.version, effect.dead);
                let alive = alive.entry(keyspace).or_default();
                if effect.dead {
                    alive.remove(key)
                } else {
                    alive.insert(key)
                };
            }
        }
        self.note_places();
    }

    fn note_places(&mut self) {
        for chain in &self.chains {
            for (place, installed) in chain.by_rank.iter().enumerate() {
                if let Some(written) = self.by_version.get_mut(&installed.version)
                    && written.chain.is_some()
                    && written.last
                {
                    written.place = Some(place as u32);
                }
            }
        }
    }

    /// What the final state holds is the last version of its key.
    fn believe(&mut self, final_state: Option<&Contents>) {
        let Some(contents) = final_state else { return };
        for version in contents.values().flat_map(|keys| keys.values()) {
            if let Some(Written { chain: Some(chain), place: Some(place), value: true, .. }) =
                self.by_version.get(version)
            {
                let chain = &mut self.chains[*chain as usize];
                if *place as usize + 1 < chain.by_rank.len() {
                    chain.last = Some(*place);
                }
            }
        }
    }

    fn find_clouds(&mut self) {
        for txn in self.txns.clone() {
            if txn.status != Status::Unknown {
                continue;
            }
            for operation in &txn.operations {
                let clouded = match operation {
                    Operation::Write { keyspace, key, delete: true, .. } => {
                        self.chain_of(*keyspace, key).into_iter().collect()
                    }
                    Operation::DeleteRange { keyspace, range, .. } => {
                        self.chains_in(*keyspace, range).map(|(_, chain)| chain).collect()
                    }
                    _ => Vec::new(),
                };
                for chain in clouded {
                    self.chains[chain as usize].is_clouded = true;
                }
            }
        }
    }

    fn collect_begun(&mut self, ranked: &[u32]) {
        let begun = |txn: &u32| (self.txns[*txn as usize].began, self.ranks[*txn as usize]);
        let mut all: Vec<_> = ranked.iter().map(begun).collect();
        all.sort_unstable();
        for at in (1..all.len()).rev() {
            all[at - 1].1 = all[at - 1].1.min(all[at].1);
        }
        self.begun = all;
    }

    fn collect_acknowledged(&mut self, ranked: Vec<u32>) {
        let mut all: Vec<_> = ranked
            .into_iter()
            .filter_map(|txn| {
                let ended = self.txns[txn as usize].ended?;
                Some(Acknowledged { ended, rank: self.ranks[txn as usize], txn })
            })
            .collect();
        all.sort_unstable_by_key(|acknowledged| (acknowledged.ended, acknowledged.rank));
        for at in 1..all.len() {
            if all[at].rank < all[at - 1].rank {
                all[at] = Acknowledged { ended: all[at].ended, ..all[at - 1] };
            }
        }
        self.acknowledged = all;
    }

    /// The last in the order of commits that had been acknowledged before a moment.
    pub(super) fn acknowledged_before(&self, moment: u64) -> Option<Acknowledged> {
        let later = self.acknowledged.partition_point(|one| one.ended < moment);
        later.checked_sub(1).map(|at| self.acknowledged[at])
    }

    /// The highest rank below all commits that began only after a moment.
    pub(super) fn possible_at(&self, moment: u64) -> u32 {
        let later = self.begun.partition_point(|(began, _)| *began <= moment);
        self.begun.get(later).map_or(self.commits, |(_, rank)| rank - 1)
    }

    pub(super) fn written(&self, version: u64) -> Option<&Written> {
        self.by_version.get(&version)
    }

    pub(super) fn chain_of(&self, keyspace: u32, key: &[u8]) -> Option<u32> {
        self.spaces.get(&keyspace)?.get(key).copied()
    }

    /// The chains of the keys of a range.
    pub(super) fn chains_in(
        &self,
        keyspace: u32,
        range: &KeyRange,
    ) -> impl Iterator<Item = (&'h [u8], u32)> {
        let bounds = bounds(range);
        let space = self.spaces.get(&keyspace).filter(|_| bounds.is_some());
        let bounds = bounds.unwrap_or((Bound::Unbounded, Bound::Unbounded));
        space
            .into_iter()
            .flat_map(move |space| space.range::<[u8], _>(bounds))
            .map(|(k, c)| (*k, *c))
    }

    pub(super) fn level(&self, txn: u32) -> Level {
        self.txns[txn as usize].level
    }

    pub(super) fn id(&self, txn: u32) -> u64 {
        self.txns[txn as usize].id
    }

    /// A transaction as it is told: its number, session and level.
    pub(super) fn name(&self, txn: u32) -> String {
        let Transaction { id, session, level, .. } = self.txns[txn as usize];
        if *id == u64::MAX {
            return "the final state".into();
        }
        format!("transaction {id} (session {session}, {level:?})")
    }

    pub(super) fn told(&self, txns: &[u32], text: String) -> Witness {
        let transactions = txns.iter().map(|txn| self.id(*txn)).collect();
        Witness { transactions, cycle: Vec::new(), text }
    }

    pub(super) fn link(&self, from: u32, to: u32, dependency: Dependency, chain: u32) -> Link {
        let Chain { keyspace, key, .. } = &self.chains[chain as usize];
        let (keyspace, key) = (*keyspace, key.to_vec());
        Link { from: self.id(from), to: self.id(to), dependency, keyspace, key }
    }
}

/// The versions that a step saw.
fn seen_by(operation: &Operation) -> Vec<u64> {
    match operation {
        Operation::Read { seen, .. } => seen.iter().copied().collect(),
        Operation::Scan { seen, .. } => seen.iter().map(|(_, version)| *version).collect(),
        Operation::Write { .. } | Operation::DeleteRange { .. } => Vec::new(),
    }
}

/// Of the keys of a range, as the maps of std want to be asked.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// `None` for a range without keys, of which they panic.
fn bounds(range: &KeyRange) -> Option<Bounds<'_>> {
    let start = range.start.as_slice();
    let end = match range.end.as_deref() {
        Some(end) if end <= start => return None,
        Some(end) => Bound::Excluded(end),
        None => Bound::Unbounded,
    };
    Some((Bound::Included(start), end))
}

fn in_set<'h>(keys: &BTreeSet<&'h [u8]>, range: &KeyRange) -> Vec<&'h [u8]> {
    bounds(range).map_or(Vec::new(), |bounds| keys.range::<[u8], _>(bounds).copied().collect())
}

/// A key as it is told.
pub(super) fn key_name(keyspace: u32, key: &[u8]) -> String {
    format!("\"{}\" of keyspace {keyspace}", key.escape_ascii())
}
