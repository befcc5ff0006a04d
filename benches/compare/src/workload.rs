//! What is written and read: everything follows from an index, so that every engine and every
//! round sees the same.

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 24;
/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 150;
/// Skew of the Zipf distribution, as in YCSB.
const THETA: f64 = 0.99;

pub(crate) type Key = [u8; KEY_BYTES];

/// What is put.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) value: [u8; VALUE_BYTES],
}

/// The finishing function of splitmix64: one to one, and every bit depends on every bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The key of an index. No two indexes have the same first eight bytes.
pub(crate) fn key(index: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    let mut x = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in key.chunks_exact_mut(8) {
        x = mix(x);
        part.copy_from_slice(&x.to_be_bytes());
    }
    key
}

/// The key of an index with its value: bytes that do not repeat.
pub(crate) fn entry(index: u64) -> Entry {
    let mut value = [0; VALUE_BYTES];
    let mut random = Random(index);
    for part in value.chunks_mut(8) {
        part.copy_from_slice(&random.next().to_le_bytes()[..part.len()]);
    }
    Entry { key: key(index), value }
}

/// Reads every byte: the sum of the words.
pub(crate) fn sum(value: &[u8]) -> u64 {
    let (words, rest) = value.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word)).fold(0, u64::wrapping_add);
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// All indexes below `entries`, in the order of their keys.
pub(crate) fn sorted(entries: u64) -> Vec<u64> {
    let mut indexes: Vec<u64> = (0..entries).collect();
    indexes.sort_by_cached_key(|index| key(*index));
    indexes
}

/// `count` keys that are there, each as likely as any other.
pub(crate) fn uniform(entries: u64, count: u64) -> Vec<Key> {
    let mut random = Random(1);
    (0..count).map(|_| key(random.below(entries))).collect()
}

/// `count` keys that are not there.
pub(crate) fn missing(entries: u64, count: u64) -> Vec<Key> {
    (entries..entries + count).map(key).collect()
}

/// `count` keys that are there, the n-th most popular 1 / n^[`THETA`] times as often as the first:
/// the method of YCSB, by Gray et al., "Quickly Generating Billion-Record Synthetic Databases".
pub(crate) fn zipf(entries: u64, count: u64) -> Vec<Key> {
    let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-THETA)).sum::<f64>();
    let (all, two) = (zeta(entries), zeta(2));
    let eta = (1.0 - (2.0 / entries as f64).powf(1.0 - THETA)) / (1.0 - two / all);
    let mut random = Random(2);
    let mut rank = || {
        let u = random.next() as f64 / u64::MAX as f64;
        match u * all {
            below if below < 1.0 => 0,
            below if below < two => 1,
            _ => (entries as f64 * (eta * u - eta + 1.0).powf(1.0 / (1.0 - THETA))) as u64,
        }
    };
    (0..count).map(|_| key(rank().min(entries - 1))).collect()
}

/// Numbers that look random: splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
