use super::*;

fn get(cache: &Cache<[u8]>, file: u64, offset: u64) -> Option<Arc<[u8]>> {
    cache.get(FileId(file), offset, &Hint::default())
}

/// A key's worth of reading through the cache: whether it was a hit.
fn touch(cache: &Cache<[u8]>, file: u64, offset: u64, bytes: usize) -> bool {
    if let Some(value) = get(cache, file, offset) {
        assert_eq!(value[..], (file * 1000 + offset).to_le_bytes());
        return true;
    }
    let value = Arc::from((file * 1000 + offset).to_le_bytes());
    cache.insert(FileId(file), offset, value, bytes);
    false
}

struct Random(u64);
impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }
}

/// Whatever is asked for in whatever sizes, the limit holds, values are the right ones, and the
/// same calls leave the same state.
#[test]
fn never_holds_more_than_its_limit() {
    for limit in [0, 100, 5_000, 60_000, 20 << 20] {
        let run = || {
            let cache: Cache<[u8]> = Cache::new(limit);
            let mut random = Random(7);
            for _ in 0..20_000 {
                let (file, offset) = (random.below(3), random.below(random.0 % 300 + 1));
                let size = [10, 300, 4_000, 70_000][(offset % 4) as usize];
                touch(&cache, file, offset, size);
                assert!(cache.stats().bytes <= limit);
                if random.below(1_000) == 0 {
                    cache.remove_file(FileId(file));
                    assert!((0..300).all(|offset| get(&cache, file, offset).is_none()));
                }
            }
            cache.stats()
        };
        let stats = run();
        assert_eq!(stats, run());
        assert_eq!(stats.inserted > 0, limit > 300, "{limit}: {stats:?}");
        assert_eq!(stats.hits > 0, limit > 300, "{limit}: {stats:?}");
    }
}

/// Blocks that are used again must survive a scan ten times as long as the cache.
#[test]
fn a_long_scan_leaves_the_hot_blocks_alone() {
    let cache: Cache<[u8]> = Cache::new(1 << 20);
    for _ in 0..3 {
        for hot in 0..100 {
            touch(&cache, 1, hot, 4096);
        }
    }
    for scanned in 0..2_500 {
        touch(&cache, 2, scanned, 4096);
    }
    let kept = (0..100).filter(|hot| touch(&cache, 1, *hot, 4096)).count();
    assert!(kept >= 95, "{kept} of 100 hot blocks were kept");
}

/// After the favourites change, the new ones must take over.
#[test]
fn yesterdays_favourites_make_room() {
    let cache: Cache<[u8]> = Cache::new(1 << 20);
    let mut random = Random(1);
    for file in [1, 2] {
        let mut hits = 0;
        for step in 0..20_000 {
            let hit = touch(&cache, file, random.below(200), 4096);
            hits += u32::from(hit && step >= 10_000);
        }
        assert!(hits > 9_900, "{hits} hits on the favourites of {file}");
    }
}

/// A loop a little larger than the cache is where plain clocks keep nothing.
#[test]
fn a_skewed_mix_beats_its_share() {
    let cache: Cache<[u8]> = Cache::new(1 << 20);
    let mut random = Random(3);
    let mut hits = 0;
    for _ in 0..40_000 {
        // Half of the reads go to a tenth of 2,000 blocks; the cache has room for 244.
        let hot = random.below(2) == 0;
        let offset = random.below(if hot { 200 } else { 2_000 });
        hits += u32::from(touch(&cache, 1, offset, 4096));
    }
    assert!(hits > 18_000, "{hits} hits of 40,000");
}

#[test]
fn a_block_larger_than_the_limit_is_not_kept() {
    let cache: Cache<[u8]> = Cache::new(10_000);
    assert!(!touch(&cache, 1, 1, 1_000));
    assert!(!touch(&cache, 1, 2, 20_000));
    assert!(!touch(&cache, 1, 2, 20_000));
    assert!(touch(&cache, 1, 1, 1_000));
}

/// A hint may come from any time and any place: what it leads to is the right block or none.
#[test]
fn an_old_hint_never_leads_to_another_block() {
    let cache: Cache<[u8]> = Cache::new(20_000);
    let hints: Vec<Hint> = (0..60).map(|_| Hint::default()).collect();
    let mut random = Random(9);
    let mut hits = 0;
    for _ in 0..20_000 {
        let (file, offset) = (random.below(2), random.below(30));
        let hint = &hints[random.below(60).min(file * 30 + offset) as usize];
        match cache.get(FileId(file), offset, hint) {
            Some(value) => {
                assert_eq!(value[..], (file * 1000 + offset).to_le_bytes());
                hits += 1;
            }
            None => _ = touch(&cache, file, offset, 800),
        }
        if random.below(500) == 0 {
            cache.remove_file(FileId(file));
        }
    }
    assert!(hits > 1_000, "{hits}");
}
