//! One run: a program on a simulated machine that crashes, boots and crashes again.

use crate::{
    disk::SimDisk,
    env::SimEnv,
    scheduler,
    world::{Scheduling, Violation, World},
};
use lightning_faults::{Dice, FaultPlan};
use madsim::runtime::{Handle, Runtime};
use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

/// Virtual time without any I/O or workload event after which a process is taken to hang. The
/// longest stall of a disk and the longest pause of a client are far below.
const HANG: Duration = Duration::from_secs(20);

/// What kind of crash ended a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// None: the program ended by itself.
    Ended,
    /// The process was killed; the page cache stays.
    Killed,
    /// The machine lost power; only what was durable stays, and part of the rest.
    PowerLoss,
}

/// When a boot ends if the program does not end before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// During this I/O operation, counted from the boot.
    AtIo(u64),
    /// After this time.
    After(Duration),
    /// Never.
    Never,
}

/// What a run consists of. All of it is drawn from the seed, and each part can be replaced.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of all random streams.
    pub seed: u64,
    /// What fails.
    pub faults: FaultPlan,
    /// How tasks are interfered with.
    pub scheduling: Scheduling,
    /// How each boot ends. One more follows, in which nothing fails.
    pub crashes: Vec<(When, Crash)>,
    /// How many lines of the trace are kept.
    pub keep_lines: Option<usize>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Plan {
        let dice = &mut Dice::new(seed, "crashes", 0);
        let boots = dice.skewed(0..12);
        let crashes = (0..boots).map(|_| draw_crash(dice)).collect();
        Plan {
            seed,
            faults: FaultPlan::draw(seed),
            scheduling: Scheduling::draw(seed),
            crashes,
            keep_lines: None,
        }
    }
}

fn draw_crash(dice: &mut Dice) -> (When, Crash) {
    // Small numbers are frequent: they meet creation and recovery.
    let when = match dice.below(10) {
        0..=5 => When::AtIo(dice.skewed(0..2000)),
        6..=8 => When::After(Duration::from_nanos(dice.skewed(1_000..1_000_000_000))),
        _ => When::Never,
    };
    let crash = match dice.chance(0.6) {
        true => Crash::PowerLoss,
        false => Crash::Killed,
    };
    (when, crash)
}

/// What a program finds when it starts.
#[derive(Clone)]
pub struct Boot {
    /// The machine.
    pub env: SimEnv,
    /// How many boots came before.
    pub number: usize,
    /// Nothing fails any more, and no crash comes.
    pub last: bool,
    /// How the boot before ended.
    pub after: Crash,
    /// More about that, if there was one.
    pub after_crash: Option<Ending>,
    /// When this boot began, in virtual time.
    pub began: Duration,
}

impl Boot {
    /// The stream of an event of this boot that is named from outside, not by how often its site
    /// was passed.
    pub fn dice(&self, site: &str, count: u64) -> Dice {
        let site = format!("boot {}: {site}", self.number);
        Dice::new(self.env.world().seed(), &site, count)
    }

    /// Whether an error was injected since this boot began.
    pub fn had_errors(&self) -> bool {
        self.env.world().had_errors_since(self.began)
    }
}

/// The end of a boot.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// When it came, in virtual time.
    pub at: Duration,
    /// An error was injected since the boot began.
    pub had_errors: bool,
}

/// What came out of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// A hash over everything that happened.
    pub trace_hash: u64,
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// How often things happened.
    pub counters: BTreeMap<&'static str, u64>,
    /// The newest lines of the trace, if the plan asked for them.
    pub lines: Vec<String>,
}

/// Runs `program` once per boot, as the main thread of the simulated process.
pub fn run(plan: Plan, program: impl Fn(Boot) + Send + Sync + 'static) -> Outcome {
    let runtime = Runtime::with_seed_and_config(plan.seed, madsim::Config::default());
    runtime.block_on(supervise(plan, Arc::new(program)))
}

async fn supervise(plan: Plan, program: Arc<dyn Fn(Boot) + Send + Sync>) -> Outcome {
    let world = World::new(plan.seed, plan.scheduling, plan.keep_lines);
    scheduler::enter(world.clone());
    let disk = SimDisk::new(world.clone(), plan.faults);
    let (mut after, mut after_crash) = (Crash::Ended, None);
    let mut crashes = plan.crashes.iter();
    for number in 0.. {
        let crash = crashes.next().copied();
        if crash.is_none() {
            world.set_faults(false);
        }
        let boot = Boot {
            env: SimEnv::new(world.clone(), disk.clone()),
            number,
            last: crash.is_none(),
            after,
            after_crash,
            began: world.now(),
        };
        let began = boot.began;
        world.record("boot", &[number as u64], || format!("number {number} after {after:?}"));
        world.count("boots");
        let (when, how) = crash.unwrap_or((When::Never, Crash::Ended));
        let program = program.clone();
        let ended = run_boot(&world, when, Box::new(move || program(boot))).await;
        if world.violation().is_some() {
            break;
        }
        after = if ended { Crash::Ended } else { how };
        after_crash = Some(Ending { at: world.now(), had_errors: world.had_errors_since(began) });
        end_process(&world, &disk, after);
        if crash.is_none() {
            break;
        }
    }
    let outcome = Outcome {
        seed: plan.seed,
        trace_hash: world.trace_hash(),
        violation: world.violation(),
        counters: world.counters(),
        lines: world.take_lines(),
    };
    scheduler::leak_all();
    scheduler::leave();
    outcome
}

/// Runs one process until it ends, is to crash, or breaks a promise. Returns whether it ended
/// by itself.
async fn run_boot(world: &Arc<World>, when: When, main: Box<dyn FnOnce() + Send>) -> bool {
    let (crash_at_io, deadline) = match when {
        When::AtIo(io) => (world.ios() + io, None),
        When::After(time) => (u64::MAX, Some(world.now() + time)),
        When::Never => (u64::MAX, None),
    };
    world.crash_at_io(crash_at_io);
    // A node of its own for each process: killing it is what drops the process's tasks.
    let node = Handle::current().create_node().build();
    let main = node.spawn(scheduler::create(main));
    let mut main = pin!(main);
    let ended = loop {
        let progress = world.progress();
        let look_again = deadline.unwrap_or(Duration::MAX).min(world.now() + HANG);
        let mut timer = world.until(look_again);
        let ended = poll_fn(|cx| {
            world.supervise(cx.waker());
            let ended = main.as_mut().poll(cx).is_ready();
            if ended || world.violation().is_some() || world.crash_is_due() {
                return Poll::Ready(Some(ended));
            }
            timer.as_mut().poll(cx).map(|()| None)
        });
        match ended.await {
            Some(ended) => break ended,
            None if deadline.is_some_and(|deadline| world.now() >= deadline) => break false,
            None if world.progress() == progress => {
                world.violate("hang", format!("nothing happened for {HANG:?} of virtual time"));
                break false;
            }
            None => {}
        }
    };
    Handle::current().kill(node.id());
    ended
}

fn end_process(world: &World, disk: &SimDisk, how: Crash) {
    world.record("crash", &[how as u64], || format!("{how:?}"));
    scheduler::kill_all();
    match how {
        Crash::Ended => disk.kill(),
        Crash::Killed => {
            world.count("kills");
            disk.kill();
            if world.dice("memory pressure").chance(0.3) {
                disk.drop_caches();
            }
        }
        Crash::PowerLoss => {
            world.count("power losses");
            disk.power_loss();
        }
    }
}
