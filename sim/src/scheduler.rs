//! Engine threads as coroutines.
//!
//! The engine is synchronous code. Each of its threads runs here on a stack of its own, and
//! all of them on one OS thread: whoever would block (I/O, a wait, a contended lock) suspends
//! its stack with [`block_on`], the only suspension primitive, and madsim's seeded scheduler
//! picks who goes on. A crash unwinds all stacks ([`kill_all`]), so that nothing leaks and
//! destructors run; while that happens [`dying`] is true and nothing suspends any more.
//!
//! State is per OS thread, so that seeds run in parallel without knowing of each other.

use crate::world::World;
use corosensei::{Coroutine, CoroutineResult, Yielder, stack::DefaultStack};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// Stack of one engine thread. Address space only: pages come at their first use.
const STACK_BYTES: usize = 1 << 20;

/// Passes of scheduling points without waiting after which a task is taken to spin. It could
/// spin for ever: virtual time stands still meanwhile.
const SPIN_LIMIT: u32 = 1_000_000;

type Thread = Coroutine<(), (), (), DefaultStack>;

/// The task whose stack is current.
struct Running {
    slot: usize,
    waker: Waker,
    /// Null until the coroutine has begun.
    yielder: *const Yielder<(), ()>,
}

/// A task that is not running: suspended, or not yet begun.
struct Suspended {
    slot: usize,
    thread: Thread,
    yielder: *const Yielder<(), ()>,
}

#[derive(Default)]
struct Tasks {
    world: Option<Arc<World>>,
    next_id: u64,
    suspended: BTreeMap<u64, Suspended>,
    /// Slots free to be given out again, and the next one never given out.
    free_slots: Vec<usize>,
    next_slot: usize,
    /// Who waits for a lock, by the lock's address. Never iterated: addresses differ from run
    /// to run.
    parked: BTreeMap<usize, Vec<Waker>>,
    stacks: Vec<DefaultStack>,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
    static TASKS: RefCell<Tasks> = RefCell::default();
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
}

/// Ends what [`enter`] began.
pub(crate) fn leave() {
    TASKS.with_borrow_mut(|tasks| tasks.world = None);
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
    RUNNING.with_borrow(|running| running.as_ref().map(|r| r.slot))
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

/// The madsim task that drives one coroutine.
struct Driver(u64);

impl Future for Driver {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        resume(self.0, cx.waker())
    }
}

/// Runs a task until it suspends or ends.
fn resume(id: u64, waker: &Waker) -> Poll<()> {
    let Some(mut task) = TASKS.with_borrow_mut(|tasks| tasks.suspended.remove(&id)) else {
        return Poll::Ready(()); // killed
    };
    let outer = RUNNING.replace(Some(Running {
        slot: task.slot,
        waker: waker.clone(),
        yielder: task.yielder,
    }));
    SPINS.set(0);
    let result = task.thread.resume(());
    let running = RUNNING.replace(outer).expect("set above");
    match result {
        CoroutineResult::Yield(()) => {
            task.yielder = running.yielder;
            TASKS.with_borrow_mut(|tasks| tasks.suspended.insert(id, task));
            Poll::Pending
        }
        CoroutineResult::Return(()) => {
            retire(task);
            Poll::Ready(())
        }
    }
}

/// Gives the stack and the slot of an ended task back.
fn retire(task: Suspended) {
    TASKS.with_borrow_mut(|tasks| {
        tasks.free_slots.push(task.slot);
        tasks.stacks.push(task.thread.into_stack());
    });
}

/// Creates a task. It begins once the returned future is polled.
pub(crate) fn create(body: Box<dyn FnOnce() + Send>) -> impl Future<Output = ()> + Send + 'static {
    TASKS.with_borrow_mut(|tasks| {
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
        let yielder = std::ptr::null();
        tasks.suspended.insert(id, Suspended { slot, thread, yielder });
        Driver(id)
    })
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
        slot: task.slot,
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
                tell(number);
                point(site);
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
fn tell(number: u64) {
    if number > 0
        && let (Some(world), Some(slot)) = (world(), current_slot())
    {
        world.tell(slot, number);
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
    let (Some(world), Some(slot)) = (world(), current_slot()) else {
        return;
    };
    if let Some(pause) = world.preemption(site, slot) {
        world.count("preemptions");
        world.record("preempted", &[pause.as_nanos() as u64], || {
            format!("at {site:?} for {pause:?}")
        });
        block_on(world.until(world.now() + pause));
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
