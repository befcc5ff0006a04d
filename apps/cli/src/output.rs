//! Standard output: data, and nothing but data.

use crate::{
    failure::{Failure, Result},
    text::Encoding,
};
use lightning_db::ValueReader;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Read, Stdout, Write};

/// Buffered standard output. [`finish`](Out::finish) must end it: dropping cannot tell of a failure.
pub(crate) struct Out {
    to: BufWriter<Stdout>,
    line: Vec<u8>,
}

impl Out {
    pub(crate) fn new() -> Out {
        Out { to: BufWriter::with_capacity(64 << 10, io::stdout()), line: vec![] }
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(Failure::output)
    }

    /// Writes a value as it is, without holding it in memory.
    pub(crate) fn stream(&mut self, mut value: ValueReader) -> Result<()> {
        let mut piece = vec![0; 64 << 10];
        loop {
            match value.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(len) => self.bytes(&piece[..len])?,
                Err(error) => return Err(Failure::value(error)),
            }
        }
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: impl AsRef<[u8]>) -> Result<()> {
        self.bytes(line.as_ref())?;
        self.bytes(b"\n")
    }

    /// Writes a JSON value on a line of its own.
    pub(crate) fn json(&mut self, value: &Value) -> Result<()> {
        self.line(value.to_string())
    }

    /// Writes `KEY<tab>VALUE` on a line.
    pub(crate) fn entry(&mut self, encoding: Encoding, key: &[u8], value: &[u8]) -> Result<()> {
        self.line.clear();
        encoding.encode_into(key, &mut self.line);
        self.line.push(b'\t');
        encoding.encode_into(value, &mut self.line);
        self.line.push(b'\n');
        self.to.write_all(&self.line).map_err(Failure::output)
    }

    /// Writes an entry as a JSON object on a line.
    pub(crate) fn json_entry(
        &mut self,
        encoding: Encoding,
        key: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.json(&json!({ "key": encoding.json(key), "value": encoding.json(value) }))
    }

    /// Hands on what is buffered.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.to.flush().map_err(Failure::output)
    }

    /// Hands on what is buffered, as the last thing.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

/// A number with commas between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_set_apart() {
        let grouped = [0, 999, 1000, 1_234_567].map(super::grouped);
        assert_eq!(grouped, ["0", "999", "1,000", "1,234,567"]);
    }
}
