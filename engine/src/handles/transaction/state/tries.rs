//! Work that is done in a transaction, again until nobody comes between.

use super::{Attempt, Core, Settings, Transaction};
use crate::{
    db::{Db, transact::range_lock},
    error::{Error, Result},
    handles::Handle,
    transaction::{
        locks::{Owner, Target},
        window::Lost,
    },
    types::KeyspaceId,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Tries of one transaction, at most.
const TRIES_MAX: u32 = 100;
/// Time before the second try; it doubles with each, up to 64 times.
const BACKOFF: Duration = Duration::from_micros(50);

/// Runs `work` in a transaction and commits it, until that is not disturbed. From the second try on the
/// transaction has locks on what the tries before have lost, before it looks at anything: who loses again and again
/// is in a fair queue.
pub(in super::super) fn run<T, E: From<Error>>(
    handle: &Arc<Handle>,
    keyspace: KeyspaceId,
    settings: Settings,
    mut work: impl FnMut(&Transaction) -> Result<T, E>,
) -> Result<T, E> {
    let db = &handle.db;
    let mut attempt = Attempt::first(db);
    let mut lost = BTreeSet::new();
    for tried in 1.. {
        let begun = Core::begin(db, settings, &attempt);
        let core = begun.inspect_err(|_| db.locks.unlock_all(attempt.owner.id))?;
        let tx = Transaction::new(Arc::clone(handle), core, keyspace);
        let ends = EndsWithWork(&tx);
        let done = work(&tx);
        let failed = match done {
            Ok(done) => match tx.core().try_commit() {
                Ok(_) => return Ok(done),
                // It may have lost within the work, which took no notice.
                Err((error, found)) if tx.core().has_lost() => {
                    lost.extend(found);
                    lost.append(&mut tx.core().take_lost());
                    E::from(error)
                }
                Err((error, _)) => return Err(E::from(error)),
            },
            // Whatever the work says: it could not go on in a transaction that had lost.
            Err(error) if tx.core().has_lost() => {
                lost.append(&mut tx.core().take_lost());
                error
            }
            Err(error) => return Err(error),
        };
        drop(ends);
        drop(tx);
        if tried >= TRIES_MAX {
            crate::sync::sometimes("transaction: gives up");
            return Err(failed);
        }
        crate::sync::sometimes("transaction: is tried again");
        lost = Lost::few(lost.into_iter().collect()).into_iter().collect();
        attempt = again(db, &attempt, &settings, &lost, tried)?;
    }
    unreachable!("the loop ends after so many tries")
}

/// Waits a while, then takes locks on what was lost.
fn again(
    db: &Db,
    last: &Attempt,
    settings: &Settings,
    lost: &BTreeSet<Lost>,
    tried: u32,
) -> Result<Attempt> {
    let owner = Owner::new(db.transactions.next_id(), last.owner.age);
    let timeout = settings.timeout.unwrap_or(db.config.transaction_timeout);
    let deadline = db.env.clock().now().checked_add(timeout);
    if lost.is_empty() {
        let longest = BACKOFF * (1 << tried.min(6));
        let part = db.env.random("transaction.backoff") % 1024;
        db.env.clock().sleep(longest * part as u32 / 1024);
    }
    let mut held = Some(lost.iter().cloned().collect());
    // In their order, so that those who try again do not wait for each other in a circle.
    for lost in lost {
        let target = match &lost.end {
            None => Target::Key(lost.keyspace, &lost.start),
            Some(end) => range_lock(lost.keyspace, &lost.start, end.as_deref()),
        };
        match db.lock_for(owner, target, deadline) {
            // Without locks then: there will be another try.
            Err(Error::Deadlock { .. }) => {
                db.locks.unlock_all(owner.id);
                held = None;
                break;
            }
            other => other.inspect_err(|_| db.locks.unlock_all(owner.id))?,
        }
    }
    // What was sequenced before the locks were there is part of what this try sees.
    db.wait_for_sequenced().inspect_err(|_| db.locks.unlock_all(owner.id))?;
    Ok(Attempt { owner, locked: true, held })
}

/// Ends a transaction whose work failed or panicked, whoever else has a handle of it.
struct EndsWithWork<'a>(&'a Transaction);

impl Drop for EndsWithWork<'_> {
    fn drop(&mut self) {
        self.0.core().abort(); // nothing once it has ended
    }
}
