//! Each transaction by itself: what it saw, the edges that follow, and what is wrong already.
//!
//! That there was no value tells less than a value: a key may have been absent several times. So
//! the moment is looked for that explains all reads of a transaction, the newest if there are
//! several, and what was absent is taken to be absent then. With it a history of a database that
//! keeps its promises never has an edge that would break them: the edges are those of a
//! transaction that took its snapshot then, and no later than its own commit.

use super::{
    graph::Edge,
    history::{KeyRange, Operation, Status, Transaction},
    own::{Effect, Own},
    report::{Anomaly, Dependency, Tally},
    versions::{Acknowledged, Chain, Installed, Versions, key_name},
};
use std::collections::BTreeSet;

/// What the transactions' own reads tell.
pub(super) struct Told {
    pub(super) edges: Vec<Edge>,
    /// Transactions whose reads fit to no moment.
    pub(super) without_snapshot: Vec<u32>,
    /// Those that were found to be wrong otherwise.
    pub(super) explained: BTreeSet<u32>,
}

pub(super) fn read_all(versions: &Versions<'_>, tally: &mut Tally) -> Told {
    let (without_snapshot, explained) = (Vec::new(), BTreeSet::new());
    let mut told = Told { edges: overwritten(versions), without_snapshot, explained };
    for txn in 0..versions.txns.len() as u32 {
        let mut reader = Reader {
            versions,
            txn,
            counted: versions.counted[txn as usize],
            own: Own::default(),
            observed: Vec::new(),
            tally,
            told: &mut told,
        };
        reader.run();
        if reader.counted {
            reader.judge();
        }
    }
    told
}

/// The edges between neighbours in the order of versions.
fn overwritten(versions: &Versions<'_>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (at, chain) in versions.chains.iter().enumerate() {
        for (place, installed) in (0..).map_while(|place| Some((place, chain.get(place)?))) {
            if let Some(next) = chain.next(Some(place)) {
                let (from, to) = (installed.txn, next.txn);
                let dependency = Dependency::Overwritten;
                edges.push(Edge { from, to, dependency, lost: false, chain: at as u32 });
            }
        }
    }
    edges
}

/// A key that was read, or covered by a scan.
#[derive(Debug, Clone, Copy)]
struct Observed {
    chain: u32,
    /// The place in the chain; `None`: there was no value.
    seen: Option<u32>,
    /// By a scan that did not see it.
    predicate: bool,
}

struct Reader<'a, 'h> {
    versions: &'a Versions<'h>,
    txn: u32,
    counted: bool,
    own: Own<'h>,
    observed: Vec<Observed>,
    tally: &'a mut Tally,
    told: &'a mut Told,
}

impl<'h> Reader<'_, 'h> {
    fn run(&mut self) {
        let txn: &'h Transaction = self.versions.txns[self.txn as usize];
        for operation in &txn.operations {
            match operation {
                Operation::Write { .. } | Operation::DeleteRange { .. } => {
                    self.own.apply(operation);
                }
                Operation::Read { keyspace, key, seen } => self.read(*keyspace, key, *seen),
                Operation::Scan { keyspace, range, reached, seen } => {
                    self.scan(*keyspace, reached.as_ref().unwrap_or(range), seen);
                }
            }
        }
    }

    fn read(&mut self, keyspace: u32, key: &'h [u8], seen: Option<u64>) {
        match (self.own.effect(keyspace, key), seen) {
            (Some(effect), seen) => self.read_own(keyspace, key, effect, seen),
            (None, Some(version)) => self.see(keyspace, key, version),
            (None, None) => self.see_nothing(self.versions.chain_of(keyspace, key), false),
        }
    }

    fn scan(&mut self, keyspace: u32, covered: &'h KeyRange, seen: &'h [(Vec<u8>, u64)]) {
        let mut keys = BTreeSet::new();
        for (key, version) in seen {
            if !covered.contains(key) {
                let key = key_name(keyspace, key);
                self.fault(
                    Anomaly::ThinAir,
                    None,
                    format!("found {key}, outside of what it scanned"),
                );
            } else if !keys.insert(key.as_slice()) {
                let key = key_name(keyspace, key);
                self.fault(Anomaly::ThinAir, None, format!("found {key} twice in one scan"));
            }
            self.read(keyspace, key, Some(*version));
        }
        let versions = self.versions;
        for (key, chain) in versions.chains_in(keyspace, covered) {
            if keys.contains(key) {
                continue;
            }
            match self.own.effect(keyspace, key) {
                Some(effect) => self.read_own(keyspace, key, effect, None),
                None => self.see_nothing(Some(chain), true),
            }
        }
    }

    /// A key that the transaction has written itself.
    fn read_own(&mut self, keyspace: u32, key: &[u8], effect: Effect, seen: Option<u64>) {
        let wanted = (!effect.dead).then_some(effect.version);
        if seen != wanted {
            let told = |version: Option<u64>| {
                version.map_or("no value".into(), |version| format!("version {version}"))
            };
            let (key, seen, wanted) = (key_name(keyspace, key), told(seen), told(wanted));
            let text = format!("found {seen} for {key}, and had itself left {wanted} there");
            self.fault(Anomaly::OwnWriteMissed, None, text);
        }
    }

    fn see_nothing(&mut self, chain: Option<u32>, predicate: bool) {
        let Some(chain) = chain else { return };
        if self.versions.txns[self.txn as usize].status == Status::Unknown {
            // When it committed is not known, and so not which moments it can have seen.
            return;
        }
        let told = &self.versions.chains[chain as usize];
        if !told.is_empty() && !told.is_clouded {
            self.observed.push(Observed { chain, seen: None, predicate });
        }
    }

    /// A value of somebody else.
    fn see(&mut self, keyspace: u32, key: &[u8], version: u64) {
        let name = || format!("version {version} of {}", key_name(keyspace, key));
        let chain = self.versions.chain_of(keyspace, key);
        let written = self.versions.written(version).copied();
        let Some(written) = written.filter(|w| w.value && w.chain == chain) else {
            return self.fault(
                Anomaly::ThinAir,
                None,
                format!("read {}, which nobody wrote", name()),
            );
        };
        if written.txn == self.txn {
            let text = format!("read {}, which it wrote only later", name());
            return self.fault(Anomaly::OwnWriteMissed, None, text);
        }
        let writer = self.versions.name(written.txn);
        let with = Some(written.txn);
        if !self.counted {
            // What one that is not in has read counts for nothing.
        } else if !self.versions.counted[written.txn as usize] {
            let text = format!("read {}, of {writer}, which is not in", name());
            self.fault(Anomaly::AbortedRead, with, text);
        } else if !written.last {
            let text = format!("read {}, which {writer} overwrote itself", name());
            self.fault(Anomaly::IntermediateRead, with, text);
        } else if let Some(chain) = chain {
            let [reader, writer_of] =
                [self.txn, written.txn].map(|t| self.versions.txns[t as usize]);
            if reader.ended.is_some_and(|ended| ended < writer_of.began) {
                let text = format!("read {}, of {writer}, which began after it had ended", name());
                self.fault(Anomaly::RealTime, with, text);
            }
            match written.place {
                Some(_) => {
                    self.observed.push(Observed { chain, seen: written.place, predicate: false })
                }
                None => self.edge(written.txn, self.txn, Dependency::Read, false, chain),
            }
        }
    }

    fn fault(&mut self, anomaly: Anomaly, with: Option<u32>, text: String) {
        self.told.explained.insert(self.txn);
        let (versions, txn) = (self.versions, self.txn);
        let txns: Vec<u32> = [txn].into_iter().chain(with).collect();
        let forbidden = versions.level(txn).forbids(anomaly);
        let text = || format!("{} {text}", versions.name(txn));
        self.tally.add(anomaly, forbidden, || versions.told(&txns, text()));
    }

    fn edge(&mut self, from: u32, to: u32, dependency: Dependency, lost: bool, chain: u32) {
        self.told.edges.push(Edge { from, to, dependency, lost, chain });
    }

    /// The highest rank at which it can have looked: before its own commit, and before those that
    /// began when it had ended.
    fn newest(&self) -> u32 {
        let versions = self.versions;
        let ended = versions.txns[self.txn as usize].ended;
        let possible = ended.map_or(versions.commits, |ended| versions.possible_at(ended));
        match versions.ranks[self.txn as usize] {
            0 => possible,
            own => possible.min(own - 1),
        }
    }

    fn chain(&self, observed: &Observed) -> &Chain<'h> {
        &self.versions.chains[observed.chain as usize]
    }

    fn judge(&mut self) {
        let moment = self.moment();
        if moment.is_none() {
            self.told.without_snapshot.push(self.txn);
        }
        let at = moment.unwrap_or(self.newest());
        let acknowledged =
            self.versions.acknowledged_before(self.versions.txns[self.txn as usize].began);
        let mut stale = false;
        for observed in std::mem::take(&mut self.observed) {
            let seen = observed.seen.or_else(|| self.chain(&observed).absent_at(at).0);
            self.link(&observed, seen);
            if !stale && let Some(acknowledged) = acknowledged {
                stale = self.is_stale(&observed, seen, acknowledged);
            }
        }
        let rank = self.versions.ranks[self.txn as usize];
        if let Some(acknowledged) = acknowledged
            && rank != 0
            && rank < acknowledged.rank
        {
            let name = self.versions.name(acknowledged.txn);
            let text = format!("comes before {name}, which was acknowledged before it began");
            self.fault(Anomaly::RealTime, Some(acknowledged.txn), text);
        }
    }

    /// The newest moment at which all that was read was so.
    fn moment(&self) -> Option<u32> {
        let (mut oldest, mut at) = (0, self.newest());
        for observed in &self.observed {
            let chain = self.chain(observed);
            if chain.is_agreed()
                && let Some(seen) = observed.seen.and_then(|seen| chain.get(seen))
            {
                oldest = oldest.max(seen.rank);
                at = at.min(chain.next_by_rank(observed.seen).map_or(at, |next| next.rank - 1));
            }
        }
        // What was absent pulls the moment back, until nothing does any more.
        loop {
            if at < oldest {
                return None;
            }
            let absent = self.observed.iter().filter(|observed| observed.seen.is_none());
            let newest = absent.map(|observed| self.chain(observed).absent_at(at).1).min();
            match newest {
                Some(newest) if newest < at => at = newest,
                _ => return Some(at),
            }
        }
    }

    /// The edges of one key that was read.
    fn link(&mut self, observed: &Observed, seen: Option<u32>) {
        let (versions, txn) = (self.versions, self.txn);
        let chain = &versions.chains[observed.chain as usize];
        if let Some(read) = seen.and_then(|seen| chain.get(seen))
            && read.txn != txn
        {
            self.edge(read.txn, txn, Dependency::Read, false, observed.chain);
        }
        let Some(next) = chain.next(seen).filter(|next| next.txn != txn) else { return };
        if observed.predicate {
            return self.edge(txn, next.txn, Dependency::AntiPredicate, false, observed.chain);
        }
        let own = Some(versions.ranks[txn as usize]).filter(|rank| *rank != 0);
        let lost = own.and_then(|rank| chain.position_of(rank)).is_some_and(|own| {
            // Behind what it read, and so behind the one between.
            seen.is_none_or(|seen| own > seen)
        });
        if lost {
            let key = key_name(chain.keyspace, chain.key);
            let other = versions.name(next.txn);
            let text = format!("read {key} and overwrote what {other} had written there since");
            self.fault(Anomaly::LostUpdate, Some(next.txn), text);
        }
        self.edge(txn, next.txn, Dependency::Anti, lost, observed.chain);
    }

    /// Whether what was read had been overwritten when the transaction began, for all to know.
    fn is_stale(&mut self, observed: &Observed, seen: Option<u32>, known: Acknowledged) -> bool {
        let versions = self.versions;
        let chain = &versions.chains[observed.chain as usize];
        let over = |next: &&Installed| next.rank <= known.rank && next.txn != self.txn;
        let Some(next) = chain.next_by_rank(seen).filter(over) else { return false };
        let key = key_name(chain.keyspace, chain.key);
        let mut text = format!("did not see what {} made of {key}", versions.name(next.txn));
        if next.txn == known.txn {
            text += ", which was acknowledged before it began";
        } else {
            let behind = versions.name(known.txn);
            text +=
                &format!("; {behind}, which is in behind that, was acknowledged before it began");
        }
        self.fault(Anomaly::RealTime, Some(next.txn), text);
        true
    }
}
