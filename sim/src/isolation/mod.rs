//! Judges whether transactions were kept apart as they were promised. It is given what clients
//! did and saw, the [`History`], and finds the anomalies in it, each with a case in words. It
//! knows nothing of the engine and reads no files.
//!
//! ```
//! use lightning_sim::isolation::{Anomaly, History, Level, Operation, Status, Transaction, check};
//!
//! let read = |key: &[u8]| Operation::Read { keyspace: 0, key: key.into(), seen: None };
//! let write = |key: &[u8], version| {
//!     Operation::Write { keyspace: 0, key: key.into(), version, delete: false }
//! };
//! let transaction = |id, operations| Transaction {
//!     id,
//!     session: id,
//!     level: Level::Snapshot,
//!     status: Status::Committed { order: id },
//!     began: 0,
//!     ended: Some(10),
//!     operations,
//! };
//! // Both looked at both keys, and each wrote the other one: write skew.
//! let transactions = vec![
//!     transaction(1, vec![read(b"x"), read(b"y"), write(b"x", 1)]),
//!     transaction(2, vec![read(b"x"), read(b"y"), write(b"y", 2)]),
//! ];
//! let mut history = History { transactions, final_state: None };
//! let report = check(&history);
//! assert_eq!(report.count(Anomaly::WriteSkew), 1);
//! assert!(report.forbidden().is_empty(), "snapshots admit it");
//!
//! history.transactions.iter_mut().for_each(|one| one.level = Level::Serializable);
//! assert!(check(&history).forbidden().contains_key(&Anomaly::WriteSkew));
//! ```
//!
//! # What it goes by
//!
//! The anomalies are the phenomena of A. Adya, "Weak Consistency: A Generalized Theory and
//! Optimistic Implementations for Distributed Transactions" (1999), as cycles in his direct
//! serialization graph, and those of H. Berenson et al., "A Critique of ANSI SQL Isolation
//! Levels" (1995), where they have a name of their own. `docs/isolation.md` tells each with an
//! example. The database tells the order of its commits, so the order of the versions of a key
//! is known and not guessed, and reads can be asked for the moment in that order which they show.
//!
//! # Whom a cycle accuses
//!
//! Transactions of several levels may run together. As in Adya's mixed serialization graph, a
//! level is not broken by what others did, and only edges count that oblige:
//! - Overwriting and reading oblige always: all levels forbid G0 and G1.
//! - An anti-dependency obliges the transaction that it leaves, the reader. If it is the only one
//!   of its cycle (lost update, G-single), the reader must be Snapshot or Serializable. This goes
//!   beyond Adya, who has no such edges for levels below PL-3: a snapshot's reader may not be
//!   followed by what it depends on.
//! - If a cycle has several (write skew, phantom), all of them must leave Serializable
//!   transactions.
//! - A read that is wrong by itself accuses the reader, a commit that comes too early in real
//!   time the one that committed.
//!
//! # Invariants
//!
//! - Pure: the same history gives the same report, and none makes it panic.
//! - A history of a database that gives each transaction its level, commits in the order told,
//!   and shows acknowledged commits to all that begin later, is never accused. In particular
//!   what is not known (no value where there were several deletes, transactions of unknown end)
//!   is taken in the transaction's favour.
//! - Time and memory are linear in the transactions, their steps and what scans cover, besides
//!   sorting: edges lead to neighbours in the order of versions only. A scan costs as much as the
//!   keys of the history in its range, seen or not. Ways back from anti-dependencies cost what
//!   lies between the two commits; if that is too much, the report says that it is not complete.

mod cycles;
mod graph;
mod history;
mod own;
mod reads;
mod report;
mod versions;

pub use history::{Contents, History, KeyRange, Level, Operation, Status, Transaction};
pub use report::{Anomaly, Dependency, Found, Link, Report, Witness};

/// Finds the anomalies of a history.
pub fn check(history: &History) -> Report {
    let mut tally = report::Tally::new();
    let last = history.final_state.as_ref().map(reader_of);
    let transactions = history.transactions.iter().chain(&last).collect();
    let versions = versions::Versions::of(transactions, history.final_state.as_ref(), &mut tally);
    let told = reads::read_all(&versions, &mut tally);
    cycles::find(&versions, told, &mut tally);
    tally.report()
}

/// The transaction that reads the final state.
fn reader_of(contents: &Contents) -> Transaction {
    let scan = |(keyspace, keys): (&u32, &std::collections::BTreeMap<Vec<u8>, u64>)| {
        let seen = keys.iter().map(|(key, version)| (key.clone(), *version)).collect();
        Operation::Scan { keyspace: *keyspace, range: KeyRange::all(), reached: None, seen }
    };
    Transaction {
        id: u64::MAX,
        session: u64::MAX,
        level: Level::Serializable,
        status: Status::Committed { order: u64::MAX },
        began: u64::MAX,
        ended: None,
        operations: contents.iter().map(scan).collect(),
    }
}
