//! Directories of databases and what lies in them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A directory of a test's own. If the test fails it stays, to be looked at.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    /// In memory, where syncing costs nothing, if the system has such a place.
    pub(crate) fn in_memory() -> Scratch {
        match tempfile::tempdir_in("/dev/shm") {
            Ok(dir) => Scratch(dir),
            Err(_) => Scratch::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where a database may be made.
    pub(crate) fn db(&self) -> PathBuf {
        self.path().join("db")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("left as it failed: {}", self.path().display());
        }
    }
}

/// The bytes of every file of a directory, by name, as they stood at one moment: an open database
/// may flush and remove files while they are read, so they are read until two readings agree.
/// (No name comes back with other content that would make two such readings equal.)
pub(crate) fn contents_of_files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut before = read_files(dir);
    loop {
        let after = read_files(dir);
        if after == before {
            return after;
        }
        before = after;
    }
}

fn read_files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match std::fs::read(entry.path()) {
            Ok(bytes) => {
                files.insert(entry.file_name().into_string().unwrap(), bytes);
            }
            // An open database may have removed it since the directory was read.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
        }
    }
    files
}
