//! Clocks that jump.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How far the clocks of a world are from those of the one below it.
///
/// ```
/// # use std::time::Duration;
/// let skew = lightning_faults::Skew::default();
/// skew.jump(Duration::from_secs(2));
/// assert_eq!(skew.ahead(), Duration::from_secs(2));
/// skew.set_wall(-3_000_000_000);
/// assert_eq!(skew.wall(Duration::from_secs(10)), Duration::from_secs(7));
/// ```
#[derive(Debug, Default)]
pub struct Skew {
    /// Nanoseconds by which the monotone clock is ahead.
    ahead: AtomicU64,
    /// Nanoseconds by which the wall clock was set forwards, or backwards.
    wall: AtomicI64,
}

impl Skew {
    /// The monotone clock jumps ahead.
    pub fn jump(&self, by: Duration) {
        self.ahead.fetch_add(by.as_nanos() as u64, Relaxed);
    }

    /// How far the monotone clock is ahead.
    pub fn ahead(&self) -> Duration {
        Duration::from_nanos(self.ahead.load(Relaxed))
    }

    /// The wall clock is set forwards, or backwards, by so many nanoseconds.
    pub fn set_wall(&self, nanos: i64) {
        self.wall.fetch_add(nanos, Relaxed);
    }

    /// What the wall clock shows when the one below it shows `below`: nothing before 1970, as then no
    /// clock could be read at all.
    pub fn wall(&self, below: Duration) -> Duration {
        let wall = (below.as_nanos() as i64).saturating_add(self.wall.load(Relaxed));
        Duration::from_nanos(wall.max(0) as u64)
    }
}
