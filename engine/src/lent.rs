//! Bytes borrowed from what is counted, together with the count that keeps it.

use std::{ptr::NonNull, sync::Arc};

/// Bytes that `O` holds, readable for as long as this lives.
pub(crate) struct Lent<O: ?Sized> {
    /// Borrowed from `owner`.
    bytes: NonNull<[u8]>,
    owner: Arc<O>,
}

impl<O: ?Sized> Lent<O> {
    /// No bytes yet.
    pub(crate) fn none(owner: Arc<O>) -> Lent<O> {
        Lent { bytes: NonNull::from(&[]), owner }
    }

    #[inline]
    pub(crate) fn owner(&self) -> &Arc<O> {
        &self.owner
    }

    /// Borrows other bytes of the owner in the place of these. After an error there are none.
    #[inline]
    pub(crate) fn lend<E>(
        &mut self,
        find: impl for<'o> FnOnce(&'o O) -> Result<&'o [u8], E>,
    ) -> Result<(), E> {
        self.bytes = NonNull::from(&[]);
        self.bytes = NonNull::from(find(&self.owner)?);
        Ok(())
    }

    #[inline]
    #[expect(unsafe_code, reason = "the lifetime is the owner's, counted beside the pointer")]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `find` was given the owner for a lifetime that it cannot know, so that what it returned is
        // borrowed from the owner, or from nobody. `self` counts as a holder of the owner, and gives it out
        // shared only: until `self` is gone it is neither dropped nor changed in a way that its borrowers
        // would have to end for.
        unsafe { self.bytes.as_ref() }
    }
}

#[expect(unsafe_code, reason = "a shared slice beside the Arc that it is borrowed from")]
// SAFETY: the pointer is used as a `&[u8]`, which is Send; the owner says whether it is.
unsafe impl<O: ?Sized> Send for Lent<O> where Arc<O>: Send {}
#[expect(unsafe_code, reason = "a shared slice beside the Arc that it is borrowed from")]
// SAFETY: as for Send.
unsafe impl<O: ?Sized> Sync for Lent<O> where Arc<O>: Sync {}

#[cfg(test)]
mod tests {
    use super::*;

    /// For bytes that go with their owner's other holders.
    #[test]
    fn bytes_stay_as_long_as_they_are_lent() {
        let owner = Arc::new(vec![b"some".to_vec(), b"bytes".to_vec()]);
        let mut lent = Lent::none(Arc::clone(&owner));
        assert_eq!(lent.bytes(), b"");
        lent.lend(|all| all.get(1).map(|bytes| &bytes[1..]).ok_or(())).unwrap();
        drop(owner);
        let moved = lent;
        assert_eq!((moved.bytes(), Arc::strong_count(moved.owner())), (&b"ytes"[..], 1));
        let mut lent = moved;
        assert_eq!(lent.lend(|all| all.get(2).map(|bytes| &bytes[..]).ok_or("none")), Err("none"));
        assert_eq!(lent.bytes(), b"");
    }
}
