//! Readers that yield a value piece by piece, and may fail on the way.

use std::io::{self, Read};

/// How a reader yields its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pieces {
    /// Bytes of a piece, at most.
    piece: u64,
    /// It fails behind so many bytes.
    pub(super) fails: Option<u64>,
}

impl Pieces {
    pub(super) fn new(piece: u64, fails: Option<u64>) -> Pieces {
        Pieces { piece: piece.max(1), fails }
    }

    pub(super) fn of(self, value: Vec<u8>) -> impl Read {
        Reader { pieces: self, value, at: 0 }
    }
}

struct Reader {
    pieces: Pieces,
    value: Vec<u8>,
    at: usize,
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.value.len();
        let end = self.pieces.fails.map_or(len, |fails| len.min(fails as usize));
        if self.at >= end && end < len {
            return Err(io::Error::other("this reader is to fail"));
        }
        let part = (end - self.at).min(self.pieces.piece as usize).min(out.len());
        out[..part].copy_from_slice(&self.value[self.at..self.at + part]);
        self.at += part;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_yields_its_value_or_fails_on_the_way() {
        let value: Vec<u8> = (0..100).collect();
        for piece in [1, 7, 1000] {
            let whole = io::read_to_string(Pieces::new(piece, None).of(value.clone()));
            assert_eq!(whole.unwrap().into_bytes(), value);
            let mut part = vec![];
            Pieces::new(piece, Some(30)).of(value.clone()).read_to_end(&mut part).unwrap_err();
            assert_eq!(part, value[..30]);
        }
    }
}
