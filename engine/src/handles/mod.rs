//! What users hold: keyspaces, batches, snapshots, iterators. All own what they need.

mod batch;
mod keyspace;
mod range;
mod reader;
mod scan;
mod snapshot;
mod subscription;
mod transaction;
mod value;

pub use batch::WriteBatch;
pub use keyspace::{Keyspace, KeyspaceOptions};
pub use range::KeyRange;
pub use reader::ValueReader;
pub use scan::Scan;
pub use snapshot::Snapshot;
pub use subscription::{FeedPosition, Subscription};
pub use transaction::{
    IsolationLevel, Savepoint, Transaction, TransactionBuilder, TransactionId, TransactionOptions,
    TransactionScan,
};
pub use value::ValueRef;

use crate::{
    db::{Db, background::Background},
    env::Task,
    error::{Error, Result},
    sync::Mutex,
};
use std::sync::Arc;

/// Keeps a database open. When the last handle goes, it is closed.
pub(crate) struct Handle {
    pub(crate) db: Arc<Db>,
    tasks: Mutex<Vec<Box<dyn Task>>>,
    /// Held while the database is being closed, so that a second call waits for the first.
    closing: Mutex<()>,
}

impl Handle {
    /// Starts the background threads of an opened database.
    pub(crate) fn start(db: Db) -> Result<Arc<Handle>> {
        let (tasks, closing) = (Mutex::new(vec![]), Mutex::new(()));
        let handle = Handle { db: Arc::new(db), tasks, closing };
        let mut tasks = vec![];
        let started = Background::start(&handle.db, &mut tasks);
        *handle.tasks.lock() = tasks;
        // On an error the handle is dropped, which ends the threads that did start.
        started.map_err(|e| Error::io("start a thread for", &handle.db.dir, e))?;
        Ok(Arc::new(handle))
    }

    /// Closes the database; does nothing the second time.
    pub(crate) fn close(&self) -> Result<()> {
        let _one = self.closing.lock();
        let begun = self.db.begin_close();
        self.db.background.stop();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.into_iter().for_each(|task| task.join());
        match begun? {
            true => self.db.end_close(),
            // What was not durable then is not now.
            false => self.db.poison.check(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A panicking process does no I/O that it may have no right mind for; a crashed one cannot.
        if self.db.env.is_dying() {
            return;
        }
        if std::thread::panicking() {
            self.db.background.stop();
            return;
        }
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the database failed");
        }
    }
}
