//! CSV as in RFC 4180, read strictly and kept as it stands.
//!
//! A record is the bytes between two line endings, quotes included. That is why this is not the
//! `csv` crate, which hands out fields and reads what is wrong as well as it can: an import that
//! promises the same bytes back must know them, and must not guess.

use crate::failure::{Failure, Result};
use std::{
    borrow::Cow,
    io::{BufRead, Read},
    ops::Range,
};

const BOM: &[u8] = b"\xef\xbb\xbf";
/// Longer records are refused: more likely than such a row is a quote that was forgotten.
const ROW_BYTES_MAX: u64 = 16 << 20;

/// Where in a record the reader is.
#[derive(Clone, Copy, PartialEq)]
enum State {
    FieldStart,
    Plain,
    /// Between quotes; the offset is that of the opening one.
    Quoted(usize),
    /// After a quote between quotes: the first of two, or the closing one.
    Quote(usize),
}

/// Reads records one after the other.
pub(crate) struct Reader<R> {
    input: R,
    /// What messages call the input.
    file: String,
    /// Line endings read so far.
    lines: u64,
    bytes: u64,
    /// The current record with its line ending, and where its fields lie.
    buf: Vec<u8>,
    fields: Vec<Range<usize>>,
    ending: &'static str,
    first_line: u64,
}

/// A record.
pub(crate) struct Record<'a> {
    /// The line that it begins on, from 1.
    pub(crate) line: u64,
    /// Its bytes without the line ending.
    pub(crate) raw: &'a [u8],
    fields: &'a [Range<usize>],
}

impl<'a> Record<'a> {
    /// A field without its quotes.
    pub(crate) fn field(&self, index: usize) -> Cow<'a, [u8]> {
        let bytes = self.fields.get(index).map_or(&[][..], |range| &self.raw[range.clone()]);
        match bytes {
            [b'"', inner @ .., b'"'] if !inner.contains(&b'"') => Cow::Borrowed(inner),
            [b'"', inner @ .., b'"'] => {
                let mut quotes = 0;
                let mut keep = |byte: &u8| {
                    quotes += usize::from(*byte == b'"');
                    *byte != b'"' || quotes % 2 == 1
                };
                Cow::Owned(inner.iter().copied().filter(|byte| keep(byte)).collect())
            }
            plain => Cow::Borrowed(plain),
        }
    }
}

/// The first record: the names of the columns.
pub(crate) struct Header {
    /// Its bytes without line ending and byte order mark.
    pub(crate) raw: Vec<u8>,
    /// What ended it: `\n` or `\r\n`.
    pub(crate) ending: &'static str,
    names: Vec<String>,
}

impl Header {
    /// The index of the column with this name; without one, the first.
    pub(crate) fn column(&self, name: Option<&str>, file: &str) -> Result<usize> {
        let Some(name) = name else { return Ok(0) };
        let mut found = self.names.iter().enumerate().filter(|(_, n)| *n == name);
        match (found.next(), found.next()) {
            (Some((index, _)), None) => Ok(index),
            (Some(_), Some(_)) => {
                Err(Failure::Other(format!("{file}:1: two columns are named {name:?}")))
            }
            (None, _) => Err(Failure::Other(format!(
                "{file}:1: no column is named {name:?}; the columns are {}",
                self.names.join(", ")
            ))),
        }
    }

    /// The name of a column.
    pub(crate) fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("", String::as_str)
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from the beginning of `input`, which messages call `file`.
    pub(crate) fn new(input: R, file: String) -> Reader<R> {
        Reader {
            input,
            file,
            lines: 0,
            bytes: 0,
            buf: vec![],
            fields: vec![],
            ending: "\n",
            first_line: 1,
        }
    }

    /// How many bytes were read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The header. To be read first.
    pub(crate) fn header(&mut self) -> Result<Header> {
        let file = self.file.clone();
        let empty = |what: &str| Failure::Other(format!("{file}:1: {what}, not a header row"));
        let record = self.next()?.ok_or_else(|| empty("the file is empty"))?;
        if record.raw.is_empty() {
            return Err(empty("the line is empty"));
        }
        let raw = record.raw.to_vec();
        let name = |i| String::from_utf8_lossy(&record.field(i)).into_owned();
        let names = (0..record.fields.len()).map(name).collect();
        Ok(Header { raw, names, ending: self.ending })
    }

    /// The next record, which must have as many fields as the header.
    pub(crate) fn row(&mut self, header: &Header) -> Result<Option<Record<'_>>> {
        if !self.read()? {
            return Ok(None);
        }
        let (found, wanted) = (self.fields.len(), header.names.len());
        if found != wanted {
            let at = self.fields.get(wanted).map_or(self.record_end(), |extra| extra.start);
            let missing = match header.names.get(found) {
                Some(name) => format!(": nothing for column {name:?}"),
                None => String::new(),
            };
            return Err(self.wrong(
                at,
                &format!("the row has {found} fields, the header has {wanted}{missing}"),
            ));
        }
        Ok(Some(self.record()))
    }

    fn next(&mut self) -> Result<Option<Record<'_>>> {
        Ok(self.read()?.then(|| self.record()))
    }

    fn record(&self) -> Record<'_> {
        let raw = &self.buf[..self.record_end()];
        Record { line: self.first_line, raw, fields: &self.fields }
    }

    fn record_end(&self) -> usize {
        self.fields.last().map_or(0, |last| last.end)
    }

    /// Reads a record; false at the end of the file.
    fn read(&mut self) -> Result<bool> {
        self.buf.clear();
        self.fields.clear();
        self.first_line = self.lines + 1;
        let (mut state, mut field) = (State::FieldStart, 0);
        loop {
            let line_start = self.read_line()?;
            if line_start == self.buf.len() {
                return match state {
                    State::Quoted(open) => Err(self.wrong(open, "this quote is never closed")),
                    _ => Ok(false),
                };
            }
            self.ending = match &self.buf[line_start..] {
                [.., b'\r', b'\n'] => "\r\n",
                [.., b'\n'] => "\n",
                // The last line of the file ends as the one before.
                _ => self.ending,
            };
            let line_end = match &self.buf[line_start..] {
                [.., b'\r', b'\n'] => self.buf.len() - 2,
                [.., b'\n'] => self.buf.len() - 1,
                _ => self.buf.len(),
            };
            state = self.split(line_start..line_end, state, &mut field)?;
            if !matches!(state, State::Quoted(_)) {
                self.fields.push(field..line_end);
                break;
            }
        }
        match std::str::from_utf8(&self.buf) {
            Ok(_) => Ok(true),
            Err(e) => Err(self.wrong(e.valid_up_to(), "this is not UTF-8")),
        }
    }

    /// Appends a line to the buffer, and returns where it begins there.
    fn read_line(&mut self) -> Result<usize> {
        let start = self.buf.len();
        // Room for the longest record, its line ending, and too much.
        let room = (ROW_BYTES_MAX + 3).saturating_sub(start as u64);
        let read = (&mut self.input).take(room).read_until(b'\n', &mut self.buf);
        read.map_err(|e| Failure::file("read", &self.file, e))?;
        self.bytes += (self.buf.len() - start) as u64;
        if self.buf.len() as u64 > ROW_BYTES_MAX + 2 {
            let what = format!("this record is longer than {ROW_BYTES_MAX} bytes");
            return Err(self.wrong(0, &what));
        }
        self.lines += u64::from(self.buf.ends_with(b"\n") && self.buf.len() > start);
        if self.bytes == self.buf.len() as u64 && start == 0 && self.buf.starts_with(BOM) {
            self.buf.drain(..BOM.len());
        }
        Ok(start)
    }

    /// Finds the fields of a line; `field` is where the current one begins.
    fn split(&mut self, line: Range<usize>, mut state: State, field: &mut usize) -> Result<State> {
        for at in line {
            state = match (state, self.buf[at]) {
                (State::FieldStart, b'"') => State::Quoted(at),
                (State::Quoted(open), b'"') => State::Quote(open),
                (State::Quote(open), b'"') => State::Quoted(open),
                (State::Quoted(open), _) => State::Quoted(open),
                (_, b',') => {
                    self.fields.push(*field..at);
                    *field = at + 1;
                    State::FieldStart
                }
                (State::Quote(_), _) => {
                    return Err(
                        self.wrong(at, "a comma or the end of the line must follow a quote")
                    );
                }
                (_, b'"') => {
                    let what = "a quote within a field that does not begin with one";
                    return Err(self.wrong(at, what));
                }
                (_, b'\r') => {
                    let what = "a carriage return without a line feed, outside of quotes";
                    return Err(self.wrong(at, what));
                }
                _ => State::Plain,
            };
        }
        Ok(state)
    }

    /// What is wrong at this offset of the current record, with line and column.
    #[cold]
    fn wrong(&self, offset: usize, what: &str) -> Failure {
        let before = &self.buf[..offset];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let breaks = before.iter().filter(|byte| **byte == b'\n').count() as u64;
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
        Failure::Other(format!("{}:{}:{column}: {what}", self.file, self.first_line + breaks))
    }
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
