//! Four threads move money between accounts, another one adds it up: the sum is always the same.
//!
//!     cargo run --example bank_transfer

use lightning_db::{Database, Error, LightningDbConfig};
use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
};

const ACCOUNTS: u32 = 10;
const START: i64 = 1000;
const TRANSFERS: u32 = 2000;

/// Why a transfer is refused.
#[derive(Debug)]
enum Refused {
    NotEnough { balance: i64 },
    Database(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Database(error)
    }
}

fn balance(bytes: Option<Vec<u8>>) -> i64 {
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_be_bytes)
}

/// Moves money, or nothing at all.
fn transfer(db: &Database, from: u32, to: u32, amount: i64) -> Result<(), Refused> {
    db.update(|tx| {
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        let balance_of = |key| Ok::<_, Error>(balance(tx.get(key)?));
        let left = balance_of(from)?;
        if left < amount {
            return Err(Refused::NotEnough { balance: left });
        }
        tx.put(from, (left - amount).to_be_bytes())?;
        let there = balance_of(to)?; // sees the line above, should both be one account
        tx.put(to, (there + amount).to_be_bytes())?;
        Ok(())
    })
}

fn sum(db: &Database) -> Result<i64, Error> {
    let tx = db.transaction().read_only().begin()?;
    tx.iter()?.map(|entry| Ok(balance(Some(entry?.1)))).sum()
}

fn main() -> Result<(), Error> {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let db = Database::create(scratch.path().join("bank"), LightningDbConfig::default())?;
    for account in 0..ACCOUNTS {
        db.put(account.to_be_bytes(), START.to_be_bytes())?;
    }
    let refused = AtomicU32::new(0);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (db, refused) = (&db, &refused);
            scope.spawn(move || {
                for n in 0..TRANSFERS {
                    let from = (n * 7 + thread) % ACCOUNTS;
                    let to = (n * 3 + thread * 5 + 1) % ACCOUNTS;
                    match transfer(db, from, to, i64::from(n % 900)) {
                        Ok(()) => {}
                        Err(Refused::NotEnough { balance }) => {
                            assert!(balance < 900);
                            refused.fetch_add(1, SeqCst);
                        }
                        Err(Refused::Database(error)) => panic!("{error}"),
                    }
                }
            });
        }
        for _ in 0..100 {
            assert_eq!(sum(&db).expect("a sum"), START * i64::from(ACCOUNTS));
        }
    });
    let stats = db.stats()?;
    println!(
        "{} transfers, {} refused for want of money, {} conflicts; the sum is still {}",
        TRANSFERS * 4,
        refused.load(SeqCst),
        stats.transaction_conflicts,
        sum(&db)?
    );
    db.close()
}
