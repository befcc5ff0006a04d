//! Deleting everything gives the space back, also where there was none left.

use super::{
    client::{Client, EVERYTHING},
    session::{Over, RESUMES_WITHIN, Session},
};
use lightning_db::env::Env;
use std::{collections::BTreeSet, time::Duration};

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Of the client that deletes: no other has it.
const NUMBER: u64 = 1000;

impl Session {
    /// Deletes all that is in the shared keyspaces by one range delete each. Of what they held,
    /// no run and no tree is left soon, however full the disk is: nobody reads older states any more.
    pub(super) fn empty(&self) -> Result<(), Over> {
        let process = &self.process;
        let world = process.world();
        let mut emptied = BTreeSet::new();
        for (place, _) in &self.shared {
            let refused = world.counted("commits refused");
            Client::new(self.for_clients(), NUMBER).delete_range(*place, EVERYTHING)?;
            if world.counted("commits refused") == refused {
                emptied.insert(place.name());
            }
        }
        let deadline = world.now() + RESUMES_WITHIN;
        loop {
            let stats = process.checked_read("stats", self.db.stats())?;
            let left = stats.keyspaces.iter().find(|keyspace| {
                // One that holds the range delete itself may be there.
                let something = keyspace.tables > 1 || keyspace.tree_depth > 0;
                something && emptied.contains(&*keyspace.name)
            });
            let Some(left) = left else {
                world.count_by("keyspaces emptied", emptied.len() as u64);
                return Ok(());
            };
            if !process.is_undisturbed() {
                return Ok(()); // what failed is tried again, or not at all
            }
            if world.now() > deadline {
                let (tables, depth) = (left.tables, left.tree_depth);
                let message = format!(
                    "{RESUMES_WITHIN:?} after {} was emptied it has {tables} sstables and a tree of \
                     {depth} levels",
                    left.name
                );
                world.violate("I-9", message);
                return Err(Over);
            }
            process.boot.env.clock().sleep(LOOK_AGAIN);
        }
    }
}
