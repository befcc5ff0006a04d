//! One run: a program on a simulated machine that crashes, boots and crashes again.

use crate::{
    aim::{Aim, Near},
    decisions::Interference,
    disk::SimDisk,
    env::SimEnv,
    scheduler,
    trace::Line,
    world::{DAMAGE, Scheduling, Violation, World},
};
use lightning_faults::{Dice, FaultClass, FaultPlan, Full};
use madsim::runtime::Runtime;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};

/// Virtual time without any I/O or workload event after which a process is taken to hang. The
/// longest stall of a disk and the longest pause of a client are far below.
const HANG: Duration = Duration::from_secs(20);

/// What kind of crash ended a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crash {
    /// None: the program ended by itself.
    Ended,
    /// The process was killed; the page cache stays.
    Killed,
    /// The machine lost power; only what was durable stays, and part of the rest.
    PowerLoss,
}

/// When a boot ends if the program does not end before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// During this I/O operation, counted from the boot.
    AtIo(u64),
    /// After this time.
    AfterNanos(u64),
    /// Never.
    Never,
}

/// One boot, and how it ends.
#[derive(Debug, Clone)]
pub struct BootPlan {
    /// The name of its random streams.
    pub stream: u64,
    /// How it ends, if its program does not end before.
    pub crash: Option<(When, Crash)>,
    /// If it passes this place, it ends there instead, unless it has ended before.
    pub near: Option<Near>,
    /// When the disk is full besides, counted from the beginning of the boot.
    pub full: Option<Full>,
    /// Nothing fails in it.
    pub calm: bool,
    /// What interferes with it. `None`: what is drawn.
    pub interference: Option<Arc<Interference>>,
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
    /// One after another.
    pub boots: Vec<BootPlan>,
    /// How many lines of the trace are kept.
    pub keep_lines: Option<usize>,
}

impl Plan {
    /// The plan of a seed: some boots that crash, and one in which nothing fails.
    pub fn draw(seed: u64) -> Plan {
        let dice = &mut Dice::new(seed, "crashes", 0);
        let mut crashes = if dice.chance(0.1) { 0 } else { 1 + dice.skewed(0..14) };
        let mut faults = FaultPlan::draw(seed);
        let mut scheduling = Scheduling::draw(seed);
        let quiet = FaultPlan { map_refused: faults.map_refused, ..FaultPlan::none() };
        scheduling.aim = Aim::draw(seed, faults != quiet);
        scheduling.aim.arm(&mut faults, dice);
        if scheduling.aim.full.is_some() {
            crashes += 3;
        }
        if scheduling.preempt <= 0.0 {
            scheduling.aim.pause = None;
        }
        let boot = |stream, crash: Option<(When, Crash)>, near, full| BootPlan {
            stream,
            crash,
            near,
            full,
            calm: crash.is_none(),
            interference: None,
        };
        let crashing = (0..crashes).map(|n| {
            let near = scheduling.aim.near(dice);
            let full = scheduling.aim.full(n, dice);
            let (mut when, how) = draw_crash(dice, near.is_some());
            let segments = scheduling.aim.damaged == Some("wal-");
            if scheduling.aim.full == Some(n) || segments && near.is_none() {
                // Clients are to write on for a while.
                when = When::AtIo(dice.range(100..2000));
            }
            if scheduling.aim.intervals {
                when = When::AfterNanos(dice.skewed(25_000_000..400_000_000));
            }
            boot(n, Some((when, how)), near, full)
        });
        let boots = crashing.chain([boot(crashes, None, None, None)]).collect();
        Plan { seed, faults, boots, scheduling: scheduling.clone(), keep_lines: None }
    }

    /// Takes a class of faults out of the run. The others strike as often as before.
    pub fn switch_off(&mut self, class: FaultClass) {
        self.faults.switch_off(class);
        self.scheduling.aim.switch_off(class);
        if class == FaultClass::Full {
            self.boots.iter_mut().for_each(|boot| boot.full = None);
        }
    }

    /// Preempts nothing any more.
    pub fn switch_preemption_off(&mut self) {
        self.scheduling.preempt = 0.0;
        self.scheduling.aim.pause = None;
    }
}

impl Plan {
    /// Whether something may destroy the only copy of what is durable.
    pub(crate) fn may_damage(&self) -> bool {
        let listed = self.boots.iter().filter_map(|boot| boot.interference.as_ref());
        let mut strikes = listed.flat_map(|list| &list.strikes);
        self.faults.damage != FaultPlan::none().damage
            || strikes.any(|strike| DAMAGE.contains(&strike.site.name()))
    }
}

fn draw_crash(dice: &mut Dice, near: bool) -> (When, Crash) {
    let when = match (near, dice.below(10)) {
        // It gets the time to come near. No timer stands for what is written down as an operation.
        (true, 0..=3) => When::AtIo(dice.skewed(500..8000)),
        (true, _) => When::Never,
        // Small numbers are frequent: they meet creation and recovery.
        (false, 0..=5) => When::AtIo(dice.skewed(0..2000)),
        (false, 6..=8) => When::AfterNanos(dice.skewed(1_000..1_000_000_000)),
        (false, _) => When::Never,
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
    /// The name of its random streams.
    pub stream: u64,
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
        let site = format!("boot {}: {site}", self.stream);
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
    /// How often each mark of the engine was reached.
    pub marks: BTreeMap<&'static str, u64>,
    /// The newest lines of the trace, if the plan asked for them.
    pub lines: Vec<Line>,
    /// What interfered with each boot.
    pub interference: Vec<Interference>,
    /// How many I/O operations each boot had.
    pub boot_ios: Vec<u64>,
    /// In which of them each boot crashed, if it was in one.
    pub crash_ios: Vec<Option<u64>>,
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
    let (mut boot_ios, mut crash_ios) = (vec![], vec![]);
    for (number, plan) in plan.boots.iter().enumerate() {
        world.set_faults(!plan.calm);
        world.begin_boot(plan.stream, plan.interference.as_deref());
        let (began, first_io) = (world.now(), world.ios());
        let boot = Boot {
            env: SimEnv::new(world.clone(), disk.clone()),
            number,
            stream: plan.stream,
            last: plan.calm,
            after,
            after_crash,
            began,
        };
        world.record("boot", &[number as u64], || format!("number {number} after {after:?}"));
        world.count("boots");
        let (when, how) = plan.crash.unwrap_or((When::Never, Crash::Ended));
        world.crash_near(plan.near);
        world.set_full(plan.full);
        let program = program.clone();
        let ended = run_boot(&world, when, Box::new(move || program(boot))).await;
        boot_ios.push(world.ios() - first_io);
        let crashed_at = world.crashed_at_io().filter(|_| !ended);
        crash_ios.push(crashed_at.map(|io| io.saturating_sub(first_io)));
        if world.violation().is_none() {
            after = if ended { Crash::Ended } else { how };
            let had_errors = world.had_errors_since(began);
            after_crash = Some(Ending { at: world.now(), had_errors });
            end_process(&world, &disk, after);
        }
        // What the disk does to what is left belongs to the boot too.
        world.end_boot();
        if world.violation().is_some() {
            break;
        }
    }
    let outcome = Outcome {
        seed: plan.seed,
        trace_hash: world.trace_hash(),
        violation: world.violation(),
        counters: world.counters(),
        marks: world.take_marks(),
        lines: world.take_lines(),
        interference: world.take_recorded(),
        boot_ios,
        crash_ios,
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
        When::AfterNanos(nanos) => (u64::MAX, Some(world.now() + Duration::from_nanos(nanos))),
        When::Never => (u64::MAX, None),
    };
    world.crash_at_io(crash_at_io);
    let main = scheduler::spawn("main", main);
    loop {
        let progress = world.progress();
        let look_again = deadline.unwrap_or(Duration::MAX).min(world.now() + HANG);
        let mut timer = world.until(look_again);
        let ended = poll_fn(|cx| {
            scheduler::run_ready(world, cx.waker());
            let ended = !scheduler::is_alive(main);
            if ended || world.process_is_over() {
                return Poll::Ready(Some(ended));
            }
            timer.as_mut().poll(cx).map(|()| None)
        });
        match ended.await {
            Some(ended) => return ended,
            None if deadline.is_some_and(|deadline| world.now() >= deadline) => return false,
            None if world.progress() == progress => {
                world.violate("hang", format!("nothing happened for {HANG:?} of virtual time"));
                return false;
            }
            None => {}
        }
    }
}

fn end_process(world: &World, disk: &SimDisk, how: Crash) {
    world.record("crash", &[how as u64], || format!("{how:?}"));
    scheduler::kill_all();
    match how {
        Crash::Ended => {
            disk.kill();
            disk.ended();
        }
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
