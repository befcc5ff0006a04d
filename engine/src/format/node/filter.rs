//! What a lowest branch says of the keys of each of its leaves: a part of a Bloom filter. Format:
//! `docs/formats/tree.md`.
//!
//! A part has a power of two of bytes. It says the same repeated to twice its width, so that parts that were
//! built for leaves of different sizes stand in one branch, all as wide as the widest.

/// Bits that each key sets: about right for the 8 to 16 bits that there are for each.
const PROBES: u64 = 6;
const BYTES_MIN: usize = 8;
/// Leaves of very small entries have fewer bits for each.
const BYTES_MAX: usize = 512;

/// Whether parts can have this width. 0: there are none.
pub(super) fn is_width(bytes: usize) -> bool {
    bytes == 0 || bytes.is_power_of_two() && (BYTES_MIN..=BYTES_MAX).contains(&bytes)
}

/// The bits of a hash in a part of so many bytes.
fn bits_of(hash: u64, bytes: usize) -> impl Iterator<Item = usize> {
    let bits = (bytes * 8) as u64;
    // The middle of the hash steps, its beginning starts; what is lost to a wider part does not move.
    let step = hash >> 24 | 1;
    (0..PROBES).map(move |n| (hash.wrapping_add(step.wrapping_mul(n)) & (bits - 1)) as usize)
}

/// The part for a leaf whose keys have these hashes.
pub(crate) fn build(hashes: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let bytes = hashes.len().next_power_of_two().clamp(BYTES_MIN, BYTES_MAX);
    let mut part = vec![0; bytes];
    for hash in hashes {
        bits_of(hash, bytes).for_each(|bit| part[bit / 8] |= 1 << (bit % 8));
    }
    part
}

/// Whether the key with this hash may be in the leaf. A part of no bytes admits every key.
#[inline]
pub(crate) fn admits(part: &[u8], hash: u64) -> bool {
    part.is_empty() || bits_of(hash, part.len()).all(|bit| part[bit / 8] >> (bit % 8) & 1 == 1)
}

/// Appends a part in so many bytes.
pub(super) fn put(part: &[u8], bytes: usize, out: &mut Vec<u8>) {
    match part.len() {
        // Of this leaf nothing is known.
        0 => out.extend(std::iter::repeat_n(0xff, bytes)),
        len => (0..bytes / len).for_each(|_| out.extend_from_slice(part)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(n: usize, seed: u64) -> Vec<u64> {
        let hash = |i| xxhash_rust::xxh3::xxh3_64_with_seed(&[i as u8, (i >> 8) as u8], seed);
        (0..n).map(hash).collect()
    }

    #[test]
    fn a_part_admits_its_keys_at_every_width_and_few_others() {
        for n in [0, 1, 7, 8, 9, 22, 64, 200, 512] {
            let (mut admitted, mut asked) = (0, 0);
            for seed in 0..50 {
                let keys = hashes(n, seed);
                let part = build(keys.iter().copied());
                assert!(is_width(part.len()) && part.len() >= n.min(BYTES_MAX));
                let mut wide = vec![];
                put(&part, BYTES_MAX, &mut wide);
                assert_eq!(wide.len(), BYTES_MAX);
                assert!(keys.iter().all(|key| admits(&part, *key) && admits(&wide, *key)));
                for other in hashes(200, seed + 1000) {
                    assert_eq!(admits(&part, other), admits(&wide, other));
                    admitted += u64::from(admits(&part, other));
                    asked += 1;
                }
            }
            assert!(admitted * 100 <= asked * 4, "{n} keys: {admitted} of {asked}");
        }
    }

    #[test]
    fn of_what_is_not_known_everything_is_admitted() {
        let mut all = vec![];
        put(&[], 16, &mut all);
        assert_eq!(all, [0xff; 16]);
        assert!(hashes(100, 1).iter().all(|hash| admits(&all, *hash) && admits(&[], *hash)));
        let no_width = [1, 4, 12, 1024];
        assert!(is_width(0) && !no_width.iter().any(|bytes| is_width(*bytes)));
    }
}
