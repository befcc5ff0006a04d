//! A watermark that moves in ticket order, whatever order the work is done in.

use super::{AtomicU64, CachePadded, Ordering::SeqCst, point};

/// Tickets are given out one by one by the caller, under a lock, each with a value that never
/// falls. Whoever completes a ticket says so here; [`InOrder::watermark`] is the value of the last
/// ticket before which none is open.
///
/// A ticket uses the place `ticket % PLACES`, so it may be given out only while
/// [`InOrder::has_room`] says so.
pub(crate) struct InOrder {
    places: Box<[Place]>,
    /// The first ticket not known to be complete.
    head: CachePadded<AtomicU64>,
    watermark: CachePadded<AtomicU64>,
}

#[derive(Default)]
struct Place {
    /// `ticket + 1` once the ticket is complete: never cleared, so there is no race to clear it.
    done: AtomicU64,
    value: AtomicU64,
}

const PLACES: u64 = 1024;

impl InOrder {
    /// No ticket was given yet; the watermark is `value`.
    pub(crate) fn new(value: u64) -> InOrder {
        InOrder {
            places: (0..PLACES).map(|_| Place::default()).collect(),
            head: CachePadded(AtomicU64::new(0)),
            watermark: CachePadded(AtomicU64::new(value)),
        }
    }

    /// Whether `ticket` can be given out.
    #[inline]
    pub(crate) fn has_room(&self, ticket: u64) -> bool {
        ticket < self.head.0.load(SeqCst) + PLACES
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

    /// Completes `ticket`, whose value is `value`, and moves the watermark as far as it goes.
    #[inline]
    pub(crate) fn complete(&self, ticket: u64, value: u64) {
        let place = &self.places[(ticket % PLACES) as usize];
        place.value.store(value, SeqCst);
        // Sequentially consistent, as is the load below: of two who complete neighbouring
        // tickets at once, at least one sees the other's mark.
        place.done.store(ticket + 1, SeqCst);
        point("in_order.done");
        self.advance();
    }

    fn advance(&self) {
        loop {
            let head = self.head.0.load(SeqCst);
            let place = &self.places[(head % PLACES) as usize];
            if place.done.load(SeqCst) != head + 1 {
                return;
            }
            let value = place.value.load(SeqCst);
            point("in_order.advance");
            // The watermark first: whoever sees the head behind a ticket may rely on it. It
            // cannot pass an open ticket: all below `head` are complete, and `head` is.
            // A place is not reused before the head has passed it, so if the value read is a
            // later ticket's, that of `head` was already counted.
            if self.head.0.load(SeqCst) == head {
                self.watermark.0.fetch_max(value, SeqCst);
            }
            let _lost = self.head.0.compare_exchange(head, head + 1, SeqCst, SeqCst);
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
