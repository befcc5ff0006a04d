//! Directories: the entries that programs see, those that are durable, and the operations
//! between the two.

use lightning_faults::Dice;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Component, Path},
};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    Directory(u64),
    File(u64),
}

#[derive(Debug, Default, Clone)]
struct Directory {
    entries: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
    /// Who holds it locked.
    locked: Option<u64>,
}

/// An operation that no sync has made durable yet. It carries what it links, so that it can
/// survive without the operations before it.
#[derive(Debug, Clone)]
enum Operation {
    Link {
        dir: u64,
        name: String,
        entry: Entry,
    },
    Unlink {
        dir: u64,
        name: String,
    },
    /// Atomic: both names change, or none does.
    Rename {
        from: (u64, String),
        to: (u64, String),
        entry: Entry,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Link { name, .. } => write!(f, "the creation of {name}"),
            Operation::Unlink { name, .. } => write!(f, "the removal of {name}"),
            Operation::Rename { from, to, .. } => {
                write!(f, "the renaming of {} to {}", from.1, to.1)
            }
        }
    }
}

impl Operation {
    fn names(&self, directory: u64, this: &str) -> bool {
        let is_it = |dir: u64, name: &str| dir == directory && name == this;
        match self {
            Operation::Link { dir, name, .. } | Operation::Unlink { dir, name } => {
                is_it(*dir, name)
            }
            Operation::Rename { from, to, .. } => is_it(from.0, &from.1) || is_it(to.0, &to.1),
        }
    }

    fn touches(&self, directory: u64) -> bool {
        match self {
            Operation::Link { dir, .. } | Operation::Unlink { dir, .. } => *dir == directory,
            Operation::Rename { from, to, .. } => from.0 == directory || to.0 == directory,
        }
    }
}

pub(super) const ROOT: u64 = 0;

#[derive(Debug)]
pub(super) struct Tree {
    directories: BTreeMap<u64, Directory>,
    pending: Vec<(u64, Operation)>,
    /// Whether a sync that failed has lost an operation.
    has_lost: bool,
    next_directory: u64,
    next_operation: u64,
    next_lock: u64,
}

/// What an operation on a name did to files: one more entry, one less.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Unlinked(pub(super) Option<u64>);

impl Tree {
    pub(super) fn new() -> Tree {
        Tree {
            directories: BTreeMap::from([(ROOT, Directory::default())]),
            pending: Vec::new(),
            has_lost: false,
            next_directory: ROOT + 1,
            next_operation: 0,
            next_lock: 0,
        }
    }

    fn directory(&self, number: u64) -> io::Result<&Directory> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.directories.get(&number).ok_or_else(missing)
    }

    fn directory_mut(&mut self, number: u64) -> io::Result<&mut Directory> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.directories.get_mut(&number).ok_or_else(missing)
    }

    /// What is found at a path.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<Entry>> {
        let mut at = Entry::Directory(ROOT);
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue; // the root, or "."
            };
            let Entry::Directory(number) = at else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            let name = name.to_string_lossy();
            match self.directory(number)?.entries.get(name.as_ref()) {
                Some(entry) => at = *entry,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    pub(super) fn find_directory(&self, path: &Path) -> io::Result<u64> {
        match self.find(path)? {
            Some(Entry::Directory(number)) => Ok(number),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The directory that holds the last name of a path, and that name.
    pub(super) fn parent(&self, path: &Path) -> io::Result<(u64, String)> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let name = path.file_name().ok_or_else(invalid)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = self.find_directory(parent)?;
        Ok((directory, name.to_string_lossy().into_owned()))
    }

    pub(super) fn list(&self, directory: u64) -> io::Result<Vec<String>> {
        Ok(self.directory(directory)?.entries.keys().cloned().collect())
    }

    /// The files among the entries of a directory.
    pub(super) fn files(&self, directory: u64) -> io::Result<BTreeMap<String, u64>> {
        let entries = self.directory(directory)?.entries.iter();
        let files = entries.filter_map(|(name, entry)| match entry {
            Entry::File(number) => Some((name.clone(), *number)),
            Entry::Directory(_) => None,
        });
        Ok(files.collect())
    }

    pub(super) fn create_directory(&mut self, dir: u64, name: String) -> io::Result<()> {
        let number = self.next_directory;
        self.link(dir, name, Entry::Directory(number))?;
        self.next_directory += 1;
        self.directories.insert(number, Directory::default());
        Ok(())
    }

    pub(super) fn link(&mut self, dir: u64, name: String, entry: Entry) -> io::Result<()> {
        let entries = &mut self.directory_mut(dir)?.entries;
        if entries.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        entries.insert(name.clone(), entry);
        self.push(Operation::Link { dir, name, entry });
        Ok(())
    }

    pub(super) fn unlink(&mut self, dir: u64, name: String) -> io::Result<Unlinked> {
        let entries = &mut self.directory_mut(dir)?.entries;
        let file = match entries.get(&name) {
            Some(Entry::File(file)) => *file,
            Some(Entry::Directory(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        entries.remove(&name);
        self.push(Operation::Unlink { dir, name });
        Ok(Unlinked(Some(file)))
    }

    pub(super) fn rename(
        &mut self,
        from: (u64, String),
        to: (u64, String),
    ) -> io::Result<Unlinked> {
        let entry = match self.directory(from.0)?.entries.get(&from.1) {
            Some(entry) => *entry,
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let replaced = match self.directory(to.0)?.entries.get(&to.1) {
            // Linux asks first whether the target holds the source.
            Some(Entry::Directory(number)) if *number == from.0 => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            Some(Entry::Directory(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Entry::File(_)) if matches!(entry, Entry::Directory(_)) => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Some(Entry::File(file)) => Some(*file),
            None => None,
        };
        if from == to {
            return Ok(Unlinked(None));
        }
        self.directory_mut(from.0)?.entries.remove(&from.1);
        self.directory_mut(to.0)?.entries.insert(to.1.clone(), entry);
        self.push(Operation::Rename { from, to, entry });
        Ok(Unlinked(replaced))
    }

    fn push(&mut self, operation: Operation) {
        self.pending.push((self.next_operation, operation));
        self.next_operation += 1;
    }

    /// The operations that a sync beginning now has to make durable: those below this number.
    pub(super) fn sync_upto(&self) -> u64 {
        self.next_operation
    }

    #[cfg(test)]
    pub(super) fn pending_operations(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn synced(&mut self, directory: u64, upto: u64) {
        let pending = std::mem::take(&mut self.pending);
        for (number, operation) in pending {
            if number < upto && operation.touches(directory) {
                self.make_durable(&operation);
            } else {
                self.pending.push((number, operation));
            }
        }
    }

    /// A sync that failed has lost names of files: programs see them, and no later sync makes them durable until the
    /// directory is locked anew. Those of directories stay: who makes one cannot take it back.
    pub(super) fn sync_lost(&mut self, directory: u64, upto: u64, dice: &mut Dice) {
        let lost = dice.pick(&[0.5, 1.0]);
        let before = self.pending.len();
        self.pending.retain(|(number, operation)| {
            let is_file = match operation {
                Operation::Link { entry, .. } | Operation::Rename { entry, .. } => {
                    matches!(entry, Entry::File(_))
                }
                Operation::Unlink { .. } => true,
            };
            let synced = *number < upto && operation.touches(directory);
            !(synced && is_file && dice.chance(lost))
        });
        self.has_lost |= self.pending.len() < before;
    }

    /// Names that a failed sync has lost are synced again once a database is opened anew: see the assumptions in
    /// `lightning_db::env`.
    fn take_up_lost(&mut self, number: u64) -> io::Result<()> {
        if !std::mem::take(&mut self.has_lost) {
            return Ok(());
        }
        let directory = self.directory(number)?.clone();
        let is_pending = |name: &str| self.pending.iter().any(|(_, o)| o.names(number, name));
        let (seen, durable) = (&directory.entries, &directory.durable);
        let gone =
            durable.iter().filter(|(name, _)| !seen.contains_key(*name) && !is_pending(name));
        let mut gone: BTreeMap<_, _> =
            gone.map(|(name, entry)| (*entry, (number, name.clone()))).collect();
        let come = seen.iter().filter(|(name, entry)| durable.get(*name) != Some(*entry));
        let come: Vec<_> = come.filter(|(name, _)| !is_pending(name)).collect();
        for (name, entry) in come {
            let (entry, to) = (*entry, (number, name.clone()));
            self.push(match gone.remove(&entry) {
                Some(from) => Operation::Rename { from, to, entry },
                None => Operation::Link { dir: number, name: to.1, entry },
            });
        }
        for (dir, name) in gone.into_values() {
            self.push(Operation::Unlink { dir, name });
        }
        Ok(())
    }

    fn make_durable(&mut self, operation: &Operation) {
        if let (Operation::Rename { entry, .. }, true) = (operation, self.has_lost) {
            // A file has one name, whether or not the disk was told the one that it is renamed from.
            let directories = self.directories.values_mut();
            directories.for_each(|directory| directory.durable.retain(|_, named| named != entry));
        }
        let mut durable = |dir: &u64, name: &String, entry: Option<Entry>| {
            // A directory that an earlier crash took away has no entries to change.
            if let Some(directory) = self.directories.get_mut(dir) {
                match entry {
                    Some(entry) => directory.durable.insert(name.clone(), entry),
                    None => directory.durable.remove(name),
                };
            }
        };
        match operation {
            Operation::Link { dir, name, entry } => durable(dir, name, Some(*entry)),
            Operation::Unlink { dir, name } => durable(dir, name, None),
            Operation::Rename { from, to, entry } => {
                durable(&from.0, &from.1, None);
                durable(&to.0, &to.1, Some(*entry));
            }
        }
    }

    pub(super) fn lock(&mut self, directory: u64) -> io::Result<Option<u64>> {
        let token = self.next_lock;
        let locked = &mut self.directory_mut(directory)?.locked;
        if locked.is_some() {
            return Ok(None);
        }
        *locked = Some(token);
        self.next_lock += 1;
        self.take_up_lost(directory)?;
        Ok(Some(token))
    }

    pub(super) fn unlock(&mut self, token: u64) {
        for directory in self.directories.values_mut() {
            if directory.locked == Some(token) {
                directory.locked = None;
            }
        }
    }

    /// The process is gone, and with it its locks.
    pub(super) fn kill(&mut self) {
        for directory in self.directories.values_mut() {
            directory.locked = None;
        }
    }

    /// The power fails: of the pending operations any subset survives, or those up to a moment.
    /// Returns which did, for people to read.
    pub(super) fn power_loss(&mut self, dice: &mut Dice, subset: bool) -> Vec<(String, bool)> {
        let mut told = vec![];
        self.kill();
        let pending = std::mem::take(&mut self.pending);
        let moment = dice.below(pending.len() as u64 + 1) as usize;
        let survives = dice.pick(&[0.1, 0.5, 0.9]);
        for (n, (_, operation)) in pending.iter().enumerate() {
            let done = match subset {
                true => dice.chance(survives),
                false => n < moment,
            };
            told.push((operation.to_string(), done));
            if done {
                self.make_durable(operation);
            }
        }
        for directory in self.directories.values_mut() {
            directory.entries = directory.durable.clone();
        }
        let reachable = self.reachable();
        self.directories.retain(|number, _| reachable.contains(number));
        told
    }

    /// A name of each file.
    pub(super) fn names(&self) -> BTreeMap<u64, String> {
        let entries = self.directories.values().flat_map(|directory| &directory.entries);
        let files = entries.filter_map(|(name, entry)| match entry {
            Entry::File(number) => Some((*number, name.clone())),
            Entry::Directory(_) => None,
        });
        files.collect()
    }

    fn reachable(&self) -> BTreeSet<u64> {
        let mut reachable = BTreeSet::new();
        let mut todo = vec![ROOT];
        while let Some(number) = todo.pop() {
            if reachable.insert(number) {
                let entries = self.directories[&number].entries.values();
                todo.extend(entries.filter_map(|entry| match entry {
                    Entry::Directory(number) => Some(*number),
                    Entry::File(_) => None,
                }));
            }
        }
        reachable
    }

    /// How many names each file has now.
    pub(super) fn links(&self) -> BTreeMap<u64, u32> {
        let mut links = BTreeMap::new();
        for directory in self.directories.values() {
            for entry in directory.entries.values() {
                if let Entry::File(file) = entry {
                    *links.entry(*file).or_insert(0) += 1;
                }
            }
        }
        links
    }
}
