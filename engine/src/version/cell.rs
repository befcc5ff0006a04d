//! The current [`Version`], and who still looks at an older one.
//!
//! A reader announces in a slot of its own task which Version it is about to use, then checks that it is
//! still the current one (a hazard pointer). So reading costs no write to memory that tasks share.
//! Whoever needs a Version for longer takes a counted reference, or holds it in a way that someone else may
//! end ([`Held`]).
//!
//! Replaced Versions are kept in a list until no slot and no reference names them; a background task then
//! drops them, so that no reader ever pays for freeing a memtable.

use super::Version;
use crate::sync::{AtomicPtr, AtomicUsize, CachePadded, Mutex, Ordering::SeqCst, point};
use std::{marker::PhantomData, ops::Deref, ptr, sync::Arc};

pub(crate) struct VersionCell {
    /// Always points into `inner.current`.
    current: AtomicPtr<Version>,
    slots: Box<[CachePadded<AtomicPtr<Version>>]>,
    inner: Mutex<Inner>,
    retired: AtomicUsize,
}

struct Inner {
    current: Arc<Version>,
    retired: Vec<Arc<Version>>,
}

/// A Version that is held until its holder lets go of it, or [`VersionCell::let_go`] does. Readers pin it for the
/// length of a call.
pub(crate) struct Held {
    /// Points into `version`; null once it was let go.
    pointer: AtomicPtr<Version>,
    version: Mutex<Option<Arc<Version>>>,
}

impl Held {
    /// Holds a Version that came from [`VersionCell::load`].
    pub(crate) fn new(version: Arc<Version>) -> Held {
        let pointer = AtomicPtr::new(Arc::as_ptr(&version).cast_mut());
        Held { pointer, version: Mutex::new(Some(version)) }
    }

    /// A counted reference, if it was not let go.
    pub(crate) fn counted(&self) -> Option<Arc<Version>> {
        self.version.lock().clone()
    }

    /// Whether it was let go.
    pub(crate) fn is_gone(&self) -> bool {
        self.pointer.load(SeqCst).is_null()
    }
}

/// Tasks beyond this take counted references.
const SLOTS: usize = 256;

/// The current Version at the moment of [`VersionCell::pin`], for the length of one call.
pub(crate) enum Pinned<'a> {
    /// Named by the task's slot.
    Slot(SlotPin<'a>),
    /// The task's slot is in use, or it has none.
    Counted(Arc<Version>),
}

pub(crate) struct SlotPin<'a> {
    slot: &'a AtomicPtr<Version>,
    version: *const Version,
    /// The slot belongs to the task: the pin must not wander to another.
    _not_send: PhantomData<*const ()>,
}

impl VersionCell {
    pub(crate) fn new(version: Version) -> VersionCell {
        let current = Arc::new(version);
        VersionCell {
            current: AtomicPtr::new(Arc::as_ptr(&current).cast_mut()),
            slots: (0..SLOTS).map(|_| CachePadded(AtomicPtr::new(ptr::null_mut()))).collect(),
            inner: Mutex::new(Inner { current, retired: vec![] }),
            retired: AtomicUsize::new(0),
        }
    }

    /// Pins the current Version for the task with this slot number.
    #[inline]
    pub(crate) fn pin(&self, task_slot: usize) -> Pinned<'_> {
        let Some(CachePadded(slot)) = self.slots.get(task_slot) else {
            return Pinned::Counted(self.load());
        };
        // Only this task writes its slot; it is in use if a call of ours made a call of ours.
        if !slot.load(SeqCst).is_null() {
            return Pinned::Counted(self.load());
        }
        let mut version = self.current.load(SeqCst);
        loop {
            slot.store(version, SeqCst);
            point("version.pin");
            let now = self.current.load(SeqCst);
            if now == version {
                return Pinned::Slot(SlotPin { slot, version, _not_send: PhantomData });
            }
            version = now;
        }
    }

    /// Pins a Version that is held, if it was not let go, for the task with this slot number.
    #[inline]
    pub(crate) fn pin_held<'a>(&'a self, held: &'a Held, task_slot: usize) -> Option<Pinned<'a>> {
        let slot = self.slots.get(task_slot).filter(|slot| slot.0.load(SeqCst).is_null());
        let Some(CachePadded(slot)) = slot else {
            return held.counted().map(Pinned::Counted);
        };
        let version = held.pointer.load(SeqCst);
        if version.is_null() {
            return None;
        }
        slot.store(version, SeqCst);
        point("version.pin_held");
        let pin = SlotPin { slot, version, _not_send: PhantomData };
        // It goes from there to null, and never to another.
        (!held.is_gone()).then_some(Pinned::Slot(pin))
    }

    /// Lets go of a Version, whoever looks at it. Returns whether it was held, and is not the current one: then it
    /// is freed, with what only it names, by [`VersionCell::collect`] when the calls that look at it have ended.
    pub(crate) fn let_go(&self, held: &Held) -> bool {
        // Under the lock under which the references are counted: who finds that this one is gone sees the slots of all
        // that found it there.
        let inner = self.inner.lock();
        held.pointer.store(ptr::null_mut(), SeqCst);
        let version = held.version.lock().take();
        version.is_some_and(|version| !Arc::ptr_eq(&version, &inner.current))
    }

    /// A counted reference to the current Version.
    pub(crate) fn load(&self) -> Arc<Version> {
        Arc::clone(&self.inner.lock().current)
    }

    /// Whether a Version that somebody holds is still the current one.
    pub(crate) fn is_current(&self, version: &Arc<Version>) -> bool {
        ptr::eq(self.current.load(SeqCst), Arc::as_ptr(version))
    }

    /// Makes the Version that `change` derives from the current one current.
    pub(crate) fn install(&self, change: impl FnOnce(&Version) -> Version) {
        let mut inner = self.inner.lock();
        let next = Arc::new(change(&inner.current));
        self.current.store(Arc::as_ptr(&next).cast_mut(), SeqCst);
        let old = std::mem::replace(&mut inner.current, next);
        inner.retired.push(old);
        self.retired.store(inner.retired.len(), SeqCst);
    }

    /// Whether there are replaced Versions that were not dropped yet.
    pub(crate) fn has_retired(&self) -> bool {
        self.retired.load(SeqCst) > 0
    }

    /// Drops replaced Versions that nobody looks at any more. Returns how many are left.
    pub(crate) fn collect(&self) -> usize {
        if self.retired.load(SeqCst) == 0 {
            return 0;
        }
        let mut inner = self.inner.lock();
        let mut dead = vec![];
        let mut i = 0;
        while let Some(version) = inner.retired.get(i) {
            // The reference in the list is the last one. The slots are read after that is known:
            // a new reference comes only from a slot or from `current`.
            let unused = Arc::strong_count(version) == 1 && !self.is_pinned(Arc::as_ptr(version));
            match unused {
                true => dead.push(inner.retired.swap_remove(i)),
                false => i += 1,
            }
        }
        let left = inner.retired.len();
        self.retired.store(left, SeqCst);
        drop(inner);
        drop(dead); // may free memtables: not under the lock
        left
    }

    fn is_pinned(&self, version: *const Version) -> bool {
        self.slots.iter().any(|slot| ptr::eq(slot.0.load(SeqCst), version))
    }

    /// All Versions that somebody may look at, the current one first.
    pub(crate) fn all(&self) -> Vec<Arc<Version>> {
        let inner = self.inner.lock();
        std::iter::once(&inner.current).chain(&inner.retired).cloned().collect()
    }
}

impl Deref for Pinned<'_> {
    type Target = Version;

    #[inline]
    fn deref(&self) -> &Version {
        match self {
            #[expect(unsafe_code, reason = "the hazard pointer's one place of use")]
            // SAFETY: the slot named this Version when it was the current one, so it was in
            // `inner.current` or moved to `inner.retired` after that; `collect` drops it only after it
            // found the slot naming something else. All of it is sequentially consistent: the
            // check in `pin` that the Version is still current comes after the slot's store, and a
            // Version is retired before the slots are read. In `pin_held` it was held, so that the cell had it
            // too, and `let_go` says that it is held no longer before its reference is gone.
            Pinned::Slot(pin) => unsafe { &*pin.version },
            Pinned::Counted(version) => version,
        }
    }
}

impl Drop for SlotPin<'_> {
    #[inline]
    fn drop(&mut self) {
        self.slot.store(ptr::null_mut(), crate::sync::Ordering::Release);
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::{memtable::Memtable, sync::model::explore};
    use shuttle::thread;

    fn version() -> Version {
        let active = Arc::new(Memtable::new(64).unwrap());
        Version { active, sealed: vec![], keyspaces: vec![] }
    }

    /// A pinned Version, and all it names, lives until the pin goes; then it is dropped.
    #[test]
    fn shuttle_what_is_pinned_is_not_dropped() {
        explore(|| {
            let cell = Arc::new(VersionCell::new(version()));
            let readers: Vec<_> = (0..2)
                .map(|slot| {
                    let cell = cell.clone();
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let pinned = cell.pin(slot);
                            let memtable = Arc::downgrade(&pinned.active);
                            let inner = cell.pin(slot); // the slot is taken: counted
                            assert!(matches!(inner, Pinned::Counted(_)));
                            assert!(Arc::strong_count(&inner.active) >= 1);
                            drop(inner);
                            assert!(memtable.upgrade().is_some(), "dropped under a pin");
                        }
                    })
                })
                .collect();
            let writer = {
                let cell = cell.clone();
                thread::spawn(move || {
                    for _ in 0..2 {
                        cell.install(|_| version());
                        cell.collect();
                    }
                })
            };
            readers.into_iter().for_each(|t| t.join().unwrap());
            writer.join().unwrap();
            assert_eq!(cell.collect(), 0, "nobody looks any more");
            assert_eq!(cell.all().len(), 1);
        });
    }

    /// A held Version may be let go while others look at it: it lives until they have looked.
    #[test]
    fn shuttle_what_is_let_go_is_not_dropped_under_a_pin() {
        explore(|| {
            let cell = Arc::new(VersionCell::new(version()));
            let held = Arc::new(Held::new(cell.load()));
            cell.install(|_| version());
            let readers: Vec<_> = (0..2)
                .map(|slot| {
                    let (cell, held) = (cell.clone(), held.clone());
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let Some(pinned) = cell.pin_held(&held, slot) else {
                                assert!(held.is_gone());
                                return;
                            };
                            let memtable = Arc::downgrade(&pinned.active);
                            point("test");
                            assert!(memtable.upgrade().is_some(), "dropped under a pin");
                        }
                    })
                })
                .collect();
            let ending = {
                let (cell, held) = (cell.clone(), held.clone());
                thread::spawn(move || {
                    assert!(cell.let_go(&held), "it is not the current one");
                    cell.collect();
                    assert!(!cell.let_go(&held));
                })
            };
            readers.into_iter().for_each(|t| t.join().unwrap());
            ending.join().unwrap();
            assert!(cell.pin_held(&held, 0).is_none());
            assert_eq!(cell.collect(), 0, "nobody looks any more");
            assert_eq!(cell.all().len(), 1);
        });
    }
}
