//! The production [`Env`]: the only door of the engine to the operating system.

mod disk;
pub(crate) mod memory;
mod threads;

use super::{Clock, Disk, Env, Event, Task};
use std::{io, sync::Arc, time::Duration};

/// The operating system: its files, clocks and threads.
///
/// ```
/// use lightning_db::env::{Env, OsEnv};
/// let env = OsEnv::new();
/// assert!(env.clock().wall().as_secs() > 1_700_000_000);
/// ```
#[derive(Debug)]
pub struct OsEnv {
    clock: OsClock,
    disk: disk::OsDisk,
}

impl OsEnv {
    /// The operating system.
    pub fn new() -> OsEnv {
        OsEnv { clock: OsClock::new(), disk: disk::OsDisk }
    }
}

impl Default for OsEnv {
    fn default() -> Self {
        OsEnv::new()
    }
}

impl Env for OsEnv {
    fn disk(&self) -> &dyn Disk {
        &self.disk
    }
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }
    fn event(&self) -> Arc<dyn Event> {
        Arc::new(threads::OsEvent::new(self.clock))
    }
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
        threads::spawn(name, body)
    }
    fn yield_now(&self) {
        threads::yield_now();
    }
    #[inline]
    fn task_slot(&self) -> usize {
        threads::slot()
    }
    fn random(&self, _site: &'static str) -> u64 {
        let mut bytes = [0; 8];
        let mut filled = 0;
        while filled < bytes.len() {
            // The call cannot fail on the kernels that Rust supports, but for a signal.
            if let Ok(n) =
                rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            {
                filled += n;
            }
        }
        u64::from_le_bytes(bytes)
    }
}

/// The one home of the system's clocks.
mod clock {
    use super::*;
    use rustix::time::{ClockId, clock_gettime};

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct OsClock {
        start: Duration,
    }

    fn read(clock: ClockId) -> Duration {
        let now = clock_gettime(clock);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), now.tv_nsec as u32)
    }

    impl OsClock {
        pub(crate) fn new() -> OsClock {
            OsClock { start: read(ClockId::Monotonic) }
        }
    }

    impl Clock for OsClock {
        fn now(&self) -> Duration {
            read(ClockId::Monotonic).saturating_sub(self.start)
        }
        fn about_now(&self) -> Duration {
            read(ClockId::MonotonicCoarse).saturating_sub(self.start)
        }
        /// To about 4 ms: every commit asks.
        fn wall(&self) -> Duration {
            read(ClockId::RealtimeCoarse)
        }
        #[expect(clippy::disallowed_methods, reason = "the one home of sleeping")]
        fn sleep(&self, duration: Duration) {
            std::thread::sleep(duration);
        }
    }
}
pub(crate) use clock::OsClock;
