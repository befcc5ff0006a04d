//! What was found, and whether it is allowed.

use super::history::Level;
use std::{collections::BTreeMap, fmt};

/// Something that would not happen if transactions ran one after the other. `docs/isolation.md`
/// gives an example of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// The history contradicts itself: two commits at one place, two writes of one number.
    Contradiction,
    /// A value that nobody wrote there (not in Adya, for whom reads see versions by definition).
    ThinAir,
    /// A transaction did not see what it had written itself (Adya's internal consistency).
    OwnWriteMissed,
    /// G0: of two transactions each has overwritten the other (dirty write, P0).
    WriteCycle,
    /// G1a: a value of a transaction that was not committed (dirty read, P1).
    AbortedRead,
    /// G1b: a value that its transaction itself overwrote before its commit.
    IntermediateRead,
    /// G1c: a cycle of writes overwritten and read, at least one of them read.
    CircularInformation,
    /// P4: a key was read, then written, and what another had written between is gone. The
    /// special case of G-single that lies on one key.
    LostUpdate,
    /// G-single: a cycle with one anti-dependency, which is of a key: of another transaction it
    /// saw one part and not the other (A5A, and non-repeatable reads, P2).
    ReadSkew,
    /// G-single with a predicate's anti-dependency: a scan did not see a key of a transaction
    /// that the reader depends on otherwise (P3 within one transaction).
    ScanSkew,
    /// The reads of a transaction fit to no single moment in the order of commits (G-SI; with two
    /// readers it is known as a long fork). Counted where it shows as nothing above.
    NoSnapshot,
    /// A transaction did not see, or came to stand before, one that had been acknowledged before
    /// it began: a stale read, or a write that was lost.
    RealTime,
    /// G2-item: a cycle with two or more anti-dependencies, all of them of keys (A5B).
    WriteSkew,
    /// G2: a cycle with two or more anti-dependencies, one of them at least of a scan (P3).
    Phantom,
}

impl Anomaly {
    /// All of them.
    pub const ALL: [Anomaly; 14] = [
        Anomaly::Contradiction,
        Anomaly::ThinAir,
        Anomaly::OwnWriteMissed,
        Anomaly::WriteCycle,
        Anomaly::AbortedRead,
        Anomaly::IntermediateRead,
        Anomaly::CircularInformation,
        Anomaly::LostUpdate,
        Anomaly::ReadSkew,
        Anomaly::ScanSkew,
        Anomaly::NoSnapshot,
        Anomaly::RealTime,
        Anomaly::WriteSkew,
        Anomaly::Phantom,
    ];

    /// Its name in words, with the one that the literature uses.
    pub fn name(self) -> &'static str {
        match self {
            Anomaly::Contradiction => "contradiction",
            Anomaly::ThinAir => "value out of thin air",
            Anomaly::OwnWriteMissed => "own write missed",
            Anomaly::WriteCycle => "write cycle (G0)",
            Anomaly::AbortedRead => "aborted read (G1a)",
            Anomaly::IntermediateRead => "intermediate read (G1b)",
            Anomaly::CircularInformation => "circular information (G1c)",
            Anomaly::LostUpdate => "lost update (P4)",
            Anomaly::ReadSkew => "read skew (G-single)",
            Anomaly::ScanSkew => "read skew of a scan (G-single, predicate)",
            Anomaly::NoSnapshot => "no snapshot (G-SI)",
            Anomaly::RealTime => "real time",
            Anomaly::WriteSkew => "write skew (G2-item)",
            Anomaly::Phantom => "phantom (G2)",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Level {
    /// Whether no transaction of this level may be the cause of it.
    ///
    /// ```
    /// use lightning_sim::isolation::{Anomaly, Level};
    /// assert!(!Level::Snapshot.forbids(Anomaly::WriteSkew));
    /// assert!(Level::Serializable.forbids(Anomaly::WriteSkew));
    /// ```
    pub fn forbids(self, anomaly: Anomaly) -> bool {
        let weakest = match anomaly {
            Anomaly::Contradiction
            | Anomaly::ThinAir
            | Anomaly::OwnWriteMissed
            | Anomaly::WriteCycle
            | Anomaly::AbortedRead
            | Anomaly::IntermediateRead
            | Anomaly::CircularInformation => Level::ReadCommitted,
            Anomaly::LostUpdate
            | Anomaly::ReadSkew
            | Anomaly::ScanSkew
            | Anomaly::NoSnapshot
            | Anomaly::RealTime => Level::Snapshot,
            Anomaly::WriteSkew | Anomaly::Phantom => Level::Serializable,
        };
        self >= weakest
    }
}

/// Why a transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    /// The other overwrote what it wrote.
    Overwritten,
    /// The other read what it wrote.
    Read,
    /// The other wrote the version that follows the one it read.
    Anti,
    /// The other put a key into a range that it had scanned without seeing it.
    AntiPredicate,
}

impl Dependency {
    pub(super) fn is_anti(self) -> bool {
        matches!(self, Dependency::Anti | Dependency::AntiPredicate)
    }
}

/// One edge of a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The transaction that comes before.
    pub from: u64,
    /// The one that comes behind.
    pub to: u64,
    /// Why.
    pub dependency: Dependency,
    /// Where the key is.
    pub keyspace: u32,
    /// The key that shows it.
    pub key: Vec<u8>,
}

/// One case of an anomaly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The transactions that have part in it; of a cycle, in its order.
    pub transactions: Vec<u64>,
    /// The cycle, if it is one: each link begins where the one before ends.
    pub cycle: Vec<Link>,
    /// All of it in words.
    pub text: String,
}

/// How often an anomaly was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Of write skew and phantoms, write cycles and circular information: in how many groups of
    /// transactions that are connected by such cycles. Of all others: how many reads,
    /// transactions or anti-dependencies show it.
    pub count: u64,
    /// The first one.
    pub first: Witness,
}

/// What a history holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Everything that was found, allowed or not.
    pub found: BTreeMap<Anomaly, Found>,
    pub(super) forbidden: BTreeMap<Anomaly, Found>,
    pub(super) complete: bool,
}

impl Report {
    /// Only what the levels of the transactions that caused it forbid.
    pub fn forbidden(&self) -> &BTreeMap<Anomaly, Found> {
        &self.forbidden
    }

    /// How often an anomaly was found, allowed or not.
    pub fn count(&self, anomaly: Anomaly) -> u64 {
        self.found.get(&anomaly).map_or(0, |found| found.count)
    }

    /// Whether all was searched. Where it is not, the history held so many long ways between
    /// anti-dependencies that the search for cycles was ended: what was found is true, and more
    /// may be there.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

impl fmt::Display for Report {
    /// One line for each anomaly, and its first case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (anomaly, found) in &self.found {
            let (allowed, told) = match self.forbidden.get(anomaly) {
                Some(forbidden) => (format!("{} of them forbidden", forbidden.count), forbidden),
                None => ("allowed".into(), found),
            };
            writeln!(f, "{anomaly}: {} ({allowed})\n  {}", found.count, told.first.text)?;
        }
        if !self.complete {
            writeln!(f, "the search was ended before all was searched")?;
        }
        Ok(())
    }
}

/// A report while it is made.
pub(super) struct Tally(Report);

impl Tally {
    pub(super) fn new() -> Tally {
        Tally(Report { found: BTreeMap::new(), forbidden: BTreeMap::new(), complete: true })
    }

    /// Counts a case. `witness` is asked only for the first.
    pub(super) fn add(&mut self, anomaly: Anomaly, forbidden: bool, witness: impl Fn() -> Witness) {
        count(&mut self.0.found, anomaly, &witness);
        if forbidden {
            count(&mut self.0.forbidden, anomaly, &witness);
        }
    }

    /// Counts a case that is forbidden and was counted before as found.
    pub(super) fn forbid(&mut self, anomaly: Anomaly, witness: impl Fn() -> Witness) {
        count(&mut self.0.forbidden, anomaly, &witness);
    }

    pub(super) fn cut_short(&mut self) {
        self.0.complete = false;
    }

    pub(super) fn report(self) -> Report {
        self.0
    }
}

fn count(among: &mut BTreeMap<Anomaly, Found>, anomaly: Anomaly, witness: &impl Fn() -> Witness) {
    among.entry(anomaly).or_insert_with(|| Found { count: 0, first: witness() }).count += 1;
}
