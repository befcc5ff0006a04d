//! The simulated [`Env`]: what the engine sees of a [`World`].

use crate::{
    disk::SimDisk,
    scheduler::{self, block_on, can_suspend},
    world::World,
};
use lightning_db::env::{Clock, Disk, Env, Event, Task};
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
}

impl SimEnv {
    pub(crate) fn new(world: Arc<World>, disk: Arc<SimDisk>) -> SimEnv {
        SimEnv { world, disk }
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
        Arc::new(SimEvent::new(self.world.clone()))
    }

    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Task>> {
        if !can_suspend() {
            return Err(killed());
        }
        self.world.record("spawn", &[], || name.into());
        let ended = Arc::new(SimEvent::new(self.world.clone()));
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

impl Clock for SimEnv {
    fn now(&self) -> Duration {
        self.world.now()
    }

    fn wall(&self) -> Duration {
        const SOME_DAY: Duration = Duration::from_secs(1_750_000_000);
        SOME_DAY + self.world.now()
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
    epoch: AtomicU64,
    waiters: Mutex<Vec<Waker>>,
}

impl SimEvent {
    fn new(world: Arc<World>) -> SimEvent {
        SimEvent { world, epoch: AtomicU64::new(0), waiters: Mutex::default() }
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
            timer: deadline.map(|deadline| self.world.until(deadline)),
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
