//! The header that every file begins with. Format: `docs/formats/file-header.md`.

use super::bytes::Decoder;
use crate::types::FileId;

/// The version that new files carry.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// The oldest one that can be read. What came before could change at any time.
const FORMAT_VERSION_MIN: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 88;
const CHECKSUM_CRC32: u8 = 1;

/// What kind of file it is: its first eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileKind {
    Wal,
    Sstable,
    Manifest,
    Tree,
    Blob,
}

impl FileKind {
    const ALL: [FileKind; 5] =
        [FileKind::Wal, FileKind::Sstable, FileKind::Manifest, FileKind::Tree, FileKind::Blob];

    fn magic(self) -> &'static [u8; 8] {
        match self {
            FileKind::Wal => b"LDBwal\r\n",
            FileKind::Sstable => b"LDBsst\r\n",
            FileKind::Manifest => b"LDBman\r\n",
            FileKind::Tree => b"LDBtre\r\n",
            FileKind::Blob => b"LDBblo\r\n",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileHeader {
    pub(crate) kind: FileKind,
    /// The database that the file belongs to.
    pub(crate) uuid: [u8; 16],
    pub(crate) file_id: FileId,
    /// Random, repeated by whoever names the file: a file that comes back from the dead,
    /// or was swapped for another, does not carry it.
    pub(crate) identity: u64,
}

/// Why a header was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HeaderError {
    /// Not what we wrote: expected, found.
    Corrupt(String, String),
    /// Written by a newer version.
    Unsupported(String),
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(self.kind.magic());
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.push(CHECKSUM_CRC32);
        out.push(0); // compression of the file as a whole: none
        out.extend_from_slice(&0u16.to_le_bytes()); // reserved
        out.extend_from_slice(&0u32.to_le_bytes()); // dictionary id: none
        out.extend_from_slice(&0u32.to_le_bytes()); // key id: not encrypted
        out.extend_from_slice(&self.uuid);
        out.extend_from_slice(&self.file_id.0.to_le_bytes());
        out.extend_from_slice(&self.identity.to_le_bytes());
        out.extend_from_slice(&0u64.to_le_bytes()); // compatible features
        out.extend_from_slice(&0u64.to_le_bytes()); // read-compatible features
        out.extend_from_slice(&0u64.to_le_bytes()); // incompatible features
        out.extend_from_slice(&0u32.to_le_bytes()); // reserved
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header[..out.len()].copy_from_slice(&out);
        header
    }

    pub(crate) fn decode(bytes: &[u8], kind: FileKind) -> Result<FileHeader, HeaderError> {
        let corrupt = |expected: &str, found: String| HeaderError::Corrupt(expected.into(), found);
        let bytes = bytes
            .get(..HEADER_BYTES)
            .ok_or_else(|| corrupt("a file header", format!("{} bytes", bytes.len())))?;
        Self::decode_whole(bytes, kind)
            .ok_or_else(|| corrupt("a file header", "fewer bytes than one has".into()))?
    }

    fn decode_whole(bytes: &[u8], kind: FileKind) -> Option<Result<FileHeader, HeaderError>> {
        let refuse =
            |expected: String, found: String| Some(Err(HeaderError::Corrupt(expected, found)));
        let mut d = Decoder::new(bytes);
        let magic: [u8; 8] = d.array()?;
        if magic != *kind.magic() {
            let found = match FileKind::ALL.iter().find(|k| *k.magic() == magic) {
                Some(other) => format!("the header of a {other:?} file"),
                None => format!("bytes {magic:02x?}"),
            };
            return refuse(format!("the header of a {kind:?} file"), found);
        }
        let version = d.u32()?;
        let (checksum, compression, reserved) = (d.u8()?, d.u8()?, d.u16()?);
        let (dictionary, key) = (d.u32()?, d.u32()?);
        let header =
            FileHeader { kind, uuid: d.array()?, file_id: FileId(d.u64()?), identity: d.u64()? };
        let _compatible = d.u64()?; // features that an older version may ignore
        let (read_compatible, incompatible, tail) = (d.u64()?, d.u64()?, d.u32()?);
        let (actual, stored) = (crc32fast::hash(&bytes[..d.at()]), d.u32()?);
        if actual != stored {
            return refuse(format!("header checksum {stored:08x}"), format!("{actual:08x}"));
        }
        // The checksum vouches for what follows: these bytes were meant.
        let unsupported = |what: String| Some(Err(HeaderError::Unsupported(what)));
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
            return unsupported(format!(
                "format version {version}, this one reads {FORMAT_VERSION_MIN} to {FORMAT_VERSION}"
            ));
        }
        // Files are opened for writing as well as reading, so both masks bind us.
        if incompatible | read_compatible != 0 {
            return unsupported(format!("features {:#x}", incompatible | read_compatible));
        }
        if checksum != CHECKSUM_CRC32 || compression != 0 || dictionary != 0 || key != 0 {
            return unsupported(format!(
                "checksum type {checksum}, compression {compression}, dictionary {dictionary}, key {key}"
            ));
        }
        if reserved != 0 || tail != 0 {
            return unsupported("a reserved field is in use".into());
        }
        Some(Ok(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FileHeader {
        FileHeader {
            kind: FileKind::Wal,
            uuid: *b"0123456789abcdef",
            file_id: FileId(7),
            identity: 9,
        }
    }

    #[test]
    fn round_trips() {
        assert_eq!(FileHeader::decode(&header().encode(), FileKind::Wal), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&bad, FileKind::Wal).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_or_feature_is_unsupported_not_corrupt() {
        for (at, value) in [(8, 9), (64, 1), (72, 1), (12, 2)] {
            let mut newer = header().encode();
            newer[at] = value;
            let crc = crc32fast::hash(&newer[..84]);
            newer[84..88].copy_from_slice(&crc.to_le_bytes());
            let found = FileHeader::decode(&newer, FileKind::Wal);
            assert!(matches!(found, Err(HeaderError::Unsupported(_))), "{at}: {found:?}");
        }
    }

    #[test]
    fn another_kind_of_file_is_named() {
        let found = FileHeader::decode(&header().encode(), FileKind::Manifest);
        assert!(
            matches!(&found, Err(HeaderError::Corrupt(_, f)) if f.contains("Wal")),
            "{found:?}"
        );
    }
}
