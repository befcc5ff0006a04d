//! A hash table from 32 bits of a hash to small numbers. What a number stands for, and whether
//! it is the one looked for, is the caller's to know.

/// Linear probing over a power of two of places, at most half of them taken; removal closes the
/// gap, so that no marks pile up.
#[derive(Debug)]
pub(super) struct Table {
    /// Hash above, number below; [`EMPTY`] where there is nothing.
    places: Vec<u64>,
    taken: usize,
}

const EMPTY: u64 = u64::MAX;
const PLACES_MIN: usize = 16;

fn place_of(hash: u32, number: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(number)
}

impl Table {
    pub(super) fn new() -> Table {
        Table { places: vec![EMPTY; PLACES_MIN], taken: 0 }
    }

    /// The number with this hash that `is_it`.
    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.places[at] {
                EMPTY => return None,
                place if (place >> 32) as u32 == hash && is_it(place as u32) => {
                    return Some(place as u32);
                }
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds a number below `u32::MAX` that is not there yet.
    pub(super) fn insert(&mut self, hash: u32, number: u32) {
        debug_assert!(number < u32::MAX);
        if (self.taken + 1) * 2 > self.places.len() {
            let larger = vec![EMPTY; self.places.len() * 2];
            for place in std::mem::replace(&mut self.places, larger) {
                if place != EMPTY {
                    self.put(place);
                }
            }
        }
        self.put(place_of(hash, number));
        self.taken += 1;
    }

    fn put(&mut self, place: u64) {
        let mask = self.places.len() - 1;
        let mut at = (place >> 32) as usize & mask;
        while self.places[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.places[at] = place;
    }

    /// Removes a number that is there.
    pub(super) fn remove(&mut self, hash: u32, number: u32) {
        let mask = self.places.len() - 1;
        let mut gap = hash as usize & mask;
        while self.places[gap] != place_of(hash, number) {
            if self.places[gap] == EMPTY {
                debug_assert!(false, "removing what is not there");
                return;
            }
            gap = (gap + 1) & mask;
        }
        self.taken -= 1;
        let mut at = gap;
        loop {
            self.places[gap] = EMPTY;
            // The next one that may stand in the gap: its own place is not behind the gap.
            loop {
                at = (at + 1) & mask;
                let place = self.places[at];
                if place == EMPTY {
                    return;
                }
                let own = (place >> 32) as usize & mask;
                let moved = at.wrapping_sub(own) & mask;
                if moved >= at.wrapping_sub(gap) & mask {
                    break;
                }
            }
            self.places[gap] = self.places[at];
            gap = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Few different hashes, so that runs of places form, wrap around and close again.
    #[test]
    fn agrees_with_a_map() {
        let mut table = Table::new();
        let mut model: BTreeMap<u32, u32> = BTreeMap::new();
        let mut state = 1u64;
        for step in 0..30_000u32 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let number = (state >> 33) as u32 % 300;
            let hash = (number % 7).wrapping_mul(0x3fff_fff9) ^ (number % 3);
            match model.remove(&number) {
                Some(hash) => table.remove(hash, number),
                None if step % 20_000 < 10_000 || number < 30 => {
                    table.insert(hash, number);
                    model.insert(number, hash);
                }
                None => {}
            }
            let found = table.find(hash, |n| n == number);
            assert_eq!(found.is_some(), model.contains_key(&number), "step {step}");
        }
        for number in 0..300u32 {
            let hash = (number % 7).wrapping_mul(0x3fff_fff9) ^ (number % 3);
            let found = table.find(hash, |n| n == number);
            assert_eq!(found.is_some(), model.contains_key(&number));
        }
    }
}
