//! Histories in few words. All keys are of keyspace 0.

use lightning_sim::isolation::{
    Anomaly, History, KeyRange, Level, Operation, Status, Transaction, check,
};

/// A transaction that is put together step by step.
pub(crate) struct Build(Transaction);

/// The transaction `id`, committed as number `id`, at the same time as all others.
pub(crate) fn txn(id: u64, level: Level) -> Build {
    let status = Status::Committed { order: id };
    Build(Transaction {
        id,
        session: id,
        level,
        status,
        began: 0,
        ended: Some(1000),
        operations: Vec::new(),
    })
}

impl Build {
    fn step(mut self, operation: Operation) -> Build {
        self.0.operations.push(operation);
        self
    }

    pub(crate) fn status(mut self, status: Status) -> Build {
        self.0.status = status;
        self
    }

    pub(crate) fn during(mut self, began: u64, ended: u64) -> Build {
        (self.0.began, self.0.ended) = (began, Some(ended));
        self
    }

    pub(crate) fn put(self, key: &str, version: u64) -> Build {
        self.step(Operation::Write { keyspace: 0, key: key.into(), version, delete: false })
    }

    pub(crate) fn delete(self, key: &str, version: u64) -> Build {
        self.step(Operation::Write { keyspace: 0, key: key.into(), version, delete: true })
    }

    pub(crate) fn delete_range(self, start: &str, end: &str, version: u64) -> Build {
        self.step(Operation::DeleteRange { keyspace: 0, range: KeyRange::new(start, end), version })
    }

    pub(crate) fn read(self, key: &str, seen: impl Into<Option<u64>>) -> Build {
        self.step(Operation::Read { keyspace: 0, key: key.into(), seen: seen.into() })
    }

    pub(crate) fn scan(self, start: &str, end: &str, seen: &[(&str, u64)]) -> Build {
        self.scan_up_to(start, end, None, seen)
    }

    pub(crate) fn scan_up_to(
        self,
        start: &str,
        end: &str,
        reached: Option<&str>,
        seen: &[(&str, u64)],
    ) -> Build {
        let seen = seen.iter().map(|(key, version)| (key.as_bytes().to_vec(), *version)).collect();
        let reached = reached.map(|reached| KeyRange::new(start, reached));
        self.step(Operation::Scan { keyspace: 0, range: KeyRange::new(start, end), reached, seen })
    }
}

pub(crate) fn history(transactions: impl IntoIterator<Item = Build>) -> History {
    let transactions = transactions.into_iter().map(|build| build.0).collect();
    History { transactions, final_state: None }
}

pub(crate) fn ending(
    transactions: impl IntoIterator<Item = Build>,
    keys: &[(&str, u64)],
) -> History {
    let keys = keys.iter().map(|(key, version)| (key.as_bytes().to_vec(), *version)).collect();
    History { final_state: Some([(0, keys)].into()), ..history(transactions) }
}

pub(crate) fn found(history: &History) -> Vec<Anomaly> {
    check(history).found.into_keys().collect()
}

pub(crate) fn forbidden(history: &History) -> Vec<Anomaly> {
    check(history).forbidden().keys().copied().collect()
}
