//! Compression of blocks. On disk a compression is the number of [`Compression`] in one byte.
//!
//! What is compressed is kept only where it saves at least an eighth. Decompression never
//! writes or allocates more than the caller allows, whatever the bytes say.

use crate::{config::Compression, sync::Mutex};

/// Compresses blocks one after another, keeping its state between them.
pub(crate) struct Compressor {
    method: Method,
    out: Vec<u8>,
}

enum Method {
    None,
    Zstd(zstd::bulk::Compressor<'static>),
    Lz4,
    Snappy(Box<snap::raw::Encoder>),
}

impl Compressor {
    /// `level` is Zstd's; the others have none. `None` if memory for the state ran out.
    pub(crate) fn new(compression: Compression, level: i32) -> Option<Compressor> {
        let method = match compression {
            Compression::None => Method::None,
            Compression::Zstd => Method::Zstd(zstd::bulk::Compressor::new(level).ok()?),
            Compression::Lz4 => Method::Lz4,
            Compression::Snappy => Method::Snappy(Box::new(snap::raw::Encoder::new())),
        };
        let out = vec![];
        Some(Compressor { method, out })
    }

    /// What to store for `block`: `block` itself if compressing it saves too little.
    pub(crate) fn compress<'a>(&'a mut self, block: &'a [u8]) -> (Compression, &'a [u8]) {
        let worth = block.len() - block.len().div_ceil(8);
        match self.method.compress(block, &mut self.out) {
            Some((compression, len)) if len <= worth => (compression, &self.out[..len]),
            _ => (Compression::None, block),
        }
    }
}

impl Method {
    fn compress(&mut self, block: &[u8], out: &mut Vec<u8>) -> Option<(Compression, usize)> {
        // As much room as each method asks for, so that none fails for want of it.
        let room = match self {
            Method::None => return None,
            Method::Zstd(_) => zstd::zstd_safe::compress_bound(block.len()),
            Method::Lz4 => lz4_flex::block::get_maximum_output_size(block.len()),
            Method::Snappy(_) => snap::raw::max_compress_len(block.len()),
        };
        if out.len() < room {
            out.resize(room, 0);
        }
        match self {
            Method::None => None,
            Method::Zstd(zstd) => {
                let len = zstd.compress_to_buffer(block, out.as_mut_slice()).ok()?;
                Some((Compression::Zstd, len))
            }
            Method::Lz4 => {
                let len = lz4_flex::block::compress_into(block, out).ok()?;
                Some((Compression::Lz4, len))
            }
            Method::Snappy(snappy) => {
                let len = snappy.compress(block, out).ok()?;
                Some((Compression::Snappy, len))
            }
        }
    }
}

/// The payload of a log record, compressed, behind `room` bytes: its length and an LZ4 block. `None` if that saves
/// too little.
pub(crate) fn compress_payload(room: usize, payload: &[u8]) -> Option<Vec<u8>> {
    let at = room + PAYLOAD_LEN_BYTES;
    let mut out = vec![0; at + lz4_flex::block::get_maximum_output_size(payload.len())];
    let len = lz4_flex::block::compress_into(payload, &mut out[at..]).ok()?;
    out[room..at].copy_from_slice(&u32::try_from(payload.len()).ok()?.to_le_bytes());
    out.truncate(at + len);
    (len + PAYLOAD_LEN_BYTES <= payload.len() - payload.len().div_ceil(8)).then_some(out)
}

/// What [`compress_payload`] made, without the room. `None`: other bytes.
pub(crate) fn decompress_payload(stored: &[u8]) -> Option<Vec<u8>> {
    let (len, block) = stored.split_first_chunk::<PAYLOAD_LEN_BYTES>()?;
    let len = u32::from_le_bytes(*len) as usize;
    // LZ4 makes no more of a byte.
    if len > block.len().saturating_mul(LZ4_RATIO_MAX) {
        return None;
    }
    let mut out = vec![0; len];
    (lz4_flex::block::decompress_into(block, &mut out).ok()? == len).then_some(out)
}

const PAYLOAD_LEN_BYTES: usize = 4;
const LZ4_RATIO_MAX: usize = 256;

/// Decompresses blocks one after another, keeping its state between them.
#[derive(Default)]
pub(crate) struct Decompressor {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    snappy: snap::raw::Decoder,
}

impl Decompressor {
    /// Fills `out` with what `stored` holds; `None` unless it holds exactly that many bytes.
    pub(crate) fn decompress(
        &mut self,
        compression: Compression,
        stored: &[u8],
        out: &mut [u8],
    ) -> Option<()> {
        let len = match compression {
            Compression::None => {
                let len = stored.len();
                (len == out.len()).then(|| out.copy_from_slice(stored))?;
                len
            }
            Compression::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Decompressor::new().ok()?),
                };
                zstd.decompress_to_buffer(stored, out).ok()?
            }
            Compression::Lz4 => lz4_flex::block::decompress_into(stored, out).ok()?,
            Compression::Snappy => self.snappy.decompress(stored, out).ok()?,
        };
        (len == out.len()).then_some(())
    }
}

/// Decompressors that are not in use: their state is too large to make one per block.
#[derive(Default)]
pub(crate) struct Decompressors {
    idle: Mutex<Vec<Decompressor>>,
}

impl Decompressors {
    /// As [`Decompressor::decompress`], with whichever is idle.
    pub(crate) fn decompress(
        &self,
        compression: Compression,
        stored: &[u8],
        out: &mut [u8],
    ) -> Option<()> {
        let idle = self.idle.lock().pop();
        let mut decompressor = idle.unwrap_or_default();
        let done = decompressor.decompress(compression, stored, out);
        self.idle.lock().push(decompressor);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 4] =
        [Compression::None, Compression::Zstd, Compression::Lz4, Compression::Snappy];

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| b"lightning strikes "[i % 18]).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) as u8).collect()
    }

    #[test]
    fn payloads_round_trip_and_other_bytes_are_refused() {
        for len in [1, 100, 5000, 1 << 20] {
            assert_eq!(compress_payload(7, &noise(len)), None, "{len}");
            let Some(stored) = compress_payload(7, &text(len)) else {
                assert!(len < 50);
                continue;
            };
            assert!(stored.len() < len && stored[..7] == [0; 7]);
            assert_eq!(decompress_payload(&stored[7..]).as_deref(), Some(&text(len)[..]));
            assert_eq!(decompress_payload(&stored[7..stored.len() - 1]), None);
            let mut longer = stored[7..].to_vec();
            longer[..4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert_eq!(decompress_payload(&longer), None);
        }
        assert_eq!(decompress_payload(&[]), None);
    }

    #[test]
    fn blocks_round_trip_through_reused_state() {
        let decompressors = Decompressors::default();
        for wanted in ALL {
            let mut compressor = Compressor::new(wanted, 3).unwrap();
            for len in [0, 1, 7, 100, 4096, 1 << 20, 4096, 50] {
                for block in [text(len), noise(len)] {
                    let (compression, stored) = compressor.compress(&block);
                    let mut out = vec![0; len];
                    decompressors.decompress(compression, stored, &mut out).unwrap();
                    assert!(out == block, "{wanted:?} {len}");
                    if len >= 100 && block == text(len) {
                        assert_eq!(compression, wanted);
                    }
                }
            }
        }
    }

    #[test]
    fn what_saves_less_than_an_eighth_is_kept_as_it_is() {
        for wanted in ALL {
            let block = noise(4096);
            let mut compressor = Compressor::new(wanted, 3).unwrap();
            let (compression, stored) = compressor.compress(&block);
            assert_eq!(compression, Compression::None);
            assert_eq!(stored, block);
        }
    }

    /// A length that lies, bytes cut short and bytes changed must be refused or decode to the
    /// length asked for; never more, never a panic.
    #[test]
    fn hostile_bytes_never_write_past_the_stated_length() {
        let mut decompressor = Decompressor::default();
        for wanted in ALL {
            let mut compressor = Compressor::new(wanted, 3).unwrap();
            let block = text(600);
            let (compression, stored) = compressor.compress(&block);
            for len in [0, 1, 599, 601, 5000] {
                let done = decompressor.decompress(compression, stored, &mut vec![0; len]);
                assert_eq!(done, None, "{wanted:?} {len}");
            }
            for cut in 0..stored.len() {
                let mut out = vec![0; 600];
                let done = decompressor.decompress(compression, &stored[..cut], &mut out);
                assert!(done.is_none() || out == block, "{wanted:?} cut at {cut}");
            }
            for at in 0..stored.len().min(200) {
                for flip in [1, 0x40, 0xff] {
                    let mut bad = stored.to_vec();
                    bad[at] ^= flip;
                    let _ = decompressor.decompress(compression, &bad, &mut vec![0; 600]);
                }
            }
        }
    }
}
