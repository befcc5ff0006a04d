//! Work that is done by many at once and counted in order.

use super::{AtomicU64, CachePadded, Ordering::Relaxed, Ordering::SeqCst, point};

/// Tickets are given out one by one by the caller, under a lock. A ticket goes through two steps, each
/// taken by its holder whenever it is ready: it is *filled*, then *complete* with a value, which never falls
/// from ticket to ticket. [`InOrder::watermark`] is the value of the last ticket before which none is
/// incomplete. A complete ticket may also wait for a level, which someone else raises; it holds up those
/// behind it meanwhile. A complete ticket that waits can be cancelled: then the watermark never passes it.
///
/// A ticket uses the place `ticket % PLACES`, so it may be given out only while
/// [`InOrder::has_room`] says so.
pub(crate) struct InOrder {
    places: Box<[Place]>,
    /// The first ticket not known to be complete.
    head: CachePadded<AtomicU64>,
    watermark: CachePadded<AtomicU64>,
    /// What tickets wait for; see [`InOrder::raise`].
    level: CachePadded<AtomicU64>,
    /// How many tickets may be given out and not yet passed: [`PLACES`] at most.
    room: u64,
}

/// The steps tell the last ticket that took them: never cleared, so there is no race to clear them, and
/// growing, because a place is reused only once its ticket was passed.
#[derive(Default)]
#[repr(align(32))]
struct Place {
    /// `ticket + 1` once it is filled.
    filled: AtomicU64,
    /// [`complete_mark`] once it is complete; one more once it is decided: either the watermark passes
    /// it, or it was cancelled.
    done: AtomicU64,
    value: AtomicU64,
    /// The level that a complete ticket waits for.
    level: AtomicU64,
}

const PLACES: u64 = 1024;

const fn complete_mark(ticket: u64) -> u64 {
    (ticket + 1) * 2
}

impl InOrder {
    /// No ticket was given yet; the watermark is `value`.
    pub(crate) fn new(value: u64) -> InOrder {
        InOrder::with_room(value, PLACES)
    }

    /// Like [`new`](InOrder::new), but with room for fewer tickets, so that it runs out.
    pub(crate) fn with_room(value: u64, room: u64) -> InOrder {
        InOrder {
            room: room.min(PLACES),
            places: (0..PLACES).map(|_| Place::default()).collect(),
            head: CachePadded(AtomicU64::new(0)),
            watermark: CachePadded(AtomicU64::new(value)),
            level: CachePadded(AtomicU64::new(0)),
        }
    }

    #[inline]
    fn place(&self, ticket: u64) -> &Place {
        &self.places[(ticket % PLACES) as usize]
    }

    /// Whether `ticket` can be given out.
    #[inline]
    pub(crate) fn has_room(&self, ticket: u64) -> bool {
        ticket < self.head.0.load(SeqCst) + self.room
    }

    #[inline]
    pub(crate) fn watermark(&self) -> u64 {
        self.watermark.0.load(SeqCst)
    }

    /// Whether all tickets below `ticket` are complete.
    #[inline]
    pub(crate) fn is_complete_below(&self, ticket: u64) -> bool {
        self.head.0.load(SeqCst) >= ticket
    }

    /// Fills `ticket`.
    #[inline]
    pub(crate) fn fill(&self, ticket: u64) {
        self.place(ticket).filled.store(ticket + 1, SeqCst);
    }

    /// Whether all tickets below `end` are filled; those below `from` are known to be.
    pub(crate) fn is_filled_below(&self, from: u64, end: u64) -> bool {
        // A place that went on to a later ticket has filled the earlier one.
        let first = from.max(end.saturating_sub(PLACES));
        (first..end).all(|ticket| self.place(ticket).filled.load(SeqCst) > ticket)
    }

    /// Completes `ticket`, whose value is `value`, and moves the watermark as far as it goes.
    #[inline]
    pub(crate) fn complete(&self, ticket: u64, value: u64) {
        self.complete_at(ticket, value, 0);
    }

    /// Completes `ticket`; the watermark passes it once the level is `level`.
    #[inline]
    pub(crate) fn complete_at(&self, ticket: u64, value: u64, level: u64) {
        let place = self.place(ticket);
        place.value.store(value, Relaxed); // these two are published by the store below
        place.level.store(level, Relaxed);
        // Sequentially consistent, as is the load in `advance`: of two who complete neighbouring
        // tickets at once, at least one sees the other's mark.
        place.done.store(complete_mark(ticket), SeqCst);
        point("in_order.done");
        self.advance();
    }

    /// Raises the level, and moves the watermark over the tickets that waited for it.
    pub(crate) fn raise(&self, level: u64) {
        // Sequentially consistent, like a ticket's mark: of one who completes a ticket and one who
        // raises the level at once, at least one sees both.
        self.level.0.fetch_max(level, SeqCst);
        point("in_order.raised");
        self.advance();
    }

    /// Cancels a complete ticket. False: too late, the watermark passes it.
    pub(crate) fn cancel(&self, ticket: u64) -> bool {
        let mark = complete_mark(ticket);
        self.place(ticket).done.compare_exchange(mark, mark + 1, SeqCst, SeqCst).is_ok()
    }

    #[inline]
    fn advance(&self) {
        loop {
            let head = self.head.0.load(SeqCst);
            let (place, mark) = (self.place(head), complete_mark(head));
            // If the ticket is decided meanwhile, and its place taken by a later one, the level read may be
            // the later one's: but then it is not this call's to decide.
            if place.done.load(SeqCst) != mark
                || place.level.load(Relaxed) > self.level.0.load(SeqCst)
            {
                return;
            }
            // Whoever decides the ticket moves the head: nobody else does until it has moved. Who
            // comes too late may go: the winner looks at the next place after moving.
            if place.done.compare_exchange(mark, mark + 1, SeqCst, SeqCst).is_err() {
                return;
            }
            point("in_order.advance");
            // The watermark first: whoever sees the head behind a ticket may rely on it.
            self.watermark.0.store(place.value.load(Relaxed), SeqCst);
            self.head.0.store(head + 1, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_oldest_open_ticket() {
        let order = InOrder::new(5);
        order.complete(1, 20);
        order.complete(2, 30);
        assert_eq!(order.watermark(), 5);
        order.complete(0, 10);
        assert_eq!(order.watermark(), 30);
        assert!(order.is_complete_below(3) && !order.is_complete_below(4));
        assert!(order.has_room(3 + PLACES - 1) && !order.has_room(3 + PLACES));
    }

    #[test]
    fn a_cancelled_ticket_is_never_passed() {
        let order = InOrder::new(0);
        order.complete(1, 2);
        order.complete(2, 3);
        assert!(order.cancel(2) && !order.cancel(2));
        order.complete(0, 1);
        assert_eq!(order.watermark(), 2);
        assert!(!order.cancel(1), "it was passed");
        assert!(!order.is_complete_below(3));
    }

    #[test]
    fn a_ticket_waits_for_its_level_and_holds_up_the_next() {
        let order = InOrder::new(0);
        order.complete_at(0, 1, 100);
        order.complete(1, 2);
        order.complete_at(2, 3, 300);
        assert_eq!(order.watermark(), 0);
        order.raise(99);
        assert_eq!(order.watermark(), 0);
        order.raise(100);
        assert_eq!(order.watermark(), 2);
        assert!(order.cancel(2));
        order.raise(300);
        assert_eq!(order.watermark(), 2);
    }

    #[test]
    fn no_ticket_is_left_behind_by_a_level_raised_meanwhile() {
        for _ in 0..2_000 {
            let order = InOrder::new(0);
            std::thread::scope(|s| {
                s.spawn(|| order.complete_at(0, 1, 10));
                s.spawn(|| order.raise(10));
            });
            assert_eq!(order.watermark(), 1);
        }
    }

    #[test]
    fn filled_is_told_over_reused_places() {
        let order = InOrder::new(0);
        for ticket in 0..PLACES + 10 {
            assert!(!order.is_filled_below(0, ticket + 1));
            order.fill(ticket);
            assert!(order.is_filled_below(0, ticket + 1));
            order.complete(ticket, ticket);
        }
        order.fill(PLACES + 11);
        assert!(!order.is_filled_below(PLACES, PLACES + 12));
        order.fill(PLACES + 10);
        assert!(order.is_filled_below(PLACES, PLACES + 12));
    }

    #[test]
    fn no_completion_is_lost_between_threads() {
        let order = InOrder::new(0);
        let next = AtomicU64::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    loop {
                        let ticket = next.fetch_add(1, SeqCst);
                        if ticket >= 50_000 {
                            return;
                        }
                        while !order.has_room(ticket) {
                            std::hint::spin_loop();
                        }
                        order.complete(ticket, ticket + 1);
                    }
                });
            }
        });
        assert_eq!(order.watermark(), 50_000);
        assert!(order.is_complete_below(50_000));
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::{super::model::explore, *};
    use shuttle::thread;
    use std::sync::Arc;

    fn all(threads: Vec<thread::JoinHandle<()>>) {
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn shuttle_every_completion_is_passed() {
        explore(|| {
            let order = Arc::new(InOrder::new(0));
            let threads = (0..3).map(|ticket| {
                let order = order.clone();
                thread::spawn(move || {
                    order.complete(ticket, ticket + 1);
                    let passed = order.is_complete_below(ticket + 1);
                    assert!(!passed || order.watermark() > ticket);
                })
            });
            all(threads.collect());
            assert_eq!(order.watermark(), 3);
            assert!(order.is_complete_below(3));
        });
    }

    #[test]
    fn shuttle_a_raised_level_passes_what_waits_for_it() {
        explore(|| {
            let order = Arc::new(InOrder::new(0));
            let mut threads = vec![];
            for (ticket, level) in [(0, 10), (1, 0), (2, 20)] {
                let order = order.clone();
                threads.push(thread::spawn(move || order.complete_at(ticket, ticket + 1, level)));
            }
            for level in [10, 20] {
                let order = order.clone();
                threads.push(thread::spawn(move || order.raise(level)));
            }
            let seen = order.watermark();
            assert!(order.level.0.load(SeqCst) >= [0, 10, 10, 20][seen as usize]);
            all(threads);
            assert_eq!(order.watermark(), 3);
        });
    }

    #[test]
    fn shuttle_a_ticket_is_passed_or_cancelled_never_both() {
        explore(|| {
            let order = Arc::new(InOrder::new(0));
            order.complete(1, 2);
            let completes = {
                let order = order.clone();
                thread::spawn(move || order.complete(0, 1))
            };
            let cancels = {
                let order = order.clone();
                thread::spawn(move || order.cancel(1))
            };
            completes.join().unwrap();
            let cancelled = cancels.join().unwrap();
            assert_eq!(order.watermark(), if cancelled { 1 } else { 2 });
            assert_eq!(order.is_complete_below(2), !cancelled);
        });
    }

    #[test]
    fn shuttle_what_is_told_filled_was_filled() {
        explore(|| {
            let order = Arc::new(InOrder::new(0));
            let bytes = Arc::new([const { std::sync::atomic::AtomicBool::new(false) }; 2]);
            let threads = (0..2).map(|ticket| {
                let (order, bytes) = (order.clone(), bytes.clone());
                thread::spawn(move || {
                    bytes[ticket as usize].store(true, SeqCst);
                    order.fill(ticket);
                })
            });
            let threads = threads.collect();
            if order.is_filled_below(0, 2) {
                assert!(bytes.iter().all(|b| b.load(SeqCst)));
            }
            all(threads);
            assert!(order.is_filled_below(0, 2));
        });
    }
}
