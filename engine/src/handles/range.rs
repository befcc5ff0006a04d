//! Ranges of keys.

use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// A range of keys: `..`, any of the standard ranges over bytes, or a pair of bounds.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put("b", "2")?;
/// assert_eq!(db.range("a".."c")?.count(), 1);
/// assert_eq!(db.range(b"c"..)?.count(), 0);
/// assert_eq!(db.range(..)?.count(), 1);
/// # Ok::<(), lightning_db::Error>(())
/// ```
pub trait KeyRange {
    /// The lower and the upper bound.
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>);
}

impl KeyRange for RangeFull {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

macro_rules! key_range {
    ($range:ty, $self:ident => $lower:expr, $upper:expr) => {
        impl<K: AsRef<[u8]>> KeyRange for $range {
            fn bounds(&$self) -> (Bound<&[u8]>, Bound<&[u8]>) {
                ($lower, $upper)
            }
        }
    };
}

key_range!(Range<K>, self => Bound::Included(self.start.as_ref()), Bound::Excluded(self.end.as_ref()));
key_range!(RangeInclusive<K>, self => Bound::Included(self.start().as_ref()), Bound::Included(self.end().as_ref()));
key_range!(RangeFrom<K>, self => Bound::Included(self.start.as_ref()), Bound::Unbounded);
key_range!(RangeTo<K>, self => Bound::Unbounded, Bound::Excluded(self.end.as_ref()));
key_range!(RangeToInclusive<K>, self => Bound::Unbounded, Bound::Included(self.end.as_ref()));

fn as_bytes<K: AsRef<[u8]>>(bound: &Bound<K>) -> Bound<&[u8]> {
    match bound {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(key) => Bound::Included(key.as_ref()),
        Bound::Excluded(key) => Bound::Excluded(key.as_ref()),
    }
}

impl<K: AsRef<[u8]>, L: AsRef<[u8]>> KeyRange for (Bound<K>, Bound<L>) {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (as_bytes(&self.0), as_bytes(&self.1))
    }
}

/// The bounds, owned.
pub(crate) fn owned(range: &impl KeyRange) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let (lower, upper) = range.bounds();
    (lower.map(<[u8]>::to_vec), upper.map(<[u8]>::to_vec))
}
