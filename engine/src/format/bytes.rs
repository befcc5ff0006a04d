//! Little-endian integers, varints and length-prefixed bytes.

/// Reads a byte string from front to back. `None` means that it ended too early or holds
/// something impossible; it never panics.
#[derive(Clone, Copy)]
pub(crate) struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { bytes, at: 0 }
    }

    /// Begins at byte `at` of `bytes`.
    #[inline]
    pub(crate) fn at_byte(bytes: &'a [u8], at: usize) -> Decoder<'a> {
        Decoder { bytes, at }
    }

    /// How many bytes were read, or where reading goes on.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|b| b[0])
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// An LEB128 integer of at most 32 bits; longer encodings than needed are refused.
    #[inline]
    pub(crate) fn varint(&mut self) -> Option<u32> {
        match self.bytes.get(self.at..)? {
            [byte, ..] if *byte < 0x80 => {
                self.at += 1;
                Some(u32::from(*byte))
            }
            [low, high @ 1..0x80, ..] => {
                self.at += 2;
                Some(u32::from(*low & 0x7f) | u32::from(*high) << 7)
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Option<u32> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            let bits = u32::from(byte & 0x7f);
            value |= bits.checked_shl(shift).filter(|v| v >> shift == bits)?;
            if byte & 0x80 == 0 {
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    /// Bytes behind their length as a varint.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.varint()?;
        self.take(len as usize)
    }
}

/// Writes an LEB128 integer to the front of `out`, which has room, and says how long it is.
#[inline]
pub(crate) fn write_varint(out: &mut [u8], mut value: u32) -> usize {
    let mut len = 0;
    while value >= 0x80 {
        out[len] = value as u8 | 0x80;
        value >>= 7;
        len += 1;
    }
    out[len] = value as u8;
    len + 1
}

/// Appends an LEB128 integer.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put_varint`] appends.
#[inline]
pub(crate) fn varint_len(value: u32) -> usize {
    (38 - (value | 1).leading_zeros() as usize) / 7
}

/// Appends bytes behind their length. The caller has checked that it fits 32 bits.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(u32::try_from(bytes.len()).is_ok());
    put_varint(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_know_their_length() {
        let mut values: Vec<u32> =
            (0..32).flat_map(|s| [1u32 << s, (1 << s) - 1, !0 >> s]).collect();
        values.push(0);
        for value in values {
            let mut out = vec![];
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "{value}");
            assert_eq!(Decoder::new(&out).varint(), Some(value));
            assert_eq!(Decoder::new(&out[..out.len() - 1]).varint(), None);
        }
    }

    #[test]
    fn impossible_varints_are_refused() {
        for bad in [&[0x80, 0x00][..], &[0xff; 5], &[0xff, 0xff, 0xff, 0xff, 0x1f], &[0x80; 9]] {
            assert_eq!(Decoder::new(bad).varint(), None, "{bad:x?}");
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(Decoder::new(&[3, 1, 2]).bytes(), None);
        assert_eq!(Decoder::new(&[2, 1, 2]).bytes(), Some(&[1, 2][..]));
    }
}
