//! LMDB, through heed.
//!
//! `MDB_WRITEMAP`: "uses fewer mallocs [..] may be slightly faster for DBs that fit entirely in
//! RAM", and `MDB_NOSYNC` for commits that do not wait: `mdb_env_open` in lmdb.h. `MDB_APPEND` for
//! sorted loads: `mdb_put` in lmdb.h. Its memory is the page cache of the system.
#![expect(unsafe_code, reason = "opening an environment and changing its flags are unsafe in heed")]

use crate::{
    store::{Commits, Direction, Lookup, MEMORY, Ordered, Reader, Store, Transactions},
    workload::{Entry, Key},
};
use heed::{
    CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RoTxn, WithTls, types::Bytes,
};
use std::{ops::Bound, path::Path};

type Table = Database<'static, Bytes, Bytes>;

pub(crate) struct Lmdb {
    env: Env,
    table: Table,
}

pub(crate) struct LmdbReader<'a> {
    txn: RoTxn<'a, WithTls>,
    table: Table,
}

impl Lookup for Lmdb {
    type Reader<'a> = LmdbReader<'a>;

    fn reader(&self) -> LmdbReader<'_> {
        LmdbReader { txn: self.env.read_txn().unwrap(), table: self.table }
    }
}

impl Reader for LmdbReader<'_> {
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>> {
        self.table.get(&self.txn, key).unwrap().map(<[u8]>::to_vec)
    }

    fn get_batch_lent(&mut self, keys: &[Key], mut with: impl FnMut(&[u8])) -> bool {
        for key in keys {
            with(self.table.get(&self.txn, key).unwrap().expect("a key that is there"));
        }
        true
    }
}

impl Ordered for Lmdb {
    fn scan(r: &mut LmdbReader<'_>, from: &Key, count: usize, mut with: impl FnMut(&[u8])) {
        let range = (Bound::Included(&from[..]), Bound::Unbounded);
        for entry in r.table.range(&r.txn, &range).unwrap().take(count) {
            with(entry.unwrap().1);
        }
    }

    fn scan_all(r: &mut LmdbReader<'_>, direction: Direction, mut with: impl FnMut(&[u8])) {
        match direction {
            Direction::Forward => {
                r.table.iter(&r.txn).unwrap().for_each(|entry| with(entry.unwrap().1));
            }
            Direction::Reverse => {
                r.table.rev_iter(&r.txn).unwrap().for_each(|entry| with(entry.unwrap().1));
            }
        }
    }

    fn scan_copied(r: &mut LmdbReader<'_>, mut with: impl FnMut(Vec<u8>, Vec<u8>)) {
        for entry in r.table.iter(&r.txn).unwrap() {
            let (key, value) = entry.unwrap();
            with(key.to_vec(), value.to_vec());
        }
    }
}

impl Transactions for Lmdb {
    fn create(dir: &Path) -> Lmdb {
        <Lmdb as Store>::create(dir, Commits::Fast)
    }

    fn fill(&self, entries: &[Entry]) {
        self.write(entries);
    }

    fn update(&self, key: &Key, change: impl Fn(&mut Vec<u8>)) {
        let mut txn = self.env.write_txn().unwrap();
        let mut value = self.table.get(&txn, key).unwrap().expect("a key that is there").to_vec();
        change(&mut value);
        self.table.put(&mut txn, key, &value).unwrap();
        txn.commit().unwrap();
    }
}

impl Store for Lmdb {
    type Transactions = Lmdb;

    fn create(dir: &Path, commits: Commits) -> Lmdb {
        let flags = match commits {
            Commits::Fast => EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC,
            Commits::Durable => EnvFlags::WRITE_MAP,
        };
        let mut options = EnvOpenOptions::new();
        options.map_size(MEMORY);
        // SAFETY: no other process and no other environment has the directory open, nothing but
        // heed writes into the map, and what a loss of power does is not measured.
        let env = unsafe { options.flags(flags).open(dir).unwrap() };
        let table = env
            .create_databases_and_commit(env.write_txn().unwrap(), |opener, txn| {
                let table = opener.create_database::<Bytes, Bytes>(txn, None)?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(table))
            })
            .unwrap()
            .unwrap_commit();
        Lmdb { env, table }
    }

    fn put(&self, entry: &Entry) {
        self.write(std::slice::from_ref(entry));
    }

    fn write(&self, entries: &[Entry]) {
        let mut txn = self.env.write_txn().unwrap();
        for entry in entries {
            self.table.put(&mut txn, &entry.key, &entry.value).unwrap();
        }
        txn.commit().unwrap();
    }

    fn load_sorted(&self, entries: impl Iterator<Item = Entry>) {
        let mut txn = self.env.write_txn().unwrap();
        for Entry { key, value } in entries {
            self.table.put_with_flags(&mut txn, PutFlags::APPEND, &key, &value).unwrap();
        }
        txn.commit().unwrap();
    }

    fn settle(&mut self) {
        self.env.force_sync().unwrap();
    }
}
