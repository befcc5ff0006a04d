//! Bytes as text and back: keys and values in arguments, in output and in exports.
//!
//! Whatever is printed reads back as the same bytes, in every encoding. No encoding prints a tab or
//! a line break, so that a line `KEY<tab>VALUE` has one reading.

use clap::ValueEnum;
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde_json::{Value, json};

/// How keys and values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Encoding {
    /// UTF-8 as it stands; \\ \t \n \r and \xNN stand for a backslash, a tab, line breaks and any
    /// other byte that is not printable text
    #[default]
    Text,
    /// Two digits for each byte
    Hex,
    /// Base64 with padding, as in RFC 4648
    Base64,
}

impl Encoding {
    /// The name that the command line and exports know it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Encoding::Text => "text",
            Encoding::Hex => "hex",
            Encoding::Base64 => "base64",
        }
    }

    /// The encoding with this name.
    pub(crate) fn named(name: &str) -> Option<Encoding> {
        [Encoding::Text, Encoding::Hex, Encoding::Base64].into_iter().find(|e| e.name() == name)
    }

    /// Appends `bytes` to `out`, encoded.
    pub(crate) fn encode_into(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Encoding::Text => escape_into(bytes, out),
            Encoding::Hex => out.extend_from_slice(HEXLOWER.encode(bytes).as_bytes()),
            Encoding::Base64 => out.extend_from_slice(BASE64.encode(bytes).as_bytes()),
        }
    }

    /// `bytes`, encoded. For messages and small outputs.
    pub(crate) fn encode(self, bytes: &[u8]) -> String {
        let mut out = vec![];
        self.encode_into(bytes, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The bytes that `text` stands for, or what is wrong with it.
    pub(crate) fn decode(self, text: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Encoding::Text => unescape(text),
            Encoding::Hex => HEXLOWER_PERMISSIVE.decode(text).map_err(|e| format!("not hex: {e}")),
            Encoding::Base64 => BASE64.decode(text).map_err(|e| format!("not base64: {e}")),
        }
    }

    /// `bytes` in JSON: a string; in the text encoding the plain text if it is UTF-8, and an object
    /// with one field `hex` if it is not.
    pub(crate) fn json(self, bytes: &[u8]) -> Value {
        match (self, std::str::from_utf8(bytes)) {
            (Encoding::Text, Ok(text)) => json!(text),
            (Encoding::Text, Err(_)) => json!({ "hex": HEXLOWER.encode(bytes) }),
            _ => json!(self.encode(bytes)),
        }
    }
}

fn escape_into(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            match c {
                '\\' => out.extend_from_slice(br"\\"),
                '\t' => out.extend_from_slice(br"\t"),
                '\n' => out.extend_from_slice(br"\n"),
                '\r' => out.extend_from_slice(br"\r"),
                c if c.is_control() => utf8.iter().for_each(|byte| escape_byte(*byte, out)),
                _ => out.extend_from_slice(utf8),
            }
        }
        chunk.invalid().iter().for_each(|byte| escape_byte(*byte, out));
    }
}

fn escape_byte(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(br"\x");
    out.extend_from_slice(HEXLOWER.encode(&[byte]).as_bytes());
}

fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        bytes.extend_from_slice(&rest[..at]);
        let (byte, len) = match &rest[at + 1..] {
            [b'\\', ..] => (b'\\', 2),
            [b't', ..] => (b'\t', 2),
            [b'n', ..] => (b'\n', 2),
            [b'r', ..] => (b'\r', 2),
            [b'x', high, low, ..] => match HEXLOWER_PERMISSIVE.decode(&[*high, *low]).as_deref() {
                Ok([byte]) => (*byte, 4),
                _ => return Err(bad_escape(text, rest, at)),
            },
            _ => return Err(bad_escape(text, rest, at)),
        };
        bytes.push(byte);
        rest = &rest[at + len..];
    }
    bytes.extend_from_slice(rest);
    Ok(bytes)
}

fn bad_escape(text: &[u8], rest: &[u8], at: usize) -> String {
    let found = String::from_utf8_lossy(&rest[at..rest.len().min(at + 4)]).into_owned();
    let offset = text.len() - rest.len() + at;
    format!(
        r"{found:?} at byte {offset} begins none of the escapes \\ \t \n \r \xNN; a backslash is written \\"
    )
}

#[cfg(test)]
mod tests {
    use super::Encoding;

    #[test]
    fn what_is_printed_reads_back_as_the_same_bytes() {
        let mut samples: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        samples.push((0..=255).rev().collect());
        samples
            .extend(["", "\\x41", "C:\\new", "é\u{85}\u{1b}[31m"].map(|s| s.as_bytes().to_vec()));
        for encoding in [Encoding::Text, Encoding::Hex, Encoding::Base64] {
            for bytes in &samples {
                let text = encoding.encode(bytes);
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert_eq!(encoding.decode(text.as_bytes()).as_ref(), Ok(bytes), "{text:?}");
            }
        }
    }

    #[test]
    fn text_that_stands_for_nothing_is_refused() {
        let refused = |encoding: Encoding, text: &str| encoding.decode(text.as_bytes()).is_err();
        assert!([r"\", r"a\q", r"\x4", r"\xg0"].iter().all(|text| refused(Encoding::Text, text)));
        assert!(refused(Encoding::Hex, "abc") && refused(Encoding::Hex, "zz"));
        assert!(refused(Encoding::Base64, "QQ=") && refused(Encoding::Base64, "Q"));
    }
}
