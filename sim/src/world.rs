//! What all parts of one run share: the seed and its random streams, virtual time, the trace,
//! counters, and the first violation.

use crate::{
    aim::{Aim, Near, PAUSES_MAX},
    decisions::{Act, Aimed, Decisions, Interference, Order},
    scheduler::{self, Known},
    trace::{Line, Trace},
};
use lightning_faults::{Damage, Dice, Full, site_hash};
use madsim::time::{Sleep, TimeHandle};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// A promise that was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which one: `I-1` to `I-15` of the architecture, or a word such as `panic` or `hang`.
    pub invariant: &'static str,
    /// What was seen.
    pub message: String,
}

/// Faults that make operations fail with EIO.
pub(crate) const EIO: [&str; 5] =
    ["EIO on read", "EIO on write", "EIO in a write", "EIO on sync", BAD_PLACE];
/// Faults that make operations fail with ENOSPC.
pub(crate) const NO_SPACE: [&str; 3] = ["ENOSPC at random", "ENOSPC on sync", "disk full"];

/// A place was read that a latent error has made unreadable for good.
pub(crate) const BAD_PLACE: &str = "EIO at a bad place";
/// Faults that destroy the only copy.
pub(crate) const DAMAGE: [&str; 5] =
    ["bit rot", "latent error", "misdirected write", "lost write", "stale block"];

/// What is done with a number that the engine tells.
pub(crate) type Listener = Arc<dyn Fn(u64) + Send + Sync>;

/// A task hears what the engine tells, until this is dropped.
pub(crate) struct Listening {
    world: Arc<World>,
    task: Option<usize>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.world.listeners.lock().remove(&task);
        }
    }
}

/// How the run interferes with the engine's threads.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheduling {
    /// Who goes on.
    pub order: Order,
    /// A task is preempted at a lock or a scheduling point with this probability.
    pub preempt: f64,
    /// A buggify site is enabled in this run with this probability.
    pub buggify_site: f64,
    /// An enabled buggify site answers yes with this probability.
    pub buggify: f64,
    /// What the run looks at closely.
    pub aim: Aim,
}

impl Scheduling {
    /// Draws it for a seed.
    pub fn draw(seed: u64) -> Scheduling {
        let dice = &mut Dice::new(seed, "scheduling", 0);
        let order = dice.pick(&[Order::Uniform, Order::Uniform, Order::Priorities]);
        Scheduling {
            order,
            preempt: match order {
                Order::Uniform => dice.pick(&[0.0, 0.005, 0.02, 0.1, 0.3]),
                // Few: each is a change of priorities for good.
                Order::Priorities => dice.pick(&[0.0, 0.0002, 0.001, 0.005, 0.02]),
            },
            buggify_site: dice.pick(&[0.0, 0.25, 0.5]),
            buggify: dice.pick(&[0.02, 0.1, 0.3]),
            aim: Aim::default(),
        }
    }
}

/// One run of a seed.
pub struct World {
    seed: u64,
    time: TimeHandle,
    scheduling: Scheduling,
    trace: Mutex<Trace>,
    /// What belongs to the boot that runs.
    boot: Mutex<InBoot>,
    recorded: Mutex<Vec<Interference>>,
    /// The number that the engine told last, for each task.
    told: Mutex<BTreeMap<usize, u64>>,
    /// Who is to hear at once what the engine tells at a site, for each task.
    listeners: Mutex<BTreeMap<usize, (&'static str, Listener)>>,
    counters: Mutex<BTreeMap<&'static str, u64>>,
    /// How often each mark was reached.
    marks: Mutex<BTreeMap<&'static str, u64>>,
    /// When each kind of fault struck last.
    last_faults: Mutex<BTreeMap<&'static str, Duration>>,
    violation: Mutex<Option<Violation>>,
    violated: AtomicBool,
    faults_on: AtomicBool,
    ios: AtomicU64,
    /// Events that only work brings about: a background thread that looks around in vain has none.
    progress: AtomicU64,
    crash_at_io: AtomicU64,
}

/// What belongs to one boot.
struct InBoot {
    /// Names its random streams.
    stream: u64,
    /// How often each site drew, by the hash of its name.
    draws: BTreeMap<u64, u64>,
    decisions: Decisions,
    /// The scheduling point that each task passed last, if it matters: where an operation of the disk
    /// begins, it is named like that.
    doing: BTreeMap<u64, &'static str>,
    /// When the disk is full besides, in virtual time.
    full: Option<Full>,
    /// Where it crashes, until it is passed, and how often that was.
    near: Option<(Near, u64)>,
}

impl InBoot {
    fn new(seed: u64, stream: u64, listed: Option<&Interference>) -> InBoot {
        let decisions = Decisions::new(seed, stream, listed);
        InBoot {
            stream,
            draws: BTreeMap::new(),
            decisions,
            doing: BTreeMap::new(),
            full: None,
            near: None,
        }
    }

    /// A place is passed. After how many more I/O operations the process crashes, if that is why.
    #[inline]
    fn passes(&mut self, place: &str) -> Option<u64> {
        let (near, passed) = self.near.as_mut().filter(|(near, _)| near.site == place)?;
        *passed += 1;
        let ios = near.ios;
        (*passed > near.pass).then(|| self.near = None).map(|()| ios)
    }
}

impl World {
    pub(crate) fn new(seed: u64, scheduling: Scheduling, keep_lines: Option<usize>) -> Arc<World> {
        Arc::new(World {
            seed,
            time: TimeHandle::current(),
            scheduling,
            trace: Mutex::new(Trace::new(keep_lines)),
            boot: Mutex::new(InBoot::new(seed, 0, None)),
            recorded: Mutex::default(),
            told: Mutex::default(),
            listeners: Mutex::default(),
            counters: Mutex::default(),
            marks: Mutex::default(),
            last_faults: Mutex::default(),
            violation: Mutex::default(),
            violated: AtomicBool::new(false),
            faults_on: AtomicBool::new(true),
            ios: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            crash_at_io: AtomicU64::new(u64::MAX),
        })
    }

    /// The seed of the run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Virtual time since the run began.
    pub fn now(&self) -> Duration {
        self.time.elapsed()
    }

    /// A future that is ready at `deadline`. Not rounded to milliseconds as madsim's own
    /// `sleep` is: only [`Sleep::reset`] keeps the nanoseconds.
    pub(crate) fn until(&self, deadline: Duration) -> Pin<Box<Sleep>> {
        let mut sleep = Box::pin(self.time.sleep(Duration::ZERO));
        let wait = deadline.saturating_sub(self.now());
        sleep.as_mut().reset(self.time.now_instant() + wait);
        sleep
    }

    /// A process begins. What it draws, it draws from streams of this name; what interferes with it
    /// is drawn too, unless there is a list.
    pub(crate) fn begin_boot(&self, stream: u64, listed: Option<&Interference>) {
        *self.boot.lock() = InBoot::new(self.seed, stream, listed);
        let key = self.dice("ranks").u64();
        scheduler::begin_process(self.scheduling.order, key);
    }

    /// A process has ended, and with it what interfered with it.
    pub(crate) fn end_boot(&self) {
        let recorded = std::mem::take(&mut self.boot.lock().decisions.recorded);
        self.recorded.lock().push(recorded);
    }

    /// What interfered with each boot.
    pub(crate) fn take_recorded(&self) -> Vec<Interference> {
        std::mem::take(&mut self.recorded.lock())
    }

    /// The random stream of the next event at `site` of this boot.
    pub fn dice(&self, site: &str) -> Dice {
        let hash = site_hash(site);
        let boot = &mut *self.boot.lock();
        let count = boot.draws.entry(hash).or_insert(0);
        *count += 1;
        let hash = hash ^ boot.stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Dice::of_hash(self.seed, hash, *count - 1)
    }

    /// Whether and how the calling task is to be preempted now at `site`.
    pub(crate) fn preemption(&self, site: &'static str, task: &Known) -> Option<Act> {
        let Scheduling { preempt, order, aim, .. } = &self.scheduling;
        let aimed = aim.pause.as_ref().filter(|pause| pause.site == site);
        let aimed =
            aimed.map(|pause| (Aimed { rate: pause.rate, most: PAUSES_MAX }, pause.longest));
        let boot = &mut *self.boot.lock();
        self.crash_behind(boot.passes(site));
        if aim.fault.as_ref().is_some_and(|fault| fault.operation.is_some()) {
            boot.doing.insert(task.hash, site);
        }
        boot.decisions.preempts(site, (&task.name, task.hash), *preempt, *order, aimed)
    }

    /// Whether a fault of this kind is to strike now, and the dice of what it does. Whether it finds
    /// something to do it to is for the caller to see, who then tells of it with [`World::fault`].
    pub(crate) fn struck(&self, kind: &'static str, rate: f64) -> Option<Dice> {
        self.strikes_with(kind, rate, None)
    }

    fn strikes_with(&self, kind: &'static str, rate: f64, aimed: Option<Aimed>) -> Option<Dice> {
        if !self.faults_on() {
            return None;
        }
        let boot = &mut *self.boot.lock();
        let pass = boot.decisions.struck(kind, rate, aimed)?;
        // Of the pass, not of how many struck before: one left out does not move the others.
        let hash = site_hash(kind) ^ boot.stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some(Dice::of_hash(self.seed, hash, pass))
    }

    /// The same of what destroys the only copy in a file.
    pub(crate) fn struck_file(
        &self,
        kind: &'static str,
        rate: f64,
        damage: &Damage,
        name: impl FnOnce() -> Option<String>,
    ) -> Option<Dice> {
        if rate <= 0.0 || damage.files.is_none() {
            return self.struck(kind, rate);
        }
        let comes = damage.comes_to(&name().unwrap_or_default());
        // A file that is spared counts all the same.
        let spared = Some(Aimed { rate: 0.0, most: 0 });
        self.strikes_with(kind, if comes { rate } else { 0.0 }, spared)
    }

    /// Whether a fault of this kind strikes now.
    pub(crate) fn strikes(&self, kind: &'static str, rate: f64) -> bool {
        let aimed = self.scheduling.aim.fault.as_ref().filter(|fault| fault.site == kind);
        let aimed = aimed.map(|fault| {
            let task = scheduler::current();
            let meant = task.is_some_and(|task| {
                let doing = || self.boot.lock().doing.get(&task.hash).copied();
                task.name.starts_with(fault.task)
                    && (fault.operation.is_none() || fault.operation == doing())
            });
            Aimed { rate: if meant { fault.rate } else { 0.0 }, most: fault.most }
        });
        let strikes = self.faults_on() && self.boot.lock().decisions.strikes(kind, rate, aimed);
        if strikes {
            self.fault(kind);
        }
        strikes
    }

    pub(crate) fn buggify(&self, site: &'static str) -> bool {
        let enabled = Dice::new(self.seed, site, u64::MAX).chance(self.scheduling.buggify_site);
        let rate = if enabled { self.scheduling.buggify } else { 0.0 };
        self.faults_on() && self.boot.lock().decisions.strikes(site, rate, None)
    }

    pub(crate) fn tell(&self, task: usize, site: &'static str, number: u64) {
        self.told.lock().insert(task, number);
        let listener = self.listeners.lock().get(&task).cloned();
        if let Some((of, listener)) = listener
            && of == site
        {
            listener(number);
        }
    }

    /// Hears what the engine tells of the calling task at a site, for as long as what is returned is kept.
    pub(crate) fn listen(self: &Arc<Self>, site: &'static str, listener: Listener) -> Listening {
        let task = scheduler::current_slot();
        let mut listeners = self.listeners.lock();
        task.into_iter().for_each(|task| _ = listeners.insert(task, (site, listener.clone())));
        Listening { world: Arc::clone(self), task }
    }

    /// The number that the engine told about what the calling task did since this was last asked.
    pub(crate) fn take_told(&self) -> Option<u64> {
        self.told.lock().remove(&scheduler::current_slot()?)
    }

    /// Whether faults are injected now.
    pub fn faults_on(&self) -> bool {
        self.faults_on.load(Relaxed)
    }

    pub(crate) fn set_faults(&self, on: bool) {
        self.faults_on.store(on, Relaxed);
    }

    /// Records an event of the calling task.
    pub fn record(&self, what: &str, words: &[u64], text: impl FnOnce() -> String) {
        if what != "preempted" && what != "notify" {
            self.progress.fetch_add(1, Relaxed);
        }
        let task = scheduler::current();
        self.trace.lock().record(self.now(), task.as_ref(), what, words, text);
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.trace.lock().hash()
    }

    pub(crate) fn take_lines(&self) -> Vec<Line> {
        self.trace.lock().take_lines()
    }

    /// Counts something that happened, under a name that the summary prints.
    pub fn count(&self, what: &'static str) {
        self.count_by(what, 1);
    }

    /// Counts something that happened several times.
    pub fn count_by(&self, what: &'static str, n: u64) {
        *self.counters.lock().entry(what).or_insert(0) += n;
    }

    /// A mark was reached.
    pub(crate) fn mark(&self, mark: &'static str) {
        self.crash_behind(self.boot.lock().passes(mark));
        *self.marks.lock().entry(mark).or_insert(0) += 1;
    }

    /// How often a mark was reached in this run.
    pub(crate) fn marked(&self, mark: &str) -> u64 {
        self.marks.lock().get(mark).copied().unwrap_or(0)
    }

    pub(crate) fn take_marks(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.marks.lock())
    }

    /// How often something was counted.
    pub fn counted(&self, what: &'static str) -> u64 {
        self.counters.lock().get(what).copied().unwrap_or(0)
    }

    pub(crate) fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.counters.lock().clone()
    }

    /// Records an injected fault.
    pub(crate) fn fault(&self, kind: &'static str) {
        self.count(kind);
        self.crash_behind(self.boot.lock().passes(kind));
        self.last_faults.lock().insert(kind, self.now());
        self.record("FAULT", &[site_hash(kind)], || kind.into());
    }

    /// When a kind of fault struck last.
    pub(crate) fn last_fault(&self, kind: &str) -> Option<Duration> {
        self.last_faults.lock().get(kind).copied()
    }

    /// Whether an operation was made to fail since a moment, or may have failed because of damage: that
    /// stays.
    pub(crate) fn had_errors_since(&self, moment: Duration) -> bool {
        let kinds = EIO.iter().chain(&NO_SPACE);
        self.is_damaged() || kinds.filter_map(|kind| self.last_fault(kind)).any(|at| at >= moment)
    }

    /// Whether something destroyed the only copy of what was durable, at any time in this run.
    pub(crate) fn is_damaged(&self) -> bool {
        DAMAGE.iter().any(|kind| self.counted(kind) > 0)
    }

    /// Reports a broken promise and so ends the run. Only the first one counts: what follows
    /// may be its consequence.
    pub fn violate(&self, invariant: &'static str, message: String) {
        let mut violation = self.violation.lock();
        if violation.is_none() {
            self.record("VIOLATION", &[], || format!("{invariant}: {message}"));
            *violation = Some(Violation { invariant, message });
        }
        self.violated.store(true, Relaxed);
    }

    /// The first violation.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.lock().clone()
    }

    /// Counts an I/O operation.
    pub(crate) fn io_begins(&self) {
        self.ios.fetch_add(1, Relaxed);
    }

    pub(crate) fn ios(&self) -> u64 {
        self.ios.load(Relaxed)
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }

    pub(crate) fn crash_at_io(&self, io: u64) {
        self.crash_at_io.store(io, Relaxed);
    }

    /// The process is to crash behind the operation that runs and so many others, if not before.
    fn crash_behind(&self, ios: Option<u64>) {
        if let Some(ios) = ios {
            self.crash_at_io.fetch_min(self.ios() + ios, Relaxed);
        }
    }

    /// When the disk is full besides, counted from now.
    pub(crate) fn set_full(&self, full: Option<Full>) {
        let now = self.now();
        self.boot.lock().full = full.map(|full| Full { begins: now + full.begins, ..full });
    }

    /// How the disk is full in this boot, besides what its plan says.
    pub(crate) fn full(&self) -> Option<Full> {
        self.boot.lock().full
    }

    /// The process that begins is to crash near a place.
    pub(crate) fn crash_near(&self, near: Option<Near>) {
        self.boot.lock().near = near.map(|near| (near, 0));
    }

    /// In which I/O operation of the run the process crashed, if it has.
    pub(crate) fn crashed_at_io(&self) -> Option<u64> {
        self.crash_is_due().then(|| self.crash_at_io.load(Relaxed))
    }

    /// Whether the operation has begun that the process is to crash in.
    pub(crate) fn crash_is_due(&self) -> bool {
        self.ios() > self.crash_at_io.load(Relaxed)
    }

    /// Whether nothing more is to happen in this process.
    pub(crate) fn process_is_over(&self) -> bool {
        self.crash_is_due() || self.violated.load(Relaxed)
    }

    /// Lets a little time pass.
    pub(crate) fn pass(&self, nanos: u64) {
        self.time.advance(Duration::from_nanos(nanos));
    }
}
