//! The names of places: scheduling points and branches of the engine, operations of the disk, kinds
//! of faults.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

mod collected {
    include!(concat!(env!("OUT_DIR"), "/sites.rs"));
}

/// The marks in branches of the engine that are taken only sometimes.
pub const MARKS: &[&str] = &collected::MARKS;

/// The scheduling points of the engine.
pub(crate) fn points() -> &'static [&'static str] {
    &collected::POINTS
}

/// Kinds of faults.
pub(crate) const FAULTS: [&str; 19] = [
    "EIO on read",
    "EIO on write",
    "EIO in a write",
    "EIO on sync",
    "ENOSPC at random",
    "ENOSPC on sync",
    "disk full",
    "EINTR",
    "short read",
    "short write",
    "clean pages dropped",
    "stall",
    "bit rot",
    "latent error",
    "misdirected write",
    "lost write",
    "stale block",
    "wall clock jump",
    "clock jump",
];

/// Scheduling points that are not named by a literal: operations of the disk.
pub(crate) const OPERATIONS: [&str; 18] = [
    "allocate",
    "punch",
    "create",
    "kind",
    "list",
    "lock dir",
    "map",
    "mkdir",
    "open",
    "read",
    "remove",
    "rename",
    "set length",
    "sync all",
    "sync data",
    "sync dir",
    "write",
    "lock",
];

/// The name of a place that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site(&'static str);

impl Site {
    /// A site that the running code has just passed.
    pub(crate) fn known(name: &'static str) -> Site {
        Site(name)
    }

    /// The site with this name, if there is one.
    pub fn find(name: &str) -> Option<Site> {
        let all = FAULTS.iter().chain(&OPERATIONS).chain(&collected::POINTS);
        all.copied().find(|known| *known == name).map(Site)
    }

    /// Any site, by a number; every site has one.
    pub(crate) fn numbered(number: u64) -> Site {
        let all = FAULTS.iter().chain(&OPERATIONS).chain(&collected::POINTS);
        let count = FAULTS.len() + OPERATIONS.len() + collected::POINTS.len();
        Site(all.copied().nth(number as usize % count).unwrap_or_default())
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl Serialize for Site {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Site {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Site, D::Error> {
        let name = String::deserialize(deserializer)?;
        Site::find(&name).ok_or_else(|| D::Error::custom(format!("no site is called {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mark that stands in two branches says nothing of either.
    #[test]
    fn marks_are_many_and_each_stands_once() {
        assert!(MARKS.len() >= 60, "{} marks", MARKS.len());
        let twice: Vec<_> = MARKS.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    #[test]
    fn sites_of_engine_and_disk_are_known() {
        for name in ["commit.publish", "read.version", "event wait", "lock", "sync data", "stall"] {
            assert_eq!(Site::find(name).map(Site::name), Some(name));
        }
        assert_eq!(Site::find("commit.publishing"), None);
    }
}
