//! Engine threads as coroutines.
//!
//! Each simulated thread ("task") is a stack of its own on this OS thread. Whoever would block
//! suspends its stack with [`block_on`], the only suspension primitive; [`run_ready`] picks who
//! goes on, by ranks that are drawn for each task from a stream of its own, and madsim's virtual
//! clock wakes those who wait for time. A crash unwinds all stacks ([`kill_all`]), so that nothing
//! leaks and destructors run; while that happens [`dying`] is true and nothing suspends any more.
//!
//! State is per OS thread, so that seeds run in parallel without knowing of each other.

use crate::{
    decisions::{Act, Order},
    world::World,
};
use corosensei::{Coroutine, CoroutineResult, Yielder, stack::DefaultStack};
use lightning_faults::site_hash;
use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

/// Stack of one engine thread. Address space only: pages come at their first use.
const STACK_BYTES: usize = 1 << 20;

/// Passes of scheduling points without waiting after which a task is taken to spin. It could
/// spin for ever: virtual time stands still meanwhile.
const SPIN_LIMIT: u32 = 1_000_000;

type Thread = Coroutine<(), (), (), DefaultStack>;

/// What a task is known by. The name is unique among the tasks of a boot.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    id: u64,
    slot: usize,
    pub(crate) name: Arc<str>,
    pub(crate) hash: u64,
}

/// The task whose stack is current.
struct Running {
    known: Known,
    waker: Waker,
    /// Null until the coroutine has begun.
    yielder: *const Yielder<(), ()>,
}

/// A task that is not running: suspended, or not yet begun.
struct Suspended {
    known: Known,
    waker: Waker,
    thread: Thread,
    yielder: *const Yielder<(), ()>,
}

#[derive(Default)]
struct Tasks {
    world: Option<Arc<World>>,
    next_id: u64,
    suspended: BTreeMap<u64, Suspended>,
    /// How many tasks of each name this boot has had.
    names: BTreeMap<String, u64>,
    /// Slots free to be given out again, and the next one never given out.
    free_slots: Vec<usize>,
    next_slot: usize,
    /// Who waits for a lock, by the lock's address. Never iterated: addresses differ from run
    /// to run.
    parked: BTreeMap<usize, Vec<Waker>>,
    stacks: Vec<DefaultStack>,
}

/// Tasks that can go on.
#[derive(Default)]
struct Ready {
    order: Order,
    /// Keeps the ranks of one boot apart from those of another.
    key: u64,
    /// By rank: the first goes on first.
    queue: BTreeSet<(u64, u64)>,
    tasks: BTreeMap<u64, Rank>,
    /// How many tasks were demoted.
    demoted: u64,
    /// Wakes who calls `run_ready`.
    driver: Option<Waker>,
}

/// What a task's rank is drawn from.
struct Rank {
    name: u64,
    wakes: u64,
    /// Under [`Order::Priorities`]: its rank.
    fixed: u64,
}

/// Where ranks end that are drawn; those of demoted tasks come behind.
const DRAWN_RANKS: u64 = 1 << 62;

fn mixed(a: u64, b: u64) -> u64 {
    // The finish of splitmix64: every bit of the input changes half of the output.
    let mut z = (a ^ b.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Ready {
    fn add(&mut self, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return; // it has ended
        };
        task.wakes += 1;
        let rank = match self.order {
            Order::Uniform => mixed(mixed(self.key, task.name), task.wakes) % DRAWN_RANKS,
            Order::Priorities => task.fixed,
        };
        if !self.queue.iter().any(|(_, queued)| *queued == id) {
            self.queue.insert((rank, id));
        }
    }

    fn begin(&mut self, id: u64, name: u64) {
        let fixed = mixed(self.key, name) % DRAWN_RANKS;
        self.tasks.insert(id, Rank { name, wakes: 0, fixed });
        self.add(id);
    }

    /// A task falls behind all others.
    fn demote(&mut self, id: u64) {
        self.demoted += 1;
        if let Some(task) = self.tasks.get_mut(&id) {
            task.fixed = DRAWN_RANKS + self.demoted;
        }
    }

    /// Whether another task goes before this one.
    fn is_behind(&self, id: u64) -> bool {
        let first = self.queue.first();
        let own = self.tasks.get(&id).map_or(0, |task| task.fixed);
        self.order == Order::Priorities && first.is_some_and(|(rank, _)| *rank < own)
    }
}

/// Wakes one task.
struct TaskWaker(u64);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        // A destructor of this OS thread's own locals may come too late for the list.
        let _ = READY.try_with(|ready| {
            let ready = &mut *ready.borrow_mut();
            ready.add(self.0);
            if let Some(driver) = &ready.driver {
                driver.wake_by_ref();
            }
        });
    }
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
    static TASKS: RefCell<Tasks> = RefCell::default();
    static READY: RefCell<Ready> = RefCell::default();
    static DYING: Cell<bool> = const { Cell::new(false) };
    static SPINS: Cell<u32> = const { Cell::new(0) };
    /// What the panic hook learned of the panic now unwinding.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes this OS thread simulate `world`, with no tasks.
pub(crate) fn enter(world: Arc<World>) {
    install_hooks();
    TASKS.with_borrow_mut(|tasks| {
        assert!(tasks.suspended.is_empty(), "the last run left tasks behind");
        *tasks = Tasks {
            world: Some(world),
            stacks: std::mem::take(&mut tasks.stacks),
            ..Tasks::default()
        };
    });
    READY.set(Ready::default());
}

/// A process begins. `key` names its ranks.
pub(crate) fn begin_process(order: Order, key: u64) {
    TASKS.with_borrow_mut(|tasks| tasks.names.clear());
    READY.set(Ready { order, key, ..Ready::default() });
}

/// Ends what [`enter`] began.
pub(crate) fn leave() {
    TASKS.with_borrow_mut(|tasks| tasks.world = None);
    READY.set(Ready::default());
}

/// True while a crash unwinds stacks.
pub(crate) fn dying() -> bool {
    DYING.get()
}

/// Whether the caller is a task that may suspend.
pub(crate) fn can_suspend() -> bool {
    !dying() && RUNNING.with_borrow(Option::is_some)
}

/// The slot of the running task.
pub(crate) fn current_slot() -> Option<usize> {
    RUNNING.with_borrow(|running| running.as_ref().map(|r| r.known.slot))
}

/// The running task.
pub(crate) fn current() -> Option<Known> {
    RUNNING.with_borrow(|running| running.as_ref().map(|r| r.known.clone()))
}

/// Blocks the running task until `future` is ready.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let (waker, yielder) = RUNNING.with_borrow(|running| {
            let running = running.as_ref().expect("only a simulated task can block");
            (running.waker.clone(), running.yielder)
        });
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        suspend(yielder);
    }
}

#[expect(unsafe_code, reason = "the yielder lives on the coroutine's stack")]
fn suspend(yielder: *const Yielder<(), ()>) {
    // SAFETY: the pointer was taken from the reference that the coroutine's body got, which
    // is valid until the body returns; we are called by that body (RUNNING names the
    // coroutine whose stack is current), so it has not returned.
    unsafe { &*yielder }.suspend(());
}

/// Lets every other ready task run first.
struct Yield(bool);

impl Future for Yield {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match std::mem::replace(&mut self.0, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Lets tasks run until none is ready or the process is to end. `driver` is woken when there is
/// more to do.
pub(crate) fn run_ready(world: &World, driver: &Waker) {
    READY.with_borrow_mut(|ready| ready.driver = Some(driver.clone()));
    while !world.process_is_over() {
        let Some((rank, id)) = READY.with_borrow_mut(|ready| ready.queue.pop_first()) else {
            return;
        };
        resume(id);
        // Doing takes time, if little: whoever looks at the clock again and again comes to an end.
        world.pass(50 + rank % 50);
    }
}

/// Whether a task has not ended.
pub(crate) fn is_alive(id: u64) -> bool {
    TASKS.with_borrow(|tasks| tasks.suspended.contains_key(&id))
}

/// Runs a task until it suspends or ends.
fn resume(id: u64) {
    let Some(mut task) = TASKS.with_borrow_mut(|tasks| tasks.suspended.remove(&id)) else {
        return; // it has ended
    };
    let outer = RUNNING.replace(Some(Running {
        known: task.known.clone(),
        waker: task.waker.clone(),
        yielder: task.yielder,
    }));
    SPINS.set(0);
    let result = task.thread.resume(());
    let running = RUNNING.replace(outer).expect("set above");
    match result {
        CoroutineResult::Yield(()) => {
            task.yielder = running.yielder;
            TASKS.with_borrow_mut(|tasks| tasks.suspended.insert(id, task));
        }
        CoroutineResult::Return(()) => retire(task),
    }
}

/// Gives the stack and the slot of an ended task back.
fn retire(task: Suspended) {
    READY.with_borrow_mut(|ready| ready.tasks.remove(&task.known.id));
    TASKS.with_borrow_mut(|tasks| {
        tasks.free_slots.push(task.known.slot);
        tasks.stacks.push(task.thread.into_stack());
    });
}

/// Creates a task. It begins in [`run_ready`]. Returns its id.
pub(crate) fn spawn(name: &str, body: Box<dyn FnOnce() + Send>) -> u64 {
    let known = TASKS.with_borrow_mut(|tasks| {
        let stack = tasks
            .stacks
            .pop()
            .unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a stack"));
        let slot = tasks.free_slots.pop().unwrap_or_else(|| {
            tasks.next_slot += 1;
            tasks.next_slot - 1
        });
        let id = tasks.next_id;
        tasks.next_id += 1;
        let thread = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            RUNNING.with_borrow_mut(|running| {
                running.as_mut().expect("resumed").yielder = std::ptr::from_ref(yielder);
            });
            run_body(body);
        });
        let before = tasks.names.entry(name.into()).or_insert(0);
        *before += 1;
        let name: Arc<str> = match *before {
            1 => name.into(),
            n => format!("{name} #{n}").into(),
        };
        let known = Known { id, slot, hash: site_hash(&name), name };
        let waker = Waker::from(Arc::new(TaskWaker(id)));
        let yielder = std::ptr::null();
        let task = Suspended { known: known.clone(), waker, thread, yielder };
        tasks.suspended.insert(id, task);
        known
    });
    READY.with_borrow_mut(|ready| {
        ready.begin(known.id, known.hash);
        if let Some(driver) = &ready.driver {
            driver.wake_by_ref();
        }
    });
    known.id
}

/// Runs a task's body. A panic is a violation of the run; an unwinding crash passes through.
fn run_body(body: Box<dyn FnOnce() + Send>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(body)) {
        if dying() {
            resume_unwind(payload);
        }
        report_panic(payload.as_ref());
    }
}

fn report_panic(payload: &(dyn Any + Send)) {
    let told = PANIC.take();
    let message = told.unwrap_or_else(|| match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_string(),
        None => "a panic without a message".into(),
    });
    if let Some(world) = world() {
        world.violate("panic", message);
    }
}

fn world() -> Option<Arc<World>> {
    TASKS.with_borrow(|tasks| tasks.world.clone())
}

/// Crashes the process: unwinds every task, in an order drawn from the seed.
pub(crate) fn kill_all() {
    let Some(world) = world() else { return };
    let order = TASKS.with_borrow(|tasks| {
        let ids: Vec<u64> = tasks.suspended.keys().copied().collect();
        let order = world.dice("kill").shuffled(ids.len());
        order.into_iter().map(|n| ids[n]).collect::<Vec<_>>()
    });
    for id in order {
        unwind(id);
    }
    while unwind_any() {}
    TASKS.with_borrow_mut(|tasks| tasks.parked.clear());
    READY.with_borrow_mut(|ready| ready.queue.clear());
}

/// Ends a run whose engine has panicked: its data may be inconsistent, so that unwinding it
/// might panic again and abort. The stacks are leaked instead.
pub(crate) fn leak_all() {
    let tasks = TASKS.with_borrow_mut(|tasks| std::mem::take(&mut tasks.suspended));
    for task in tasks.into_values() {
        std::mem::forget(task);
    }
}

fn unwind_any() -> bool {
    let first = TASKS.with_borrow(|tasks| tasks.suspended.keys().next().copied());
    first.inspect(|id| unwind(*id)).is_some()
}

fn unwind(id: u64) {
    let Some(mut task) = TASKS.with_borrow_mut(|tasks| tasks.suspended.remove(&id)) else {
        return; // already unwound, by a task that waited for its lock
    };
    // The waker is never used: nothing suspends while dying.
    let outer_task = RUNNING.replace(Some(Running {
        known: task.known.clone(),
        waker: Waker::noop().clone(),
        yielder: task.yielder,
    }));
    let outer_dying = DYING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(|| task.thread.force_unwind()));
    DYING.set(outer_dying);
    RUNNING.set(outer_task);
    match result {
        Ok(()) => retire(task),
        Err(payload) => {
            report_panic(payload.as_ref());
            std::mem::forget(task);
        }
    }
}

/// Sends the engine's locks and scheduling points, and panics of simulated tasks, here.
fn install_hooks() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        lightning_db::sync::install_hooks(lightning_db::sync::Hooks {
            point: |site, number| {
                tell(site, number);
                point(site);
            },
            sometimes: |mark| {
                if let Some(world) = world() {
                    world.mark(mark);
                }
            },
            park,
            unpark,
        });
        let outside = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let Some(world) = world().filter(|_| RUNNING.with_borrow(Option::is_some)) else {
                return outside(info);
            };
            let trace = std::backtrace::Backtrace::force_capture().to_string();
            let message = format!("{info}\n{}", interesting_frames(&trace));
            if dying() {
                // If a destructor panics here, the process aborts before anyone can tell.
                eprintln!("seed {}: while a crash unwound: {message}", world.seed());
            }
            PANIC.set(Some(message));
        }));
    });
}

/// The frames of a backtrace that lie in the engine or in this crate's workloads.
fn interesting_frames(backtrace: &str) -> String {
    let lines: Vec<&str> = backtrace.lines().collect();
    let of_engine = |frame: &str| {
        (frame.contains("lightning_db::") || frame.contains("lightning_sim::"))
            && !frame.contains("scheduler::")
    };
    let frames = lines.windows(2).filter(|pair| of_engine(pair[0]));
    frames.take(16).map(|pair| format!("      {} {}\n", pair[0].trim(), pair[1].trim())).collect()
}

/// The engine told a number about what the running task does.
fn tell(site: &'static str, number: u64) {
    if number > 0
        && let (Some(world), Some(slot)) = (world(), current_slot())
    {
        world.tell(slot, site, number);
    }
}

/// A place where the running task may be preempted.
pub(crate) fn point(site: &'static str) {
    if !can_suspend() {
        return;
    }
    SPINS.set(SPINS.get() + 1);
    assert!(
        SPINS.get() < SPIN_LIMIT,
        "spins at {site:?}: {SPIN_LIMIT} scheduling points without waiting"
    );
    let (Some(world), Some(task)) = (world(), current()) else {
        return;
    };
    match world.preemption(site, &task) {
        None => {}
        Some(Act::Pause(pause)) => {
            world.count("preemptions");
            world.record("preempted", &[pause.as_nanos() as u64], || {
                format!("at {site:?} for {pause:?}")
            });
            block_on(world.until(world.now() + pause));
        }
        Some(Act::Demote) => {
            world.count("demotions");
            world.record("demoted", &[], || format!("at {site:?}"));
            READY.with_borrow_mut(|ready| ready.demote(task.id));
        }
    }
    let gives_way = READY.with_borrow_mut(|ready| {
        let behind = ready.is_behind(task.id);
        if behind {
            ready.add(task.id);
        }
        behind
    });
    if gives_way {
        block_on(Yield(false));
    }
}

fn park(lock: usize) -> bool {
    if dying() {
        // Destructors may take leaf locks. If a suspended task holds this one, it is about to
        // be unwound anyway: do it now.
        if unwind_any() {
            return true;
        }
        eprintln!("a destructor waits for a lock that a task being unwound holds: deadlock");
        std::process::abort();
    }
    let Some(waker) = RUNNING.with_borrow(|r| r.as_ref().map(|r| r.waker.clone())) else {
        return false;
    };
    TASKS.with_borrow_mut(|tasks| tasks.parked.entry(lock).or_default().push(waker));
    block_on(Yield(false));
    true
}

fn unpark(lock: usize) {
    // A destructor of this OS thread's own locals may come too late for the list.
    let waiters = TASKS.try_with(|tasks| tasks.borrow_mut().parked.remove(&lock));
    for waker in waiters.ok().flatten().into_iter().flatten() {
        waker.wake();
    }
}
