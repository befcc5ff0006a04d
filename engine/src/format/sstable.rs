//! What surrounds the entries of an sstable: block trailers, index, range tombstones, properties
//! and footer. Format: `docs/formats/sstable.md`.

use super::{
    block::{Refused, common_prefix},
    bytes::{Decoder, put_bytes, put_varint},
};
use crate::{
    config::Compression,
    types::{FileId, SeqNo},
};
use std::cmp::Ordering;

mod properties;
pub(crate) use properties::{Contents, KeyBounds, Properties};

pub(crate) const TRAILER_BYTES: usize = 9;
pub(crate) const FOOTER_BYTES: usize = 100;
/// A block of entries is never larger: one key, one value and what surrounds them.
pub(crate) const BLOCK_BYTES_MAX: usize = 17 << 20;
/// A key is never longer.
pub(crate) const KEY_BYTES_MAX: usize = 65_535;
pub(crate) const FOOTER_MAGIC: &[u8; 8] = b"LDBsstft";

/// What a manifest says of an sstable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SstableSummary {
    pub(crate) file_id: FileId,
    /// As in the file's header.
    pub(crate) identity: u64,
    pub(crate) file_bytes: u64,
    pub(crate) contents: Contents,
}

// Blocks

/// A block whose checksum was verified.
#[derive(Debug)]
pub(crate) struct Verified<'a> {
    pub(crate) stored: &'a [u8],
    pub(crate) compression: Compression,
    /// Length once decompressed.
    pub(crate) len: usize,
}

/// What follows a block in its file. The checksum covers where the block belongs too, so that
/// one written or read at a wrong place is noticed.
pub(crate) fn trailer(
    stored: &[u8],
    compression: Compression,
    len: u32,
    identity: u64,
    offset: u64,
) -> [u8; TRAILER_BYTES] {
    let mut trailer = [0; TRAILER_BYTES];
    trailer[0] = u32::from(compression) as u8;
    trailer[1..5].copy_from_slice(&len.to_le_bytes());
    let [a, b, c, d, e, ..] = trailer;
    let crc = block_checksum(stored, [a, b, c, d, e], identity, offset);
    trailer[5..].copy_from_slice(&crc.to_le_bytes());
    trailer
}

fn block_checksum(stored: &[u8], meaning: [u8; 5], identity: u64, offset: u64) -> u32 {
    let mut place = [0; 21];
    place[..5].copy_from_slice(&meaning);
    place[5..13].copy_from_slice(&identity.to_le_bytes());
    place[13..].copy_from_slice(&offset.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(stored);
    crc.update(&place);
    crc.finalize()
}

/// Takes the trailer off a block that was read from `offset`.
pub(crate) fn verify_block(
    bytes: &[u8],
    identity: u64,
    offset: u64,
) -> Result<Verified<'_>, Refused> {
    let Some((stored, trailer)) = bytes.split_last_chunk::<TRAILER_BYTES>() else {
        let found = format!("{} bytes", bytes.len());
        return Err(Refused::Corrupt("a block with its trailer", found));
    };
    let [c, l0, l1, l2, l3, s0, s1, s2, s3] = *trailer;
    let actual = block_checksum(stored, [c, l0, l1, l2, l3], identity, offset);
    let expected = u32::from_le_bytes([s0, s1, s2, s3]);
    if actual != expected {
        let found = format!("{actual:08x}, not {expected:08x}");
        return Err(Refused::Corrupt("the block's checksum", found));
    }
    let Some(compression) = Compression::from_u32(c.into()) else {
        return Err(Refused::Unsupported(format!("compression {c}")));
    };
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let stated_right = match compression {
        Compression::None => len == stored.len(),
        _ => len <= BLOCK_BYTES_MAX,
    };
    if !stated_right {
        let found = format!("{len} bytes in {} stored", stored.len());
        return Err(Refused::Corrupt("a possible length of a block", found));
    }
    Ok(Verified { stored, compression, len })
}

// Index

/// A key not less than `last` and less than `next`, as short as such keys get. `last < next`.
pub(crate) fn separator<'a>(last: &'a [u8], next: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let common = common_prefix(last, next);
    if common == last.len() {
        return last;
    }
    if next.len() > common + 1 {
        return &next[..=common];
    }
    // `next` ends with the byte that differs: a greater byte than `last` has there, but less
    // than `next` has; or a greater byte later on.
    let mut rest = last[common..].iter().enumerate();
    let raised = rest.find(|(i, byte)| match i {
        0 => **byte + 1 < next[common],
        _ => **byte < 0xff,
    });
    match raised {
        None => last,
        Some((i, byte)) => {
            scratch.clear();
            scratch.extend_from_slice(&last[..common + i]);
            scratch.push(byte + 1);
            scratch
        }
    }
}

/// Appends one index entry; `previous` is the separator before, or empty.
pub(crate) fn put_index_entry(
    out: &mut Vec<u8>,
    previous: &[u8],
    separator: &[u8],
    block_len: u32,
) {
    let shared = common_prefix(previous, separator);
    put_varint(out, shared as u32);
    put_bytes(out, &separator[shared..]);
    put_varint(out, block_len);
}

/// Calls `each` with every separator and block length of an index.
pub(crate) fn decode_index(
    contents: &[u8],
    mut each: impl FnMut(&[u8], u32),
) -> Result<(), Refused> {
    let corrupt = |at: usize| Refused::Corrupt("an index entry", format!("other bytes at {at}"));
    let mut d = Decoder::new(contents);
    let mut separator: Vec<u8> = vec![];
    let mut first = true;
    while !d.is_empty() {
        let at = d.at();
        let parts = (|| Some((d.varint()? as usize, d.bytes()?, d.varint()?)))();
        let (shared, suffix, block_len) = parts.ok_or_else(|| corrupt(at))?;
        // Compared with what the last separator has there: separators ascend.
        let ascends = separator.get(shared..).is_some_and(|rest| rest < suffix);
        let fits = block_len as usize > TRAILER_BYTES && shared + suffix.len() <= KEY_BYTES_MAX;
        if !(fits && (ascends || first && shared == 0)) {
            return Err(corrupt(at));
        }
        separator.truncate(shared);
        separator.extend_from_slice(suffix);
        each(&separator, block_len);
        first = false;
    }
    Ok(())
}

// Range tombstones

/// One fragment of a range tombstone: start, end, newest SeqNo.
pub(crate) type Fragment<'a> = (&'a [u8], Option<&'a [u8]>, SeqNo);

pub(crate) fn put_fragment(out: &mut Vec<u8>, (start, end, seq): Fragment<'_>) {
    out.push(end.is_none().into());
    out.extend_from_slice(&seq.0.to_le_bytes());
    put_bytes(out, start);
    if let Some(end) = end {
        put_bytes(out, end);
    }
}

/// The fragments, in order and without overlap.
pub(crate) fn decode_fragments(contents: &[u8]) -> Result<Vec<Fragment<'_>>, Refused> {
    let mut fragments: Vec<Fragment<'_>> = vec![];
    let mut d = Decoder::new(contents);
    while !d.is_empty() {
        let at = d.at();
        let fragment = decode_fragment(&mut d).filter(|(start, end, seq)| {
            let follows = match fragments.last() {
                None => true,
                Some((_, None, _)) => false,
                Some((_, Some(behind), _)) => behind <= start,
            };
            follows && *seq <= SeqNo::MAX && end.is_none_or(|end| *start < end)
        });
        let Some(fragment) = fragment else {
            let found = format!("other bytes at {at}");
            return Err(Refused::Corrupt("a range tombstone", found));
        };
        fragments.push(fragment);
    }
    Ok(fragments)
}

fn decode_fragment<'a>(d: &mut Decoder<'a>) -> Option<Fragment<'a>> {
    let unbounded = d.u8().filter(|byte| *byte < 2)? == 1;
    let seq = SeqNo(d.u64()?);
    let start = d.bytes()?;
    let end = if unbounded { None } else { Some(d.bytes()?) };
    Some((start, end, seq))
}

// Footer

/// Where a block lies, its trailer included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The last bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) range_tombstones: Handle,
    pub(crate) filter: Handle,
    pub(crate) index: Handle,
    pub(crate) properties: Handle,
    pub(crate) file_id: FileId,
    pub(crate) identity: u64,
    pub(crate) file_bytes: u64,
}

impl Footer {
    fn handles(&self) -> [Handle; 4] {
        [self.range_tombstones, self.filter, self.index, self.properties]
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        for handle in self.handles() {
            out.extend_from_slice(&handle.offset.to_le_bytes());
            out.extend_from_slice(&handle.len.to_le_bytes());
        }
        out.extend_from_slice(&self.file_id.0.to_le_bytes());
        out.extend_from_slice(&self.identity.to_le_bytes());
        out.extend_from_slice(&self.file_bytes.to_le_bytes());
        out.extend_from_slice(FOOTER_MAGIC);
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// Reads the last bytes of a file. The blocks that it names fill the file up to the footer,
    /// without gaps; that what stands before them ends where they begin is the caller's to check.
    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES]) -> Result<Footer, Refused> {
        let corrupt = |found: String| Refused::Corrupt("a footer", found);
        let (covered, stored) = bytes.split_at(FOOTER_BYTES - 4);
        let actual = crc32fast::hash(covered);
        let mut d = Decoder::new(covered);
        let footer = decode_footer(&mut d);
        match (footer, d.take(8)) {
            (_, Some(magic)) if magic != FOOTER_MAGIC => {
                Err(corrupt(format!("magic {magic:02x?}")))
            }
            (Some(footer), Some(_)) if actual.to_le_bytes() == stored => footer.checked(),
            _ => Err(corrupt(format!("checksum {actual:08x}, not {stored:02x?}"))),
        }
    }

    fn checked(self) -> Result<Footer, Refused> {
        let mut at = self.range_tombstones.offset;
        for handle in self.handles() {
            let end = handle.offset.checked_add(handle.len);
            match end {
                Some(end) if handle.offset == at && handle.len >= TRAILER_BYTES as u64 => at = end,
                _ => {
                    let found = format!("one at {} of {} bytes", handle.offset, handle.len);
                    return Err(Refused::Corrupt("blocks without gaps", found));
                }
            }
        }
        let end = at.checked_add(FOOTER_BYTES as u64);
        match end.map(|end| end.cmp(&self.file_bytes)) {
            Some(Ordering::Equal) => Ok(self),
            _ => Err(Refused::Corrupt(
                "blocks up to the footer",
                format!("their end at {at} of {}", self.file_bytes),
            )),
        }
    }
}

fn decode_footer(d: &mut Decoder<'_>) -> Option<Footer> {
    let mut handle = || Some(Handle { offset: d.u64()?, len: d.u64()? });
    Some(Footer {
        range_tombstones: handle()?,
        filter: handle()?,
        index: handle()?,
        properties: handle()?,
        file_id: FileId(d.u64()?),
        identity: d.u64()?,
        file_bytes: d.u64()?,
    })
}
