//! The simulated [`Env`]: what the engine sees of a [`World`].

use crate::{
    disk::SimDisk,
    scheduler::{self, block_on, can_suspend},
    world::World,
};
use lightning_db::env::{Clock, Disk, Env, Event, Task};
use lightning_faults::{Dice, Skew};
use madsim::time::Sleep;
use parking_lot::Mutex;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A simulated machine, as one process on it sees it.
#[derive(Clone)]
pub struct SimEnv {
    world: Arc<World>,
    disk: Arc<SimDisk>,
    skew: Arc<Skew>,
}

impl SimEnv {
    pub(crate) fn new(world: Arc<World>, disk: Arc<SimDisk>) -> SimEnv {
        SimEnv { world, disk, skew: Arc::default() }
    }

    /// The run that this machine belongs to.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// The disk, with what only the simulator may ask it.
    pub fn sim_disk(&self) -> &Arc<SimDisk> {
        &self.disk
    }
}

impl Env for SimEnv {
    fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    fn clock(&self) -> &dyn Clock {
        self
    }

    fn event(&self) -> Arc<dyn Event> {
        Arc::new(self.sim_event())
    }

    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
        if !can_suspend() {
            return Err(killed());
        }
        self.world.record("spawn", &[], || name.into());
        let ended = Arc::new(self.sim_event());
        let ends = ended.clone();
        scheduler::spawn(
            name,
            Box::new(move || {
                body();
                ends.notify_all();
            }),
        );
        Ok(Box::new(SimTask(ended)))
    }

    fn yield_now(&self) {
        // Time must pass: whoever yields may be waiting for that.
        self.sleep(Duration::from_micros(10));
    }

    fn task_slot(&self) -> usize {
        scheduler::current_slot().unwrap_or(usize::MAX)
    }

    fn random(&self, site: &'static str) -> u64 {
        self.world.dice(site).u64()
    }

    fn buggify(&self, site: &'static str) -> bool {
        let taken = can_suspend() && self.world.buggify(site);
        if taken {
            self.world.count("buggified");
            self.world.record("buggify", &[], || site.into());
        }
        taken
    }

    fn is_dying(&self) -> bool {
        !can_suspend()
    }
}

impl SimEnv {
    fn sim_event(&self) -> SimEvent {
        SimEvent::new(self.world.clone(), self.skew.clone())
    }

    /// A jump of a clock that the engine looks at now, if there is one.
    fn jump(&self, kind: &'static str, rate: f64, longest: Duration) -> Option<(u64, Dice)> {
        let mut dice = can_suspend().then(|| self.world.struck(kind, rate)).flatten()?;
        let nanos = dice.skewed(1_000_000..longest.as_nanos() as u64);
        self.world.fault(kind);
        Some((nanos, dice))
    }
}

impl SimEnv {
    /// What the monotone clock shows. It does not jump because of this.
    pub(crate) fn reading(&self) -> Duration {
        self.world.now() + self.skew.ahead()
    }
}

impl Clock for SimEnv {
    fn now(&self) -> Duration {
        const HOUR: Duration = Duration::from_secs(3600);
        let rate = self.disk.clock_faults().clock_jump;
        if let Some((nanos, _)) = self.jump("clock jump", rate, HOUR) {
            self.skew.jump(Duration::from_nanos(nanos));
            self.world.record("clock", &[nanos], || format!("{nanos} ns ahead"));
        }
        self.world.now() + self.skew.ahead()
    }

    fn wall(&self) -> Duration {
        const SOME_DAY: Duration = Duration::from_secs(1_750_000_000);
        const YEARS: Duration = Duration::from_secs(100_000_000);
        let rate = self.disk.clock_faults().wall_jump;
        if let Some((nanos, mut dice)) = self.jump("wall clock jump", rate, YEARS) {
            let nanos = if dice.chance(0.5) { nanos as i64 } else { -(nanos as i64) };
            self.skew.set_wall(nanos);
            self.world.record("clock", &[nanos as u64], || format!("wall set by {nanos} ns"));
        }
        self.skew.wall(SOME_DAY + self.world.now())
    }

    fn sleep(&self, duration: Duration) {
        if can_suspend() {
            block_on(self.world.until(self.world.now() + duration));
        }
    }
}

/// What an operation of a killed process answers. Nobody sees it but destructors.
pub(crate) fn killed() -> io::Error {
    io::Error::other("the simulated process is being killed")
}

struct SimTask(Arc<SimEvent>);

impl Task for SimTask {
    fn join(self: Box<Self>) {
        // The event moves on exactly once, when the task ends.
        self.0.wait(0, None);
    }
}

/// An event count. See [`Event`].
struct SimEvent {
    world: Arc<World>,
    skew: Arc<Skew>,
    epoch: AtomicU64,
    waiters: Mutex<Vec<Waker>>,
}

impl SimEvent {
    fn new(world: Arc<World>, skew: Arc<Skew>) -> SimEvent {
        SimEvent { world, skew, epoch: AtomicU64::new(0), waiters: Mutex::default() }
    }
}

impl Event for SimEvent {
    fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    fn wait(&self, seen: u64, deadline: Option<Duration>) {
        if !can_suspend() {
            return;
        }
        scheduler::point("event wait");
        block_on(Wait {
            event: self,
            seen,
            // Who waits when the clock jumps, is woken late.
            timer: deadline
                .map(|deadline| self.world.until(deadline.saturating_sub(self.skew.ahead()))),
            queued: false,
        });
    }

    fn notify_all(&self) {
        self.epoch.fetch_add(1, Relaxed);
        let waiters = std::mem::take(&mut *self.waiters.lock());
        if can_suspend() && !waiters.is_empty() {
            self.world
                .record("notify", &[waiters.len() as u64], || format!("{} waiters", waiters.len()));
        }
        waiters.into_iter().for_each(Waker::wake);
    }
}

struct Wait<'a> {
    event: &'a SimEvent,
    seen: u64,
    timer: Option<Pin<Box<Sleep>>>,
    queued: bool,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.event.epoch() != self.seen {
            return Poll::Ready(());
        }
        let queued = self.queued;
        if let Some(timer) = &mut self.timer {
            // Polling a timer again would set another: only ask it.
            let over = match queued {
                false => timer.as_mut().poll(cx).is_ready(),
                true => timer.is_elapsed(),
            };
            if over {
                return Poll::Ready(());
            }
        }
        if !std::mem::replace(&mut self.queued, true) {
            self.event.waiters.lock().push(cx.waker().clone());
        }
        Poll::Pending
    }
}
