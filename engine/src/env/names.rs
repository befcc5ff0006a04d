//! The names of a database's files: durable once its directory is synced, unless a sync that failed took them along.

use super::Env;
use crate::{
    error::{Error, Result},
    sync::{
        AtomicU64, Mutex,
        Ordering::{Acquire, Release, SeqCst},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Makes the names in one directory durable.
///
/// After a sync that failed, nothing is known of any name that was made before it, by whatever thread, and the
/// next sync may succeed without writing it. So whoever makes names takes a [`NamesBefore`] first, and a sync
/// counts only if none has failed since.
pub(crate) struct Names {
    env: Arc<dyn Env>,
    dir: PathBuf,
    /// How many syncs were asked for.
    asked: AtomicU64,
    failed: AtomicU64,
    /// Held while the directory is synced: a sync that failed is counted before another one succeeds.
    synced: Mutex<Synced>,
}

#[derive(Default)]
struct Synced {
    /// Of the syncs that were asked for so many are answered by one that succeeded.
    asked: u64,
    /// How the last one failed that did.
    failure: Option<Error>,
}

/// How many syncs had failed before names were made.
#[derive(Clone, Copy)]
pub(crate) struct NamesBefore(u64);

impl Names {
    pub(crate) fn new(env: &Arc<dyn Env>, dir: PathBuf) -> Arc<Names> {
        let (asked, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let synced = Mutex::new(Synced::default());
        Arc::new(Names { env: Arc::clone(env), dir, asked, failed, synced })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// To be called before a file is created or renamed.
    pub(crate) fn before(&self) -> NamesBefore {
        NamesBefore(self.failed.load(Acquire))
    }

    /// Makes all names durable that were made since `before`. If a sync has failed since, another thread's
    /// too, they may never be, and this fails: they are to be given up, and made again under other names.
    pub(crate) fn sync(&self, before: NamesBefore) -> Result<()> {
        let asked = self.asked.fetch_add(1, SeqCst) + 1;
        let synced = &mut *self.synced.lock();
        self.check(before, synced)?;
        if synced.asked >= asked {
            crate::sync::sometimes("names: a sync of another was enough");
            return Ok(());
        }
        let asked = self.asked.load(SeqCst);
        if let Err(error) = self.env.disk().sync_dir(&self.dir) {
            let error = Error::io("sync the directory", &self.dir, error);
            synced.failure = Some(error.clone());
            self.failed.fetch_add(1, Release);
            return Err(error);
        }
        synced.asked = asked;
        Ok(())
    }

    fn check(&self, before: NamesBefore, synced: &Synced) -> Result<()> {
        match &synced.failure {
            // It is for the same reason that these are not durable: on a disk that was full, say.
            Some(lost) if self.failed.load(Acquire) != before.0 => {
                crate::sync::sometimes("names: a sync of another failed meanwhile");
                Err(lost.clone())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::env::OsEnv;

    /// The sync of one thread fails; it may have taken the names of another along, whose own sync succeeds.
    #[test]
    fn a_sync_does_not_count_for_names_that_a_failed_one_may_have_lost() {
        let parent = tempfile::tempdir().unwrap();
        let env: Arc<dyn Env> = Arc::new(OsEnv::new());
        let dir = parent.path().join("missing");
        let names = Names::new(&env, dir.clone());
        let (mine, other) = (names.before(), names.before());
        assert!(names.sync(other).is_err());
        env.disk().create_dir(&dir).unwrap();
        assert!(names.sync(mine).is_err());
        names.sync(names.before()).unwrap();
    }
}
