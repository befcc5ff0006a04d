//! The ids that the engine hands around, each its own type, so that a byte
//! position can never be taken for a sequence number.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $vis:vis $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        $vis struct $name($vis $inner);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// The sequence number of one operation. Every put, delete and range delete has
    /// its own; they order all writes of a database. 56 bits are used.
    pub SeqNo(u64)
}
id! {
    /// A byte position in the write-ahead log, counted over all its segments since
    /// the database was created. Never a sequence number.
    pub(crate) Lsn(u64)
}
id! {
    /// The number of a file of the database. Never reused.
    pub(crate) FileId(u64)
}
id! {
    /// The number of a keyspace. Never reused. 0 is the default keyspace.
    pub(crate) KeyspaceId(u32)
}
id! {
    /// The number of a manifest edit, counted since the database was created.
    pub(crate) EditNo(u64)
}

impl SeqNo {
    /// The largest sequence number: they are stored in 56 bits beside an 8-bit kind.
    ///
    /// ```
    /// # use lightning_db::SeqNo;
    /// assert!(SeqNo(1) < SeqNo::MAX);
    /// ```
    pub const MAX: SeqNo = SeqNo((1 << 56) - 1);
}

impl FileId {
    /// The id that `name` is the name of, as `named` writes it. `None` for any other name, and for a number
    /// that no database comes to: such a file is not ours, and nothing may be counted on from it.
    pub(crate) fn in_name(
        name: &str,
        prefix: &str,
        suffix: &str,
        named: impl Fn(FileId) -> String,
    ) -> Option<FileId> {
        let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let id = FileId(digits.parse().ok()?);
        (id.0 < 1 << 48 && named(id) == name).then_some(id)
    }
}

impl KeyspaceId {
    /// The keyspace that exists from the beginning and that the verbs of
    /// [`Database`](crate::Database) use.
    pub(crate) const DEFAULT: KeyspaceId = KeyspaceId(0);

    /// The hash by which memtables, filters and blocks know a key. Part of the format of sstables.
    #[inline]
    pub(crate) fn hash(self, key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(key, self.0.into())
    }
}

/// What an entry is. The discriminants are written to disk; 0 is no kind, so that
/// zeroed bytes are never an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The key has this value.
    Put = 1,
    /// A tombstone: the key has no value.
    Delete = 2,
    /// A range tombstone: no key of `key <= k < value` has a value.
    RangeDelete = 3,
    // 4 merge operand: reserved.
    /// The key has a value that is too large to stand here: this is a pointer to its blob.
    Blob = 5,
}

impl Kind {
    /// Whether a key whose newest entry is of this kind has a value.
    #[inline]
    pub(crate) fn has_value(self) -> bool {
        matches!(self, Kind::Put | Kind::Blob)
    }

    /// The kind written as `byte`, or `None` for a byte that this version does not know.
    pub(crate) fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Put),
            2 => Some(Kind::Delete),
            3 => Some(Kind::RangeDelete),
            5 => Some(Kind::Blob),
            _ => None,
        }
    }
}

/// A [`SeqNo`] and a [`Kind`] in one word, ordered by the SeqNo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SeqKind(pub(crate) u64);

impl SeqKind {
    /// Packs the two.
    pub(crate) fn new(seq: SeqNo, kind: Kind) -> SeqKind {
        debug_assert!(seq <= SeqNo::MAX);
        SeqKind(seq.0 << 8 | kind as u64)
    }
    /// The sequence number.
    pub(crate) fn seq(self) -> SeqNo {
        SeqNo(self.0 >> 8)
    }
    /// The kind, or `None` for a byte that this version does not know.
    pub(crate) fn kind(self) -> Option<Kind> {
        Kind::from_byte(self.0 as u8)
    }
}
