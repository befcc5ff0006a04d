//! Atomics between whose operations shuttle may switch threads, and the frame of the tests that do.
//!
//! They are the standard ones, of the same size: some of them lie in raw memory, where shuttle's own could
//! not. Shuttle runs one thread at a time, so what is explored is every order of the operations; orders that
//! weaker memory would add are not.

use super::Ordering;
use std::sync::atomic;

/// Another thread may go on here.
fn switch() {
    use shuttle::sync::atomic::{AtomicBool, Ordering::SeqCst};
    let _ = AtomicBool::new(false).load(SeqCst);
}

macro_rules! atomics {
    ($($name:ident $(<$generic:ident>)?: $value:ty;)*) => { $(
        #[doc = concat!("The standard `", stringify!($name), "`, with a switch before each operation.")]
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name$(<$generic>)?(atomic::$name$(<$generic>)?);

        #[expect(missing_docs, reason = "as in the standard library")]
        impl$(<$generic>)? $name$(<$generic>)? {
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }
            pub fn load(&self, order: Ordering) -> $value {
                switch();
                self.0.load(order)
            }
            pub fn store(&self, value: $value, order: Ordering) {
                switch();
                self.0.store(value, order);
            }
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.swap(value, order)
            }
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                switch();
                self.0.compare_exchange(current, new, success, failure)
            }
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    )* };
}

macro_rules! numbers {
    ($($name:ident: $value:ty;)*) => { $(
        #[expect(missing_docs, reason = "as in the standard library")]
        impl $name {
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.fetch_add(value, order)
            }
            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.fetch_sub(value, order)
            }
            pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.fetch_max(value, order)
            }
            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.fetch_or(value, order)
            }
            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.fetch_and(value, order)
            }
        }
    )* };
}

atomics! {
    AtomicBool: bool;
    AtomicU32: u32;
    AtomicU64: u64;
    AtomicUsize: usize;
    AtomicPtr<T>: *mut T;
}

numbers! {
    AtomicU32: u32;
    AtomicU64: u64;
    AtomicUsize: usize;
}

/// Runs `test` many times, each with another order of its threads' steps: at random, and with few
/// preemptions at the worst places (PCT). A deadlock fails like a panic, with the schedule that shows it.
#[cfg(test)]
pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static) {
    super::install_hooks(super::Hooks {
        point: |_, _| switch(),
        sometimes: |_| {},
        park: |_| {
            shuttle::thread::yield_now();
            true
        },
        unpark: |_| {},
    });
    let test = std::sync::Arc::new(test);
    let same = test.clone();
    shuttle::check_random(move || same(), 10_000);
    shuttle::check_pct(move || test(), 10_000, 3);
}
